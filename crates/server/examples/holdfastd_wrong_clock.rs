//! `holdfastd` by a clock that runs wrong, for tests: they start it in the place of `holdfastd`.
//!
//! `WRONG_CLOCK=900,-60000` in the environment: 900 milliseconds pass while 1000 do, and the wall
//! clock was a minute slow at the start. Timers stay right, as in the simulation: what a node
//! concludes rests on its clock, and timers only say when it looks.
#![allow(clippy::disallowed_methods, clippy::print_stderr)]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use holdfast_env::Clock;
use holdfast_env::real::RealClock;

/// The machine's clocks, bent.
#[derive(Debug)]
struct WrongClock {
    rate_permille: u32,
    /// What the right clocks showed at the start, and what the wall clock then showed.
    start: Duration,
    wall_at_start: Duration,
}

impl WrongClock {
    fn of(text: &str) -> anyhow::Result<Self> {
        let (rate, ahead) = text.split_once(',').context("a rate and an offset")?;
        let (rate_permille, ahead_ms): (u32, i64) = (rate.parse()?, ahead.parse()?);
        let by = Duration::from_millis(ahead_ms.unsigned_abs());
        let wall = RealClock.wall();
        let wall_at_start = if ahead_ms < 0 { wall.saturating_sub(by) } else { wall + by };
        Ok(Self { rate_permille, start: RealClock.monotonic(), wall_at_start })
    }

    /// How much has passed since the start, by this clock.
    fn passed(&self) -> Duration {
        RealClock.monotonic().saturating_sub(self.start) * self.rate_permille / 1_000
    }
}

impl Clock for WrongClock {
    fn monotonic(&self) -> Duration {
        self.start + self.passed()
    }

    fn wall(&self) -> Duration {
        self.wall_at_start + self.passed()
    }
}

fn main() -> ExitCode {
    let wanted = std::env::var("WRONG_CLOCK").unwrap_or_default();
    match WrongClock::of(&wanted) {
        Ok(clock) => holdfast_server::run(Arc::new(clock)),
        Err(error) => {
            eprintln!("WRONG_CLOCK={wanted}: {error:#}");
            ExitCode::from(2)
        }
    }
}
