//! Short plays that follow a script, each about one thing that once went wrong.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_client::KeyspaceOptions;
use holdfast_node::api::{ApiError, Call, Cluster as _, Get};
use holdfast_node::auth::Identity;
use holdfast_runtime::{Deadline, sleep};
use parking_lot::Mutex;

use super::cluster::{Cluster, Violation};
use super::machine::{Companion, Process, Standing};
use super::options::Options;
use super::process::Seeded;
use super::run::{found, on_thread};
use super::trace::Trace;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest call.
const CALL_MAX: Duration = Duration::from_secs(2);
/// A keyspace that is created late.
const LATE: &str = "late";

/// Has a cluster of three nodes play `script`.
fn play(script: impl FnOnce(&mut Cluster) -> Result<(), Violation> + Send + 'static) {
    on_thread(|| {
        let (seed, trace) = (1, Trace::default());
        let options = Options { ranges: 1, ..Options::calm(seed) };
        let mut cluster = Cluster::new(seed, &options, trace.clone(), Seeded::new(seed));
        let played = found(&mut cluster, &trace, 1).and_then(|()| script(&mut cluster));
        assert_eq!(played.and(cluster.end()), Ok(()), "{:#?}", trace.lines());
    });
}

/// What nodes told.
#[derive(Default)]
struct Told {
    answers: Vec<Result<(), ApiError>>,
    /// How often a node was asked whose map does not have the keyspace.
    lacking: u32,
}

/// Asks a node for a key of the late keyspace, from its start on, until it answers.
async fn ask(Process { node, .. }: Process, told: Arc<Mutex<Told>>) {
    loop {
        let deadline = Deadline::after(CALL_MAX);
        let call = Call { identity: Identity::system(), deadline, direct: false };
        let map = node.gateway().map(&call);
        told.lock().lacking += u32::from(map.is_ok_and(|map| map.keyspace(LATE).is_err()));
        let get = Get { keyspace: LATE.into(), key: "k".into(), ..Get::default() };
        let answer = node.gateway().get(&call, get).await.map(|_| ());
        let is_answered = answer.is_ok();
        told.lock().answers.push(answer);
        if is_answered {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn no_node_denies_a_keyspace_that_was_created_just_before_all_were_killed() {
    play(|cluster| {
        let created = Arc::new(Mutex::new(false));
        let done = created.clone();
        cluster.run_client("creator", PATIENCE, move |client| async move {
            let options = KeyspaceOptions { ranges: 1, ..KeyspaceOptions::default() };
            *done.lock() = client.cluster().create_keyspace_with(LATE, options).await.is_ok();
        });
        cluster.run_until("the keyspace is created", PATIENCE, |_| *created.lock())?;
        let told = Arc::<Mutex<Told>>::default();
        let answers = told.clone();
        let companion: Companion = Arc::new(move |process| -> BoxFuture<'static, ()> {
            Box::pin(ask(process, answers.clone()))
        });
        cluster.set_companion(&companion);
        for machine in 0..cluster.nodes() {
            cluster.kill(machine);
        }
        for machine in 0..cluster.nodes() {
            assert_eq!(cluster.standing(machine), Standing::Down);
            cluster.start(machine);
        }
        let (nodes, answers) = (cluster.nodes(), told.clone());
        cluster.run_until("every node answers", PATIENCE, move |_| {
            answers.lock().answers.iter().filter(|answer| answer.is_ok()).count() == nodes
        })?;
        let denied = |answer: &&Result<(), _>| matches!(answer, Err(ApiError::UnknownKeyspace(_)));
        assert_eq!(told.lock().answers.iter().find(denied), None);
        assert!(told.lock().lacking > 0, "no node's map was old");
        Ok(())
    });
}
