//! How much of a total each part should have: in proportion to its weight, within its bounds.
//!
//! A node cannot hold two replicas of a range, and a zone that must (or may not) hold a replica of
//! each range has its amount given. What a part cannot take, or must take beyond its weight, is
//! shared among the others by their weights: water-filling.

/// Shares are counted in thousandths of a replica.
pub(crate) const REPLICA: u64 = 1_000;

/// The level of the water is a fixed-point number with so many binary places.
const LEVEL_BITS: u32 = 24;

/// A claimant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Its claim in proportion to the others'; not 0.
    pub weight: u64,
    /// What it gets at least.
    pub min: u64,
    /// What it gets at most.
    pub max: u64,
}

impl Part {
    /// What the part holds when the water stands at `level`.
    fn at(&self, level: u128) -> u64 {
        let filled = (u128::from(self.weight) * level) >> LEVEL_BITS;
        let filled = u64::try_from(filled).unwrap_or(u64::MAX);
        filled.clamp(self.min.min(self.max), self.max)
    }
}

/// Shares of `total`, or all maxima where they are less. Rounding may add a few thousandths.
pub(crate) fn shares(total: u64, parts: &[Part]) -> Vec<u64> {
    let sum = |level: u128| parts.iter().map(|part| u128::from(part.at(level))).sum::<u128>();
    let full = |part: &Part| (u128::from(part.max) << LEVEL_BITS) / u128::from(part.weight) + 1;
    let (mut low, mut high) = (0, parts.iter().map(full).max().unwrap_or(0));
    while low < high {
        let middle = low + (high - low) / 2;
        if sum(middle) < u128::from(total) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    parts.iter().map(|part| part.at(low)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(weight: u64, min: u64, max: u64) -> Part {
        Part { weight, min, max }
    }

    #[test]
    fn without_bounds_shares_are_proportional_to_weights() {
        let parts = [part(1, 0, 9_000), part(2, 0, 9_000), part(3, 0, 9_000)];
        assert_eq!(shares(6_000, &parts), [1_000, 2_000, 3_000]);
    }

    #[test]
    fn what_a_full_part_cannot_take_goes_to_the_others() {
        let parts = [part(8, 0, 1_000), part(1, 0, 1_000), part(1, 0, 1_000)];
        assert_eq!(shares(2_000, &parts), [1_000, 500, 500]);
        assert_eq!(shares(9_000, &parts), [1_000; 3], "there is no more to give");
    }

    #[test]
    fn a_minimum_is_met_at_the_cost_of_the_others() {
        let parts = [part(1, 1_000, 3_000), part(9, 0, 3_000), part(9, 0, 3_000)];
        assert_eq!(shares(2_800, &parts), [1_000, 900, 900]);
    }
}
