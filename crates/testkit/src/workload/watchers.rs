//! Watchers: follow everything, break off now and then, go on where they were.

use std::time::Duration;

use holdfast_env::sim::Random;
use holdfast_runtime::{sleep, timeout};

use super::Workload;
use crate::history::{Batch, Record, Watch};
use crate::kv::{WatchStart, Watching};

/// A watch that is over is given up when nothing came for so long.
const QUIET: Duration = Duration::from_secs(2);
/// How often a watcher looks whether the run is over.
const LOOK: Duration = Duration::from_millis(200);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_millis(100);
/// Most watches of one watcher.
const STARTS_MAX: usize = 10_000;
/// Most batches of one watch.
const BATCHES_MAX: usize = 1_000_000;

/// One watcher. The first sees everything, the second leaves deletes out, the third puts.
pub(super) async fn watch(workload: &Workload, mut random: Random, number: u32) {
    let mut before: Option<(u64, Option<Vec<u8>>)> = None;
    for _ in 0..STARTS_MAX {
        let resume = before.as_ref().and_then(|(_, token)| token.clone());
        let start = WatchStart {
            key: workload.plan.prefix.clone(),
            is_prefix: true,
            from: if resume.is_none() { Some(1) } else { None },
            resume,
            no_puts: number % 3 == 2,
            no_deletes: number % 3 == 1,
        };
        let mut watching = match workload.kv.watch(&start).await {
            Ok(watching) => watching,
            Err(_) if workload.is_over() => return,
            Err(_) => {
                sleep(PAUSE).await;
                continue;
            }
        };
        let id = workload.recorder.unique();
        workload.recorder.push(Record::Watch(Watch {
            id,
            at: workload.recorder.now(),
            key: start.key,
            is_prefix: true,
            from: start.from,
            resumes: before.as_ref().and_then(|(id, token)| token.as_ref().map(|_| *id)),
            no_puts: start.no_puts,
            no_deletes: start.no_deletes,
            previous: true,
        }));
        let known = before.take().and_then(|(_, token)| token);
        let (token, is_done) = follow(workload, &mut random, id, watching.as_mut()).await;
        if is_done {
            return;
        }
        before = Some((id, token.or(known)));
    }
}

/// Takes down what a watch delivers; answers the last token, and whether the run is over.
async fn follow(
    workload: &Workload,
    random: &mut Random,
    id: u64,
    watching: &mut dyn Watching,
) -> (Option<Vec<u8>>, bool) {
    let mut token = None;
    let mut quiet = Duration::ZERO;
    // Every other watch is broken off after some batches.
    let batches = if random.chance(50) { 1 + random.below(20) } else { BATCHES_MAX as u64 };
    let mut taken = 0;
    while taken < batches || workload.is_over() {
        let mut next = watching.next();
        let delivered = loop {
            match timeout(LOOK, &mut next).await {
                Ok(delivered) => break delivered,
                Err(_) if workload.is_over() && quiet >= QUIET => return (token, true),
                Err(_) => quiet += LOOK,
            }
        };
        let Ok(batch) = delivered else {
            sleep(PAUSE).await;
            return (token, workload.is_over());
        };
        // Bookmarks go on for ever.
        quiet = if batch.events.is_empty() { quiet + LOOK } else { Duration::ZERO };
        taken += 1;
        token = Some(batch.token);
        workload.recorder.push(Record::Batch(Batch {
            watch: id,
            at: workload.recorder.now(),
            range: batch.range,
            revision: batch.revision,
            events: batch.events,
        }));
        if workload.is_over() && quiet >= QUIET {
            return (token, true);
        }
    }
    (token, false)
}
