//! Seeded random numbers: xoshiro256** (Blackman and Vigna), seeded through SplitMix64.
//!
//! Own code, forty lines long, because the stream behind a seed must never change with the
//! version of a dependency: a seed in a bug report has to find the same run years later.

use parking_lot::Mutex;

use crate::Entropy;

/// One step of SplitMix64: spreads any seed over all 64 bits.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of pseudo-random numbers, decided by its seed alone.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The stream of `seed`. Neighbouring seeds give unrelated streams.
    pub fn new(seed: u64) -> Self {
        let mut mix = seed;
        Self { state: std::array::from_fn(|_| split_mix(&mut mix)) }
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number in `0..bound`; 0 where `bound` is 0. The bias is below `bound / 2^64`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True in `percent` of 100 cases: never for 0, always from 100 on.
    pub fn chance(&mut self, percent: u8) -> bool {
        self.below(100) < u64::from(percent)
    }

    /// `bytes` with one to four changes: a bit, a byte at the edge of its range, a number there,
    /// a piece repeated or left out, an early end. For decoders that shall survive what is near
    /// to what they know.
    pub fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(out.len() as u64 + 1) as usize;
            let count = 1 + self.below(16) as usize;
            let end = (at + count).min(out.len());
            match self.below(6) {
                0 if at < out.len() => out[at] ^= 1 << self.below(8),
                1 if at < out.len() => out[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5) as usize],
                2 if at + 4 <= out.len() => {
                    let number =
                        [0, 1, u32::MAX, 1 << 31, self.u64() as u32][self.below(5) as usize];
                    out[at..at + 4].copy_from_slice(&number.to_le_bytes());
                }
                3 => {
                    let piece = out[at..end].to_vec();
                    out.splice(at..at, piece);
                }
                4 => drop(out.drain(at..end)),
                5 if self.below(4) == 0 => out.truncate(at),
                _ => {}
            }
        }
        out
    }

    /// Fills `buffer`, eight bytes a step.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// [`Entropy`] out of a seed. Calls from several threads are serialised, their order is theirs.
#[derive(Debug)]
pub struct SimEntropy {
    random: Mutex<Random>,
}

impl SimEntropy {
    /// The source of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { random: Mutex::new(Random::new(seed)) }
    }

    /// A source of its own for a part of the simulation, so that one part's appetite does not
    /// shift what the others draw.
    pub fn fork(&self) -> Self {
        Self::new(self.random.lock().u64())
    }
}

impl Entropy for SimEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        self.random.lock().fill(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_never_changes() {
        // Seed 0 of SplitMix64 as published with the algorithm.
        let mut seed = 0;
        assert_eq!(split_mix(&mut seed), 0xe220_a839_7b1d_cdaf);
        assert_eq!(split_mix(&mut seed), 0x6e78_9e6a_a1b9_65f4);
        let mut random = Random { state: [1, 2, 3, 4] };
        let drawn: Vec<u64> = (0..4).map(|_| random.u64()).collect();
        // xoshiro256** from the state 1, 2, 3, 4, as in the reference tests of rand_xoshiro.
        assert_eq!(drawn, [11520, 0, 1509978240, 1215971899390074240]);
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_every_value() {
        let mut random = Random::new(7);
        let mut seen = [false; 10];
        for _ in 0..1_000 {
            seen[usize::try_from(random.below(10)).unwrap()] = true;
        }
        assert_eq!(seen, [true; 10]);
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn zero_percent_never_happens_and_hundred_percent_always() {
        let mut random = Random::new(1);
        assert!((0..1_000).all(|_| !random.chance(0)));
        assert!((0..1_000).all(|_| random.chance(100)));
        let half = (0..10_000).filter(|_| random.chance(50)).count();
        assert!((4_500..5_500).contains(&half), "{half}");
    }

    #[test]
    fn forks_draw_their_own_streams() {
        let (one, two) = (SimEntropy::new(5), SimEntropy::new(5));
        let (fork_one, fork_two) = (one.fork(), two.fork());
        one.u128();
        assert_eq!(fork_one.u64(), fork_two.u64());
        assert_ne!(one.u64(), two.u64(), "one of them is two draws ahead");
    }
}
