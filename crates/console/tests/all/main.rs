//! The pages of the HTTP port, asked without a socket.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use holdfast_console::{Arrival, Source, router};
use tower::ServiceExt;

struct Fixed {
    metrics: Result<&'static str, &'static str>,
    readiness: Result<(), &'static str>,
}

impl Source for Fixed {
    fn metrics(&self) -> Result<String, String> {
        self.metrics.map(str::to_owned).map_err(str::to_owned)
    }

    fn readiness(&self) -> Result<(), String> {
        self.readiness.map_err(str::to_owned)
    }
}

const FINE: Fixed = Fixed { metrics: Ok("holdfast_x 1\n# EOF\n"), readiness: Ok(()) };

async fn get(source: Fixed, path: &str) -> (StatusCode, String, String) {
    get_from(Arc::new(source), path).await
}

async fn get_from(source: Arc<dyn Source>, path: &str) -> (StatusCode, String, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = router(source).oneshot(request).await.unwrap();
    let status = response.status();
    let kind = response.headers().get("content-type").map(|v| v.to_str().unwrap().to_owned());
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, kind.unwrap_or_default(), String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn figures_are_served_as_openmetrics() {
    let (status, kind, body) = get(FINE, "/metrics").await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "holdfast_x 1\n# EOF\n"));
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let broken = Fixed { metrics: Err("no"), ..FINE };
    assert_eq!(get(broken, "/metrics").await.0, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn a_node_that_is_not_ready_is_alive_and_says_what_is_missing() {
    let starting = || Fixed { readiness: Err("g3 has no known leader"), ..FINE };
    let (status, _, body) = get(starting(), "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body, "g3 has no known leader\n");
    assert_eq!(get(starting(), "/livez").await.0, StatusCode::OK);
    assert_eq!(get(FINE, "/readyz").await.0, StatusCode::OK);
    assert_eq!(get(FINE, "/elsewhere").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_node_on_its_way_is_alive_without_figures_and_not_ready() {
    let arrival = Arc::new(Arrival::default());
    assert_eq!(get_from(arrival.clone(), "/livez").await.0, StatusCode::OK);
    let (status, _, body) = get_from(arrival.clone(), "/readyz").await;
    assert_eq!(
        (status, body.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "the node is starting\n")
    );
    let (status, kind, body) = get_from(arrival.clone(), "/metrics").await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "# EOF\n"));
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    arrival.arrived(Arc::new(FINE));
    assert_eq!(get_from(arrival.clone(), "/readyz").await.0, StatusCode::OK);
    assert_eq!(get_from(arrival, "/metrics").await.2, "holdfast_x 1\n# EOF\n");
}
