//! What the examples share: where the cluster is, and names no other run uses.
//!
//! Owns: nothing else.
//! Must never know: what an example shows.
//! Invariants:
//! * Two runs of an example never touch the same keys.
#![allow(clippy::disallowed_methods)]

use std::time::SystemTime;

use holdfast_client::{Client, Error};

/// The cluster that `make cluster` starts.
const LOCAL_CLUSTER: &str = "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403";

/// The endpoints in `HOLDFAST_ENDPOINTS`, comma-separated; else those of the local cluster.
pub fn endpoints() -> Vec<String> {
    let given = std::env::var("HOLDFAST_ENDPOINTS").ok().filter(|text| !text.is_empty());
    let text = given.unwrap_or_else(|| LOCAL_CLUSTER.to_owned());
    text.split(',').map(|address| address.trim().to_owned()).collect()
}

/// A client of the cluster at [`endpoints`].
///
/// # Errors
/// As [`Client::connect`].
pub async fn connect() -> Result<Client, Error> {
    Client::connect(endpoints()).await
}

/// `name` with something added that no other run has.
pub fn unique(name: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{name}-{}-{}", std::process::id(), now.as_nanos())
}
