//! Leader election: a lock whose holder says who it is.

use std::time::Duration;

use bytes::Bytes;
use holdfast_runtime::sleep;

use crate::client::Client;
use crate::error::Error;
use crate::lock::{Lock, LockGuard};
use crate::options::with_deadline;

/// How often [`Election::changed`] looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

impl Client {
    /// The election called `name`. Elections and locks of one name are the same thing.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// let leadership = client.election("scheduler").campaign("host-7").await?;
    /// println!("leading in term {}", leadership.fencing_token());
    /// leadership.lost().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn election(&self, name: impl Into<Bytes>) -> Election {
        Election { client: self.clone(), name: name.into(), ttl: None }
    }
}

/// An election, by name. Made by [`Client::election`].
#[derive(Clone, Debug)]
#[must_use = "an election does nothing until something is asked of it"]
pub struct Election {
    client: Client,
    name: Bytes,
    ttl: Option<Duration>,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// What it called itself.
    pub value: Bytes,
    /// Grows with every leader, and fences what they do.
    pub fencing_token: u64,
}

impl Election {
    with_deadline!();

    /// A leader that falls silent is replaced after this long; ≥ 1 s. Default: 10 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Waits, until the deadline, to become the leader, who calls itself `value` (at most 1,024
    /// bytes). The leadership ends when the guard is released, dropped or lost.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    pub async fn campaign(&self, value: impl Into<Bytes>) -> Result<LockGuard, Error> {
        self.lock().value(value).acquire().await
    }

    /// Who leads now; `None`: nobody.
    ///
    /// # Errors
    /// As any read.
    pub async fn leader(&self) -> Result<Option<Leader>, Error> {
        let state = self.lock().inspect().await?;
        let (value, fencing_token) = (state.value, state.fencing_token);
        Ok(state.held.then_some(Leader { value, fencing_token }))
    }

    /// Waits until someone leads whose token is not `seen` (0: anyone). Looks four times a
    /// second, so a leader that came and went in between is not reported.
    ///
    /// # Errors
    /// What a read is refused with; what passes is waited out.
    pub async fn changed(&self, seen: u64) -> Result<Leader, Error> {
        loop {
            match self.leader().await {
                Ok(Some(leader)) if leader.fencing_token != seen => return Ok(leader),
                Err(error) if !error.is_retryable() => return Err(error),
                Ok(_) | Err(_) => sleep(LOOK_INTERVAL).await,
            }
        }
    }

    fn lock(&self) -> Lock {
        let lock = self.client.lock(self.name.clone());
        match self.ttl {
            Some(ttl) => lock.ttl(ttl),
            None => lock,
        }
    }
}
