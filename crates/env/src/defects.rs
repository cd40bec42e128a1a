//! Seeded defects: mistakes built in on purpose, to show that the tests would notice them.
//!
//! Code asks `if holdfast_env::defect!(SKIP_DIRECTORY_FSYNC) { … }` where it could go wrong.
//! Without the feature `defects` the question is a constant `false` and nothing is left of it;
//! with the feature it looks at a set of the process that [`enable`] and the variable
//! `HOLDFAST_DEFECTS` (names, parted by commas) fill at run time.
//!
//! To add one: a line in the table below, `defect!` at the place, the crate's own feature
//! `defects = ["holdfast-env/defects"]`, and a line in the table of `tests/defects`: which scenario
//! catches it.
//!
//! Invariants:
//! * No default feature and no ordinary dependency switches the feature on (`crates/tidy`).
//! * Every name is in [`ALL`], once, with a sentence that says what goes wrong.

/// The variable that names defects to switch on when the first one is asked for.
pub const VARIABLE: &str = "HOLDFAST_DEFECTS";

/// Whether this program can have defects at all.
pub const COMPILED_IN: bool = cfg!(feature = "defects");

/// One mistake that can be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defect {
    /// What [`enable`] and [`VARIABLE`] call it.
    pub name: &'static str,
    /// What goes wrong.
    pub sentence: &'static str,
    /// Which part of the product makes the mistake.
    pub part: Part,
    number: u32,
}

/// The parts of the product that defects are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Engine and journal: what is on a disk.
    Storage,
    /// The state machine of a range.
    Range,
    /// A replica: consensus, reads, watches.
    Replica,
    /// A node: founding, what it hosts, whom it speaks to.
    Node,
    /// The client library.
    Client,
}

/// A name that no defect has, or defects asked of a program built without them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown(
    /// The name.
    pub String,
);

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = if COMPILED_IN { "there is no such" } else { "built without" };
        write!(f, "{why} defect: {:?}", self.0)
    }
}

impl std::error::Error for Unknown {}

macro_rules! table {
    ($($part:ident { $($constant:ident = $name:literal: $sentence:literal;)* })*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Number { $($($constant),*),* }

        $($(
            #[doc = $sentence]
            pub const $constant: Defect = Defect {
                name: $name,
                sentence: $sentence,
                part: Part::$part,
                number: Number::$constant as u32,
            };
        )*)*

        /// Every defect there is.
        pub const ALL: &[Defect] = &[$($($constant),*),*];
    };
}

table! {
    Storage {
        SKIP_DIRECTORY_FSYNC = "skip-directory-fsync":
            "The engine and the journal do not sync a directory after creating or renaming in it.";
        ACKNOWLEDGE_BEFORE_FSYNC = "acknowledge-before-fsync":
            "The journal calls back and counts as durable what it has written but not synced.";
        ACCEPT_TORN_RECORD = "accept-torn-record":
            "Recovery of the journal steps over a broken record and goes on behind it.";
        CHECKSUM_WITHOUT_POSITION = "checksum-without-position":
            "Checksums of the engine do not cover the file and the offset a block belongs to.";
        ENGINE_AHEAD_OF_JOURNAL = "engine-ahead-of-journal":
            "The engine flushes a memtable although the journal is not durable up to its gate.";
        RENAME_BEFORE_SYNC = "rename-before-sync":
            "A new manifest gets its name before its content is synced.";
        BLOOM_FALSE_NEGATIVE = "bloom-false-negative":
            "The filter denies one key in sixty-four that was added to it.";
        TOMBSTONE_DROPPED_EARLY = "tombstone-dropped-early":
            "A compaction drops a tombstone although an older version lies beneath it.";
        FAILED_FSYNC_RETRIED = "failed-fsync-retried":
            "A sync of the journal that failed is tried again, and the second one is believed.";
    }
    Range {
        RETRY_APPLIED_AGAIN = "retry-applied-again":
            "A retried mutation is carried out again, although its session remembers the answer.";
        SESSION_OPENED_ANEW = "session-opened-anew":
            "Opening a session that is open begins it anew and forgets its answers.";
        CLOSED_SESSION_REOPENED = "closed-session-reopened":
            "The id of a session that has ended can be opened again.";
        SESSION_ANSWERS_NOT_STORED = "session-answers-not-stored":
            "Answers of sessions are kept in memory alone and are gone after a restart.";
        SESSIONS_KEPT_OVER_SNAPSHOT = "sessions-kept-over-snapshot":
            "A replica that has installed a snapshot goes on with the sessions it had before.";
        LOCK_GRANTED_AFTER_EXPIRY = "lock-granted-after-expiry":
            "A lock is handed on to a waiter whose own time has run out.";
        LOCK_GRANTED_TO_TWO = "lock-granted-to-two":
            "A stale token releases a lock that its owner was granted anew.";
        LEASE_ENDS_AT_FIRST_EXPIRY = "lease-ends-by-its-first-expiry":
            "A renewed lease ends when it would have ended without renewals.";
        WATCH_LOSES_COMPACTED = "watch-loses-compacted":
            "History that was compacted away is told as if nothing had happened in it.";
        EXPIRY_INDEX_KEPT = "expiry-index-kept":
            "A later put leaves the earlier expiry of its key in the index.";
    }
    Replica {
        VOTER_FORGETS_LEASE = "voter-forgets-lease":
            "A restarted voter votes at once, whatever lease it granted before.";
        LEASE_WITHOUT_DRIFT_MARGIN = "lease-without-drift-margin":
            "A leader trusts its lease to the end, as if all clocks ran alike.";
        FOLLOWER_READ_BEFORE_APPLY = "follower-read-before-apply":
            "A linearizable read knows its index and does not wait until it is applied.";
        READ_INDEX_WITHOUT_QUORUM = "read-index-without-quorum":
            "A leader gives out read indexes without asking a quorum whether it still leads.";
        READ_JOINS_ROUND_UNDER_WAY = "read-joins-round-under-way":
            "A read takes the answer of a round that began before it arrived.";
        BOUND_FROM_END_OF_ROUND = "bound-from-end-of-round":
            "A staleness bound counts from the end of the round that proves it.";
        TOKEN_NOT_AWAITED = "token-not-awaited":
            "A read that brings a read point is answered before the point is reached.";
        TTL_BY_LOCAL_CLOCK = "ttl-by-local-clock":
            "A leader stamps entries with its own wall clock.";
        VOTE_NOT_DURABLE = "vote-not-durable":
            "A vote is given before it is on the disk.";
        PRE_VOTE_STUB = "pre-vote-stub":
            "Every pre-vote is granted.";
        DEPOSED_LEADER_HEARD = "deposed-leader-heard":
            "A message of a deposed leader counts as one of the leader.";
        PURGE_BEFORE_DURABLE = "purge-before-durable":
            "What is applied counts as durable where the log is purged.";
        SNAPSHOT_INSTALL_NOT_ATOMIC = "snapshot-install-not-atomic":
            "The engine names a snapshot's files as its own before they are in place.";
        WATCH_REPLAYS_AFTER_SNAPSHOT = "watch-replays-after-snapshot":
            "A watch that reads history again, as after a snapshot, begins at its beginning.";
        WATCH_LOSES_WHEN_FULL = "watch-loses-when-full":
            "Events that find the buffer of a watch full are dropped.";
        RENEWAL_BEYOND_LOG = "renewal-beyond-log":
            "A lease renewed a moment ago is answered with its whole time again, without an entry.";
    }
    Node {
        WIPED_FOUNDER_FOUNDS_AGAIN = "wiped-founder-founds-again":
            "An empty node founds a cluster although its seeds belong to one.";
        REPLICA_DELETED_ON_NEGATIVE_EVIDENCE = "replica-deleted-on-negative-evidence":
            "A node destroys replicas that its copy of range 0 does not name.";
        NODE_ID_REUSED = "node-id-reused":
            "A node with another data directory is taken for the one whose id it has.";
    }
    Client {
        UNKNOWN_OUTCOME_REPEATED = "unknown-outcome-repeated":
            "A call whose outcome is unknown is made again though no range would recognise it.";
        REFUSAL_DECIDES_UNKNOWN = "refusal-decides-unknown":
            "A refusal of a later attempt is told as the outcome of an earlier unknown one.";
    }
}

// The set is one word.
const _: () = assert!(ALL.len() <= 64, "one bit per defect");

/// The defects of one part of the product.
pub fn of(part: Part) -> impl Iterator<Item = Defect> {
    ALL.iter().copied().filter(move |defect| defect.part == part)
}

/// The defect called `name`.
///
/// # Errors
/// [`Unknown`].
pub fn named(name: &str) -> Result<Defect, Unknown> {
    let found = ALL.iter().find(|defect| COMPILED_IN && defect.name == name);
    found.copied().ok_or_else(|| Unknown(name.to_owned()))
}

/// Switches the defect called `name` on, for the whole process.
///
/// # Errors
/// [`Unknown`].
pub fn enable(name: &str) -> Result<(), Unknown> {
    set::change(named(name)?, true);
    Ok(())
}

/// Switches the defect called `name` off.
///
/// # Errors
/// [`Unknown`].
pub fn disable(name: &str) -> Result<(), Unknown> {
    set::change(named(name)?, false);
    Ok(())
}

/// Whether `defect` is switched on; what [`defect!`](crate::defect) asks.
#[cfg(feature = "defects")]
pub fn is_on(defect: Defect) -> bool {
    set::bits() & 1 << defect.number != 0
}

/// Whether `defect` is switched on: never, in a program built without the feature.
#[cfg(not(feature = "defects"))]
#[inline(always)]
pub const fn is_on(_: Defect) -> bool {
    false
}

#[cfg(feature = "defects")]
mod set {
    //! The defects that are on, one bit each.

    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Defect, VARIABLE, named};

    static SET: OnceLock<AtomicU64> = OnceLock::new();

    fn set() -> &'static AtomicU64 {
        SET.get_or_init(|| {
            let names = std::env::var(VARIABLE).unwrap_or_default();
            let asked = names.split(',').map(str::trim).filter(|name| !name.is_empty());
            let bit = |name| match named(name) {
                Ok(defect) => 1 << defect.number,
                // A misspelt name would make a run that shows nothing look like proof.
                Err(unknown) => panic!("{VARIABLE}: {unknown}"),
            };
            AtomicU64::new(asked.map(bit).fold(0, |bits: u64, bit: u64| bits | bit))
        })
    }

    pub(super) fn bits() -> u64 {
        set().load(Ordering::Relaxed)
    }

    pub(super) fn change(defect: Defect, is_on: bool) {
        let bit = 1 << defect.number;
        if is_on {
            set().fetch_or(bit, Ordering::Relaxed);
        } else {
            set().fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

#[cfg(not(feature = "defects"))]
mod set {
    //! Nothing can be switched on.

    pub(super) fn change(defect: super::Defect, _: bool) {
        unreachable!("{} was found although it is not compiled in", defect.name);
    }
}

/// Whether the seeded defect `NAME` of [`defects`](crate::defects) is switched on; a constant
/// `false` without the feature `defects`.
#[macro_export]
macro_rules! defect {
    ($name:ident) => {
        $crate::defects::is_on($crate::defects::$name)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_defect_says_what_goes_wrong() {
        for (at, defect) in ALL.iter().enumerate() {
            assert_eq!(defect.number as usize, at);
            assert!(ALL.iter().skip(at + 1).all(|other| other.name != defect.name));
            assert!(defect.sentence.ends_with('.'), "{}", defect.name);
        }
    }

    #[test]
    #[cfg(not(feature = "defects"))]
    fn nothing_can_be_switched_on_without_the_feature() {
        for defect in ALL {
            assert_eq!(enable(defect.name), Err(Unknown(defect.name.to_owned())));
            assert!(!is_on(*defect));
        }
    }

    #[test]
    #[cfg(feature = "defects")]
    fn a_defect_is_on_from_its_enabling_to_its_disabling_and_no_other_with_it() {
        assert!(enable("no-such").is_err());
        assert!(!crate::defect!(BLOOM_FALSE_NEGATIVE));
        enable("bloom-false-negative").unwrap();
        assert!(crate::defect!(BLOOM_FALSE_NEGATIVE));
        assert!(!crate::defect!(RENAME_BEFORE_SYNC));
        disable("bloom-false-negative").unwrap();
        assert!(!crate::defect!(BLOOM_FALSE_NEGATIVE));
    }
}
