//! The workloads against stores with and without a flaw: the flaw is caught, its absence is not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_testkit::check::{Evidence, Punctuality, Quota, Report, everything, judge};
use holdfast_testkit::history::{History, Record, Recorder, RunClock, StateHash};
use holdfast_testkit::workload::{Plan, Workload};

use crate::reference::{Flaw, Reference, Shared};

/// Most records of a run.
const RECORDS_MAX: usize = 200_000;
/// A flaw is to show within so many seeds.
const SEEDS_MAX: u64 = 6;

/// Runs every workload on a store with `flaw`, in virtual time.
pub fn run(seed: u64, flaw: Flaw, loss_percent: u8) -> History {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime can be built");
    runtime.block_on(async {
        let clock = RunClock::begin();
        let recorder = Recorder::new(seed, Arc::new(clock), RECORDS_MAX);
        let store = Shared(Reference::new(seed ^ 0xbeef, flaw, loss_percent, clock));
        let plan = Plan { ttl: Duration::from_secs(1), ..Plan::new(seed, "t/") };
        let workload = Workload::new(plan, Arc::new(store), recorder.clone());
        workload.run(async {}).await.expect("what is left can be read");
        for replica in 1..=3 {
            let hash = StateHash { range: 1, replica, index: 9, hash: 5 };
            recorder.push(Record::StateHash(hash));
        }
        recorder.history().expect("the history fits")
    })
}

/// What every checker says.
pub fn report(history: &History) -> Report {
    let mut checkers = everything(Punctuality { drift_permille: 0, late_ms: 20 });
    checkers.push(Box::new(Evidence(Quota { events_min: 100, ..Quota::default() })));
    judge(history, &checkers)
}

fn demanding(history: &History) -> Report {
    let demands = [
        ("witness", 500),
        ("linearizable", 300),
        ("lost", 100),
        ("revisions", 100),
        ("once", 50),
        ("sets", 20),
        ("bank", 10),
        ("fencing", 10),
        ("lifetimes", 10),
        ("watches", 100),
        ("staleness", 20),
        ("hashes", 2),
        ("evidence", 500),
    ];
    demands.into_iter().fold(report(history), |report, (name, facts)| report.demand(name, facts))
}

#[test]
fn a_linearizable_store_passes_every_checker_and_gives_each_enough_to_judge() {
    for (seed, loss_percent) in [(1, 0), (2, 0), (3, 3), (4, 3), (5, 10), (6, 25)] {
        let report = demanding(&run(seed, Flaw::None, loss_percent));
        assert!(report.is_clean(), "loss {loss_percent} %: {report}");
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    assert_eq!(run(7, Flaw::None, 10), run(7, Flaw::None, 10));
    assert_ne!(run(7, Flaw::None, 10), run(8, Flaw::None, 10));
}

/// The checker that is there for a flaw.
fn responsible(flaw: Flaw) -> &'static str {
    match flaw {
        Flaw::None => "nobody",
        Flaw::DoubledIncrement => "once",
        Flaw::TornTransfer => "bank",
        Flaw::EarlyEnd | Flaw::LateEnd => "lifetimes",
        Flaw::TokenRepeated => "fencing",
        Flaw::LyingFollower => "staleness",
        Flaw::MissedEvent | Flaw::RepeatedEvent | Flaw::ReorderedEvents => "watches",
        Flaw::StaleRead
        | Flaw::LostWrite
        | Flaw::BlindCas
        | Flaw::FailedHappens
        | Flaw::GappyScan
        | Flaw::SharedRevision => "witness",
    }
}

#[test]
fn every_planted_flaw_is_caught_by_the_checker_that_is_there_for_it() {
    for flaw in Flaw::PLANTED {
        let mut failed: BTreeSet<&str> = BTreeSet::new();
        for seed in 0..SEEDS_MAX {
            failed.extend(report(&run(seed, flaw, 0)).failed());
            if failed.contains(responsible(flaw)) {
                break;
            }
        }
        assert!(failed.contains(responsible(flaw)), "{flaw:?} was caught by {failed:?} only");
    }
}

#[test]
fn flaws_that_show_in_values_are_caught_without_a_word_of_revisions() {
    for flaw in [Flaw::StaleRead, Flaw::LostWrite, Flaw::BlindCas, Flaw::FailedHappens] {
        let is_caught = |seed| report(&run(seed, flaw, 0)).failed().contains(&"linearizable");
        assert!((0..SEEDS_MAX).any(is_caught), "{flaw:?}");
    }
}
