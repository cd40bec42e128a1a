//! Keyspaces at run time: created, changed and dropped by records that any node can take up.
//!
//! Creation: one transaction takes ids and writes the plan into the keyspace's record; then the
//! range and replica records, then the replicas on their nodes, then, once every range is led, the
//! record loses its `creating` mark and the map shows the keyspace. Every step is idempotent.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_kv::Operation;
use holdfast_kv::command::Condition;
use holdfast_model::limits::RANGES_PER_KEYSPACE_DEFAULT;
use holdfast_model::{History, NodeId, RangeId, ReplicaId, SYSTEM_KEYSPACE};
use holdfast_ring::Placement;
use holdfast_runtime::Deadline;
use holdfast_wire::peer::v1::CreateReplicaRequest;
use holdfast_wire::system::v1::{
    Cluster, KeyspaceRecord, RangeRecord, ReplicaDescriptor, ReplicaRecord, replica_record,
};
use holdfast_wire::v1;
use prost::Message;

use super::System;
use super::founding::descriptors;
use super::layout::{self, CLUSTER, Records, Versioned};
use super::plan::{self, NextIds};
use super::store::{ACCESS_TIMEOUT, SystemStore, at_revision, put, put_step};
use crate::api::ApiError;

/// How often a waiting caller looks whether its keyspace is there.
const LOOK: Duration = Duration::from_millis(25);
/// How long other nodes are waited for until they know of a change.
const OTHERS_MAX: Duration = Duration::from_secs(2);
/// A node gets this long to create its replicas, per attempt.
const CREATE_TIMEOUT: Duration = Duration::from_secs(20);
/// Attempts to win a compare-and-swap against other administrators.
const ATTEMPTS_MAX: usize = 16;

impl System {
    /// Decides a new keyspace and waits until all of it is led.
    pub(super) async fn create_keyspace_until(
        &self,
        request: v1::CreateKeyspaceRequest,
        deadline: Deadline,
    ) -> Result<v1::Keyspace, ApiError> {
        let keyspace = self.decide_keyspace(&request, deadline).await?;
        loop {
            if self.map.peek().keyspaces.contains_key(&keyspace.name) {
                self.await_others(deadline).await;
                return Ok(keyspace);
            }
            if deadline.has_passed() {
                let name = &keyspace.name;
                let reason = format!("keyspace {name:?} is still being created");
                return Err(ApiError::OutcomeUnknown { reason, deadline: true });
            }
            holdfast_runtime::sleep(LOOK).await;
        }
    }

    async fn decide_keyspace(
        &self,
        request: &v1::CreateKeyspaceRequest,
        deadline: Deadline,
    ) -> Result<v1::Keyspace, ApiError> {
        let store = self.store()?;
        for _ in 0..ATTEMPTS_MAX {
            let key = layout::keyspace_key(&request.name);
            if store.get(key.clone(), deadline).await?.is_some() {
                return Err(ApiError::AlreadyExists(format!("keyspace {:?}", request.name)));
            }
            let (cluster, revision) = read_cluster(&store, deadline).await?;
            let (record, next) = self.plan_keyspace(request, &cluster);
            let keyspace = record.keyspace.clone().unwrap_or_default();
            let compares = vec![
                at_revision(Bytes::from_static(CLUSTER), revision),
                at_revision(key.clone(), 0),
            ];
            let steps = vec![
                put_step(Bytes::from_static(CLUSTER), next.encode_to_vec()),
                put_step(key, record.encode_to_vec()),
            ];
            if store.transact(compares, steps, deadline).await? {
                return Ok(keyspace);
            }
        }
        Err(ApiError::FailedPrecondition("too many administrators at once; try again".into()))
    }

    fn plan_keyspace(
        &self,
        request: &v1::CreateKeyspaceRequest,
        cluster: &Cluster,
    ) -> (KeyspaceRecord, Cluster) {
        let map = self.map.load();
        let nodes: Vec<v1::Node> = map.nodes.values().map(Into::into).collect();
        let factor = match request.replication_factor {
            0 => cluster.replication_factor,
            given => given,
        };
        let most = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        let (ranges, history) = match request.kind() {
            v1::KeyspaceKind::Etcd => (1, History::Manual),
            _ => (RANGES_PER_KEYSPACE_DEFAULT, History::default()),
        };
        let keyspace = v1::Keyspace {
            id: cluster.next_keyspace_id,
            name: request.name.clone(),
            ranges: match request.ranges {
                0 => ranges,
                given => given,
            },
            replication_factor: factor.clamp(1, most.max(1)),
            history: Some(request.history.unwrap_or_else(|| history.into())),
            compaction: request.compaction,
            kind: request.kind,
        };
        let existing: Placement =
            map.ranges.values().map(|r| plan::placement_of(&r.into())).collect();
        let mut healthy: BTreeSet<NodeId> = self.transport.connected().into_iter().collect();
        healthy.insert(self.node());
        let mut next = NextIds { range: cluster.next_range_id, replica: cluster.next_replica_id };
        let planned = plan::ranges(&keyspace, &nodes, &existing, &healthy, &mut next);
        let replicas = planned.iter().flat_map(|r| r.replicas.iter().map(|r| r.id)).collect();
        let record = KeyspaceRecord {
            keyspace: Some(keyspace),
            dropping: false,
            creating: true,
            planned,
            unconfirmed_replicas: replicas,
        };
        let cluster = Cluster {
            next_keyspace_id: cluster.next_keyspace_id + 1,
            next_range_id: next.range,
            next_replica_id: next.replica,
            ..cluster.clone()
        };
        (record, cluster)
    }

    /// Changes a keyspace's history; its ranges follow when their leaders see it.
    pub(super) async fn change_keyspace(
        &self,
        name: &str,
        history: v1::History,
        deadline: Deadline,
    ) -> Result<v1::Keyspace, ApiError> {
        let change = |record: &mut KeyspaceRecord| {
            let keyspace = record.keyspace.get_or_insert_default();
            keyspace.history = Some(history);
        };
        let record = self.update_keyspace(name, deadline, change).await?;
        Ok(record.keyspace.unwrap_or_default())
    }

    /// Marks a keyspace as dropped, and waits until its name is free and nobody finds it.
    pub(super) async fn drop_keyspace_now(
        &self,
        name: &str,
        deadline: Deadline,
    ) -> Result<(), ApiError> {
        if name == SYSTEM_KEYSPACE {
            return Err(ApiError::FailedPrecondition("range 0 cannot be dropped".into()));
        }
        let dropped = self.update_keyspace(name, deadline, |record| record.dropping = true).await?;
        let id = dropped.keyspace.unwrap_or_default().id;
        while self.is_known(name, id, deadline).await? {
            if deadline.has_passed() {
                let reason = format!("keyspace {name:?} is still being dropped");
                return Err(ApiError::OutcomeUnknown { reason, deadline: true });
            }
            holdfast_runtime::sleep(LOOK).await;
        }
        self.await_others(deadline).await;
        Ok(())
    }

    /// Whether range 0, or this node's copy of it, names keyspace `id`; another one may have the
    /// name by now.
    async fn is_known(&self, name: &str, id: u64, deadline: Deadline) -> Result<bool, ApiError> {
        if self.map.peek().keyspaces.get(name).is_some_and(|keyspace| keyspace.id.0 == id) {
            return Ok(true);
        }
        let Some(entry) = self.store()?.get(layout::keyspace_key(name), deadline).await? else {
            return Ok(false);
        };
        let record = decode::<KeyspaceRecord>(&entry.value)?;
        Ok(record.keyspace.is_some_and(|keyspace| keyspace.id == id))
    }

    /// Waits until the map of every connected node shows what this node's does: whoever was told
    /// that a keyspace exists must not hear from the next node that it does not. A node that is
    /// slow is not waited for long.
    async fn await_others(&self, deadline: Deadline) {
        let map = self.map.load();
        let connected = self.transport.connected();
        let others = connected.iter().filter_map(|node| map.nodes.get(node));
        let seen = others.map(async |node| {
            let sees = async || {
                let answer = self.transport.probe(&node.peer_address).await;
                answer.is_ok_and(|answer| answer.map_revision >= map.revision.0)
            };
            while !sees().await {
                holdfast_runtime::sleep(LOOK).await;
            }
        });
        // Who is not there after that time hears of it later; that is no error.
        let _ = deadline.min(Deadline::after(OTHERS_MAX)).limit(join_all(seen)).await;
    }

    async fn update_keyspace(
        &self,
        name: &str,
        deadline: Deadline,
        change: impl Fn(&mut KeyspaceRecord),
    ) -> Result<KeyspaceRecord, ApiError> {
        let store = self.store()?;
        let key = layout::keyspace_key(name);
        for _ in 0..ATTEMPTS_MAX {
            let entry = store.get(key.clone(), deadline).await?;
            let entry = entry.ok_or_else(|| ApiError::UnknownKeyspace(name.into()))?;
            let mut record = decode::<KeyspaceRecord>(&entry.value)?;
            if record.dropping {
                return Err(ApiError::UnknownKeyspace(name.into()));
            }
            change(&mut record);
            let compares = vec![at_revision(key.clone(), entry.revision.0)];
            let steps = vec![put_step(key.clone(), record.encode_to_vec())];
            if store.transact(compares, steps, deadline).await? {
                return Ok(record);
            }
        }
        Err(ApiError::FailedPrecondition("too many administrators at once; try again".into()))
    }

    /// Takes every unfinished creation and removal as far as it goes now.
    pub(super) async fn finish_keyspaces(&self, records: &Records) -> Result<(), ApiError> {
        for record in records.keyspaces.values() {
            if record.value.dropping {
                self.finish_drop(records, record).await?;
            } else if record.value.creating || !record.value.unconfirmed_replicas.is_empty() {
                self.finish_creation(records, record).await?;
            }
        }
        Ok(())
    }

    async fn finish_creation(
        &self,
        records: &Records,
        record: &Versioned<KeyspaceRecord>,
    ) -> Result<(), ApiError> {
        let store = self.store()?;
        self.write_plan(&store, records, &record.value.planned).await?;
        let mut next = record.value.clone();
        let confirmed = self.create_replicas(&record.value).await;
        next.unconfirmed_replicas.retain(|id| !confirmed.contains(id));
        let is_led = |range: &v1::Range| {
            let published = records.ranges.get(&RangeId(range.id));
            let published = published.and_then(|r| r.value.range.as_ref());
            // The plan is written without a leader; only one that leads publishes itself.
            published.is_some_and(|r| r.leader_node_id != 0)
        };
        if next.planned.iter().all(is_led) {
            next.creating = false;
        }
        if !next.creating && next.unconfirmed_replicas.is_empty() {
            next.planned.clear();
        }
        if next == record.value {
            return Ok(());
        }
        let name = next.keyspace.as_ref().map(|k| k.name.clone()).unwrap_or_default();
        let condition = Some(Condition::IfRevision(record.revision));
        let write = put(layout::keyspace_key(&name), next.encode_to_vec(), condition);
        store.write(vec![write], Deadline::after(ACCESS_TIMEOUT)).await
    }

    async fn write_plan(
        &self,
        store: &SystemStore,
        records: &Records,
        planned: &[v1::Range],
    ) -> Result<(), ApiError> {
        let absent = || Some(Condition::IfAbsent(()));
        let mut writes: Vec<Operation> = Vec::new();
        for range in planned.iter().filter(|r| !records.ranges.contains_key(&RangeId(r.id))) {
            for (key, value) in layout::replica_records(range) {
                writes.push(put(key, value.to_vec(), absent()));
            }
            let unled = v1::Range { leader_node_id: 0, ..range.clone() };
            let record = RangeRecord { range: Some(unled) };
            writes.push(put(
                layout::range_key(RangeId(range.id)),
                record.encode_to_vec(),
                absent(),
            ));
        }
        if writes.is_empty() {
            return Ok(());
        }
        store.write(writes, Deadline::after(ACCESS_TIMEOUT)).await
    }

    /// Asks every node for the planned replicas it has not confirmed; says which exist now.
    async fn create_replicas(&self, record: &KeyspaceRecord) -> BTreeSet<u64> {
        let (cluster, own) = self.identity.membership().unwrap_or_default();
        let cluster = Bytes::copy_from_slice(&cluster.to_bytes());
        let keyspaces: Vec<_> = record.keyspace.iter().cloned().collect();
        let missing: BTreeSet<u64> = record.unconfirmed_replicas.iter().copied().collect();
        let nodes = plan::by_node(&record.planned).into_keys();
        let asked = nodes.map(|node| {
            let mut wanted = descriptors(&cluster, &keyspaces, &record.planned, node);
            wanted.retain(|d| missing.contains(&d.replica_id));
            let cluster = cluster.clone();
            async move {
                if wanted.is_empty() {
                    return Vec::new();
                }
                let ids = wanted.iter().map(|d| d.replica_id).collect();
                let created = if node == own {
                    self.registry.create(wanted).await.map_err(|e| e.to_string())
                } else {
                    self.ask_to_create(node, cluster, wanted).await
                };
                match created {
                    Ok(()) => ids,
                    Err(problem) => {
                        tracing::warn!(%node, problem, "replicas are not created yet");
                        Vec::new()
                    }
                }
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn ask_to_create(
        &self,
        node: NodeId,
        cluster_id: Bytes,
        replicas: Vec<ReplicaDescriptor>,
    ) -> Result<(), String> {
        if !self.transport.is_connected(node) {
            return Err("the node is not connected".into());
        }
        let mut client = self.transport.dial_node(node)?;
        let call = client.create_replica(CreateReplicaRequest { cluster_id, replicas });
        let answer = holdfast_runtime::timeout(CREATE_TIMEOUT, call).await;
        let answer = answer.map_err(|_| "no answer in time".to_owned())?;
        answer.map(|_| ()).map_err(|status| status.message().to_owned())
    }

    /// Marks every replica as removed and forgets the ranges; the record itself goes last.
    async fn finish_drop(
        &self,
        records: &Records,
        record: &Versioned<KeyspaceRecord>,
    ) -> Result<(), ApiError> {
        let store = self.store()?;
        let keyspace = record.value.keyspace.clone().unwrap_or_default();
        let of_keyspace = |range: &&v1::Range| range.keyspace_id == keyspace.id;
        let published = records.ranges.values().filter_map(|r| r.value.range.as_ref());
        let mut writes: Vec<Operation> = Vec::new();
        for range in published.filter(of_keyspace).chain(&record.value.planned) {
            for replica in &range.replicas {
                let removed = ReplicaRecord {
                    range_id: range.id,
                    node_id: replica.node_id,
                    state: replica_record::State::Removed.into(),
                };
                let key = layout::replica_key(ReplicaId(replica.id));
                writes.push(put(key, removed.encode_to_vec(), None));
            }
            writes.push(Operation::Delete(holdfast_kv::command::Delete {
                key: layout::range_key(RangeId(range.id)),
                ..Default::default()
            }));
        }
        store.write(writes, Deadline::after(ACCESS_TIMEOUT)).await?;
        let key = layout::keyspace_key(&keyspace.name);
        let gone = super::store::delete_if(key, record.revision);
        store.write(vec![gone], Deadline::after(ACCESS_TIMEOUT)).await
    }
}

/// The cluster's own record, which is the last that a founding writes: waited for.
async fn read_cluster(store: &SystemStore, deadline: Deadline) -> Result<(Cluster, u64), ApiError> {
    loop {
        if let Some(entry) = store.get(Bytes::from_static(CLUSTER), deadline).await? {
            return Ok((decode(&entry.value)?, entry.revision.0));
        }
        if deadline.has_passed() {
            return Err(ApiError::NotReady("the cluster is being founded".into()));
        }
        holdfast_runtime::sleep(LOOK).await;
    }
}

fn decode<M: Message + Default>(value: &[u8]) -> Result<M, ApiError> {
    M::decode(value).map_err(|e| ApiError::Internal(format!("record of range 0: {e}")))
}
