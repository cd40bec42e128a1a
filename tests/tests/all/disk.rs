//! The disk fills up, and is emptied again.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_client::{Client, Error};
use holdfast_tests::{Options, eventually, scenario};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// How long nodes may take to notice.
const LIMIT: Duration = Duration::from_secs(20);
/// Below so much free space the machine is too full for this test to lead it into fullness.
const FREE_MIN: u64 = 4 << 30;

/// Bytes anyone may still use where the tests write.
fn free() -> Result<u64> {
    let tests = std::env::current_exe()?;
    let stat = statvfs(&tests)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

async fn put(client: &Client) -> Result<(), Error> {
    client.put("disk/growing", "x".repeat(100)).await.map(|_| ())
}

#[test]
fn a_full_disk_refuses_growth_allows_deletes_and_recovers_by_itself() -> Result<()> {
    let free = free()?;
    if free < FREE_MIN {
        println!("skipped: only {free} bytes are free here, this test needs {FREE_MIN}");
        return Ok(());
    }
    // The nodes call the disk full below half of what is free now, and good again above six
    // tenths: far from what other programs write meanwhile.
    let options = Options::nodes(3)
        .set(format!("disk.read_only_below_bytes={}", free / 2))
        .set(format!("disk.recover_above_bytes={}", free / 10 * 6))
        .set("disk.check_interval_ms=50");
    scenario(options, async |cluster| {
        let begun = Instant::now();
        let client = cluster.client().await?;
        client.put("disk/kept", "x").await?;
        put(&client).await?;
        let ballast = cluster.node(1).folder().join("ballast");
        let file = File::create(&ballast)?;
        fallocate(&file, FallocateFlags::empty(), 0, free / 10 * 7).context("filling the disk")?;
        let error = eventually(LIMIT, async || {
            put(&client).await.err().context("a full disk is written to")
        });
        let error = error.await?;
        ensure!(matches!(error, Error::DiskFull(_)), "{error:?}");
        for i in 1..=3 {
            let status = eventually(LIMIT, async || {
                let status = cluster.status(i).await?;
                ensure!(status.disk_full, "node {i} does not say that its disk is full");
                Ok(status)
            });
            status.await?;
        }
        let refused = cluster.cli().run("put disk/growing y")?.expect_code(3)?;
        ensure!(refused.stderr.contains("disk"), "{refused:?}");
        let kept = client.get("disk/kept").await?;
        ensure!(kept.is_some_and(|e| e.value == "x"), "reads end with the space");
        ensure!(client.delete("disk/kept").await?.deleted == 1, "deletes end with the space");
        drop(file);
        std::fs::remove_file(&ballast)?;
        eventually(LIMIT, async || Ok(put(&client).await?)).await?;
        for i in 1..=3 {
            let recovered = eventually(LIMIT, async || {
                let status = cluster.status(i).await?;
                ensure!(!status.disk_full, "node {i} still says that its disk is full");
                Ok(status.uptime_ms)
            });
            let uptime = Duration::from_millis(recovered.await?);
            ensure!(uptime >= begun.elapsed(), "node {i} was started anew");
        }
        Ok(())
    });
    Ok(())
}
