//! Users of an etcd keyspace, through nodes that do not hold it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_kv::command::{
    AuthEnable, AuthName, AuthPermission, AuthRoleGrant, AuthUserAdd, AuthUserRole, AuthVerb,
    EtcdAuth, EtcdAuthChange, EtcdOperation, EtcdRange, EtcdTxn, Put,
};
use holdfast_kv::{AuthRefusal, Operation, Outcome};
use holdfast_model::KeyspaceKind;
use holdfast_node::api::{ApiError, Call, EtcdRead, Get, Password, Rank, Watch, WatchItem, Write};
use holdfast_node::auth::Identity;
use holdfast_runtime::Deadline;
use holdfast_wire::v1::{self, cluster_client::ClusterClient};

use super::cluster::three;
use super::harness::{Running, eventually};

const KEYSPACE: &str = "team";

fn call(identity: Identity) -> Call {
    let deadline = Deadline::after(Duration::from_secs(30));
    Call { identity, deadline, direct: false }
}

fn showing(token: &str) -> Call {
    call(Identity::ANONYMOUS.showing(token.as_bytes()))
}

async fn write(node: &Running, call: &Call, operation: Operation) -> Result<Outcome, ApiError> {
    let write = Write { keyspace: KEYSPACE.to_owned(), operation, session: None };
    Ok(node.node.gateway().write(call, write).await?.value)
}

async fn change(node: &Running, call: &Call, change: EtcdAuthChange) -> Result<Outcome, ApiError> {
    write(node, call, EtcdAuth::from(change).into()).await
}

fn put(key: &'static str) -> Operation {
    Put { key: key.into(), value: "x".into(), ..Put::default() }.into()
}

async fn get(node: &Running, call: &Call, key: &'static str) -> Result<(), ApiError> {
    let get = Get { keyspace: KEYSPACE.to_owned(), key: key.into(), ..Get::default() };
    node.node.gateway().get(call, get).await.map(drop)
}

/// Gives the keyspace `root` and `anna`, who may read `a`, with their names for passwords.
async fn populate(node: &Running) {
    let nobody = call(Identity::ANONYMOUS);
    let gateway = node.node.gateway();
    for name in ["root", "anna"] {
        let password_hash = gateway.hash_password(&nobody, Password::new(name)).await.unwrap();
        let add = AuthUserAdd { name: name.to_owned(), password_hash, no_password: false };
        change(node, &nobody, EtcdAuthChange::UserAdd(add)).await.unwrap();
    }
    let role = "reader".to_owned();
    change(node, &nobody, EtcdAuthChange::RoleAdd(AuthName { name: role.clone() })).await.unwrap();
    let (key, range_end) = (Bytes::from("a"), Bytes::new());
    let permission = Some(AuthPermission { verb: AuthVerb::Read.into(), key, range_end });
    let grant = AuthRoleGrant { role, permission };
    change(node, &nobody, EtcdAuthChange::RoleGrantPermission(grant)).await.unwrap();
    for (user, role) in [("root", "root"), ("anna", "reader")] {
        let grant = AuthUserRole { user: user.to_owned(), role: role.to_owned() };
        change(node, &nobody, EtcdAuthChange::UserGrantRole(grant)).await.unwrap();
    }
    let enable = AuthEnable { token_key: gateway.draw_token_key() };
    change(node, &nobody, EtcdAuthChange::Enable(enable)).await.unwrap();
}

async fn login(node: &Running, name: &str) -> Result<String, ApiError> {
    let (nobody, password) = (call(Identity::ANONYMOUS), Password::new(name.to_owned()));
    let gateway = node.node.gateway();
    let answer = gateway.authenticate(&nobody, KEYSPACE, name.to_owned(), password).await?;
    Ok(answer.value)
}

const EMPTY: ApiError = ApiError::Auth(AuthRefusal::UserEmpty);

fn is_denied<T>(answer: Result<T, ApiError>) -> bool {
    answer.is_err_and(|error| error.grpc_code() == tonic::Code::PermissionDenied)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_asked_for_whichever_node_is_asked_and_their_tokens_hold_everywhere() {
    let (_turn, nodes) = three().await;
    let create = v1::CreateKeyspaceRequest {
        name: KEYSPACE.to_owned(),
        kind: v1::KeyspaceKind::Etcd.into(),
        replication_factor: 1,
        ..Default::default()
    };
    let mut cluster = ClusterClient::new(nodes[0].channel().await);
    cluster.create_keyspace(create).await.unwrap();
    for node in &nodes {
        eventually("the keyspace is known", || async {
            node.node.map().load().keyspace(KEYSPACE).is_ok_and(|k| k.kind == KeyspaceKind::Etcd)
        })
        .await;
    }
    populate(&nodes[0]).await;
    let root = showing(&login(&nodes[1], "root").await.unwrap());
    let anna = showing(&login(&nodes[2], "anna").await.unwrap());
    let nobody = call(Identity::ANONYMOUS);
    let foreign = showing("nonsense");
    // One of them holds the only replica; two ask it on behalf of their callers.
    for node in &nodes {
        let gateway = node.node.gateway();
        assert_eq!(write(node, &nobody, put("a")).await, Err(EMPTY));
        assert_eq!(get(node, &nobody, "a").await, Err(EMPTY));
        assert!(write(node, &foreign, put("a")).await.unwrap_err().is_unauthenticated());
        assert!(get(node, &foreign, "a").await.unwrap_err().is_unauthenticated());
        assert!(is_denied(write(node, &anna, put("a")).await));
        assert!(is_denied(get(node, &anna, "b").await));
        assert_eq!(get(node, &anna, "a").await, Ok(()));
        assert!(write(node, &root, put("b")).await.is_ok());
        assert!(is_denied(gateway.require(&anna, KEYSPACE, Rank::Administrator).await));
        assert_eq!(gateway.require(&anna, KEYSPACE, Rank::User).await, Ok(()));
        assert_eq!(gateway.require(&nobody, KEYSPACE, Rank::User).await, Err(EMPTY));
        assert_eq!(gateway.require(&root, KEYSPACE, Rank::Administrator).await, Ok(()));
        let range = EtcdRange { key: "b".into(), ..EtcdRange::default() };
        let success = vec![EtcdOperation::Range(range).into()];
        let txn = EtcdTxn { success, ..EtcdTxn::default() };
        let read = EtcdRead { keyspace: KEYSPACE.to_owned(), txn, ..EtcdRead::default() };
        assert!(is_denied(gateway.etcd_read(&anna, read.clone()).await));
        assert!(gateway.etcd_read(&root, read).await.is_ok());
        let watch = |key: &'static str| Watch {
            keyspace: KEYSPACE.to_owned(),
            key: key.into(),
            ..Watch::default()
        };
        let first = gateway.watch(&anna, watch("b")).next().await.unwrap();
        assert!(is_denied(first));
        let first = gateway.watch(&anna, watch("a")).next().await.unwrap();
        assert!(matches!(first, Ok(WatchItem::Created { .. })), "{first:?}");
        let wrong = Password::new("wrong");
        let refused = gateway.authenticate(&nobody, KEYSPACE, "anna".to_owned(), wrong).await;
        assert_eq!(refused.err(), Some(ApiError::Auth(AuthRefusal::AuthFailed)));
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_go_on_while_users_change() {
    let node = Running::single().await;
    let create = v1::CreateKeyspaceRequest {
        name: KEYSPACE.to_owned(),
        kind: v1::KeyspaceKind::Etcd.into(),
        ..Default::default()
    };
    ClusterClient::new(node.channel().await).create_keyspace(create).await.unwrap();
    populate(&node).await;
    let root = showing(&login(&node, "root").await.unwrap());
    // Every change of users outdates what was judged before it; it is judged again.
    let changes = async {
        for number in 0..20 {
            let name = format!("role-{number}");
            let add = EtcdAuthChange::RoleAdd(AuthName { name });
            change(&node, &root, add).await.unwrap();
        }
    };
    let puts = async {
        for _ in 0..60 {
            match write(&node, &root, put("k")).await {
                Ok(_) | Err(ApiError::Auth(AuthRefusal::AuthOldRevision)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    };
    futures_util::future::join(changes, puts).await;
    assert!(write(&node, &root, put("k")).await.is_ok());
    node.stop().await;
}
