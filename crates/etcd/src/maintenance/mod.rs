//! Service `Maintenance`: what operators of etcd look at and do.
//!
//! What etcd needs an operator for (space that has to be won back, a lead that has to be handed
//! over before a stop) happens by itself or costs nothing. Alarms that somebody has raised stand in
//! the keyspace's own state until somebody clears them; what is wrong with the asked node (its disk
//! is full, its copy is damaged) is told beside them and goes with its reason.

mod snapshot;

use std::collections::BTreeSet;

use futures_util::stream::BoxStream;
use holdfast_kv::command::{EtcdAlarm, EtcdAlarmKind};
use holdfast_kv::{Alarm, Outcome};
use holdfast_model::Revision;
use holdfast_node::api::{Answer, ApiError, Cluster as _, Operation, Rank, Write};
use holdfast_wire::etcd::etcdserverpb::alarm_request::AlarmAction;
use holdfast_wire::etcd::etcdserverpb::downgrade_request::DowngradeAction;
use holdfast_wire::etcd::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeInfo, DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest,
    HashResponse, MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse,
    StatusRequest, StatusResponse, maintenance_server,
};
use holdfast_wire::v1;
use tonic::{Request, Response, Status, async_trait};

use crate::EtcdError;
use crate::call::{Asked, Failure, Service, unexpected};

/// How often a hash of the whole state is tried again that something was applied under.
const HASH_RETRIES_MAX: usize = 16;
/// What stands for "nothing was compacted".
const NEVER_COMPACTED: i64 = -1;
/// What a client is told that begins to go back to an older version.
const NO_DOWNGRADE: &str = "etcdserver: the version is what etcd.version of the configuration \
                            says; there is nothing to downgrade";

#[async_trait]
impl maintenance_server::Maintenance for Service {
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let result = self.alarms(&asked, request.get_ref()).await;
        self.done(Operation::Cluster, None, started, result)
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked_by(Rank::User, request.metadata()).await?;
        let result = self.own_status(&asked).await;
        self.done(Operation::Cluster, None, started, result)
    }

    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        self.asked_by(Rank::Administrator, request.metadata()).await?;
        // Space comes back in compaction: there is nothing to do, and nobody has to wait.
        Ok(Response::new(DefragmentResponse::default()))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked_by(Rank::Administrator, request.metadata()).await?;
        let result = self.state_hash(&asked).await;
        self.done(Operation::Cluster, None, started, result)
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let result = self.history_hash(&asked, request.get_ref().revision).await;
        self.done(Operation::Cluster, None, started, result)
    }

    type SnapshotStream = BoxStream<'static, Result<SnapshotResponse, Status>>;

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let started = self.gateway.now();
        let asked = self.asked_by(Rank::Administrator, request.metadata()).await?;
        let result = snapshot::snapshot(self.clone(), asked, self.cluster_version()).await;
        self.done(Operation::Cluster, None, started, result)
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked_by(Rank::Administrator, request.metadata()).await?;
        let result = self.hand_over(&asked, request.get_ref().target_id).await;
        self.done(Operation::Cluster, None, started, result)
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        let asked = self.asked_by(Rank::Administrator, request.metadata()).await?;
        let cluster = self.cluster_version();
        let request = request.get_ref();
        if request.action() != DowngradeAction::Cancel {
            let target = minor_of(&request.version);
            let target = target.ok_or(EtcdError::WrongDowngradeVersionFormat)?;
            if before(&cluster) != Some(target) {
                return Err(EtcdError::InvalidDowngradeTargetVersion.into());
            }
            if request.action() == DowngradeAction::Enable {
                return Err(Status::failed_precondition(NO_DOWNGRADE));
            }
        }
        // To ask whether one could, or to end what was not begun, succeeds as etcd has it.
        let version = minor_of(&cluster).map(|(major, minor)| format!("{major}.{minor}"));
        let version = version.unwrap_or_default();
        let header = self.header_now(&asked).await.map_err(Failure::from)?;
        let header = Some(self.answers(&asked).header(&header));
        Ok(Response::new(DowngradeResponse { header, version }))
    }
}

impl Service {
    /// Lists, raises or clears alarms, in the order of the keyspace's log.
    async fn alarms(
        &self,
        asked: &Asked,
        request: &AlarmRequest,
    ) -> Result<AlarmResponse, Failure> {
        let AlarmRequest { action, member_id, alarm } = *request;
        let operation = EtcdAlarm { action, member: member_id, kind: alarm }.into();
        let write = Write { keyspace: asked.keyspace.clone(), operation, session: None };
        let Answer { header, value } = self.gateway.write(&asked.call, write).await?;
        let mut alarms: BTreeSet<Alarm> = match value {
            Outcome::Alarms(alarms) => alarms.into_iter().collect(),
            other => return Err(unexpected("alarm", &other)),
        };
        if request.action() == AlarmAction::Get {
            let is_asked = |found: &Alarm| alarm == 0 || i32::from(found.kind) == alarm;
            alarms.extend(self.own_alarms(asked)?.into_iter().filter(is_asked));
        }
        let member =
            |alarm: &Alarm| AlarmMember { member_id: alarm.member, alarm: alarm.kind.into() };
        let header = Some(self.answers(asked).header(&header));
        Ok(AlarmResponse { header, alarms: alarms.iter().map(member).collect() })
    }

    /// What is wrong with this node.
    fn own_alarms(&self, asked: &Asked) -> Result<BTreeSet<Alarm>, Failure> {
        let status = self.gateway.status(&asked.call)?;
        let is_damaged = self.replica(asked, &status).is_some_and(|one| !one.failure.is_empty());
        let facts =
            [(status.disk_full, EtcdAlarmKind::NoSpace), (is_damaged, EtcdAlarmKind::Corrupt)];
        let member = status.node_id;
        let stands = facts.into_iter().filter(|(stands, _)| *stands);
        Ok(stands.map(|(_, kind)| Alarm { kind, member }).collect())
    }

    /// This node's replica of the keyspace.
    fn replica<'a>(
        &self,
        asked: &Asked,
        status: &'a v1::StatusResponse,
    ) -> Option<&'a v1::ReplicaStatus> {
        let range = self.range(asked)?;
        status.replicas.iter().find(|replica| replica.range_id == range)
    }

    /// The keyspace's range.
    fn range(&self, asked: &Asked) -> Option<u64> {
        let map = self.gateway.map(&asked.call).ok()?;
        map.ranges_of(&asked.keyspace).ok()?.first().map(|range| range.id.0)
    }

    async fn own_status(&self, asked: &Asked) -> Result<StatusResponse, Failure> {
        let status = self.gateway.status(&asked.call)?;
        let header = self.header_now(asked).await?;
        let standing = self.gateway.standing(&asked.keyspace);
        let mut alarms = self.own_alarms(asked)?;
        alarms.extend(standing.alarms);
        let no_leader = (!standing.has_leader).then(|| EtcdError::NoLeader.to_string());
        let errors = no_leader.into_iter().chain(alarms.iter().map(alarm_text)).collect();
        let replica = self.replica(asked, &status).cloned().unwrap_or_default();
        let bytes = i64::try_from(replica.data_bytes).unwrap_or(i64::MAX);
        Ok(StatusResponse {
            header: Some(self.answers(asked).header(&header)),
            version: self.version().to_owned(),
            db_size: bytes,
            leader: header.leader.map_or(0, |leader| leader.0),
            raft_index: replica.committed_index,
            raft_term: header.term.0,
            raft_applied_index: replica.applied_index,
            errors,
            db_size_in_use: bytes,
            is_learner: replica.role == "learner",
            storage_version: self.cluster_version(),
            // Where writes would be refused if nobody else wrote to the disk: a keyspace has no
            // bound of its own.
            db_size_quota: bytes.saturating_add_unsigned(status.room_bytes),
            downgrade_info: Some(DowngradeInfo::default()),
        })
    }

    /// A hash of everything this node's copy of the keyspace holds.
    async fn state_hash(&self, asked: &Asked) -> Result<HashResponse, Failure> {
        let range_id = self.range(asked).ok_or(EtcdError::NoLeader)?;
        let mut retries = 0;
        let hash = loop {
            let request = v1::StateHashRequest { range_id };
            match self.gateway.state_hash(&asked.call, request).await {
                Err(ApiError::NotReady(_)) if retries < HASH_RETRIES_MAX => retries += 1,
                answer => break answer?.hash,
            }
        };
        let header = self.header_now(asked).await?;
        let header = Some(self.answers(asked).header(&header));
        Ok(HashResponse { header, hash: folded(hash) })
    }

    /// A hash of all keys and their history up to a revision in this node's copy.
    async fn history_hash(&self, asked: &Asked, upto: i64) -> Result<HashKvResponse, Failure> {
        let upto = Revision(u64::try_from(upto).unwrap_or(0));
        let answer = self.gateway.history_hash(&asked.call, &asked.keyspace, upto).await?;
        let signed = |revision: Revision| i64::try_from(revision.0).unwrap_or(i64::MAX);
        let compacted = answer.value.compacted;
        Ok(HashKvResponse {
            header: Some(self.answers(asked).header(&answer.header)),
            hash: answer.value.hash,
            compact_revision: if compacted.0 == 0 { NEVER_COMPACTED } else { signed(compacted) },
            hash_revision: signed(answer.value.revision),
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
        if target != status.node_id {
            let range_id = replica.range_id;
            let transfer = v1::TransferLeaderRequest { range_id, to_node_id: target };
            self.gateway.transfer_leader(&asked.call, transfer).await?;
        }
        Ok(MoveLeaderResponse::default())
    }
}

/// An alarm as etcd prints it.
fn alarm_text(alarm: &Alarm) -> String {
    let kind = match alarm.kind {
        EtcdAlarmKind::None => AlarmType::None,
        EtcdAlarmKind::NoSpace => AlarmType::Nospace,
        EtcdAlarmKind::Corrupt => AlarmType::Corrupt,
    };
    format!("memberID:{} alarm:{}", alarm.member, kind.as_str_name())
}

/// Both halves of a hash in one.
fn folded(hash: u64) -> u32 {
    let [a, b, c, d, ..] = (hash ^ (hash >> 32)).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Major and minor of a version, with or without its last part.
fn minor_of(version: &str) -> Option<(u16, u16)> {
    let mut parts = version.split('.');
    let minor = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let patch = parts.next().is_none_or(|patch| patch.parse::<u16>().is_ok());
    (patch && parts.next().is_none()).then_some(minor)
}

/// The minor version before one, where there is one of the same major.
fn before(version: &str) -> Option<(u16, u16)> {
    let (major, minor) = minor_of(version)?;
    Some((major, minor.checked_sub(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_printed_as_etcd_does() {
        let alarm = Alarm { kind: EtcdAlarmKind::NoSpace, member: 7 };
        assert_eq!(alarm_text(&alarm), "memberID:7 alarm:NOSPACE");
    }

    #[test]
    fn both_halves_of_a_hash_count() {
        assert_ne!(folded(1), folded(2));
        assert_ne!(folded(1 << 40), folded(2 << 40));
    }

    #[test]
    fn versions_have_two_or_three_numbers() {
        for (version, minor) in [("3.7", Some((3, 7))), ("3.6.11", Some((3, 6)))] {
            assert_eq!(minor_of(version), minor);
        }
        for bad in ["", "3", "3.x", "3.7.", "3.7.1.2", "v3.7"] {
            assert_eq!(minor_of(bad), None, "{bad}");
        }
        assert_eq!(before("3.7.0"), Some((3, 6)));
        assert_eq!(before("4.0.0"), None);
    }
}
