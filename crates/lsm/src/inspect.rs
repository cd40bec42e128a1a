//! Reading an engine's files without an engine, for people.
//!
//! Owns: what is told of tables, blob files, manifests and whole directories.
//! Must never know: a running engine; how it is printed.
//! Invariants:
//! * Nothing is written.
//! * Damage is a finding, not an error: the rest is still read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use holdfast_env::{Disk, OpenMode};

use crate::blob;
use crate::error::{Error, Result};
use crate::generation::{
    CURRENT_NAME, MANIFEST_NAME, blob_name, blob_number, generation_name, table_name, table_number,
};
use crate::limits::MANIFEST_BYTES_MAX;
use crate::manifest::{Edit, edits_of, read_current, read_manifest};
use crate::table::{self, FileDescriptor, Handle, read_block, verify_file};
use crate::types::{Family, ReadPoint};

/// Counts of values by size: place `n` counts those below `2^n` bytes and not below half of it.
pub const VALUE_SIZES: usize = 32;

/// Something that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

/// A stretch of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it is.
    pub name: &'static str,
    /// Where it begins.
    pub offset: u64,
    /// Its length, bytes.
    pub bytes: u64,
    /// Whether its checksum was verified.
    pub is_checked: bool,
}

/// What a table says of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedFamily {
    /// Which family.
    pub family: Family,
    /// Data blocks.
    pub blocks: u32,
    /// Records, tombstones included.
    pub records: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Keys and values before compression, bytes.
    pub raw_bytes: u64,
    /// Smallest and largest sequence number.
    pub seqs: (u64, u64),
    /// Smallest and largest key.
    pub keys: (Bytes, Bytes),
}

/// The value of a record as a table holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InspectedValue {
    /// None: the key was deleted.
    Tombstone,
    /// In the table.
    Inline(Bytes),
    /// In a blob file.
    Blob {
        /// The file's number.
        file: u64,
        /// Length of the value.
        bytes: u32,
    },
}

/// A record of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedRecord {
    /// Its family.
    pub family: Family,
    /// Its key.
    pub key: Bytes,
    /// Its sequence number.
    pub seq: u64,
    /// Its place among the records of that number.
    pub ordinal: u32,
    /// Its value.
    pub value: InspectedValue,
}

/// A table file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InspectedTable {
    /// Length of the file.
    pub bytes: u64,
    /// The identity it was born with.
    pub birth: u128,
    /// The watermark it was written with.
    pub floor: u64,
    /// Records that can go once the watermark has passed.
    pub garbage: u64,
    /// Epoch of the span it was written with.
    pub span_epoch: u64,
    /// Pieces of range tombstones.
    pub range_tombstones: u64,
    /// What it holds, by family.
    pub families: Vec<InspectedFamily>,
    /// Blob files it refers to, and the bytes it needs of each.
    pub blobs: Vec<(u64, u64)>,
    /// Its parts, in order.
    pub sections: Vec<Section>,
    /// How long values are, as far as data blocks were read; see [`VALUE_SIZES`].
    pub value_sizes: [u64; VALUE_SIZES],
    /// What is wrong with it.
    pub problems: Vec<Problem>,
    /// References to blobs that were met: file, offset, stored bytes, length.
    pub(crate) references: Vec<(u64, u64, u32, u32)>,
}

/// A file as a manifest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InspectedFile {
    /// The level of a table; none for a blob file.
    pub level: Option<usize>,
    /// Its number.
    pub number: u64,
    /// Its length, bytes.
    pub bytes: u64,
    /// The identity it was born with.
    pub birth: u128,
    /// Checksum of the whole file.
    pub checksum: u64,
}

/// A record of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedEdit {
    /// Where it begins.
    pub offset: u64,
    /// Its length, bytes.
    pub bytes: u64,
    /// The durable read point after it.
    pub point: ReadPoint,
    /// Files that came.
    pub added: Vec<InspectedFile>,
    /// Numbers of tables and blob files that went.
    pub removed: Vec<u64>,
}

/// A manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InspectedManifest {
    /// Length of the file.
    pub bytes: u64,
    /// Its records, in order.
    pub edits: Vec<InspectedEdit>,
    /// The files that count after all of them.
    pub files: Vec<InspectedFile>,
    /// The durable read point.
    pub point: ReadPoint,
    /// Nothing below this revision can be read.
    pub floor: u64,
    /// Whether its last record was torn by a crash and does not count.
    pub is_torn: bool,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// A blob file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InspectedBlob {
    /// Length of the file.
    pub bytes: u64,
    /// The identity it claims.
    pub birth: u128,
    /// Header, and the values that tables beside it refer to.
    pub sections: Vec<Section>,
    /// Bytes of these values, as stored.
    pub live_bytes: u64,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// An engine's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InspectedTree {
    /// The generation that counts.
    pub generation: u64,
    /// Its manifest.
    pub manifest: InspectedManifest,
    /// Its tables.
    pub tables: Vec<(InspectedFile, InspectedTable)>,
    /// Its blob files.
    pub blobs: Vec<(InspectedFile, InspectedBlob)>,
    /// Files that no manifest names; the engine deletes them when it opens.
    pub strays: Vec<PathBuf>,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
}

/// Reads a table. With `verify` all of it: every record goes to `visit` until that returns false.
///
/// The file is taken for what it claims to be; only [`directory`] compares it with the manifest.
///
/// # Errors
/// Environment errors. Damage is in [`InspectedTable::problems`].
pub fn table(
    disk: &dyn Disk,
    path: &Path,
    verify: bool,
    visit: &mut dyn FnMut(InspectedRecord) -> bool,
) -> Result<InspectedTable> {
    table::inspect(disk, path, verify, visit)
}

/// Reads a manifest.
///
/// # Errors
/// Environment errors. Damage is in [`InspectedManifest::problems`].
pub fn manifest(disk: &dyn Disk, path: &Path) -> Result<InspectedManifest> {
    let mut found = InspectedManifest::default();
    let failed = |error| Error::unreferenced("read", path, error);
    let file = disk.open(path, OpenMode::Read).map_err(failed)?;
    found.bytes = file.len().map_err(failed)?;
    // What is too long is refused below, and not read.
    let length = found.bytes.min(MANIFEST_BYTES_MAX + 1);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    found.edits = edits_of(&bytes).into_iter().map(edit).collect();
    match read_manifest(&bytes, path) {
        Ok(read) => {
            found.files = files(&read.base);
            found.point = read.base.point;
            found.floor = read.base.floor;
            found.is_torn = read.is_torn;
        }
        Err(error) => note(&mut found.problems, error)?,
    }
    Ok(found)
}

/// Reads a blob file: its header and, with `verify`, every value that the tables beside it refer
/// to. What nothing refers to cannot be told apart and waits for its collection.
///
/// # Errors
/// Environment errors. Damage is in [`InspectedBlob::problems`].
pub fn blob(disk: &dyn Disk, path: &Path, verify: bool) -> Result<InspectedBlob> {
    let number = path.file_name().and_then(|name| blob_number(name.to_str()?));
    let mut references = Vec::new();
    if let (true, Some(number), Some(dir)) = (verify, number, path.parent()) {
        let beside = disk.list(dir).map_err(|e| Error::unreferenced("list", dir, e))?;
        for path in beside.iter().filter(|path| is_table(path)) {
            let table = table(disk, path, true, &mut |_| false)?;
            let mine = table.references.into_iter().filter(|(file, ..)| *file == number);
            references.extend(mine);
        }
    }
    read_blob(disk, path, &references)
}

fn read_blob(
    disk: &dyn Disk,
    path: &Path,
    references: &[(u64, u64, u32, u32)],
) -> Result<InspectedBlob> {
    let mut found = InspectedBlob::default();
    let failed = |error| Error::unreferenced("read", path, error);
    let file = disk.open(path, OpenMode::Read).map_err(failed)?;
    found.bytes = file.len().map_err(failed)?;
    let mut header = vec![0; blob::HEADER_BYTES.min(usize::try_from(found.bytes).unwrap_or(0))];
    file.read_exact_at(&mut header, 0).map_err(failed)?;
    let Some(birth) = blob::claimed_birth(&header) else {
        let what = "blob file has no whole header".to_owned();
        found.problems.push(Problem { path: path.to_path_buf(), offset: 0, what });
        return Ok(found);
    };
    found.birth = birth;
    let bytes = blob::HEADER_BYTES as u64;
    found.sections.push(Section { name: "header", offset: 0, bytes, is_checked: true });
    let descriptor = FileDescriptor { number: 0, bytes: found.bytes, birth, checksum: 0 };
    let mut references: Vec<_> = references.to_vec();
    references.sort_unstable();
    for (_, offset, bytes, raw) in references {
        let handle = Handle { offset, bytes };
        let length = read_block(file.as_ref(), path, &descriptor, handle, <[u8]>::len);
        match length {
            Ok(length) if length == raw as usize => {}
            Ok(_) => note(
                &mut found.problems,
                Error::corrupt(path, offset, "value has the wrong length"),
            )?,
            Err(error) => note(&mut found.problems, error)?,
        }
        let bytes = u64::from(bytes);
        found.sections.push(Section { name: "value", offset, bytes, is_checked: true });
        found.live_bytes += bytes;
    }
    Ok(found)
}

/// Reads an engine's directory: the current generation, its manifest and every file that names;
/// with `verify` every byte of them.
///
/// # Errors
/// Environment errors. Damage is in [`InspectedTree::problems`].
pub fn directory(disk: &dyn Disk, dir: &Path, verify: bool) -> Result<InspectedTree> {
    let mut tree = InspectedTree::default();
    match read_current(disk, &dir.join(CURRENT_NAME)) {
        Ok(Some(generation)) => tree.generation = generation,
        Ok(None) => {
            let error = Error::corrupt(&dir.join(CURRENT_NAME), 0, "file is missing");
            note(&mut tree.problems, error)?;
        }
        Err(error) => note(&mut tree.problems, error)?,
    }
    if !tree.problems.is_empty() {
        return Ok(tree);
    }
    let dir = dir.join(generation_name(tree.generation));
    let path = dir.join(MANIFEST_NAME);
    if !disk.exists(&path).map_err(|e| Error::unreferenced("look for", &path, e))? {
        note(&mut tree.problems, Error::corrupt(&path, 0, "file is missing"))?;
        return Ok(tree);
    }
    tree.manifest = manifest(disk, &path)?;
    tree.problems.extend(tree.manifest.problems.iter().cloned());
    tree.read_files(disk, &dir, verify)?;
    Ok(tree)
}

impl InspectedTree {
    fn read_files(&mut self, disk: &dyn Disk, dir: &Path, verify: bool) -> Result<()> {
        let mut references: BTreeMap<u64, Vec<(u64, u64, u32, u32)>> = BTreeMap::new();
        let mut named = BTreeSet::from([dir.join(MANIFEST_NAME)]);
        for file in self.manifest.files.clone() {
            let Some(_) = file.level else { continue };
            let path = dir.join(table_name(file.number));
            named.insert(path.clone());
            if self.is_missing_or_other(disk, &path, &file, verify)? {
                continue;
            }
            let table = table(disk, &path, verify, &mut |_| false)?;
            for reference in &table.references {
                references.entry(reference.0).or_default().push(*reference);
            }
            self.problems.extend(table.problems.iter().cloned());
            self.tables.push((file, table));
        }
        for file in self.manifest.files.clone() {
            if file.level.is_some() {
                continue;
            }
            let path = dir.join(blob_name(file.number));
            named.insert(path.clone());
            if self.is_missing_or_other(disk, &path, &file, verify)? {
                continue;
            }
            let mine = references.remove(&file.number).unwrap_or_default();
            let blob = read_blob(disk, &path, &mine)?;
            self.problems.extend(blob.problems.iter().cloned());
            self.blobs.push((file, blob));
        }
        let all = disk.list(dir).map_err(|e| Error::unreferenced("list", dir, e))?;
        self.strays = all.into_iter().filter(|path| !named.contains(path)).collect();
        Ok(())
    }

    /// Compares a file with what the manifest says of it. True if there is nothing to read.
    fn is_missing_or_other(
        &mut self,
        disk: &dyn Disk,
        path: &Path,
        file: &InspectedFile,
        verify: bool,
    ) -> Result<bool> {
        if !disk.exists(path).map_err(|e| Error::unreferenced("look for", path, e))? {
            note(&mut self.problems, Error::corrupt(path, 0, "file is missing"))?;
            return Ok(true);
        }
        if verify {
            let InspectedFile { number, bytes, birth, checksum, .. } = *file;
            let descriptor = FileDescriptor { number, bytes, birth, checksum };
            if let Err(error) = verify_file(disk, path, &descriptor) {
                note(&mut self.problems, error)?;
            }
        }
        Ok(false)
    }
}

fn is_table(path: &Path) -> bool {
    path.file_name().and_then(|name| table_number(name.to_str()?)).is_some()
}

/// Takes corruption down; other errors end the inspection.
fn note(problems: &mut Vec<Problem>, error: Error) -> Result<()> {
    match error {
        Error::Corrupt { path, offset, what } => {
            problems.push(Problem { path, offset, what: what.to_owned() });
            Ok(())
        }
        other => Err(other),
    }
}

fn file(level: Option<usize>, file: &FileDescriptor) -> InspectedFile {
    let FileDescriptor { number, bytes, birth, checksum } = *file;
    InspectedFile { level, number, bytes, birth, checksum }
}

fn files(edit: &Edit) -> Vec<InspectedFile> {
    let tables = edit.added.iter().map(|leveled| file(Some(leveled.level), &leveled.table));
    let blobs = edit.added_blobs.iter().map(|blob| file(None, blob));
    tables.chain(blobs).collect()
}

fn edit((offset, bytes, edit): (u64, u64, Edit)) -> InspectedEdit {
    let removed = edit.removed.iter().chain(&edit.removed_blobs).copied().collect();
    InspectedEdit { offset, bytes, point: edit.point, added: files(&edit), removed }
}
