//! Disks that are full or busy, and files that are damaged or gone.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use holdfast_testkit::Random;

use super::{Field, Kind, Nemesis, Proof};

/// What is left on a disk that is full.
const FREE_BYTES: u64 = 2 << 20;
/// How long a node may take to notice that its disk is full, where others keep it busy.
const NOTICE_LIMIT: Duration = Duration::from_secs(5);
/// Writers that keep a disk busy.
const WRITERS: usize = 4;
/// Written and synced at once by each.
const WRITE_BYTES: usize = 1 << 20;
/// A busy writer begins its file again here.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Files of a kind that are damaged at once.
const FILES_MAX: usize = 3;
/// How long a node with damaged files may take until it answers, or has ended.
const START_LIMIT: Duration = Duration::from_secs(20);

pub(super) fn of(kind: Kind) -> Box<dyn Nemesis> {
    match kind {
        Kind::DiskFull => Box::new(Full::default()),
        Kind::DiskBusy => Box::new(Busy::default()),
        _ => Box::new(Damage { kind, node: 0, done: 0, words: String::new() }),
    }
}

/// A node has no space left on its disk.
#[derive(Default)]
struct Full {
    node: usize,
    free: u64,
    is_seen: bool,
    ended: u32,
}

#[async_trait(?Send)]
impl Nemesis for Full {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        let nodes = 1..=field.cluster.size();
        let node = nodes.into_iter().find(|i| field.cluster.node(*i).small_disk().is_some());
        self.node = node.context("no node has a disk of its own")?;
        let disk = field.cluster.node(self.node).small_disk().context("it has one")?;
        disk.fill(FREE_BYTES)?;
        self.free = disk.free()?;
        Ok(())
    }

    async fn step(&mut self, field: &mut Field<'_>) -> Result<()> {
        if field.cluster.node_mut(self.node).is_running() {
            let status = field.cluster.status(self.node).await;
            self.is_seen |= status.is_ok_and(|status| status.disk_full);
        } else if !field.taken.contains(&self.node) {
            // A node that cannot write what it must ends: nobody but this nemesis has its hand in.
            self.ended += 1;
            field.cluster.node_mut(self.node).start()?;
        }
        Ok(())
    }

    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof> {
        let is_other = field.taken.contains(&self.node);
        if !is_other {
            // While others did their work the node may not have come to say so.
            let noticed = crate::eventually(NOTICE_LIMIT, async || {
                self.step(field).await?;
                ensure!(self.is_seen || self.ended > 0, "it has not noticed");
                Ok(())
            });
            let _ = noticed.await;
        }
        let disk = field.cluster.node(self.node).small_disk().context("it has one")?;
        disk.empty()?;
        if !field.taken.contains(&self.node) && !field.cluster.node_mut(self.node).is_running() {
            field.cluster.node_mut(self.node).start()?;
        }
        let words = format!(
            "{} bytes free on node {}, it said so: {}, it ended {} times",
            self.free, self.node, self.is_seen, self.ended
        );
        let is_noticed = self.is_seen || self.ended > 0 || is_other;
        Ok(Proof::of(self.free <= FREE_BYTES && is_noticed, words))
    }
}

/// Others write to and sync the disk of the nodes all the time.
#[derive(Default)]
struct Busy {
    written: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
}

fn keep_busy(path: &Path, written: &AtomicU64, is_over: &AtomicBool) {
    let bytes = vec![0x5a; WRITE_BYTES];
    while !is_over.load(Ordering::Relaxed) {
        let Ok(mut file) = File::create(path) else { break };
        for _ in 0..FILE_BYTES_MAX / WRITE_BYTES as u64 {
            let is_done = file.write_all(&bytes).and_then(|()| file.sync_data()).is_ok();
            if !is_done || is_over.load(Ordering::Relaxed) {
                break;
            }
            written.fetch_add(WRITE_BYTES as u64, Ordering::Relaxed);
        }
    }
    // The folder goes with the cluster in any case.
    let _ = fs::remove_file(path);
}

#[async_trait(?Send)]
impl Nemesis for Busy {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        for writer in 0..WRITERS {
            let node = 1 + writer % field.cluster.size();
            let path = field.cluster.node(node).folder().join(format!("busy{writer}"));
            let (written, is_over) = (self.written.clone(), self.is_over.clone());
            self.writers.push(std::thread::spawn(move || keep_busy(&path, &written, &is_over)));
        }
        Ok(())
    }

    async fn heal(&mut self, _field: &mut Field<'_>) -> Result<Proof> {
        self.is_over.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            tokio::task::spawn_blocking(move || writer.join()).await?.ok();
        }
        let written = self.written.load(Ordering::Relaxed);
        Ok(Proof::of(written > 0, format!("{written} bytes written and synced by others")))
    }
}

/// Files of the weak node are changed or gone while it is down.
struct Damage {
    kind: Kind,
    node: usize,
    /// Bytes changed, or files deleted.
    done: usize,
    words: String,
}

/// All files below `folder`.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

/// Changes one bit of `path`, somewhere where something is written; whether there was anything.
pub(super) fn damage(path: &Path, random: &mut Random) -> Result<bool> {
    let mut bytes = fs::read(path)?;
    let Some(last) = bytes.iter().rposition(|byte| *byte != 0) else { return Ok(false) };
    let at = random.below(last as u64 + 1) as usize;
    bytes[at] ^= 1 << random.below(8);
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    // In place: the file keeps its size and what is preallocated.
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at as u64))?;
    file.write_all(&bytes[at..=at])?;
    file.sync_all()?;
    Ok(true)
}

impl Damage {
    fn is_victim(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_in = |folder: &str| path.iter().any(|part| part == folder);
        match self.kind {
            Kind::CorruptJournal => is_in("journal") && name != "witness",
            Kind::CorruptTable => name.ends_with(".tbl"),
            _ => name.starts_with("MANIFEST"),
        }
    }

    fn spoil(&mut self, data: &Path, random: &mut Random) -> Result<()> {
        let mut all = files(data)?;
        if self.kind == Kind::LostDirectory {
            self.done = all.len();
            for entry in fs::read_dir(data)? {
                let path = entry?.path();
                if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
            }
            return Ok(());
        }
        all.retain(|path| self.is_victim(path));
        while self.done < FILES_MAX && !all.is_empty() {
            let at = random.below(all.len() as u64) as usize;
            self.done += usize::from(damage(&all.swap_remove(at), random)?);
        }
        ensure!(self.done > 0, "node {} has nothing to damage", self.node);
        Ok(())
    }
}

#[async_trait(?Send)]
impl Nemesis for Damage {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        self.node = field.weak;
        ensure!(field.take_this(self.node), "node {} is not free", self.node);
        field.is_weak_lost = true;
        if self.kind == Kind::CorruptTable {
            // Stopped in order everything is in tables.
            field.cluster.node_mut(self.node).stop().await?;
        } else {
            field.cluster.node_mut(self.node).kill()?;
        }
        let data = field.cluster.node(self.node).data();
        self.spoil(&data, &mut field.random)?;
        field.cluster.node_mut(self.node).start()?;
        Ok(())
    }

    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof> {
        let looked = crate::eventually(START_LIMIT, async || {
            if !field.cluster.node_mut(self.node).is_running() {
                return Ok("it ended".to_owned());
            }
            let status = field.cluster.status(self.node).await?;
            let hit = status.replicas.iter().filter(|r| !r.failure.is_empty()).count();
            Ok(format!("it is {}, {hit} replicas retired", status.state))
        });
        self.words = looked.await?;
        let words =
            format!("node {}: {} files changed or gone, {}", self.node, self.done, self.words);
        Ok(Proof::of(self.done > 0, words))
    }
}
