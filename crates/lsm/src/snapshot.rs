//! The durable state held in place, to be sent to another replica or linked as a checkpoint.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_env::OpenMode;

use crate::blob::BlobFile;
use crate::checksum::Whole;
use crate::error::{Error, Result};
use crate::generation::{CURRENT_NAME, MANIFEST_NAME, blob_name, generation_name, table_name};
use crate::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use crate::manifest::{encode_manifest, write_current};
use crate::open::parent_of;
use crate::table::{FileDescriptor, Table};
use crate::tree::Tree;
use crate::types::ReadPoint;
use crate::version::Version;

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Its name; a receiver keeps it.
    pub name: String,
    /// Its length, bytes.
    pub bytes: u64,
    /// Checksum of the whole file, seeded with its birth id.
    pub checksum: u64,
}

/// A file held in place.
pub(crate) enum Held {
    Table(Arc<Table>),
    Blob(Arc<BlobFile>),
}

impl Held {
    /// All files of `version`.
    pub(crate) fn all(version: &Version) -> Vec<Self> {
        let tables = version.tables().cloned().map(Self::Table);
        tables.chain(version.blobs().into_iter().map(Self::Blob)).collect()
    }

    pub(crate) fn descriptor(&self) -> &FileDescriptor {
        match self {
            Self::Table(table) => table.descriptor(),
            Self::Blob(blob) => blob.descriptor(),
        }
    }

    fn name(&self) -> String {
        let number = self.descriptor().number;
        match self {
            Self::Table(_) => table_name(number),
            Self::Blob(_) => blob_name(number),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Table(table) => table.path(),
            Self::Blob(blob) => blob.path(),
        }
    }

    pub(crate) fn read_raw(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match self {
            Self::Table(table) => table.read_raw(offset, buffer),
            Self::Blob(blob) => blob.read_raw(offset, buffer),
        }
    }
}

/// The files of one version and a manifest that names them. They stay until it is dropped.
pub struct Snapshot {
    version: Arc<Version>,
    manifest: Bytes,
    files: Vec<SnapshotFile>,
    held: Vec<Held>,
}

impl Snapshot {
    pub(crate) fn new(tree: &Tree) -> Self {
        let version = tree.state.load().version.clone();
        let manifest = encode_manifest(&version.to_base(), tree.entropy.u128()).into();
        let held = Held::all(&version);
        let file = |held: &Held| SnapshotFile {
            name: held.name(),
            bytes: held.descriptor().bytes,
            checksum: held.descriptor().checksum,
        };
        let files = held.iter().map(file).collect();
        Self { version, manifest, files, held }
    }

    /// The point whose state this is; that of the tables, not of the memtables.
    pub fn point(&self) -> ReadPoint {
        self.version.point
    }

    /// The files, in the order of [`Snapshot::read_chunk`]'s index.
    pub fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// What [`Staging::create`](crate::Staging::create) begins with: a manifest of these files.
    pub fn manifest(&self) -> Bytes {
        self.manifest.clone()
    }

    /// Up to `bytes_max` bytes of a file from `offset` on; empty at its end. Waits for the disk.
    ///
    /// # Errors
    /// [`Error::Chunk`] if there is no such file or `bytes_max` is over
    /// [`SNAPSHOT_CHUNK_BYTES_MAX`]. Environment and corruption errors.
    pub fn read_chunk(&self, file: usize, offset: u64, bytes_max: usize) -> Result<Bytes> {
        let held = self.held.get(file);
        let Some(held) = held.filter(|_| bytes_max <= SNAPSHOT_CHUNK_BYTES_MAX) else {
            return Err(Error::Chunk { what: format!("{bytes_max} bytes of file {file}") });
        };
        let left = held.descriptor().bytes.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(bytes_max);
        let mut buffer = vec![0; length];
        held.read_raw(offset, &mut buffer)?;
        Ok(buffer.into())
    }
}

impl Snapshot {
    /// A check of a file that is sent from its beginning to its end; `None` if there is no such
    /// file. [`Snapshot::read_chunk`] itself checks nothing.
    pub fn check(&self, file: usize) -> Option<FileCheck> {
        let descriptor = self.held.get(file)?.descriptor();
        Some(FileCheck { whole: Whole::new(descriptor.birth), expected: descriptor.checksum })
    }
}

/// Tells whether the bytes of a file, given in order, are those that were written.
pub struct FileCheck {
    whole: Whole,
    expected: u64,
}

impl FileCheck {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.whole.update(bytes);
    }

    /// Whether the bytes so far are the whole file, as it was written.
    pub fn matches(&self) -> bool {
        self.whole.digest() == self.expected
    }
}

impl fmt::Debug for FileCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileCheck").finish_non_exhaustive()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("point", &self.point())
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// See [`Engine::checkpoint`](crate::Engine::checkpoint).
pub(crate) fn checkpoint(tree: &Tree, dir: &Path) -> Result<ReadPoint> {
    const GENERATION: u64 = 1;
    let disk = tree.home.disk.as_ref();
    let snapshot = Snapshot::new(tree);
    let generation = dir.join(generation_name(GENERATION));
    disk.create_dir_all(&generation).map_err(|e| Error::unreferenced("create", &generation, e))?;
    for held in &snapshot.held {
        let to = generation.join(held.name());
        disk.hard_link(held.path(), &to).map_err(|e| Error::unreferenced("link", &to, e))?;
    }
    let path = generation.join(MANIFEST_NAME);
    let manifest = disk
        .open(&path, OpenMode::CreateNew)
        .map_err(|e| Error::unreferenced("create", &path, e))?;
    manifest
        .write_all_at(&snapshot.manifest, 0)
        .and_then(|()| manifest.sync_all())
        .map_err(|e| Error::unreferenced("write", &path, e))?;
    for dir in [generation.as_path(), dir, parent_of(dir)] {
        disk.sync_dir(dir).map_err(|e| Error::unreferenced("sync", dir, e))?;
    }
    write_current(disk, &dir.join(CURRENT_NAME), GENERATION)?;
    Ok(snapshot.point())
}
