//! The file that a snapshot is: the keys and leases of a keyspace at one revision.
//!
//! ```text
//! magic     "HFETCDKS"                                  8 bytes
//! version   1, little-endian                            4 bytes
//! record    length of the body, little-endian           4 bytes
//!           xxh3 of the body, little-endian             8 bytes
//!           body: protobuf of `Record`
//! …         more records: one head, parts, one end
//! padding   zeros, up to a multiple of 512 bytes
//! ```
//! The head comes first and says what the snapshot is of. The end comes last and says how much
//! there was before it, so that a file that was cut off is told from a whole one. Entries come in
//! the order of their keys, leases in that of their ids. etcd's clients put the SHA-256 of all of
//! it behind it, which is why it is padded: they know a file with a hash by its odd length.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_wire::etcd::mvccpb::KeyValue;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 8] = b"HFETCDKS";
const VERSION: u32 = 1;
/// Length and checksum of a record.
const FRAME_BYTES: usize = 4 + 8;
/// The length of an archive is a multiple of this.
const ALIGNMENT: usize = 512;

/// What a snapshot is of.
#[derive(Clone, PartialEq, Message)]
pub struct Head {
    /// The cluster's id, 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub cluster: Bytes,
    /// The keyspace's name.
    #[prost(string, tag = "2")]
    pub keyspace: String,
    /// The revision the keys were read at.
    #[prost(uint64, tag = "3")]
    pub revision: u64,
}

/// A lease.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ArchivedLease {
    /// Its id.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Its time to live, milliseconds.
    #[prost(uint64, tag = "2")]
    pub ttl_ms: u64,
}

/// Some of the keys and leases.
#[derive(Clone, PartialEq, Message)]
pub struct Part {
    /// Entries, by key.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<KeyValue>,
    /// Leases, by id.
    #[prost(message, repeated, tag = "2")]
    pub leases: Vec<ArchivedLease>,
}

/// How much there was.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct End {
    /// Entries of all parts.
    #[prost(uint64, tag = "1")]
    pub entries: u64,
    /// Leases of all parts.
    #[prost(uint64, tag = "2")]
    pub leases: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(oneof = "Kind", tags = "1, 2, 3")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Head(Head),
    #[prost(message, tag = "2")]
    Part(Part),
    #[prost(message, tag = "3")]
    End(End),
}

/// Why bytes are not an archive. Nothing of them may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// They begin otherwise.
    #[error("not a snapshot of a keyspace")]
    Magic,
    /// A later build wrote it.
    #[error("snapshot of format {0}; this build knows format {VERSION}")]
    Version(u32),
    /// They end too early.
    #[error("the snapshot ends at byte {at}, before its end")]
    Torn {
        /// Where.
        at: usize,
    },
    /// A record is not what was written.
    #[error("the record at byte {at} of the snapshot is damaged")]
    Damaged {
        /// Where it begins.
        at: usize,
    },
    /// Records are missing or are too many.
    #[error("the snapshot is not complete")]
    Incomplete,
}

/// Writes an archive piece by piece.
#[derive(Debug)]
pub struct Writer {
    /// What was written and not yet taken.
    buffer: BytesMut,
    /// Bytes that were written, taken ones included.
    bytes: usize,
    end: End,
}

impl Writer {
    /// Begins an archive.
    pub fn new(head: Head) -> Self {
        let mut writer = Self { buffer: BytesMut::new(), bytes: 0, end: End::default() };
        writer.buffer.put_slice(MAGIC);
        writer.buffer.put_u32_le(VERSION);
        writer.bytes = writer.buffer.len();
        writer.record(Kind::Head(head));
        writer
    }

    /// Adds keys and leases, which come after those of earlier parts.
    pub fn part(&mut self, part: Part) {
        self.end.entries += part.entries.len() as u64;
        self.end.leases += part.leases.len() as u64;
        self.record(Kind::Part(part));
    }

    /// Ends the archive; nothing may be added afterwards.
    pub fn end(&mut self) {
        self.record(Kind::End(self.end));
        let padding = self.bytes.next_multiple_of(ALIGNMENT) - self.bytes;
        self.buffer.put_bytes(0, padding);
        self.bytes += padding;
    }

    /// Bytes that can be taken.
    pub fn waiting_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Takes at most `most` bytes of what was written.
    pub fn take(&mut self, most: usize) -> Bytes {
        self.buffer.split_to(most.min(self.buffer.len())).freeze()
    }

    fn record(&mut self, kind: Kind) {
        let body = Record { kind: Some(kind) }.encode_to_vec();
        let length = u32::try_from(body.len()).expect("a part is as large as a read may be");
        self.buffer.put_u32_le(length);
        self.buffer.put_u64_le(xxh3_64(&body));
        self.buffer.put_slice(&body);
        self.bytes += FRAME_BYTES + body.len();
    }
}

/// What an archive holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Archive {
    /// What it is of.
    pub head: Head,
    /// The entries, by key.
    pub entries: Vec<KeyValue>,
    /// The leases, by id.
    pub leases: Vec<ArchivedLease>,
}

impl Archive {
    /// Reads an archive, without what may follow its padding.
    ///
    /// # Errors
    /// [`ArchiveError`]: it is damaged or not whole; look for another copy.
    pub fn read(bytes: Bytes) -> Result<Self, ArchiveError> {
        let mut rest = bytes.clone();
        if rest.remaining() < MAGIC.len() + 4 || rest.split_to(MAGIC.len()) != MAGIC.as_slice() {
            return Err(ArchiveError::Magic);
        }
        match rest.get_u32_le() {
            VERSION => {}
            other => return Err(ArchiveError::Version(other)),
        }
        let mut archive = Self::default();
        let mut has_head = false;
        loop {
            let at = bytes.len() - rest.len();
            match record(&mut rest, at)? {
                Kind::Head(_) if has_head => return Err(ArchiveError::Incomplete),
                Kind::Head(head) => {
                    archive.head = head;
                    has_head = true;
                }
                Kind::Part(_) if !has_head => return Err(ArchiveError::Incomplete),
                Kind::Part(part) => {
                    archive.entries.extend(part.entries);
                    archive.leases.extend(part.leases);
                }
                Kind::End(end) if has_head && end == archive.end() => return Ok(archive),
                Kind::End(_) => return Err(ArchiveError::Incomplete),
            }
        }
    }

    fn end(&self) -> End {
        End { entries: self.entries.len() as u64, leases: self.leases.len() as u64 }
    }
}

/// The next record, which begins at byte `at`.
fn record(rest: &mut Bytes, at: usize) -> Result<Kind, ArchiveError> {
    if rest.remaining() < FRAME_BYTES {
        return Err(ArchiveError::Torn { at });
    }
    let (length, checksum) = (rest.get_u32_le() as usize, rest.get_u64_le());
    if rest.remaining() < length {
        return Err(ArchiveError::Torn { at });
    }
    let body = rest.split_to(length);
    let damaged = ArchiveError::Damaged { at };
    if xxh3_64(&body) != checksum {
        return Err(damaged);
    }
    Record::decode(body).map_err(|_| damaged)?.kind.ok_or(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> (Archive, Bytes) {
        let head = Head { cluster: vec![7; 16].into(), keyspace: "etcd".into(), revision: 9 };
        let entry = |key: &'static str, lease| KeyValue {
            key: key.into(),
            value: "v".into(),
            create_revision: 2,
            mod_revision: 5,
            version: 3,
            lease,
        };
        let entries = vec![entry("a", 0), entry("b", -3), entry("c", 8)];
        let leases = vec![ArchivedLease { id: 8, ttl_ms: 60_000 }];
        let mut writer = Writer::new(head.clone());
        let (first, second) = entries.split_at(2);
        writer.part(Part { entries: first.to_vec(), leases: Vec::new() });
        writer.part(Part { entries: second.to_vec(), leases: leases.clone() });
        writer.end();
        let all = writer.take(usize::MAX);
        assert_eq!(writer.waiting_bytes(), 0);
        (Archive { head, entries, leases }, all)
    }

    #[test]
    fn an_archive_gives_back_what_was_written_whatever_follows_it() {
        let (archive, bytes) = written();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        assert_eq!(Archive::read(bytes.clone()), Ok(archive.clone()));
        let with_hash = [bytes.as_ref(), &[3; 32]].concat();
        assert_eq!(Archive::read(with_hash.into()), Ok(archive));
    }

    #[test]
    fn no_changed_bit_and_no_cut_before_the_end_goes_unnoticed() {
        let (_, bytes) = written();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for at in 0..used {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            assert!(Archive::read(changed.into()).is_err(), "byte {at}");
            assert!(Archive::read(bytes.slice(..at)).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn pieces_of_any_size_are_the_same_archive() {
        let (archive, whole) = written();
        for most in [1, 7, 512, 4_096] {
            let mut writer = Writer::new(archive.head.clone());
            let mut pieces = Vec::new();
            let (first, second) = archive.entries.split_at(2);
            writer.part(Part { entries: first.to_vec(), leases: Vec::new() });
            pieces.extend_from_slice(&writer.take(most));
            writer.part(Part { entries: second.to_vec(), leases: archive.leases.clone() });
            writer.end();
            while writer.waiting_bytes() > 0 {
                pieces.extend_from_slice(&writer.take(most));
            }
            assert_eq!(pieces, whole, "pieces of {most}");
        }
    }

    #[test]
    fn what_a_later_build_wrote_is_not_read() {
        let (_, bytes) = written();
        let mut later = bytes.to_vec();
        later[8] = 2;
        assert_eq!(Archive::read(later.into()), Err(ArchiveError::Version(2)));
        assert_eq!(Archive::read(Bytes::from_static(b"SQLite")), Err(ArchiveError::Magic));
    }
}
