//! What slows a machine down or stops it: a process that is paused, a disk that is slow or hangs.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use holdfast_env::sim::{SimEntropy, SimTime};
use parking_lot::Mutex;

#[derive(Debug, Default)]
struct State {
    is_paused: bool,
    /// No work on the disk ends before this moment of true time.
    stands_until: Duration,
    /// Work on the disk takes so many times longer; 0 stands for 1.
    slowness: u32,
    waiting: Vec<Waker>,
    held_up: u64,
}

/// The brakes of one machine.
///
/// A paused process neither reads nor writes its connections and ends no work on its disk;
/// together with clocks that leap when it goes on
/// ([`pause`](holdfast_env::sim::SimClock::pause)) that is all it can see of a pause.
#[derive(Debug)]
pub(super) struct Brakes {
    time: Arc<SimTime>,
    // Shared between the machine's tasks and the nemesis, which never run at the same time.
    state: Mutex<State>,
}

impl Brakes {
    pub(super) fn new(time: Arc<SimTime>) -> Self {
        Self { time, state: Mutex::default() }
    }

    /// Stops the process for `duration`; [`Brakes::resume`] must be called then.
    pub(super) fn pause(&self, duration: Duration) {
        let mut state = self.state.lock();
        state.is_paused = true;
        state.stands_until = state.stands_until.max(self.time.elapsed() + duration);
    }

    /// Lets the process go on.
    pub(super) fn resume(&self) {
        let mut state = self.state.lock();
        state.is_paused = false;
        state.waiting.drain(..).for_each(Waker::wake);
    }

    /// No work on the disk ends for `duration`.
    pub(super) fn hang(&self, duration: Duration) {
        let mut state = self.state.lock();
        state.stands_until = state.stands_until.max(self.time.elapsed() + duration);
    }

    /// Work on the disk takes so many times longer from now on.
    pub(super) fn slow_down(&self, factor: u32) {
        self.state.lock().slowness = factor;
    }

    /// How often somebody was held up.
    pub(super) fn held_up(&self) -> u64 {
        self.state.lock().held_up
    }

    /// Ready unless the process is paused.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if !state.is_paused {
            return Poll::Ready(());
        }
        state.held_up += 1;
        if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            state.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// Waits while the process is paused.
    pub(super) async fn pass(&self) {
        std::future::poll_fn(|context| self.poll(context)).await;
    }

    /// How long a piece of work on the disk takes: up to `usual`, drawn from `random`, and what
    /// the brakes add.
    pub(super) fn latency(&self, random: &SimEntropy, usual: Duration) -> Duration {
        let micros = u64::try_from(usual.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        let drawn = Duration::from_micros(holdfast_env::Entropy::u64(random) % micros);
        let mut state = self.state.lock();
        let stands = state.stands_until.saturating_sub(self.time.elapsed());
        state.held_up += u64::from(!stands.is_zero() || state.slowness > 1);
        stands + drawn * state.slowness.max(1)
    }
}
