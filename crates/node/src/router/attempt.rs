//! One operation on one range, asked for until somebody has served it or time is up.

use std::time::Duration;

use bytes::Bytes;
use holdfast_kv as kv;
use holdfast_model::{NodeId, RangeId};
use holdfast_replica::{Replica, Role};
use holdfast_wire::peer::v1::{self as peer, forward_request::Work};

use super::backoff::Backoff;
use super::serve::{self, Proposed, Query, ReadSpec, Served};
use super::{Gateway, Place, Target, forwarded, outcome};
use crate::api::{ApiError, Call, ReadLevel};
use crate::convert;
use crate::errors;
use crate::peers::ForwardError;

/// Time kept back for the answer's way to the caller, so that it learns the reason before its own
/// clock gives up: a tenth of what is left, at most this.
const ANSWER_MARGIN_MAX: Duration = Duration::from_millis(50);

/// Whose turn an attempt is.
pub(super) enum Turn {
    Here(Replica),
    There(NodeId),
}

impl Gateway {
    /// Proposes `command` where `place` is, until it was appended or time is up.
    ///
    /// All items should belong to the range. A command none of whose items do, since the range was
    /// split under it, is looked up again; of one that was carried out in part, the caller has to
    /// look at the items.
    pub(super) async fn propose(
        &self,
        call: &Call,
        place: Place<'_>,
        mut command: kv::Command,
    ) -> Result<Proposed, ApiError> {
        let mut backoff = Backoff::new(call.deadline);
        let mut hint = None;
        loop {
            let error = match self.resolve(place) {
                Ok(target) => match self.propose_once(call, &target, hint, &mut command).await {
                    Ok(proposed) => match proposed.elsewhere() {
                        Some(error) if !call.direct => error.clone(),
                        _ => return Ok(proposed),
                    },
                    Err(error) => error,
                },
                Err(error) => error,
            };
            hint = self.again(call, &mut backoff, error).await?;
        }
    }

    /// Reads where `place` is, until some replica has answered or time is up.
    pub(super) async fn read(
        &self,
        call: &Call,
        place: Place<'_>,
        spec: &ReadSpec,
        query: &Query,
    ) -> Result<Served, ApiError> {
        let mut backoff = Backoff::new(call.deadline);
        let mut hint = None;
        let mut at_leader = spec.level == ReadLevel::Lease;
        let mut too_stale = None;
        loop {
            let error = match self.resolve(place) {
                Ok(target) => {
                    let turn = self.turn_to_read(call, &target, hint, at_leader);
                    match self.read_once(call, target.range, turn, spec, query).await {
                        Ok(served) => return Ok(served),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            let lagging = matches!(error, ApiError::TooStale { .. } | ApiError::Behind { .. });
            if matches!(error, ApiError::TooStale { .. }) {
                too_stale = Some(error.clone());
            }
            if lagging && !at_leader && !call.direct {
                // The leader has everything that was acknowledged and can prove the most.
                at_leader = true;
                continue;
            }
            hint = match self.again(call, &mut backoff, error).await {
                Ok(hint) => hint,
                // How fresh a replica was says more than that another could not be reached.
                Err(error) if error.is_elsewhere() => return Err(too_stale.unwrap_or(error)),
                Err(error) => return Err(error),
            };
            // A replica that cannot confirm a read may only be cut off from the leader by itself.
            at_leader = spec.level == ReadLevel::Lease || hint.is_some() || !at_leader;
        }
    }

    /// Decides whether an attempt that failed with `error` is followed by another, and waits for
    /// it. Gives the node to ask, if the error names one.
    pub(super) async fn again(
        &self,
        call: &Call,
        backoff: &mut Backoff,
        error: ApiError,
    ) -> Result<Option<NodeId>, ApiError> {
        if call.direct || !error.is_elsewhere() {
            return Err(error);
        }
        self.parts.host.admit()?;
        let hint = error.leader();
        if backoff.pause(hint.is_some(), &*self.parts.entropy).await {
            Ok(hint)
        } else {
            Err(error)
        }
    }

    pub(super) async fn propose_once(
        &self,
        call: &Call,
        target: &Target,
        hint: Option<NodeId>,
        command: &mut kv::Command,
    ) -> Result<Proposed, ApiError> {
        match self.turn_to_lead(call, target, hint)? {
            Turn::Here(replica) => {
                serve::propose(self, &replica, &call.identity, command, call.deadline).await
            }
            Turn::There(node) => {
                let work = Work::Command(command.to_bytes());
                let answer = self.send(call, target.range, node, work).await;
                let answer = answer.map_err(|error| unsent(error, call))?;
                let proposed = forwarded::proposed(answer)?;
                self.note_told(&proposed.header);
                Ok(proposed)
            }
        }
    }

    async fn read_once(
        &self,
        call: &Call,
        range: RangeId,
        turn: Result<Turn, ApiError>,
        spec: &ReadSpec,
        query: &Query,
    ) -> Result<Served, ApiError> {
        match turn? {
            Turn::Here(replica) => {
                serve::read(self, &replica, &call.identity, spec, query, call.deadline).await
            }
            Turn::There(node) => {
                let work = Work::Read(forwarded::read_message(spec, query));
                let answer = self.send(call, range, node, work).await;
                let answer = answer.map_err(|error| ApiError::NotHere(error.to_string()))?;
                let served = forwarded::served(answer, query)?;
                self.note_told(&served.header);
                Ok(served)
            }
        }
    }

    /// Who is to carry out a command: the leader, as far as anybody knows.
    pub(super) fn turn_to_lead(
        &self,
        call: &Call,
        target: &Target,
        hint: Option<NodeId>,
    ) -> Result<Turn, ApiError> {
        let local = self.parts.host.replica(target.range);
        if let Some(replica) = local.as_ref().filter(|replica| call.direct || leads(replica)) {
            return Ok(Turn::Here(replica.clone()));
        }
        if call.direct {
            return Err(not_hosted(target.range));
        }
        let here = self.parts.host.node();
        let known = local.as_ref().and_then(leader_of).filter(|node| *node != here);
        let elsewhere = hint.filter(|node| *node != here).or(known);
        match (elsewhere, local) {
            (Some(node), _) => Ok(Turn::There(node)),
            // The replica answers with what it knows, also that it does not lead.
            (None, Some(replica)) => Ok(Turn::Here(replica)),
            (None, None) => self.any_host(target).map(Turn::There),
        }
    }

    /// Who is to answer a read: this node where it can, else the leader or whoever hosts the range.
    fn turn_to_read(
        &self,
        call: &Call,
        target: &Target,
        hint: Option<NodeId>,
        at_leader: bool,
    ) -> Result<Turn, ApiError> {
        if at_leader {
            return self.turn_to_lead(call, target, hint);
        }
        match self.parts.host.replica(target.range) {
            Some(replica) => Ok(Turn::Here(replica)),
            None if call.direct => Err(not_hosted(target.range)),
            None => self.any_host(target).map(Turn::There),
        }
    }

    /// A node that hosts the range: its leader by the map, or any, another one every time.
    pub(super) fn any_host(&self, target: &Target) -> Result<NodeId, ApiError> {
        let here = self.parts.host.node();
        if let Some(leader) = target.leader.filter(|node| *node != here) {
            // One attempt in four looks elsewhere, since the hint may name a dead node.
            if !self.parts.entropy.u64().is_multiple_of(4) {
                return Ok(leader);
            }
        }
        let map = self.parts.map.peek();
        let replicas = map.ranges.get(&target.range).map(|range| range.replicas.as_slice());
        let nodes = replicas.unwrap_or_default().iter().map(|replica| replica.node);
        let nodes: Vec<NodeId> = nodes.filter(|node| *node != here).collect();
        let count = nodes.len().max(1) as u64;
        let chosen = usize::try_from(self.parts.entropy.u64() % count).unwrap_or_default();
        nodes.get(chosen).copied().ok_or_else(|| not_hosted(target.range))
    }

    /// Sends `work` to `node`, with what is left of the call's time.
    pub(super) async fn send(
        &self,
        call: &Call,
        range: RangeId,
        node: NodeId,
        work: Work,
    ) -> Result<peer::ForwardResponse, ForwardError> {
        let left = call.deadline.remaining();
        let request = peer::ForwardRequest {
            range_id: range.0,
            deadline_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            user: call.identity.name().to_owned(),
            token: call.identity.token().map(Bytes::copy_from_slice),
            work: Some(work),
            ..peer::ForwardRequest::default()
        };
        self.parts.forward.forward(node, request, left).await
    }
}

/// Whether a replica of this node leads, as far as it knows.
fn leads(replica: &Replica) -> bool {
    replica.leader().role == Role::Leader
}

/// The node that leads a replica's range, as far as it knows.
fn leader_of(replica: &Replica) -> Option<NodeId> {
    replica.leader().leader.map(|(_, node)| node)
}

/// The moment by which a call that is due in `time` has to have its answer.
pub(crate) fn answer_by(time: Duration) -> holdfast_runtime::Deadline {
    holdfast_runtime::Deadline::after(time - (time / 10).min(ANSWER_MARGIN_MAX))
}

/// What a mutation that got no answer from another node means.
pub(super) fn unsent(error: ForwardError, call: &Call) -> ApiError {
    match error {
        ForwardError::NotSent(..) => ApiError::NoQuorum(error.to_string()),
        ForwardError::Unknown(..) => ApiError::OutcomeUnknown {
            reason: error.to_string(),
            deadline: call.deadline.has_passed(),
        },
    }
}

pub(super) fn not_hosted(range: RangeId) -> ApiError {
    ApiError::NotHere(format!("this node does not host range {}", range.0))
}

/// The error another node answered with, if it did.
pub(super) fn refusal(answer: &mut peer::ForwardResponse) -> Result<(), ApiError> {
    match answer.error.take() {
        Some(info) => Err(errors::from_info(info)),
        None => Ok(()),
    }
}

/// The outcomes another node answered with.
pub(super) fn outcomes(answer: &mut peer::ForwardResponse) -> Vec<outcome::ItemResult> {
    std::mem::take(&mut answer.outcomes).into_iter().map(outcome::from_message).collect()
}

/// The header another node answered with.
pub(super) fn header(answer: &peer::ForwardResponse) -> crate::api::Header {
    answer.header.as_ref().map(convert::header_from).unwrap_or_default()
}
