//! Locks with fencing tokens.
//!
//! A lock is lost by time when its holder falls silent, so a holder that was paused may believe
//! in a lock that someone else has by now. What protects against that is the fencing token: it
//! grows with every grant, and the resource refuses a token below the highest it has seen.

use std::time::Duration;

use bytes::Bytes;
use holdfast_model::position;
use holdfast_runtime::{Deadline, Handle, sleep};
use holdfast_wire::v1;
use tokio::sync::watch;

use crate::call::{Kind, Limit, Plan, Prefer, Target};
use crate::client::{Client, check_deadline};
use crate::error::Error;
use crate::method;
use crate::options::{with_deadline, with_read_options};
use crate::read::prefer;
use crate::types::millis;

/// TTL of a lock that does not say.
const TTL_DEFAULT: Duration = Duration::from_secs(10);
/// A lock is renewed after this part of the time it has left.
const BEATS_PER_TTL: u32 = 3;
/// Pause after a renewal that failed.
const BEAT_MIN: Duration = Duration::from_millis(100);
/// A release in the background gets this long.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);

impl Client {
    /// The lock called `name` (1 … 255 bytes).
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// let guard = client.lock("reports/nightly").acquire().await?;
    /// println!("working under token {}", guard.fencing_token());
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lock(&self, name: impl Into<Bytes>) -> Lock {
        let read = self.read_options();
        let (name, value) = (name.into(), Bytes::new());
        Lock { client: self.clone(), name, ttl: TTL_DEFAULT, value, read }
    }
}

/// A lock, by name. Made by [`Client::lock`].
#[derive(Clone, Debug)]
#[must_use = "a lock does nothing until it is acquired"]
pub struct Lock {
    client: Client,
    name: Bytes,
    ttl: Duration,
    value: Bytes,
    read: v1::ReadOptions,
}

/// Who holds a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockState {
    /// Whether anyone does.
    pub held: bool,
    /// The token of the latest grant.
    pub fencing_token: u64,
    /// What is left of the holder's time unless it renews.
    pub remaining: Duration,
    /// The holder's text.
    pub value: Bytes,
    /// How many wait.
    pub waiters: u64,
}

impl From<v1::LockState> for LockState {
    fn from(state: v1::LockState) -> Self {
        Self {
            held: state.held,
            fencing_token: state.fencing_token,
            remaining: Duration::from_millis(state.remaining_ttl_ms),
            value: state.value,
            waiters: state.waiters,
        }
    }
}

impl Lock {
    with_deadline!();
    with_read_options!();

    /// The lock is free again this long after its holder fell silent; ≥ 1 s. Default: 10 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// A text that [`Lock::inspect`] shows while it is held; at most 1,024 bytes.
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = value.into();
        self
    }

    /// Takes the lock, or waits for it until the deadline. It is renewed in the background until
    /// the guard is released or dropped. Giving up waiting also gives up the place in the queue.
    ///
    /// # Errors
    /// [`Error::Deadline`]: someone else held it all the time. [`Error::Unknown`]: it may have
    /// been granted; it is given back in the background, or ends by itself after its TTL.
    pub async fn acquire(self) -> Result<LockGuard, Error> {
        let limit = self.limit()?;
        let mut claim = Claim::new(&self);
        loop {
            if let Ok(grant) = claim.ask(&self, true, limit).await? {
                match claim.confirm(grant, limit).await {
                    Ok(ends) => return Ok(LockGuard::new(claim, grant.token, ends)),
                    // Lost while the grant was on its way: queue again.
                    Err(Error::LockNotHeld(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            if limit.deadline.remaining() <= BEAT_MIN {
                let last = "someone else held the lock".to_owned();
                return Err(Error::Deadline { deadline: limit.total, last });
            }
            sleep(self.client.inner.jitter(BEAT_MIN)).await;
        }
    }

    /// Takes the lock if it is free, else says who has it.
    ///
    /// # Errors
    /// As any call; [`Error::Unknown`]: it may have been granted; it is given back in the
    /// background, or ends by itself after its TTL.
    pub async fn try_acquire(self) -> Result<Result<LockGuard, LockState>, Error> {
        let limit = self.limit()?;
        let mut claim = Claim::new(&self);
        match claim.ask(&self, false, limit).await? {
            Ok(grant) => {
                let ends = claim.confirm(grant, limit).await?;
                Ok(Ok(LockGuard::new(claim, grant.token, ends)))
            }
            Err(state) => {
                claim.is_open = false;
                Ok(Err(state))
            }
        }
    }

    /// Who holds it.
    ///
    /// # Errors
    /// As any read.
    pub async fn inspect(self) -> Result<LockState, Error> {
        let limit = self.limit()?;
        let Self { client, name, read, .. } = self;
        let plan = Plan {
            target: Target::Position(&client.keyspace, position(&name)),
            prefer: prefer(&read),
            kind: Kind::Read,
            limit,
            waits: false,
        };
        let keyspace = client.wire_keyspace();
        let request = v1::LockInspectRequest { keyspace, name, read: Some(read) };
        let answer = client.inner.call(&method::LOCK_INSPECT, &request, plan).await;
        let answer = answer.map_err(|ended| ended.error)?;
        Ok(answer.state.map(LockState::from).unwrap_or_default())
    }

    fn limit(&self) -> Result<Limit, Error> {
        check_deadline(self.client.deadline)?;
        Ok(self.client.limit())
    }
}

/// One acquirer of one lock. Every acquirer is someone else, also two tasks of one client; the
/// owner's name is what makes a repeated request harmless.
#[derive(Clone, Debug)]
struct Party {
    client: Client,
    name: Bytes,
    owner: Bytes,
    ttl: Duration,
}

/// A grant as the server told it.
#[derive(Clone, Copy, Debug)]
struct Grant {
    token: u64,
    /// Monotonic time before it was asked for.
    asked: Duration,
}

impl Party {
    fn plan(&self, limit: Limit, waits: bool) -> Plan<'_> {
        Plan {
            target: Target::Position(&self.client.keyspace, position(&self.name)),
            prefer: Prefer::Leader,
            kind: Kind::Recognised,
            limit,
            waits,
        }
    }

    fn now(&self) -> Duration {
        self.client.inner.doors.clock.monotonic()
    }

    /// Renews the grant; answers when it ends, in monotonic time, counted from before the
    /// request: no answer can promise more.
    async fn renew(&self, token: u64, limit: Limit) -> Result<Duration, Error> {
        let request = v1::LockKeepAliveRequest {
            keyspace: self.client.wire_keyspace(),
            name: self.name.clone(),
            owner: self.owner.clone(),
            fencing_token: token,
        };
        let asked = self.now();
        let plan = self.plan(limit, false);
        let answer = self.client.inner.call(&method::LOCK_KEEP_ALIVE, &request, plan).await;
        let answer = answer.map_err(|ended| ended.error)?;
        Ok(asked + Duration::from_millis(answer.ttl_ms))
    }

    async fn release(&self, token: u64, limit: Limit) -> Result<(), Error> {
        let request = v1::LockReleaseRequest {
            keyspace: self.client.wire_keyspace(),
            name: self.name.clone(),
            owner: self.owner.clone(),
            fencing_token: token,
        };
        let plan = self.plan(limit, false);
        let answer = self.client.inner.call(&method::LOCK_RELEASE, &request, plan).await;
        answer.map(|_| ()).map_err(|ended| ended.error)
    }

    /// Renews until the lock is lost, or must be taken to be.
    async fn beat(&self, token: u64, mut ends: Duration) {
        loop {
            // However long the last renewal took, there is time for the next.
            let mut pause = ends.saturating_sub(self.now()) / BEATS_PER_TTL;
            loop {
                sleep(pause).await;
                let left = ends.saturating_sub(self.now());
                if left.is_zero() {
                    return;
                }
                let limit = Limit { total: left, deadline: Deadline::after(left) };
                match self.renew(token, limit).await {
                    Ok(later) => {
                        ends = later.max(ends);
                        break;
                    }
                    Err(error) if error.is_callers() => return,
                    Err(_) => pause = BEAT_MIN.min(left),
                }
            }
        }
    }
}

/// A party that may hold or wait; given back when dropped, in the background.
#[derive(Debug)]
struct Claim {
    party: Party,
    is_open: bool,
}

impl Claim {
    fn new(lock: &Lock) -> Self {
        let owner = lock.client.inner.doors.entropy.u128().to_be_bytes();
        let party = Party {
            client: lock.client.clone(),
            name: lock.name.clone(),
            owner: Bytes::copy_from_slice(&owner),
            ttl: lock.ttl,
        };
        Self { party, is_open: false }
    }

    async fn ask(
        &mut self,
        lock: &Lock,
        wait: bool,
        limit: Limit,
    ) -> Result<Result<Grant, LockState>, Error> {
        let party = &self.party;
        let request = v1::LockAcquireRequest {
            keyspace: party.client.wire_keyspace(),
            name: party.name.clone(),
            owner: party.owner.clone(),
            ttl_ms: millis(lock.ttl),
            wait,
            value: lock.value.clone(),
        };
        let asked = party.now();
        self.is_open = true;
        let plan = party.plan(limit, wait);
        let answer = party.client.inner.call(&method::LOCK_ACQUIRE, &request, plan).await;
        match answer {
            Ok(answer) if answer.acquired => Ok(Ok(Grant { token: answer.fencing_token, asked })),
            Ok(answer) => Ok(Err(answer.state.map(LockState::from).unwrap_or_default())),
            Err(ended) => {
                // A refused request left nothing behind.
                self.is_open = !ended.error.is_callers();
                Err(ended.error)
            }
        }
    }

    /// When a fresh grant ends. A grant that came after a wait may be older than its answer, so
    /// it is renewed before anyone relies on it.
    async fn confirm(&self, grant: Grant, limit: Limit) -> Result<Duration, Error> {
        let ends = grant.asked + self.party.ttl;
        if self.party.now() < grant.asked + self.party.ttl / BEATS_PER_TTL {
            return Ok(ends);
        }
        self.party.renew(grant.token, limit).await
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Outside of a runtime nothing can be sent; the TTL does it then.
        if !self.is_open || Handle::try_current().is_err() {
            return;
        }
        let party = self.party.clone();
        self.party.client.inner.farewells.spawn(async move {
            let limit = Limit::after(RELEASE_PATIENCE);
            if let Err(error) = party.release(0, limit).await {
                tracing::debug!(%error, "a lock was left to its TTL");
            }
        });
    }
}

/// A lock that is held. Renewed in the background; dropping it gives the lock back.
#[derive(Debug)]
#[must_use = "the lock is given back when the guard is dropped"]
pub struct LockGuard {
    claim: Claim,
    token: u64,
    lost: watch::Receiver<bool>,
    _alive: watch::Sender<()>,
}

impl LockGuard {
    fn new(claim: Claim, token: u64, ends: Duration) -> Self {
        let (loss, lost) = watch::channel(false);
        let (alive, mut dropped) = watch::channel(());
        let party = claim.party.clone();
        claim.party.client.inner.spawn(async move {
            tokio::select! {
                _ = dropped.changed() => {}
                () = party.beat(token, ends) => {
                    loss.send_replace(true);
                }
            }
        });
        Self { claim, token, lost, _alive: alive }
    }

    /// The token of this grant: greater than that of every grant of this lock before. Send it
    /// with every request to what the lock protects, and let that refuse smaller ones.
    pub fn fencing_token(&self) -> u64 {
        self.token
    }

    /// Whether the lock is known to be lost: someone else may hold it.
    ///
    /// `false` is no proof: this process may have been paused since the last renewal.
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Waits until the lock is lost: refused by the range, or not renewed in time.
    pub async fn lost(&self) {
        // An error means that the renewing task is gone.
        let _ = self.lost.clone().wait_for(|lost| *lost).await;
    }

    /// Gives the lock back; the first waiter has it then.
    ///
    /// # Errors
    /// Where the lock could not be given back in time; it ends by itself after its TTL.
    pub async fn release(mut self) -> Result<(), Error> {
        let limit = self.claim.party.client.limit();
        self.claim.party.release(self.token, limit).await?;
        self.claim.is_open = false;
        Ok(())
    }
}
