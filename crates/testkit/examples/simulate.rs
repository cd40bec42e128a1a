//! Runs of the simulation from the command line: `simulate replay SEED` shows one with its trace,
//! `simulate campaign RUNS [FIRST]` does many and keeps the seeds that fail, `simulate hash SEED`
//! prints what identifies a run down to the last byte on the network.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, ExitCode, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast_testkit::sim::{Options, Report, run, run_with};

/// Seeds of failed runs, one per line with the reason.
const FAILED: &str = "crates/testkit/tests/seeds/failed.txt";

/// A run that takes longer has hung.
const RUN_WALL_MAX: Duration = Duration::from_secs(900);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().ok();
    match arguments.as_slice() {
        ["replay", seed] if number(seed).is_some() => replay(number(seed).unwrap_or(0)),
        ["run", seed] if number(seed).is_some() => run_for_campaign(number(seed).unwrap_or(0)),
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

/// Marks the line that a campaign reads.
const MARK: &str = "run:";

/// One run of a campaign, in a process of its own.
fn run_for_campaign(seed: u64) -> ExitCode {
    let began = Instant::now();
    let report = run(seed);
    println!("{}", summary(&report, began.elapsed()).replace('\n', " "));
    let faults: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
    let (outcomes, elapsed) = (report.outcomes, report.elapsed.as_millis());
    println!("{MARK} {} {} {elapsed} {}", outcomes.succeeded, outcomes.unknown, faults.join(" "));
    code(report.violation.is_none())
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
    /// Takes in what a run told; the line that describes it.
    fn add(&mut self, seed: u64, output: &Output) -> String {
        let text = String::from_utf8_lossy(&output.stdout);
        let first = text.lines().next().map(str::to_owned);
        let line = first.unwrap_or_else(|| format!("seed {seed}: BAD: {}", output.status));
        self.runs += 1;
        self.bad += u64::from(!output.status.success());
        let told = text.lines().find_map(|line| line.strip_prefix(MARK));
        let mut words = told.unwrap_or_default().split_whitespace();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        self.succeeded += number();
        self.unknown += number();
        self.elapsed += Duration::from_millis(number());
        for kind in words {
            *self.faults.entry(kind.to_owned()).or_default() += 1;
        }
        if !output.status.success() {
            keep(&line);
        }
        line
    }
}

/// Every run has a process of its own: one that aborts or hangs takes no other with it.
fn run_apart(seed: u64) -> std::io::Result<Output> {
    let program = std::env::current_exe()?;
    let run = ["run".to_owned(), seed.to_string()];
    let seconds = RUN_WALL_MAX.as_secs().to_string();
    Command::new("timeout").arg(seconds).arg(program).args(run).output()
}

fn campaign(first: u64, runs: u64) -> ExitCode {
    let began = Instant::now();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, sum) = (AtomicU64::new(first), Mutex::new(Sum::default()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + runs {
                        return;
                    }
                    let output = run_apart(seed).expect("this program can be started again");
                    let line = sum.lock().expect("nobody panics with the sum").add(seed, &output);
                    println!("{line}");
                }
            });
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
    code(sum.bad == 0 && sum.runs == runs && sum.runs > 0)
}

/// Writes a failed seed down.
fn keep(line: &str) {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(FAILED);
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
        eprintln!("{FAILED}: {error}");
    }
}

fn code(is_good: bool) -> ExitCode {
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
