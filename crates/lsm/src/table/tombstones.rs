//! The range tombstones of a table: read when it is opened, kept as long as it is open.
//!
//! ```text
//! content of the tombstones block, which is left out if there are none:
//!   0  families  u32
//!   4  per family, in order:
//!        family  u8
//!        pieces  u32
//!        per piece, by start; of equal bounds the newest first:
//!          seq      u64
//!          ordinal  u32
//!          start, end  strings (u32 length, bytes): from start up to, but not including, end
//! ```
//! Pieces of a family have equal bounds or do not overlap. The writer ends a table at
//! [`PIECES_MAX`] of them.

use bytes::Bytes;

use crate::codec::{Decoder, Encode};
use crate::limits::KEY_BYTES_MAX;
use crate::table::properties::FamilyKey;
use crate::tombstone::{Fragments, RangeTombstone};
use crate::types::Family;

/// A table is closed at so many pieces of one family.
pub(crate) const PIECES_MAX: usize = 16 * 1024;

/// The pieces of every family that has some, by family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableTombstones {
    families: Vec<(Family, Fragments)>,
}

impl TableTombstones {
    pub(crate) fn of(families: Vec<(Family, Fragments)>) -> Self {
        Self { families }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.families.is_empty()
    }

    #[inline]
    pub(crate) fn family(&self, family: Family) -> Option<&Fragments> {
        self.families.iter().find(|(f, _)| *f == family).map(|(_, fragments)| fragments)
    }

    pub(crate) fn pieces(&self) -> impl Iterator<Item = (Family, &RangeTombstone)> {
        self.families.iter().flat_map(|(f, pieces)| pieces.pieces().iter().map(|p| (*f, p)))
    }

    /// Memory held, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.families.iter().map(|(_, fragments)| fragments.bytes()).sum()
    }

    /// The smallest and the largest key any of them may hide.
    pub(crate) fn bounds(&self) -> Option<(FamilyKey, FamilyKey)> {
        let (first, first_pieces) = self.families.first()?;
        let (last, last_pieces) = self.families.last()?;
        let smallest = first_pieces.pieces().first()?.start.clone();
        let largest = last_pieces.pieces().last()?.largest();
        let (first, last) = (*first, *last);
        Some((FamilyKey { family: first, key: smallest }, FamilyKey { family: last, key: largest }))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u32(u32::try_from(self.families.len()).expect("six families"));
        for (family, fragments) in &self.families {
            out.put_u8(family.byte());
            out.put_u32(u32::try_from(fragments.pieces().len()).expect("pieces are bounded"));
            for RangeTombstone { start, end, seq, ordinal } in fragments.pieces() {
                out.put_u64(*seq);
                out.put_u32(*ordinal);
                out.put_string(start);
                out.put_string(end);
            }
        }
        out
    }

    pub(crate) fn decode(content: &[u8]) -> Result<Self, &'static str> {
        let mut decoder = Decoder::new(content);
        let families = Self::fields(&mut decoder).ok_or("tombstones are malformed")?;
        let sorted = families.is_sorted_by(|a, b| a.0 < b.0);
        let filled = families.iter().all(|(_, fragments)| !fragments.is_empty());
        if !decoder.is_empty() || !sorted || !filled || families.is_empty() {
            return Err("tombstones are out of order");
        }
        Ok(Self { families })
    }

    fn fields(decoder: &mut Decoder<'_>) -> Option<Vec<(Family, Fragments)>> {
        let mut families = Vec::new();
        // Vectors grow as fields are found, so a wrong count allocates nothing.
        for _ in 0..decoder.u32()? {
            let family = Family::from_byte(decoder.u8()?)?;
            let mut pieces = Vec::new();
            for _ in 0..decoder.u32()? {
                let (seq, ordinal) = (decoder.u64()?, decoder.u32()?);
                let start = Bytes::copy_from_slice(decoder.string(KEY_BYTES_MAX + 1)?);
                let end = Bytes::copy_from_slice(decoder.string(KEY_BYTES_MAX + 1)?);
                pieces.push(RangeTombstone { start, end, seq, ordinal });
            }
            families.push((family, Fragments::from_sorted(pieces)?));
        }
        Some(families)
    }
}
