//! A fixed set of single-threaded runtimes, each on an OS thread of its own.
//!
//! A Raft group lives on one of them for good: its tasks wake each other without crossing cores,
//! which a work-stealing runtime pays for on every hop of a commit.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use crate::{StillRunning, Thread, sleep, thread, timeout};

/// How often a stopping caller looks whether the threads have ended.
const STOP_POLL: Duration = Duration::from_millis(2);

/// The set. Clones are the same set; it stops when told to, or with its last clone.
#[derive(Clone, Debug)]
pub struct Reactors {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    handles: Vec<Handle>,
    threads: Mutex<Vec<Thread<()>>>,
    stop: watch::Sender<bool>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Reactors {
    /// Starts `count` runtimes on threads called `name-0`, `name-1`, ….
    ///
    /// # Errors
    /// The system gives no further thread or event queue.
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn start(name: &str, count: usize) -> io::Result<Self> {
        assert!(count > 0, "a set of reactors needs one");
        let (stop, _) = watch::channel(false);
        let (mut handles, mut threads) = (Vec::new(), Vec::new());
        for i in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            handles.push(runtime.handle().clone());
            let mut stopped = stop.subscribe();
            threads.push(thread(&format!("{name}-{i}"), move || {
                // An error means that the set is gone, which is a reason to end as well.
                let _ = runtime.block_on(stopped.wait_for(|is_stopped| *is_stopped));
            })?);
        }
        Ok(Self { inner: Arc::new(Inner { handles, threads: Mutex::new(threads), stop }) })
    }

    /// `count` handles of the current runtime, for simulation: all in one, no threads.
    ///
    /// # Panics
    /// If `count` is 0, or outside of a runtime.
    pub fn current(count: usize) -> Self {
        assert!(count > 0, "a set of reactors needs one");
        let handles = vec![Handle::current(); count];
        let (stop, _) = watch::channel(false);
        Self { inner: Arc::new(Inner { handles, threads: Mutex::default(), stop }) }
    }

    /// How many there are; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.inner.handles.len()
    }

    /// The handle of reactor `index` modulo their number, so that any counter may choose.
    pub fn handle(&self, index: usize) -> &Handle {
        &self.inner.handles[index % self.inner.handles.len()]
    }

    /// Ends the runtimes: tasks still on them are dropped at their last await, so stop them
    /// first ([`crate::Tasks::stop`]). Must not be called from a task of the set.
    ///
    /// # Errors
    /// [`StillRunning`]: so many threads have not ended within `patience`; one of their tasks
    /// blocks.
    pub async fn stop(&self, patience: Duration) -> Result<(), StillRunning> {
        self.inner.stop.send_replace(true);
        let running = || self.inner.threads.lock().iter().filter(|t| !t.is_finished()).count();
        let ended = timeout(patience, async {
            while running() > 0 {
                sleep(STOP_POLL).await;
            }
        });
        ended.await.map_err(|_| StillRunning(running()))?;
        let threads = std::mem::take(&mut *self.inner.threads.lock());
        threads.into_iter().for_each(Thread::join);
        Ok(())
    }
}
