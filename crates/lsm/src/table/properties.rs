//! What is known of a table without reading its blocks.
//!
//! ```text
//! content of the properties block:
//!   0  floor           u64   watermark the table was written with
//!   8  garbage         u64   records that can go once the watermark has passed
//!  16  reclaimable_at  u64   … this revision
//!  24  span_epoch      u64   epoch of the span it was written with, 0 for none
//!  32  ranges          u64   pieces of range tombstones
//!  40  ranges_gone_at  u64   all of them can go once the watermark has reached this revision
//!  48  families        u32
//!  52  per family, in order:
//!        family        u8
//!        blocks        u32   how many data blocks it has, behind those of the families before
//!        records, tombstones, raw_bytes, seq_min, seq_max   u64 each
//!        key_min, key_max   strings (u32 length, bytes)
//!   …  blobs           u32
//!   …  per blob file the table refers to, in order:
//!        file, bytes   u64 each   its number, bytes of the values referred to, as stored
//!   …  expiry histogram   (`expiry.rs`)
//! ```

use bytes::Bytes;

use crate::codec::{Decoder, Encode};
use crate::limits::KEY_BYTES_MAX;
use crate::table::expiry::ExpiryHistogram;
use crate::types::Family;

/// A key with its family: what tables are ordered by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FamilyKey {
    pub(crate) family: Family,
    pub(crate) key: Bytes,
}

/// What a table holds of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FamilyProperties {
    pub(crate) family: Family,
    pub(crate) blocks: u32,
    pub(crate) records: u64,
    pub(crate) tombstones: u64,
    /// Keys and values before compression.
    pub(crate) raw_bytes: u64,
    pub(crate) seq_min: u64,
    pub(crate) seq_max: u64,
    pub(crate) key_min: Bytes,
    pub(crate) key_max: Bytes,
}

/// What a table refers to in a blob file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlobUse {
    pub(crate) file: u64,
    pub(crate) bytes: u64,
}

/// The properties of a table; families without records are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    pub(crate) floor: u64,
    pub(crate) garbage: u64,
    pub(crate) reclaimable_at: u64,
    pub(crate) span_epoch: u64,
    pub(crate) ranges: u64,
    pub(crate) ranges_gone_at: u64,
    pub(crate) families: Vec<FamilyProperties>,
    pub(crate) blobs: Vec<BlobUse>,
    /// What expires when of the data; values that stay in blob files are not counted.
    pub(crate) expiry: ExpiryHistogram,
}

impl Properties {
    pub(crate) fn records(&self) -> u64 {
        self.families.iter().map(|f| f.records).sum()
    }

    /// Tombstones of data keys.
    pub(crate) fn tombstones(&self) -> u64 {
        let data = self.families.iter().filter(|f| f.family.keeps_versions());
        data.map(|f| f.tombstones).sum()
    }

    /// Counts a piece of a range tombstone.
    pub(crate) fn count_range(&mut self, family: Family, seq: u64) {
        self.ranges += 1;
        if family.keeps_versions() {
            self.ranges_gone_at = self.ranges_gone_at.max(seq.saturating_add(1));
        }
    }

    /// Counts a reference the table holds.
    pub(crate) fn count_blob(&mut self, file: u64, bytes: u64) {
        match self.blobs.binary_search_by_key(&file, |b| b.file) {
            Ok(at) => self.blobs[at].bytes += bytes,
            Err(at) => self.blobs.insert(at, BlobUse { file, bytes }),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u64(self.floor);
        out.put_u64(self.garbage);
        out.put_u64(self.reclaimable_at);
        out.put_u64(self.span_epoch);
        out.put_u64(self.ranges);
        out.put_u64(self.ranges_gone_at);
        out.put_u32(u32::try_from(self.families.len()).expect("six families"));
        for f in &self.families {
            out.put_u8(f.family.byte());
            out.put_u32(f.blocks);
            for number in [f.records, f.tombstones, f.raw_bytes, f.seq_min, f.seq_max] {
                out.put_u64(number);
            }
            out.put_string(&f.key_min);
            out.put_string(&f.key_max);
        }
        out.put_u32(u32::try_from(self.blobs.len()).expect("blob files are few"));
        for BlobUse { file, bytes } in &self.blobs {
            out.put_u64(*file);
            out.put_u64(*bytes);
        }
        self.expiry.encode(&mut out);
        out
    }

    pub(crate) fn decode(content: &[u8]) -> Result<Self, &'static str> {
        let mut decoder = Decoder::new(content);
        let properties = Self::fields(&mut decoder).ok_or("properties are cut")?;
        let sorted = properties.families.is_sorted_by(|a, b| a.family < b.family);
        let is_empty = properties.families.is_empty() && properties.ranges == 0;
        if !decoder.is_empty() || !sorted || is_empty {
            return Err("properties are malformed");
        }
        Ok(properties)
    }

    fn fields(decoder: &mut Decoder<'_>) -> Option<Self> {
        let mut properties = Self {
            floor: decoder.u64()?,
            garbage: decoder.u64()?,
            reclaimable_at: decoder.u64()?,
            span_epoch: decoder.u64()?,
            ranges: decoder.u64()?,
            ranges_gone_at: decoder.u64()?,
            families: Vec::new(),
            blobs: Vec::new(),
            expiry: ExpiryHistogram::default(),
        };
        let count = decoder.u32()? as usize;
        for _ in 0..count.min(Family::COUNT) {
            properties.families.push(FamilyProperties {
                family: Family::from_byte(decoder.u8()?)?,
                blocks: decoder.u32()?,
                records: decoder.u64()?,
                tombstones: decoder.u64()?,
                raw_bytes: decoder.u64()?,
                seq_min: decoder.u64()?,
                seq_max: decoder.u64()?,
                key_min: Bytes::copy_from_slice(decoder.string(KEY_BYTES_MAX)?),
                key_max: Bytes::copy_from_slice(decoder.string(KEY_BYTES_MAX)?),
            });
        }
        for _ in 0..decoder.u32()? {
            properties.blobs.push(BlobUse { file: decoder.u64()?, bytes: decoder.u64()? });
        }
        properties.expiry = ExpiryHistogram::decode(decoder)?;
        Some(properties)
    }
}
