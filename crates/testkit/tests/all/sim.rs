//! Whole clusters in one thread.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_testkit::sim::{FaultKind, Options, Report, run_leases, run_with};

/// Seeds of the short campaign: many where the code is optimised.
const SEEDS: u64 = if cfg!(debug_assertions) { 4 } else { 200 };
/// Faults of a run of the short campaign go on for so long.
const STORM: Duration = Duration::from_secs(6);
/// Threads that run seeds.
const THREADS: usize = 2;
/// Lease schedules.
const SCHEDULES: u64 = if cfg!(debug_assertions) { 10 } else { 60 };
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
    let calm_max = Duration::from_secs(1);
    let options = Options { faults: faults.to_vec(), storm, calm_max, ..Options::calm(seed) };
    let report = run_with(seed, options);
    assert_good(&report);
    for kind in faults {
        assert!(report.faults.contains(kind), "{kind} was never installed");
    }
    report
}

#[test]
fn calm_cluster_serves_every_kind_of_work_and_every_checker_has_something_to_judge() {
    let report = run_with(1, Options::calm(1));
    assert_good(&report);
    assert_eq!(report.outcomes.unknown, 0, "nothing was in the way");
    for (name, verdict) in &report.verdicts.verdicts {
        assert!(verdict.as_ref().is_ok_and(|facts| *facts > 0), "{name}: {verdict:?}");
    }
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
fn process_that_was_paused_while_it_led_tells_no_lies() {
    under(5, &[FaultKind::PauseLeader]);
}

/// Runs `seed`, which is made for faults of `kind`, under those only; the rare state `mark` must
/// come about.
fn reach(seed: u64, kind: FaultKind, mark: &str) {
    let (faults, storm) = (vec![kind], Duration::from_secs(60));
    let calm_max = Duration::from_secs(1);
    let options =
        Options { nodes: 3, faults, storm, calm_max, overlap_max: 1, ..Options::of(seed) };
    let report = run_with(seed, options);
    assert_good(&report);
    assert!(report.faults.contains(&kind), "{kind} never took place");
    let passed = report.marks.iter().find(|(name, _)| *name == mark);
    assert!(passed.is_some_and(|(_, count)| *count > 0), "{mark} was never passed");
}

#[test]
fn half_a_write_is_cut_off_the_journal_after_a_power_cut() {
    reach(4, FaultKind::TornWrite, "torn tail recovered");
}

#[test]
fn snapshot_goes_on_where_its_transfer_broke_off() {
    reach(8, FaultKind::SnapshotCut, "snapshot resumed");
}

#[test]
fn no_lease_read_is_stale_under_wrong_clocks_pauses_and_restarts() {
    let report = run_leases(1, SCHEDULES);
    assert_eq!(report.violation, None);
    assert_eq!((report.schedules, report.stale), (SCHEDULES, 0));
    assert!(report.endangered > 0, "no leader was asked that nobody heard");
}

#[test]
fn random_runs_keep_every_promise() {
    let next = AtomicU64::new(1);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > SEEDS {
                        return;
                    }
                    assert_good(&run_with(seed, Options { storm: STORM, ..Options::brisk(seed) }));
                }
            });
        }
    });
}

#[test]
fn seeds_that_once_found_something_find_nothing_now() {
    let lines = KEPT.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    for line in lines {
        let mut words = line.split(' ').map_while(|word| word.parse().ok());
        let seed = words.next().expect("a line begins with a seed");
        let seconds = words.next().expect("the seconds of its storm come next");
        let storm = Duration::from_secs(seconds);
        assert_good(&run_with(seed, Options { storm, ..Options::of(seed) }));
    }
}

/// What identifies a run, down to the bytes on the network: told by a process that does nothing
/// else, since runs of one process share the registry of its log.
fn identity() -> String {
    let name = "sim::a_run_tells_its_identity";
    let test = std::env::current_exe().expect("this program has a path");
    let output = Command::new(&test)
        .args(["--exact", name, "--nocapture"])
        .output()
        .expect("it starts again");
    let text = String::from_utf8(output.stdout).expect("it tells text");
    let line = text.lines().find(|line| line.starts_with("identity "));
    line.expect("the run tells what it was").to_owned()
}

#[test]
fn a_run_tells_its_identity() {
    let seed = 7;
    let report = run_with(seed, Options { is_deep: true, storm: STORM, ..Options::brisk(seed) });
    assert_good(&report);
    assert!(report.trace.events() > 2_000, "the bytes on the network are among the events");
    println!("identity {:016x} {}", report.trace.hash(), report.trace.events());
}

#[test]
fn one_seed_is_one_run_down_to_the_bytes_on_the_network() {
    assert_eq!(identity(), identity());
}
