//! The HTTP port of a node: figures and health.
//!
//! Owns: `/metrics` (OpenMetrics text), `/livez` (the process answers), `/readyz` (the node can be
//! used: it belongs to a cluster, knows the map, and each of its replicas knows a leader).
//! Must never know: Raft, storage.
//! Invariants:
//! * Nothing served here changes anything.
//! * It answers from before the node opens its data until after it has drained ([`Arrival`]).
//! * A slow or idle reader holds up nobody else and is cut off.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use holdfast_node::Node;
use holdfast_runtime::net::{Listener, Net, Stream};
use holdfast_runtime::{Stop, Tasks};

/// The type of the `/metrics` page.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The page without figures.
const NO_FIGURES: &str = "# EOF\n";
/// Accepting rests this long after it failed for want of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// What the pages are made from; implemented by [`Node`].
pub trait Source: Send + Sync + 'static {
    /// The figures, as text.
    ///
    /// # Errors
    /// They cannot be rendered.
    fn metrics(&self) -> Result<String, String>;

    /// Whether the node can be used.
    ///
    /// # Errors
    /// What is missing.
    fn readiness(&self) -> Result<(), String>;
}

impl Source for Node {
    fn metrics(&self) -> Result<String, String> {
        Node::metrics(self).render().map_err(|error| error.to_string())
    }

    fn readiness(&self) -> Result<(), String> {
        Node::readiness(self)
    }
}

/// A node that is on its way: recovery may take minutes, and whoever watches over the process has
/// to see that it lives and that it is not ready.
///
/// Until [`Arrival::arrived`] it has no figures and says "the node is starting"; from then on it
/// answers what the node answers.
#[derive(Default)]
pub struct Arrival(OnceLock<Arc<dyn Source>>);

impl Arrival {
    /// The node is there.
    ///
    /// # Panics
    /// On a second call.
    pub fn arrived(&self, source: Arc<dyn Source>) {
        assert!(self.0.set(source).is_ok(), "a node arrives once");
    }
}

impl Source for Arrival {
    fn metrics(&self) -> Result<String, String> {
        self.0.get().map_or_else(|| Ok(NO_FIGURES.to_owned()), |source| source.metrics())
    }

    fn readiness(&self) -> Result<(), String> {
        let starting = || Err("the node is starting".to_owned());
        self.0.get().map_or_else(starting, |source| source.readiness())
    }
}

/// The pages of a node.
pub fn router(source: Arc<dyn Source>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(source)
}

async fn metrics(State(source): State<Arc<dyn Source>>) -> Response {
    match source.metrics() {
        Ok(text) => {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
            (headers, text).into_response()
        }
        Err(problem) => (StatusCode::INTERNAL_SERVER_ERROR, problem).into_response(),
    }
}

async fn readyz(State(source): State<Arc<dyn Source>>) -> Response {
    match source.readiness() {
        Ok(()) => "ok\n".into_response(),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")).into_response(),
    }
}

struct Accept(Box<dyn Listener>);

impl axum::serve::Listener for Accept {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok(stream) => {
                    let remote = stream.ends().remote;
                    return (stream, remote);
                }
                Err(_) => holdfast_runtime::sleep(ACCEPT_REST).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.local_address())
    }
}

/// Serves the pages, and `more` beside them, on `address` until `tasks` stop; answers with the
/// bound address.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    source: Arc<dyn Source>,
    more: Router,
    net: &dyn Net,
    address: SocketAddr,
    tasks: &Tasks,
) -> io::Result<SocketAddr> {
    let listener = net.bind(address).await?;
    let bound = listener.local_address();
    let stop = tasks.stop_wish();
    tasks.spawn(run(Accept(listener), router(source).merge(more), stop));
    Ok(bound)
}

async fn run(listener: Accept, router: Router, stop: Stop) {
    let served = async move { axum::serve(listener, router).await };
    if let Some(Err(error)) = stop.or(served).await {
        tracing::error!(%error, "HTTP port failed");
    }
}
