//! Whole clusters in one thread.

use std::process::Command;
use std::time::Duration;

use holdfast_testkit::sim::{FaultKind, Options, Report, run, run_with};

/// Seeds of the short campaign.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=6;
/// Seeds that once found something, each with what it was.
const KEPT: &str = include_str!("../seeds/kept.txt");

#[track_caller]
fn assert_good(report: &Report) {
    let lines = report.trace.lines();
    let tail = &lines[lines.len().saturating_sub(60)..];
    let violation = &report.violation;
    assert_eq!(*violation, None, "seed {}, ends in {tail:#?}", report.seed);
}

fn under(seed: u64, faults: &[FaultKind]) -> Report {
    let storm = Duration::from_secs(12);
    let report = run_with(seed, Options { faults: faults.to_vec(), storm, ..Options::calm(seed) });
    assert_good(&report);
    for kind in faults {
        assert!(report.faults.contains(kind), "{kind} was never installed");
    }
    report
}

#[test]
fn calm_cluster_serves_every_call_and_its_replicas_agree() {
    let report = run_with(1, Options::calm(1));
    assert_good(&report);
    assert_eq!(report.outcomes.unknown + report.outcomes.failed, 0);
}

#[test]
fn cluster_goes_on_after_its_leader_is_killed() {
    under(2, &[FaultKind::KillLeader]);
}

#[test]
fn acknowledged_writes_survive_a_power_cut_of_all_nodes_at_once() {
    under(3, &[FaultKind::PowerCutAll]);
}

#[test]
fn minority_side_of_a_partition_tells_no_lies() {
    under(4, &[FaultKind::Halves]);
}

#[test]
fn random_runs_keep_every_promise() {
    std::thread::scope(|scope| {
        for part in 0..2 {
            scope.spawn(move || {
                for seed in SEEDS.filter(|seed| seed % 2 == part) {
                    let storm = Duration::from_secs(8);
                    assert_good(&run_with(seed, Options { storm, ..Options::of(seed) }));
                }
            });
        }
    });
}

#[test]
fn seeds_that_once_found_something_find_nothing_now() {
    let lines = KEPT.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    for line in lines {
        let seed = line.split(' ').next().and_then(|seed| seed.parse().ok());
        assert_good(&run(seed.expect("a line begins with a seed")));
    }
}

fn identity() -> String {
    let seed = 7;
    let storm = Duration::from_secs(6);
    let report = run_with(seed, Options { is_deep: true, storm, ..Options::of(seed) });
    assert_good(&report);
    format!("identity {:016x} {}", report.trace.hash(), report.trace.events())
}

#[test]
fn one_seed_is_one_run_down_to_the_bytes_on_the_network() {
    let first = identity();
    println!("{first}");
    assert_eq!(first, identity());
}

#[test]
fn one_seed_is_one_run_in_another_process_too() {
    let name = "sim::one_seed_is_one_run_down_to_the_bytes_on_the_network";
    let test = std::env::current_exe().unwrap();
    let told = || {
        let output = Command::new(&test).args(["--exact", name, "--nocapture"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.starts_with("identity "));
        line.expect("the run tells what it was").to_owned()
    };
    assert_eq!(told(), identity());
}
