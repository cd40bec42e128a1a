//! The door to time.

use std::fmt::Debug;
use std::time::Duration;

/// Two clocks: one to measure with, one to compare with people's and other machines' time.
pub trait Clock: Send + Sync + Debug {
    /// Time since an arbitrary start; never goes back and counts the time a process is paused
    /// or the machine sleeps (CLOCK_BOOTTIME). Cost: one vDSO or system call.
    fn monotonic(&self) -> Duration;

    /// Wall time since the Unix epoch; may jump in both directions.
    fn wall(&self) -> Duration;
}
