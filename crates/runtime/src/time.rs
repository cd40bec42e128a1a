//! Waiting. Time here is the runtime's: real in production, virtual in simulation.
//!
//! These timers say *when to wake*. What time it *is* — for leases, for range time — is asked of
//! `env::Clock`, which a fault may bend; so nothing here hands out an instant to compare.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

/// Waits for `duration`.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// A wait that took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it took too long")]
pub struct Elapsed;

/// Waits for `future`, at most for `duration`; then drops it.
///
/// # Errors
/// [`Elapsed`]: whatever the future was doing has stopped at its last await.
pub async fn timeout<T>(duration: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    tokio::time::timeout(duration, future).await.map_err(|_| Elapsed)
}

/// A beat; see [`interval`].
#[derive(Debug)]
pub struct Interval(tokio::time::Interval);

impl Interval {
    /// Waits for the next beat. Cancel safe.
    pub async fn tick(&mut self) {
        self.0.tick().await;
    }

    /// The next beat comes a whole period from now.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// A beat every `period`, the first one a period from now. Beats missed while nobody waited are
/// not made up for: the rhythm starts anew.
///
/// # Panics
/// If `period` is zero.
pub fn interval(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Interval(interval)
}

/// The moment by which a request must be answered, carried through all its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `duration` from now; a century at most.
    pub fn after(duration: Duration) -> Self {
        Self(Instant::now() + duration.min(Duration::from_secs(100 * 365 * 86_400)))
    }

    /// What is left; zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether nothing is left.
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// The earlier of the two.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Ord::min(self, other)
    }

    /// Waits until it has passed.
    pub async fn wait(self) {
        tokio::time::sleep_until(self.0).await;
    }

    /// Waits for `future`, at most until the deadline.
    ///
    /// # Errors
    /// [`Elapsed`], as [`timeout`].
    pub async fn limit<T>(self, future: impl Future<Output = T>) -> Result<T, Elapsed> {
        tokio::time::timeout_at(self.0, future).await.map_err(|_| Elapsed)
    }
}
