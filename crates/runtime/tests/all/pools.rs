use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use holdfast_runtime::{Pool, PoolError, thread};

#[tokio::test]
async fn a_pool_gives_back_what_the_job_returns_from_a_named_thread() {
    let pool = Pool::start("reads", 2, 8).unwrap();
    let name = pool.run(|| std::thread::current().name().map(str::to_owned)).await.unwrap();
    assert!(name.unwrap().starts_with("reads-"));
}

#[tokio::test]
async fn a_full_queue_says_no_and_forgets_nothing() {
    let pool = Pool::start("slow", 1, 2).unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    let ((started, is_started), (release, gate)) = (mpsc::channel(), mpsc::channel::<()>());
    let blocked = move || {
        started.send(()).unwrap();
        gate.recv().unwrap();
    };
    pool.execute(blocked).unwrap();
    is_started.recv().unwrap();
    for expected in [Ok(()), Ok(()), Err(PoolError::Full)] {
        let done = done.clone();
        let queued = pool.execute(move || {
            done.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(queued, expected);
    }
    assert_eq!(pool.queued(), 2);
    release.send(()).unwrap();
    pool.stop();
    assert_eq!(done.load(Ordering::SeqCst), 2, "stopping finishes what was queued");
    assert_eq!(pool.execute(|| ()), Err(PoolError::Stopped));
}

#[tokio::test]
async fn a_panicking_job_fails_alone() {
    let pool = Pool::start("jobs", 1, 8).unwrap();
    assert_eq!(
        pool.run(|| panic!("expected by the test")).await,
        Err::<(), _>(PoolError::Panicked)
    );
    assert_eq!(pool.run(|| 1).await, Ok(1));
}

#[tokio::test]
async fn an_inline_pool_runs_on_its_caller() {
    let here = std::thread::current().id();
    assert_eq!(Pool::inline().run(|| std::thread::current().id()).await, Ok(here));
}

#[test]
fn a_thread_has_its_name_cut_to_what_the_system_shows() {
    let name = || std::thread::current().name().map(str::to_owned);
    let named = thread("journal-writer-ü", name).unwrap().join();
    assert_eq!(named.as_deref(), Some("journal-writer-"));
}
