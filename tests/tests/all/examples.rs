//! The examples run to their end against a cluster.

use std::process::Command;

use anyhow::{Result, ensure};
use holdfast_tests::{Running, example, shared};

/// Runs the example `name`; its last line is its result.
fn runs(name: &str) {
    shared(async |cluster| -> Result<()> {
        let mut command = Command::new(example(name));
        command.env("HOLDFAST_ENDPOINTS", cluster.endpoints().join(","));
        let finished = Running::start(command, b"")?.finish()?.expect_code(0)?;
        let text = finished.text();
        let last = text.lines().last().unwrap_or_default();
        ensure!(last.starts_with(&format!("{name}: done")), "{name} ended with {last:?}\n{text}");
        Ok(())
    });
}

#[test]
fn the_quickstart_runs() {
    runs("quickstart");
}

#[test]
fn the_distributed_lock_protects_its_resource() {
    runs("distributed_lock");
}

#[test]
fn the_watched_configuration_arrives() {
    runs("config_watch");
}

#[test]
fn the_election_has_one_leader_at_a_time() {
    runs("leader_election");
}

#[test]
fn the_sharded_counter_counts() {
    runs("sharded_counter");
}

#[test]
fn the_session_store_forgets_in_time() {
    runs("session_store");
}

#[test]
fn the_worker_pool_never_uses_more_machines_than_there_are() {
    runs("worker_pool");
}
