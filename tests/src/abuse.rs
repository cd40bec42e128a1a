//! Memory of nodes whose clients behave badly.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use holdfast_testkit::Random;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Options};
use crate::load::Load;
use crate::nemesis::{Field, Kind, Nemesis};

/// What the default configuration lets a node keep in memory, MiB: block cache, indexes and
/// filters, memtables, recent entries of the log, proposals under way.
pub const BUDGET_MIB: u64 = 256 + 256 + 128 + 64 + 256;
/// Clients that put large values as fast as they can.
const WRITERS: u64 = 8;
/// Keys of each: what is written soon exceeds every cache.
const KEYS: u64 = 64;
/// Length of a value.
const VALUE_BYTES: usize = 1 << 20;
/// What they are given.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// What was seen.
#[derive(Clone, Debug)]
pub struct Abused {
    /// Most that one node held, MiB.
    pub rss_mib: u64,
    /// Bytes that were put and acknowledged, MiB.
    pub written_mib: u64,
    /// What the nemeses say of themselves.
    pub proofs: Vec<String>,
}

/// Resident memory of a process, bytes.
fn resident(process: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/statm"))?;
    let pages: u64 = text.split(' ').nth(1).context("a resident size")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// Abuses three nodes for `time` in every way the clients have: watches that nobody reads, floods
/// of connections, nonsense, large values without a pause.
///
/// # Errors
/// If a nemesis was not there, or nothing could be written.
pub async fn abuse(time: Duration, seed: u64) -> Result<Abused> {
    let mut cluster = Cluster::start(&Options::nodes(3)).await?;
    let admin = cluster.client().await?.with_deadline(Duration::from_secs(60))?;
    let client = Load::keyspace(&admin, "abuse", 4).await?.with_deadline(DEADLINE)?;
    let kinds = [Kind::SlowConsumers, Kind::ConnectionFlood, Kind::BadRequests, Kind::MassExpiry];
    let mut nemeses: Vec<(Kind, Box<dyn Nemesis>)> =
        kinds.into_iter().map(|kind| (kind, kind.nemesis())).collect();
    let mut field = Field::new(&mut cluster, client.clone(), Random::new(seed));
    for (_, nemesis) in &mut nemeses {
        nemesis.install(&mut field).await?;
    }
    let end = Instant::now() + time;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let client = client.clone();
        writers.spawn(async move {
            let (mut written, value) = (0, Bytes::from(vec![b'v'; VALUE_BYTES]));
            for n in 0_u64.. {
                if Instant::now() >= end {
                    break;
                }
                let put = client.put(format!("w{writer}/{}", n % KEYS), value.clone()).await;
                written += u64::from(put.is_ok());
            }
            written
        });
    }
    let mut rss_bytes = 0;
    while Instant::now() < end {
        tokio::time::sleep(LOOK).await;
        for (_, nemesis) in &mut nemeses {
            nemesis.step(&mut field).await?;
        }
        for node in 1..=field.cluster.size() {
            let process = field.cluster.node(node).pid().context("it runs")?;
            rss_bytes = rss_bytes.max(resident(process)?);
        }
    }
    let written_mib = writers.join_all().await.into_iter().sum();
    ensure!(written_mib > 0, "no evidence: nothing was written");
    let mut proofs = Vec::new();
    for (kind, mut nemesis) in nemeses {
        let proof = nemesis.heal(&mut field).await?;
        ensure!(proof.installed, "no evidence: {kind}: {}", proof.words);
        proofs.push(format!("{kind}: {}", proof.words));
    }
    Ok(Abused { rss_mib: rss_bytes >> 20, written_mib, proofs })
}
