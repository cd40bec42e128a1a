//! Waiting for company without waiting for time.
//!
//! An entry of the log and a read round cost a sync or messages of every replica whatever they
//! carry, so on a busy node the more come along the better. How busy it is shows in how long a
//! turn of the reactor takes: the time that all other tasks which can go on need. Where that is
//! nothing, nobody is on the way either, and who waits goes at once.

use std::time::Duration;

use holdfast_env::Clock;
use holdfast_runtime::yield_now;

/// Turns that are always taken. Two let everything that has already arrived, or arrives while the
/// others have their turn, be read, decoded and queued: on a busy node that is a third more
/// commands per entry (CPU per put -10 to -20 %), on an idle one it costs two empty turns.
const TURNS_MIN: usize = 2;
/// A turn in which next to nothing was done.
const IDLE_TURN: Duration = Duration::from_micros(20);
/// Longest time given to others while their turns are not idle; of the order of a sync, which
/// whoever comes too late has to wait for.
const GATHER_MAX: Duration = Duration::from_micros(1_500);

/// Gives others turns until there is nothing to do for them, at most [`GATHER_MAX`] and the turn
/// that it ends in.
pub(crate) async fn gather(clock: &dyn Clock) {
    for _ in 0..TURNS_MIN {
        yield_now().await;
    }
    let began = clock.monotonic();
    let mut last = began;
    while last.saturating_sub(began) < GATHER_MAX {
        yield_now().await;
        let now = clock.monotonic();
        if now.saturating_sub(last) < IDLE_TURN {
            return;
        }
        last = now;
    }
}
