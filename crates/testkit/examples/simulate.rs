//! Runs of the simulation from the command line: `simulate replay SEED` shows one with its trace,
//! `simulate campaign RUNS [FIRST]` does many and keeps the seeds that fail, `simulate hash SEED`
//! prints what identifies a run down to the last byte on the network.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use holdfast_testkit::sim::{Options, Report, run, run_with};

/// Seeds of failed runs, one per line with the reason.
const FAILED: &str = "crates/testkit/tests/seeds/failed.txt";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().ok();
    match arguments.as_slice() {
        ["replay", seed] if number(seed).is_some() => replay(number(seed).unwrap_or(0)),
        ["hash", seed] if number(seed).is_some() => hash(number(seed).unwrap_or(0)),
        ["campaign", runs, rest @ ..] if number(runs).is_some() => {
            let first = rest.first().and_then(|text| number(text)).unwrap_or(1);
            campaign(first, number(runs).unwrap_or(0))
        }
        _ => {
            eprintln!("simulate replay SEED | simulate campaign RUNS [FIRST] | simulate hash SEED");
            ExitCode::from(2)
        }
    }
}

fn replay(seed: u64) -> ExitCode {
    let began = Instant::now();
    let report = run(seed);
    for line in report.trace.lines() {
        println!("{line}");
    }
    println!("{}", summary(&report, began.elapsed()));
    code(report.violation.is_none())
}

fn hash(seed: u64) -> ExitCode {
    let report = run_with(seed, Options { is_deep: true, ..Options::of(seed) });
    println!("{:016x} {}", report.trace.hash(), report.trace.events());
    code(report.violation.is_none())
}

fn summary(report: &Report, wall: Duration) -> String {
    let verdict = report.violation.as_ref().map_or("good".to_owned(), |v| format!("BAD: {v}"));
    format!(
        "seed {}: {verdict}; {} nodes, {} ranges, {} faults, {:?}, {:.0} s simulated, {:.1} \
         simulated seconds per second, trace {:016x}",
        report.seed,
        report.options.nodes,
        report.options.ranges,
        report.faults.len(),
        report.outcomes,
        report.elapsed.as_secs_f64(),
        report.elapsed.as_secs_f64() / wall.as_secs_f64(),
        report.trace.hash(),
    )
}

/// What many runs came to.
#[derive(Default)]
struct Sum {
    runs: u64,
    bad: u64,
    succeeded: u64,
    unknown: u64,
    faults: BTreeMap<String, u64>,
    elapsed: Duration,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.bad += u64::from(report.violation.is_some());
        self.succeeded += report.outcomes.succeeded;
        self.unknown += report.outcomes.unknown;
        self.elapsed += report.elapsed;
        for kind in &report.faults {
            *self.faults.entry(kind.to_string()).or_default() += 1;
        }
    }
}

fn campaign(first: u64, runs: u64) -> ExitCode {
    let began = Instant::now();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, sum) = (AtomicU64::new(first), Mutex::new(Sum::default()));
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel::<(Report, Duration)>(workers);
        for _ in 0..workers {
            let (next, sender) = (&next, sender.clone());
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let began = Instant::now();
                    if seed >= first + runs || sender.send((run(seed), began.elapsed())).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (report, wall) in receiver {
            println!("{}", summary(&report, wall));
            keep(&report);
            sum.lock().expect("nobody panics with the sum").add(&report);
        }
    });
    let sum = sum.into_inner().expect("nobody panics with the sum");
    let wall = began.elapsed().as_secs_f64();
    for (kind, count) in &sum.faults {
        println!("{count:>8} {kind}");
    }
    println!(
        "{} runs, {} bad, {} calls answered, {} of unknown outcome, {} faults of {} kinds, {:.0} \
         simulated seconds, {:.1} per second on {workers} cores",
        sum.runs,
        sum.bad,
        sum.succeeded,
        sum.unknown,
        sum.faults.values().sum::<u64>(),
        sum.faults.len(),
        sum.elapsed.as_secs_f64(),
        sum.elapsed.as_secs_f64() / wall,
    );
    code(sum.bad == 0 && sum.runs == runs)
}

/// Writes a failed seed down.
fn keep(report: &Report) {
    let Some(violation) = &report.violation else { return };
    let path = Path::new(FAILED);
    let line = format!("{} {violation}", report.seed).replace('\n', " ");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
        eprintln!("{FAILED}: {error}");
    }
}

fn code(is_good: bool) -> ExitCode {
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
