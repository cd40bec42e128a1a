//! Runs of the simulation from the command line: `simulate replay SEED [SECONDS]` shows one with
//! its trace, `simulate campaign RUNS [FIRST [SECONDS]]` does many and keeps what failed,
//! `simulate leases SCHEDULES [FIRST]` looks for stale lease reads, `simulate hash SEED` prints
//! what identifies a run down to the last byte on the network, and `simulate same SEEDS [FIRST]`
//! has two processes print it for every seed.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast_testkit::history;
use holdfast_testkit::sim::{FaultKind, Options, Report, run_leases, run_with};

/// Where a failed run leaves its trace and its history.
const KEPT: &str = "target/simulate";
/// Seeds of failed runs, one per line with the reason, there.
const FAILED: &str = "failed.txt";
/// A run that takes longer has hung.
const RUN_WALL_MAX: Duration = Duration::from_secs(900);
/// Faults of a run of a campaign go on for so long, unless said otherwise.
const CAMPAIGN_SECONDS: u64 = 90;
/// Lease schedules on one cluster.
const SCHEDULES_PER_SEED: u64 = 50;
/// Campaigns of at least so many runs must meet every kind of fault and every rare state.
const RUNS_FOR_ALL: u64 = 100;

const USAGE: &str = "simulate replay SEED [SECONDS] | simulate campaign RUNS [FIRST [SECONDS]] | \
                     simulate leases SCHEDULES [FIRST] | simulate hash SEED | \
                     simulate same SEEDS [FIRST]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Option<Vec<u64>> =
        arguments.iter().skip(1).map(|text| text.parse::<u64>().ok()).collect();
    let verb = arguments.first().map(String::as_str);
    match (verb, numbers.as_deref()) {
        (Some("replay"), Some([seed, rest @ ..])) => replay(*seed, rest.first().copied()),
        (Some("run"), Some([seed, rest @ ..])) => run_apart_of(*seed, rest.first().copied()),
        (Some("hash"), Some([seed])) => hash(*seed),
        (Some("same"), Some([seeds, rest @ ..])) => {
            same(*seeds, rest.first().copied().unwrap_or(1))
        }
        (Some("campaign"), Some([runs, rest @ ..])) => {
            let first = rest.first().copied().unwrap_or(1);
            campaign(first, *runs, rest.get(1).copied().unwrap_or(CAMPAIGN_SECONDS))
        }
        (Some("leases"), Some([schedules, rest @ ..])) => {
            leases(*schedules, rest.first().copied().unwrap_or(1))
        }
        (Some("lease-seed"), Some([seed, schedules])) => lease_seed(*seed, *schedules),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn options(seed: u64, seconds: Option<u64>) -> Options {
    let options = Options::of(seed);
    Options { storm: seconds.map_or(options.storm, Duration::from_secs), ..options }
}

fn replay(seed: u64, seconds: Option<u64>) -> ExitCode {
    let began = Instant::now();
    let report = run_with(seed, options(seed, seconds));
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

/// Whether two processes come to the same with every seed.
fn same(seeds: u64, first: u64) -> ExitCode {
    let equal = AtomicU64::new(0);
    on_all_processors(first, seeds, |seed| {
        let run = || run_apart(&["hash".to_owned(), seed.to_string()]);
        let both = [run(), run()].map(|output| output.expect("this program can be started again"));
        let [one, other] = both.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        if one == other && !one.is_empty() {
            equal.fetch_add(1, Ordering::Relaxed);
        } else {
            println!("seed {seed}: {one:?}, {other:?}");
        }
    });
    let equal = equal.into_inner();
    println!("determinism: {equal} of {seeds} seeds the same");
    code(equal == seeds && seeds > 0)
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
fn run_apart_of(seed: u64, seconds: Option<u64>) -> ExitCode {
    let began = Instant::now();
    let report = run_with(seed, options(seed, seconds));
    println!("{}", summary(&report, began.elapsed()).replace('\n', " "));
    let faults = report.faults.iter().map(|kind| format!("{kind}=1"));
    let marks = report.marks.iter().map(|(name, n)| format!("{}={n}", name.replace(' ', "-")));
    let counts: Vec<String> = faults.chain(marks).collect();
    let (outcomes, elapsed) = (report.outcomes, report.elapsed.as_millis());
    println!("{MARK} {} {} {elapsed} {}", outcomes.succeeded, outcomes.unknown, counts.join(" "));
    if report.violation.is_some()
        && let Err(error) = keep_evidence(&report)
    {
        eprintln!("{KEPT}: {error}");
    }
    code(report.violation.is_none())
}

/// Writes the trace and the history of a failed run.
fn keep_evidence(report: &Report) -> std::io::Result<()> {
    let directory = PathBuf::from(KEPT).join(format!("seed-{}", report.seed));
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("trace.txt"), report.trace.lines().join("\n"))?;
    let mut bytes = Vec::new();
    history::write(&report.history, &mut bytes).map_err(std::io::Error::other)?;
    std::fs::write(directory.join("history.jsonl"), bytes)
}

/// What many runs came to.
#[derive(Default)]
struct Sum {
    runs: u64,
    bad: u64,
    succeeded: u64,
    unknown: u64,
    counts: BTreeMap<String, u64>,
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
        for (name, count) in words.filter_map(|word| word.split_once('=')) {
            *self.counts.entry(name.to_owned()).or_default() += count.parse::<u64>().unwrap_or(0);
        }
        if !output.status.success() {
            keep(&line);
        }
        line
    }

    /// Kinds of faults and rare states that no run met.
    fn missed(&self) -> Vec<String> {
        let kinds = FaultKind::ALL.iter().map(ToString::to_string);
        let marks = holdfast_env::marks::ALL.iter().map(|mark| mark.name.replace(' ', "-"));
        kinds.chain(marks).filter(|name| self.counts.get(name).is_none_or(|n| *n == 0)).collect()
    }
}

/// Every run has a process of its own: one that aborts or hangs takes no other with it.
fn run_apart(arguments: &[String]) -> std::io::Result<Output> {
    let program = std::env::current_exe()?;
    let seconds = RUN_WALL_MAX.as_secs().to_string();
    Command::new("timeout").arg(seconds).arg(program).args(arguments).output()
}

/// Has `run` called for every seed, on all processors; how many those are.
fn on_all_processors(first: u64, runs: u64, run: impl Fn(u64) + Sync) -> usize {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(first);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + runs {
                        return;
                    }
                    run(seed);
                }
            });
        }
    });
    workers
}

fn campaign(first: u64, runs: u64, seconds: u64) -> ExitCode {
    let (began, sum) = (Instant::now(), Mutex::new(Sum::default()));
    let workers = on_all_processors(first, runs, |seed| {
        let arguments = ["run".to_owned(), seed.to_string(), seconds.to_string()];
        let output = run_apart(&arguments).expect("this program can be started again");
        let line = sum.lock().expect("nobody panics with the sum").add(seed, &output);
        println!("{line}");
    });
    let sum = sum.into_inner().expect("nobody panics with the sum");
    let wall = began.elapsed().as_secs_f64();
    for (name, count) in &sum.counts {
        println!("{count:>8} {name}");
    }
    let missed = if runs >= RUNS_FOR_ALL { sum.missed() } else { Vec::new() };
    if !missed.is_empty() {
        println!("never met: {}", missed.join(", "));
    }
    let struck: u64 = FaultKind::ALL.iter().filter_map(|k| sum.counts.get(&k.to_string())).sum();
    println!(
        "{} runs, {} bad, {} calls answered, {} of unknown outcome, {struck} faults, {} kinds and \
         rare states never met, {:.0} simulated seconds, {:.1} per second on {workers} cores",
        sum.runs,
        sum.bad,
        sum.succeeded,
        sum.unknown,
        missed.len(),
        sum.elapsed.as_secs_f64(),
        sum.elapsed.as_secs_f64() / wall,
    );
    code(sum.bad == 0 && sum.runs == runs && sum.runs > 0 && missed.is_empty())
}

/// Some lease schedules, in a process of its own.
fn lease_seed(seed: u64, schedules: u64) -> ExitCode {
    let report = run_leases(seed, schedules);
    if let Some(violation) = &report.violation {
        for line in report.trace.lines() {
            println!("{line}");
        }
        println!("BAD: {violation}");
    }
    println!(
        "{MARK} {} {} {} {} {} {} {} {}",
        report.schedules,
        report.reads,
        report.endangered,
        report.writes,
        report.elections,
        report.follower_reads,
        report.stale,
        report.elapsed.as_millis(),
    );
    code(report.violation.is_none())
}

fn leases(schedules: u64, first: u64) -> ExitCode {
    let (began, sums) = (Instant::now(), Mutex::new([0_u64; 8]));
    let bad = AtomicU64::new(0);
    let seeds = schedules.div_ceil(SCHEDULES_PER_SEED);
    let workers = on_all_processors(first, seeds, |seed| {
        let arguments = ["lease-seed".into(), seed.to_string(), SCHEDULES_PER_SEED.to_string()];
        let output = run_apart(&arguments).expect("this program can be started again");
        let text = String::from_utf8_lossy(&output.stdout);
        let told = text.lines().find_map(|line| line.strip_prefix(MARK)).unwrap_or_default();
        let numbers = told.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(0));
        let mut sums = sums.lock().expect("nobody panics with the sum");
        sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
        if !output.status.success() {
            bad.fetch_add(1, Ordering::Relaxed);
            let why = text.lines().find(|line| line.starts_with("BAD")).unwrap_or("BAD: died");
            println!("lease seed {seed}: {why}");
            keep(&format!("lease seed {seed}: {why}"));
        }
    });
    let [played, reads, endangered, writes, elections, follower_reads, stale, millis] =
        sums.into_inner().expect("nobody panics with the sum");
    let (bad, simulated) = (bad.into_inner(), millis as f64 / 1_000.0);
    println!(
        "{played} lease schedules, {stale} stale of {reads} lease reads, {endangered} of them by \
         leaders that nobody heard, and of {follower_reads} follower reads; {writes} writes, \
         {elections} terms, {bad} bad seeds, {simulated:.0} simulated seconds, {:.1} per second \
         on {workers} cores",
        simulated / began.elapsed().as_secs_f64(),
    );
    code(bad == 0 && stale == 0 && played >= schedules && endangered > 0)
}

/// Writes a failed seed down.
fn keep(line: &str) {
    let append = || {
        std::fs::create_dir_all(KEPT)?;
        let path = PathBuf::from(KEPT).join(FAILED);
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        writeln!(file, "{line}")
    };
    if let Err(error) = append() {
        eprintln!("{KEPT}/{FAILED}: {error}");
    }
}

fn code(is_good: bool) -> ExitCode {
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
