use std::future::pending;
use std::time::Duration;

use holdfast_runtime::{Deadline, Elapsed, interval, sleep, timeout};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_timeout_drops_what_takes_too_long_and_passes_what_does_not() {
    assert_eq!(timeout(SECOND, pending::<()>()).await, Err(Elapsed));
    let in_time = async {
        sleep(SECOND / 2).await;
        7
    };
    assert_eq!(timeout(SECOND, in_time).await, Ok(7));
}

#[tokio::test(start_paused = true)]
async fn the_first_beat_comes_a_period_from_now_and_missed_beats_are_not_made_up() {
    let start = Instant::now();
    let mut beat = interval(SECOND);
    beat.tick().await;
    assert_eq!(start.elapsed(), SECOND);
    sleep(SECOND * 5 + SECOND / 2).await;
    beat.tick().await;
    let late = start.elapsed();
    beat.tick().await;
    assert_eq!(start.elapsed() - late, SECOND, "the rhythm starts anew");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_shared_by_all_steps_of_a_request() {
    let deadline = Deadline::after(SECOND);
    assert_eq!(deadline.limit(sleep(SECOND / 2)).await, Ok(()));
    assert_eq!(deadline.remaining(), SECOND / 2);
    assert_eq!(deadline.limit(sleep(SECOND)).await, Err(Elapsed));
    assert!(deadline.has_passed());
    deadline.wait().await;
    assert_eq!(deadline.min(Deadline::after(SECOND)), deadline);
    assert!(Deadline::after(Duration::MAX).remaining() > SECOND);
}
