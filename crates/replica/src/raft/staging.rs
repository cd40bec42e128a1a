//! Where the files of a snapshot for this replica are collected.
//!
//! Owns: what has arrived of the latest snapshot, and from where on its sender goes on.
//! Invariants:
//! * One transfer writes at a time: a later one takes over from whoever was before.
//! * What is staged counts only as far as its chunks, read back, have the checksums they came
//!   with. A file that does not is sent again from its beginning.
//! * Nothing staged outlives the process: what a crash leaves is removed at the next start.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::{Clock, Disk};
use holdfast_lsm::{Completed, SnapshotFile, Staging};
use holdfast_runtime::Pool;
use holdfast_wire::peer::v1 as peer;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::raft::snapshot::Staged;

/// How long what has arrived waits for its sender to come back.
const IDLE_MAX: Duration = Duration::from_secs(600);

/// A directory for received files. Removed when dropped, if it is still there.
#[derive(Debug)]
pub(crate) struct StagingDir {
    pub(crate) path: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) pool: Pool,
}

impl Drop for StagingDir {
    fn drop(&mut self) {
        let (disk, dir) = (self.disk.clone(), self.path.clone());
        // After an installation there is nothing to remove; what cannot be removed now is removed
        // when the replica is opened.
        let _ = self.pool.execute(move || drop(remove_if_there(disk.as_ref(), &dir)));
    }
}

fn remove_if_there(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    match disk.exists(dir)? {
        true => disk.remove_dir_all(dir),
        false => Ok(()),
    }
}

/// The prefix of this engine's staging directories, which lie beside its own.
fn staging_path(engine_dir: &Path, suffix: &str) -> PathBuf {
    let mut name = engine_dir.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".staging{suffix}"));
    engine_dir.with_file_name(name)
}

/// Removes what transfers that never ended have left.
pub(crate) fn remove_leftovers(disk: &dyn Disk, engine_dir: &Path) -> io::Result<()> {
    let Some(parent) = engine_dir.parent() else { return Ok(()) };
    let prefix = staging_path(engine_dir, "");
    let prefix = prefix.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !disk.exists(parent)? {
        return Ok(());
    }
    for path in disk.list(parent)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(&prefix) {
            disk.remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// A chunk as it came.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    bytes: usize,
    checksum: u64,
}

/// What has arrived of one file: chunks from its beginning on, without a gap.
#[derive(Clone, Debug, Default)]
struct Arrived {
    bytes: u64,
    chunks: Vec<Chunk>,
}

/// A snapshot of which a part has arrived.
struct Partial {
    staging: Staging,
    dir: StagingDir,
    manifest: Bytes,
    files: BTreeMap<String, Arrived>,
}

impl Partial {
    fn create(dir: StagingDir, manifest: &Bytes) -> Result<Self> {
        let staging = Staging::create(dir.disk.clone(), &dir.path, manifest.clone());
        let staging = staging.map_err(Error::Engine)?;
        Ok(Self { staging, dir, manifest: manifest.clone(), files: BTreeMap::new() })
    }

    /// Goes on for the snapshot of `manifest` with whatever it has in common with this one.
    fn adopt(self, manifest: &Bytes) -> Result<Self> {
        let Self { staging, dir, mut files, .. } = self;
        let before: Vec<SnapshotFile> = staging.files().cloned().collect();
        let staging = staging.adopt(manifest.clone()).map_err(Error::Engine)?;
        let after: Vec<SnapshotFile> = staging.files().cloned().collect();
        files.retain(|name, _| {
            let of = |files: &[SnapshotFile]| files.iter().find(|f| f.name == *name).cloned();
            of(&before).is_some_and(|file| of(&after) == Some(file))
        });
        let mut adopted = Self { staging, dir, manifest: manifest.clone(), files };
        adopted.verify();
        Ok(adopted)
    }

    /// Forgets files whose chunks are not what arrived. Reads everything that has.
    fn verify(&mut self) {
        let staging = &self.staging;
        self.files.retain(|name, arrived| {
            let mut offset = 0;
            let is_whole = arrived.chunks.iter().all(|chunk| {
                let read = staging.read(name, offset, chunk.bytes);
                offset += chunk.bytes as u64;
                read.is_ok_and(|bytes| xxh3_64(&bytes) == chunk.checksum)
            });
            if !is_whole {
                tracing::warn!(file = name, "staged file is damaged and sent again");
            }
            is_whole
        });
    }

    fn total_bytes(&self) -> u64 {
        self.staging.files().map(|file| file.bytes).sum()
    }

    fn write(&mut self, data: &peer::SnapshotData) -> Result<()> {
        if xxh3_64(&data.bytes) != data.checksum {
            return Err(Error::Malformed("snapshot chunk with a wrong checksum"));
        }
        let due = self.files.get(&data.file).map_or(0, |arrived| arrived.bytes);
        if data.offset != due || data.bytes.is_empty() {
            return Err(Error::Malformed("snapshot chunk that does not follow the one before"));
        }
        self.staging.write(&data.file, data.offset, &data.bytes).map_err(Error::Engine)?;
        let arrived = self.files.entry(data.file.clone()).or_default();
        arrived.bytes += data.bytes.len() as u64;
        arrived.chunks.push(Chunk { bytes: data.bytes.len(), checksum: data.checksum });
        Ok(())
    }

    fn arrived_bytes(&self) -> u64 {
        self.files.values().map(|arrived| arrived.bytes).sum()
    }
}

/// The staging of one replica.
pub(crate) struct StagingArea {
    disk: Arc<dyn Disk>,
    pool: Pool,
    clock: Arc<dyn Clock>,
    engine_dir: PathBuf,
    /// A lock, since a transfer that takes over must find what the one before has written. Held
    /// while the disk is written, on threads that may wait for it, and never across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whose turn it is to write.
    turn: u64,
    partial: Option<Partial>,
    /// When something was last done, monotonic.
    touched: Duration,
}

impl fmt::Debug for StagingArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StagingArea").field("engine_dir", &self.engine_dir).finish_non_exhaustive()
    }
}

impl StagingArea {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        pool: Pool,
        clock: Arc<dyn Clock>,
        engine_dir: PathBuf,
    ) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { disk, pool, clock, engine_dir, state })
    }

    /// What of the snapshot of `manifest` is here already and verified: the sender leaves it out.
    /// Whoever was writing is cut off. Waits for the disk.
    pub(crate) fn offer(&self, manifest: &Bytes) -> Result<Vec<peer::StagedFile>> {
        let mut state = self.state.lock();
        state.turn += 1;
        let Some(partial) = state.partial.take() else { return Ok(Vec::new()) };
        let partial = partial.adopt(manifest)?;
        let staged = |(file, arrived): (&String, &Arrived)| peer::StagedFile {
            file: file.clone(),
            bytes: arrived.bytes,
        };
        let staged: Vec<_> = partial.files.iter().map(staged).collect();
        if !staged.is_empty() {
            holdfast_env::sometimes!(SNAPSHOT_RESUMED);
        }
        state.partial = Some(partial);
        state.touched = self.clock.monotonic();
        Ok(staged)
    }

    /// Begins to take the chunks of a snapshot, after what was offered for exactly this one, or
    /// from the beginning, in a directory named by `number`. Waits for the disk.
    pub(crate) fn begin(&self, manifest: &Bytes, total_bytes: u64, number: u64) -> Result<u64> {
        let mut state = self.state.lock();
        state.turn += 1;
        let partial = match state.partial.take().filter(|p| p.manifest == *manifest) {
            Some(partial) => partial,
            None => {
                let path = staging_path(&self.engine_dir, &format!("-{number:016x}"));
                let (disk, pool) = (self.disk.clone(), self.pool.clone());
                Partial::create(StagingDir { path, disk, pool }, manifest)?
            }
        };
        if partial.total_bytes() != total_bytes {
            return Err(Error::Malformed("snapshot whose size is not that of its files"));
        }
        state.partial = Some(partial);
        state.touched = self.clock.monotonic();
        Ok(state.turn)
    }

    /// Stages one chunk. Waits for the disk.
    pub(crate) fn write(&self, turn: u64, data: &peer::SnapshotData) -> Result<()> {
        let mut state = self.state.lock();
        state.touched = self.clock.monotonic();
        let is_ours = state.turn == turn;
        match state.partial.as_mut().filter(|_| is_ours) {
            Some(partial) => partial.write(data),
            None => Err(Error::Stopped("another transfer has taken over".into())),
        }
    }

    /// Syncs what was staged and checks all of it: what is wrong is found before it matters, and
    /// only that is sent again. Waits for the disk.
    pub(crate) fn finish(&self, turn: u64) -> Result<(Staged, u64)> {
        let taken = {
            let mut state = self.state.lock();
            if state.turn != turn {
                return Err(Error::Stopped("another transfer has taken over".into()));
            }
            state.partial.take()
        };
        let partial = taken.ok_or(Error::Malformed("snapshot that never began"))?;
        let bytes = partial.arrived_bytes();
        if bytes != partial.total_bytes() {
            self.put_back(turn, partial);
            return Err(Error::Malformed("snapshot that ended early"));
        }
        let Partial { staging, dir, manifest, mut files } = partial;
        match staging.complete().map_err(Error::Engine)? {
            Completed::Verified(verified) => Ok((Staged::new(verified, dir), bytes)),
            Completed::Damaged(staging, damaged) => {
                tracing::warn!(?damaged, "staged files are damaged and sent again");
                files.retain(|name, _| !damaged.contains(name));
                self.put_back(turn, Partial { staging, dir, manifest, files });
                Err(Error::Malformed("snapshot with files that are not what its manifest says"))
            }
        }
    }

    fn put_back(&self, turn: u64, partial: Partial) {
        let mut state = self.state.lock();
        if state.turn == turn {
            state.partial = Some(partial);
            state.touched = self.clock.monotonic();
        }
    }

    /// Gives up what nobody has gone on with for a long time.
    pub(crate) fn drop_idle(&self) {
        // A transfer that writes at the moment is not idle.
        let Some(mut state) = self.state.try_lock() else { return };
        if self.clock.monotonic().saturating_sub(state.touched) > IDLE_MAX {
            drop(state.partial.take());
        }
    }
}
