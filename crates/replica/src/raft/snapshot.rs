//! Snapshots on their way: pinned files out, staged files in.
//!
//! A snapshot is the engine's durable version, sent file by file while it is pinned. The receiver
//! stages the files beside its engine, checks and syncs everything, and only then lets openraft
//! switch to them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_env::Disk;
use holdfast_journal::Journal;
use holdfast_lsm::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use holdfast_lsm::{Engine, Staging, Verified};
use holdfast_model::NodeId;
use holdfast_runtime::{Pool, sleep};
use holdfast_wire::peer::v1 as peer;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::peers::{PeerAddress, SnapshotSource};
use crate::raft::types::{Snapshot, SnapshotMeta, Vote};
use crate::raft::{codec, convert};

/// How often the journal is asked whether it has become durable up to the gate of an installation.
const GATE_POLL: Duration = Duration::from_millis(2);

/// What openraft carries as a snapshot's content.
pub enum SnapshotPayload {
    /// Files of the engine, held in place.
    Pinned(Box<holdfast_lsm::Snapshot>),
    /// Files received, complete and synced, not yet in place.
    Staged(Staged),
}

impl fmt::Debug for SnapshotPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned(pin) => write!(f, "Pinned({:?})", pin.point()),
            Self::Staged(staged) => write!(f, "Staged({})", staged.files.dir().display()),
        }
    }
}

/// Received files, complete, checked and synced.
#[derive(Debug)]
pub struct Staged {
    files: Verified,
    dir: StagingDir,
}

/// A directory for received files. Removed when dropped, if it is still there.
#[derive(Debug)]
struct StagingDir {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    pool: Pool,
}

impl Staged {
    /// Puts the files in place of the engine's own, once the journal is durable up to `gate`.
    pub(crate) async fn install(
        self,
        engine: &Arc<Engine>,
        journal: &Journal,
        gate: u64,
    ) -> io::Result<holdfast_lsm::Result<()>> {
        while journal.durable() < gate {
            sleep(GATE_POLL).await;
        }
        let Self { files, dir } = self;
        let engine = engine.clone();
        let switched = dir.pool.run(move || engine.switch_to(&files, gate)).await;
        Ok(switched.map_err(io::Error::other)?.map(drop))
    }
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

/// The header and the chunks of a snapshot to `to`.
pub(crate) fn outgoing(
    to: &PeerAddress,
    from_node: NodeId,
    vote: &Vote,
    snapshot: Snapshot,
) -> Result<(peer::SnapshotHeader, Box<dyn SnapshotSource>)> {
    let SnapshotPayload::Pinned(pin) = snapshot.snapshot else {
        return Err(Error::Corrupt { what: "snapshot that is not the engine's own" });
    };
    let membership = &snapshot.meta.last_membership;
    let header = peer::SnapshotHeader {
        cluster_id: bytes::Bytes::copy_from_slice(&to.cluster.to_bytes()),
        from_node: from_node.0,
        to_node: to.node.0,
        range_id: to.range.0,
        from_replica: to.from.0,
        to_replica: to.to.0,
        vote: Some(convert::vote_to_wire(vote)),
        last_log_id: snapshot.meta.last_log_id.as_ref().map(convert::log_id_to_wire),
        membership_log_id: membership.log_id().as_ref().map(convert::log_id_to_wire),
        membership: codec::encode_membership(membership.membership()),
        manifest: pin.manifest(),
        total_bytes: pin.bytes(),
    };
    Ok((header, Box::new(PinnedSource { pin, file: 0, offset: 0 })))
}

/// Chunks of pinned files, one file after another.
struct PinnedSource {
    pin: Box<holdfast_lsm::Snapshot>,
    file: usize,
    offset: u64,
}

impl SnapshotSource for PinnedSource {
    fn next_chunk(&mut self, bytes_max: usize) -> io::Result<Option<peer::SnapshotData>> {
        let bytes_max = bytes_max.clamp(1, SNAPSHOT_CHUNK_BYTES_MAX);
        while let Some(file) = self.pin.files().get(self.file) {
            let bytes = self.pin.read_chunk(self.file, self.offset, bytes_max);
            let bytes = bytes.map_err(io::Error::other)?;
            if bytes.is_empty() {
                self.file += 1;
                self.offset = 0;
                continue;
            }
            let (file, offset) = (file.name.clone(), self.offset);
            self.offset += bytes.len() as u64;
            let checksum = xxh3_64(&bytes);
            return Ok(Some(peer::SnapshotData { file, offset, bytes, checksum }));
        }
        Ok(None)
    }
}

/// What a snapshot's header says, checked.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    total_bytes: u64,
}

impl Incoming {
    pub(crate) fn from_header(header: &peer::SnapshotHeader) -> Result<Self> {
        let vote = convert::vote_from_wire(header.vote.as_ref())?;
        let last = header.last_log_id.as_ref().map(convert::log_id_from_wire);
        let last = last.ok_or(Error::Malformed("snapshot without a last log id"))?;
        if last.leader_id > vote.leader_id {
            return Err(Error::Malformed("snapshot from beyond its sender's leadership"));
        }
        let last_membership = convert::membership_from_header(header)?;
        let meta = SnapshotMeta { last_log_id: Some(last), last_membership };
        Ok(Self { vote, meta, total_bytes: header.total_bytes })
    }
}

/// The receiving end of one transfer, up to the complete set of synced files.
pub(crate) struct Receiving {
    staging: Staging,
    dir: StagingDir,
    received_bytes: u64,
    total_bytes: u64,
}

impl Receiving {
    /// Begins to stage. Waits for the disk, on `pool`.
    pub(crate) async fn begin(
        disk: Arc<dyn Disk>,
        pool: Pool,
        engine_dir: &Path,
        header: &peer::SnapshotHeader,
        incoming: &Incoming,
        number: u64,
    ) -> Result<Self> {
        let path = staging_path(engine_dir, &format!("-{number:016x}"));
        let dir = StagingDir { path: path.clone(), disk: disk.clone(), pool: pool.clone() };
        let manifest = header.manifest.clone();
        let staging = pool.run(move || Staging::create(disk, &path, manifest)).await;
        let staging = staging.map_err(|e| Error::Stopped(e.to_string()))?.map_err(Error::Engine)?;
        let total_bytes = staging.files().map(|file| file.bytes).sum();
        if total_bytes != incoming.total_bytes {
            return Err(Error::Malformed("snapshot whose size is not that of its files"));
        }
        Ok(Self { staging, dir, received_bytes: 0, total_bytes })
    }

    /// Bytes staged so far.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Stages one chunk. Waits for the disk.
    pub(crate) fn write(&mut self, data: &peer::SnapshotData) -> Result<()> {
        if xxh3_64(&data.bytes) != data.checksum {
            return Err(Error::Malformed("snapshot chunk with a wrong checksum"));
        }
        self.staging.write(&data.file, data.offset, &data.bytes).map_err(Error::Engine)?;
        self.received_bytes += data.bytes.len() as u64;
        Ok(())
    }

    /// Syncs what was staged and checks all of it: what is wrong is found before it matters.
    pub(crate) async fn finish(self) -> Result<Staged> {
        if self.received_bytes != self.total_bytes {
            return Err(Error::Malformed("snapshot that ended early"));
        }
        let Self { staging, dir, .. } = self;
        let finished = dir.pool.run(move || staging.finish_verified()).await;
        let finished = finished.map_err(|e| Error::Stopped(e.to_string()))?;
        Ok(Staged { files: finished.map_err(Error::Engine)?, dir })
    }
}
