//! How long a token lives: a while after it was made, and a while after every use on this node.
//!
//! etcd's simple tokens live on with every use, wherever they are used. Here a node knows only the
//! uses it has seen, at most [`USES_MAX`] of them twice; where it has seen none, the time the token
//! was made counts. Clients authenticate again by themselves.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::token::{Seal, Statement};

/// Uses of different tokens that are kept together before the oldest half is forgotten.
const USES_MAX: usize = 16_384;

/// When tokens were used last.
#[derive(Debug)]
pub(super) struct Tokens {
    time_to_live: Duration,
    /// Locked for a look-up and an insertion; every request of a keyspace with users does both.
    uses: Mutex<Uses>,
}

/// Two generations: what was not used while the newer one lasted is forgotten with the older one.
#[derive(Debug, Default)]
struct Uses {
    began: Duration,
    newer: HashMap<Seal, Duration>,
    older: HashMap<Seal, Duration>,
}

impl Tokens {
    pub fn new(time_to_live: Duration) -> Self {
        Self { time_to_live, uses: Mutex::default() }
    }

    /// Whether a token lives at wall time `wall`; if so, it was used `now`, a monotonic time.
    pub fn is_alive(&self, said: &Statement, seal: Seal, wall: Duration, now: Duration) -> bool {
        let age = wall.saturating_sub(Duration::from_millis(said.issued_ms));
        let mut uses = self.uses.lock();
        let is_fresh = |last: Duration| now.saturating_sub(last) < self.time_to_live;
        let is_alive = age < self.time_to_live || uses.last(&seal).is_some_and(is_fresh);
        if is_alive {
            uses.note(seal, now, self.time_to_live);
        }
        is_alive
    }
}

impl Uses {
    fn last(&self, seal: &Seal) -> Option<Duration> {
        self.newer.get(seal).or_else(|| self.older.get(seal)).copied()
    }

    fn note(&mut self, seal: Seal, now: Duration, lasts: Duration) {
        if self.newer.len() >= USES_MAX || now.saturating_sub(self.began) >= lasts {
            self.older = std::mem::take(&mut self.newer);
            self.began = now;
        }
        self.newer.insert(seal, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(300);

    fn statement(issued_ms: u64) -> Statement {
        Statement { user: "u".into(), revision: 1, issued_ms, nonce: 0 }
    }

    fn seal(number: usize) -> Seal {
        let mut seal = [0; 32];
        seal[..8].copy_from_slice(&number.to_le_bytes());
        seal
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_lives_on_while_it_is_used_and_ends_when_it_is_not() {
        let tokens = Tokens::new(LIFE);
        let said = statement(0);
        for now in [0, 299, 598, 800] {
            assert!(tokens.is_alive(&said, seal(1), at(now), at(now)), "{now}");
        }
        assert!(!tokens.is_alive(&said, seal(1), at(1_100), at(1_100)));
        assert!(!tokens.is_alive(&said, seal(2), at(300), at(300)), "it was never used here");
    }

    #[test]
    fn a_wall_clock_that_jumps_ahead_ends_no_token_in_use() {
        let tokens = Tokens::new(LIFE);
        assert!(tokens.is_alive(&statement(0), seal(1), at(1), at(1)));
        assert!(tokens.is_alive(&statement(0), seal(1), at(10_000), at(2)));
    }

    #[test]
    fn no_more_uses_are_kept_than_may_be() {
        let tokens = Tokens::new(LIFE);
        for number in 0..3 * USES_MAX {
            assert!(tokens.is_alive(&statement(0), seal(number), at(1), at(1)));
        }
        let uses = tokens.uses.lock();
        assert!(uses.newer.len() <= USES_MAX && uses.older.len() <= USES_MAX);
        drop(uses);
        assert!(!tokens.is_alive(&statement(0), seal(0), at(400), at(2)), "it is forgotten");
    }
}
