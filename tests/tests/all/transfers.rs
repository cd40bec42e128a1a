//! `holdfast load` and `holdfast dump` on real records.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::{Cluster, Finished, Options, SAMPLE, eventually, scenario, shared};

/// The records of the sample, `copies` times under different keys, and what a dump of them is.
fn records(copies: usize) -> (String, String) {
    let mut lines = Vec::new();
    for copy in 0..copies {
        for line in SAMPLE.lines() {
            lines.push(if copies == 1 { line.to_owned() } else { format!("{copy:03}/{line}") });
        }
    }
    let file = lines.iter().map(|line| format!("{line}\n")).collect();
    // Keys end at the TAB, which is smaller than every byte of a key.
    lines.sort_unstable_by(|a, b| a.split('\t').next().cmp(&b.split('\t').next()));
    (file, lines.iter().map(|line| format!("{line}\n")).collect())
}

fn write(cluster: &Cluster, name: &str, text: &str) -> Result<PathBuf> {
    let path = cluster.node(1).folder().join(name);
    fs::write(&path, text)?;
    Ok(path)
}

fn same(dump: &Finished, expected: &str) -> Result<()> {
    let difference = dump.text().lines().zip(expected.lines()).position(|(a, b)| a != b);
    ensure!(
        dump.stdout == expected.as_bytes(),
        "{} bytes instead of {}, first difference in line {difference:?}",
        dump.stdout.len(),
        expected.len()
    );
    Ok(())
}

#[test]
fn a_dump_gives_back_what_was_loaded_byte_for_byte() {
    shared(async |cluster| {
        let cli = cluster.cli();
        cli.run("keyspace create loaded --ranges 8")?.expect_code(0)?;
        let (file, expected) = records(1);
        let path = write(cluster, "sample.tsv", &file)?;
        let count = file.lines().count();
        let load = format!("--keyspace loaded load {}", path.display());
        let loaded = cli.run(&load)?.expect_code(0)?;
        ensure!(
            loaded.text().contains(&format!("{count} records loaded, 0 rejected")),
            "{loaded:?}"
        );
        same(&cli.run("--keyspace loaded dump")?.expect_code(0)?, &expected)?;
        // Through the other format into another keyspace, and back.
        cli.run("keyspace create copied --ranges 2")?.expect_code(0)?;
        let lines = cli.run("--keyspace loaded dump --format jsonl")?.expect_code(0)?;
        let path = write(cluster, "sample.jsonl", &lines.text())?;
        cli.run(&format!("--keyspace copied load {}", path.display()))?.expect_code(0)?;
        same(&cli.run("--keyspace copied dump")?.expect_code(0)?, &expected)?;
        Ok(())
    });
}

#[test]
fn lines_that_hold_no_record_are_rejected_by_number_and_the_others_loaded() {
    shared(async |cluster| {
        let cli = cluster.cli();
        cli.run("keyspace create rejected --ranges 1")?.expect_code(0)?;
        let path = write(cluster, "bad.tsv", "a\t1\nno tab\n\tno key\nb\t2\tstill the value\n")?;
        let loaded = cli.run(&format!("--keyspace rejected load {}", path.display()))?;
        let loaded = loaded.expect_code(2)?;
        ensure!(loaded.text().contains("2 records loaded, 2 rejected"), "{loaded:?}");
        for line in ["line 2", "line 3"] {
            ensure!(loaded.stderr.contains(line), "{line}: {loaded:?}");
        }
        let again = cli.run(&format!("-o json --keyspace rejected load {}", path.display()))?;
        let again: serde_json::Value = serde_json::from_slice(&again.expect_code(2)?.stdout)?;
        ensure!(again["loaded"] == 2 && again["rejected"] == 2, "{again}");
        let dump = cli.run("--keyspace rejected dump")?.expect_code(0)?;
        ensure!(dump.stdout == b"a\t1\nb\t2\tstill the value\n", "{dump:?}");
        let bytes = b"two\nlines";
        cli.run_with("--keyspace rejected put c -", bytes)?.expect_code(0)?;
        let cut = write(cluster, "cut.tsv.gz", "not compressed\n")?;
        let refused = cli.run(&format!("load {}", cut.display()))?.expect_code(2)?;
        ensure!(refused.stderr.contains("reading the file"), "{refused:?}");
        let refused = cli.run("--keyspace rejected dump")?.expect_code(2)?;
        ensure!(refused.stderr.to_lowercase().contains("json"), "no hint: {refused:?}");
        Ok(())
    });
}

#[test]
fn a_load_survives_the_death_of_all_nodes_in_its_middle() {
    scenario(Options::nodes(3), async |cluster| {
        let cli = cluster.cli();
        let (file, expected) = records(80);
        let path = write(cluster, "many.tsv", &file)?.display().to_string();
        let client = cluster.client().await?;
        let load = cli.start(["--timeout", "20s", "load", path.as_str()])?;
        let begun = eventually(Duration::from_secs(30), async || {
            let loaded = client.scan("").limit(1).collect().await?.len();
            ensure!(loaded > 0, "nothing was loaded");
            Ok(())
        });
        begun.await?;
        for i in 1..=3 {
            cluster.node_mut(i).kill()?;
        }
        for i in 1..=3 {
            cluster.node_mut(i).start()?;
        }
        let loaded = load.finish()?.expect_code(0)?;
        let count = file.lines().count();
        ensure!(loaded.text().contains(&format!("{count} records loaded")), "{loaded:?}");
        cluster.healthy().await?;
        same(&cli.run("--timeout 30s dump")?.expect_code(0)?, &expected)?;
        // And once more, at rest.
        for i in 1..=3 {
            cluster.node_mut(i).kill()?;
        }
        for i in 1..=3 {
            cluster.node_mut(i).start()?;
        }
        for i in 1..=3 {
            cluster.answers(i).await?;
        }
        cluster.healthy().await?;
        same(&cli.run("--timeout 30s dump")?.expect_code(0)?, &expected)
    });
}
