//! Messages with passwords in them, as they are printed: without.

use std::fmt;

use crate::etcd::etcdserverpb::{
    AuthUserAddRequest, AuthUserChangePasswordRequest, AuthenticateRequest,
};
use crate::peer::v1::ForwardPassword;

macro_rules! printed_by_name {
    ($($message:ident),* $(,)?) => {
        $(impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut shown = f.debug_struct(stringify!($message));
                shown.field("name", &self.name).finish_non_exhaustive()
            }
        })*
    };
}

printed_by_name!(
    AuthUserAddRequest,
    AuthUserChangePasswordRequest,
    AuthenticateRequest,
    ForwardPassword,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_printed() {
        let (name, password) = ("anna".to_owned(), "secret".to_owned());
        let authenticate = AuthenticateRequest { name: name.clone(), password: password.clone() };
        let add = AuthUserAddRequest {
            name: name.clone(),
            password: password.clone(),
            hashed_password: password.clone(),
            options: None,
        };
        let change = AuthUserChangePasswordRequest {
            name: name.clone(),
            password: password.clone(),
            hashed_password: password.clone(),
        };
        let forward = ForwardPassword { name, password: password.into() };
        let printed = format!("{authenticate:?} {add:?} {change:?} {forward:?}");
        assert!(printed.contains("anna") && !printed.contains("secret"), "{printed}");
    }
}
