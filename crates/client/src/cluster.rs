//! The cluster: founding, map, status, keyspaces, leadership.

use std::time::Duration;

use holdfast_model::{
    ClusterId, ClusterMap, Compaction, History, KeyspaceDescriptor, KeyspaceKind, NodeId, RangeId,
};
use holdfast_runtime::sleep;
use holdfast_wire::v1::{self, ErrorCode};
use prost::Message;

use crate::call::{Answer, Kind, Limit, Plan, Prefer, Target};
use crate::client::Client;
use crate::error::{Error, error_of_info, error_of_status};
use crate::method::{self, Method};
use crate::transport::{Connection, Failure};

/// Calls that change the cluster get at least this long.
const CHANGE_PATIENCE: Duration = Duration::from_secs(30);
/// Pause before a node that could not be reached is tried again.
const NODE_PAUSE: Duration = Duration::from_millis(100);

/// What a keyspace is created with; the default is that of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyspaceOptions {
    /// A power of two, 1 … 256; 0 = 8, or 1 where the kind is etcd, which takes nothing else.
    pub ranges: u32,
    /// 0 = the cluster's.
    pub replication_factor: u32,
    /// How long old versions stay; absent = 10 minutes, or manual where the kind is etcd.
    pub history: Option<History>,
    /// How tables are merged: tiered for data that is written much and read little. It cannot be
    /// changed later.
    pub compaction: Compaction,
    /// What it is to its clients. It cannot be changed later.
    pub kind: KeyspaceKind,
}

impl Client {
    /// Calls about the cluster itself.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// for range in client.cluster().map().await?.ranges.values() {
    ///     println!("range {} is led by {:?}", range.id, range.leader);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn cluster(&self) -> Cluster {
        Cluster { client: self.clone() }
    }
}

/// Calls about the cluster itself. Made by [`Client::cluster`].
#[derive(Clone, Debug)]
pub struct Cluster {
    client: Client,
}

/// Answer of [`Cluster::init`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founded {
    /// The cluster's id.
    pub cluster: ClusterId,
    /// It had been founded before, with the same nodes; nothing was changed.
    pub already: bool,
}

/// One replica of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Its range.
    pub range: RangeId,
    /// Name of the range's keyspace.
    pub keyspace: String,
    /// leader, follower, candidate, learner, starting or stopped.
    pub role: String,
    /// Raft term.
    pub term: u64,
    /// The leader it knows.
    pub leader: Option<NodeId>,
    /// Index of its last log entry.
    pub last_log_index: u64,
    /// Index up to which it knows the log to be committed.
    pub committed_index: u64,
    /// Index up to which it has applied.
    pub applied_index: u64,
    /// Index up to which what it applied is durable in its engine.
    pub durable_index: u64,
    /// Revision of the range as applied.
    pub revision: u64,
    /// Range clock, milliseconds.
    pub clock_ms: u64,
    /// Bytes on disk.
    pub data_bytes: u64,
    /// Leader only: every voter is connected and close behind.
    pub fully_replicated: bool,
    /// Why it is out of service; empty: it is in order.
    pub failure: String,
}

/// One node, as it sees itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its id.
    pub node: NodeId,
    /// Its cluster; zero before founding.
    pub cluster: ClusterId,
    /// Version of the program.
    pub version: String,
    /// starting, empty (not founded), serving or draining.
    pub state: String,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
    /// How long it has run.
    pub uptime: Duration,
    /// Nodes it reaches now.
    pub connected: Vec<NodeId>,
    /// Whether it refuses writes for want of disk space.
    pub disk_full: bool,
    /// On-disk format version.
    pub format_version: u32,
}

impl Cluster {
    /// Founds a cluster of the empty nodes at `peer_addresses` (empty: the asked one alone), by
    /// asking the client's first endpoint. `replication_factor` 0 = 3, or fewer with fewer nodes.
    ///
    /// # Errors
    /// [`Error::FailedPrecondition`]: one of them belongs to a cluster. [`Error::Unknown`]: ask
    /// again; founding with the same nodes is answered with `already`.
    pub async fn init(
        &self,
        peer_addresses: &[String],
        replication_factor: u32,
    ) -> Result<Founded, Error> {
        let peer_addresses = peer_addresses.to_vec();
        let request = v1::InitRequest { peer_addresses, replication_factor };
        let seed = self.client.inner.cache.pool.first_seed().cloned();
        let seed = seed.ok_or(Error::Closed)?;
        let kind = Kind::Recognised;
        let answer = self.ask(&seed, &method::CLUSTER_INIT, &request, kind).await?;
        let cluster = ClusterId::from_bytes(&answer.cluster_id)
            .ok_or_else(|| Error::Malformed("cluster id is not 16 bytes".to_owned()))?;
        Ok(Founded { cluster, already: answer.already })
    }

    /// The map, freshly asked for.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: no node answered. [`Error::FailedPrecondition`]: not founded.
    pub async fn map(&self) -> Result<ClusterMap, Error> {
        let cache = &self.client.inner.cache;
        cache.refresh(cache.version(), self.client.limit().deadline).await?;
        Ok(self.client.map())
    }

    /// Status of the node whose client port is `address`.
    ///
    /// # Errors
    /// [`Error::Deadline`]: it did not answer.
    pub async fn status_at(&self, address: &str) -> Result<NodeStatus, Error> {
        let connection = self.client.inner.cache.pool.get(address);
        let request = v1::StatusRequest {};
        let kind = Kind::Read;
        let answer = self.ask(&connection, &method::CLUSTER_STATUS, &request, kind).await?;
        Ok(answer.into())
    }

    /// Status of every node of the map; asked in parallel, one result each.
    ///
    /// # Errors
    /// As [`Cluster::map`].
    pub async fn statuses(&self) -> Result<Vec<(NodeId, Result<NodeStatus, Error>)>, Error> {
        let map = self.map().await?;
        let ask = |(id, address): (NodeId, String)| async move {
            let status = self.status_at(&address).await;
            (id, status)
        };
        let nodes = map.nodes.values().map(|node| (node.id, node.client_address.clone()));
        Ok(futures_util::future::join_all(nodes.map(ask)).await)
    }

    /// Hands the leadership of `range` to the node `to`, or to any up-to-date one; answers who
    /// leads then.
    ///
    /// # Errors
    /// [`Error::FailedPrecondition`]: that node has no up-to-date replica.
    pub async fn transfer_leader(
        &self,
        range: RangeId,
        to: Option<NodeId>,
    ) -> Result<NodeId, Error> {
        let request = v1::TransferLeaderRequest {
            range_id: range.0,
            to_node_id: to.map_or(0, |node| node.0),
        };
        let plan = Plan {
            target: Target::Range(range),
            prefer: Prefer::Leader,
            kind: Kind::Recognised,
            limit: self.change_limit(),
            waits: true,
        };
        let answer = self.client.inner.call(&method::CLUSTER_TRANSFER_LEADER, &request, plan).await;
        Ok(NodeId(answer.map_err(|ended| ended.error)?.leader_node_id))
    }

    /// Creates a keyspace and answers when all its ranges are served. `ranges`: a power of two, 1
    /// … 256, 0 = 8; `replication_factor` 0 = the cluster's; `history` absent = 10 minutes.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::Invalid`]; [`Error::Unknown`]: look at the map.
    pub async fn create_keyspace(
        &self,
        name: &str,
        ranges: u32,
        replication_factor: u32,
        history: Option<History>,
    ) -> Result<KeyspaceDescriptor, Error> {
        let options =
            KeyspaceOptions { ranges, replication_factor, history, ..KeyspaceOptions::default() };
        self.create_keyspace_with(name, options).await
    }

    /// Creates a keyspace with these settings and answers when all its ranges are served.
    ///
    /// # Errors
    /// As [`Cluster::create_keyspace`].
    pub async fn create_keyspace_with(
        &self,
        name: &str,
        options: KeyspaceOptions,
    ) -> Result<KeyspaceDescriptor, Error> {
        let request = v1::CreateKeyspaceRequest {
            name: name.to_owned(),
            ranges: options.ranges,
            replication_factor: options.replication_factor,
            history: options.history.map(Into::into),
            compaction: v1::Compaction::from(options.compaction).into(),
            kind: v1::KeyspaceKind::from(options.kind).into(),
        };
        let answer = self.change(&method::KEYSPACE_CREATE, &request).await?;
        descriptor(answer.keyspace)
    }

    /// Changes how long a keyspace keeps old versions.
    ///
    /// # Errors
    /// [`Error::UnknownKeyspace`]; [`Error::Unknown`]: it may have been changed.
    pub async fn alter_keyspace(
        &self,
        name: &str,
        history: History,
    ) -> Result<KeyspaceDescriptor, Error> {
        let history = Some(history.into());
        let request = v1::AlterKeyspaceRequest { name: name.to_owned(), history };
        let answer = self.change(&method::KEYSPACE_ALTER, &request).await?;
        descriptor(answer.keyspace)
    }

    /// Drops a keyspace and everything in it.
    ///
    /// # Errors
    /// [`Error::UnknownKeyspace`]; [`Error::Unknown`]: it may have been dropped.
    pub async fn drop_keyspace(&self, name: &str) -> Result<(), Error> {
        let request = v1::DropKeyspaceRequest { name: name.to_owned() };
        self.change(&method::KEYSPACE_DROP, &request).await.map(|_| ())
    }

    /// The keyspaces, by name.
    ///
    /// # Errors
    /// As [`Cluster::map`].
    pub async fn keyspaces(&self) -> Result<Vec<KeyspaceDescriptor>, Error> {
        Ok(self.map().await?.keyspaces.into_values().collect())
    }

    fn change_limit(&self) -> Limit {
        Limit::after(self.client.deadline.max(CHANGE_PATIENCE))
    }

    async fn change<Q: Message, S: Answer>(
        &self,
        method: &Method<Q, S>,
        request: &Q,
    ) -> Result<S, Error> {
        let plan = Plan {
            target: Target::Anyone,
            prefer: Prefer::Leader,
            kind: Kind::Once,
            limit: self.change_limit(),
            waits: true,
        };
        let answer = self.client.inner.call(method, request, plan).await;
        let answer = answer.map_err(|ended| ended.error)?;
        // What was just made is wanted next; if the map cannot be had now, that call gets it.
        let _ = self.map().await;
        Ok(answer)
    }

    /// Asks one node, again while it cannot be reached or is not ready.
    async fn ask<Q: Message, S: Answer>(
        &self,
        node: &Connection,
        method: &Method<Q, S>,
        request: &Q,
        kind: Kind,
    ) -> Result<S, Error> {
        let limit = if kind == Kind::Read { self.client.limit() } else { self.change_limit() };
        loop {
            let failure = match node.unary(method.path, request, limit.deadline.remaining()).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let (error, may_retry) = judge(&failure, kind);
            if !may_retry || limit.deadline.remaining() <= NODE_PAUSE {
                return Err(match error {
                    Error::Unavailable(last) => Error::Deadline { deadline: limit.total, last },
                    error => error,
                });
            }
            sleep(NODE_PAUSE).await;
        }
    }
}

/// What a failed call to one node means, and whether it may be made again.
fn judge(failure: &Failure, kind: Kind) -> (Error, bool) {
    match failure {
        Failure::NotSent(why) => (Error::Unavailable(why.clone()), true),
        Failure::Broken(_) | Failure::TimedOut if kind != Kind::Read => {
            (Error::Unknown(failure.to_string()), false)
        }
        Failure::Broken(_) | Failure::TimedOut => (Error::Unavailable(failure.to_string()), true),
        Failure::Status(status) => match holdfast_wire::error_info(status) {
            Some(info) => (error_of_info(&info), info.code() == ErrorCode::NotReady),
            None => (error_of_status(status), false),
        },
    }
}

fn descriptor(keyspace: Option<v1::Keyspace>) -> Result<KeyspaceDescriptor, Error> {
    let keyspace = keyspace.ok_or_else(|| Error::Malformed("no keyspace".to_owned()))?;
    KeyspaceDescriptor::try_from(keyspace).map_err(|e| Error::Malformed(e.to_string()))
}

impl From<v1::StatusResponse> for NodeStatus {
    fn from(status: v1::StatusResponse) -> Self {
        Self {
            node: NodeId(status.node_id),
            cluster: ClusterId::from_bytes(&status.cluster_id).unwrap_or_default(),
            version: status.version,
            state: status.state,
            replicas: status.replicas.into_iter().map(ReplicaStatus::from).collect(),
            uptime: Duration::from_millis(status.uptime_ms),
            connected: status.connected_node_ids.into_iter().map(NodeId).collect(),
            disk_full: status.disk_full,
            format_version: status.format_version,
        }
    }
}

impl From<v1::ReplicaStatus> for ReplicaStatus {
    fn from(replica: v1::ReplicaStatus) -> Self {
        Self {
            range: RangeId(replica.range_id),
            keyspace: replica.keyspace,
            role: replica.role,
            term: replica.term,
            leader: (replica.leader_node_id != 0).then_some(NodeId(replica.leader_node_id)),
            last_log_index: replica.last_log_index,
            committed_index: replica.committed_index,
            applied_index: replica.applied_index,
            durable_index: replica.durable_index,
            revision: replica.revision,
            clock_ms: replica.clock_ms,
            data_bytes: replica.data_bytes,
            fully_replicated: replica.fully_replicated,
            failure: replica.failure,
        }
    }
}
