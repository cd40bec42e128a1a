//! What etcd serves over HTTP: `/health`, `/version`, and the API as JSON.

mod json;
mod paths;

use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use holdfast_node::api::{Call, Gateway, Get};
use holdfast_node::auth::Identity;
use holdfast_runtime::Deadline;
use prost_reflect::DescriptorPool;
use serde::{Deserialize, Serialize};
use tonic::Status;
use tonic::service::Routes;

use crate::Options;
use crate::call::read_options;

/// The key whose reading tells that keys can be read; it need not exist.
const HEALTH_KEY: &[u8] = b"health";

/// What a node that recovers answers.
const STARTING: &str = "the node is starting";

/// The pages. Until the node is there ([`Pages::arrived`]) it is not healthy.
#[derive(Debug)]
pub struct Pages {
    options: Options,
    descriptors: DescriptorPool,
    node: OnceLock<Arrived>,
}

/// A node that is there: its API, and the services on it.
#[derive(Debug)]
struct Arrived {
    gateway: Gateway,
    routes: Routes,
}

/// What is asked about health.
#[derive(Debug, Default, Deserialize)]
struct Asked {
    /// `true`: whether this node can answer by itself.
    #[serde(default)]
    serializable: String,
}

#[derive(Debug, Serialize)]
struct Health {
    health: &'static str,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Version {
    etcdserver: String,
    etcdcluster: String,
    storage: String,
}

impl Pages {
    /// The pages of a node that is on its way.
    pub fn new(options: &Options) -> Arc<Self> {
        Arc::new(Self {
            options: options.clone(),
            descriptors: json::descriptors(),
            node: OnceLock::new(),
        })
    }

    /// The node is there. A second call changes nothing.
    pub fn arrived(&self, gateway: &Gateway) {
        let routes = crate::services(gateway, &Arc::new(self.options.clone())).prepare();
        let _ = self.node.set(Arrived { gateway: gateway.clone(), routes });
    }

    /// Their routes.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/health", get(health))
            .route("/version", get(version))
            .route("/v3/{*method}", post(call))
            // Base64 makes four bytes of three.
            .layer(DefaultBodyLimit::max(2 * self.options.message_bytes_max()))
            .with_state(self.clone())
    }

    /// Whether keys can be read.
    async fn check(&self, serializable: bool) -> Result<(), String> {
        let gateway = &self.node.get().ok_or(STARTING)?.gateway;
        if !serializable && !gateway.standing(&self.options.keyspace).has_leader {
            return Err("RAFT NO LEADER".to_owned());
        }
        let time = gateway.limits().deadline(None);
        // The node asks itself: whether it is healthy is told to who has no token.
        let (identity, deadline) = (Identity::system(), Deadline::after(time));
        let call = Call { identity, deadline, direct: false };
        let (keyspace, read) = (self.options.keyspace.clone(), read_options(serializable));
        let get = Get { keyspace, key: HEALTH_KEY.into(), read, ..Get::default() };
        match gateway.get(&call, get).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("RANGE ERROR:{}", crate::error_of(&error).message())),
        }
    }
}

async fn health(State(pages): State<Arc<Pages>>, Query(asked): Query<Asked>) -> Response {
    match pages.check(asked.serializable == "true").await {
        Ok(()) => Json(Health { health: "true", reason: String::new() }).into_response(),
        Err(reason) => {
            let unhealthy = Json(Health { health: "false", reason });
            (StatusCode::SERVICE_UNAVAILABLE, unhealthy).into_response()
        }
    }
}

async fn version(State(pages): State<Arc<Pages>>) -> Response {
    let cluster = pages.options.cluster_version();
    let version = Version {
        etcdserver: pages.options.version.clone(),
        etcdcluster: cluster.clone(),
        storage: cluster,
    };
    ([(header::CACHE_CONTROL, "no-store")], Json(version)).into_response()
}

/// A method of the API, asked in JSON.
async fn call(
    State(pages): State<Arc<Pages>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(method) = json::method_of(&pages.descriptors, uri.path()) else {
        return json::refusal(&Status::not_found("Not Found"));
    };
    match pages.node.get() {
        Some(node) => json::ask(node.routes.clone(), method, &headers, &body).await,
        None => json::refusal(&Status::unavailable(STARTING)),
    }
}
