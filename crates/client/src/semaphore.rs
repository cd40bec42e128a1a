//! Semaphores: so many holders at once and no more, each with a slot and a fencing token.

use std::time::Duration;

use bytes::Bytes;

use crate::client::{Client, check_deadline};
use crate::error::Error;
use crate::options::with_deadline;
use crate::turns::{Place, Turn, Turns, View};

/// TTL of a permit that does not say.
const TTL_DEFAULT: Duration = Duration::from_secs(10);

impl Client {
    /// The semaphore called `name` (1 … 200 bytes of UTF-8) with so many permits (1 … 1,000).
    ///
    /// Whoever uses it must say the same number; while anyone holds or waits, another number is
    /// refused. Its keys begin with `semaphore/{name}/` and are gone when nobody does. A name
    /// with a `{tag}` of its own keeps it, and its place on the ring.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// let permit = client.semaphore("imports", 3).acquire().await?;
    /// println!("slot {} under token {}", permit.slot(), permit.fencing_token());
    /// tokio::select! {
    ///     () = permit.lost() => println!("someone else may have it by now: stop"),
    ///     () = work(permit.slot(), permit.fencing_token()) => permit.release().await?,
    /// }
    /// # Ok(())
    /// # }
    /// # async fn work(_: u32, _: u64) {}
    /// ```
    pub fn semaphore(&self, name: impl Into<Bytes>, permits: u32) -> Semaphore {
        Semaphore {
            client: self.clone(),
            name: name.into(),
            permits,
            ttl: TTL_DEFAULT,
            value: Bytes::new(),
            patience: None,
        }
    }
}

/// A semaphore, by name. Made by [`Client::semaphore`].
///
/// Permits are given in the order in which they were asked for. An uncontended acquisition costs
/// three commits and one read of the semaphore's range, a release one commit.
#[derive(Clone, Debug)]
#[must_use = "a semaphore does nothing until a permit is asked for"]
pub struct Semaphore {
    client: Client,
    name: Bytes,
    permits: u32,
    ttl: Duration,
    value: Bytes,
    patience: Option<Duration>,
}

/// Who has a permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Which of the slots, from 0.
    pub slot: u32,
    /// The token of the grant.
    pub fencing_token: u64,
    /// The holder's text.
    pub value: Bytes,
}

/// A semaphore as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SemaphoreState {
    /// How many permits there are, as whoever came first has it; 0: nobody is there.
    pub permits: u32,
    /// Who has one, by slot.
    pub holders: Vec<Holder>,
    /// How many wait.
    pub waiters: u64,
}

impl From<View> for SemaphoreState {
    fn from(view: View) -> Self {
        let (permits, waiters) = (view.slots_max(), view.waiting() as u64);
        let holder = |(slot, entry): (u32, crate::types::Entry)| Holder {
            slot,
            fencing_token: entry.revision.0,
            value: entry.value,
        };
        Self { permits, holders: view.slots.into_iter().map(holder).collect(), waiters }
    }
}

impl Semaphore {
    with_deadline!();

    /// A permit is free again this long after its holder fell silent; ≥ 1 s. Default: 10 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// A text that [`Semaphore::inspect`] shows while a permit is held; at most 1,024 bytes.
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = value.into();
        self
    }

    /// How long [`Semaphore::acquire`] waits, however long that is. Default: the deadline.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Takes a permit, or waits for one. It is renewed in the background until it is released or
    /// dropped. Giving up waiting, also by dropping the future, gives up the place in the queue.
    ///
    /// # Errors
    /// [`Error::Deadline`]: others held all permits all the time, or the cluster did not answer.
    /// [`Error::FailedPrecondition`]: others have another number of permits.
    /// [`Error::Overloaded`]: 2,000 hold or wait. [`Error::Unknown`]: a permit may have been
    /// taken; it is given back in the background, or ends by itself after its TTL.
    pub async fn acquire(self) -> Result<Permit, Error> {
        let patience = self.patience.unwrap_or(self.client.deadline);
        self.turns()?.take(patience).await.map(Permit)
    }

    /// Takes a permit if one is free and nobody waits for it, else says how things are.
    ///
    /// # Errors
    /// As [`Semaphore::acquire`], but for waiting.
    pub async fn try_acquire(self) -> Result<Result<Permit, SemaphoreState>, Error> {
        Ok(self.turns()?.try_take().await?.map(Permit).map_err(SemaphoreState::from))
    }

    /// Who holds it and how many wait; always linearizable.
    ///
    /// # Errors
    /// As any read.
    pub async fn inspect(self) -> Result<SemaphoreState, Error> {
        Ok(self.turns()?.look().await?.into())
    }

    fn turns(self) -> Result<Turns, Error> {
        check_deadline(self.client.deadline)?;
        let place = Place::new("semaphore", &self.name)?;
        let Self { client, permits, ttl, value, .. } = self;
        let client = client.with_read_level(crate::types::ReadLevel::Linearizable);
        Ok(Turns { client, place, slots: permits, ttl, value })
    }
}

/// A permit of a semaphore. Renewed in the background; dropping it gives it back.
#[derive(Debug)]
#[must_use = "the permit is given back when it is dropped"]
pub struct Permit(Turn);

impl Permit {
    /// Its number, from 0 to the number of permits − 1: at no moment do two permits of a
    /// semaphore have the same.
    pub fn slot(&self) -> u32 {
        self.0.slot
    }

    /// The token of this grant: greater than that of every grant of this semaphore before. What
    /// the semaphore protects should remember the highest token *per slot* and refuse smaller
    /// ones; then no more than the number of permits ever act, also where a holder was paused.
    pub fn fencing_token(&self) -> u64 {
        self.0.token
    }

    /// Whether the permit is known to be lost: someone else may have its slot.
    ///
    /// `false` is no proof: this process may have been paused since the last renewal.
    pub fn is_lost(&self) -> bool {
        self.0.is_lost()
    }

    /// Waits until the permit is lost: its lease has ended, or was not renewed in time.
    pub async fn lost(&self) {
        self.0.lost().await;
    }

    /// Gives the permit back; the first waiter has it then.
    ///
    /// # Errors
    /// Where it could not be given back in time; it ends by itself after its TTL.
    pub async fn release(self) -> Result<(), Error> {
        self.0.release().await
    }
}
