//! Tasks, and sets of tasks that end together.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::timeout;

/// Runs `future` as a task of the current runtime; it goes on if the handle is dropped. Inside a
/// part of the system that stops, prefer [`Tasks::spawn`].
///
/// # Panics
/// Outside of a runtime.
pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(future)
}

/// Runs `future` as a task of the runtime behind `handle`.
pub fn spawn_on<T: Send + 'static>(
    handle: &Handle,
    future: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    handle.spawn(future)
}

/// Lets the other tasks of this runtime run once.
pub async fn yield_now() {
    tokio::task::yield_now().await;
}

/// The wish to stop, as tasks see it. Clones see the same wish.
#[derive(Clone, Debug)]
pub struct Stop(CancellationToken);

impl Stop {
    /// Returns once it is time to stop. Cancel safe.
    pub async fn wanted(&self) {
        self.0.cancelled().await;
    }

    /// Whether it is time to stop.
    pub fn is_wanted(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits for `future`, but no longer than until it is time to stop; then drops it: `None`.
    pub async fn or<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.0.cancelled() => None,
            value = future => Some(value),
        }
    }
}

/// Tasks that did not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} tasks are still running")]
pub struct StillRunning(pub usize);

/// A set of tasks that are asked to stop together and waited for. Clones are the same set.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// A set within this one: stopped with it, or alone. Its tasks are waited for by its own
    /// [`Tasks::stop`] only.
    pub fn child(&self) -> Self {
        Self { tracker: TaskTracker::new(), token: self.token.child_token() }
    }

    /// What tasks of the set watch to learn that they are to end.
    pub fn stop_wish(&self) -> Stop {
        Stop(self.token.clone())
    }

    /// Runs `future` on the current runtime; it must end by itself soon after [`Tasks::stop_wish`].
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn(future)
    }

    /// As [`Tasks::spawn`], on the runtime behind `handle`.
    pub fn spawn_on<T: Send + 'static>(
        &self,
        handle: &Handle,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn_on(future, handle)
    }

    /// Runs `future` on the current runtime and drops it at its next await once the set stops.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn spawn_until_stop<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        let stop = self.stop_wish();
        self.tracker.spawn(async move { stop.or(future).await })
    }

    /// How many tasks run.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Asks all tasks to stop, children included, without waiting.
    pub fn ask_to_stop(&self) {
        self.token.cancel();
    }

    /// Asks all tasks to stop and waits until they have, at most `patience`.
    ///
    /// # Errors
    /// [`StillRunning`]: they go on; the caller decides whether to wait again or to give up.
    pub async fn stop(&self, patience: Duration) -> Result<(), StillRunning> {
        self.token.cancel();
        self.tracker.close();
        let ended = timeout(patience, self.tracker.wait()).await;
        ended.map_err(|_| StillRunning(self.tracker.len()))
    }
}
