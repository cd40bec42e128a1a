//! The cluster's calls: permission and the rules of names and numbers, then `node::system`.

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use holdfast_model::{
    ClusterMap, DEFAULT_KEYSPACE, ETCD_KEYSPACE, RangeId, SYSTEM_KEYSPACE, limits,
};
use holdfast_wire::v1;
use tokio_stream::wrappers::WatchStream;

use super::Gateway;
use super::serve::engine_error;
use crate::api::{ApiError, Call, Cluster, Items, Reply};
use crate::auth::{Keys, Verb};
use crate::limits::at_most;

/// Most nodes a cluster is founded with.
const FOUNDING_NODES_MAX: usize = 64;
/// Most replicas of a range.
const REPLICATION_FACTOR_MAX: u32 = 9;

impl Gateway {
    fn administer(&self, call: &Call) -> Result<(), ApiError> {
        self.allow(call, Verb::Administer, "", Keys::None)
    }
}

impl Cluster for Gateway {
    fn init<'a>(&'a self, call: &'a Call, request: v1::InitRequest) -> Reply<'a, v1::InitResponse> {
        async move {
            self.administer(call)?;
            at_most("founding nodes", FOUNDING_NODES_MAX, request.peer_addresses.len())?;
            replication_factor(request.replication_factor)?;
            self.parts.admin.init(call, request).await
        }
        .boxed()
    }

    fn map(&self, call: &Call) -> Result<Arc<ClusterMap>, ApiError> {
        self.allow(call, Verb::Observe, "", Keys::None)?;
        let map = self.parts.map.load();
        if map.cluster.0 == 0 {
            let text = "this node does not belong to a cluster yet (`holdfast cluster init`)";
            return Err(ApiError::NotReady(text.into()));
        }
        Ok(map)
    }

    fn watch_map(&self, call: &Call) -> Items<Arc<ClusterMap>> {
        if let Err(error) = self.allow(call, Verb::Observe, "", Keys::None) {
            return futures_util::stream::iter([Err(error)]).boxed();
        }
        let maps = WatchStream::new(self.parts.map.watch());
        maps.filter(|map| std::future::ready(map.cluster.0 != 0)).map(Ok).boxed()
    }

    fn status(&self, call: &Call) -> Result<v1::StatusResponse, ApiError> {
        self.allow(call, Verb::Observe, "", Keys::None)?;
        Ok(self.parts.admin.status())
    }

    fn state_hash<'a>(
        &'a self,
        call: &'a Call,
        request: v1::StateHashRequest,
    ) -> Reply<'a, v1::StateHashResponse> {
        async move {
            self.parts.host.admit()?;
            self.administer(call)?;
            let range = RangeId(request.range_id);
            let replica = self.parts.host.replica(range).ok_or_else(|| {
                ApiError::NotHere(format!("this node has no replica of range {}", range.0))
            })?;
            let reader = replica.reader().clone();
            let hash = self.parts.pool.run(move || {
                let before = reader.point().index;
                let hash = reader.state_hash()?;
                Ok((reader.point().index == before).then_some((before.0, hash)))
            });
            let hash = hash.await.map_err(|error| ApiError::NotReady(error.to_string()))?;
            let (applied_index, hash) = hash.map_err(engine_error)?.ok_or_else(|| {
                ApiError::NotReady(format!("range {} applied entries meanwhile", range.0))
            })?;
            let replica_id = replica.options().replica.0;
            Ok(v1::StateHashResponse { replica_id, applied_index, hash })
        }
        .boxed()
    }

    fn transfer_leader<'a>(
        &'a self,
        call: &'a Call,
        request: v1::TransferLeaderRequest,
    ) -> Reply<'a, v1::TransferLeaderResponse> {
        async move {
            self.parts.host.admit()?;
            self.administer(call)?;
            self.parts.admin.transfer_leader(call, request).await
        }
        .boxed()
    }

    fn create_keyspace<'a>(
        &'a self,
        call: &'a Call,
        request: v1::CreateKeyspaceRequest,
    ) -> Reply<'a, v1::CreateKeyspaceResponse> {
        async move {
            self.parts.host.admit()?;
            self.administer(call)?;
            own_keyspace(&request.name)?;
            ranges(request.ranges)?;
            replication_factor(request.replication_factor)?;
            if let Some(history) = request.history {
                history_of(history)?;
            }
            compaction_of(request.compaction)?;
            kind_of(request.kind, request.ranges)?;
            self.parts.admin.create_keyspace(call, request).await
        }
        .boxed()
    }

    fn alter_keyspace<'a>(
        &'a self,
        call: &'a Call,
        request: v1::AlterKeyspaceRequest,
    ) -> Reply<'a, v1::AlterKeyspaceResponse> {
        async move {
            self.parts.host.admit()?;
            self.administer(call)?;
            own_keyspace(&request.name)?;
            match request.history {
                Some(history) => history_of(history)?,
                None => return Err(ApiError::Invalid("history: required".into())),
            }
            self.parts.admin.alter_keyspace(call, request).await
        }
        .boxed()
    }

    fn drop_keyspace<'a>(
        &'a self,
        call: &'a Call,
        request: v1::DropKeyspaceRequest,
    ) -> Reply<'a, v1::DropKeyspaceResponse> {
        async move {
            self.parts.host.admit()?;
            self.administer(call)?;
            own_keyspace(&request.name)?;
            if request.name == DEFAULT_KEYSPACE || request.name == ETCD_KEYSPACE {
                let text = format!("keyspace {:?} always exists", request.name);
                return Err(ApiError::FailedPrecondition(text));
            }
            self.parts.admin.drop_keyspace(call, request).await
        }
        .boxed()
    }
}

fn own_keyspace(name: &str) -> Result<(), ApiError> {
    if name == SYSTEM_KEYSPACE {
        return Err(ApiError::FailedPrecondition(format!("keyspace {name:?} is reserved")));
    }
    keyspace_name(name)
}

/// 1 … 255 bytes of `[a-z0-9._-]`, not starting with a dot.
pub(super) fn keyspace_name(name: &str) -> Result<(), ApiError> {
    at_most("bytes of a keyspace's name", limits::NAME_BYTES_MAX, name.len())?;
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(letter) {
        let text = format!(
            "name of a keyspace: 1 to {} of a-z, 0-9, '.', '_', '-', not starting with '.', \
             given {name:?}",
            limits::NAME_BYTES_MAX
        );
        return Err(ApiError::Invalid(text));
    }
    Ok(())
}

fn ranges(ranges: u32) -> Result<(), ApiError> {
    let most = limits::RANGES_PER_KEYSPACE_MAX;
    if ranges > most {
        return Err(ApiError::too_large("ranges of a keyspace", most as usize, ranges as usize));
    }
    if ranges != 0 && !ranges.is_power_of_two() {
        let text = format!("ranges of a keyspace: a power of two up to {most}, given {ranges}");
        return Err(ApiError::Invalid(text));
    }
    Ok(())
}

fn replication_factor(factor: u32) -> Result<(), ApiError> {
    at_most("replication factor", REPLICATION_FACTOR_MAX as usize, factor as usize)
}

/// Refuses a style nobody here knows.
fn compaction_of(compaction: i32) -> Result<(), ApiError> {
    match v1::Compaction::try_from(compaction) {
        Ok(_) => Ok(()),
        Err(_) => Err(ApiError::Invalid("compaction: neither leveled nor tiered".into())),
    }
}

/// Refuses a kind nobody here knows, and more ranges than it has.
fn kind_of(kind: i32, ranges: u32) -> Result<(), ApiError> {
    match v1::KeyspaceKind::try_from(kind) {
        Ok(v1::KeyspaceKind::Etcd) if ranges > 1 => Err(ApiError::Invalid(format!(
            "ranges of a keyspace of etcd's kind: 1, given {ranges}"
        ))),
        Ok(_) => Ok(()),
        Err(_) => Err(ApiError::Invalid("kind of a keyspace: neither native nor etcd".into())),
    }
}

fn history_of(history: v1::History) -> Result<(), ApiError> {
    let history = holdfast_model::History::try_from(history);
    let history = history.map_err(|error| ApiError::Invalid(error.to_string()))?;
    match history {
        holdfast_model::History::Duration(duration) if duration.is_zero() => {
            Err(ApiError::Invalid("history: at least 1 ms, given 0".into()))
        }
        holdfast_model::History::Revisions(0) => {
            Err(ApiError::Invalid("history: at least 1 revision, given 0".into()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_keyspaces_are_held_to_their_alphabet() {
        for name in ["a", "users-2.eu_west", "0"] {
            assert_eq!(keyspace_name(name), Ok(()), "{name}");
        }
        for name in ["", ".hidden", "Users", "a b", "ä", "a/b", &"a".repeat(256)] {
            assert!(keyspace_name(name).is_err(), "{name}");
        }
        assert!(own_keyspace("sys").is_err());
    }

    #[test]
    fn a_keyspace_of_etcds_kind_has_one_range() {
        let etcd = v1::KeyspaceKind::Etcd.into();
        assert!(kind_of(etcd, 0).is_ok() && kind_of(etcd, 1).is_ok() && kind_of(0, 8).is_ok());
        assert!(kind_of(etcd, 2).is_err() && kind_of(99, 0).is_err());
    }

    #[test]
    fn ranges_are_a_power_of_two_up_to_256() {
        for count in [0, 1, 2, 64, 256] {
            assert_eq!(ranges(count), Ok(()), "{count}");
        }
        for count in [3, 100, 257, 512] {
            assert!(ranges(count).is_err(), "{count}");
        }
    }
}
