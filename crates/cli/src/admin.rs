//! Calls to one named node: founding, status, map.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use holdfast_model::ClusterMap;
use holdfast_wire::v1;
use holdfast_wire::v1::cluster_client::ClusterClient;
use tonic::transport::{Channel, Endpoint};

/// Longest time to connect to a node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to the node at `address` (`host:port`).
pub async fn connect(address: &str, timeout: Duration) -> Result<ClusterClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{address:?} is not host:port"))?
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .timeout(timeout);
    let channel = endpoint.connect().await.map_err(|e| anyhow!("{address}: {}", root(&e)))?;
    Ok(ClusterClient::new(channel).max_decoding_message_size(64 << 20))
}

/// A request that tells the server how long it may take.
pub fn within<T>(limit: Duration, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit);
    request
}

/// The innermost cause of an error: what people need to read.
fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Status of the node at `address`.
pub async fn status(address: &str, timeout: Duration) -> Result<v1::StatusResponse> {
    let mut client = connect(address, timeout).await?;
    let answer = client.status(within(timeout, v1::StatusRequest {})).await;
    Ok(answer.map_err(|s| anyhow!("{address}: {}", s.message()))?.into_inner())
}

/// The map as the first answering endpoint has it.
pub async fn map(endpoints: &[String], timeout: Duration) -> Result<ClusterMap> {
    let mut last = anyhow!("no endpoint was given");
    for address in endpoints {
        let answer = async {
            let mut client = connect(address, timeout).await?;
            let answer = client.map(within(timeout, v1::MapRequest {})).await;
            let message = answer.map_err(|s| anyhow!("{address}: {}", s.message()))?.into_inner();
            Ok(ClusterMap::try_from(message)?)
        };
        match answer.await {
            Ok(map) => return Ok(map),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What keeps a cluster from being healthy; empty where nothing does.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Sentences for people.
    pub problems: Vec<String>,
    /// Nodes that answered.
    pub nodes: usize,
    /// Ranges the map names.
    pub ranges: usize,
}

/// Asks every node and compares with the map: every range must be led by a node that answers
/// and has all its voters connected and caught up.
pub async fn health(endpoints: &[String], timeout: Duration) -> Health {
    let mut health = Health::default();
    let map = match map(endpoints, timeout).await {
        Ok(map) => map,
        Err(error) => {
            health.problems.push(format!("{error:#}"));
            return health;
        }
    };
    health.ranges = map.ranges.len();
    if map.ranges.is_empty() {
        health.problems.push("the map names no range yet".into());
    }
    let mut led = std::collections::BTreeMap::new();
    for node in map.nodes.values() {
        match status(&node.client_address, timeout).await {
            Ok(status) => {
                health.nodes += 1;
                if status.state != "serving" {
                    health.problems.push(format!("node {}: {}", node.id.0, status.state));
                }
                for replica in status.replicas {
                    if replica.role == "leader" {
                        led.insert(replica.range_id, replica.fully_replicated);
                    }
                    if !replica.failure.is_empty() {
                        let (node, range, failure) = (node.id.0, replica.range_id, replica.failure);
                        let problem = format!("node {node}: replica of range {range} {failure}");
                        health.problems.push(problem);
                    }
                }
            }
            Err(error) => health.problems.push(format!("node {}: {error:#}", node.id.0)),
        }
    }
    for id in map.ranges.keys() {
        match led.get(&id.0) {
            None => health.problems.push(format!("range {}: no leader", id.0)),
            Some(false) => health.problems.push(format!("range {}: replicas behind", id.0)),
            Some(true) => {}
        }
    }
    health
}
