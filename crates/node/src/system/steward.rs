//! The node's part in keeping ranges as range 0 wants them.
//!
//! Every node looks after the ranges it leads: gives a new one its span, follows changed settings,
//! publishes the copy for the map, hands leadership to the node that should have it. Beside these
//! rounds it destroys its replicas that were removed, and the node that leads range 0 takes up
//! keyspaces whose creation or removal is not finished. Each round does what is found to be
//! missing, so it does not matter who did the round before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use holdfast_env::defect;
use holdfast_journal::GroupId;
use holdfast_kv::command::{Condition, Configure};
use holdfast_kv::{Command, Operation};
use holdfast_model::{History, NodeId, RangeId};
use holdfast_runtime::{Deadline, Stop};
use holdfast_wire::system::v1::{RangeRecord, ReplicaRecord};
use holdfast_wire::v1;
use prost::Message;

use super::layout::{self, Records};
use super::leaders::Targets;
use super::store::{ACCESS_TIMEOUT, delete_if, put};
use super::{State, System};
use crate::api::ApiError;
use crate::registry::Hosted;

/// The longest pause between two rounds; changes of range 0 wake the steward at once.
const ROUND: Duration = Duration::from_millis(250);
/// A round of many changes is not followed by the next one at once.
const PAUSE: Duration = Duration::from_millis(20);
/// A proposal of the steward takes at most this long; the next round tries again.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a node looks for replicas that it failed to destroy before.
const LOOK_FOR_REMOVED: Duration = Duration::from_secs(5);
/// Replicas destroyed at once.
const DESTROYED_AT_ONCE: usize = 8;
/// Leaders moved per round, so that a new balance does not stop many ranges at once.
const TRANSFERS_PER_ROUND: usize = 1;

impl System {
    /// Looks after this node's ranges until the node stops.
    pub(super) async fn look_after(self: Arc<Self>, stop: Stop) {
        let mut targets = Targets::default();
        while !stop.is_wanted() {
            let woken = holdfast_runtime::timeout(ROUND, self.changed.notified());
            if stop.or(woken).await.is_none() {
                return;
            }
            if self.state() != State::Serving {
                continue;
            }
            if stop.or(self.round(&mut targets)).await.is_none() {
                return;
            }
            stop.or(holdfast_runtime::sleep(PAUSE)).await;
        }
    }

    async fn round(&self, targets: &mut Targets) {
        let records = self.records.load_full();
        let hosted = self.registry.hosted();
        let led = hosted.values().filter(|h| h.leads());
        join_all(led.map(|hosted| self.configure(hosted, &records))).await;
        if let Err(error) = self.publish_copies(&records).await {
            tracing::debug!(%error, "copies are not published now");
        }
        if self.balance_leaders {
            self.balance(targets).await;
        }
    }

    /// Takes up unfinished creations and removals of keyspaces while this node leads range 0.
    /// Apart from the rounds, since it waits for other nodes.
    pub(super) async fn look_after_keyspaces(self: Arc<Self>, stop: Stop) {
        let mut changes = self.map.watch();
        while !stop.is_wanted() {
            let woken = holdfast_runtime::timeout(ROUND, changes.changed());
            if stop.or(woken).await.is_none() {
                return;
            }
            let records = self.records.load_full();
            let leads = self.registry.hosted().get(&RangeId(0)).is_some_and(|h| h.leads());
            if !leads || self.state() != State::Serving {
                continue;
            }
            if let Some(Err(error)) = stop.or(self.finish_keyspaces(&records)).await {
                tracing::debug!(%error, "keyspaces are not finished now");
            }
            stop.or(holdfast_runtime::sleep(PAUSE)).await;
        }
    }

    /// Gives a range its truth where it has none, and its keyspace's settings where they changed.
    async fn configure(&self, hosted: &Hosted, records: &Records) {
        let range = &hosted.range;
        let keyspace = records
            .keyspaces
            .values()
            .filter_map(|r| r.value.keyspace.as_ref())
            .find(|k| k.id == range.keyspace.0);
        let wanted = keyspace.and_then(|k| k.history).or(hosted.descriptor.history);
        let wanted = wanted.and_then(|h| History::try_from(h).ok()).unwrap_or_default();
        let (span, epoch) = match hosted.truth() {
            Some(truth) if truth.history == wanted => return,
            Some(truth) => (truth.span, truth.epoch),
            None => (range.span, range.epoch),
        };
        let configure = Configure::new(range.id, range.keyspace, span, epoch, wanted);
        let command = Command::single(Operation::Configure(configure));
        let proposed = hosted.replica.propose(&command, Deadline::after(PROPOSAL_TIMEOUT)).await;
        if let Err(error) = proposed {
            tracing::debug!(range = %range.id, %error, "range is not configured now");
        }
    }

    /// Publishes what the led ranges are, where the map says something else.
    async fn publish_copies(&self, records: &Records) -> Result<(), ApiError> {
        if records.cluster.is_none() {
            return Ok(());
        }
        let node = self.node();
        let mut writes = Vec::new();
        for hosted in self.registry.hosted().values().filter(|h| h.leads()) {
            let Some(known) = records.ranges.get(&hosted.group.range) else { continue };
            let Some(range) = hosted.copy(node) else { continue };
            let old = known.value.range.clone().unwrap_or_default();
            if range == old || is_older(&range, &old) {
                continue;
            }
            let record = RangeRecord { range: Some(range) }.encode_to_vec();
            let condition = Some(Condition::IfRevision(known.revision));
            writes.push(put(layout::range_key(hosted.group.range), record, condition));
        }
        if writes.is_empty() {
            return Ok(());
        }
        self.store()?.write(writes, Deadline::after(ACCESS_TIMEOUT)).await
    }

    /// Destroys replicas of this node that range 0 says were removed.
    async fn destroy_removed(&self, records: &Records) {
        let running = self.registry.hosted();
        let running = running.values().map(|h| h.group);
        let groups: BTreeSet<GroupId> = running.chain(self.registry.broken().into_keys()).collect();
        if defect!(REPLICA_DELETED_ON_NEGATIVE_EVIDENCE) {
            for group in groups.iter().filter(|g| !records.replicas.contains_key(&g.replica)) {
                // Gone or not, the next look comes soon.
                let _ = self.registry.destroy(*group).await;
            }
        }
        let removed = groups.into_iter().filter(|group| records.is_removed(group.replica));
        let destroyed = removed.map(|group| async move {
            if let Err(error) = self.destroy_if_removed(group).await {
                tracing::warn!(range = %group.range, %error, "removed replica is still here");
            }
        });
        futures_util::stream::iter(destroyed)
            .buffer_unordered(DESTROYED_AT_ONCE)
            .collect::<()>()
            .await;
    }

    /// Looks for removed replicas of this node whenever range 0 changes; apart from the rounds,
    /// since destroying waits for the disk.
    pub(super) async fn look_after_removed(self: Arc<Self>, stop: Stop) {
        let mut changes = self.map.watch();
        while !stop.is_wanted() {
            let woken = holdfast_runtime::timeout(LOOK_FOR_REMOVED, changes.changed());
            if stop.or(woken).await.is_none() {
                return;
            }
            let records = self.records.load_full();
            if stop.or(self.destroy_removed(&records)).await.is_none() {
                return;
            }
        }
    }

    async fn destroy_if_removed(&self, group: GroupId) -> Result<(), ApiError> {
        let store = self.store()?;
        let key = layout::replica_key(group.replica);
        let deadline = Deadline::after(ACCESS_TIMEOUT);
        // The copy only said where to look; the evidence is read from range 0 itself.
        let Some(entry) = store.get(key.clone(), deadline).await? else { return Ok(()) };
        let record = ReplicaRecord::decode(entry.value.clone())
            .map_err(|e| ApiError::Internal(format!("replica record: {e}")))?;
        if !layout::is_removed(&record) || record.range_id != group.range.0 {
            return Ok(());
        }
        let destroyed = self.registry.destroy(group).await;
        destroyed.map_err(|e| ApiError::Internal(e.to_string()))?;
        store.write(vec![delete_if(key, entry.revision.0)], deadline).await
    }

    /// Hands led ranges to the nodes that should lead them, a few at a time.
    async fn balance(&self, targets: &mut Targets) {
        let node = self.node();
        let mut healthy: BTreeSet<NodeId> = self.transport.connected().into_iter().collect();
        healthy.insert(node);
        let connected = healthy.clone();
        let targets = targets.update(&self.map.load(), healthy, self.clock.monotonic());
        let hosted = self.registry.hosted();
        let misplaced = hosted.values().filter(|h| h.leads()).filter_map(|h| {
            let target = *targets.get(&h.group.range)?;
            (target != node && h.is_fully_replicated(&connected)).then_some((h, target))
        });
        for (hosted, target) in misplaced.take(TRANSFERS_PER_ROUND) {
            let range = hosted.group.range;
            match hosted.replica.transfer_leader(Some(target)).await {
                Ok(_) => tracing::info!(%range, to = %target, "leadership moved for balance"),
                Err(error) => tracing::debug!(%range, %error, "leadership stays"),
            }
        }
    }

    /// Serves the wish of another node, or of this one, that a range led here be handed over.
    pub(super) async fn hand_over(&self, range: RangeId, to: NodeId) -> Result<NodeId, ApiError> {
        let hosted = self.registry.hosted().get(&range).cloned();
        let hosted = hosted.ok_or_else(|| ApiError::NotHere(format!("{range} is not here")))?;
        let to = (to.0 != 0).then_some(to);
        let leader = hosted.replica.transfer_leader(to).await;
        let leader = leader.map_err(|e| ApiError::FailedPrecondition(e.to_string()))?;
        let node = hosted.range.replicas.iter().find(|r| r.id == leader).map(|r| r.node);
        Ok(node.unwrap_or_default())
    }
}

/// Whether publishing `new` would go back in (epoch, membership).
fn is_older(new: &v1::Range, old: &v1::Range) -> bool {
    let order = |r: &v1::Range| (r.epoch, r.membership_term, r.membership_index);
    order(new) < order(old)
}
