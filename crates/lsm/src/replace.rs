//! Receiving a snapshot: staging its files, and putting them in place of everything.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use holdfast_env::{Disk, File, OpenMode};

use crate::error::{Error, Result};
use crate::generation::{CURRENT_NAME, MANIFEST_NAME, blob_name, generation_name, table_name};
use crate::manifest::{Edit, read_manifest, write_current};
use crate::memtable::{Memtable, Seal};
use crate::open::{gone_path, load_version, parent_of};
use crate::snapshot::SnapshotFile;
use crate::table::{FileDescriptor, verify_file};
use crate::tree::{State, Tree};
use crate::types::ReadPoint;
use crate::version::Version;

/// A directory in which a receiver collects the files of a snapshot.
pub struct Staging {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    manifest: Bytes,
    point: ReadPoint,
    files: BTreeMap<String, Staged>,
}

struct Staged {
    file: Arc<dyn File>,
    expected: SnapshotFile,
    descriptor: FileDescriptor,
}

impl Staged {
    /// Reserves the place of a file in `dir`.
    fn reserve(
        disk: &dyn Disk,
        dir: &Path,
        name: String,
        descriptor: FileDescriptor,
    ) -> Result<Self> {
        let path = dir.join(&name);
        let file = disk
            .open(&path, OpenMode::CreateNew)
            .and_then(|file| file.allocate(descriptor.bytes).map(|()| file))
            .map_err(|e| Error::unreferenced("reserve", &path, e))?;
        let (bytes, checksum) = (descriptor.bytes, descriptor.checksum);
        Ok(Self { file, expected: SnapshotFile { name, bytes, checksum }, descriptor })
    }
}

/// What [`Staging::complete`] came to.
#[derive(Debug)]
pub enum Completed {
    /// Everything is there, checked and durable.
    Verified(Verified),
    /// These files are not what the manifest says; write them again.
    Damaged(Staging, Vec<String>),
}

impl Staging {
    /// Begins to collect the files that `manifest` names in `dir`, which is emptied first. It has
    /// to lie on the engine's file system, and not in the engine's directory.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the manifest is damaged; [`Error::NoSpace`] if the files cannot be
    /// reserved; environment errors.
    pub fn create(disk: Arc<dyn Disk>, dir: &Path, manifest: Bytes) -> Result<Self> {
        let failed = |action| move |e| Error::unreferenced(action, dir, e);
        let base = read_manifest(&manifest, &dir.join(MANIFEST_NAME))?.base;
        if disk.exists(dir).map_err(failed("look for"))? {
            disk.remove_dir_all(dir).map_err(failed("delete"))?;
        }
        disk.create_dir_all(dir).map_err(failed("create"))?;
        let mut files = BTreeMap::new();
        for (name, file) in named_files(&base) {
            files.insert(name.clone(), Staged::reserve(disk.as_ref(), dir, name, file)?);
        }
        let dir = dir.to_path_buf();
        Ok(Self { disk, dir, manifest, point: base.point, files })
    }

    /// Goes on with what was collected so far for another snapshot: files that `manifest` names as
    /// well stay as they are, others go, new ones are reserved.
    ///
    /// # Errors
    /// As [`Staging::create`]; what was collected is lost.
    pub fn adopt(self, manifest: Bytes) -> Result<Self> {
        let Self { disk, dir, files: mut old, .. } = self;
        let base = read_manifest(&manifest, &dir.join(MANIFEST_NAME))?.base;
        let mut files = BTreeMap::new();
        let mut fresh = Vec::new();
        for (name, file) in named_files(&base) {
            match old.remove(&name) {
                Some(staged) if staged.descriptor == file => drop(files.insert(name, staged)),
                Some(other) => {
                    old.insert(name.clone(), other);
                    fresh.push((name, file));
                }
                None => fresh.push((name, file)),
            }
        }
        for name in old.into_keys() {
            let path = dir.join(&name);
            disk.remove_file(&path).map_err(|e| Error::unreferenced("delete", &path, e))?;
        }
        for (name, file) in fresh {
            files.insert(name.clone(), Staged::reserve(disk.as_ref(), &dir, name, file)?);
        }
        Ok(Self { disk, dir, manifest, point: base.point, files })
    }

    /// The point whose state the snapshot is.
    pub fn point(&self) -> ReadPoint {
        self.point
    }

    /// The files the manifest names.
    pub fn files(&self) -> impl Iterator<Item = &SnapshotFile> {
        self.files.values().map(|f| &f.expected)
    }

    /// Writes a chunk of the file `name`.
    ///
    /// # Errors
    /// [`Error::Chunk`] if there is no such file or the chunk reaches beyond its end.
    pub fn write(&self, name: &str, offset: u64, chunk: &[u8]) -> Result<()> {
        let end = offset.saturating_add(chunk.len() as u64);
        let staged = self.files.get(name).filter(|f| end <= f.expected.bytes);
        let Some(staged) = staged else {
            return Err(Error::Chunk { what: format!("bytes {offset}..{end} of {name}") });
        };
        staged
            .file
            .write_all_at(chunk, offset)
            .map_err(|e| Error::unreferenced("write", &self.dir.join(name), e))
    }

    /// Reads back `bytes` bytes of the file `name`.
    ///
    /// # Errors
    /// [`Error::Chunk`] if there is no such file or it is shorter; environment errors.
    pub fn read(&self, name: &str, offset: u64, bytes: usize) -> Result<Bytes> {
        let end = offset.saturating_add(bytes as u64);
        let staged = self.files.get(name).filter(|f| end <= f.expected.bytes);
        let Some(staged) = staged else {
            return Err(Error::Chunk { what: format!("bytes {offset}..{end} of {name}") });
        };
        let mut buffer = vec![0; bytes];
        let read = staged.file.read_exact_at(&mut buffer, offset);
        read.map_err(|e| Error::unreferenced("read", &self.dir.join(name), e))?;
        Ok(buffer.into())
    }

    /// Makes everything durable and returns the directory for
    /// [`Engine::replace_from`](crate::Engine::replace_from), which verifies it.
    ///
    /// # Errors
    /// Environment errors: stage again.
    pub fn finish(self) -> Result<PathBuf> {
        for (name, staged) in &self.files {
            let path = self.dir.join(name);
            staged.file.sync_all().map_err(|e| Error::unreferenced("sync", &path, e))?;
        }
        let path = self.dir.join(MANIFEST_NAME);
        self.disk
            .open(&path, OpenMode::CreateNew)
            .and_then(|file| {
                file.write_all_at(&self.manifest, 0)?;
                file.sync_all()
            })
            .and_then(|()| self.disk.sync_dir(&self.dir))
            .map_err(|e| Error::unreferenced("write", &path, e))?;
        Ok(self.dir)
    }
}

impl Staging {
    /// [`Staging::finish`], and then reads everything again and checks it, so that
    /// [`Engine::switch_to`](crate::Engine::switch_to) is quick.
    ///
    /// # Errors
    /// As [`Staging::finish`]; [`Error::Corrupt`]: the files are not what the manifest says.
    pub fn finish_verified(self) -> Result<Verified> {
        let disk = self.disk.clone();
        let dir = self.finish()?;
        verify_staged(disk.as_ref(), &dir)?;
        Ok(Verified { dir })
    }
}

impl Staging {
    /// Makes everything durable, reads it again and checks it. What is not as the manifest says is
    /// named, and the rest kept.
    ///
    /// # Errors
    /// Environment errors; what was collected is lost.
    pub fn complete(self) -> Result<Completed> {
        let mut damaged = Vec::new();
        for (name, staged) in &self.files {
            let path = self.dir.join(name);
            staged.file.sync_all().map_err(|e| Error::unreferenced("sync", &path, e))?;
            match verify_file(self.disk.as_ref(), &path, &staged.descriptor) {
                Err(error) if error.is_corruption() => damaged.push(name.clone()),
                checked => checked?,
            }
        }
        if damaged.is_empty() {
            return Ok(Completed::Verified(Verified { dir: self.finish()? }));
        }
        Ok(Completed::Damaged(self, damaged))
    }
}

/// A directory of staged files that are durable and checked.
#[derive(Debug)]
pub struct Verified {
    dir: PathBuf,
}

impl Verified {
    /// Where they lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl fmt::Debug for Staging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staging").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// See [`Engine::replace_from`](crate::Engine::replace_from).
pub(crate) fn replace_from(tree: &Tree, staged: &Path, gate: u64) -> Result<ReadPoint> {
    check_gate(tree, gate)?;
    verify_staged(tree.home.disk.as_ref(), staged)?;
    switch(tree, staged, gate)
}

/// See [`Engine::switch_to`](crate::Engine::switch_to).
pub(crate) fn switch_to(tree: &Tree, staged: &Verified, gate: u64) -> Result<ReadPoint> {
    check_gate(tree, gate)?;
    switch(tree, &staged.dir, gate)
}

fn check_gate(tree: &Tree, gate: u64) -> Result<()> {
    let durable = (tree.durable)();
    if durable < gate { Err(Error::NotDurable { gate, durable }) } else { Ok(()) }
}

fn switch(tree: &Tree, staged: &Path, gate: u64) -> Result<ReadPoint> {
    let disk = tree.home.disk.as_ref();
    let _writer = tree.writer.lock();
    if tree.is_destroyed.load(Ordering::Relaxed) {
        return Err(Error::Void);
    }
    let old = tree.state.load().version.generation.clone();
    let _manifest = old.manifest.lock();
    let number = old.number() + 1;
    let dir = tree.dir.join(generation_name(number));
    if holdfast_env::defect!(SNAPSHOT_INSTALL_NOT_ATOMIC) {
        write_current(disk, &tree.dir.join(CURRENT_NAME), number)?;
    }
    move_into_place(disk, staged, &dir)?;
    // Opened before the switch: what cannot be opened must not become current.
    let version = load_version(&tree.home, tree.entropy.as_ref(), &dir, number)?;
    write_current(disk, &tree.dir.join(CURRENT_NAME), number)?;
    old.end();
    Ok(install(tree, version, gate))
}

/// The names of all files a manifest names, with what it knows of them.
fn named_files(base: &Edit) -> impl Iterator<Item = (String, FileDescriptor)> {
    let tables = base.added.iter().map(|t| (table_name(t.table.number), t.table));
    tables.chain(base.added_blobs.iter().map(|b| (blob_name(b.number), *b)))
}

/// Checks every byte of the staged files.
fn verify_staged(disk: &dyn Disk, staged: &Path) -> Result<()> {
    let path = staged.join(MANIFEST_NAME);
    let bytes = disk.read(&path).map_err(|e| Error::unreferenced("read", &path, e))?;
    for (name, file) in named_files(&read_manifest(&bytes, &path)?.base) {
        verify_file(disk, &staged.join(name), &file)?;
    }
    Ok(())
}

fn move_into_place(disk: &dyn Disk, staged: &Path, dir: &Path) -> Result<()> {
    let failed = |action| move |e| Error::unreferenced(action, dir, e);
    // A leftover of an installation that failed before the switch; nothing refers to it.
    if disk.exists(dir).map_err(failed("look for"))? {
        disk.remove_dir_all(dir).map_err(failed("delete"))?;
    }
    disk.rename(staged, dir).map_err(failed("move"))?;
    for parent in [parent_of(dir), parent_of(staged)] {
        disk.sync_dir(parent).map_err(|e| Error::durable("sync", parent, e))?;
    }
    Ok(())
}

fn install(tree: &Tree, version: Version, gate: u64) -> ReadPoint {
    let point = version.point;
    let shared = tree.home.shared.clone();
    let active = Arc::new(Memtable::new(shared, Seal { point, gate }, None));
    tree.watermark.fetch_max(version.floor, Ordering::Relaxed);
    let _swap = tree.swap.lock();
    let state = State { active, sealed: Vec::new(), version: Arc::new(version) };
    tree.state.store(Arc::new(state));
    tree.published.store(point);
    point
}

/// See [`Engine::destroy`](crate::Engine::destroy).
pub(crate) fn destroy(tree: &Tree) -> Result<()> {
    let _writer = tree.writer.lock();
    let generation = tree.state.load().version.generation.clone();
    let _manifest = generation.manifest.lock();
    tree.is_destroyed.store(true, Ordering::Relaxed);
    generation.end();
    let disk = tree.home.disk.as_ref();
    let failed = |action| move |e| Error::unreferenced(action, &tree.dir, e);
    let gone = gone_path(&tree.dir);
    if disk.exists(&tree.dir).map_err(failed("look for"))? {
        disk.rename(&tree.dir, &gone).map_err(failed("move"))?;
        let parent = parent_of(&tree.dir);
        disk.sync_dir(parent).map_err(|e| Error::durable("sync", parent, e))?;
    }
    if disk.exists(&gone).map_err(failed("look for"))? {
        disk.remove_dir_all(&gone).map_err(failed("delete"))?;
    }
    Ok(())
}
