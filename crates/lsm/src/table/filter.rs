//! A Bloom filter whose bits for one key lie in one cache line.
//!
//! ```text
//! content of the filter block:
//!   0  probes  u32
//!   4  lines   u32
//!   8  lines of 64 bytes
//! ```
//! The upper half of a key's hash chooses the line, multiples of the lower half its bits.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::codec::{Decoder, Encode};
use crate::prefetch::prefetch;
use crate::types::Family;

const LINE_BYTES: usize = 64;
const PROBES_MAX: u32 = 16;
/// 2^32 divided by the golden ratio: consecutive multiples spread evenly over the top bits.
const SPREAD: u32 = 0x9e37_79b9;

/// The hash a filter is asked with; computed once for all tables of a read.
pub(crate) fn key_hash(family: Family, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, u64::from(family.byte()))
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Line([u64; 8]);

impl Line {
    fn decode(bytes: &[u8]) -> Self {
        let mut decoder = Decoder::new(bytes);
        Self(std::array::from_fn(|_| decoder.u64().unwrap_or(0)))
    }
}

/// The filter of a partition. Clones share the bits.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    lines: Arc<[Line]>,
    probes: u32,
}

impl Filter {
    /// The filter of keys with these hashes.
    pub(crate) fn build(hashes: &[u64], bits_per_key: usize) -> Self {
        let bits = hashes.len().saturating_mul(bits_per_key).max(1);
        let lines = bits.div_ceil(LINE_BYTES * 8);
        // ln 2 × bits per key is best for a plain filter; blocks fill unevenly and want less.
        let probes = u32::try_from(bits_per_key * 6 / 10).unwrap_or(PROBES_MAX);
        let probes = probes.clamp(1, PROBES_MAX);
        let mut lines = vec![Line::default(); lines];
        for hash in hashes {
            let at = line_index(*hash, lines.len());
            if let Some(line) = lines.get_mut(at) {
                for bit in bits_of(*hash, probes) {
                    line.0[bit / 64 % 8] |= 1 << (bit % 64);
                }
            }
        }
        Self { lines: lines.into(), probes }
    }

    /// False only if no key with this hash was added.
    #[inline]
    pub(crate) fn may_contain(&self, hash: u64) -> bool {
        if holdfast_env::defect!(BLOOM_FALSE_NEGATIVE) && hash.is_multiple_of(64) {
            return false;
        }
        let Some(line) = self.line(hash) else {
            return true;
        };
        // All bits are looked at: to stop at the first clear one would be a branch that nobody can
        // foretell, taken when the line has come at last.
        let set = |bit: usize| line.0[bit / 64 % 8] >> (bit % 64) & 1;
        bits_of(hash, self.probes).fold(1, |all, bit| all & set(bit)) == 1
    }

    /// Asks for the memory in which a key with this hash is looked for.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        if let Some(line) = self.line(hash) {
            prefetch(line);
        }
    }

    /// Memory held, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.lines.len() * LINE_BYTES
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.bytes());
        out.put_u32(self.probes);
        out.put_u32(u32::try_from(self.lines.len()).expect("a filter is below 256 GiB"));
        for word in self.lines.iter().flat_map(|line| line.0) {
            out.put_u64(word);
        }
        out
    }

    pub(crate) fn decode(content: &[u8]) -> Result<Self, &'static str> {
        let mut decoder = Decoder::new(content);
        let mut head = || Some((decoder.u32()?, decoder.u32()? as usize));
        let (probes, count) = head().ok_or("filter is cut")?;
        if probes == 0 || probes > PROBES_MAX || content.len() != 8 + count * LINE_BYTES {
            return Err("filter has the wrong size");
        }
        let lines = decoder.rest().chunks_exact(LINE_BYTES).map(Line::decode).collect();
        Ok(Self { lines, probes })
    }

    #[inline]
    fn line(&self, hash: u64) -> Option<&Line> {
        self.lines.get(line_index(hash, self.lines.len()))
    }
}

/// Which of `lines` a hash belongs to.
#[inline]
fn line_index(hash: u64, lines: usize) -> usize {
    let scaled = (u128::from(hash) * lines as u128) >> 64;
    usize::try_from(scaled).unwrap_or(usize::MAX)
}

#[inline]
fn bits_of(hash: u64, probes: u32) -> impl Iterator<Item = usize> {
    let mut state = (hash & u64::from(u32::MAX)) as u32;
    (0..probes).map(move |_| {
        state = state.wrapping_mul(SPREAD);
        (state >> 23) as usize
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(from: u64, count: u64) -> Vec<u64> {
        (from..from + count).map(|i| key_hash(Family::Data, &i.to_le_bytes())).collect()
    }

    #[test]
    fn every_added_key_is_found_after_encoding() {
        let added = hashes(0, 10_000);
        let filter = Filter::decode(&Filter::build(&added, 10).encode()).unwrap();
        assert!(added.iter().all(|h| filter.may_contain(*h)));
    }

    #[test]
    fn fewer_than_two_percent_of_missing_keys_pass_ten_bits() {
        let filter = Filter::build(&hashes(0, 100_000), 10);
        let passed = hashes(1 << 40, 100_000).iter().filter(|h| filter.may_contain(**h)).count();
        assert!(passed < 2_000, "{passed} of 100,000 passed");
    }

    #[test]
    fn a_cut_filter_is_refused() {
        let encoded = Filter::build(&hashes(0, 1_000), 10).encode();
        assert!(Filter::decode(&encoded[..encoded.len() - 1]).is_err());
        assert!(Filter::decode(&[]).is_err());
    }
}
