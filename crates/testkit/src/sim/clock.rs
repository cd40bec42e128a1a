//! A machine's clock, driven by the time of the simulation.

use std::sync::Arc;
use std::time::Duration;

use holdfast_env::Clock;
use holdfast_env::sim::{SimClock, SimTime};
use holdfast_runtime::Handle;

/// Brings true time up to date at every look, so that it moves within a tick as well.
#[derive(Clone, Debug)]
pub(super) struct HostClock {
    pub(super) time: Arc<SimTime>,
    pub(super) clock: Arc<SimClock>,
}

impl HostClock {
    fn catch_up(&self) {
        // Outside of a runtime, as when a crashed host is dropped, timers show nothing.
        if Handle::try_current().is_ok()
            && let Some(elapsed) = turmoil::sim_elapsed()
        {
            self.time.advance_to(elapsed);
        }
    }
}

impl Clock for HostClock {
    fn monotonic(&self) -> Duration {
        self.catch_up();
        self.clock.monotonic()
    }

    fn wall(&self) -> Duration {
        self.catch_up();
        self.clock.wall()
    }
}
