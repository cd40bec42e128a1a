//! Waiting for a lock: at the leader's node, on its replica, for as long as somebody wants it.
//!
//! The queue is in the state machine; a waiter's place there lives by its TTL. While the call
//! lasts, the leader's node keeps the place alive; when the call is dropped, it gives the place up.
//! It never gives up a lock that was granted: the same owner may have asked again on another
//! connection and hold it by now. A grant nobody is left to hear of ends by its TTL.

use std::time::Duration;

use bytes::Bytes;
use holdfast_kv as kv;
use holdfast_kv::command::{LockAcquire, LockKeepAlive, LockRelease};
use holdfast_replica::{LockWaiter, Replica};
use holdfast_runtime::{Deadline, spawn, timeout};
use holdfast_wire::peer::v1::forward_request::Work;

use super::attempt::{Turn, unsent};
use super::backoff::Backoff;
use super::coordination::lock_outcome;
use super::serve::{self, Proposed};
use super::{Gateway, Place, forwarded};
use crate::api::{ApiError, Call, Header};
use crate::auth::Identity;

/// Time at the end of a wait that is kept for leaving the queue: a fifth, at most this.
const LEAVE_MAX: Duration = Duration::from_millis(250);
/// How long a place nobody wants any more is tried to be given up; its TTL ends it otherwise.
const GIVE_UP_MAX: Duration = Duration::from_secs(2);
/// A place is kept alive this many times within its TTL.
const KEEP_ALIVES_PER_TTL: u32 = 3;

impl Gateway {
    /// Takes a lock, waiting for it at the node that leads its range.
    pub(super) async fn acquire_waiting(
        &self,
        call: &Call,
        place: Place<'_>,
        acquire: LockAcquire,
    ) -> Result<(Header, kv::LockOutcome), ApiError> {
        let items = vec![kv::Item { seq: 0, operation: Some(acquire.into()) }];
        let mut command = self.command(call, None, items)?;
        let mut backoff = Backoff::new(call.deadline);
        let mut hint = None;
        loop {
            let error = match self.resolve(place) {
                Ok(target) => match self.turn_to_lead(call, &target, hint) {
                    Ok(Turn::Here(replica)) => {
                        let who = &call.identity;
                        self.acquire_here(&replica, who, &mut command, call.deadline).await
                    }
                    Ok(Turn::There(node)) => {
                        let work = Work::LockWait(command.to_bytes());
                        let answer = self.send(call, target.range, node, work).await;
                        answer.map_err(|error| unsent(error, call)).and_then(forwarded::proposed)
                    }
                    Err(error) => Err(error),
                }
                .and_then(Proposed::single),
                Err(error) => Err(error),
            };
            match error {
                Ok(answer) => return lock_outcome(answer),
                Err(error) => hint = self.again(call, &mut backoff, error).await?,
            }
        }
    }

    /// Takes a lock on a replica of this node, waiting for the grant.
    pub(super) async fn acquire_here(
        &self,
        replica: &Replica,
        who: &Identity,
        command: &mut kv::Command,
        deadline: Deadline,
    ) -> Result<Proposed, ApiError> {
        let acquire = match command.items.as_slice() {
            [kv::Item { operation: Some(kv::Operation::LockAcquire(acquire)), .. }] => {
                acquire.clone()
            }
            _ => return Err(ApiError::Malformed("a lock to wait for: exactly one".into())),
        };
        let left = deadline.remaining();
        let until = Deadline::after(left - (left / 5).min(LEAVE_MAX));
        loop {
            let (name, owner) = (acquire.name.clone(), acquire.owner.clone());
            let Some(grant) = replica.wait_for_grant(name, owner) else {
                return Err(ApiError::Overloaded {
                    what: "waiters for locks of the range".into(),
                    retry_after: LEAVE_MAX,
                });
            };
            let proposed = serve::propose(self, replica, who, command, deadline).await?;
            if !is_waiting(&proposed) {
                return Ok(proposed);
            }
            let mut place = QueuePlace::new(replica, who, &acquire);
            let ended = place.wait(self, grant, until).await;
            // Whatever comes now, the place is dealt with: taken, left, lost, asked for elsewhere.
            place.kept = true;
            match ended? {
                Ended::Granted(grant) => return Ok(granted(proposed, &acquire, &grant)),
                Ended::Held(answer) => return Ok(answer),
                Ended::Late => {
                    let mut release = place.release();
                    return serve::propose(self, replica, who, &mut release, deadline).await;
                }
                Ended::Lost => {}
            }
        }
    }
}

/// How a wait in the queue ended.
enum Ended {
    /// The lock was granted.
    Granted(kv::LockGrant),
    /// The lock turned out to be held by the waiter.
    Held(Proposed),
    /// Time is up.
    Late,
    /// The place is gone, or nobody knows: the lock is to be asked for again.
    Lost,
}

fn is_waiting(proposed: &Proposed) -> bool {
    let waiting =
        |lock: &kv::LockOutcome| matches!(lock.standing, kv::LockStanding::Waiting { .. });
    matches!(proposed.items.first(), Some(Ok(kv::Outcome::Lock(lock))) if waiting(lock))
}

/// The answer of a waiter that was granted the lock.
fn granted(proposed: Proposed, acquire: &LockAcquire, grant: &kv::LockGrant) -> Proposed {
    let state = kv::LockState {
        owner: acquire.owner.clone(),
        token: grant.token,
        value: acquire.value.clone(),
        expires_at_ms: grant.expires_at_ms,
        ..kv::LockState::default()
    };
    let lock = kv::LockOutcome {
        standing: kv::LockStanding::Held { token: grant.token },
        expires_at_ms: grant.expires_at_ms,
        changed: true,
        state,
    };
    let header = Header { revision: grant.token, ..proposed.header };
    Proposed { header, items: vec![Ok(kv::Outcome::Lock(lock))] }
}

/// A place in a lock's queue, given up when dropped unless it was dealt with.
struct QueuePlace {
    replica: Replica,
    who: Identity,
    name: Bytes,
    owner: Bytes,
    /// How often it has to be kept alive.
    beat: Duration,
    kept: bool,
}

impl QueuePlace {
    fn new(replica: &Replica, who: &Identity, acquire: &LockAcquire) -> Self {
        let (name, owner) = (acquire.name.clone(), acquire.owner.clone());
        let beat = Duration::from_millis(acquire.ttl_ms.max(1)) / KEEP_ALIVES_PER_TTL;
        let (replica, who) = (replica.clone(), who.clone());
        Self { replica, who, name, owner, beat, kept: false }
    }

    /// Waits for the grant and keeps the place alive meanwhile.
    async fn wait(
        &self,
        gateway: &Gateway,
        mut grant: LockWaiter,
        until: Deadline,
    ) -> Result<Ended, ApiError> {
        loop {
            match timeout(self.beat.min(until.remaining()), grant.granted()).await {
                Ok(Some(grant)) => return Ok(Ended::Granted(grant)),
                Ok(None) => return Ok(Ended::Lost),
                Err(_) if until.has_passed() => return Ok(Ended::Late),
                Err(_) => {}
            }
            let (replica, mut keep_alive) = (&self.replica, self.keep_alive());
            let kept = serve::propose(gateway, replica, &self.who, &mut keep_alive, until).await;
            match kept.and_then(Proposed::single).and_then(lock_outcome) {
                Ok((header, lock)) => match lock.standing {
                    kv::LockStanding::Waiting { .. } => {}
                    kv::LockStanding::Held { .. } => {
                        let items = vec![Ok(kv::Outcome::Lock(lock))];
                        return Ok(Ended::Held(Proposed { header, items }));
                    }
                    kv::LockStanding::Absent => return Ok(Ended::Lost),
                },
                // The TTL of the place passed while this node was paused.
                Err(ApiError::LockNotHeld) => return Ok(Ended::Lost),
                // Another leader has the queue now: the origin asks there for the same place.
                Err(error) if error.is_elsewhere() => return Err(error),
                // Busy for the moment; the next beat tries again.
                Err(_) => {}
            }
        }
    }

    fn keep_alive(&self) -> kv::Command {
        let (name, owner) = (self.name.clone(), self.owner.clone());
        kv::Command::single(LockKeepAlive { name, owner, token: 0 })
    }

    fn release(&self) -> kv::Command {
        let (name, owner) = (self.name.clone(), self.owner.clone());
        kv::Command::single(LockRelease { name, owner, token: 0, queue_only: true })
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (replica, release) = (self.replica.clone(), self.release());
        spawn(async move {
            if let Err(error) = replica.propose(&release, Deadline::after(GIVE_UP_MAX)).await {
                tracing::debug!(%error, "a place in a lock's queue is left to its TTL");
            }
        });
    }
}
