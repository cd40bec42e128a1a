//! `holdfast inspect`: files of a stopped node, read without it.
//!
//! Nothing is ever written. A directory that a running node has locked is refused: what it writes
//! meanwhile would look like damage. `--live` reads it all the same, but then nothing is verified,
//! so that nobody takes a half-written tail for a verdict.

mod document;
mod journal;
mod tree;

use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};
use holdfast_env::real::RealDisk;
use holdfast_env::{Disk, FileLock};

use crate::args::{Cli, InspectArgs, InspectWhat, Output};
use crate::exit::{Exit, refused};
use crate::output;
use document::Document;

/// How far above a file the data directory with its lock may lie.
const ANCESTORS_MAX: usize = 5;
/// Name of the lock a running node holds in its data directory.
const LOCK_NAME: &str = "LOCK";

/// What is to be shown.
#[derive(Clone, Copy, Debug)]
struct Wish {
    verify: bool,
    dump: bool,
    limit: usize,
}

/// Runs the command: 0, or 1 if something is damaged.
pub fn run(cli: &Cli, arguments: &InspectArgs) -> Result<Exit> {
    if arguments.live && arguments.verify {
        return Err(refused("--live and --verify exclude each other: stop the node first"));
    }
    let disk = RealDisk;
    let path = arguments.path.as_path();
    if !disk.exists(path)? {
        return Err(refused(format!("{} does not exist", path.display())));
    }
    let _held = if arguments.live { None } else { lock(&disk, path)? };
    let wish = Wish { verify: arguments.verify, dump: arguments.dump, limit: arguments.limit };
    let mut document = Document::of(path);
    match arguments.what {
        InspectWhat::Table => tree::table(&disk, path, wish, &mut document)?,
        InspectWhat::Manifest => tree::manifest(&disk, path, wish, &mut document)?,
        InspectWhat::Blob => tree::blob(&disk, path, wish, &mut document)?,
        InspectWhat::Journal => journal::journal(&disk, path, wish, &mut document)?,
        InspectWhat::Dir => directory(&disk, path, wish, &mut document)?,
    }
    let text = match arguments.json || cli.output == Output::Json {
        true => document.json(),
        false => document.text(wish.limit),
    };
    output::line(text.trim_end())?;
    Ok(if document.is_damaged() { Exit::No } else { Exit::Done })
}

/// Holds the lock of the data directory that `path` is or lies in, if there is one.
fn lock(disk: &dyn Disk, path: &Path) -> Result<Option<Box<dyn FileLock>>> {
    let path = std::path::absolute(path)?;
    for dir in path.ancestors().take(ANCESTORS_MAX).filter(|dir| dir.is_dir()) {
        let lock = dir.join(LOCK_NAME);
        if !disk.exists(&lock)? {
            continue;
        }
        return match disk.lock(&lock) {
            Ok(held) => Ok(Some(held)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(refused(format!(
                "a running node holds {}: stop it, or look with --live",
                lock.display()
            ))),
            Err(error) => Err(error).with_context(|| format!("cannot lock {}", lock.display())),
        };
    }
    Ok(None)
}

/// A node's data directory, an engine's directory, or a journal's.
fn directory(disk: &dyn Disk, path: &Path, wish: Wish, document: &mut Document) -> Result<()> {
    if disk.exists(&path.join("CURRENT"))? {
        return tree::directory(disk, path, wish, document);
    }
    let (log, ranges) = (path.join("journal"), path.join("ranges"));
    if disk.exists(&log)? {
        journal::journal(disk, &log, wish, document)?;
        let engines = if disk.exists(&ranges)? { disk.list(&ranges)? } else { Vec::new() };
        for engine in engines {
            tree::directory(disk, &engine, wish, document)?;
        }
        return Ok(());
    }
    let is_journal =
        disk.list(path)?.iter().any(|p| holdfast_journal::SegmentInspector::is_segment(p));
    if is_journal {
        return journal::journal(disk, path, wish, document);
    }
    bail!("{} is neither a data directory nor one of an engine or a journal", path.display())
}
