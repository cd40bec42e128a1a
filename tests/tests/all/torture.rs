//! Every workload under nemeses, judged by every checker: the short form of `make torture`.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::nemesis::Kind;
use holdfast_tests::scenario;
use holdfast_tests::torture::{Strike, options, run};

/// How long each strike stands.
const STAND: Duration = Duration::from_secs(3);

/// Runs `strikes`, one after the other, on a cluster of `nodes`.
fn torture(nodes: usize, seed: u64, strikes: &[&[Kind]]) {
    let strikes: Vec<Strike> =
        strikes.iter().map(|kinds| Strike { kinds: kinds.to_vec() }).collect();
    scenario(options(nodes), async |cluster| -> Result<()> {
        let figures = run(cluster, seed, &strikes, STAND).await?;
        let count: usize = strikes.iter().map(|strike| strike.kinds.len()).sum();
        ensure!(figures.proofs.len() == count, "{:?}", figures.proofs);
        Ok(())
    });
}

#[test]
fn three_nodes_keep_every_promise_under_a_kill_an_isolation_a_pause_and_a_storm_of_transfers() {
    let pair = [Kind::Pause, Kind::Delay];
    let alone: [&[Kind]; 3] = [&[Kind::KillLeader], &[Kind::IsolateLeader], &[Kind::LeaderStorm]];
    torture(3, 1, &[alone[0], alone[1], &pair, alone[2]]);
}

#[test]
fn five_nodes_keep_every_promise_when_all_die_in_a_ring_and_one_loses_its_tables() {
    torture(5, 2, &[&[Kind::MajorityRing, Kind::KillAll], &[Kind::CorruptTable, Kind::OneWay]]);
}
