//! Service `Auth`: the users of a keyspace, their roles, and what these may.
//!
//! Users are part of the keyspace's own state: every call but [`authenticate`] is an operation of
//! its log, in order with those on keys, and who may ask for it is decided when it is carried out.
//! Passwords are hashed at the node that is asked; the log never has one.
//!
//! [`authenticate`]: auth_server::Auth::authenticate

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use holdfast_kv::command::{
    AuthEnable, AuthName, AuthPermission, AuthRoleGrant, AuthRoleRevoke, AuthUserAdd,
    AuthUserChangePassword, AuthUserRole, EtcdAuth, EtcdAuthChange as Change,
};
use holdfast_kv::{AuthAnswer, Outcome};
use holdfast_node::api::{Answer, Operation, Password, Rank};
use holdfast_wire::etcd::authpb::Permission;
use holdfast_wire::etcd::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse,
    AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse,
    AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest,
    AuthStatusResponse, AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest,
    AuthUserChangePasswordResponse, AuthUserDeleteRequest, AuthUserDeleteResponse,
    AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
    AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse, ResponseHeader,
    auth_server,
};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, async_trait};

use crate::call::{Asked, Failure, Service, unexpected};

/// Longest password, bytes: bcrypt looks at no more.
const PASSWORD_BYTES_MAX: usize = 72;
/// What etcd's hash function says about a longer one.
const PASSWORD_TOO_LONG: &str = "bcrypt: password length exceeds 72 bytes";
/// What etcd says about a hash that it cannot read.
const NOT_A_HASH: &str = "auth: authentication failed, password was given for no password user";

type Told<T> = Result<Response<T>, Status>;

#[async_trait]
impl auth_server::Auth for Service {
    async fn auth_enable(&self, request: Request<AuthEnableRequest>) -> Told<AuthEnableResponse> {
        let token_key = self.gateway.draw_token_key();
        let change = Change::Enable(AuthEnable { token_key });
        self.managed(&request, change, |header| AuthEnableResponse { header }).await
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Told<AuthDisableResponse> {
        self.managed(&request, Change::Disable(()), |header| AuthDisableResponse { header }).await
    }

    async fn auth_status(&self, request: Request<AuthStatusRequest>) -> Told<AuthStatusResponse> {
        self.told(&request, Change::Status(()), |header, answer| match answer {
            AuthAnswer::Status { enabled, revision } => {
                Ok(AuthStatusResponse { header, enabled, auth_revision: revision })
            }
            other => Err(unexpected("question about users", &other)),
        })
        .await
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Told<AuthenticateResponse> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let AuthenticateRequest { name, password } = request.into_inner();
        let result = async {
            let password = Password::new(password);
            let (call, keyspace) = (&asked.call, &asked.keyspace);
            let answer = self.gateway.authenticate(call, keyspace, name, password).await;
            let Answer { header, value: token } = answer?;
            let header = Some(self.answers(&asked).header(&header));
            Ok(AuthenticateResponse { header, token })
        };
        let result = result.await;
        self.done(Operation::Cluster, None, started, result)
    }

    async fn user_add(&self, request: Request<AuthUserAddRequest>) -> Told<AuthUserAddResponse> {
        let asked = request.get_ref();
        let (name, password) = (asked.name.clone(), asked.password.clone());
        let no_password = asked.options.is_some_and(|options| options.no_password);
        let password_hash = match no_password {
            true => Bytes::new(),
            false => self.hashed(request.metadata(), password).await?,
        };
        let change = Change::UserAdd(AuthUserAdd { name, password_hash, no_password });
        self.managed(&request, change, |header| AuthUserAddResponse { header }).await
    }

    async fn user_get(&self, request: Request<AuthUserGetRequest>) -> Told<AuthUserGetResponse> {
        let name = request.get_ref().name.clone();
        self.told(&request, Change::UserGet(AuthName { name }), |header, answer| match answer {
            AuthAnswer::User { roles } => Ok(AuthUserGetResponse { header, roles }),
            other => Err(unexpected("question about a user", &other)),
        })
        .await
    }

    async fn user_list(&self, request: Request<AuthUserListRequest>) -> Told<AuthUserListResponse> {
        self.told(&request, Change::UserList(()), |header, answer| match answer {
            AuthAnswer::Names(users) => Ok(AuthUserListResponse { header, users }),
            other => Err(unexpected("list of users", &other)),
        })
        .await
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Told<AuthUserDeleteResponse> {
        let name = request.get_ref().name.clone();
        let change = Change::UserDelete(AuthName { name });
        self.managed(&request, change, |header| AuthUserDeleteResponse { header }).await
    }

    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Told<AuthUserChangePasswordResponse> {
        let AuthUserChangePasswordRequest { name, password, hashed_password } =
            request.get_ref().clone();
        let password_hash = match password.is_empty() {
            false => self.hashed(request.metadata(), password).await?,
            // Without either, nobody can be this user by a password any longer.
            true => {
                let decoded = STANDARD.decode(hashed_password);
                decoded.map_err(|_| Status::unknown(NOT_A_HASH))?.into()
            }
        };
        let change = Change::UserChangePassword(AuthUserChangePassword { name, password_hash });
        self.managed(&request, change, |header| AuthUserChangePasswordResponse { header }).await
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Told<AuthUserGrantRoleResponse> {
        let AuthUserGrantRoleRequest { user, role } = request.get_ref().clone();
        let change = Change::UserGrantRole(AuthUserRole { user, role });
        self.managed(&request, change, |header| AuthUserGrantRoleResponse { header }).await
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Told<AuthUserRevokeRoleResponse> {
        let AuthUserRevokeRoleRequest { name: user, role } = request.get_ref().clone();
        let change = Change::UserRevokeRole(AuthUserRole { user, role });
        self.managed(&request, change, |header| AuthUserRevokeRoleResponse { header }).await
    }

    async fn role_add(&self, request: Request<AuthRoleAddRequest>) -> Told<AuthRoleAddResponse> {
        let name = request.get_ref().name.clone();
        let change = Change::RoleAdd(AuthName { name });
        self.managed(&request, change, |header| AuthRoleAddResponse { header }).await
    }

    async fn role_get(&self, request: Request<AuthRoleGetRequest>) -> Told<AuthRoleGetResponse> {
        let name = request.get_ref().role.clone();
        self.told(&request, Change::RoleGet(AuthName { name }), |header, answer| match answer {
            AuthAnswer::Role { permissions } => {
                let perm = permissions.into_iter().map(permission).collect();
                Ok(AuthRoleGetResponse { header, perm })
            }
            other => Err(unexpected("question about a role", &other)),
        })
        .await
    }

    async fn role_list(&self, request: Request<AuthRoleListRequest>) -> Told<AuthRoleListResponse> {
        self.told(&request, Change::RoleList(()), |header, answer| match answer {
            AuthAnswer::Names(roles) => Ok(AuthRoleListResponse { header, roles }),
            other => Err(unexpected("list of roles", &other)),
        })
        .await
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Told<AuthRoleDeleteResponse> {
        let name = request.get_ref().role.clone();
        let change = Change::RoleDelete(AuthName { name });
        self.managed(&request, change, |header| AuthRoleDeleteResponse { header }).await
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Told<AuthRoleGrantPermissionResponse> {
        let AuthRoleGrantPermissionRequest { name: role, perm } = request.get_ref().clone();
        let permission = perm.map(|perm| {
            let Permission { perm_type: verb, key, range_end } = perm;
            AuthPermission { verb, key, range_end }
        });
        let change = Change::RoleGrantPermission(AuthRoleGrant { role, permission });
        self.managed(&request, change, |header| AuthRoleGrantPermissionResponse { header }).await
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Told<AuthRoleRevokePermissionResponse> {
        let AuthRoleRevokePermissionRequest { role, key, range_end } = request.get_ref().clone();
        let change = Change::RoleRevokePermission(AuthRoleRevoke { role, key, range_end });
        self.managed(&request, change, |header| AuthRoleRevokePermissionResponse { header }).await
    }
}

impl Service {
    /// Carries out a change, whose answer says that it was done.
    async fn managed<Q: Message, A>(
        &self,
        request: &Request<Q>,
        change: Change,
        answer: impl FnOnce(Option<ResponseHeader>) -> A + Send,
    ) -> Told<A> {
        self.told(request, change, |header, told| match told {
            AuthAnswer::Done => Ok(answer(header)),
            other => Err(unexpected("change of users", &other)),
        })
        .await
    }

    /// Carries out an operation on users and makes an answer of what it tells.
    async fn told<Q: Message, A>(
        &self,
        request: &Request<Q>,
        change: Change,
        answer: impl FnOnce(Option<ResponseHeader>, AuthAnswer) -> Result<A, Failure> + Send,
    ) -> Told<A> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        self.check_size(request.get_ref())?;
        let result = self.ask_users(&asked, change).await;
        let result = result.and_then(|(header, told)| answer(Some(header), told));
        self.done(Operation::Cluster, None, started, result)
    }

    async fn ask_users(
        &self,
        asked: &Asked,
        change: Change,
    ) -> Result<(ResponseHeader, AuthAnswer), Failure> {
        match self.write(asked, EtcdAuth::from(change).into()).await? {
            (header, Outcome::EtcdAuth(told)) => Ok((self.answers(asked).header(&header), told)),
            (_, other) => Err(unexpected("operation on users", &other)),
        }
    }

    /// The hash of a password. Nobody who may not give one makes this node work.
    async fn hashed(&self, metadata: &MetadataMap, password: String) -> Result<Bytes, Status> {
        let asked = self.asked(metadata)?;
        let hashed = async {
            let (call, keyspace) = (&asked.call, &asked.keyspace);
            self.gateway.require(call, keyspace, Rank::Administrator).await?;
            if password.len() > PASSWORD_BYTES_MAX {
                return Err(Failure::Recipe(PASSWORD_TOO_LONG));
            }
            Ok(self.gateway.hash_password(call, Password::new(password)).await?)
        };
        hashed.await.map_err(Status::from)
    }
}

fn permission(permission: AuthPermission) -> Permission {
    let AuthPermission { verb, key, range_end } = permission;
    Permission { perm_type: verb, key, range_end }
}
