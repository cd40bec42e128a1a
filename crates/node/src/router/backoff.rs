//! How long the origin waits before it asks again.

use std::time::Duration;

use holdfast_env::Entropy;
use holdfast_runtime::{Deadline, sleep};

/// First pause: a leader that just changed is often known a moment later.
const PAUSE_MIN: Duration = Duration::from_millis(4);
/// Longest pause: an election takes several of these, and nobody is asked more often.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Growing pauses with jitter, until a deadline.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    deadline: Deadline,
    /// Whether the one free look at a fresh leader hint has been used since the last pause.
    hinted: bool,
}

impl Backoff {
    /// Begins; nothing has been waited for.
    pub fn new(deadline: Deadline) -> Self {
        Self { next: PAUSE_MIN, deadline, hinted: false }
    }

    /// Waits before the next attempt. A leader hint earns one attempt without a pause.
    ///
    /// False where the pause would end after the deadline: then nothing is waited for, so that
    /// the caller learns the reason in time.
    pub async fn pause(&mut self, hint: bool, entropy: &dyn Entropy) -> bool {
        if hint && !self.hinted && !self.deadline.has_passed() {
            self.hinted = true;
            return true;
        }
        let jitter = entropy.u64() % 512;
        let pause = self.next.mul_f64(0.75 + jitter as f64 / 1024.0);
        if pause >= self.deadline.remaining() {
            return false;
        }
        sleep(pause).await;
        self.next = (self.next * 2).min(PAUSE_MAX);
        self.hinted = false;
        true
    }
}
