//! How many bytes of a table expire when, roughly.
//!
//! ```text
//! 0  shift    u8    buckets are 2^shift ms wide
//! 1  buckets  u8    at most 32
//! 2  per bucket, in order:
//!      number  u64   expiry in ms, divided by the width
//!      bytes   u64   keys and values before compression
//! ```
//! It only tells where compactions are worth their while. What a reader sees, and what may be
//! dropped, is decided by the records alone.

use crate::codec::{Decoder, Encode};

const BUCKETS_MAX: usize = 32;
const SHIFT_MAX: u8 = 63;

/// Bytes by the time they expire, in buckets of equal width.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExpiryHistogram {
    shift: u8,
    /// Number and bytes, by number.
    buckets: Vec<(u64, u64)>,
}

impl ExpiryHistogram {
    /// Counts `bytes` that expire at `at_ms`.
    pub(crate) fn add(&mut self, at_ms: u64, bytes: u64) {
        let number = at_ms >> self.shift;
        match self.buckets.binary_search_by_key(&number, |b| b.0) {
            Ok(at) => self.buckets[at].1 += bytes,
            Err(at) => self.buckets.insert(at, (number, bytes)),
        }
        while self.buckets.len() > BUCKETS_MAX && self.shift < SHIFT_MAX {
            self.widen();
        }
    }

    /// Joins every two neighbouring buckets.
    fn widen(&mut self) {
        self.shift += 1;
        let mut wide: Vec<(u64, u64)> = Vec::with_capacity(BUCKETS_MAX + 1);
        for (number, bytes) in self.buckets.drain(..) {
            match wide.last_mut() {
                Some(last) if last.0 == number >> 1 => last.1 += bytes,
                _ => wide.push((number >> 1, bytes)),
            }
        }
        self.buckets = wide;
    }

    /// Bytes in buckets that have expired as a whole at range time `clock_ms`.
    pub(crate) fn expired_bytes(&self, clock_ms: u64) -> u64 {
        let behind = u128::from(clock_ms) + 1;
        let is_over = |(number, _): &&(u64, u64)| (u128::from(*number) + 1) << self.shift <= behind;
        self.buckets.iter().take_while(is_over).map(|(_, bytes)| bytes).sum()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.shift);
        out.put_u8(u8::try_from(self.buckets.len()).expect("at most 32 buckets"));
        for (number, bytes) in &self.buckets {
            out.put_u64(*number);
            out.put_u64(*bytes);
        }
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Option<Self> {
        let (shift, count) = (decoder.u8()?, decoder.u8()?);
        let mut buckets = Vec::new();
        for _ in 0..count {
            buckets.push((decoder.u64()?, decoder.u64()?));
        }
        let is_sound = shift <= SHIFT_MAX
            && buckets.len() <= BUCKETS_MAX
            && buckets.is_sorted_by(|a, b| a.0 < b.0)
            && buckets.iter().try_fold(0u64, |sum, (_, bytes)| sum.checked_add(*bytes)).is_some();
        is_sound.then_some(Self { shift, buckets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expired_bytes_are_never_more_than_have_expired_and_all_of_them_in_the_end() {
        let mut histogram = ExpiryHistogram::default();
        let times: Vec<u64> = (0..5_000).map(|n| 1_000_000 + n * n % 90_000).collect();
        times.iter().for_each(|at| histogram.add(*at, 10));
        assert!(histogram.buckets.len() <= BUCKETS_MAX && histogram.buckets.len() > 8);
        let mut last = 0;
        for clock_ms in (990_000..1_200_000).step_by(1_000) {
            let expired = histogram.expired_bytes(clock_ms);
            let truly = 10 * times.iter().filter(|at| **at <= clock_ms).count() as u64;
            assert!(last <= expired && expired <= truly, "{clock_ms}: {expired} of {truly}");
            last = expired;
        }
        assert_eq!(last, 50_000);
        histogram.add(u64::MAX, 1);
        histogram.add(0, 1);
        assert_eq!(histogram.expired_bytes(u64::MAX), 50_002);
    }

    #[test]
    fn histogram_is_read_as_it_was_written_and_one_out_of_order_is_refused() {
        let mut histogram = ExpiryHistogram::default();
        (0..100).for_each(|n| histogram.add(n * 77, n));
        let mut bytes = Vec::new();
        histogram.encode(&mut bytes);
        assert_eq!(ExpiryHistogram::decode(&mut Decoder::new(&bytes)), Some(histogram));
        let twice = [&[0, 2][..], &[0; 32]].concat();
        assert_eq!(ExpiryHistogram::decode(&mut Decoder::new(&twice)), None);
        bytes[0] = 64;
        assert_eq!(ExpiryHistogram::decode(&mut Decoder::new(&bytes)), None);
    }
}
