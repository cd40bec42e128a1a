//! What stands behind the client port: the way from a request's path to its service.
//!
//! Gets and puts are nearly all there is, so service `Kv` is asked directly; the others go through
//! tonic's general router, which matches paths and boxes every service and answer once more.

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

/// The services of the client port as one.
#[derive(Clone, Debug)]
pub struct Port {
    kv: Kv,
    others: Routes,
}

impl Port {
    pub(super) fn new(kv: Kv, others: Routes) -> Self {
        Self { kv, others: others.prepare() }
    }
}

/// Whether `path` (`/package.Service/Method`) is a method of service `Kv`.
fn is_kv(path: &str) -> bool {
    let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    service.is_some_and(|(service, _)| service == Kv::NAME)
}

impl Tower<Request<Body>> for Port {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Both are always ready: what is too much is refused by limits and budgets, not here.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if is_kv(request.uri().path()) {
            return self.kv.call(request);
        }
        Box::pin(self.others.call(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_methods_of_the_service_go_to_it() {
        assert!(is_kv("/holdfast.v1.Kv/Get"));
        for path in ["/holdfast.v1.Kv", "/holdfast.v1.KvX/Get", "/holdfast.v1.Lease/Grant", "", "/"]
        {
            assert!(!is_kv(path), "{path}");
        }
    }
}
