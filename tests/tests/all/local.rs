//! `holdfast local`: what `make cluster` does, on other addresses and in another folder.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use holdfast_tests::{Cli, Finished, Options, scenario};

/// A local cluster; dropping it ends it, whatever happened before.
struct Local {
    cli: Cli,
    folder: PathBuf,
    address: String,
    port_base: u16,
}

impl Local {
    fn run(&self, line: &str) -> Result<Finished> {
        let (folder, address) = (self.folder.display(), &self.address);
        let port_base = self.port_base;
        let place = format!("--dir {folder} --address {address} --port-base {port_base}");
        self.cli.run(&format!("local {line} {place}"))
    }

    /// Process ids by node.
    fn pids(&self) -> Result<Vec<(u32, u32)>> {
        let pids = self.run("pids")?.expect_code(0)?.text();
        let pair = |line: &str| {
            let (node, pid) = line.split_once(' ').unwrap_or_default();
            Ok((node.parse()?, pid.parse()?))
        };
        pids.lines().map(pair).collect()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // Nothing may be left; that it failed shows in the next run's ports.
        let _ = self.run("wipe");
    }
}

#[test]
fn a_local_cluster_is_started_broken_mended_and_wiped() {
    // The scenario lends its place at the gate, its folder and its addresses.
    scenario(Options::nodes(1).left_empty(), async |cluster| {
        let (address, port) = cluster.node(1).client.split_once(':').unwrap_or_default();
        let local = Local {
            cli: Cli::new(&[]),
            folder: cluster.node(1).folder().join("local"),
            address: address.to_owned(),
            port_base: port.parse::<u16>()? - 1,
        };
        let started = local.run("start --nodes 3")?.expect_code(0)?;
        ensure!(started.text().contains("3 nodes are healthy"), "{started:?}");
        let endpoints = [1, 2, 3].map(|i| format!("{address}:{}", local.port_base + i));
        let cli = Cli::new(&endpoints);
        cli.run("put k v")?.expect_code(0)?;
        let pids = local.pids()?;
        ensure!(pids.len() == 3, "{pids:?}");
        // Again: nothing to do, nothing is started anew.
        local.run("start")?.expect_code(0)?;
        ensure!(local.pids()? == pids, "a second start replaced {pids:?}");
        local.run("status")?.expect_code(0)?;
        local.run("kill 2")?.expect_code(0)?;
        local.run("status")?.expect_code(3)?;
        ensure!(local.pids()?.len() == 2, "a killed node has a process");
        ensure!(cli.run("-o raw get k")?.expect_code(0)?.stdout == b"v", "lost with one node");
        local.run("start 2")?.expect_code(0)?;
        for node in 1..=3 {
            // Whoever was told that it is dead can start it again at once.
            local.run(&format!("kill {node}"))?.expect_code(0)?;
            local.run(&format!("start {node}"))?.expect_code(0)?;
        }
        local.run("start")?.expect_code(0)?;
        local.run("pause 1")?.expect_code(0)?;
        cli.run("put k w")?.expect_code(0)?;
        local.run("resume 1")?.expect_code(0)?;
        local.run("restart 3")?.expect_code(0)?;
        local.run("start")?.expect_code(0)?;
        let log = local.run("logs 3")?.expect_code(0)?;
        ensure!(!log.stdout.is_empty(), "no log");
        local.run("stop")?.expect_code(0)?;
        ensure!(local.pids()?.is_empty(), "stopped nodes have processes");
        local.run("stop")?.expect_code(0)?;
        local.run("start")?.expect_code(0)?;
        ensure!(cli.run("-o raw get k")?.expect_code(0)?.stdout == b"w", "lost by a restart");
        local.run("wipe")?.expect_code(0)?;
        ensure!(!local.folder.exists(), "{} is left", local.folder.display());
        Ok(())
    });
}
