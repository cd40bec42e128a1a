//! One change of the tree.
//!
//! ```text
//! payload of a manifest record:
//!   0  kind       u8    1 base, 2 edit
//!   1  revision, index, clock_ms   u64 each: the durable read point after this record
//!  25  floor      u64
//!  33  next_file  u64   numbers from here on are unused
//!  41  removed    u32 count, then u64 each
//!   …  added      u32 count, then each:
//!        level     u8
//!        number    u64
//!        bytes     u64
//!        birth     u128
//!        checksum  u64   of the whole file
//!   …  removed blob files   u32 count, then u64 each
//!   …  added blob files     u32 count, then number, bytes, birth and checksum each
//! ```

use holdfast_model::{LogIndex, Revision};

use crate::codec::{Decoder, Encode};
use crate::limits::LEVELS;
use crate::table::FileDescriptor;
use crate::types::ReadPoint;

const KIND_BASE: u8 = 1;
const KIND_EDIT: u8 = 2;

/// A table and the level it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeveledTable {
    pub(crate) level: usize,
    pub(crate) table: FileDescriptor,
}

/// What a manifest record says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) is_base: bool,
    pub(crate) point: ReadPoint,
    pub(crate) floor: u64,
    pub(crate) next_file: u64,
    pub(crate) removed: Vec<u64>,
    pub(crate) added: Vec<LeveledTable>,
    pub(crate) removed_blobs: Vec<u64>,
    pub(crate) added_blobs: Vec<FileDescriptor>,
}

impl Edit {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + 8 * self.removed.len() + 41 * self.added.len());
        out.put_u8(if self.is_base { KIND_BASE } else { KIND_EDIT });
        let point = [self.point.revision.0, self.point.index.0, self.point.clock_ms];
        for number in point.into_iter().chain([self.floor, self.next_file]) {
            out.put_u64(number);
        }
        out.put_u32(u32::try_from(self.removed.len()).expect("tables are few"));
        for number in &self.removed {
            out.put_u64(*number);
        }
        out.put_u32(u32::try_from(self.added.len()).expect("tables are few"));
        for LeveledTable { level, table } in &self.added {
            out.put_u8(u8::try_from(*level).expect("seven levels"));
            put_file(&mut out, table);
        }
        out.put_u32(u32::try_from(self.removed_blobs.len()).expect("blob files are few"));
        for number in &self.removed_blobs {
            out.put_u64(*number);
        }
        out.put_u32(u32::try_from(self.added_blobs.len()).expect("blob files are few"));
        for blob in &self.added_blobs {
            put_file(&mut out, blob);
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::new(payload);
        let is_base = match decoder.u8()? {
            KIND_BASE => true,
            KIND_EDIT => false,
            _ => return None,
        };
        let point = ReadPoint {
            revision: Revision(decoder.u64()?),
            index: LogIndex(decoder.u64()?),
            clock_ms: decoder.u64()?,
        };
        let mut edit = Self {
            is_base,
            point,
            floor: decoder.u64()?,
            next_file: decoder.u64()?,
            ..Self::default()
        };
        // Vectors grow as fields are found, so a wrong count allocates nothing.
        for _ in 0..decoder.u32()? {
            edit.removed.push(decoder.u64()?);
        }
        for _ in 0..decoder.u32()? {
            edit.added.push(LeveledTable {
                level: usize::from(decoder.u8()?),
                table: take_file(&mut decoder)?,
            });
        }
        for _ in 0..decoder.u32()? {
            edit.removed_blobs.push(decoder.u64()?);
        }
        for _ in 0..decoder.u32()? {
            edit.added_blobs.push(take_file(&mut decoder)?);
        }
        let levels_exist = edit.added.iter().all(|t| t.level < LEVELS);
        (decoder.is_empty() && levels_exist).then_some(edit)
    }

    /// Makes this base what it is after `edit`; false if `edit` contradicts it.
    pub(crate) fn absorb(&mut self, edit: &Self) -> bool {
        for number in &edit.removed {
            let before = self.added.len();
            self.added.retain(|t| t.table.number != *number);
            if self.added.len() + 1 != before {
                return false;
            }
        }
        for table in &edit.added {
            if self.added.iter().any(|t| t.table.number == table.table.number) {
                return false;
            }
            self.added.push(*table);
        }
        for number in &edit.removed_blobs {
            let before = self.added_blobs.len();
            self.added_blobs.retain(|b| b.number != *number);
            if self.added_blobs.len() + 1 != before {
                return false;
            }
        }
        for blob in &edit.added_blobs {
            if self.added_blobs.iter().any(|b| b.number == blob.number) {
                return false;
            }
            self.added_blobs.push(*blob);
        }
        let advances = edit.point.index >= self.point.index
            && edit.point.revision >= self.point.revision
            && edit.floor >= self.floor
            && edit.next_file >= self.next_file;
        self.point = edit.point;
        self.floor = edit.floor;
        self.next_file = edit.next_file;
        advances
    }
}

fn put_file(out: &mut Vec<u8>, file: &FileDescriptor) {
    out.put_u64(file.number);
    out.put_u64(file.bytes);
    out.put_u128(file.birth);
    out.put_u64(file.checksum);
}

fn take_file(decoder: &mut Decoder<'_>) -> Option<FileDescriptor> {
    Some(FileDescriptor {
        number: decoder.u64()?,
        bytes: decoder.u64()?,
        birth: decoder.u128()?,
        checksum: decoder.u64()?,
    })
}
