//! Commands on the cluster and its keyspaces.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use holdfast_client::Error;
use holdfast_model::{
    ClusterMap, Compaction, History, KeyspaceDescriptor, KeyspaceKind, RangeId, ReplicaRole,
};
use holdfast_wire::v1;
use serde_json::json;
use tonic::Status;

use crate::admin;
use crate::args::{self, Cli, Cluster, Keyspace, Output};
use crate::exit::{Exit, refused};
use crate::output::{self, Table};

/// Longest wait of commands that create or drop replicas.
const CREATE_LIMIT: Duration = Duration::from_secs(60);
/// How long `cluster wait --healthy` waits where `--timeout` was left alone.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// Turns a refusal of the server into an error with the right exit code.
fn failed(status: &Status) -> anyhow::Error {
    use tonic::Code;
    if holdfast_wire::error_info(status).is_some_and(|info| info.outcome_unknown) {
        return Error::Unknown(status.message().to_owned()).into();
    }
    match status.code() {
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition => {
            refused(status.message())
        }
        _ => anyhow!("{}", status.message()),
    }
}

fn first(cli: &Cli) -> Result<&str> {
    cli.endpoints.first().map(String::as_str).ok_or_else(|| refused("no endpoint was given"))
}

/// Asks the endpoints in turn until one can be connected to.
async fn any(
    cli: &Cli,
    limit: Duration,
) -> Result<v1::cluster_client::ClusterClient<tonic::transport::Channel>> {
    let mut last = anyhow!("no endpoint was given");
    for address in &cli.endpoints {
        match admin::connect(address, limit).await {
            Ok(client) => return Ok(client),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Runs `holdfast cluster …`.
///
/// # Errors
/// What the cluster answered.
pub async fn run(cli: &Cli, command: &Cluster) -> Result<Exit> {
    match command {
        Cluster::Init { peers, replication_factor } => {
            let mut client = admin::connect(first(cli)?, CREATE_LIMIT).await?;
            let request = v1::InitRequest {
                peer_addresses: peers.clone(),
                replication_factor: *replication_factor,
            };
            let answer = client
                .init(admin::within(CREATE_LIMIT, request))
                .await
                .map_err(|s| failed(&s))?
                .into_inner();
            let id: String = answer.cluster_id.iter().map(|b| format!("{b:02x}")).collect();
            let nodes = answer.nodes.len();
            let word = if answer.already { "was founded before" } else { "founded" };
            let document = json!({"cluster": id, "nodes": nodes, "already": answer.already});
            say(cli, &format!("cluster {id} {word}: {nodes} nodes"), &document)
        }
        Cluster::Status => status(cli).await,
        Cluster::Wait { .. } => wait(cli).await,
        Cluster::Nodes => {
            let map = admin::map(&cli.endpoints, cli.timeout()).await?;
            let mut table = Table::new(["node", "clients", "peers", "http", "zone", "weight"]);
            for node in map.nodes.values() {
                table.row(vec![
                    node.id.0.to_string(),
                    node.client_address.clone(),
                    node.peer_address.clone(),
                    node.http_address.clone(),
                    node.zone.clone(),
                    format!("{:.1}", f64::from(node.weight_milli) / 1000.0),
                ]);
            }
            print(cli, &table, || nodes_json(&map))
        }
        Cluster::Ranges => ranges(cli).await,
        Cluster::Map => {
            let map = admin::map(&cli.endpoints, cli.timeout()).await?;
            output::line(&map_json(&map).to_string())?;
            Ok(Exit::Done)
        }
        Cluster::Transfer { range, to } => transfer(cli, *range, *to).await,
    }
}

/// Says what was done: a sentence for people, a document for programs.
fn say(cli: &Cli, sentence: &str, document: &serde_json::Value) -> Result<Exit> {
    match cli.output {
        Output::Json => output::line(&document.to_string())?,
        _ => output::line(sentence)?,
    }
    Ok(Exit::Done)
}

fn print(cli: &Cli, table: &Table, json: impl FnOnce() -> serde_json::Value) -> Result<Exit> {
    match cli.output {
        Output::Json => output::line(&json().to_string())?,
        _ => output::emit(table.render().as_bytes())?,
    }
    Ok(Exit::Done)
}

async fn status(cli: &Cli) -> Result<Exit> {
    let map = admin::map(&cli.endpoints, cli.timeout()).await?;
    let mut table =
        Table::new(["node", "state", "leads", "replicas", "peers", "data MiB", "uptime s"]);
    let mut documents = Vec::new();
    for node in map.nodes.values() {
        match admin::status(&node.client_address, cli.timeout()).await {
            Ok(status) => {
                let leads = status.replicas.iter().filter(|r| r.role == "leader").count();
                let bytes: u64 = status.replicas.iter().map(|r| r.data_bytes).sum();
                documents.push(json!({
                    "node": node.id.0, "state": status.state, "leads": leads,
                    "replicas": status.replicas.len(), "data_bytes": bytes,
                    "version": status.version, "uptime_ms": status.uptime_ms,
                    "disk_full": status.disk_full,
                }));
                table.row(vec![
                    node.id.0.to_string(),
                    status.state,
                    leads.to_string(),
                    status.replicas.len().to_string(),
                    status.connected_node_ids.len().to_string(),
                    (bytes >> 20).to_string(),
                    (status.uptime_ms / 1000).to_string(),
                ]);
            }
            Err(error) => {
                documents.push(json!({"node": node.id.0, "state": "no answer"}));
                let dash = || "-".to_owned();
                let state = "no answer".to_owned();
                table.row(vec![
                    node.id.0.to_string(),
                    state,
                    dash(),
                    dash(),
                    dash(),
                    dash(),
                    dash(),
                ]);
                output::note(&format!("node {}: {error:#}", node.id.0));
            }
        }
    }
    print(cli, &table, || json!(documents))?;
    let health = admin::health(&cli.endpoints, cli.timeout()).await;
    for problem in &health.problems {
        output::note(problem);
    }
    Ok(if health.problems.is_empty() { Exit::Done } else { Exit::Failed })
}

async fn wait(cli: &Cli) -> Result<Exit> {
    let limit = cli.patience.unwrap_or(WAIT_LIMIT);
    let end = Instant::now() + limit;
    loop {
        let health = admin::health(&cli.endpoints, Duration::from_secs(2)).await;
        if health.problems.is_empty() {
            let document = json!({"nodes": health.nodes, "ranges": health.ranges});
            let sentence = format!("healthy: {} nodes, {} ranges", health.nodes, health.ranges);
            return say(cli, &sentence, &document);
        }
        if Instant::now() >= end {
            bail!("not healthy after {limit:?}: {}", health.problems.join("; "));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn name_of(map: &ClusterMap, range: &holdfast_model::RangeDescriptor) -> String {
    let found = map.keyspaces.values().find(|k| k.id == range.keyspace);
    found.map_or_else(|| "sys".to_owned(), |keyspace| keyspace.name.clone())
}

async fn ranges(cli: &Cli) -> Result<Exit> {
    let map = admin::map(&cli.endpoints, cli.timeout()).await?;
    let mut table = Table::new(["range", "keyspace", "span", "epoch", "leader", "replicas"]);
    for range in map.ranges.values() {
        let replicas: Vec<String> = range
            .replicas
            .iter()
            .map(|r| {
                let learner = if r.role == ReplicaRole::Learner { " (learner)" } else { "" };
                format!("{}@{}{learner}", r.id, r.node)
            })
            .collect();
        table.row(vec![
            range.id.0.to_string(),
            name_of(&map, range),
            range.span.to_string(),
            range.epoch.0.to_string(),
            range.leader.map_or_else(|| "-".into(), |n| n.0.to_string()),
            replicas.join(" "),
        ]);
    }
    print(cli, &table, || map_json(&map)["ranges"].clone())
}

fn nodes_json(map: &ClusterMap) -> serde_json::Value {
    map.nodes
        .values()
        .map(|n| {
            json!({
                "id": n.id.0, "client": n.client_address, "peer": n.peer_address,
                "http": n.http_address, "zone": n.zone, "weight_milli": n.weight_milli,
            })
        })
        .collect()
}

/// A duration as `--history` takes it, in the largest unit that is exact.
fn duration_text(duration: Duration) -> String {
    let (seconds, ms) = (duration.as_secs(), duration.as_millis());
    match seconds {
        _ if ms % 1_000 != 0 => format!("{ms}ms"),
        s if s % 86_400 == 0 => format!("{}d", s / 86_400),
        s if s % 3_600 == 0 => format!("{}h", s / 3_600),
        s if s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

fn history_text(history: History) -> String {
    match history {
        History::Latest => "latest".into(),
        History::Manual => "manual".into(),
        History::Duration(d) => duration_text(d),
        History::Revisions(n) => n.to_string(),
    }
}

fn compaction_text(compaction: Compaction) -> &'static str {
    match compaction {
        Compaction::Leveled => "leveled",
        Compaction::Tiered => "tiered",
    }
}

fn kind_text(kind: KeyspaceKind) -> &'static str {
    match kind {
        KeyspaceKind::Native => "native",
        KeyspaceKind::Etcd => "etcd",
    }
}

fn keyspace_json(keyspace: &KeyspaceDescriptor) -> serde_json::Value {
    json!({
        "id": keyspace.id.0, "name": keyspace.name, "ranges": keyspace.ranges,
        "replication_factor": keyspace.replication_factor,
        "history": history_text(keyspace.history),
        "compaction": compaction_text(keyspace.compaction), "kind": kind_text(keyspace.kind),
    })
}

fn map_json(map: &ClusterMap) -> serde_json::Value {
    let ranges: serde_json::Value = map
        .ranges
        .values()
        .map(|r| {
            let replicas: serde_json::Value = r
                .replicas
                .iter()
                .map(|c| {
                    let voter = c.role == ReplicaRole::Voter;
                    json!({"id": c.id.0, "node": c.node.0, "voter": voter})
                })
                .collect();
            json!({
                "id": r.id.0, "keyspace": name_of(map, r), "epoch": r.epoch.0,
                "start": format!("{:016x}", r.span.start), "end": format!("{:016x}", r.span.end),
                "leader": r.leader.map(|n| n.0), "replicas": replicas,
            })
        })
        .collect();
    let keyspaces: serde_json::Value = map.keyspaces.values().map(keyspace_json).collect();
    json!({
        "cluster": map.cluster.to_string(), "revision": map.revision.0,
        "nodes": nodes_json(map), "keyspaces": keyspaces, "ranges": ranges,
    })
}

async fn transfer(cli: &Cli, range: u64, to: u64) -> Result<Exit> {
    let map = admin::map(&cli.endpoints, cli.timeout()).await?;
    if !map.ranges.contains_key(&RangeId(range)) {
        return Err(refused(format!("there is no range {range}")));
    }
    let mut client = any(cli, cli.timeout()).await?;
    let request = v1::TransferLeaderRequest { range_id: range, to_node_id: to };
    let answer = client
        .transfer_leader(admin::within(cli.timeout(), request))
        .await
        .map_err(|s| failed(&s))?
        .into_inner();
    let leader = answer.leader_node_id;
    let document = json!({"range": range, "leader": leader});
    say(cli, &format!("range {range} is led by node {leader}"), &document)
}

impl From<args::Compaction> for v1::Compaction {
    fn from(compaction: args::Compaction) -> Self {
        match compaction {
            args::Compaction::Leveled => Self::Leveled,
            args::Compaction::Tiered => Self::Tiered,
        }
    }
}

impl From<args::KeyspaceKind> for v1::KeyspaceKind {
    fn from(kind: args::KeyspaceKind) -> Self {
        match kind {
            args::KeyspaceKind::Native => Self::Native,
            args::KeyspaceKind::Etcd => Self::Etcd,
        }
    }
}

/// Runs `holdfast keyspace …`.
///
/// # Errors
/// What the cluster answered.
pub async fn keyspace(cli: &Cli, command: &Keyspace) -> Result<Exit> {
    match command {
        Keyspace::Create { name, ranges, replication_factor, history, compaction, kind } => {
            let mut client = any(cli, CREATE_LIMIT).await?;
            let request = v1::CreateKeyspaceRequest {
                name: name.clone(),
                ranges: *ranges,
                replication_factor: *replication_factor,
                history: history.map(Into::into),
                compaction: v1::Compaction::from(*compaction).into(),
                kind: v1::KeyspaceKind::from(*kind).into(),
            };
            client
                .create_keyspace(admin::within(CREATE_LIMIT, request))
                .await
                .map_err(|s| failed(&s))?;
            say(
                cli,
                &format!("keyspace {name} created"),
                &json!({"keyspace": name, "created": true}),
            )
        }
        Keyspace::List => {
            let map = admin::map(&cli.endpoints, cli.timeout()).await?;
            let mut table = Table::new(["keyspace", "id", "ranges", "replicas", "history"]);
            for keyspace in map.keyspaces.values() {
                table.row(vec![
                    keyspace.name.clone(),
                    keyspace.id.0.to_string(),
                    keyspace.ranges.to_string(),
                    keyspace.replication_factor.to_string(),
                    history_text(keyspace.history),
                ]);
            }
            print(cli, &table, || map.keyspaces.values().map(keyspace_json).collect())
        }
        Keyspace::Alter { name, history } => {
            let mut client = any(cli, cli.timeout()).await?;
            let request =
                v1::AlterKeyspaceRequest { name: name.clone(), history: Some((*history).into()) };
            client
                .alter_keyspace(admin::within(cli.timeout(), request))
                .await
                .map_err(|s| failed(&s))?;
            say(
                cli,
                &format!("keyspace {name} altered"),
                &json!({"keyspace": name, "altered": true}),
            )
        }
        Keyspace::Drop { name, .. } => {
            let mut client = any(cli, CREATE_LIMIT).await?;
            let request = v1::DropKeyspaceRequest { name: name.clone() };
            client
                .drop_keyspace(admin::within(CREATE_LIMIT, request))
                .await
                .map_err(|s| failed(&s))?;
            say(
                cli,
                &format!("keyspace {name} dropped"),
                &json!({"keyspace": name, "dropped": true}),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["1500ms", "90s", "10m", "3h", "2d"] {
            let duration = crate::args::duration(text).expect(text);
            assert_eq!(duration_text(duration), text);
        }
    }

    #[test]
    fn an_unknown_outcome_is_not_reported_as_a_failure() {
        let info = v1::ErrorInfo { outcome_unknown: true, ..Default::default() };
        let error = failed(&holdfast_wire::status_of(info));
        assert!(error.downcast_ref::<Error>().is_some_and(Error::is_unknown), "{error:?}");
    }
}
