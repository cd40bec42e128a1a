//! What a replica does by itself: expire, compact, purge, prove staleness bounds, end.
//!
//! Each function is one task; all of them end with the replica.

use std::sync::Arc;
use std::time::Duration;

use holdfast_env::defect;
use holdfast_kv::command::{Compact, Expire};
use holdfast_kv::{Command, Outcome};
use holdfast_runtime::{Deadline, sleep, timeout};

use crate::replica::Inner;

/// Keys removed by one `Expire`: a part of a millisecond of apply, which clients' commands wait
/// for.
const EXPIRE_KEYS_MAX: u32 = 64;
/// Rest after an `Expire` that left some of a backlog, as a multiple of the time it took: many keys
/// that expire at once get a fifteenth of the node, the less the busier it is. Nobody reads them
/// any more, and clients do not wait for them.
const EXPIRE_REST: u32 = 14;
/// The same where keys keep coming faster than that removes them.
const EXPIRE_REST_LATE: u32 = 1;
/// How late the oldest of a backlog may be before rests become shorter.
const EXPIRE_LATE: Duration = Duration::from_secs(180);
/// How late it is when rests are as short as they become; between the two they shrink evenly, so
/// that keys which expire all the time settle at the lateness where as many go as come.
const EXPIRE_LATE_MAX: Duration = Duration::from_secs(360);
/// Longest such rest, however slow the node is: the other ranges' backlogs wait for it.
const EXPIRE_REST_MAX: Duration = Duration::from_secs(1);
/// How often a range that waits or rests looks for leases, locks and sessions that are due. They
/// go first in every `Expire` and wait neither for a turn nor for a rest.
const URGENT_LOOK_EVERY: Duration = Duration::from_millis(50);
/// Pause after a proposal of our own was refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
/// Time a proposal of our own may take.
const PROPOSAL_MAX: Duration = Duration::from_secs(5);
/// Longest sleep until something is due, so that range time and timers cannot drift apart.
const DUE_SLEEP_MAX: Duration = Duration::from_secs(60);
/// How often a leader looks whether history can be given up.
const COMPACT_EVERY: Duration = Duration::from_secs(5);
/// How often a replica looks whether log can be purged.
const PURGE_EVERY: Duration = Duration::from_secs(2);
/// How long openraft may take to note that something became durable.
const SNAPSHOT_NOTED_MAX: Duration = Duration::from_secs(1);
/// Log that is kept although all of it is durable, while the journal is not half full: followers
/// that lag a little need no snapshot.
const LOG_TAIL_BYTES: u64 = 1 << 20;
/// How often a bound is proven while follower reads come.
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// Follower reads longer ago than this are over.
const PROBE_IDLE: Duration = Duration::from_secs(10);

/// Ends the replica once it was found that it cannot go on.
pub(crate) async fn retire(inner: Arc<Inner>) {
    inner.health.ended.notified().await;
    if inner.is_only_voter() {
        let range = inner.options.range;
        tracing::error!(%range, "no other replica has its data: restore it from a backup");
    }
    inner.progress.hub.stop();
    // openraft's core has ended after this, however it ended.
    let _ = inner.raft.shutdown().await;
}

/// Proposes `Expire` whenever something is due, while this replica leads.
pub(crate) async fn expire(inner: Arc<Inner>) {
    let mut leader = inner.leadership.watch();
    loop {
        if leader.wait_for(|info| info.role == crate::Role::Leader).await.is_err() {
            return;
        }
        inner.progress.look_for_due(&inner.reader);
        let mut is_backlog = false;
        let mut term = inner.leadership.info().term;
        while let Some(now_ms) = inner.leadership.stamp_ms() {
            let due_ms = inner.progress.due_ms();
            if due_ms > now_ms {
                inner.leadership.settle(term);
                let wait = Duration::from_millis(due_ms - now_ms).min(DUE_SLEEP_MAX);
                tokio::select! {
                    () = sleep(wait) => {}
                    () = inner.progress.due_earlier.notified() => {}
                    () = inner.progress.clock_wanted.notified() => {}
                    changed = leader.changed() => if changed.is_err() { return },
                }
            } else {
                is_backlog = match is_backlog {
                    false => expire_once(&inner).await,
                    true => expire_of_backlog(&inner).await,
                };
            }
            term = inner.leadership.info().term;
        }
    }
}

/// One `Expire` when it is this range's turn, and the rest that others shall have.
async fn expire_of_backlog(inner: &Inner) -> bool {
    let turn = tokio::select! {
        turn = inner.admission.backlog_turn() => turn,
        () = urgent(inner) => return expire_once(inner).await,
    };
    let begin = inner.clock.monotonic();
    let is_more = expire_once(inner).await;
    if is_more {
        let took = inner.clock.monotonic().saturating_sub(begin);
        tokio::select! {
            () = sleep(rest_after(took, lateness(inner))) => {}
            () = urgent(inner) => {}
        }
    }
    drop(turn);
    is_more
}

/// How long ago the oldest that is still there was due.
fn lateness(inner: &Inner) -> Duration {
    let due_ms = inner.progress.due_ms();
    Duration::from_millis(inner.leadership.stamp_ms().unwrap_or(0).saturating_sub(due_ms))
}

/// The rest after an `Expire` that took so long, of a backlog so late.
fn rest_after(took: Duration, late: Duration) -> Duration {
    let beyond = late.saturating_sub(EXPIRE_LATE).min(EXPIRE_LATE_MAX - EXPIRE_LATE);
    let share = beyond.as_secs_f64() / (EXPIRE_LATE_MAX - EXPIRE_LATE).as_secs_f64();
    let saved = f64::from(EXPIRE_REST - EXPIRE_REST_LATE) * share;
    took.mul_f64(f64::from(EXPIRE_REST) - saved).min(EXPIRE_REST_MAX)
}

/// Ends when others' turns and rests have to wait for an `Expire`.
async fn urgent(inner: &Inner) {
    tokio::select! {
        () = urgent_due(inner) => {}
        () = inner.progress.clock_wanted.notified() => {}
    }
}

/// Ends when a lease, a lock or a session is due, and when this replica leads no longer.
async fn urgent_due(inner: &Inner) {
    while let Some(now_ms) = inner.leadership.stamp_ms() {
        match inner.reader.next_urgent_due_ms() {
            Ok(due) if due.is_none_or(|due_ms| due_ms > now_ms) => sleep(URGENT_LOOK_EVERY).await,
            // Unreadable: the `Expire` that follows says so.
            _ => return,
        }
    }
}

/// One `Expire`; whether there is more to remove.
async fn expire_once(inner: &Inner) -> bool {
    let command = Command::single(Expire { keys_max: EXPIRE_KEYS_MAX });
    let (term, deadline) = (inner.leadership.info().term, Deadline::after(PROPOSAL_MAX));
    match inner.proposer.propose(&command, deadline).await {
        Ok(committed) => {
            inner.progress.look_for_due(&inner.reader);
            inner.leadership.settle(term);
            return matches!(committed.outcomes.first(), Some(Outcome::Expired { more: true, .. }));
        }
        Err(error) => {
            tracing::debug!(range = %inner.options.range, %error, "expire refused");
            sleep(REFUSED_PAUSE).await;
        }
    }
    false
}

/// Proposes `Compact` as the range's history setting allows, while this replica leads.
pub(crate) async fn compact(inner: Arc<Inner>) {
    loop {
        sleep(COMPACT_EVERY).await;
        let Some(now_ms) = inner.leadership.stamp_ms() else { continue };
        let Some(revision) = inner.reader.compactable(now_ms) else { continue };
        let command = Command::single(Compact { revision: revision.0 });
        let proposed = inner.proposer.propose(&command, Deadline::after(PROPOSAL_MAX)).await;
        if let Err(error) = proposed {
            tracing::debug!(range = %inner.options.range, %error, "compact refused");
        }
    }
}

/// Purges what is durable and nobody needs, on leader and followers alike.
pub(crate) async fn purge(inner: Arc<Inner>) {
    loop {
        sleep(PURGE_EVERY).await;
        inner.staging.drop_idle();
        let is_short = inner.journal.group_bytes(inner.group) <= LOG_TAIL_BYTES;
        if is_short && inner.journal.usage() <= inner.journal.limit() / 2 {
            continue;
        }
        if let Some(upto) = purgeable(&inner)
            && purge_to(&inner, upto).await.is_err()
        {
            return;
        }
    }
}

/// The last index that may be purged; `None` if nothing may.
pub(crate) fn purgeable(inner: &Inner) -> Option<u64> {
    let durable = match defect!(PURGE_BEFORE_DURABLE) {
        true => inner.reader.point().index.0,
        false => inner.engine.durable_point().index.0,
    };
    let purged = inner.journal.log_state(inner.group).purged.map(|p| p.index);
    let held = inner.network.holds.lowest().unwrap_or(u64::MAX);
    let retained_from = inner.journal.retained_from(inner.group);
    let upto = durable.min(held).min(inner.lowest_matched(retained_from));
    (purged.is_none_or(|purged| upto > purged) && upto > 0).then_some(upto)
}

/// Tells openraft that everything up to `upto` is durable, then has it purged.
pub(crate) async fn purge_to(inner: &Inner, upto: u64) -> Result<(), crate::raft::types::Fatal> {
    inner.raft.trigger().snapshot().await?;
    let noted = async {
        let mut metrics = inner.raft.data_metrics();
        loop {
            let snapshot = openraft::async_runtime::WatchReceiver::borrow_and_update(&mut metrics)
                .snapshot
                .map_or(0, |last| last.index);
            let changed = openraft::async_runtime::WatchReceiver::changed(&mut metrics);
            if snapshot >= upto || changed.await.is_err() {
                return;
            }
        }
    };
    // openraft limits the purge to what it has noted; the rest follows next time.
    let _ = timeout(SNAPSHOT_NOTED_MAX, noted).await;
    inner.raft.trigger().purge_log(upto).await
}

/// Proves a staleness bound every quarter of a second while follower reads come.
pub(crate) async fn probe(inner: Arc<Inner>) {
    loop {
        inner.follower_reads.begun.notified().await;
        while inner.follower_reads.idle_for(inner.clock.monotonic()) < PROBE_IDLE {
            if let Err(error) = inner.rounds.join().await {
                tracing::trace!(range = %inner.options.range, %error, "probe failed");
            }
            sleep(PROBE_EVERY).await;
        }
        inner.follower_reads.pause();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{EXPIRE_LATE, EXPIRE_LATE_MAX, EXPIRE_REST_MAX, rest_after};

    const TOOK: Duration = Duration::from_millis(10);

    #[test]
    fn a_rest_grows_with_the_load_up_to_its_bound() {
        assert_eq!(rest_after(TOOK, Duration::ZERO), TOOK * 14);
        assert_eq!(rest_after(Duration::from_secs(30), Duration::ZERO), EXPIRE_REST_MAX);
    }

    #[test]
    fn a_rest_shrinks_with_the_lateness_of_the_backlog_down_to_its_bound() {
        assert_eq!(rest_after(TOOK, EXPIRE_LATE), TOOK * 14);
        assert_eq!(rest_after(TOOK, (EXPIRE_LATE + EXPIRE_LATE_MAX) / 2), TOOK.mul_f64(7.5));
        assert_eq!(rest_after(TOOK, EXPIRE_LATE_MAX * 10), TOOK);
    }
}
