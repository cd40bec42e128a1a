//! How a test gets its cluster, and how many clusters there are at once.

use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use anyhow::Result;
use tokio::runtime::{Builder, Runtime};

use crate::cluster::{Cluster, Options};

/// Lets so many clusters exist at once, besides the shared one, as the machine can carry: one per
/// two cores. More would turn every wait into a false alarm.
struct Gate {
    free: Mutex<usize>,
    freed: Condvar,
}

static GATE: OnceLock<Gate> = OnceLock::new();

/// A place at the gate, given back on drop.
struct Place(&'static Gate);

impl Gate {
    fn enter() -> Place {
        let gate = GATE.get_or_init(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            Self { free: Mutex::new((cores / 2).max(1)), freed: Condvar::new() }
        });
        let mut free = gate.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = gate.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Place(gate)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

fn runtime() -> Runtime {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be built")
}

/// Runs `body` on a cluster of its own.
///
/// # Panics
/// If the cluster does not start, or `body` fails; then the nodes' logs are printed.
pub fn scenario(options: Options, body: impl AsyncFnOnce(&mut Cluster) -> Result<()>) {
    let _place = Gate::enter();
    runtime().block_on(async {
        let mut cluster = match Cluster::start(&options).await {
            Ok(cluster) => cluster,
            Err(error) => panic!("the cluster did not start: {error:#}"),
        };
        if let Err(error) = body(&mut cluster).await {
            // The unwinding prints the logs.
            panic!("{error:?}");
        }
    });
}

type Shared = std::result::Result<Arc<Cluster>, String>;

static SHARED: Mutex<Option<Shared>> = Mutex::new(None);

/// Runs `body` on three nodes that all such tests share: they break nothing, and use keys,
/// keyspaces and locks named after themselves.
///
/// # Panics
/// If the cluster did not start, or `body` fails; then the nodes' logs are printed.
pub fn shared(body: impl AsyncFnOnce(&Cluster) -> Result<()>) {
    let runtime = runtime();
    let cluster = {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let started = shared.get_or_insert_with(|| {
            // Nobody else can do anything before this is done.
            let cluster = runtime.block_on(Cluster::start(&Options::nodes(3)));
            cluster.map(Arc::new).map_err(|error| format!("{error:#}"))
        });
        started.clone()
    };
    let cluster = cluster.unwrap_or_else(|error| panic!("the shared cluster: {error}"));
    if let Err(error) = runtime.block_on(body(&cluster)) {
        cluster.print_logs();
        panic!("{error:?}");
    }
}
