//! Leases: keys that live as long as someone renews them.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use holdfast_model::{LeaseId, position};
use holdfast_runtime::{Elapsed, sleep};
use holdfast_wire::v1;
use tokio::sync::watch;

use crate::call::{Kind, Limit, Plan, Prefer, Target};
use crate::client::{Client, check_deadline};
use crate::error::Error;
use crate::method;
use crate::options::{awaitable, with_deadline};
use crate::streams::{Break, Pauses, break_of, break_of_info, open};
use crate::types::millis;

/// A lease is renewed after this part of the time it has left.
const BEATS_PER_TTL: u32 = 3;
/// Pause after a renewal that failed.
const BEAT_MIN: Duration = Duration::from_millis(200);

impl Client {
    /// Asks for a lease that ends `ttl` (1 s … ten years) after its last renewal. `key` places
    /// it: the lease can be bound to keys with the same `{tag}`, or to any key of a keyspace
    /// with one range.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// use std::time::Duration;
    ///
    /// let lease = client.grant_lease("{worker-7}", Duration::from_secs(10)).await?;
    /// client.put("{worker-7}/address", "10.0.0.7").lease(lease.id()).await?;
    /// let alive = lease.keep_alive();
    /// // … while `alive` exists, the key does.
    /// drop(alive);
    /// # Ok(())
    /// # }
    /// ```
    pub fn grant_lease(&self, key: impl Into<Bytes>, ttl: Duration) -> GrantLease {
        GrantLease { client: self.clone(), key: key.into(), ttl, id: LeaseId(0) }
    }

    /// A handle on a lease that someone else was granted, or this program before a restart.
    pub fn lease(&self, id: LeaseId) -> Lease {
        Lease { client: self.clone(), id, ttl: Duration::ZERO, asked: None }
    }
}

/// Options of a lease. Made by [`Client::grant_lease`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct GrantLease {
    client: Client,
    key: Bytes,
    ttl: Duration,
    id: LeaseId,
}

impl GrantLease {
    with_deadline!();

    /// Chooses the id; its upper half must be that of the key's hash position
    /// ([`LeaseId::new`]). Default: the server chooses.
    pub fn id(mut self, id: LeaseId) -> Self {
        self.id = id;
        self
    }

    /// Asks.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]: the chosen id is taken. [`Error::Unknown`]: it may have been
    /// granted; it ends by itself. All others: it was not.
    pub async fn send(self) -> Result<Lease, Error> {
        check_deadline(self.client.deadline)?;
        let Self { client, key, ttl, id } = self;
        let place = position(&key);
        let request = v1::LeaseGrantRequest {
            keyspace: client.wire_keyspace(),
            ttl_ms: millis(ttl),
            key,
            lease_id: id.0,
            session: None,
        };
        let limit = client.limit();
        let asked = Some(client.inner.doors.clock.monotonic());
        let answer = client.mutate(&method::LEASE_GRANT, request, place, limit).await?;
        let (id, ttl) = (LeaseId(answer.lease_id), Duration::from_millis(answer.ttl_ms));
        Ok(Lease { client, id, ttl, asked })
    }
}

awaitable!(GrantLease => Lease, send);

/// What is known of a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseState {
    /// What it was granted for.
    pub granted: Duration,
    /// What is left of it.
    pub remaining: Duration,
    /// The keys bound to it, if asked for.
    pub keys: Vec<Bytes>,
}

/// A lease. Dropping it does nothing: the lease ends when its time is over, or is revoked.
#[derive(Clone, Debug)]
pub struct Lease {
    client: Client,
    id: LeaseId,
    ttl: Duration,
    /// Monotonic time before it was granted; none where somebody else asked for it.
    asked: Option<Duration>,
}

impl Lease {
    /// Its id, for [`crate::Put::lease`].
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// What it was granted for; zero for a handle from [`Client::lease`].
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Renews it once; answers the time it now has.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`]: it has ended, and its keys with it. [`Error::Deadline`]: call
    /// again while there is time.
    pub async fn renew(&self) -> Result<Duration, Error> {
        self.renew_within(self.client.limit()).await
    }

    async fn renew_within(&self, limit: Limit) -> Result<Duration, Error> {
        let mut pauses = Pauses::default();
        let mut last = "no node answered".to_owned();
        loop {
            match limit.deadline.limit(self.attempt(&mut pauses, limit)).await {
                Ok(Ok(ttl)) => return Ok(ttl),
                Ok(Err(Break::Mendable(error))) if !self.client.inner.config.direct => {
                    last = error.to_string();
                }
                Ok(Err(end)) => return Err(end.into_error()),
                Err(Elapsed) => return Err(Error::Deadline { deadline: limit.total, last }),
            }
        }
    }

    async fn attempt(&self, pauses: &mut Pauses, limit: Limit) -> Result<Duration, Break> {
        pauses.wait(&self.client).await;
        let place = Some(self.id.position());
        let node = self.client.stream_node(place, Prefer::Leader, limit).await;
        let node = node.map_err(Break::Final)?;
        let node = node.ok_or_else(|| lost_way("no endpoint is configured"))?;
        let keyspace = self.client.wire_keyspace();
        let request = v1::LeaseKeepAliveRequest { keyspace, lease_id: self.id.0 };
        // Left open until the answer is in: its end would be the wish to stop.
        let requests = stream::iter([request]).chain(stream::pending());
        let mut answers: tonic::Streaming<v1::LeaseKeepAliveResponse> =
            open(&node, method::LEASE_KEEP_ALIVE, requests, true).await?;
        let answer = match answers.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(lost_way("the server ended the stream")),
            Err(status) => return Err(break_of(&status)),
        };
        match &answer.error {
            Some(info) => Err(break_of_info(info)),
            None if answer.ttl_ms == 0 => {
                Err(Break::Final(Error::LeaseNotFound(self.id.to_string())))
            }
            None => Ok(Duration::from_millis(answer.ttl_ms)),
        }
    }

    /// Renews it in the background, three times per TTL, until the answer is dropped.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn keep_alive(&self) -> KeepAlive {
        let (sender, lost) = watch::channel(false);
        let (alive, dropped) = watch::channel(());
        let lease = self.clone();
        self.client.inner.spawn(async move {
            let mut dropped = dropped;
            tokio::select! {
                _ = dropped.changed() => {}
                () = lease.beat() => {
                    sender.send_replace(true);
                }
            }
        });
        KeepAlive { lost, _alive: alive }
    }

    /// Renews until the lease has ended, or must be taken to have.
    ///
    /// Its end is counted from before each request: no answer can promise more.
    async fn beat(&self) {
        let clock = &self.client.inner.doors.clock;
        let mut ends = match self.asked {
            Some(asked) => asked + self.ttl,
            // Of unknown age: it has what the deadline allows for the first renewal.
            None => clock.monotonic() + self.client.deadline,
        };
        let mut pause = match self.asked {
            Some(_) => ends.saturating_sub(clock.monotonic()) / BEATS_PER_TTL,
            None => Duration::ZERO,
        };
        loop {
            sleep(pause).await;
            let asked = clock.monotonic();
            let left = ends.saturating_sub(asked);
            if left.is_zero() {
                return;
            }
            match self.renew_within(Limit::after(left)).await {
                Ok(ttl) => {
                    ends = asked + ttl;
                    pause = ends.saturating_sub(clock.monotonic()) / BEATS_PER_TTL;
                }
                Err(error) if error.is_retryable() => pause = BEAT_MIN.min(left),
                Err(_) => return,
            }
        }
    }

    /// Ends it now, and all keys bound to it; answers how many there were.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`]; [`Error::Unknown`]: it may have ended.
    pub async fn revoke(self) -> Result<u64, Error> {
        let patience = self.client.deadline;
        self.revoke_within(patience).await
    }

    pub(crate) async fn revoke_within(self, patience: Duration) -> Result<u64, Error> {
        let request = v1::LeaseRevokeRequest {
            keyspace: self.client.wire_keyspace(),
            lease_id: self.id.0,
            session: None,
        };
        let (place, limit) = (self.id.position(), Limit::after(patience));
        let answer = self.client.mutate(&method::LEASE_REVOKE, request, place, limit).await?;
        Ok(answer.deleted)
    }

    /// What is left of it; `None`: it has ended. With `keys`, also what is bound to it.
    ///
    /// # Errors
    /// As any read.
    pub async fn state(&self, keys: bool) -> Result<Option<LeaseState>, Error> {
        let keyspace = self.client.wire_keyspace();
        let request = v1::LeaseTimeToLiveRequest { keyspace, lease_id: self.id.0, keys };
        let plan = Plan {
            target: Target::Position(&self.client.keyspace, self.id.position()),
            prefer: Prefer::Leader,
            kind: Kind::Read,
            limit: self.client.limit(),
            waits: false,
        };
        let answer = self.client.inner.call(&method::LEASE_TIME_TO_LIVE, &request, plan).await;
        let answer = answer.map_err(|ended| ended.error)?;
        Ok(answer.found.then(|| LeaseState {
            granted: Duration::from_millis(answer.granted_ttl_ms),
            remaining: Duration::from_millis(answer.remaining_ttl_ms),
            keys: answer.keys,
        }))
    }
}

/// Keeps a lease alive while it exists. Made by [`Lease::keep_alive`].
#[derive(Debug)]
pub struct KeepAlive {
    lost: watch::Receiver<bool>,
    _alive: watch::Sender<()>,
}

impl KeepAlive {
    /// Whether the lease has ended, or could not be renewed in time.
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Waits until the lease has ended, or could not be renewed in time.
    pub async fn lost(&self) {
        // An error means that the task is gone, and with it the renewals.
        let _ = self.lost.clone().wait_for(|lost| *lost).await;
    }
}

fn lost_way(text: &str) -> Break {
    Break::Mendable(Error::Unavailable(text.to_owned()))
}
