//! A bounded pool of named threads for work that blocks: disk reads, flushes, compactions.
//!
//! tokio's own blocking pool is one for all purposes, up to 512 threads, with an unbounded queue:
//! a slow disk then shows as memory growth far from its cause. A pool here has a purpose, a
//! size and a queue that says no.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::workers::Pace;
use crate::{Thread, sleep, thread};

type Job = Box<dyn FnOnce() + Send>;

/// Why a pool did not do the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// As many jobs wait as may; nothing was queued. Slow down, then retry.
    #[error("the pool's queue is full")]
    Full,
    /// The pool is stopping; the job was not and will not be run.
    #[error("the pool is stopping")]
    Stopped,
    /// The job panicked; the pool goes on.
    #[error("the job panicked")]
    Panicked,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    is_stopping: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    queue_max: usize,
}

/// A pool of threads; clones are the same pool. Once the last clone is dropped its threads finish
/// what is queued and end.
#[derive(Clone)]
pub struct Pool {
    inner: Option<Arc<Inner>>,
}

struct Inner {
    shared: Arc<Shared>,
    threads: Mutex<Vec<Thread<()>>>,
    /// Where each job becomes a task, and how long it takes to begin; none with threads.
    tasks: Option<(Handle, Pace)>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner {
            Some(inner) if inner.tasks.is_some() => f.write_str("Pool(tasks)"),
            Some(inner) => write!(f, "Pool({} threads)", inner.threads.lock().len()),
            None => f.write_str("Pool(inline)"),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Pool {
    /// Starts `threads` threads called `name-0`, `name-1`, …; at most `queue_max` jobs wait.
    ///
    /// # Errors
    /// The system gives no further thread.
    ///
    /// # Panics
    /// If `threads` or `queue_max` is 0.
    pub fn start(name: &str, threads: usize, queue_max: usize) -> io::Result<Self> {
        assert!(threads > 0 && queue_max > 0, "a pool needs threads and room to wait");
        let shared = Shared::new(queue_max);
        let mut started = Vec::with_capacity(threads);
        for i in 0..threads {
            let worker = shared.clone();
            started.push(thread(&format!("{name}-{i}"), move || worker.run())?);
        }
        Ok(Self::of(Inner { shared, threads: Mutex::new(started), tasks: None }))
    }

    /// A pool without threads, for simulation: each job is a task behind `handle` that begins
    /// after as long as `pace` says, so that everything else can happen before.
    pub(crate) fn of_tasks(handle: Handle, pace: Pace, queue_max: usize) -> Self {
        let (shared, tasks) = (Shared::new(queue_max), Some((handle, pace)));
        Self::of(Inner { shared, threads: Mutex::default(), tasks })
    }

    fn of(inner: Inner) -> Self {
        Self { inner: Some(Arc::new(inner)) }
    }

    /// A pool without threads, for simulation: jobs run on the caller, at once.
    pub fn inline() -> Self {
        Self { inner: None }
    }

    /// Queues `job` and returns at once. Nobody learns of its end; see [`Pool::run`].
    ///
    /// # Errors
    /// [`PoolError::Full`], [`PoolError::Stopped`].
    pub fn execute(&self, job: impl FnOnce() + Send + 'static) -> Result<(), PoolError> {
        let Some(inner) = &self.inner else {
            job();
            return Ok(());
        };
        let mut queue = inner.shared.queue.lock();
        if queue.is_stopping {
            return Err(PoolError::Stopped);
        }
        if queue.jobs.len() >= inner.shared.queue_max {
            return Err(PoolError::Full);
        }
        queue.jobs.push_back(Box::new(job));
        drop(queue);
        match &inner.tasks {
            None => drop(inner.shared.work.notify_one()),
            Some((handle, pace)) => {
                let (due, wait) = (Due(Some(inner.shared.clone())), pace());
                handle.spawn(async move {
                    sleep(wait).await;
                    due.run();
                });
            }
        }
        Ok(())
    }

    /// Runs `job` in the pool and waits for what it returns. Dropping the future does not stop
    /// a job that has been queued.
    ///
    /// # Errors
    /// [`PoolError`].
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (sender, receiver) = oneshot::channel();
        // A caller that has gone no longer wants the value.
        self.execute(move || drop(sender.send(job())))?;
        receiver.await.map_err(|_| PoolError::Panicked)
    }

    /// How many jobs wait.
    pub fn queued(&self) -> usize {
        self.inner.as_ref().map_or(0, |inner| inner.shared.queue.lock().jobs.len())
    }

    /// Takes no more jobs, finishes those that wait and ends the threads. Blocks until then; must
    /// not be called from one of the pool's own jobs.
    pub fn stop(&self) {
        let Some(inner) = &self.inner else { return };
        inner.shared.stop();
        let threads = std::mem::take(&mut *inner.threads.lock());
        threads.into_iter().for_each(Thread::join);
        if inner.tasks.is_some() {
            while inner.shared.run_one() {}
        }
    }
}

impl Shared {
    fn new(queue_max: usize) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), work: Condvar::new(), queue_max })
    }

    fn stop(&self) {
        self.queue.lock().is_stopping = true;
        self.work.notify_all();
    }

    fn run(&self) {
        while let Some(job) = self.next() {
            carry_out(job);
        }
    }

    /// Runs the job that has waited longest, if there is one.
    fn run_one(&self) -> bool {
        let job = self.queue.lock().jobs.pop_front();
        job.map(carry_out).is_some()
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.is_stopping {
                return None;
            }
            self.work.wait(&mut queue);
        }
    }
}

/// A job that waits for its time. Dropped before, with its runtime, it takes a job out of the
/// queue: jobs may hold the pool, and a ring would keep both in memory for good.
struct Due(Option<Arc<Shared>>);

impl Due {
    fn run(mut self) {
        if let Some(shared) = self.0.take() {
            shared.run_one();
        }
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        let job = self.0.take().and_then(|shared| shared.queue.lock().jobs.pop_front());
        // After the lock was given back: what a job holds may give the pool more work.
        drop(job);
    }
}

fn carry_out(job: Job) {
    // The panic hook has reported it; the waiter sees its sender dropped.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
}
