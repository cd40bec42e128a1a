//! Snapshots on their way: pinned files out, staged files in.
//!
//! A snapshot is the engine's durable version, sent file by file while it is pinned. The receiver
//! stages the files beside its engine (`staging.rs`), checks and syncs everything, and only then
//! lets openraft switch to them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_journal::Journal;
use holdfast_lsm::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use holdfast_lsm::{Engine, FileCheck, Verified};
use holdfast_model::NodeId;
use holdfast_runtime::sleep;
use holdfast_wire::peer::v1 as peer;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::health::Health;
use crate::peers::{PeerAddress, SnapshotSource};
use crate::raft::staging::StagingDir;
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

impl Staged {
    pub(crate) fn new(files: Verified, dir: StagingDir) -> Self {
        Self { files, dir }
    }

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

/// The header and the chunks of a snapshot to `to`.
pub(crate) fn outgoing(
    to: &PeerAddress,
    from_node: NodeId,
    vote: &Vote,
    snapshot: Snapshot,
    health: &Arc<Health>,
) -> Result<(peer::SnapshotHeader, Box<dyn SnapshotSource>)> {
    let SnapshotPayload::Pinned(pin) = snapshot.snapshot else {
        return Err(Error::Corrupt { what: "snapshot that is not the engine's own" });
    };
    let membership = &snapshot.meta.last_membership;
    let header = peer::SnapshotHeader {
        cluster_id: Bytes::copy_from_slice(&to.cluster.to_bytes()),
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
    let staged = BTreeMap::new();
    let source =
        PinnedSource { pin, health: health.clone(), file: 0, offset: 0, staged, check: None };
    Ok((header, Box::new(source)))
}

/// Chunks of pinned files, one file after another.
struct PinnedSource {
    pin: Box<holdfast_lsm::Snapshot>,
    health: Arc<Health>,
    file: usize,
    offset: u64,
    /// How much of each file the receiver has.
    staged: BTreeMap<String, u64>,
    /// Runs along with a file that is sent from its beginning.
    check: Option<FileCheck>,
}

impl PinnedSource {
    /// The place of the next chunk: which file, and from where on.
    fn advance(&mut self) -> Option<(String, u64)> {
        let file = self.pin.files().get(self.file)?;
        if self.offset == 0 {
            self.offset = self.staged.remove(&file.name).unwrap_or(0).min(file.bytes);
            self.check = if self.offset == 0 { self.pin.check(self.file) } else { None };
        }
        Some((file.name.clone(), self.offset))
    }

    /// The file is sent. The receiver would find out that it is not what was written; but only the
    /// sender can know that it lies so on its own disk, and would be sent so for ever.
    fn close(&mut self, name: &str) -> io::Result<()> {
        (self.file, self.offset) = (self.file + 1, 0);
        if self.check.take().is_none_or(|check| check.matches()) {
            return Ok(());
        }
        let reason = format!("file {name} of a snapshot is not what was written");
        self.health.damaged(reason.clone());
        Err(io::Error::other(reason))
    }
}

impl SnapshotSource for PinnedSource {
    fn resume(&mut self, staged: Vec<peer::StagedFile>) {
        self.staged = staged.into_iter().map(|file| (file.file, file.bytes)).collect();
    }

    fn next_chunk(&mut self, bytes_max: usize) -> io::Result<Option<peer::SnapshotData>> {
        let bytes_max = bytes_max.clamp(1, SNAPSHOT_CHUNK_BYTES_MAX);
        while let Some((file, offset)) = self.advance() {
            let bytes = self.pin.read_chunk(self.file, offset, bytes_max);
            let bytes = bytes.map_err(io::Error::other)?;
            if bytes.is_empty() {
                self.close(&file)?;
                continue;
            }
            if let Some(check) = &mut self.check {
                check.update(&bytes);
            }
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
    pub(crate) manifest: Bytes,
    pub(crate) total_bytes: u64,
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
        let (manifest, total_bytes) = (header.manifest.clone(), header.total_bytes);
        Ok(Self { vote, meta, manifest, total_bytes })
    }
}
