//! The manifest file.
//!
//! ```text
//! header:
//!   0  magic     8 bytes
//!   8  version   u32
//!  12  zero      u32
//!  16  birth     u128
//! records from 32 on:
//!   0  marker    u32    finds records behind a damaged one
//!   4  bytes     u32    of the payload
//!   8  checksum  u64    xxh3 of `bytes` and the payload, seeded by birth id and record offset
//!  16  payload          (`edit.rs`)
//! zeros up to the reserved length
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_env::{Disk, Entropy, File, OpenMode};

use crate::checksum::{self, BirthId};
use crate::codec::{Decoder, Encode};
use crate::error::{Error, Result};
use crate::limits::MANIFEST_BYTES_MAX;
use crate::manifest::edit::Edit;

const MAGIC: &[u8; 8] = b"HFMANIF\n";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
const RECORD_HEADER_BYTES: usize = 16;
const MARKER: u32 = 0x4d46_4861;
/// Space is reserved in steps of this size: appending changes no metadata and meets a full disk
/// before anything is half written.
const RESERVE_BYTES: u64 = 64 << 10;

/// A manifest open for appending.
#[derive(Debug)]
pub(crate) struct ManifestLog {
    file: Arc<dyn File>,
    path: PathBuf,
    birth: BirthId,
    end: u64,
    reserved: u64,
    /// Length right after it was last rewritten.
    base_bytes: u64,
    is_poisoned: bool,
}

impl ManifestLog {
    /// Replaces the manifest at `path` by one that holds only `base`, durably, and opens it.
    pub(crate) fn create(
        disk: &dyn Disk,
        entropy: &dyn Entropy,
        path: &Path,
        base: &Edit,
    ) -> Result<Self> {
        let birth = entropy.u128();
        let content = encode_manifest(base, birth);
        let temporary = path.with_extension("tmp");
        let unreferenced = |action| {
            let path = temporary.clone();
            move |e| Error::unreferenced(action, &path, e)
        };
        let file = disk.open(&temporary, OpenMode::CreateOrOpen).map_err(unreferenced("create"))?;
        let end = content.len() as u64;
        let reserved = end.next_multiple_of(RESERVE_BYTES);
        file.set_len(0)
            .and_then(|()| file.allocate(reserved))
            .and_then(|()| file.write_all_at(&content, 0))
            .and_then(|()| match holdfast_env::defect!(RENAME_BEFORE_SYNC) {
                true => Ok(()),
                false => file.sync_all(),
            })
            .map_err(unreferenced("write"))?;
        let directory = path.parent().unwrap_or(path);
        disk.rename(&temporary, path)
            .and_then(|()| disk.sync_dir(directory))
            .map_err(|e| Error::durable("replace", path, e))?;
        let path = path.to_path_buf();
        Ok(Self { file, path, birth, end, reserved, base_bytes: end, is_poisoned: false })
    }

    /// Opens the manifest at `path`, of which `bytes` were `read`, for appending behind its last
    /// good record.
    ///
    /// Everything up to there is written once more, and its length set: the sync that failed before
    /// the last process ended may have left pages that read well, count as clean and never reached
    /// the disk. The next sync writes back only what is written again.
    ///
    /// # Errors
    /// [`Error::Unsynced`]: nothing may rest on what was read.
    pub(crate) fn reopen(
        disk: &dyn Disk,
        path: &Path,
        bytes: &[u8],
        read: &ReadManifest,
    ) -> Result<Self> {
        let file =
            disk.open(path, OpenMode::Write).map_err(|e| Error::unreferenced("open", path, e))?;
        let found = bytes.get(..read.end as usize).unwrap_or(bytes);
        file.set_len(read.end)
            .and_then(|()| file.write_all_at(found, 0))
            .and_then(|()| file.sync_all())
            .map_err(|source| Error::Unsynced { path: path.to_path_buf(), source })?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            birth: read.birth,
            end: read.end,
            reserved: read.end,
            base_bytes: read.base_end,
            is_poisoned: false,
        })
    }

    /// Appends an edit and makes it durable.
    ///
    /// # Errors
    /// [`Error::NoSpace`]: nothing was written. Anything else is fatal: whether the edit counts is
    /// unknown, and the log refuses to go on.
    pub(crate) fn append(&mut self, edit: &Edit) -> Result<()> {
        if self.is_poisoned {
            return Err(Error::Poisoned);
        }
        let record = encode_record(&edit.encode(), self.birth, self.end);
        let end = self.end + record.len() as u64;
        if end > self.reserved {
            let reserved = end.next_multiple_of(RESERVE_BYTES);
            self.file
                .allocate(reserved)
                .map_err(|e| Error::unreferenced("reserve", &self.path, e))?;
            self.reserved = reserved;
        }
        let outcome = self
            .file
            .write_all_at(&record, self.end)
            .and_then(|()| self.file.sync_all())
            .map_err(|e| Error::durable("sync", &self.path, e));
        self.is_poisoned = outcome.is_err();
        outcome?;
        self.end = end;
        Ok(())
    }

    /// Refuses every further append: what is on the disk is no longer known.
    pub(crate) fn poison(&mut self) {
        self.is_poisoned = true;
    }

    /// Bytes appended since it was last rewritten.
    pub(crate) fn grown_bytes(&self) -> u64 {
        self.end - self.base_bytes
    }
}

/// A whole manifest that holds only `base`.
pub(crate) fn encode_manifest(base: &Edit, birth: BirthId) -> Vec<u8> {
    debug_assert!(base.is_base && base.removed.is_empty());
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.put_u32(VERSION);
    out.put_u32(0);
    out.put_u128(birth);
    let record = encode_record(&base.encode(), birth, HEADER_BYTES as u64);
    out.extend_from_slice(&record);
    out
}

fn encode_record(payload: &[u8], birth: BirthId, offset: u64) -> Vec<u8> {
    let mut covered = Vec::with_capacity(4 + payload.len());
    covered.put_u32(u32::try_from(payload.len()).expect("an edit is below 4 GiB"));
    covered.extend_from_slice(payload);
    let mut out = Vec::with_capacity(RECORD_HEADER_BYTES + payload.len());
    out.put_u32(MARKER);
    out.put_u32(u32::try_from(payload.len()).expect("an edit is below 4 GiB"));
    out.put_u64(checksum::at(birth, offset, &covered));
    out.extend_from_slice(payload);
    out
}

/// What a manifest says.
#[derive(Debug)]
pub(crate) struct ReadManifest {
    /// Everything it says, as one base.
    pub(crate) base: Edit,
    birth: BirthId,
    /// Behind the last good record.
    end: u64,
    /// Behind the first record.
    base_end: u64,
    /// Whether a torn record lies behind `end`.
    pub(crate) is_torn: bool,
}

/// Reads the manifest in `bytes`; `path` is for messages only.
pub(crate) fn read_manifest(bytes: &[u8], path: &Path) -> Result<ReadManifest> {
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(Error::corrupt(path, 0, "manifest is too long"));
    }
    let birth = decode_header(bytes).map_err(|what| Error::corrupt(path, 0, what))?;
    let first = record_at(bytes, HEADER_BYTES, birth)
        .and_then(|(payload, end)| Some((Edit::decode(payload)?, end)))
        .filter(|(edit, _)| {
            edit.is_base && edit.removed.is_empty() && edit.removed_blobs.is_empty()
        });
    let Some((mut base, base_end)) = first else {
        return Err(Error::corrupt(path, HEADER_BYTES as u64, "manifest has no base"));
    };
    let mut end = base_end;
    while let Some((payload, next)) = record_at(bytes, end, birth) {
        let edit = Edit::decode(payload).filter(|e| !e.is_base);
        if !edit.is_some_and(|edit| base.absorb(&edit)) {
            return Err(Error::corrupt(path, end as u64, "manifest contradicts itself"));
        }
        end = next;
    }
    if record_behind(bytes, end, birth) {
        return Err(Error::corrupt(path, end as u64, "manifest is damaged in the middle"));
    }
    let is_torn = bytes.get(end..).unwrap_or_default().iter().any(|b| *b != 0);
    Ok(ReadManifest { base, birth, end: end as u64, base_end: base_end as u64, is_torn })
}

/// The good records from the first one on, with offset and length; for who wants to look at them.
pub(crate) fn edits_of(bytes: &[u8]) -> Vec<(u64, u64, Edit)> {
    let mut edits = Vec::new();
    let Ok(birth) = decode_header(bytes) else { return edits };
    let mut at = HEADER_BYTES;
    while let Some((payload, next)) = record_at(bytes, at, birth) {
        let Some(edit) = Edit::decode(payload) else { break };
        edits.push((at as u64, (next - at) as u64, edit));
        at = next;
    }
    edits
}

fn decode_header(bytes: &[u8]) -> std::result::Result<BirthId, &'static str> {
    let mut decoder = Decoder::new(bytes);
    if decoder.bytes(8) != Some(MAGIC) {
        return Err("manifest has no magic");
    }
    if decoder.u32() != Some(VERSION) {
        return Err("manifest has an unknown version");
    }
    decoder.u32().and_then(|_| decoder.u128()).ok_or("manifest is cut")
}

/// The payload of the good record at `offset`, and where the next one begins.
fn record_at(bytes: &[u8], offset: usize, birth: BirthId) -> Option<(&[u8], usize)> {
    let mut decoder = Decoder::new(bytes.get(offset..)?);
    if decoder.u32()? != MARKER {
        return None;
    }
    let length = decoder.u32()?;
    let checksum = decoder.u64()?;
    let payload = decoder.bytes(length as usize)?;
    let mut covered = Vec::with_capacity(4 + payload.len());
    covered.put_u32(length);
    covered.extend_from_slice(payload);
    (checksum == checksum::at(birth, offset as u64, &covered))
        .then_some((payload, offset + RECORD_HEADER_BYTES + payload.len()))
}

/// Whether any good record begins behind `offset`.
fn record_behind(bytes: &[u8], offset: usize, birth: BirthId) -> bool {
    let marker = MARKER.to_le_bytes();
    let rest = bytes.get(offset + 1..).unwrap_or_default();
    rest.windows(marker.len())
        .enumerate()
        .filter(|(_, window)| *window == marker)
        .any(|(i, _)| record_at(bytes, offset + 1 + i, birth).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_model::{LogIndex, Revision};

    fn base() -> Edit {
        Edit { is_base: true, next_file: 1, ..Edit::default() }
    }

    fn manifest(edits: u64) -> Vec<u8> {
        let mut bytes = encode_manifest(&base(), 42);
        for i in 1..=edits {
            let point = ReadPoint { revision: Revision(i), index: LogIndex(i), clock_ms: i };
            let edit = Edit { point, next_file: i, ..Edit::default() };
            let record = encode_record(&edit.encode(), 42, bytes.len() as u64);
            bytes.extend_from_slice(&record);
        }
        bytes
    }

    use crate::types::ReadPoint;

    #[test]
    fn torn_last_edit_is_dropped_and_the_rest_kept() {
        let whole = manifest(3);
        let two = manifest(2).len();
        for end in two + 1..whole.len() {
            let read = read_manifest(&whole[..end], Path::new("m")).unwrap();
            assert_eq!(read.base.point.index, LogIndex(2));
            assert_eq!(read.end, two as u64);
            assert!(read.is_torn);
        }
        let read = read_manifest(&whole, Path::new("m")).unwrap();
        assert_eq!(read.base.point.index, LogIndex(3));
        assert!(!read.is_torn);
    }

    #[test]
    fn damage_before_a_good_edit_is_corruption() {
        let whole = manifest(3);
        let last = manifest(2).len();
        for at in 0..last {
            let mut bad = whole.clone();
            bad[at] ^= 0x10;
            // The reserved word of the header means nothing.
            if (12..16).contains(&at) {
                continue;
            }
            assert!(read_manifest(&bad, Path::new("m")).is_err(), "byte {at}");
        }
    }
}
