//! Long values in files of their own, which compactions leave where they are.
//!
//! A table of long values would be rewritten byte by byte at every level. So a record holds only
//! where its value lies; the value is written once at the flush, and once more when most of the
//! file around it is dead and a compaction passes by.
//!
//! Invariants:
//! * A blob file is never changed. It belongs to the tree as long as a table of the version refers
//!   to it, and leaves the manifest in the edit that removes the last such table.
//! * Every reference is in exactly one table; tables count the bytes they refer to, per file.
//!
//! ```text
//! header:
//!   0  magic     8 bytes
//!   8  version   u32
//!  12  zero      u32
//!  16  birth     u128
//!  32  checksum  u64   xxh3 of [0, 32), seeded by birth id and offset 0
//! stored blocks from 40 on, one per value (`table/format.rs`)
//!
//! reference, the value of a record whose `value_bytes` has bit 30 set:
//!   0  file    u64   number of the blob file
//!   8  offset  u64   where the stored block begins
//!  16  bytes   u32   its length, trailer included
//!  20  raw     u32   length of the value
//!  24  expiry  u64   when the value expires, ms of range time; 2^64 - 1 if never
//! ```
//! Source: Lu et al., WiscKey (FAST 2016); RocksDB's integrated BlobDB.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use holdfast_env::{Disk, File, OpenMode};

use crate::checksum::{self, BirthId};
use crate::codec::{Decoder, Encode};
use crate::error::{Error, Result};
use crate::graveyard::Grave;
use crate::limits::VALUE_BYTES_MAX;
use crate::options::Compression;
use crate::shared::BlockKey;
use crate::sink::{Pace, Sink};
use crate::table::{FileDescriptor, Fill, Handle, Home, missing_is_corrupt, read_block};

const MAGIC: &[u8; 8] = b"HFBLOBS\n";
const VERSION: u32 = 1;
/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 40;
/// Bytes of a reference.
pub(crate) const REFERENCE_BYTES: usize = 32;

/// Where a long value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlobRef {
    pub(crate) file: u64,
    pub(crate) handle: Handle,
    /// Length of the value, bytes.
    pub(crate) raw: u32,
    /// When the value expires; compactions are planned without a look at it.
    pub(crate) expires_at: Option<u64>,
}

/// Expiry of what never expires.
const NEVER_MS: u64 = u64::MAX;

impl BlobRef {
    pub(crate) fn encode(&self) -> [u8; REFERENCE_BYTES] {
        let mut out = [0; REFERENCE_BYTES];
        out[..8].copy_from_slice(&self.file.to_le_bytes());
        out[8..16].copy_from_slice(&self.handle.offset.to_le_bytes());
        out[16..20].copy_from_slice(&self.handle.bytes.to_le_bytes());
        out[20..24].copy_from_slice(&self.raw.to_le_bytes());
        out[24..].copy_from_slice(&self.expires_at.unwrap_or(NEVER_MS).to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::new(bytes);
        let file = decoder.u64()?;
        let handle = Handle { offset: decoder.u64()?, bytes: decoder.u32()? };
        let raw = decoder.u32()?;
        let expires_at = Some(decoder.u64()?).filter(|at_ms| *at_ms != NEVER_MS);
        let reference = Self { file, handle, raw, expires_at };
        (decoder.is_empty() && reference.raw as usize <= VALUE_BYTES_MAX).then_some(reference)
    }
}

/// An open blob file.
#[derive(Debug)]
pub(crate) struct BlobFile {
    descriptor: FileDescriptor,
    path: PathBuf,
    home: Home,
    opened_as: u64,
    is_obsolete: AtomicBool,
}

impl BlobFile {
    /// Opens the file at `path` and checks its header and length.
    pub(crate) fn open(home: Home, path: PathBuf, descriptor: FileDescriptor) -> Result<Self> {
        let file = home
            .disk
            .open(&path, OpenMode::Read)
            .map_err(|e| missing_is_corrupt(e, &path, "open"))?;
        let actual = file.len().map_err(|e| Error::unreferenced("measure", &path, e))?;
        if actual != descriptor.bytes {
            return Err(Error::corrupt(&path, actual, "blob file has the wrong length"));
        }
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0).map_err(|e| missing_is_corrupt(e, &path, "read"))?;
        if header[..] != encode_header(descriptor.birth)[..] {
            return Err(Error::corrupt(&path, 0, "blob file is another than the manifest names"));
        }
        let opened_as = home.shared.next_opening();
        home.shared.keep_open(opened_as, file);
        Ok(Self { descriptor, path, home, opened_as, is_obsolete: AtomicBool::new(false) })
    }

    pub(crate) fn descriptor(&self) -> &FileDescriptor {
        &self.descriptor
    }

    pub(crate) fn number(&self) -> u64 {
        self.descriptor.number
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.descriptor.bytes
    }

    /// Bytes of the values in it, as stored.
    pub(crate) fn value_bytes(&self) -> u64 {
        self.bytes().saturating_sub(HEADER_BYTES as u64)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file is deleted when the last table that refers to it is gone.
    pub(crate) fn mark_obsolete(&self) {
        self.is_obsolete.store(true, Ordering::Relaxed);
    }

    /// A value; `None` if it is not cached and the disk must not be waited for.
    pub(crate) fn read(&self, reference: BlobRef, fill: Fill) -> Result<Option<Bytes>> {
        let key = BlockKey { opened_as: self.opened_as, offset: reference.handle.offset };
        if let Some(value) = self.home.shared.cached_content(&key) {
            return Ok(Some(Bytes::from_owner(value)));
        }
        if fill == Fill::CacheOnly {
            return Ok(None);
        }
        let file = self.file()?;
        let handle = reference.handle;
        let content: Arc<[u8]> =
            read_block(file.as_ref(), &self.path, &self.descriptor, handle, |content| {
                content.into()
            })?;
        if content.len() != reference.raw as usize {
            let offset = reference.handle.offset;
            return Err(Error::corrupt(&self.path, offset, "value has the wrong length"));
        }
        self.home.shared.cache_content(key, content.clone());
        Ok(Some(Bytes::from_owner(content)))
    }

    /// Fills `buffer` from the file at `offset`, unchecked.
    pub(crate) fn read_raw(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file()?
            .read_exact_at(buffer, offset)
            .map_err(|e| missing_is_corrupt(e, &self.path, "read"))
    }

    fn file(&self) -> Result<Arc<dyn File>> {
        self.home.file(self.opened_as, &self.path)
    }
}

impl Drop for BlobFile {
    fn drop(&mut self) {
        self.home.shared.forget(self.opened_as);
        if self.is_obsolete.load(Ordering::Relaxed) {
            self.home.graveyard.bury(Grave::File(std::mem::take(&mut self.path)));
        }
    }
}

/// The birth id a whole header claims: for who has no manifest to ask.
pub(crate) fn claimed_birth(header: &[u8]) -> Option<BirthId> {
    let birth = Decoder::new(header.get(16..)?).u128()?;
    (header == encode_header(birth)).then_some(birth)
}

fn encode_header(birth: BirthId) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(MAGIC);
    out.put_u32(VERSION);
    out.put_u32(0);
    out.put_u128(birth);
    let checksum = checksum::at(birth, 0, &out);
    out.put_u64(checksum);
    out
}

/// A blob file being written.
pub(crate) struct BlobWriter {
    sink: Sink,
    compression: Compression,
}

impl BlobWriter {
    pub(crate) fn create(
        disk: &dyn Disk,
        path: &Path,
        number: u64,
        birth: BirthId,
        compression: Compression,
        pace: Pace,
    ) -> Result<Self> {
        let mut sink = Sink::create(disk, path, number, birth, pace)?;
        sink.append(&encode_header(birth));
        Ok(Self { sink, compression })
    }

    /// Bytes of the file so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.sink.position()
    }

    /// Appends a value, which expires at `expires_at` if at all.
    pub(crate) fn add(&mut self, value: &[u8], expires_at: Option<u64>) -> Result<BlobRef> {
        let handle = self.sink.append_block(value, self.compression);
        self.sink.write_if_full()?;
        let raw = u32::try_from(value.len()).expect("values are bounded");
        Ok(BlobRef { file: self.sink.number(), handle, raw, expires_at })
    }

    /// Writes what is left and makes the file durable (its directory entry is the caller's).
    pub(crate) fn finish(self) -> Result<FileDescriptor> {
        self.sink.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_is_read_as_it_was_written_and_a_cut_one_is_refused() {
        let handle = Handle { offset: 1 << 40, bytes: 70_000 };
        let reference = BlobRef { file: 7, handle, raw: 69_000, expires_at: Some(5) };
        let bytes = reference.encode();
        assert_eq!(BlobRef::decode(&bytes), Some(reference));
        let lasting = BlobRef { expires_at: None, ..reference };
        assert_eq!(BlobRef::decode(&lasting.encode()), Some(lasting));
        assert_eq!(BlobRef::decode(&bytes[..31]), None);
        let long = BlobRef { raw: u32::MAX, ..reference };
        assert_eq!(BlobRef::decode(&long.encode()), None);
    }
}
