//! Founding: one explicit act, repeatable, that no wiped node can do a second time.
//!
//! The founder asks every named node who it is, decides (`FOUNDING` on its disk), tells the
//! others, takes its own part, and finally writes range 0. A crash at any point is mended by the
//! next start or by repeating the call: every step is the same again or refuses.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use holdfast_model::{ClusterId, ClusterMap, NodeId, RangeId};
use holdfast_runtime::Deadline;
use holdfast_wire::peer::v1::{FoundRequest, FoundResponse, HandshakeResponse};
use holdfast_wire::system::v1::{
    Cluster, FoundingPlan, KeyspaceRecord, NodeRecord, RangeRecord, ReplicaDescriptor,
};
use holdfast_wire::v1;
use prost::Message;

use super::System;
use super::layout::{self, CLUSTER};
use super::plan::{self, REPLICATION_FACTOR_DEFAULT};
use super::store::put;
use crate::api::ApiError;
use crate::sealed::{self, Kind};

use bytes::Bytes;
use holdfast_kv::command::Condition;

/// Most nodes a cluster can be founded with; more join later.
const FOUNDING_NODES_MAX: usize = 64;
/// Range 0 has to be led within this time, or founding goes on in the background.
const FOUNDING_TIMEOUT: Duration = Duration::from_secs(60);
/// Wait between attempts to write range 0.
const RETRY: Duration = Duration::from_millis(100);

fn refused(text: impl Into<String>) -> ApiError {
    ApiError::FailedPrecondition(text.into())
}

impl System {
    /// Founds a cluster of the nodes at `addresses` (empty: this one alone), or repeats that.
    pub(super) async fn found(
        self: &Arc<Self>,
        request: v1::InitRequest,
        deadline: Deadline,
    ) -> Result<v1::InitResponse, ApiError> {
        // One founding at a time: two would decide twice.
        let Ok(guard) = self.founding.clone().try_lock_owned() else {
            return Err(refused("a founding is under way on this node"));
        };
        let addresses = self.addresses(&request)?;
        let begun: Option<FoundingPlan> = self.load_plan().await?;
        if let Some(answer) = self.already(&addresses, begun.is_some())? {
            return Ok(answer);
        }
        let plan = match begun {
            Some(plan) if same_set(&plan.peer_addresses, &addresses) => plan,
            Some(plan) => {
                return Err(refused(format!(
                    "founding a cluster with {} was begun here; repeat it with the same addresses",
                    plan.peer_addresses.join(", ")
                )));
            }
            None => self.decide(addresses, request.replication_factor).await?,
        };
        let answer = v1::InitResponse {
            cluster_id: plan.cluster_id.clone(),
            nodes: plan.nodes.clone(),
            already: false,
        };
        // What is decided is carried out, also when the caller has gone.
        let system = self.clone();
        let work = holdfast_runtime::spawn(async move {
            let _guard = guard;
            system.carry_out(&plan, Deadline::after(FOUNDING_TIMEOUT)).await
        });
        let unfinished = |reason: &str| ApiError::OutcomeUnknown {
            reason: format!("{reason}; founding goes on, repeat the call to see its end"),
            deadline: true,
        };
        let done = deadline.limit(work).await.map_err(|_| unfinished("out of time"))?;
        done.map_err(|_| unfinished("the node stopped"))??;
        Ok(answer)
    }

    /// Founds a cluster of this node alone.
    ///
    /// # Errors
    /// As `Cluster.Init`.
    pub async fn found_alone(self: &Arc<Self>, deadline: Deadline) -> Result<(), ApiError> {
        self.found(v1::InitRequest::default(), deadline).await.map(drop)
    }

    fn addresses(&self, request: &v1::InitRequest) -> Result<Vec<String>, ApiError> {
        let own = &self.description.peer_address;
        let mut addresses = request.peer_addresses.clone();
        if addresses.is_empty() {
            addresses.push(own.clone());
        }
        if addresses.len() > FOUNDING_NODES_MAX {
            let given = addresses.len();
            return Err(ApiError::too_large("founding nodes", FOUNDING_NODES_MAX, given));
        }
        let mut sorted = addresses.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != addresses.len() {
            return Err(ApiError::Invalid("a peer address is named twice".into()));
        }
        Ok(addresses)
    }

    /// The answer of a node that belongs to a cluster, unless it still has to finish founding it.
    fn already(
        &self,
        addresses: &[String],
        is_begun: bool,
    ) -> Result<Option<v1::InitResponse>, ApiError> {
        let Some((cluster, _)) = self.identity.membership() else { return Ok(None) };
        if is_begun {
            return Ok(None);
        }
        let map = self.map.load();
        let known: Vec<_> = map.nodes.values().map(|n| n.peer_address.clone()).collect();
        if !same_set(&known, addresses) {
            return Err(refused(format!(
                "this node belongs to cluster {cluster}, which has the nodes {}",
                known.join(", ")
            )));
        }
        Ok(Some(v1::InitResponse {
            cluster_id: cluster.to_bytes().to_vec().into(),
            nodes: map.nodes.values().map(Into::into).collect(),
            already: true,
        }))
    }

    /// Asks everybody who they are; if all are empty, decides and remembers the decision.
    async fn decide(
        &self,
        addresses: Vec<String>,
        replication_factor: u32,
    ) -> Result<FoundingPlan, ApiError> {
        let probes = addresses.iter().map(|address| self.transport.probe(address));
        let answers = try_join_all(probes).await.map_err(ApiError::NotReady)?;
        let own_store = self.identity.store().to_bytes();
        if !answers.iter().any(|a| a.store_id == own_store.as_slice()) {
            let own = &self.description.peer_address;
            return Err(refused(format!("the asked node {own} is not among the named ones")));
        }
        check_empty(&addresses, &answers)?;
        self.refuse_second_cluster(None).await?;
        let nodes: Vec<v1::Node> = (1..)
            .zip(&answers)
            .map(|(id, answer)| v1::Node { id, ..answer.node.clone().unwrap_or_default() })
            .collect();
        let factor =
            if replication_factor == 0 { REPLICATION_FACTOR_DEFAULT } else { replication_factor };
        let (beginning, _) = plan::beginning(&nodes, factor);
        let plan = FoundingPlan {
            cluster_id: ClusterId(self.entropy.u128()).to_bytes().to_vec().into(),
            nodes,
            store_ids: answers.into_iter().map(|a| a.store_id).collect(),
            peer_addresses: addresses,
            keyspaces: beginning.keyspaces,
            ranges: beginning.ranges,
            replication_factor: factor,
        };
        let (disk, dir, stored) = (self.disk.clone(), self.data_dir.clone(), plan.clone());
        self.blocking(move || sealed::store(&*disk, &dir, Kind::Founding, &stored)).await?;
        Ok(plan)
    }

    /// Everything after the decision; each step can be repeated.
    pub(super) async fn carry_out(
        self: &Arc<Self>,
        plan: &FoundingPlan,
        deadline: Deadline,
    ) -> Result<(), ApiError> {
        let own_store = self.identity.store().to_bytes();
        let others = plan.nodes.iter().zip(&plan.store_ids).zip(&plan.peer_addresses);
        let others = others.filter(|((_, store), _)| **store != own_store.as_slice());
        let told = others.map(|((node, _), address)| self.tell(plan, node.id, address));
        deadline
            .limit(try_join_all(told))
            .await
            .map_err(|_| ApiError::NotReady("not every named node has answered".into()))??;
        let own = plan.nodes.iter().zip(&plan.store_ids);
        let own = own.filter(|(_, store)| **store == own_store.as_slice()).map(|(node, _)| node);
        for node in own {
            self.take_part(request_for(plan, node.id)).await.map_err(refused)?;
        }
        self.write_beginning(plan, deadline).await?;
        let (disk, path) = (self.disk.clone(), self.data_dir.join(Kind::Founding.file_name()));
        self.blocking(move || {
            disk.remove_file(&path)
                .and_then(|()| path.parent().map_or(Ok(()), |dir| disk.sync_dir(dir)))
        })
        .await?;
        tracing::info!(nodes = plan.nodes.len(), "cluster founded");
        Ok(())
    }

    async fn tell(&self, plan: &FoundingPlan, node: u64, address: &str) -> Result<(), ApiError> {
        let mut client = self.transport.dial(address).map_err(ApiError::NotReady)?;
        let answer = client.found(request_for(plan, node)).await;
        let answer = answer
            .map_err(|status| ApiError::NotReady(format!("{address}: {}", status.message())))?
            .into_inner();
        if answer.refused {
            return Err(refused(format!("{address} refuses: {}", answer.reason)));
        }
        Ok(())
    }

    /// Takes this node's part in a founding: identity, map, replicas. Repeatable.
    pub(super) async fn take_part(&self, request: FoundRequest) -> Result<(), String> {
        let cluster = ClusterId::from_bytes(&request.cluster_id)
            .filter(|c| c.0 != 0)
            .ok_or("the cluster id is not 16 bytes")?;
        let map =
            ClusterMap::try_from(request.map.unwrap_or_default()).map_err(|e| e.to_string())?;
        if map.cluster != cluster || !map.nodes.contains_key(&NodeId(request.node_id)) {
            return Err("the map does not fit the identity".into());
        }
        // The map first: a node that belongs to a cluster must know where the others are.
        let (disk, dir) = (self.disk.clone(), self.data_dir.clone());
        let (identity, node) = (self.identity.clone(), NodeId(request.node_id));
        let saved = v1::MapResponse::from(&map);
        let is_new = identity.membership().is_none();
        if is_new {
            self.refuse_second_cluster(Some(cluster)).await.map_err(|e| e.to_string())?;
        }
        self.pool
            .run(move || {
                if is_new {
                    sealed::store(&*disk, &dir, Kind::Map, &saved).map_err(|e| e.to_string())?;
                }
                identity.join(cluster, node).map_err(|e| e.to_string())
            })
            .await
            .map_err(|e| e.to_string())??;
        self.map.publish(map);
        self.connect();
        self.registry.create(request.replicas).await.map_err(|e| e.to_string())
    }

    /// Serves [`FoundRequest`] of another node.
    pub(super) async fn on_found(&self, request: FoundRequest) -> FoundResponse {
        let result = self.take_part(request).await;
        if let Err(problem) = &result {
            tracing::warn!(problem, "founding refused");
        }
        let membership = self.identity.membership();
        FoundResponse {
            cluster_id: membership.map(|(c, _)| c.to_bytes().to_vec().into()).unwrap_or_default(),
            node_id: membership.map_or(0, |(_, n)| n.0),
            store_id: self.identity.store().to_bytes().to_vec().into(),
            refused: result.is_err(),
            reason: result.err().unwrap_or_default(),
        }
    }

    /// Writes what range 0 begins with; the cluster's own record last, since it says that all is
    /// there.
    async fn write_beginning(
        &self,
        plan: &FoundingPlan,
        deadline: Deadline,
    ) -> Result<(), ApiError> {
        loop {
            let written = self.write_beginning_once(plan, deadline).await;
            match written {
                Err(error) if deadline.has_passed() => return Err(error),
                Err(error) => tracing::debug!(%error, "range 0 is not ready yet"),
                Ok(()) => return Ok(()),
            }
            holdfast_runtime::sleep(RETRY).await;
        }
    }

    async fn write_beginning_once(
        &self,
        plan: &FoundingPlan,
        deadline: Deadline,
    ) -> Result<(), ApiError> {
        let store = self.store()?;
        let cluster_key = Bytes::from_static(CLUSTER);
        if store.get(cluster_key.clone(), deadline).await?.is_some() {
            return Ok(());
        }
        let absent = || Some(Condition::IfAbsent(()));
        let mut writes = Vec::new();
        for (node, store_id) in plan.nodes.iter().zip(&plan.store_ids) {
            let record = NodeRecord { node: Some(node.clone()), store_id: store_id.clone() };
            writes.push(put(layout::node_key(node.id), record.encode_to_vec(), absent()));
        }
        for keyspace in &plan.keyspaces {
            let record =
                KeyspaceRecord { keyspace: Some(keyspace.clone()), ..KeyspaceRecord::default() };
            writes.push(put(
                layout::keyspace_key(&keyspace.name),
                record.encode_to_vec(),
                absent(),
            ));
        }
        for range in &plan.ranges {
            let record = RangeRecord { range: Some(range.clone()) };
            writes.push(put(
                layout::range_key(RangeId(range.id)),
                record.encode_to_vec(),
                absent(),
            ));
            for (key, value) in layout::replica_records(range) {
                writes.push(put(key, value.to_vec(), absent()));
            }
        }
        store.write(writes, deadline).await?;
        let cluster = cluster_record(plan).encode_to_vec();
        store.write(vec![put(cluster_key, cluster, absent())], deadline).await
    }

    async fn load_plan(&self) -> Result<Option<FoundingPlan>, ApiError> {
        let (disk, dir) = (self.disk.clone(), self.data_dir.clone());
        self.blocking(move || sealed::load(&*disk, &dir, Kind::Founding)).await
    }

    /// Finishes a founding that was interrupted after its decision took hold.
    pub(super) async fn resume_founding(self: &Arc<Self>) {
        if self.identity.membership().is_none() {
            return;
        }
        let plan = match self.load_plan().await {
            Ok(None) => return,
            Ok(Some(plan)) => plan,
            Err(error) => {
                tracing::error!(%error, "the founding plan cannot be read");
                return;
            }
        };
        let _guard = self.founding.clone().lock_owned().await;
        tracing::info!("finishing a founding that was interrupted");
        if let Err(error) = self.carry_out(&plan, Deadline::after(FOUNDING_TIMEOUT)).await {
            tracing::error!(%error, "founding is not finished; repeat `cluster init`");
        }
    }

    async fn blocking<T, E>(
        &self,
        job: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, ApiError>
    where
        T: Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let result = self.pool.run(job).await;
        let result = result.map_err(|e| ApiError::NotReady(e.to_string()))?;
        result.map_err(|e| ApiError::Internal(e.to_string()))
    }
}

fn same_set(a: &[String], b: &[String]) -> bool {
    let sorted = |list: &[String]| {
        let mut list = list.to_vec();
        list.sort_unstable();
        list
    };
    sorted(a) == sorted(b)
}

fn check_empty(addresses: &[String], answers: &[HandshakeResponse]) -> Result<(), ApiError> {
    for (address, answer) in addresses.iter().zip(answers) {
        if let Some(cluster) = ClusterId::from_bytes(&answer.cluster_id) {
            return Err(refused(format!(
                "{address} belongs to cluster {cluster}: a node whose data was lost must join it \
                 as a new node, it cannot found it again"
            )));
        }
    }
    for (i, answer) in answers.iter().enumerate() {
        let mut later = answers.iter().zip(addresses).skip(i + 1);
        if let Some((_, address)) = later.find(|(other, _)| other.store_id == answer.store_id) {
            return Err(ApiError::Invalid(format!("{address} is a second name of another node")));
        }
    }
    Ok(())
}

fn cluster_record(plan: &FoundingPlan) -> Cluster {
    let next = |ids: &mut dyn Iterator<Item = u64>| ids.max().map_or(0, |id| id + 1);
    let replicas = plan.ranges.iter().flat_map(|r| r.replicas.iter().map(|r| r.id));
    Cluster {
        cluster_id: plan.cluster_id.clone(),
        next_range_id: next(&mut plan.ranges.iter().map(|r| r.id)),
        next_replica_id: next(&mut { replicas }),
        next_keyspace_id: next(&mut plan.keyspaces.iter().map(|k| k.id)),
        next_node_id: next(&mut plan.nodes.iter().map(|n| n.id)),
        replication_factor: plan.replication_factor,
    }
}

/// What `node` is told.
fn request_for(plan: &FoundingPlan, node: u64) -> FoundRequest {
    let map = v1::MapResponse {
        cluster_id: plan.cluster_id.clone(),
        revision: 0,
        nodes: plan.nodes.clone(),
        keyspaces: plan.keyspaces.clone(),
        ranges: plan.ranges.clone(),
        node_id: node,
    };
    FoundRequest {
        cluster_id: plan.cluster_id.clone(),
        node_id: node,
        nodes: plan.nodes.clone(),
        replicas: descriptors(&plan.cluster_id, &plan.keyspaces, &plan.ranges, NodeId(node)),
        map: Some(map),
    }
}

/// What `node` has to know of its replicas of `ranges`, whose leader hints name the founders.
pub(super) fn descriptors(
    cluster: &Bytes,
    keyspaces: &[v1::Keyspace],
    ranges: &[v1::Range],
    node: NodeId,
) -> Vec<ReplicaDescriptor> {
    let mine = plan::by_node(ranges).remove(&node).unwrap_or_default();
    mine.into_iter()
        .map(|(range, replica)| {
            let keyspace = keyspaces.iter().find(|k| k.id == range.keyspace_id);
            ReplicaDescriptor {
                cluster_id: cluster.clone(),
                range: Some(range.clone()),
                replica_id: replica,
                node_id: node.0,
                history: keyspace.and_then(|k| k.history),
                compaction: keyspace.map_or(0, |k| k.compaction),
                keyspace: keyspace.map(|k| k.name.clone()).unwrap_or_default(),
                founder: range.leader_node_id == node.0,
            }
        })
        .collect()
}
