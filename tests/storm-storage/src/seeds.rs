//! Seeds that once failed: the file `seeds`, one `campaign seed reason` a line.

use crate::campaign::{self, Campaign};

/// The kept seeds.
///
/// # Panics
/// If a line is not understood.
pub fn kept() -> Vec<(Campaign, u64)> {
    parse(include_str!("../seeds"))
}

fn parse(text: &str) -> Vec<(Campaign, u64)> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let line = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let campaign = words.next().and_then(campaign::named);
        let seed = words.next().and_then(|word| word.parse().ok());
        match (campaign, seed, words.next()) {
            (Some(campaign), Some(seed), Some(_)) => (campaign, seed),
            _ => panic!("seeds: {line:?} is not `campaign seed reason`"),
        }
    };
    lines.map(line).collect()
}
