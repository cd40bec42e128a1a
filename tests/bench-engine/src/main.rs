//! Holdfast's engine beside RocksDB and fjall: the same keys, values, cache, filter bits and
//! block size, batches of 16 that nobody syncs, one thread in front and one behind.
//!
//! `make bench-engine`, or `./run [--keys N] [--log-bytes N] [--engines a,b,journal]
//! [--report DIR]`; fails where a target is missed. Ratios compare processor time, which
//! neighbours on the machine disturb least; wall time is beside it.

mod fjall;
mod holdfast;
mod journal;
mod nodes;
mod raft_engine;
mod report;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod store;
mod tails;
mod workload;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use report::Shown;
use store::{Open, Settings};
use workload::Run;

/// The allocator of `holdfastd`, as that sets it up.
#[path = "../../../crates/server/src/allocator.rs"]
mod allocator;

const ENGINES: &[(&str, Open)] = &[
    ("holdfast", holdfast::open),
    #[cfg(feature = "rocksdb")]
    ("rocksdb", rocksdb::open),
    ("fjall", fjall::open),
];

struct Arguments {
    keys: u64,
    log_bytes: u64,
    engines: Option<Vec<String>>,
    report: Option<PathBuf>,
    /// The command line of a build; nodes are measured where it is given.
    holdfast: Option<PathBuf>,
    restart_keys: u64,
    expiry_keys: u64,
}

fn arguments() -> Result<Arguments> {
    let mut found = Arguments {
        keys: 1_000_000,
        log_bytes: 1 << 30,
        engines: None,
        report: None,
        holdfast: None,
        restart_keys: 20_000_000,
        expiry_keys: 1_000_000,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match word.as_str() {
            "--keys" => found.keys = value()?.parse()?,
            "--log-bytes" => found.log_bytes = value()?.parse()?,
            "--engines" => found.engines = Some(value()?.split(',').map(str::to_owned).collect()),
            "--report" => found.report = Some(value()?.into()),
            "--holdfast" => found.holdfast = Some(value()?.into()),
            "--restart-keys" => found.restart_keys = value()?.parse()?,
            "--expiry-keys" => found.expiry_keys = value()?.parse()?,
            _ => bail!("unknown argument {word}"),
        }
    }
    Ok(found)
}

fn main() -> Result<ExitCode> {
    allocator::set_up();
    let arguments = arguments()?;
    let wanted =
        |name: &str| arguments.engines.as_ref().is_none_or(|e| e.iter().any(|n| n == name));
    let root = std::env::temp_dir().join(format!("bench-engine-{}", std::process::id()));
    let mut shown = Vec::new();
    for (engine, open) in ENGINES.iter().filter(|(name, _)| wanted(name)) {
        let dir = root.join(engine);
        fs::create_dir_all(&dir)?;
        let mut run = Run::new(engine, *open, Settings::holding(arguments.keys), arguments.keys);
        run.all(&dir).with_context(|| (*engine).to_owned())?;
        shown.push(Shown { engine, figures: run.figures });
    }
    let mut parts = vec![(report::table(&shown), report::judge(&shown))];
    if wanted("journal") {
        let shown = journal::run(&root, arguments.log_bytes)?;
        parts.push((report::table(&shown), journal::judge(&shown)));
    }
    let _ = fs::remove_dir_all(&root);
    if let Some(holdfast) = &arguments.holdfast {
        let findings = nodes::run(holdfast, arguments.restart_keys, arguments.expiry_keys)?;
        parts.push((report::nodes(&findings), report::judge_nodes(&findings)));
    }
    let tables: String = parts.iter().map(|(table, _)| format!("{table}\n")).collect();
    let judgement: String = parts.iter().map(|(_, (text, ..))| text.as_str()).collect();
    let met: usize = parts.iter().map(|(_, (_, met, _))| met).sum();
    let missed: usize = parts.iter().map(|(_, (.., missed))| missed).sum();
    println!("{tables}{judgement}");
    if let Some(dir) = arguments.report {
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("engine.svg"), report::plot(&shown))?;
        let text = format!(
            "# The engine beside its peers\n\n{} keys of 20 bytes, values of 200; {}; \
             `make bench-engine`. How to read it: `reading.md`.\n\n{tables}{judgement}\n\
             ![plot](engine.svg)\n",
            arguments.keys,
            report::machine(),
        );
        fs::write(dir.join("engine.md"), text)?;
    }
    println!("bench-engine: {met} targets met, {missed} missed, {} keys", arguments.keys);
    Ok(if missed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
