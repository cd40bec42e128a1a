//! The short form of the campaigns, for every change.

use std::path::Path;
use std::process::Command;

use holdfast_env::defects;
use holdfast_storm_storage::campaign::{self, Sums, replay_line, run_seed};
use holdfast_storm_storage::{kill, seeds};

/// Images per campaign about images.
const IMAGES: u64 = 4_000;
/// Faults per campaign about faults.
const FAULTS: u64 = 2_000;
/// Processes killed.
const KILLS: u64 = 4;

/// Runs seeds of a campaign, from the first on, until there is enough.
fn run_until(name: &str, is_enough: impl Fn(&Sums) -> bool) {
    let campaign = campaign::named(name).unwrap();
    let mut sums = Sums::default();
    while !is_enough(&sums) {
        let seed = sums.seeds + 1;
        match run_seed(campaign, seed) {
            Ok(done) => sums += done,
            Err(message) => panic!("{name} {seed}: {message}\n{}", replay_line(name, seed)),
        }
    }
    println!("{name}: {sums:?}");
}

#[test]
fn an_engine_survives_a_power_cut_at_any_call() {
    run_until("engine", |sums| sums.images >= IMAGES);
}

#[test]
fn a_journal_survives_a_power_cut_at_any_call() {
    run_until("journal", |sums| sums.images >= IMAGES);
}

#[test]
fn engines_and_journal_together_survive_a_power_cut_at_any_call() {
    run_until("node", |sums| sums.images >= IMAGES);
}

#[test]
fn any_single_damage_of_a_file_is_noticed_or_harmless() {
    run_until("platter", |sums| sums.faults >= FAULTS);
}

#[test]
fn any_single_fault_of_a_call_loses_nothing_acknowledged() {
    run_until("flight", |sums| sums.faults >= FAULTS / 20);
}

#[test]
fn a_seed_that_failed_once_does_not_fail_again() {
    for (campaign, seed) in seeds::kept() {
        if let Err(message) = run_seed(campaign, seed) {
            panic!("{} {seed}: {message}\n{}", campaign.name, replay_line(campaign.name, seed));
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    let scratch = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_storm-storage"));
    assert!(kill::run(program, scratch.path(), KILLS, 1) > 0);
}

#[test]
fn one_seed_is_one_run() {
    for campaign in campaign::ALL {
        assert_eq!(run_seed(campaign, 3), run_seed(campaign, 3), "{}", campaign.name);
    }
}

/// Every defect that one of the first seeds of a campaign catches; the long run looks for all.
const CAUGHT_SOON: [(&str, &str); 2] =
    [("acknowledge-before-fsync", "node"), ("bloom-false-negative", "engine")];

#[test]
fn campaigns_fail_where_a_protection_is_removed() {
    for (defect, campaign) in CAUGHT_SOON {
        let is_caught = (1..20).any(|seed: u64| {
            let run = Command::new(env!("CARGO_BIN_EXE_storm-storage"))
                .args(["replay", campaign, &seed.to_string()])
                .env(defects::VARIABLE, defect)
                .output()
                .unwrap();
            run.status.code() == Some(1)
        });
        assert!(is_caught, "{campaign} does not notice {defect}");
    }
}
