//! Small files of a data directory: a checked envelope around one protobuf message.
//!
//! Owns: how `IDENTITY`, `MAP` and `FOUNDING` lie on disk, and their durable replacement.
//! Must never know: what the messages mean.
//! Invariants:
//! * A file is replaced as a whole and durably, or not at all.
//! * A file that is not exactly what was written is an error, never a default.
//!
//! ```text
//!  offset  bytes  field
//!       0      4  magic: "HFID" identity, "HFMP" map, "HFFD" founding plan
//!       4      4  version, 1
//!       8      8  length of the payload
//!      16      8  xxh3-64 of the payload, seeded with bytes 0..16 taken as two u64 (xor)
//!      24      …  payload: one protobuf message
//! ```
//! All numbers little-endian.

use std::io;
use std::path::Path;

use bytes::{Buf, BufMut};
use holdfast_env::Disk;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The version every file is written with.
pub const VERSION: u32 = 1;
const HEAD_BYTES: usize = 24;
/// A map of thousands of ranges fits many times.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What the node remembers about itself and its peers.
    Identity,
    /// The cached cluster map.
    Map,
    /// A founding that was begun here.
    Founding,
}

impl Kind {
    fn magic(self) -> [u8; 4] {
        match self {
            Self::Identity => *b"HFID",
            Self::Map => *b"HFMP",
            Self::Founding => *b"HFFD",
        }
    }

    /// The name of the file inside the data directory.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Identity => "IDENTITY",
            Self::Map => "MAP",
            Self::Founding => "FOUNDING",
        }
    }
}

/// Why a small file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// The disk refused.
    #[error("{file}: {source}")]
    Io {
        /// Its name.
        file: &'static str,
        /// The refusal.
        source: io::Error,
    },
    /// Written by a newer version of the program.
    #[error("{file} has format version {found}, this program reads up to {VERSION}")]
    Newer {
        /// Its name.
        file: &'static str,
        /// The version found.
        found: u32,
    },
    /// Not what was written.
    #[error("{file} is damaged: {problem}")]
    Damaged {
        /// Its name.
        file: &'static str,
        /// How it shows.
        problem: &'static str,
    },
}

fn seed(head: &[u8]) -> u64 {
    let mut head = head;
    head.get_u64_le() ^ head.get_u64_le()
}

/// The bytes of the file.
pub fn seal(kind: Kind, message: &impl Message) -> Vec<u8> {
    let payload = message.encode_to_vec();
    let mut bytes = Vec::with_capacity(HEAD_BYTES + payload.len());
    bytes.put_slice(&kind.magic());
    bytes.put_u32_le(VERSION);
    bytes.put_u64_le(payload.len() as u64);
    let checksum = xxh3_64_with_seed(&payload, seed(&bytes));
    bytes.put_u64_le(checksum);
    bytes.put_slice(&payload);
    bytes
}

/// The message in the bytes of a file.
///
/// # Errors
/// [`SealedError::Newer`]: start a newer program. [`SealedError::Damaged`].
pub fn unseal<M: Message + Default>(kind: Kind, bytes: &[u8]) -> Result<M, SealedError> {
    let file = kind.file_name();
    let damaged = |problem| SealedError::Damaged { file, problem };
    let (head, payload) =
        bytes.split_at_checked(HEAD_BYTES).ok_or_else(|| damaged("shorter than its head"))?;
    let mut fields = head;
    if fields.copy_to_bytes(4) != kind.magic().as_slice() {
        return Err(damaged("wrong magic"));
    }
    let found = fields.get_u32_le();
    if found > VERSION {
        return Err(SealedError::Newer { file, found });
    }
    if fields.get_u64_le() != payload.len() as u64 || payload.len() > PAYLOAD_BYTES_MAX {
        return Err(damaged("wrong length"));
    }
    let (seeded, _) = head.split_at(16);
    if fields.get_u64_le() != xxh3_64_with_seed(payload, seed(seeded)) {
        return Err(damaged("wrong checksum"));
    }
    M::decode(payload).map_err(|_| damaged("not the message it should be"))
}

/// Reads the file of `kind` in `dir`; `None` where there is none.
///
/// # Errors
/// As [`unseal`], and [`SealedError::Io`].
pub fn load<M: Message + Default>(
    disk: &dyn Disk,
    dir: &Path,
    kind: Kind,
) -> Result<Option<M>, SealedError> {
    let path = dir.join(kind.file_name());
    let io = |source| SealedError::Io { file: kind.file_name(), source };
    if !disk.exists(&path).map_err(io)? {
        return Ok(None);
    }
    unseal(kind, &disk.read(&path).map_err(io)?).map(Some)
}

/// Replaces the file of `kind` in `dir` durably. Blocks for two syncs.
///
/// # Errors
/// [`SealedError::Io`]: the old file, if any, is still there.
pub fn store(
    disk: &dyn Disk,
    dir: &Path,
    kind: Kind,
    message: &impl Message,
) -> Result<(), SealedError> {
    let path = dir.join(kind.file_name());
    disk.replace(&path, &seal(kind, message))
        .map_err(|source| SealedError::Io { file: kind.file_name(), source })
}

#[cfg(test)]
mod tests {
    use holdfast_wire::system::v1::{Identity, KnownNode};

    use super::*;

    fn identity() -> Identity {
        Identity {
            store_id: vec![7; 16].into(),
            boot_counter: 3,
            cluster_id: vec![9; 16].into(),
            node_id: 2,
            known: vec![KnownNode {
                node_id: 1,
                store_id: vec![8; 16].into(),
                boot_counter: 4,
                boot_id: 5,
                peer_address: "127.0.0.1:7411".into(),
            }],
            refusal: String::new(),
        }
    }

    #[test]
    fn the_golden_identity_file_of_version_1_is_what_is_written_and_read() {
        let golden = include_bytes!("../tests/golden/identity-v1.bin");
        assert_eq!(seal(Kind::Identity, &identity()), golden);
        assert_eq!(unseal::<Identity>(Kind::Identity, golden).unwrap(), identity());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let whole = seal(Kind::Identity, &identity());
        for i in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[i / 8] ^= 1 << (i % 8);
            assert!(unseal::<Identity>(Kind::Identity, &bytes).is_err(), "bit {i}");
        }
        for length in 0..whole.len() {
            assert!(unseal::<Identity>(Kind::Identity, &whole[..length]).is_err(), "cut {length}");
        }
        assert!(unseal::<Identity>(Kind::Map, &whole).is_err());
    }

    #[test]
    fn a_newer_version_is_named_as_such() {
        let mut bytes = seal(Kind::Identity, &identity());
        bytes[4] = 2;
        let error = unseal::<Identity>(Kind::Identity, &bytes).unwrap_err();
        assert!(matches!(error, SealedError::Newer { found: 2, .. }), "{error}");
    }
}
