//! Why an operation is refused for its user, or an operation on users for the state they are in.

/// Texts are etcd's own, without its prefix: its clients look for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthRefusal {
    /// Users cannot be asked for without the user `root`.
    #[error("root user does not exist")]
    RootUserNotExist,
    /// Users cannot be asked for while `root` does not have its role.
    #[error("root user does not have root role")]
    RootRoleNotExist,
    /// The name is taken.
    #[error("user name already exists")]
    UserAlreadyExist,
    /// No user is named: by the command while users are asked for, or by who adds one.
    #[error("user name is empty")]
    UserEmpty,
    /// No such user.
    #[error("user name not found")]
    UserNotFound,
    /// The name is taken.
    #[error("role name already exists")]
    RoleAlreadyExist,
    /// No such role.
    #[error("role name not found")]
    RoleNotFound,
    /// Who adds a role names none.
    #[error("role name is empty")]
    RoleEmpty,
    /// Name or password are wrong. Passwords are checked outside the state machine.
    #[error("authentication failed, invalid user ID or password")]
    AuthFailed,
    /// A grant of no permission.
    #[error("permission not given")]
    PermissionNotGiven,
    /// The user may not do this. Says nothing about what exists.
    #[error("permission denied")]
    PermissionDenied,
    /// The user does not have the role.
    #[error("role is not granted to the user")]
    RoleNotGranted,
    /// The role does not have the permission.
    #[error("permission is not granted to the role")]
    PermissionNotGranted,
    /// Users are not asked for, so nobody can introduce themselves.
    #[error("authentication is not enabled")]
    AuthNotEnabled,
    /// It would lock everybody out, or gives permission for no key.
    #[error("invalid auth management")]
    InvalidAuthManagement,
    /// Users or roles changed since the command was admitted; nothing was carried out. Admit it
    /// again.
    #[error("revision of auth store is old")]
    AuthOldRevision,
    /// There are as many as there can be.
    #[error("{what}: at most {limit}")]
    Full {
        /// Of what, with its unit.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
}
