use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_runtime::{Reactors, StillRunning, Tasks, spawn_on, yield_now};

const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn stopping_waits_for_tasks_that_tidy_up() {
    let tasks = Tasks::new();
    let (stop, is_tidy) = (tasks.stop_wish(), Arc::new(AtomicBool::new(false)));
    let flag = is_tidy.clone();
    tasks.spawn(async move {
        stop.wanted().await;
        holdfast_runtime::sleep(PATIENCE / 2).await;
        flag.store(true, Ordering::SeqCst);
    });
    tasks.stop(PATIENCE).await.unwrap();
    assert!(is_tidy.load(Ordering::SeqCst));
    assert_eq!(tasks.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn stopping_names_the_number_of_tasks_that_do_not_end() {
    let tasks = Tasks::new();
    tasks.spawn(pending::<()>());
    tasks.spawn(pending::<()>());
    let ended = tasks.spawn_until_stop(pending::<()>());
    assert_eq!(tasks.stop(PATIENCE).await, Err(StillRunning(2)));
    assert_eq!(ended.await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_child_stops_with_its_parent_and_alone() {
    let parent = Tasks::new();
    let (first, second) = (parent.child(), parent.child());
    first.spawn_until_stop(pending::<()>());
    second.spawn_until_stop(pending::<()>());
    first.stop(PATIENCE).await.unwrap();
    assert!(!parent.stop_wish().is_wanted());
    assert!(!second.stop_wish().is_wanted());
    parent.ask_to_stop();
    second.stop(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_wish_to_stop_wins_over_work_that_is_ready() {
    let tasks = Tasks::new();
    let stop = tasks.stop_wish();
    assert_eq!(stop.or(async { 1 }).await, Some(1));
    tasks.ask_to_stop();
    assert_eq!(stop.or(async { 1 }).await, None);
}

#[tokio::test]
async fn tasks_of_a_reactor_stay_on_its_named_thread() {
    let reactors = Reactors::start("react", 2).unwrap();
    for index in 0..4 {
        let names = spawn_on(reactors.handle(index), async {
            let name = || std::thread::current().name().map(str::to_owned);
            let before = name();
            yield_now().await;
            (before, name())
        });
        let expected = Some(format!("react-{}", index % 2));
        assert_eq!(names.await.unwrap(), (expected.clone(), expected));
    }
    assert_eq!(reactors.len(), 2);
    reactors.stop(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn stopping_reactors_drops_the_tasks_left_on_them() {
    let reactors = Reactors::start("react", 1).unwrap();
    let task = spawn_on(reactors.handle(0), pending::<()>());
    reactors.stop(PATIENCE).await.unwrap();
    assert!(task.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn current_reactors_are_all_the_runtime_one_is_in() {
    let reactors = Reactors::current(3);
    let here = std::thread::current().id();
    for index in 0..3 {
        let there = spawn_on(reactors.handle(index), async { std::thread::current().id() });
        assert_eq!(there.await.unwrap(), here);
    }
}
