//! Schedules written by hand: what a random one would come to once in thousands of runs.

use super::cluster::{Cluster, Violation};
use super::options::Options;
use super::panics::Panics;
use super::process::Seeded;
use super::run::on_thread;
use super::trace::Trace;

/// Hands machines as `options` say, on which nothing was founded yet, to `schedule`, on a thread of
/// its own: it says what happens to them and what must hold. The trace tells what happened.
///
/// # Errors
/// [`Violation`]: what `schedule` found, a node that ended by itself, or a panic.
pub fn scheduled(
    seed: u64,
    options: Options,
    schedule: impl FnOnce(&mut Cluster) -> Result<(), Violation> + Send + 'static,
) -> (Result<(), Violation>, Trace) {
    let trace = Trace::default();
    let told = trace.clone();
    let outcome = on_thread(move || {
        let (process, panics) = (Seeded::new(seed), Panics::on_this_thread());
        let outcome = trace.listen(options.is_deep, || {
            let mut cluster = Cluster::new(seed, &options, trace.clone(), process);
            schedule(&mut cluster).and(cluster.end())
        });
        let panic = panics.first().map(|panic| Violation(format!("panic: {panic}")));
        panic.map_or(outcome, Err)
    });
    (outcome, told)
}
