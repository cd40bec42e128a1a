//! A half-open arc of the ring.

use std::fmt;

/// The arc `[start, end)` of the ring `0..2^64`; `end == 0` means "to the top".
///
/// A span never wraps: `start < end`, or `end == 0`. The whole ring is `[0, 0)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// First position inside.
    pub start: u64,
    /// First position after it; 0 for the top of the ring.
    pub end: u64,
}

impl Span {
    /// The whole ring.
    pub const ALL: Self = Self { start: 0, end: 0 };

    /// The arc `[start, end)`, or `None` where it would be empty or wrap.
    pub fn new(start: u64, end: u64) -> Option<Self> {
        (end == 0 || start < end).then_some(Self { start, end })
    }

    /// Whether `position` lies in the arc.
    pub fn contains(self, position: u64) -> bool {
        position >= self.start && (self.end == 0 || position < self.end)
    }

    /// `count` equal arcs that cover the ring, in order. `count` must be a power of two.
    ///
    /// # Panics
    /// If `count` is not a power of two between 1 and 65,536.
    pub fn split_ring(count: u32) -> Vec<Self> {
        assert!(count.is_power_of_two() && count <= 65_536, "ranges: power of two, got {count}");
        let width = (1u128 << 64) / u128::from(count);
        (0..u128::from(count))
            .map(|i| {
                let end = (i + 1) * width;
                Self { start: (i * width) as u64, end: if end == 1 << 64 { 0 } else { end as u64 } }
            })
            .collect()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:016x}, {:016x})", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_arcs_cover_the_ring_without_overlap() {
        for count in [1u32, 2, 8, 64, 256] {
            let arcs = Span::split_ring(count);
            assert_eq!(arcs.len(), count as usize);
            assert_eq!(arcs[0].start, 0);
            assert_eq!(arcs[arcs.len() - 1].end, 0);
            for pair in arcs.windows(2) {
                assert_eq!(pair[0].end, pair[1].start);
            }
            for position in [0, 1, u64::MAX / 3, u64::MAX / 2, u64::MAX] {
                assert_eq!(arcs.iter().filter(|a| a.contains(position)).count(), 1);
            }
        }
    }
}
