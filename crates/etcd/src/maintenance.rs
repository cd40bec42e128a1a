//! Service `Maintenance`: what operators of etcd look at and do.
//!
//! Alarms are facts here, not switches: one stands while its reason does, and goes with it. What
//! etcd needs an operator for (space that has to be won back, a lead that has to be handed over
//! before a stop) happens by itself or costs nothing.

use futures_util::stream::BoxStream;
use holdfast_kv::command::{EtcdOperation, EtcdRange, EtcdTxn};
use holdfast_kv::{Entry, EtcdResult};
use holdfast_node::api::{Answer, Cluster as _, EtcdRead, Operation, Standing};
use holdfast_wire::etcd::etcdserverpb::alarm_request::AlarmAction;
use holdfast_wire::etcd::etcdserverpb::downgrade_request::DowngradeAction;
use holdfast_wire::etcd::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest,
    StatusResponse, maintenance_server,
};
use holdfast_wire::v1;
use tonic::{Request, Response, Status, async_trait};
use xxhash_rust::xxh3::Xxh3;

use crate::EtcdError;
use crate::call::{Asked, Failure, Service, read_options, unexpected};

/// Bytes of entries that are read together for a hash.
const HASHED_AT_ONCE_BYTES: u64 = 1_536 * 1_024;
/// What a client is told that raises an alarm.
const NO_SWITCH: &str = "etcdserver: alarms tell what is the case and cannot be raised";
/// What a client is told that wants a snapshot.
const NO_SNAPSHOT: &str = "etcdserver: snapshots in etcd's file format are not written";
/// What stands for "nothing was compacted".
const NEVER_COMPACTED: i64 = -1;

#[async_trait]
impl maintenance_server::Maintenance for Service {
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        let asked = self.asked(request.metadata())?;
        if request.get_ref().action() == AlarmAction::Activate {
            return Err(Status::failed_precondition(NO_SWITCH));
        }
        let AlarmRequest { member_id, .. } = *request.get_ref();
        let wanted = request.get_ref().alarm();
        let found = self.alarms(&asked)?.into_iter().filter(|alarm| {
            (wanted == AlarmType::None || alarm.alarm() == wanted)
                && (member_id == 0 || alarm.member_id == member_id)
        });
        // To take one back that still has its reason changes nothing.
        let is_asked = request.get_ref().action() == AlarmAction::Get;
        let alarms = found.filter(|_| is_asked).collect();
        let header = Some(self.plain_header(&asked));
        Ok(Response::new(AlarmResponse { header, alarms }))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let result = self.own_status(&asked).await;
        self.done(Operation::Cluster, None, started, result)
    }

    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        let asked = self.asked(request.metadata())?;
        // Space comes back in compaction: there is nothing to do, and nobody has to wait.
        let header = Some(self.plain_header(&asked));
        Ok(Response::new(DefragmentResponse { header }))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let asked = self.asked(request.metadata())?;
        let hashed = self.hash_keys(asked, 0).await?;
        Ok(Response::new(HashResponse { header: hashed.header, hash: hashed.hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        let asked = self.asked(request.metadata())?;
        let revision = request.get_ref().revision;
        Ok(Response::new(self.hash_keys(asked, revision).await?))
    }

    type SnapshotStream = BoxStream<'static, Result<SnapshotResponse, Status>>;

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.asked(request.metadata())?;
        Err(Status::unimplemented(NO_SNAPSHOT))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let result = self.hand_over(&asked, request.get_ref().target_id).await;
        self.done(Operation::Cluster, None, started, result)
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        self.asked(request.metadata())?;
        let request = request.get_ref();
        let is_version = request.version.split('.').all(|part| part.parse::<u16>().is_ok());
        Err(match request.action() {
            DowngradeAction::Cancel => EtcdError::NoInflightDowngrade,
            _ if !is_version => EtcdError::WrongDowngradeVersionFormat,
            _ => EtcdError::InvalidDowngradeTargetVersion,
        }
        .into())
    }
}

impl Service {
    /// What is wrong with this node.
    fn alarms(&self, asked: &Asked) -> Result<Vec<AlarmMember>, Failure> {
        let status = self.gateway.status(&asked.call)?;
        let damaged = self.replica(asked, &status).is_some_and(|one| !one.failure.is_empty());
        let alarms = [(status.disk_full, AlarmType::Nospace), (damaged, AlarmType::Corrupt)];
        let standing = alarms.into_iter().filter(|(stands, _)| *stands);
        let member_id = status.node_id;
        Ok(standing.map(|(_, alarm)| AlarmMember { member_id, alarm: alarm.into() }).collect())
    }

    /// This node's replica of the keyspace.
    fn replica<'a>(
        &self,
        asked: &Asked,
        status: &'a v1::StatusResponse,
    ) -> Option<&'a v1::ReplicaStatus> {
        let map = self.gateway.map(&asked.call).ok()?;
        let range = map.ranges_of(&asked.keyspace).ok()?.first()?.id;
        status.replicas.iter().find(|replica| replica.range_id == range.0)
    }

    async fn own_status(&self, asked: &Asked) -> Result<StatusResponse, Failure> {
        let status = self.gateway.status(&asked.call)?;
        let header = self.header_now(asked).await?;
        let has_leader = self.gateway.standing(&asked.keyspace).has_leader;
        let mut errors: Vec<String> = self.alarms(asked)?.iter().map(alarm_text).collect();
        if !has_leader {
            errors.push(EtcdError::NoLeader.to_string());
        }
        let replica = self.replica(asked, &status).cloned().unwrap_or_default();
        let bytes = i64::try_from(replica.data_bytes).unwrap_or(i64::MAX);
        Ok(StatusResponse {
            header: Some(self.answers(asked).header(&header)),
            version: self.version().to_owned(),
            db_size: bytes,
            leader: replica.leader_node_id,
            raft_index: replica.committed_index,
            raft_term: replica.term,
            raft_applied_index: replica.applied_index,
            errors,
            db_size_in_use: bytes,
            is_learner: replica.role == "learner",
            storage_version: self.cluster_version(),
            db_size_quota: 0,
            downgrade_info: None,
        })
    }

    async fn hand_over(&self, asked: &Asked, target: u64) -> Result<MoveLeaderResponse, Failure> {
        let status = self.gateway.status(&asked.call)?;
        let replica = self.replica(asked, &status).ok_or(EtcdError::NotLeader)?;
        if replica.leader_node_id != status.node_id {
            return Err(EtcdError::NotLeader.into());
        }
        let members = self.members(asked)?;
        if !members.iter().any(|member| member.id == target && !member.is_learner) {
            return Err(EtcdError::BadLeaderTransferee.into());
        }
        let transfer = v1::TransferLeaderRequest { range_id: replica.range_id, to_node_id: target };
        self.gateway.transfer_leader(&asked.call, transfer).await?;
        Ok(MoveLeaderResponse { header: Some(self.plain_header(asked)) })
    }

    /// A hash of every key as it was at a revision, as this node's replica has it: equal on all
    /// of them. 0 = as it is now.
    async fn hash_keys(&self, mut asked: Asked, revision: i64) -> Result<HashKvResponse, Failure> {
        asked.call.direct = true;
        let Standing { header, oldest, .. } = self.gateway.standing(&asked.keyspace);
        let header = header.ok_or(EtcdError::NoLeader)?;
        let newest = i64::try_from(header.revision.0).unwrap_or(i64::MAX);
        let revision = if revision <= 0 { newest } else { revision };
        let mut range = EtcdRange {
            key: [0].as_slice().into(),
            range_end: [0].as_slice().into(),
            revision,
            part_bytes: HASHED_AT_ONCE_BYTES,
            ..EtcdRange::default()
        };
        let mut hash = Xxh3::new();
        loop {
            asked.call.deadline = self.deadline_of_one();
            let success = vec![EtcdOperation::Range(range.clone()).into()];
            let txn = EtcdTxn { success, ..EtcdTxn::default() };
            let (keyspace, read) = (asked.keyspace.clone(), read_options(true));
            let part = EtcdRead { keyspace, txn, read };
            let Answer { value, .. } = self.gateway.etcd_read(&asked.call, part).await?;
            let Some(EtcdResult::Range { entries, more, .. }) = value.results.into_iter().next()
            else {
                return Err(unexpected("range", &"another step"));
            };
            entries.iter().for_each(|entry| add(&mut hash, entry));
            match entries.last() {
                Some(last) if more => range.key = [last.key.as_ref(), &[0]].concat().into(),
                _ => break,
            }
        }
        let compact_revision = match oldest.0 {
            0 => NEVER_COMPACTED,
            oldest => i64::try_from(oldest).unwrap_or(i64::MAX),
        };
        let header = Some(self.answers(&asked).header(&header));
        let hash = hash.digest().to_le_bytes();
        let [a, b, c, d, ..] = hash;
        let hash = u32::from_le_bytes([a, b, c, d]);
        Ok(HashKvResponse { header, hash, compact_revision, hash_revision: revision })
    }
}

/// An alarm as etcd prints it.
fn alarm_text(alarm: &AlarmMember) -> String {
    format!("memberID:{} alarm:{} ", alarm.member_id, alarm.alarm().as_str_name())
}

/// Every part of an entry, each with its length or in fixed width.
fn add(hash: &mut Xxh3, entry: &Entry) {
    for bytes in [&entry.key, &entry.value] {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    let figures = [entry.create_revision.0, entry.revision.0, entry.version, entry.lease.0];
    for figure in figures {
        hash.update(&figure.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_tells_keys_from_values_and_every_figure() {
        let of = |entry: &Entry| {
            let mut hash = Xxh3::new();
            add(&mut hash, entry);
            hash.digest()
        };
        let entry = Entry { key: "ab".into(), value: "c".into(), ..Entry::default() };
        let mut others = vec![Entry { key: "a".into(), value: "bc".into(), ..entry.clone() }];
        others.push(Entry { version: 1, ..entry.clone() });
        others.push(Entry { revision: holdfast_model::Revision(1), ..entry.clone() });
        others.push(Entry { lease: holdfast_model::LeaseId(1), ..entry.clone() });
        assert!(others.iter().all(|other| of(other) != of(&entry)));
        assert_eq!(of(&entry), of(&entry.clone()));
    }

    #[test]
    fn an_alarm_is_printed_as_etcd_does() {
        let alarm = AlarmMember { member_id: 7, alarm: AlarmType::Nospace.into() };
        assert_eq!(alarm_text(&alarm), "memberID:7 alarm:NOSPACE ");
    }
}
