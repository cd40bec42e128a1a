//! One key with its version data, and its record in the `data` family.
//!
//! Record of a live version (little-endian; the key and the revision are the engine's):
//! ```text
//! offset  size  field
//!      0     1  format: 1, plus 0x10 where a lease follows, plus 0x20 where an expiry follows
//!      1     8  create revision
//!      9     8  version
//!     17     8  lease                (only with 0x10)
//!      …     8  expires at, ms       (only with 0x20)
//!      …     …  value, to the end
//! ```
//! A deleted key is the engine's tombstone and has no record.

use bytes::{BufMut, Bytes};
use holdfast_model::{LeaseId, Revision};

use crate::{Error, Result};

const FORMAT: u8 = 1;
const FORMAT_MASK: u8 = 0x0f;
const HAS_LEASE: u8 = 0x10;
const HAS_EXPIRY: u8 = 0x20;
/// Longest record without its value, bytes.
const HEADER_BYTES_MAX: usize = 33;

/// One key with its version data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value; empty where only keys were asked for.
    pub value: Bytes,
    /// Revision of this version.
    pub revision: Revision,
    /// Revision at which this life of the key began.
    pub create_revision: Revision,
    /// How many times the key was written in this life; 1 means just created.
    pub version: u64,
    /// The lease it is attached to; id 0 means none.
    pub lease: LeaseId,
    /// Range time from which it is hidden, milliseconds; 0 means never.
    pub expires_at_ms: u64,
}

/// When a record of the `data` family expires, range time in milliseconds; `None` if never, or if
/// it is no such record. For the engine, which lets it guide compactions.
pub fn record_expires_at_ms(record: &[u8]) -> Option<u64> {
    let format = *record.first()?;
    if format & FORMAT_MASK != FORMAT || format & HAS_EXPIRY == 0 {
        return None;
    }
    let at = if format & HAS_LEASE == 0 { 17 } else { 25 };
    let field = record.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*field))
}

impl Entry {
    /// Whether the entry is hidden from current reads at range time `clock_ms`.
    pub fn is_expired(&self, clock_ms: u64) -> bool {
        self.expires_at_ms != 0 && self.expires_at_ms <= clock_ms
    }

    /// What the entry counts with in byte budgets: key, value and fixed part.
    pub fn weight(&self) -> usize {
        self.key.len() + self.value.len() + std::mem::size_of::<Self>()
    }

    /// How long the record of this version is at most, bytes.
    pub(crate) fn record_bytes_max(&self) -> usize {
        HEADER_BYTES_MAX + self.value.len()
    }

    /// Appends the record of this version to `buffer`.
    pub(crate) fn encode(&self, buffer: &mut impl BufMut) {
        let lease = if self.lease.0 == 0 { 0 } else { HAS_LEASE };
        let expiry = if self.expires_at_ms == 0 { 0 } else { HAS_EXPIRY };
        buffer.put_u8(FORMAT | lease | expiry);
        buffer.put_u64_le(self.create_revision.0);
        buffer.put_u64_le(self.version);
        if lease != 0 {
            buffer.put_u64_le(self.lease.0);
        }
        if expiry != 0 {
            buffer.put_u64_le(self.expires_at_ms);
        }
        buffer.put_slice(&self.value);
    }

    /// Reads the record of `key` at `revision`. Cost: no copy, the value is a slice of `record`.
    pub(crate) fn decode(key: Bytes, revision: Revision, record: Bytes) -> Result<Self> {
        let mut reader = Fields { record, at: 0 };
        let format = reader.byte()?;
        if format & FORMAT_MASK != FORMAT || format & !(FORMAT_MASK | HAS_LEASE | HAS_EXPIRY) != 0 {
            return Err(Error::MalformedRecord { family: "data", what: "unknown format" });
        }
        let create_revision = Revision(reader.word()?);
        let version = reader.word()?;
        let lease = if format & HAS_LEASE == 0 { 0 } else { reader.word()? };
        let expires_at_ms = if format & HAS_EXPIRY == 0 { 0 } else { reader.word()? };
        let value = reader.record.slice(reader.at..);
        let lease = LeaseId(lease);
        Ok(Self { key, value, revision, create_revision, version, lease, expires_at_ms })
    }
}

/// Reads fixed fields off the front of a record.
struct Fields {
    record: Bytes,
    at: usize,
}

impl Fields {
    const SHORT: Error = Error::MalformedRecord { family: "data", what: "record too short" };

    fn byte(&mut self) -> Result<u8> {
        let byte = *self.record.get(self.at).ok_or(Self::SHORT)?;
        self.at += 1;
        Ok(byte)
    }

    fn word(&mut self) -> Result<u64> {
        let bytes = self.record.get(self.at..self.at + 8).ok_or(Self::SHORT)?;
        self.at += 8;
        Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| Self::SHORT)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(lease: u64, expires_at_ms: u64, value: &'static [u8]) -> Entry {
        Entry {
            key: "k".into(),
            value: value.into(),
            revision: Revision(9),
            create_revision: Revision(4),
            version: 3,
            lease: LeaseId(lease),
            expires_at_ms,
        }
    }

    #[test]
    fn a_record_decodes_to_the_entry_it_was_made_of() {
        for (lease, expires) in [(0, 0), (1, 0), (0, 1), (u64::MAX, u64::MAX)] {
            for value in [&b""[..], b"v", b"a longer value"] {
                let entry = entry(lease, expires, value);
                let mut buffer = Vec::new();
                entry.encode(&mut buffer);
                let told = record_expires_at_ms(&buffer);
                assert_eq!(told, (expires > 0).then_some(expires));
                assert!(buffer.len() <= entry.record_bytes_max());
                let decoded = Entry::decode("k".into(), Revision(9), buffer.into());
                assert_eq!(decoded.unwrap(), entry);
            }
        }
    }

    #[test]
    fn a_cut_or_foreign_record_is_refused() {
        let mut buffer = Vec::new();
        entry(5, 6, b"").encode(&mut buffer);
        for cut in 0..buffer.len() {
            let part = Bytes::copy_from_slice(&buffer[..cut]);
            assert!(Entry::decode("k".into(), Revision(1), part).is_err(), "{cut} bytes");
        }
        for format in [0, 2, 0x41, 0x81] {
            buffer[0] = format;
            let record = Bytes::copy_from_slice(&buffer);
            assert!(Entry::decode("k".into(), Revision(1), record).is_err(), "format {format}");
        }
    }
}
