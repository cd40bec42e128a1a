//! What administrators ask of the cluster, carried out through range 0.

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{NodeId, RangeId};
use holdfast_wire::peer::v1 as wire;
use holdfast_wire::v1;

use super::System;
use crate::api::{ApiError, Call, ClusterAdmin, Reply};
use crate::errors::from_info;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Version of everything in a data directory.
pub const FORMAT_VERSION: u32 = 1;
/// Handing over a leadership takes at most this long.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(10);

impl System {
    /// What this node is, hosts and reaches.
    pub fn status(&self) -> v1::StatusResponse {
        let membership = self.identity.membership();
        let hosted = self.registry.hosted();
        let connected = self.transport.connected().into_iter().collect();
        let mut replicas: Vec<_> = hosted.values().map(|h| h.status(&connected)).collect();
        for (group, failure) in self.registry.broken() {
            replicas.push(v1::ReplicaStatus {
                range_id: group.range.0,
                replica_id: group.replica.0,
                role: "stopped".into(),
                failure,
                ..v1::ReplicaStatus::default()
            });
        }
        let uptime = self.clock.monotonic().saturating_sub(self.started);
        v1::StatusResponse {
            cluster_id: membership.map(|(c, _)| c.to_bytes().to_vec().into()).unwrap_or_default(),
            node_id: membership.map_or(0, |(_, node)| node.0),
            version: VERSION.into(),
            state: self.state().name().into(),
            replicas,
            uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
            connected_node_ids: self.transport.connected().into_iter().map(|n| n.0).collect(),
            disk_full: self.registry.is_disk_full(),
            format_version: FORMAT_VERSION,
            room_bytes: self.registry.room_bytes(),
        }
    }

    async fn transfer(&self, range: RangeId, to: NodeId) -> Result<NodeId, ApiError> {
        let hosted = self.registry.hosted();
        let local = hosted.get(&range);
        let leader = local.and_then(|h| h.replica.leader().leader).map(|(_, node)| node);
        let leader = leader.or_else(|| self.map.peek().ranges.get(&range).and_then(|r| r.leader));
        let Some(leader) = leader else {
            let known = self.map.peek().ranges.contains_key(&range);
            return Err(if known {
                ApiError::NoQuorum(format!("{range} has no known leader"))
            } else {
                ApiError::Invalid(format!("there is no range {}", range.0))
            });
        };
        if leader == to {
            return Ok(leader);
        }
        if leader == self.node() {
            return self.hand_over(range, to).await;
        }
        let mut client = self.transport.dial_node(leader).map_err(ApiError::NotReady)?;
        let request = wire::TransferLeadershipRequest {
            cluster_id: self.transport.cluster().to_bytes().to_vec().into(),
            range_id: range.0,
            to_node_id: to.0,
        };
        let call = client.transfer_leadership(request);
        let answer = holdfast_runtime::timeout(TRANSFER_TIMEOUT, call).await;
        let unknown = |reason: String, deadline| ApiError::OutcomeUnknown { reason, deadline };
        let answer = answer
            .map_err(|_| unknown(format!("{leader} does not answer"), true))?
            .map_err(|status| unknown(status.message().to_owned(), false))?
            .into_inner();
        match answer.error {
            Some(error) => Err(from_info(error)),
            None => Ok(NodeId(answer.leader_node_id)),
        }
    }

    pub(super) async fn on_transfer(
        &self,
        request: wire::TransferLeadershipRequest,
    ) -> wire::TransferLeadershipResponse {
        let done = self.hand_over(RangeId(request.range_id), NodeId(request.to_node_id)).await;
        match done {
            Ok(node) => wire::TransferLeadershipResponse { leader_node_id: node.0, error: None },
            Err(error) => {
                wire::TransferLeadershipResponse { leader_node_id: 0, error: Some(error.info()) }
            }
        }
    }
}

/// [`System`] as the API sees it.
#[derive(Clone)]
pub struct Admin(pub Arc<System>);

impl ClusterAdmin for Admin {
    fn init<'a>(&'a self, call: &'a Call, request: v1::InitRequest) -> Reply<'a, v1::InitResponse> {
        Box::pin(self.0.found(request, call.deadline))
    }

    fn status(&self) -> v1::StatusResponse {
        self.0.status()
    }

    fn look_for_keyspace<'a>(&'a self, call: &'a Call, name: &'a str) -> Reply<'a, ()> {
        Box::pin(self.0.look_for_keyspace(name, call.deadline))
    }

    fn transfer_leader<'a>(
        &'a self,
        call: &'a Call,
        request: v1::TransferLeaderRequest,
    ) -> Reply<'a, v1::TransferLeaderResponse> {
        Box::pin(async move {
            let moved = self.0.transfer(RangeId(request.range_id), NodeId(request.to_node_id));
            let moved = call.deadline.limit(moved).await;
            let leader = moved.map_err(|_| ApiError::OutcomeUnknown {
                reason: "leadership was not handed over in time".into(),
                deadline: true,
            })??;
            Ok(v1::TransferLeaderResponse { leader_node_id: leader.0 })
        })
    }

    fn create_keyspace<'a>(
        &'a self,
        call: &'a Call,
        request: v1::CreateKeyspaceRequest,
    ) -> Reply<'a, v1::CreateKeyspaceResponse> {
        Box::pin(async move {
            let keyspace = self.0.create_keyspace_until(request, call.deadline).await?;
            Ok(v1::CreateKeyspaceResponse { keyspace: Some(keyspace) })
        })
    }

    fn alter_keyspace<'a>(
        &'a self,
        call: &'a Call,
        request: v1::AlterKeyspaceRequest,
    ) -> Reply<'a, v1::AlterKeyspaceResponse> {
        Box::pin(async move {
            let history = request
                .history
                .ok_or_else(|| ApiError::Invalid("history: nothing to change".into()))?;
            let changed = self.0.change_keyspace(&request.name, history, call.deadline).await?;
            Ok(v1::AlterKeyspaceResponse { keyspace: Some(changed) })
        })
    }

    fn drop_keyspace<'a>(
        &'a self,
        call: &'a Call,
        request: v1::DropKeyspaceRequest,
    ) -> Reply<'a, v1::DropKeyspaceResponse> {
        Box::pin(async move {
            self.0.drop_keyspace_now(&request.name, call.deadline).await?;
            Ok(v1::DropKeyspaceResponse {})
        })
    }
}
