//! openraft's view of the asynchronous world: tokio's tasks and timers, the node's own clock.
//!
//! openraft knows its runtime by static functions only. So the clock and the randomness of the
//! node travel with each task, as a task-local that [`Runtime::spawn`] hands on; many nodes with
//! different clocks can then live in one process.
//!
//! [`Instant`] is `env::Clock::monotonic` (CLOCK_BOOTTIME), so that leases count the time a
//! process is paused. Timers only say when to wake, and are tokio's.
#![allow(clippy::disallowed_methods)] // This is the adapter that the bans point to.

use std::convert::Infallible;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::sync::Arc;
use std::time::Duration;

use holdfast_env::real::{RealClock, RealEntropy};
use holdfast_env::{Clock, Entropy};
use openraft::AsyncRuntime;
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime, TokioWatch};

/// The doors of the node a task belongs to.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

tokio::task_local! {
    static CONTEXT: Arc<Context>;
}

/// Runs `future` with the doors of `context`; whatever it spawns through openraft has them too.
pub(crate) fn scope<F: Future>(
    context: Arc<Context>,
    future: F,
) -> impl Future<Output = F::Output> {
    CONTEXT.scope(context, future)
}

/// A moment of the node's monotonic clock, in nanoseconds.
///
/// Signed, because openraft subtracts leases from a clock that may have just started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(i64);

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl openraft::Instant for Instant {
    fn now() -> Self {
        // Outside of a replica's tasks there is no simulated clock to miss.
        let now = CONTEXT.try_with(|context| context.clock.monotonic());
        Self(nanos(now.unwrap_or_else(|_| RealClock.monotonic())))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl Sub<Self> for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        let nanos = self.0.saturating_sub(earlier.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }
}

/// Random numbers of the node's own source.
#[derive(Debug)]
pub struct Random(Option<Arc<Context>>);

impl rand_core::TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.try_next_u64()? >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(match &self.0 {
            Some(context) => context.entropy.u64(),
            None => RealEntropy.u64(),
        })
    }

    fn try_fill_bytes(&mut self, buffer: &mut [u8]) -> Result<(), Infallible> {
        match &self.0 {
            Some(context) => context.entropy.fill(buffer),
            None => RealEntropy.fill(buffer),
        }
        Ok(())
    }
}

/// tokio with the node's clock and randomness.
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: Send + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = Instant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + Send> = tokio::time::Timeout<T>;
    type ThreadLocalRng = Random;
    type Mpsc = TokioMpsc;
    type Watch = TokioWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: Send + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        match CONTEXT.try_with(Arc::clone) {
            Ok(context) => tokio::spawn(CONTEXT.scope(context, future)),
            Err(_) => tokio::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        tokio::time::sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        tokio::time::sleep(deadline - <Instant as openraft::Instant>::now())
    }

    fn timeout<R, F: Future<Output = R> + Send>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(
        deadline: Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout(deadline - <Instant as openraft::Instant>::now(), future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        error.is_panic()
    }

    fn thread_rng() -> Random {
        Random(CONTEXT.try_with(Arc::clone).ok())
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use openraft::Instant as _;
    use rand_core::Rng;

    use super::*;

    #[test]
    fn a_young_clock_can_look_further_back_than_its_start() {
        let now = Instant(5);
        let earlier = now - Duration::from_secs(1);
        assert!(earlier < now);
        assert_eq!(now - earlier, Duration::from_secs(1));
        assert_eq!(earlier - now, Duration::ZERO);
    }

    #[test]
    fn tasks_inherit_the_clock_of_the_node_that_spawned_them() {
        let time = holdfast_env::sim::SimTime::new();
        let clock = Arc::new(holdfast_env::sim::SimClock::new(time));
        clock.advance(Duration::from_secs(1234));
        let entropy = Arc::new(holdfast_env::sim::SimEntropy::new(7));
        let context = Arc::new(Context { clock: clock.clone(), entropy });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (now, random) = runtime.block_on(scope(context, async {
            Runtime::spawn(async {
                Runtime::spawn(async { (Instant::now(), Runtime::thread_rng().next_u64()) })
                    .await
                    .unwrap()
            })
            .await
            .unwrap()
        }));
        assert_eq!(now, Instant(nanos(clock.monotonic())));
        assert_eq!(random, holdfast_env::sim::SimEntropy::new(7).u64());
    }
}
