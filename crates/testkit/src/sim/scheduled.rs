//! Schedules written by hand: what a random one would come to once in thousands of runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::cluster::{Cluster, Violation};
use super::machine::Standing;
use super::options::Options;
use super::panics::Panics;
use super::process::Seeded;
use super::trace::Trace;

/// A cluster is founded and serves within this time.
const FOUNDING_MAX: Duration = Duration::from_secs(60);
/// How long the founding itself may take, and its client tries.
const FOUNDING_DEADLINE: Duration = Duration::from_secs(30);
/// The stack of a run's thread, bytes: polls nest deeply in the dev profile.
const STACK_BYTES: usize = 64 << 20;

/// Founds a cluster as `options` say and hands it to `schedule`, which says what happens to it and
/// what must hold, on a thread of its own. The trace tells what happened.
///
/// # Errors
/// [`Violation`]: what `schedule` found, a node that ended by itself, or a panic.
///
/// # Panics
/// If the system gives no thread.
#[allow(clippy::disallowed_methods)] // The runtime's threads have no stack of this size.
pub fn scheduled(
    seed: u64,
    options: Options,
    schedule: impl FnOnce(&mut Cluster) -> Result<(), Violation> + Send + 'static,
) -> (Result<(), Violation>, Trace) {
    let trace = Trace::default();
    let told = trace.clone();
    let body = move || {
        let (process, panics) = (Seeded::new(seed), Panics::on_this_thread());
        let outcome = trace.listen(options.is_deep, || {
            let mut cluster = Cluster::new(seed, &options, trace.clone(), process);
            found(&mut cluster)?;
            schedule(&mut cluster)
        });
        let panic = panics.first().map(|panic| Violation(format!("panic: {panic}")));
        panic.map_or(outcome, Err)
    };
    let thread = std::thread::Builder::new().name("schedule".into()).stack_size(STACK_BYTES);
    let thread = thread.spawn(body).expect("the system gives a thread");
    (thread.join().expect("a schedule reports its panics"), told)
}

fn found(cluster: &mut Cluster) -> Result<(), Violation> {
    cluster.run_until("all nodes are up", FOUNDING_MAX, |cluster| {
        (0..cluster.nodes()).all(|machine| cluster.standing(machine) == Standing::Up)
    })?;
    let founded = Arc::new(AtomicBool::new(false));
    let (done, peers) = (founded.clone(), cluster.peer_addresses());
    cluster.run_client("founder", FOUNDING_DEADLINE, move |client| async move {
        let answer = client.cluster().init(&peers, 0).await;
        done.store(answer.is_ok(), Ordering::Release);
    });
    cluster.run_until("a cluster is founded and serves", FOUNDING_MAX, |cluster| {
        let serves = |machine| cluster.node(machine).is_some_and(|n| n.readiness().is_ok());
        founded.load(Ordering::Acquire) && (0..cluster.nodes()).all(serves)
    })
}
