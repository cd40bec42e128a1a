//! Users, roles and tokens, and what is asked of whoever calls.

use axum::body::{Body, to_bytes};
use axum::http::Request as HttpRequest;
use holdfast_etcd::{Options, Pages};
use holdfast_wire::etcd::authpb::{Permission, UserAddOptions, permission::Type};
use holdfast_wire::etcd::etcdserverpb::auth_client::AuthClient;
use holdfast_wire::etcd::etcdserverpb::cluster_client::ClusterClient;
use holdfast_wire::etcd::etcdserverpb::maintenance_client::MaintenanceClient;
use holdfast_wire::etcd::etcdserverpb::request_op::Request as Step;
use holdfast_wire::etcd::etcdserverpb::watch_request::RequestUnion;
use holdfast_wire::etcd::etcdserverpb::{
    AlarmRequest, AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest,
    AuthRoleGrantPermissionRequest, AuthStatusRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGetRequest,
    AuthUserGrantRoleRequest, AuthenticateRequest, CompactionRequest, DefragmentRequest,
    DeleteRangeRequest, HashKvRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, MemberListRequest,
    MemberRemoveRequest, PutRequest, RangeRequest, SnapshotRequest, StatusRequest, TxnRequest,
    WatchCreateRequest, WatchRequest,
};
use holdfast_wire::v1::{self, kv_client::KvClient as NativeKv};
use serde_json::{Value, json};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tower_service::Service as _;

use super::harness::{Running, one, put_request, soon};
use super::keys::step;

const EMPTY: (Code, &str) = (Code::InvalidArgument, "etcdserver: user name is empty");
const DENIED: (Code, &str) = (Code::PermissionDenied, "etcdserver: permission denied");
const INVALID: (Code, &str) = (Code::Unauthenticated, "etcdserver: invalid auth token");
const FAILED: (Code, &str) =
    (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password");

type Auth = AuthClient<Channel>;

/// A request of whoever has `token`.
fn of<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("token", token.parse().unwrap());
    request
}

#[track_caller]
fn is(refused: Result<impl std::fmt::Debug, Status>, expected: (Code, &str)) {
    let status = refused.unwrap_err();
    assert_eq!((status.code(), status.message()), expected);
}

async fn auth(running: &Running) -> Auth {
    AuthClient::new(running.channel().await)
}

async fn login(auth: &mut Auth, name: &str, password: &str) -> Result<String, Status> {
    let (name, password) = (name.to_owned(), password.to_owned());
    let answer = soon(auth.authenticate(AuthenticateRequest { name, password })).await?;
    Ok(answer.into_inner().token)
}

fn user(name: &str) -> AuthUserAddRequest {
    let (name, password) = (name.to_owned(), name.to_owned());
    AuthUserAddRequest { name, password, ..Default::default() }
}

fn grant(kind: Type, key: &str, range_end: &str) -> AuthRoleGrantPermissionRequest {
    let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
    let perm = Permission { perm_type: kind.into(), key, range_end };
    AuthRoleGrantPermissionRequest { name: "reader".to_owned(), perm: Some(perm) }
}

/// A node whose keyspace has `root`, and `anna` who may read `a…` and write `a/own`, each with
/// their name for a password; and both tokens.
async fn with_users(sets: &[&str]) -> (Running, String, String) {
    let mut all = vec!["etcd.bcrypt_cost=4"];
    all.extend(sets);
    let running = Running::start_with(&all).await;
    let mut auth = auth(&running).await;
    soon(auth.user_add(user("root"))).await.unwrap();
    soon(auth.user_add(user("anna"))).await.unwrap();
    let role = |name: &str| AuthRoleAddRequest { name: name.to_owned() };
    soon(auth.role_add(role("reader"))).await.unwrap();
    soon(auth.role_grant_permission(grant(Type::Read, "a", "b"))).await.unwrap();
    soon(auth.role_grant_permission(grant(Type::Readwrite, "a/own", ""))).await.unwrap();
    for (name, role) in [("root", "root"), ("anna", "reader")] {
        let (user, role) = (name.to_owned(), role.to_owned());
        soon(auth.user_grant_role(AuthUserGrantRoleRequest { user, role })).await.unwrap();
    }
    soon(auth.auth_enable(AuthEnableRequest {})).await.unwrap();
    let root = login(&mut auth, "root", "root").await.unwrap();
    let anna = login(&mut auth, "anna", "anna").await.unwrap();
    (running, root, anna)
}

fn range(key: &str, end: &str) -> RangeRequest {
    RangeRequest { range_end: end.to_owned().into(), ..one(key) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_asked_who_they_are_until_users_are_asked_for() {
    let running = Running::start_with(&["etcd.bcrypt_cost=4"]).await;
    let (mut auth, mut kv) = (auth(&running).await, running.kv().await);
    let status = async |auth: &mut Auth| {
        soon(auth.auth_status(AuthStatusRequest {})).await.unwrap().into_inner()
    };
    let first = status(&mut auth).await;
    assert_eq!((first.enabled, first.auth_revision, first.header.unwrap().revision), (false, 1, 1));
    let off = (Code::FailedPrecondition, "etcdserver: authentication is not enabled");
    is(login(&mut auth, "root", "root").await, off);
    let no_root = (Code::FailedPrecondition, "etcdserver: root user does not exist");
    is(soon(auth.auth_enable(AuthEnableRequest {})).await, no_root);
    soon(auth.user_add(user("root"))).await.unwrap();
    assert_eq!(status(&mut auth).await.auth_revision, 2);
    // A token is not looked at where nobody is asked for one.
    assert!(soon(kv.put(of("nonsense", put_request("a", "1")))).await.is_ok());
    let long = "x".repeat(80);
    let refused = soon(auth.user_add(AuthUserAddRequest { password: long, ..user("b") })).await;
    is(refused, (Code::Unknown, "bcrypt: password length exceeds 72 bytes"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_read_and_written_by_those_who_may() {
    let (running, root, anna) = with_users(&[]).await;
    let mut kv = running.kv().await;
    is(soon(kv.put(put_request("a/own", "1"))).await, EMPTY);
    is(soon(kv.range(one("a"))).await, EMPTY);
    is(soon(kv.range(of("nonsense", one("a")))).await, INVALID);
    is(soon(kv.put(of("nonsense", put_request("a", "1")))).await, INVALID);
    assert!(soon(kv.put(of(&root, put_request("z", "1")))).await.is_ok());
    assert!(soon(kv.put(of(&anna, put_request("a/own", "1")))).await.is_ok());
    assert!(soon(kv.range(of(&anna, range("a", "b")))).await.is_ok());
    for denied in [range("a", "c"), range("a", "\0"), range("b", ""), range("\0", "\0")] {
        is(soon(kv.range(of(&anna, denied.clone()))).await, DENIED);
        let serializable = RangeRequest { serializable: true, ..denied };
        is(soon(kv.range(of(&anna, serializable.clone()))).await, DENIED);
        let stream = soon(kv.range_stream(of(&anna, serializable))).await.unwrap();
        is(soon(stream.into_inner().message()).await, DENIED);
    }
    is(soon(kv.put(of(&anna, put_request("a/other", "1")))).await, DENIED);
    let delete = |key: &str, end: &str| DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        prev_kv: true,
    };
    is(soon(kv.delete_range(of(&anna, delete("a", "b")))).await, DENIED);
    assert!(soon(kv.delete_range(of(&anna, delete("a/own", "")))).await.is_ok());
    is(
        soon(kv.compact(of(&anna, CompactionRequest { revision: 2, ..Default::default() }))).await,
        DENIED,
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_branch_of_a_transaction_must_be_allowed() {
    let (running, _, anna) = with_users(&[]).await;
    let mut kv = running.kv().await;
    let put = |key: &str| step(Step::RequestPut(put_request(key, "1")));
    let nested = |txn: TxnRequest| step(Step::RequestTxn(txn));
    let txn = |success, failure| TxnRequest { success, failure, ..Default::default() };
    let own = || vec![put("a/own")];
    assert!(soon(kv.txn(of(&anna, txn(own(), vec![])))).await.is_ok());
    let inner = txn(vec![step(Step::RequestRange(range("b", "")))], vec![]);
    for denied in [
        txn(own(), vec![put("secret")]),
        txn(vec![nested(txn(vec![], vec![nested(inner.clone())]))], own()),
        inner,
    ] {
        is(soon(kv.txn(of(&anna, denied.clone()))).await, DENIED);
        is(soon(kv.txn(denied)).await, EMPTY);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_native_api_is_held_to_the_users_of_an_etcd_keyspace() {
    let (running, root, anna) = with_users(&[]).await;
    let mut kv = NativeKv::new(running.channel().await);
    let get = |key: &str| v1::GetRequest {
        keyspace: "etcd".into(),
        key: key.to_owned().into(),
        ..Default::default()
    };
    let put = |key: &str| v1::PutRequest {
        keyspace: "etcd".into(),
        key: key.to_owned().into(),
        ..Default::default()
    };
    let code = |refused: Status| refused.code();
    assert_eq!(code(soon(kv.get(get("a"))).await.unwrap_err()), Code::InvalidArgument);
    assert_eq!(code(soon(kv.get(of(&anna, get("z")))).await.unwrap_err()), Code::PermissionDenied);
    assert!(soon(kv.get(of(&anna, get("a")))).await.is_ok());
    assert!(soon(kv.get(of(&root, get("z")))).await.is_ok());
    assert_eq!(code(soon(kv.put(of(&anna, put("a")))).await.unwrap_err()), Code::PermissionDenied);
    // A failed condition tells what stands there.
    assert!(soon(kv.put(of(&anna, put("a/own")))).await.is_ok());
    let scan = v1::ScanRequest { keyspace: "etcd".into(), ..Default::default() };
    let mut pages = soon(kv.scan(of(&anna, scan.clone()))).await.unwrap().into_inner();
    assert_eq!(code(soon(pages.message()).await.unwrap_err()), Code::PermissionDenied);
    let scan = v1::ScanRequest { prefix: "a".into(), ..scan };
    let mut pages = soon(kv.scan(of(&anna, scan))).await.unwrap().into_inner();
    assert!(soon(pages.message()).await.is_ok());
    let batch = v1::BatchGetRequest {
        keyspace: "etcd".into(),
        keys: vec!["a".into(), "z".into()],
        ..Default::default()
    };
    let found = soon(kv.batch_get(of(&anna, batch))).await.unwrap().into_inner();
    assert!(found.items.iter().all(|item| {
        item.status.as_ref().is_some_and(|status| status.grpc_code == Code::PermissionDenied as i32)
    }));
    // Other keyspaces ask nobody.
    let other = v1::PutRequest { keyspace: String::new(), ..put("z") };
    assert!(soon(kv.put(of("nonsense", other))).await.is_ok());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_ended_kept_and_looked_into_by_those_who_may_touch_its_keys() {
    let (running, root, anna) = with_users(&[]).await;
    let (mut kv, mut leases) = (running.kv().await, running.leases().await);
    let granted = LeaseGrantRequest { ttl: 600, id: 7 };
    is(soon(leases.lease_grant(granted)).await, EMPTY);
    assert!(soon(leases.lease_grant(of(&anna, granted))).await.is_ok());
    let bound = |key: &str| PutRequest { lease: 7, ..put_request(key, "x") };
    assert!(soon(kv.put(of(&anna, bound("a/own")))).await.is_ok());
    let look = |keys| LeaseTimeToLiveRequest { id: 7, keys };
    let keep = async |leases: &mut holdfast_wire::etcd::etcdserverpb::lease_client::LeaseClient<
        Channel,
    >| {
        let requests = tokio_stream::iter([LeaseKeepAliveRequest { id: 7 }]);
        let mut answers =
            soon(leases.lease_keep_alive(of(&anna, requests))).await.unwrap().into_inner();
        soon(answers.message()).await
    };
    assert!(keep(&mut leases).await.is_ok());
    assert!(soon(leases.lease_time_to_live(of(&anna, look(true)))).await.is_ok());
    assert!(soon(kv.put(of(&root, bound("secret")))).await.is_ok());
    is(keep(&mut leases).await, DENIED);
    is(soon(leases.lease_time_to_live(of(&anna, look(true)))).await, DENIED);
    is(soon(leases.lease_time_to_live(look(false))).await, EMPTY);
    assert!(soon(leases.lease_time_to_live(of(&anna, look(false)))).await.is_ok());
    is(soon(leases.lease_leases(of(&anna, LeaseLeasesRequest {}))).await, DENIED);
    let revoke = LeaseRevokeRequest { id: 7 };
    is(soon(leases.lease_revoke(revoke)).await, EMPTY);
    is(soon(leases.lease_revoke(of(&anna, revoke))).await, DENIED);
    // Who cannot end a lease does not hang a key on it either.
    is(soon(kv.put(of(&anna, bound("a/own")))).await, DENIED);
    assert!(soon(leases.lease_revoke(of(&root, revoke))).await.is_ok());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_with_the_password_the_user_and_the_time_users_are_asked_for() {
    let (running, root, anna) = with_users(&[]).await;
    let (mut auth, mut kv) = (auth(&running).await, running.kv().await);
    let mut reads = async |token: &str| soon(kv.range(of(token, one("a")))).await.map(drop);
    is(login(&mut auth, "anna", "wrong").await, FAILED);
    is(login(&mut auth, "nobody", "anna").await, FAILED);
    let (name, password) = ("anna".to_owned(), "other".to_owned());
    let change = AuthUserChangePasswordRequest { name, password, ..Default::default() };
    soon(auth.user_change_password(of(&root, change))).await.unwrap();
    is(reads(&anna).await, INVALID);
    is(login(&mut auth, "anna", "anna").await, FAILED);
    // Clients show the token that has ended while they ask for another one.
    let (name, password) = ("anna".to_owned(), "other".to_owned());
    let again = of(&anna, AuthenticateRequest { name, password });
    let anna = soon(auth.authenticate(again)).await.unwrap().into_inner().token;
    assert!(reads(&anna).await.is_ok());
    let delete = AuthUserDeleteRequest { name: "anna".to_owned() };
    soon(auth.user_delete(of(&root, delete))).await.unwrap();
    is(reads(&anna).await, INVALID);
    // Another user of that name is somebody else.
    soon(auth.user_add(of(&root, user("anna")))).await.unwrap();
    is(reads(&anna).await, INVALID);
    soon(auth.auth_disable(of(&root, AuthDisableRequest {}))).await.unwrap();
    assert!(reads(&root).await.is_ok());
    soon(auth.auth_enable(AuthEnableRequest {})).await.unwrap();
    is(reads(&root).await, INVALID);
    let options = Some(UserAddOptions { no_password: true });
    let root = login(&mut auth, "root", "root").await.unwrap();
    let nobody = AuthUserAddRequest { options, ..user("certified") };
    soon(auth.user_add(of(&root, nobody))).await.unwrap();
    is(login(&mut auth, "certified", "certified").await, FAILED);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_keyspace_is_none() {
    let listen = "etcd.listen=[{ address = 'HOST:17502', keyspace = 'other' }]";
    let (running, root, _) = with_users(&[listen]).await;
    let create = v1::CreateKeyspaceRequest {
        name: "other".into(),
        kind: v1::KeyspaceKind::Etcd.into(),
        ..Default::default()
    };
    let mut cluster = v1::cluster_client::ClusterClient::new(running.channel().await);
    soon(cluster.create_keyspace(create)).await.unwrap();
    let mut other = AuthClient::new(running.channel_at(17_502).await);
    soon(other.user_add(user("root"))).await.unwrap();
    let (user, role) = ("root".to_owned(), "root".to_owned());
    soon(other.user_grant_role(AuthUserGrantRoleRequest { user, role })).await.unwrap();
    soon(other.auth_enable(AuthEnableRequest {})).await.unwrap();
    let get = AuthUserGetRequest { name: "root".to_owned() };
    is(soon(other.user_get(of(&root, get.clone()))).await, INVALID);
    let own = login(&mut other, "root", "root").await.unwrap();
    assert!(soon(other.user_get(of(&own, get.clone()))).await.is_ok());
    is(soon(auth(&running).await.user_get(of(&own, get))).await, INVALID);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_concerns_the_whole_is_for_root_and_the_rest_for_anybody_with_a_name() {
    let (running, root, anna) = with_users(&[]).await;
    let mut maintenance = MaintenanceClient::new(running.channel().await);
    let mut cluster = ClusterClient::new(running.channel().await);
    let (defragment, snapshot) = (DefragmentRequest {}, SnapshotRequest {});
    let raise = AlarmRequest { action: 1, member_id: 1, alarm: 1 };
    let remove = MemberRemoveRequest { id: 99 };
    let hash = HashKvRequest::default();
    for (token, expected) in [(None, EMPTY), (Some(&anna), DENIED), (Some(&"x".into()), INVALID)] {
        let show = |metadata: &mut MetadataMap| {
            if let Some(token) = token {
                metadata.insert("token", token.parse().unwrap());
            }
        };
        macro_rules! refused {
            ($client:ident . $call:ident ($message:expr)) => {{
                let mut request = Request::new($message);
                show(request.metadata_mut());
                is(soon($client.$call(request)).await.map(|_| ()), expected);
            }};
        }
        refused!(maintenance.defragment(defragment));
        refused!(maintenance.snapshot(snapshot));
        refused!(maintenance.alarm(raise));
        refused!(maintenance.hash_kv(hash));
        refused!(maintenance.hash(holdfast_wire::etcd::etcdserverpb::HashRequest {}));
        refused!(
            maintenance
                .move_leader(holdfast_wire::etcd::etcdserverpb::MoveLeaderRequest { target_id: 9 })
        );
        refused!(cluster.member_remove(remove));
    }
    let list = MemberListRequest::default();
    is(soon(maintenance.status(StatusRequest {})).await, EMPTY);
    is(soon(maintenance.alarm(AlarmRequest::default())).await, EMPTY);
    is(soon(cluster.member_list(list)).await, EMPTY);
    assert!(soon(maintenance.status(of(&anna, StatusRequest {}))).await.is_ok());
    assert!(soon(maintenance.alarm(of(&anna, AlarmRequest::default()))).await.is_ok());
    assert!(soon(cluster.member_list(of(&anna, list))).await.is_ok());
    assert!(soon(maintenance.defragment(of(&root, defragment))).await.is_ok());
    assert!(soon(maintenance.hash_kv(of(&root, hash))).await.is_ok());
    assert!(soon(maintenance.snapshot(of(&root, snapshot))).await.is_ok());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_managed_by_root_and_know_themselves() {
    let (running, root, anna) = with_users(&[]).await;
    let mut auth = auth(&running).await;
    is(soon(auth.user_add(of(&anna, user("eve")))).await, DENIED);
    is(soon(auth.user_add(user("eve"))).await, EMPTY);
    let get = |name: &str| AuthUserGetRequest { name: name.to_owned() };
    let own = soon(auth.user_get(of(&anna, get("anna")))).await.unwrap().into_inner();
    assert_eq!(own.roles, ["reader"]);
    is(soon(auth.user_get(of(&anna, get("root")))).await, DENIED);
    assert!(soon(auth.user_get(of(&root, get("anna")))).await.is_ok());
    let status = soon(auth.auth_status(AuthStatusRequest {})).await.unwrap().into_inner();
    assert!(status.enabled, "this is told to everybody");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_foreign_keys_is_created_and_cancelled_with_the_reason() {
    let (running, _, anna) = with_users(&[]).await;
    let mut client = running.watch().await;
    let (requests, receiver) = tokio::sync::mpsc::channel(4);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = soon(client.watch(of(&anna, stream))).await.unwrap().into_inner();
    let create = |key: &str, end: &str| {
        let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
        let create = WatchCreateRequest { key, range_end, ..Default::default() };
        WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
    };
    for (key, end) in [("secret", ""), ("a", "\0"), ("", "")] {
        soon(requests.send(create(key, end))).await.unwrap();
        let refused = soon(answers.message()).await.unwrap().unwrap();
        assert!(refused.created && refused.canceled && refused.watch_id == -1, "{refused:?}");
        let reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        assert_eq!(refused.cancel_reason, reason);
    }
    soon(requests.send(create("a", "b"))).await.unwrap();
    let created = soon(answers.message()).await.unwrap().unwrap();
    assert!(created.created && !created.canceled, "{created:?}");
    assert_eq!(created.watch_id, 0, "those that were not allowed have no number");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_a_token_is_shown_as_authorization_and_health_needs_none() {
    let (running, ..) = with_users(&[]).await;
    let pages = Pages::new(&Options::default());
    pages.arrived(running.node.gateway());
    let call = async |request: axum::http::request::Builder, body: &'static str| {
        let request = request.body(Body::from(body)).unwrap();
        let response = soon(pages.router().call(request)).await.unwrap();
        let code = response.status().as_u16();
        let bytes = soon(to_bytes(response.into_body(), 1 << 20)).await.unwrap();
        (code, serde_json::from_slice::<Value>(&bytes).unwrap())
    };
    let login = r#"{"name": "anna", "password": "anna"}"#;
    let (code, told) = call(HttpRequest::post("/v3/auth/authenticate"), login).await;
    assert_eq!(code, 200, "{told}");
    let token = told["token"].as_str().unwrap();
    let read = || HttpRequest::post("/v3/kv/range");
    // `a` and `z`.
    let (own, foreign) = (r#"{"key": "YQ=="}"#, r#"{"key": "eg=="}"#);
    for shown in [token.to_owned(), format!("Bearer {token}")] {
        let (code, told) = call(read().header("authorization", &shown), own).await;
        assert_eq!(code, 200, "{told}");
        let (code, told) = call(read().header("authorization", &shown), foreign).await;
        assert_eq!((code, &told["message"]), (403, &json!("etcdserver: permission denied")));
    }
    let (code, told) = call(read(), own).await;
    assert_eq!((code, &told["message"]), (400, &json!("etcdserver: user name is empty")));
    let (code, told) = call(HttpRequest::get("/health"), "").await;
    assert_eq!(code, 200, "{told}");
    running.stop().await;
}
