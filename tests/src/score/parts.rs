//! The parts of the scorecard: a command each, and what its lines must say.

use std::path::Path;

use super::table::Row;
use super::{Outcome, after, before};

/// Of a part without an outcome.
const NOT_RUN: &str = "not run";

/// Reads the figures off an outcome.
type Figures = fn(&Outcome) -> Vec<Row>;

/// A part.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name, for those who want only some.
    pub name: &'static str,
    /// A shell command, run at the root of the repository.
    pub command: String,
    figures: Figures,
}

impl Part {
    fn new(name: &'static str, command: impl Into<String>, figures: Figures) -> Self {
        Self { name, command: command.into(), figures }
    }

    /// What its command must show, and what it showed; without an outcome, nothing. The last row
    /// is how the command ended: there a failure shows that is in no figure.
    pub fn rows(&self, outcome: Option<&Outcome>) -> Vec<Row> {
        let nothing = Outcome::default();
        let mut rows = (self.figures)(outcome.unwrap_or(&nothing));
        if outcome.is_none() {
            rows.iter_mut().for_each(|row| row.figure = NOT_RUN.to_owned());
        }
        rows.push(self.end(outcome));
        rows
    }

    fn end(&self, outcome: Option<&Outcome>) -> Row {
        let is_good = outcome.map(|outcome| outcome.is_good);
        let figure = is_good.map_or(NOT_RUN, |is_good| if is_good { "yes" } else { "no" });
        let name = format!("the command of {} ended well", self.name);
        Row::new(&name, "yes", figure.to_owned(), is_good == Some(true))
    }
}

/// All parts, those that take least first; `seed` decides what is drawn by chance, and the
/// programs they need lie in `programs`.
pub fn parts(programs: &Path, seed: u64) -> Vec<Part> {
    let program = |name: &str| programs.join(name).display().to_string();
    let (torture, simulate) = (program("torture"), program("simulate"));
    vec![
        Part::new("determinism", format!("{simulate} same 4 {seed}"), determinism),
        Part::new("abuse", format!("{torture} abuse --seconds 60 --seed {seed}"), abuse),
        Part::new("leases", format!("{torture} leases --grants 5000 --seed {seed}"), leases),
        Part::new("fuzz", fuzz_command(), fuzz),
        Part::new("schedules", format!("{simulate} leases 5000 {seed}"), schedules),
        Part::new("storage", storage_command(seed), storage),
        Part::new("defects", "make --no-print-directory defects", defects),
        Part::new("availability", format!("{torture} availability --events 30"), availability),
        Part::new("simulation", format!("{simulate} campaign 240 {seed}"), simulation),
        Part::new("torture", format!("{torture} run --seconds 460 --seed {seed}"), run),
    ]
}

/// Targets are those that tests have run: a folder may be there that nobody reads.
fn fuzz_command() -> String {
    "set -o pipefail; ROUNDS=20000 ${CARGO:-cargo} test --release -p holdfast-lsm \
     -p holdfast-journal --lib fuzz -- --nocapture | awk '{ print } \
     /decoders tried/ { targets += $1 } /^test result: FAILED/ { crashes++ } END { printf \
     \"fuzz: %d targets, 20000 rounds each, %d crashes\\n\", targets, crashes }'"
        .to_owned()
}

fn storage_command(seed: u64) -> String {
    format!("IMAGES=28000 FAULTS=20000 KILLS=20 SEED={seed} SCHEDULES=500 tests/storm-storage/run")
}

/// A figure that must be `0`.
fn none(name: &str, found: Option<f64>, of: &str) -> Row {
    let figure = found.map_or("no figure".to_owned(), |found| format!("{found} {of}"));
    Row::new(name, "0", figure, found == Some(0.0))
}

/// A figure that must be `least` at least.
fn least(name: &str, found: Option<f64>, least: f64) -> Row {
    let figure = found.map_or("no figure".to_owned(), |found| found.to_string());
    Row::new(name, &format!("≥ {least}"), figure, found.is_some_and(|found| found >= least))
}

/// A figure that must be `most` at most.
fn most(name: &str, found: Option<f64>, most: f64, unit: &str) -> Row {
    let figure = found.map_or("no figure".to_owned(), |found| format!("{found} {unit}"));
    let target = format!("≤ {most} {unit}");
    Row::new(name, &target, figure, found.is_some_and(|found| found <= most))
}

/// Of a torture: that no run failed, and how much those `checkers` have judged that would have made
/// it fail. What was not looked at is not met.
fn unbroken(line: &str, name: &str, checkers: &[&str]) -> Row {
    let (head, tail) = line.split_once("judged: ").unwrap_or_default();
    let failed = before(head, "failed");
    let facts: Vec<Option<f64>> = checkers.iter().map(|checker| after(tail, checker)).collect();
    let words = checkers.iter().zip(&facts).map(|(checker, facts)| {
        let facts = facts.map_or("nothing".to_owned(), |facts| facts.to_string());
        format!("{checker} judged {facts}")
    });
    let figure = failed.map_or("no figure".to_owned(), |failed| {
        format!("{failed} runs failed; {}", words.collect::<Vec<_>>().join(", "))
    });
    let is_judged = facts.iter().all(|facts| facts.is_some_and(|facts| facts > 0.0));
    Row::new(name, "0", figure, failed == Some(0.0) && is_judged)
}

fn run(outcome: &Outcome) -> Vec<Row> {
    let line = outcome.line("torture: ").unwrap_or_default();
    let checked = ["witness", "linearizable", "once", "sets", "bank", "revisions"];
    vec![
        unbroken(line, "acknowledged writes lost, real processes", &["lost"]),
        unbroken(line, "linearizability violations, real processes", &checked),
        least("… operations", before(line, "operations"), 200_000.0),
        least("… runs under nemeses", before(line, "runs"), 20.0),
        least("… nemeses that were there", before(line, "nemeses"), 20.0),
        unbroken(line, "watches, nine validators: broken", &["watches"]),
        least("… events", before(line, "events"), 1_000_000.0),
        unbroken(line, "fenced lost updates", &["fencing"]),
        unbroken(line, "leases and keys that ended early or late", &["lifetimes"]),
        unbroken(line, "stale follower reads, real processes", &["staleness"]),
        unbroken(line, "replicas that differ at an equal index", &["hashes"]),
    ]
}

fn simulation(outcome: &Outcome) -> Vec<Row> {
    let line = outcome.line(" simulated seconds").unwrap_or_default();
    vec![
        least("simulation: seeds", before(line, "runs"), 200.0),
        least("simulation: seconds", before(line, "simulated seconds"), 21_600.0),
        none("simulation: violations", before(line, "bad"), "runs"),
        none(
            "… kinds of faults and rare states never met",
            before(line, "kinds and rare states"),
            "of them",
        ),
    ]
}

fn determinism(outcome: &Outcome) -> Vec<Row> {
    let line = outcome.line("determinism: ").unwrap_or_default();
    vec![least("determinism: seeds with the same trace twice, of 4", before(line, "of"), 4.0)]
}

fn defects(outcome: &Outcome) -> Vec<Row> {
    let line = outcome.line(" seeded defects caught").unwrap_or_default();
    let caught = before(line, "of");
    let all = before(line, "seeded defects");
    let row = least("seeded defects caught", caught, 20.0);
    let is_all = caught.is_some() && caught == all;
    let figure = format!("{} of {}", row.figure, all.unwrap_or(0.0));
    vec![
        Row { figure, is_met: row.is_met && is_all, ..row },
        none("… scenarios that fail without a defect", before(line, "false alarms"), "scenarios"),
    ]
}

fn storage(outcome: &Outcome) -> Vec<Row> {
    let line = outcome.line("storm-storage: ").unwrap_or_default();
    let points = before(line, "crash points");
    vec![
        least("crash points of engine, journal and node", points, 5_000.0),
        least("… images of them, power cuts included", before(line, "images"), 25_000.0),
        none("… bad", before(line, "bad"), "images"),
        least("single-fault corruptions", before(line, "faults"), 20_000.0),
        none("… neither detected nor harmless", before(line, "undetected"), "faults"),
    ]
}

fn availability(outcome: &Outcome) -> Vec<Row> {
    let line = outcome.line("availability: ").unwrap_or_default();
    let figure = |event: &str, which: &str| {
        let (_, tail) = line.split_once(&format!("{event} p50 "))?;
        let tail = tail.split(',').next()?;
        if which == "p50" { tail.split(' ').next()?.parse().ok() } else { after(tail, which) }
    };
    vec![
        most("no write after a leader's kill, p50", figure("kill", "p50"), 1_000.0, "ms"),
        most("no write after a leader's kill, p99", figure("kill", "p99"), 2_500.0, "ms"),
        most(
            "write stall at a transfer of leadership, p99",
            figure("transfer", "p99"),
            500.0,
            "ms",
        ),
        most("write stall at a graceful stop, p99", figure("stop", "p99"), 500.0, "ms"),
        most("no write after a leader's pause, p99", figure("pause", "p99"), 2_500.0, "ms"),
        most("no write after a leader's isolation, p99", figure("isolate", "p99"), 2_500.0, "ms"),
        least("events of each kind", before(line, "events each"), 30.0),
    ]
}

fn leases(outcome: &Outcome) -> Vec<Row> {
    let line = outcome.line("leases: ").unwrap_or_default();
    vec![
        least("lease grants", before(line, "grants"), 5_000.0),
        none("… that ended early", before(line, "early"), "leases"),
        none("… that ended late", before(line, "late"), "leases"),
    ]
}

fn schedules(outcome: &Outcome) -> Vec<Row> {
    let line = outcome.line(" lease schedules").unwrap_or_default();
    vec![
        least("schedules of drift, pauses and restarts", before(line, "lease schedules"), 5_000.0),
        none("… stale lease or follower reads", before(line, "stale"), "reads"),
        none("… seeds that failed", before(line, "bad seeds"), "seeds"),
        least("… lease reads by leaders nobody heard", before(line, "of them by leaders"), 1.0),
        least("… follower reads", before(line, "follower reads"), 1.0),
    ]
}

fn fuzz(outcome: &Outcome) -> Vec<Row> {
    let line = outcome.line("fuzz: ").unwrap_or_default();
    vec![
        least("fuzz targets", before(line, "targets"), 16.0),
        none("open crashes", before(line, "crashes"), "crashes"),
    ]
}

fn abuse(outcome: &Outcome) -> Vec<Row> {
    let line = outcome.line("abuse: ").unwrap_or_default();
    let (rss, limit) = (after(line, "RSS"), after(line, "% ="));
    let words = rss.zip(limit).map(|(rss, limit)| format!("{rss} of {limit} MiB"));
    let is_met = rss.zip(limit).is_some_and(|(rss, limit)| rss <= limit);
    let figure = words.unwrap_or_else(|| "no figure".to_owned());
    vec![Row::new("RSS under abuse", "≤ budget + 20 %", figure, is_met)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(line: &str) -> Outcome {
        Outcome { is_good: true, lines: vec![line.to_owned()], ..Outcome::default() }
    }

    fn met(name: &str, line: &str) -> Vec<bool> {
        let parts = parts(Path::new("."), 1);
        let part = parts.iter().find(|part| part.name == name).expect("there is such a part");
        part.rows(Some(&outcome(line))).iter().map(|row| row.is_met).collect()
    }

    #[test]
    fn every_part_accepts_the_line_that_meets_its_targets() {
        let lines = [
            (
                "torture",
                "torture: 24 runs, 48 nemeses, 200114 operations, 1000000 events, 0 failed, seed \
                 7; judged: bank 9, fencing 1, hashes 8, lifetimes 3, linearizable 7, lost 4, \
                 once 4, revisions 4, sets 4, staleness 5, watches 9, witness 3",
            ),
            (
                "simulation",
                "240 runs, 0 bad, 9 calls answered, 0 kinds and rare states never met, 21600 \
                 simulated seconds, 3.2 per second",
            ),
            ("determinism", "determinism: 4 of 4 seeds the same"),
            ("defects", "22 of 22 seeded defects caught, 0 false alarms in 9 scenarios, 9 s"),
            (
                "storage",
                "storm-storage: 5101 crash points, 25931 images 0 bad, 20141 faults 0 undetected",
            ),
            (
                "availability",
                "availability: 5 of 5 met, 30 events each: kill p50 900 ms p99 2500 ms max 2600 \
                 ms, pause p50 9 ms p99 2400 ms max 2400 ms, isolate p50 9 ms p99 2400 ms max \
                 2400 ms, transfer p50 3 ms p99 9 ms max 9 ms, stop p50 3 ms p99 400 ms max 400 ms",
            ),
            ("leases", "leases: 5001 grants, 9 sightings judged, 2 kills, 0 early, 0 late, seed 1"),
            (
                "schedules",
                "5000 lease schedules, 0 stale of 9000 lease reads, 7 of them by leaders that \
                 nobody heard, and of 60 follower reads; 9 writes, 3 terms, 0 bad seeds",
            ),
            ("fuzz", "fuzz: 16 targets, 20000 rounds each, 0 crashes"),
            (
                "abuse",
                "abuse: RSS 700 MiB at most, budget 960 MiB + 20 % = 1152 MiB, 9 MiB written, met",
            ),
        ];
        assert_eq!(lines.len(), parts(Path::new("."), 1).len());
        for (name, line) in lines {
            let met = met(name, line);
            assert!(!met.is_empty() && met.iter().all(|is_met| *is_met), "{name}: {met:?}");
        }
    }

    /// How many figures of a part are met, and whether its command is said to have ended well.
    fn figures(name: &str, outcome: Option<&Outcome>) -> (usize, bool) {
        let parts = parts(Path::new("."), 1);
        let part = parts.iter().find(|part| part.name == name).expect("there is such a part");
        let mut rows = part.rows(outcome);
        let end = rows.pop().expect("there is a row for the end");
        (rows.iter().filter(|row| row.is_met).count(), end.is_met)
    }

    #[test]
    fn a_part_that_was_not_run_or_said_nothing_or_too_little_has_missed_its_figures() {
        for part in parts(Path::new("."), 1) {
            assert_eq!(figures(part.name, None), (0, false), "{}", part.name);
            assert_eq!(figures(part.name, Some(&outcome(""))), (0, true), "{}", part.name);
        }
        let few =
            "torture: 24 runs, 48 nemeses, 199999 operations, 999999 events, 1 failed, seed 7";
        assert_eq!(figures("torture", Some(&outcome(few))), (2, true));
        let blind = "torture: 24 runs, 0 failed, seed 7; judged: fencing 0, lost 4";
        let are_met = |name: &str| unbroken(blind, name, &[name]).is_met;
        assert_eq!(["fencing", "lost", "bank"].map(are_met), [false, true, false]);
    }

    #[test]
    fn a_command_that_failed_spoils_the_figures_that_show_it_and_the_row_of_its_end() {
        let failed = |line: &str| Outcome { is_good: false, ..outcome(line) };
        let slow = "availability: 4 of 5 met, 30 events each: kill p50 762 ms p99 817 ms max 817 \
                    ms, pause p50 1009 ms p99 1017 ms max 1017 ms, isolate p50 909 ms p99 7657 ms \
                    max 7657 ms, transfer p50 33 ms p99 38 ms max 38 ms, stop p50 36 ms p99 51 ms \
                    max 51 ms";
        assert_eq!(figures("availability", Some(&failed(slow))), (6, false));
        let good = "fuzz: 16 targets, 20000 rounds each, 0 crashes";
        assert_eq!(figures("fuzz", Some(&failed(good))), (2, false));
        assert_eq!(figures("fuzz", Some(&failed("fuzz: 16 tar"))), (0, false), "killed at work");
    }
}
