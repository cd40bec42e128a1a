//! Keeps the node's copy of range 0 current: read it once, then follow its changes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use holdfast_kv::{EventKind, RevisionEvents};
use holdfast_model::Revision;
use holdfast_runtime::{Deadline, Stop};
use holdfast_wire::v1::MapResponse;

use super::System;
use super::layout::{self, Records};
use super::store::ACCESS_TIMEOUT;
use crate::api::{ApiError, ReadLevel, WatchItem};
use crate::sealed::{self, Kind};

/// Wait before range 0 is read again after the watch ended.
const RETRY: Duration = Duration::from_millis(200);
/// Changes taken over before they are published together.
const CHANGES_PER_MAP: usize = 256;
/// The copy on disk is at most this much behind.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

impl System {
    /// Follows range 0 until the node stops.
    pub(super) async fn follow(self: Arc<Self>, stop: Stop) {
        while !stop.is_wanted() {
            if self.identity.membership().is_some()
                && let Some(Err(error)) = stop.or(self.follow_once()).await
            {
                tracing::debug!(%error, "range 0 cannot be followed now");
            }
            stop.or(holdfast_runtime::sleep(RETRY)).await;
        }
    }

    async fn follow_once(&self) -> Result<(), ApiError> {
        let store = self.store()?;
        let deadline = Deadline::after(ACCESS_TIMEOUT);
        let mut records = store.records(ReadLevel::Follower, deadline).await?;
        self.publish(&records);
        let mut changes = store.watch(Revision(records.revision + 1));
        while let Some(item) = changes.next().await {
            take(&mut records, item?)?;
            // A burst of changes makes one map.
            for _ in 0..CHANGES_PER_MAP {
                match changes.next().now_or_never() {
                    Some(Some(item)) => take(&mut records, item?)?,
                    Some(None) | None => break,
                }
            }
            self.publish(&records);
        }
        Ok(())
    }

    /// Brings the copy up to date with a keyspace it does not name; without that keyspace it does
    /// not exist. Cost: a linearizable read of range 0, and of all of it where the copy lags.
    ///
    /// # Errors
    /// Those of reading range 0: then nobody knows.
    pub(super) async fn look_for_keyspace(
        &self,
        name: &str,
        deadline: Deadline,
    ) -> Result<(), ApiError> {
        let store = self.store()?;
        if store.get(layout::keyspace_key(name), deadline).await?.is_none() {
            return Ok(());
        }
        let turn = deadline.limit(self.catching_up.lock()).await;
        let _turn = turn.map_err(|_| ApiError::NotReady("the map is being read".into()))?;
        // Whoever had the turn before may have brought it.
        if self.map.peek().keyspace(name).is_err() {
            let records = store.records(ReadLevel::Linearizable, deadline).await?;
            self.publish(&records);
        }
        Ok(())
    }

    /// Makes `records` what this node knows, unless it knows newer ones. Until range 0 says that
    /// the cluster is founded, the map of the founding stays.
    fn publish(&self, records: &Records) {
        let _one_at_a_time = self.publishing.lock();
        let known = self.records.load();
        let is_older = records.revision < known.revision;
        if records.cluster.is_none() || is_older || *records == **known {
            return;
        }
        match records.map() {
            Ok(map) if self.identity.membership().is_some_and(|(c, _)| c == map.cluster) => {
                self.map.publish(map);
                self.records.store(Arc::new(records.clone()));
                self.connect();
                self.changed.notify_one();
            }
            Ok(map) => tracing::error!(cluster = %map.cluster, "range 0 is of another cluster"),
            Err(error) => tracing::error!(%error, "the map is kept as it was"),
        }
    }

    /// Lets the transport know whom the map names.
    pub(super) fn connect(&self) {
        let map = self.map.load();
        let nodes = map.nodes.values().map(|n| (n.id, n.peer_address.clone())).collect();
        self.transport.set_nodes(&nodes);
    }

    /// Keeps a copy of the map on disk, for the next start.
    pub(super) async fn save_map(self: Arc<Self>, stop: Stop) {
        let mut changes = self.map.watch();
        while let Some(Ok(())) = stop.or(changes.changed()).await {
            let map = changes.borrow_and_update().clone();
            let (disk, dir) = (self.disk.clone(), self.data_dir.clone());
            let saved = self
                .pool
                .run(move || sealed::store(&*disk, &dir, Kind::Map, &MapResponse::from(&*map)));
            match saved.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the map is not saved"),
                Err(error) => tracing::warn!(%error, "the map is not saved"),
            }
            stop.or(holdfast_runtime::sleep(SAVE_INTERVAL)).await;
        }
    }
}

fn take(records: &mut Records, item: WatchItem) -> Result<(), ApiError> {
    match item {
        WatchItem::Created { .. } | WatchItem::Progress { .. } => Ok(()),
        WatchItem::Events { revisions, .. } => revisions.iter().try_for_each(|r| apply(records, r)),
        WatchItem::Canceled { error, .. } => Err(error),
    }
}

fn apply(records: &mut Records, changes: &RevisionEvents) -> Result<(), ApiError> {
    for event in &changes.events {
        let value = (event.kind == EventKind::Put).then_some(&*event.entry.value);
        records
            .set(&event.entry.key, value, changes.revision.0)
            .map_err(|e| ApiError::Internal(e.to_string()))?;
    }
    records.revision = changes.revision.0;
    Ok(())
}
