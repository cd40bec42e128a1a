//! Shows that every seeded defect is caught, and that the same scenarios find nothing without one.
//!
//! `defects PROGRAMS [NAME...]` runs all defects, or those named; PROGRAMS is a file with what
//! `cargo test --no-run --message-format=json` says, which names the programs of the scenarios.
//! `defects storage CAMPAIGN SEED` is one scenario of the storage, in a process of its own.
//!
//! Owns: which scenario is to catch which defect (`table.rs`), running them apart (`process.rs`).
//! Must never know: what a scenario does; it fails or it passes.
//! Invariants:
//! * Every run is a process of its own with a time limit, and at most one defect in it.
//! * A defect counts as caught where a scenario fails that passes without it. One that does not
//!   end, or is not there, catches nothing.

mod process;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use holdfast_env::defects::{self, Defect};
use holdfast_storm_storage::campaign;

use process::{Ended, Programs};
use table::{CAUGHT_BY, Scenario};

const USAGE: &str = "defects PROGRAMS [NAME...] | defects storage CAMPAIGN SEED";
/// What a process ends with that has shown nothing.
const NOTHING: u8 = 2;
/// Scenarios run at once, at most; the machine's cores otherwise.
const WORKERS_MAX: usize = 8;
/// Characters of a message that are shown.
const MESSAGE_CHARS_MAX: usize = 110;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["storage", name, seed] => storage(name, seed),
        [programs, names @ ..] => {
            let programs = Programs::read(programs).expect("the list of programs is readable");
            all(&programs, names)
        }
        [] => {
            eprintln!("{USAGE}");
            ExitCode::from(NOTHING)
        }
    }
}

/// One seed of one campaign of the storage.
fn storage(name: &str, seed: &str) -> ExitCode {
    let (Some(campaign), Ok(seed)) = (campaign::named(name), seed.parse()) else {
        eprintln!("there is no {name} {seed}");
        return ExitCode::from(NOTHING);
    };
    match campaign::run_seed(campaign, seed) {
        Ok(_) => ExitCode::SUCCESS,
        Err(message) => {
            println!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// One run: a scenario under a defect or none, and how it ended.
struct Run {
    scenario: Scenario,
    ended: Ended,
    took: Duration,
}

fn all(programs: &Programs, names: &[&str]) -> ExitCode {
    let began = Instant::now();
    let wanted = |defect: &Defect| names.is_empty() || names.contains(&defect.name);
    let wanted: Vec<Defect> = defects::ALL.iter().copied().filter(wanted).collect();
    let known = names.iter().filter(|name| defects::named(name).is_err());
    let mut problems: Vec<String> = known.map(|name| format!("no defect {name}")).collect();
    // A table with holes would look like proof.
    let listed = |defect: &Defect| CAUGHT_BY.iter().any(|(of, _)| of.name == defect.name);
    let unlisted = wanted.iter().filter(|defect| !listed(defect));
    problems.extend(unlisted.map(|defect| format!("{} has no scenario", defect.name)));
    let (good, alarms) = without_any(programs, &wanted, &mut problems);
    let caught = with_each(programs, &wanted, &good, &mut problems);
    for problem in &problems {
        println!("FAILED   {problem}");
    }
    println!(
        "{caught} of {} seeded defects caught, {alarms} false alarms in {} scenarios, {} s{}",
        wanted.len(),
        good.len() + alarms,
        began.elapsed().as_secs(),
        if problems.is_empty() { "" } else { ": FAILED" },
    );
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn scenarios_of(defect: Defect) -> impl Iterator<Item = Scenario> {
    let of = CAUGHT_BY.iter().filter(move |(of, _)| of.name == defect.name);
    of.flat_map(|(_, scenarios)| scenarios.iter()).flat_map(|scenario| scenario.seeds())
}

/// Every scenario once without any defect; those that passed, and how many did not.
fn without_any(
    programs: &Programs,
    wanted: &[Defect],
    problems: &mut Vec<String>,
) -> (BTreeSet<Scenario>, usize) {
    let scenarios: BTreeSet<_> = wanted.iter().flat_map(|defect| scenarios_of(*defect)).collect();
    let scenarios: Vec<_> = scenarios.into_iter().collect();
    let runs = on_all_cores(&scenarios, |scenario| run(programs, *scenario, None));
    let mut good = BTreeSet::new();
    for run in runs {
        match run.ended {
            Ended::Passed => drop(good.insert(run.scenario)),
            ended => problems.push(format!("{} without a defect: {ended}", run.scenario)),
        }
    }
    let alarms = scenarios.len() - good.len();
    (good, alarms)
}

/// Every defect under its scenarios until one of them fails; how many were caught.
fn with_each(
    programs: &Programs,
    wanted: &[Defect],
    good: &BTreeSet<Scenario>,
    problems: &mut Vec<String>,
) -> usize {
    let tries = on_all_cores(wanted, |defect| {
        let mut runs = Vec::new();
        for scenario in scenarios_of(*defect).filter(|scenario| good.contains(scenario)) {
            runs.push(run(programs, scenario, Some(*defect)));
            if runs.last().is_some_and(|run| matches!(run.ended, Ended::Failed(_))) {
                break;
            }
        }
        say(*defect, &runs);
        runs
    });
    let mut caught = 0;
    for (defect, runs) in wanted.iter().zip(tries) {
        let ends: BTreeMap<_, _> = runs.iter().map(|run| (run.scenario, &run.ended)).collect();
        match runs.last() {
            Some(Run { ended: Ended::Failed(_), .. }) => caught += 1,
            _ => problems.push(format!("{} was not caught: {ends:?}", defect.name)),
        }
    }
    caught
}

/// A line of the table.
fn say(defect: Defect, runs: &[Run]) {
    if let Some(Run { scenario, ended: Ended::Failed(message), took }) = runs.last() {
        let message: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
        println!(
            "caught   {:<40} {:<12} {scenario}, {:.1} s: {message}",
            defect.name,
            scenario.layer(),
            took.as_secs_f64()
        );
    }
}

fn run(programs: &Programs, scenario: Scenario, defect: Option<Defect>) -> Run {
    let began = Instant::now();
    let ended = process::run(programs, scenario, defect);
    Run { scenario, ended, took: began.elapsed() }
}

/// Does `work` for each of `items`, several at a time; the results in their order.
fn on_all_cores<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get()).min(WORKERS_MAX);
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    let result = work(item);
                    done.lock().expect("no holder panics").insert(at, result);
                }
            });
        }
    });
    done.into_inner().expect("no holder panics").into_values().collect()
}
