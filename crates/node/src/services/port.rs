//! What stands behind the client port: the way from a request's path to its service.
//!
//! Gets and puts are nearly all there is, so service `Kv`, and what other protocols have in its
//! place, are asked directly; the others go through tonic's general router, which matches paths and
//! boxes every service and answer once more.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use holdfast_wire::v1::kv_server::KvServer;
use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower_service::Service as Tower;

use super::Service;
use super::guard::Guard;

type Kv = Guard<KvServer<Service>>;

/// An answer on its way.
type Answer = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// A service of another protocol that is asked directly.
pub trait Direct: Send + Sync {
    /// Its name, `package.Service`.
    fn name(&self) -> &'static str;

    /// Asks it.
    fn ask(&mut self, request: Request<Body>) -> Answer;

    /// Another handle of it.
    fn another(&self) -> Box<dyn Direct>;
}

impl<S> Direct for S
where
    S: Tower<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answer>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
{
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn ask(&mut self, request: Request<Body>) -> Answer {
        self.call(request)
    }

    fn another(&self) -> Box<dyn Direct> {
        Box::new(self.clone())
    }
}

/// The services of the client port as one.
pub struct Port {
    kv: Kv,
    direct: Vec<Box<dyn Direct>>,
    others: Routes,
}

impl Port {
    pub(super) fn new(kv: Kv, direct: Vec<Box<dyn Direct>>, others: Routes) -> Self {
        Self { kv, direct, others: others.prepare() }
    }
}

impl Clone for Port {
    fn clone(&self) -> Self {
        let direct = self.direct.iter().map(|one| one.another()).collect();
        Self { kv: self.kv.clone(), direct, others: self.others.clone() }
    }
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let direct: Vec<_> = self.direct.iter().map(|one| one.name()).collect();
        f.debug_struct("Port").field("direct", &direct).finish_non_exhaustive()
    }
}

/// The service of a path (`/package.Service/Method`).
fn service_of(path: &str) -> Option<&str> {
    Some(path.strip_prefix('/')?.split_once('/')?.0)
}

impl Tower<Request<Body>> for Port {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Both are always ready: what is too much is refused by limits and budgets, not here.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if let Some(service) = service_of(request.uri().path()) {
            if service == Kv::NAME {
                return self.kv.call(request);
            }
            if let Some(direct) = self.direct.iter_mut().find(|one| one.name() == service) {
                return direct.ask(request);
            }
        }
        Box::pin(self.others.call(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_service_in_front_of_the_method() {
        assert_eq!(service_of("/holdfast.v1.Kv/Get"), Some(Kv::NAME));
        assert_eq!(service_of("/holdfast.v1.KvX/Get"), Some("holdfast.v1.KvX"));
        for path in ["/holdfast.v1.Kv", "holdfast.v1.Kv/Get", "", "/"] {
            assert_eq!(service_of(path), None, "{path}");
        }
    }
}
