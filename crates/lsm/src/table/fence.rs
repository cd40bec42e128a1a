//! Sorted keys, packed so that a search among them touches few cache lines.
//!
//! Most of a search runs over eight bytes of each key behind what all of them have in common,
//! eight keys to a cache line; whole keys are compared only where those are equal.

use std::ops::Range;

use crate::table::builder::shared_prefix;

/// Keys one behind the other, in no form to be searched.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    pub(crate) fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, number: usize) -> &[u8] {
        let start = number.checked_sub(1).and_then(|before| self.ends.get(before));
        let end = self.ends.get(number).copied().unwrap_or(0);
        self.bytes.get(start.copied().unwrap_or(0)..end).unwrap_or_default()
    }
}

/// Sorted keys in a form to be searched: 12 bytes for each, and what it does not share with all.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    common: Box<[u8]>,
    heads: Box<[u64]>,
    rests: Box<[u8]>,
    ends: Box<[u32]>,
}

impl Fence {
    /// The keys with these numbers, which must be sorted.
    pub(crate) fn new(keys: &Keys, numbers: Range<usize>) -> Self {
        let (first, last) = (numbers.start, numbers.end.saturating_sub(1));
        let common = match numbers.is_empty() {
            true => 0,
            false => shared_prefix(keys.get(first), keys.get(last)),
        };
        let rest = |number| keys.get(number).get(common..).unwrap_or_default();
        let heads = numbers.clone().map(|n| head(rest(n))).collect();
        let mut rests = Vec::new();
        let mut ends = Vec::with_capacity(numbers.len());
        for number in numbers {
            rests.extend_from_slice(rest(number));
            ends.push(u32::try_from(rests.len()).expect("keys of a fence are below 4 GiB"));
        }
        let common = keys.get(first).get(..common).unwrap_or_default().into();
        Self { common, heads, rests: rests.into(), ends: ends.into() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Memory held, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.common.len()
            + self.rests.len()
            + self.heads.len() * (size_of::<u64>() + size_of::<u32>())
    }

    /// The first key at or after `key`; the number of keys if there is none.
    #[inline]
    pub(crate) fn seek(&self, key: &[u8]) -> usize {
        // Seldom anything else; and a call to compare a few bytes costs more than this.
        if shared_prefix(key, &self.common) < self.common.len() {
            return if *key < *self.common { 0 } else { self.heads.len() };
        }
        let rest = key.get(self.common.len()..).unwrap_or_default();
        let wanted = head(rest);
        let low = self.heads.partition_point(|head| *head < wanted);
        match self.heads.get(low) {
            Some(head) if *head == wanted => self.seek_equal(low, wanted, rest),
            _ => low,
        }
    }

    /// Goes on among keys with the head `wanted`, of which `low` is the first.
    fn seek_equal(&self, low: usize, wanted: u64, rest: &[u8]) -> usize {
        let equal = self.heads.get(low..).unwrap_or_default();
        let mut high = low + equal.partition_point(|head| *head == wanted);
        let mut low = low;
        while low < high {
            let middle = low.midpoint(high);
            if self.rest(middle) < rest {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Whether the key with this number is `key`.
    pub(crate) fn is_key(&self, number: usize, key: &[u8]) -> bool {
        key.strip_prefix(&*self.common).is_some_and(|rest| self.rest(number) == rest)
    }

    /// The key with this number.
    pub(crate) fn key(&self, number: usize) -> Vec<u8> {
        [&*self.common, self.rest(number)].concat()
    }

    fn rest(&self, number: usize) -> &[u8] {
        let end = |n: usize| self.ends.get(n).map_or(0, |end| *end as usize);
        let start = number.checked_sub(1).map_or(0, end);
        self.rests.get(start..end(number)).unwrap_or_default()
    }
}

/// The first eight bytes as a number; of unequal numbers the smaller has the smaller bytes.
#[inline]
fn head(bytes: &[u8]) -> u64 {
    match bytes.first_chunk::<8>() {
        Some(first) => u64::from_be_bytes(*first),
        None => short_head(bytes),
    }
}

fn short_head(bytes: &[u8]) -> u64 {
    let mut padded = [0; 8];
    for (to, from) in padded.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_be_bytes(padded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seek_finds_the_first_key_at_or_after_a_key() {
        let sorted = ["ab", "ab/1", "ab/12345678", "ab/123456789", "ab/2", "ab/2", "abz", "abz\0"];
        let mut keys = Keys::default();
        sorted.iter().for_each(|key| keys.push(key.as_bytes()));
        for numbers in [0..8, 1..6, 2..4, 3..4, 4..4] {
            let fence = Fence::new(&keys, numbers.clone());
            let around = [&b""[..], b"a", b"ab", b"ab/", b"ab/123456780", b"ab/3", b"abz", b"b"];
            for key in around.into_iter().chain(sorted.iter().map(|k| k.as_bytes())) {
                let expected = numbers.clone().position(|n| keys.get(n) >= key);
                let expected = expected.unwrap_or(numbers.len());
                assert_eq!(fence.seek(key), expected, "{key:?} in {numbers:?}");
                for (number, of_keys) in numbers.clone().enumerate() {
                    assert_eq!(fence.is_key(number, key), keys.get(of_keys) == key);
                }
            }
        }
    }
}
