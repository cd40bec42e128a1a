//! Who does the work that waits for a disk or never ends: OS threads, or tasks of a simulation.
//!
//! A node asks its [`Workers`] for every reactor, pool and loop it needs. In production they are
//! threads. A simulation gives it tasks of the one runtime that owns the simulated time: then
//! nothing of the node runs anywhere else, and every interleaving follows from the seed.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::{Pool, Rank, Reactors, Thread, sleep, spawn, thread, timeout};

/// How long the next piece of simulated work takes.
pub type Pace = Arc<dyn Fn() -> Duration + Send + Sync>;

/// See the module.
#[derive(Clone, Default)]
pub enum Workers {
    /// OS threads.
    #[default]
    Threads,
    /// Tasks of the current runtime; each piece of work begins after as long as the pace says.
    Tasks(Pace),
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Threads => "Threads",
            Self::Tasks(_) => "Tasks",
        })
    }
}

/// What a worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Another step, at once.
    Again,
    /// A step when it is nudged, or after this time.
    Wait(Duration),
    /// A step after this time, whatever turns up meanwhile.
    Rest(Duration),
    /// Nothing more, ever.
    End,
}

/// A loop without end, cut into steps.
pub trait Work: Send + 'static {
    /// Does the next piece; does not wait for more of it.
    fn step(&mut self) -> Turn;

    /// Blocks as the last step asked: for [`Turn::Wait`] or [`Turn::Rest`]. Threads call it.
    fn wait(&mut self, turn: Turn);
}

/// Wakes a worker that is a task. Clones wake the same one.
#[derive(Clone, Debug, Default)]
pub struct Nudge(Arc<Notify>);

impl Nudge {
    /// The worker's next wait ends at once.
    pub fn nudge(&self) {
        self.0.notify_one();
    }
}

type Shared = Arc<Mutex<Option<Box<dyn Work>>>>;

/// Work that goes on. Dropping it leaves the work alone.
pub struct Worker(Kind);

enum Kind {
    Thread(Thread<()>),
    // Why a lock: whoever joins does what is left, and the task must find nothing then.
    Task(Shared),
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Thread(_) => "Worker(thread)",
            Kind::Task(_) => "Worker(task)",
        })
    }
}

impl Workers {
    /// `count` reactors: [`Reactors::start`] or [`Reactors::current`].
    ///
    /// # Errors
    /// As [`Reactors::start`].
    pub fn reactors(&self, name: &str, count: usize) -> io::Result<Reactors> {
        match self {
            Self::Threads => Reactors::start(name, count),
            Self::Tasks(_) => Ok(Reactors::current(count)),
        }
    }

    /// A pool of `threads` with room for `queue_max` jobs to wait.
    ///
    /// # Errors
    /// As [`Pool::start`].
    pub fn pool(&self, name: &str, threads: usize, queue_max: usize) -> io::Result<Pool> {
        match self {
            Self::Threads => Pool::start(name, threads, queue_max),
            Self::Tasks(pace) => Ok(Pool::of_tasks(Handle::current(), pace.clone(), queue_max)),
        }
    }

    /// Has `work` done until it ends. `hook` is given what wakes it where it is a task; a thread
    /// sleeps in [`Work::wait`] and is woken by its own means.
    ///
    /// # Errors
    /// The system gives no further thread.
    pub fn start(
        &self,
        name: &str,
        rank: Rank,
        mut work: impl Work,
        hook: impl FnOnce(Nudge),
    ) -> io::Result<Worker> {
        let pace = match self {
            Self::Threads => {
                let body = move || {
                    rank.take();
                    run(&mut work);
                };
                return Ok(Worker(Kind::Thread(thread(name, body)?)));
            }
            Self::Tasks(pace) => pace.clone(),
        };
        let (nudge, shared) = (Nudge::default(), Shared::default());
        *shared.lock() = Some(Box::new(work));
        hook(nudge.clone());
        spawn(drive(shared.clone(), nudge, pace));
        Ok(Worker(Kind::Task(shared)))
    }
}

fn run(work: &mut impl Work) {
    loop {
        match work.step() {
            Turn::Again => {}
            Turn::End => return,
            turn => work.wait(turn),
        }
    }
}

async fn drive(shared: Shared, nudge: Nudge, pace: Pace) {
    loop {
        sleep(pace()).await;
        let Some(turn) = shared.lock().as_mut().map(|work| work.step()) else { return };
        match turn {
            Turn::Again => {}
            Turn::Rest(time) => sleep(time).await,
            Turn::Wait(time) => {
                // Either way there is reason to look.
                let _ = timeout(time, nudge.0.notified()).await;
            }
            Turn::End => return,
        }
    }
}

impl Worker {
    /// Returns once the work has ended; the caller has told it to. A task is not waited for:
    /// what it would do before its next wait is done here, and it does nothing afterwards.
    ///
    /// # Panics
    /// With the panic of a thread that panicked.
    pub fn join(self) {
        match self.0 {
            Kind::Thread(thread) => thread.join(),
            Kind::Task(shared) => {
                let work = shared.lock().take();
                if let Some(mut work) = work {
                    while work.step() == Turn::Again {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter {
        steps: Arc<Mutex<u32>>,
        left: u32,
    }

    impl Work for Counter {
        fn step(&mut self) -> Turn {
            *self.steps.lock() += 1;
            match self.left.checked_sub(1) {
                None => Turn::Wait(Duration::from_secs(3_600)),
                Some(left) => {
                    self.left = left;
                    Turn::Again
                }
            }
        }

        fn wait(&mut self, _turn: Turn) {
            panic!("a task does not block");
        }
    }

    fn tasks() -> Workers {
        Workers::Tasks(Arc::new(|| Duration::from_millis(10)))
    }

    #[tokio::test(start_paused = true)]
    async fn task_works_at_its_pace_until_it_waits_and_again_when_nudged() {
        let (steps, mut nudge) = (Arc::new(Mutex::new(0)), None);
        let work = Counter { steps: steps.clone(), left: 2 };
        let worker = tasks().start("count", Rank::Usual, work, |n| nudge = Some(n)).unwrap();
        sleep(Duration::from_millis(15)).await;
        assert_eq!(*steps.lock(), 1);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(*steps.lock(), 3);
        nudge.unwrap().nudge();
        sleep(Duration::from_millis(15)).await;
        assert_eq!(*steps.lock(), 4);
        worker.join();
        assert_eq!(*steps.lock(), 5, "what is left is done by who joins");
        sleep(Duration::from_secs(7_200)).await;
        assert_eq!(*steps.lock(), 5, "nothing is done afterwards");
    }

    #[tokio::test(start_paused = true)]
    async fn pool_of_tasks_takes_time_and_says_no_when_full() {
        let pool = tasks().pool("pool", 1, 2).unwrap();
        let before = tokio::time::Instant::now();
        assert_eq!(pool.run(|| 7).await, Ok(7));
        assert_eq!(before.elapsed(), Duration::from_millis(10));
        let done = Arc::new(Mutex::new(0));
        for _ in 0..2 {
            let done = done.clone();
            pool.execute(move || *done.lock() += 1).unwrap();
        }
        assert_eq!(pool.execute(|| ()), Err(crate::PoolError::Full));
        assert_eq!(*done.lock(), 0);
        pool.stop();
        assert_eq!(*done.lock(), 2, "what waits is finished");
        assert_eq!(pool.execute(|| ()), Err(crate::PoolError::Stopped));
    }

    #[test]
    fn job_that_holds_its_pool_goes_with_the_runtime_it_waits_on() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let held = Arc::new(());
        runtime.block_on(async {
            let pool = tasks().pool("pool", 1, 2).unwrap();
            let holds = (pool.clone(), held.clone());
            pool.execute(move || drop(holds)).unwrap();
        });
        drop(runtime);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
