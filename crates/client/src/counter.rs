//! Counters that many clients add to at once.
//!
//! One key takes as many increments as its range commits. A sharded counter spreads them over
//! many keys, and so over many ranges; its value is their sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};

use crate::client::Client;
use crate::error::Error;
use crate::write::IncrementAnswer;

/// Most shards of a counter: its value is read in one batch.
pub const COUNTER_SHARDS_MAX: usize = 1_000;

impl Client {
    /// The counter called `name`, spread over `shards` keys (`name#0`, `name#1`, …). Everyone
    /// who uses it must say the same number; more may be added later, never taken away.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// let visits = client.counter("visits", 16)?;
    /// visits.add(1).await?;
    /// println!("{} visits", visits.value().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for 0 shards or more than [`COUNTER_SHARDS_MAX`].
    pub fn counter(&self, name: impl AsRef<[u8]>, shards: usize) -> Result<Counter, Error> {
        if shards == 0 || shards > COUNTER_SHARDS_MAX {
            let text = format!("shards: 1 to {COUNTER_SHARDS_MAX}, given {shards}");
            return Err(Error::Invalid(text));
        }
        let key = |index: usize| {
            let mut key = BytesMut::from(name.as_ref());
            key.extend_from_slice(format!("#{index}").as_bytes());
            key.freeze()
        };
        let first = usize::try_from(self.inner.doors.entropy.u64() & 0xffff).unwrap_or(0);
        let turn = Arc::new(AtomicUsize::new(first));
        Ok(Counter { client: self.clone(), keys: (0..shards).map(key).collect(), turn })
    }
}

/// A sharded counter. Made by [`Client::counter`].
#[derive(Clone, Debug)]
pub struct Counter {
    client: Client,
    keys: Arc<[Bytes]>,
    turn: Arc<AtomicUsize>,
}

impl Counter {
    /// Adds `delta`, exactly once, to the next shard; answers that shard's number.
    ///
    /// # Errors
    /// As [`crate::Increment::send`].
    pub async fn add(&self, delta: i64) -> Result<IncrementAnswer, Error> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.keys.len();
        let key = self.keys.get(turn).cloned().unwrap_or_default();
        self.client.increment(key, delta).await
    }

    /// The sum of all shards. It contains every addition acknowledged before, and may contain
    /// any that is under way; it is not the state of one moment.
    ///
    /// # Errors
    /// Where a shard cannot be read; [`Error::NotANumber`] where a shard holds something else, or
    /// the sum does not fit 64 bits.
    pub async fn value(&self) -> Result<i64, Error> {
        let mut sum: i64 = 0;
        for answer in self.client.batch_get(self.keys.iter().cloned()).await? {
            let Some(entry) = answer?.entry else { continue };
            let text = std::str::from_utf8(&entry.value).ok();
            let number: Option<i64> = text.and_then(|text| text.parse().ok());
            sum = number.and_then(|number| sum.checked_add(number)).ok_or_else(|| {
                Error::NotANumber(format!("shard {}", String::from_utf8_lossy(&entry.key)))
            })?;
        }
        Ok(sum)
    }

    /// Deletes all shards, each for itself: additions meanwhile may survive.
    ///
    /// # Errors
    /// Where a shard could not be deleted, or may have been.
    pub async fn reset(&self) -> Result<(), Error> {
        let mut batch = self.client.batch();
        for key in self.keys.iter() {
            batch = batch.delete(key.clone());
        }
        for result in batch.await? {
            result?;
        }
        Ok(())
    }
}
