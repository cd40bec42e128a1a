//! Clusters of real processes.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use holdfast_client::Client;
use holdfast_wire::v1;

use crate::address::Addresses;
use crate::binaries::scratch;
use crate::cli::Cli;
use crate::guardian;
use crate::link::{Callers, Links};
use crate::node::Node;
use crate::rpc::Rpc;
use crate::wait::eventually;

/// How long a cluster may take until every range is led and fully replicated.
const HEALTHY_LIMIT: Duration = Duration::from_secs(60);
/// How long a node, which may be paused, is given to tell its status.
const STATUS_LIMIT: Duration = Duration::from_secs(3);
/// How long a process may take until it answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// What a cluster shall be like.
#[derive(Clone, Debug, Default)]
pub struct Options {
    nodes: usize,
    settings: Vec<String>,
    is_single: bool,
    is_left_empty: bool,
    is_linked: bool,
    small_disk: Option<(usize, u64)>,
}

impl Options {
    /// So many nodes, founded together.
    pub fn nodes(nodes: usize) -> Self {
        Self { nodes, ..Self::default() }
    }

    /// One node, started with `--single`.
    pub fn single() -> Self {
        Self { nodes: 1, is_single: true, ..Self::default() }
    }

    /// Nodes are configured but neither started nor founded.
    #[must_use]
    pub fn left_empty(mut self) -> Self {
        self.is_left_empty = true;
        self
    }

    /// Nodes reach each other through a network that can be told to be a bad one.
    #[must_use]
    pub fn linked(mut self) -> Self {
        self.is_linked = true;
        self
    }

    /// Node `number` keeps its data on a disk of so many bytes of its own. That takes the right
    /// to mount one; without it the node has no such disk ([`Node::small_disk`]).
    #[must_use]
    pub fn small_disk(mut self, number: usize, bytes: u64) -> Self {
        self.small_disk = Some((number, bytes));
        self
    }

    /// A configuration value for every node, `section.key=value`.
    #[must_use]
    pub fn set(mut self, setting: impl Into<String>) -> Self {
        self.settings.push(setting.into());
        self
    }
}

/// A cluster of real processes, numbered from 1. Dropping it kills them and deletes their data.
#[derive(Debug)]
pub struct Cluster {
    root: PathBuf,
    nodes: Vec<Node>,
    links: Option<Links>,
}

impl Cluster {
    /// Starts nodes, founds the cluster and waits until it is healthy, as `options` say.
    pub(crate) async fn start(options: &Options) -> Result<Self> {
        let mut cluster = Self::prepare(options)?;
        if options.is_left_empty {
            return Ok(cluster);
        }
        let started = cluster.start_and_found(options).await;
        if let Err(error) = started {
            cluster.print_logs();
            return Err(error);
        }
        Ok(cluster)
    }

    fn prepare(options: &Options) -> Result<Self> {
        let addresses = Addresses::next();
        let run = scratch().join(format!("processes-{}", std::process::id()));
        let root = run.join(addresses.number.to_string());
        fs::create_dir_all(&root)?;
        guardian::watch_folder(&run);
        let mut nodes = Vec::new();
        let callers = Callers::default();
        let peers: Vec<String> = (1..=options.nodes).map(|i| addresses.peer(i)).collect();
        for i in 1..=options.nodes {
            let ports = [addresses.client(i), addresses.peer(i), addresses.http(i)];
            let mut node = Node::new(root.join(format!("n{i}")), ports);
            node.is_caller(callers.clone(), i);
            if options.is_linked {
                node.listens_behind(addresses.behind(i));
            }
            let others = peers.iter().filter(|peer| **peer != node.peer).cloned();
            node.write_config(&others.collect::<Vec<_>>())?;
            let sets = options.settings.iter().flat_map(|s| ["--set".to_owned(), s.clone()]);
            let single = options.is_single.then(|| "--single".to_owned());
            node.set_arguments(sets.chain(single).collect());
            if let Some((_, bytes)) = options.small_disk.filter(|(number, _)| *number == i) {
                node.mount_small_disk(bytes)?;
            }
            nodes.push(node);
        }
        let links = options.is_linked.then(|| Links::new(callers));
        Ok(Self { root, nodes, links })
    }

    async fn start_and_found(&mut self, options: &Options) -> Result<()> {
        if let Some(links) = &self.links {
            for (to, node) in (1..).zip(&self.nodes) {
                links.open(to, &node.peer, &node.peer_inside).await?;
            }
        }
        for node in &mut self.nodes {
            node.start()?;
        }
        for i in 1..=self.nodes.len() {
            self.answers(i).await?;
        }
        if !options.is_single {
            self.found().await?;
        }
        self.healthy().await
    }

    /// Founds the cluster by way of node 1.
    ///
    /// # Errors
    /// What node 1 said.
    pub async fn found(&self) -> Result<v1::InitResponse> {
        let request = v1::InitRequest {
            peer_addresses: self.nodes.iter().map(|node| node.peer.clone()).collect(),
            replication_factor: 0,
        };
        let mut request = tonic::Request::new(request);
        request.set_timeout(HEALTHY_LIMIT);
        let rpc = Rpc::connect(&self.node(1).client).await?;
        Ok(rpc.cluster().init(request).await.context("founding")?.into_inner())
    }

    /// The network between the nodes.
    ///
    /// # Panics
    /// If the cluster was not made with [`Options::linked`].
    pub fn links(&self) -> &Links {
        self.links.as_ref().expect("the cluster was made with links")
    }

    /// How many nodes there are.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// Node `i`, 1 ….
    ///
    /// # Panics
    /// If there is none.
    pub fn node(&self, i: usize) -> &Node {
        self.nodes.get(i.wrapping_sub(1)).expect("nodes are numbered from 1")
    }

    /// Node `i`, 1 ….
    ///
    /// # Panics
    /// If there is none.
    pub fn node_mut(&mut self, i: usize) -> &mut Node {
        self.nodes.get_mut(i.wrapping_sub(1)).expect("nodes are numbered from 1")
    }

    /// Client addresses of all nodes.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }

    /// The command line, aimed at all nodes.
    pub fn cli(&self) -> Cli {
        Cli::new(&self.endpoints())
    }

    /// The command line, aimed at node `i`.
    pub fn cli_at(&self, i: usize) -> Cli {
        Cli::new(std::slice::from_ref(&self.node(i).client))
    }

    /// A client of the cluster.
    ///
    /// # Errors
    /// If the cluster cannot be reached.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::connect(self.endpoints()).await?)
    }

    /// A connection to node `i` that carries messages as they are.
    ///
    /// # Errors
    /// If it does not listen.
    pub async fn rpc(&self, i: usize) -> Result<Rpc> {
        Rpc::connect(&self.node(i).client).await
    }

    /// Status of node `i`.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn status(&self, i: usize) -> Result<v1::StatusResponse> {
        let asked = async {
            let mut cluster = self.rpc(i).await?.cluster();
            Ok(cluster.status(v1::StatusRequest {}).await?.into_inner())
        };
        tokio::time::timeout(STATUS_LIMIT, asked).await.context("no status in time")?
    }

    /// Waits until node `i` answers.
    ///
    /// # Errors
    /// If it does not within half a minute, or has ended.
    pub async fn answers(&mut self, i: usize) -> Result<v1::StatusResponse> {
        let end = Instant::now() + ANSWER_LIMIT;
        loop {
            let error = match self.status(i).await {
                Ok(status) => return Ok(status),
                Err(error) => error,
            };
            ensure!(self.node_mut(i).is_running(), "node {i} has ended");
            if Instant::now() >= end {
                return Err(error).with_context(|| format!("node {i} does not answer"));
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Which node, 1 …, has node id `id`.
    ///
    /// # Errors
    /// If no node that answers has it.
    pub async fn number_of(&self, id: u64) -> Result<usize> {
        for i in 1..=self.size() {
            if self.status(i).await.is_ok_and(|status| status.node_id == id) {
                return Ok(i);
            }
        }
        bail!("no node answers that has the id {id}")
    }

    /// The node that says it leads the range of `key` in the keyspace of `client`, and the range.
    ///
    /// # Errors
    /// If nobody leads it within half a minute.
    pub async fn leader_of(&self, client: &Client, key: &str) -> Result<(usize, u64)> {
        let map = client.map();
        let range =
            map.lookup(client.keyspace_name(), holdfast_model::position(key.as_bytes()))?.id.0;
        let leader = eventually(ANSWER_LIMIT, async || self.leader(range).await).await?;
        Ok((leader, range))
    }

    /// The node that says it leads range `range`, in the newest term.
    ///
    /// # Errors
    /// If none does now.
    pub async fn leader(&self, range: u64) -> Result<usize> {
        let mut newest = None;
        for i in 1..=self.size() {
            let Ok(status) = self.status(i).await else { continue };
            let mut led = status.replicas.iter().filter(|r| r.role == "leader");
            if let Some(replica) = led.find(|r| r.range_id == range) {
                newest = newest.max(Some((replica.term, i)));
            }
        }
        newest.map(|(_, i)| i).with_context(|| format!("range {range} has no leader"))
    }

    /// Waits until every node serves and every range is led and fully replicated.
    ///
    /// # Errors
    /// What was wrong after a minute.
    pub async fn healthy(&self) -> Result<()> {
        self.healthy_but_for(None).await
    }

    /// As [`Cluster::healthy`], where node `lost` has lost its data: it need not serve, and ranges
    /// need not be replicated there.
    ///
    /// # Errors
    /// What was wrong after a minute.
    pub async fn healthy_but_for(&self, lost: Option<usize>) -> Result<()> {
        eventually(HEALTHY_LIMIT, async || self.is_healthy(lost).await).await
    }

    async fn is_healthy(&self, lost: Option<usize>) -> Result<()> {
        let mut led = std::collections::BTreeMap::new();
        for i in 1..=self.size() {
            let status = match self.status(i).await {
                // It may still lead ranges whose data it has not lost.
                Err(_) if Some(i) == lost => continue,
                status => status?,
            };
            let is_serving = status.state == "serving" || Some(i) == lost;
            ensure!(is_serving, "node {i} is {}", status.state);
            for replica in status.replicas.into_iter().filter(|r| r.role == "leader") {
                led.insert(replica.range_id, replica.fully_replicated || lost.is_some());
            }
        }
        let whole = if lost == Some(1) { 2 } else { 1 };
        let map = self.rpc(whole).await?.cluster().map(v1::MapRequest {}).await?.into_inner();
        ensure!(map.ranges.len() > 1, "the map names {} ranges", map.ranges.len());
        for range in map.ranges {
            match led.get(&range.id) {
                None => bail!("range {} has no leader", range.id),
                Some(false) => bail!("range {} is not fully replicated", range.id),
                Some(true) => {}
            }
        }
        Ok(())
    }

    /// Keeps what the nodes have said in the run of `seed`; where.
    pub(crate) fn keep_logs(&self, seed: u64) -> Result<Vec<String>> {
        let logs = (1..).zip(&self.nodes).map(|(i, node)| {
            let name = format!("log-{}-{seed}-n{i}.txt", std::process::id());
            let path = crate::keep(&name, node.log().as_bytes())?;
            Ok(format!("    log of node {i}: {}", path.display()))
        });
        logs.collect()
    }

    /// Prints the end of every node's log.
    pub(crate) fn print_logs(&self) {
        for (i, node) in self.nodes.iter().enumerate() {
            eprintln!(
                "--- end of the log of node {} ({})\n{}",
                i + 1,
                node.client,
                node.log_tail()
            );
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        self.nodes.clear();
        if std::env::var_os("HOLDFAST_TESTS_KEEP").is_some() {
            eprintln!("kept: {}", self.root.display());
        } else {
            // What is left is deleted with the whole run's folder.
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}
