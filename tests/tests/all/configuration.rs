//! What a server refuses before it starts.

use std::process::Command;

use anyhow::{Result, ensure};
use holdfast_tests::{Finished, Options, Running, binary, scenario};

/// Runs `holdfastd` with `arguments` until it ends by itself.
fn server(arguments: &[&str]) -> Result<Finished> {
    let mut command = Command::new(binary("holdfastd"));
    command.args(arguments);
    Running::start(command, b"")?.finish()
}

fn refused(arguments: &[&str], words: &[&str]) -> Result<()> {
    let finished = server(arguments)?;
    ensure!(finished.code == 2, "{arguments:?} ended with {finished:?}");
    for word in words {
        ensure!(finished.stderr.contains(word), "no {word:?} in {finished:?}");
    }
    Ok(())
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_name() -> Result<()> {
    refused(&["--set", "raft.hartbeat_ms=100"], &["raft.hartbeat_ms", "raft.heartbeat_ms"])
}

#[test]
fn a_value_out_of_its_range_is_refused_with_the_range() -> Result<()> {
    refused(&["--set", "raft.heartbeat_ms=0"], &["raft.heartbeat_ms", "between 10 and 10000"])
}

#[test]
fn plaintext_beyond_loopback_is_refused_without_consent() -> Result<()> {
    for key in ["client", "peer", "http"] {
        let set = format!("listen.{key}=192.0.2.1:21999");
        refused(&["--set", &set], &["192.0.2.1:21999", "insecure"])?;
    }
    Ok(())
}

#[test]
fn a_configuration_file_that_does_not_exist_is_named() -> Result<()> {
    refused(&["--config", "/nonexistent/holdfast.toml"], &["/nonexistent/holdfast.toml"])
}

#[test]
fn the_reference_configuration_passes_the_check_and_the_merged_one_is_printed() -> Result<()> {
    let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/reference.toml");
    let checked = server(&["--config", reference, "--check-config"])?;
    ensure!(checked.code == 0, "{checked:?}");
    let set = "raft.heartbeat_ms=123";
    let printed = server(&["--config", reference, "--set", set, "--print-config"])?;
    ensure!(printed.code == 0 && printed.text().contains("heartbeat_ms = 123"), "{printed:?}");
    Ok(())
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    scenario(Options::single(), async |cluster| {
        let config = cluster.node(1).config().display().to_string();
        let address = &cluster.node(1).client;
        let host = address.split(':').next().unwrap_or_default();
        let [client, peer, http] = &[("client", 32_001), ("peer", 32_002), ("http", 32_003)]
            .map(|(which, port)| format!("listen.{which}={host}:{port}"));
        let arguments =
            ["--single", "--config", &config, "--set", client, "--set", peer, "--set", http];
        let finished = server(&arguments)?;
        ensure!(finished.code != 0, "two servers share {config}");
        ensure!(finished.stderr.contains("data"), "{finished:?}");
        cluster.cli().run("put k v")?.expect_code(0)?;
        Ok(())
    });
}

#[test]
fn a_taken_port_is_named() {
    scenario(Options::single(), async |cluster| {
        let data = cluster.node(1).folder().join("second").display().to_string();
        let config = cluster.node(1).config().display().to_string();
        let set = format!("node.data_dir={data}");
        let finished = server(&["--single", "--config", &config, "--set", &set])?;
        let node = cluster.node(1);
        let is_named = [&node.client, &node.peer, &node.http]
            .into_iter()
            .any(|address| finished.stderr.contains(address.as_str()));
        ensure!(finished.code != 0 && is_named, "{finished:?}");
        Ok(())
    });
}
