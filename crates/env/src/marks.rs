//! Rare states, marked where the code passes through them, to show that a campaign got there.
//!
//! Code says `holdfast_env::sometimes!(SNAPSHOT_INSTALLED)` where something happens that tests
//! must bring about now and then. Nobody listens in an ordinary process: one relaxed load of a
//! constant `false` is all that is left, on paths that are rare. A simulation [`listen`]s on its
//! own thread, on which everything of it happens.
//!
//! Invariants:
//! * Every name is in [`ALL`], once, with a sentence that says what happened.
//! * A mark changes nothing, whether somebody listens or not.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One rare state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What reports call it.
    pub name: &'static str,
    /// What happened.
    pub sentence: &'static str,
    number: usize,
}

macro_rules! table {
    ($($constant:ident = $name:literal: $sentence:literal;)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Number { $($constant),* }

        $(
            #[doc = $sentence]
            pub const $constant: Mark = Mark {
                name: $name,
                sentence: $sentence,
                number: Number::$constant as usize,
            };
        )*

        /// Every mark there is.
        pub const ALL: &[Mark] = &[$($constant),*];
    };
}

table! {
    VOTE_REFUSED_BY_BOOT_DELAY = "vote refused by boot delay":
        "A voter was asked for its vote before the leases it may have granted had run out.";
    PRE_VOTE_REFUSED = "pre-vote refused":
        "A campaign ended before it began: a voter would not have voted for the candidate.";
    VOTE_REFUSED = "vote refused":
        "A voter refused its vote: the candidate's log was behind, or it had voted.";
    CONFLICT_TRUNCATED = "conflicting entries truncated":
        "A follower cut entries off that another leader had never committed.";
    SNAPSHOT_INSTALLED = "snapshot installed":
        "A replica took its state from a snapshot.";
    SNAPSHOT_RESUMED = "snapshot resumed":
        "A transfer found parts of its snapshot that had arrived before.";
    READ_ROUND_SHARED = "read round shared":
        "Several reads joined one round.";
    LEADERSHIP_TRANSFERRED = "leadership transferred":
        "A leader handed over to a voter that had caught up.";
    DUPLICATE_ANSWERED = "duplicate answered from session":
        "A retry found the outcome of the first try.";
    WATCH_READ_HISTORY = "watch read history":
        "A watch that was behind went on from what the engine holds.";
    WRITE_SLOWED = "write slowed":
        "A write had to wait, for flushes and compactions were behind.";
    TORN_TAIL_RECOVERED = "torn tail recovered":
        "A batch that a crash had torn was cut off the journal.";
    REPLICA_RETIRED = "replica retired":
        "A replica was found damaged and taken out of service for good.";
}

/// Listeners of the process.
static LISTENERS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static COUNTS: RefCell<Option<Vec<u64>>> = const { RefCell::new(None) };
}

/// Counts the marks that its thread passes, while it lives.
#[derive(Debug)]
pub struct Listener(());

/// Listens on this thread; one listener at a time.
pub fn listen() -> Listener {
    COUNTS.set(Some(vec![0; ALL.len()]));
    LISTENERS.fetch_add(1, Ordering::Relaxed);
    Listener(())
}

impl Listener {
    /// Every mark with how often it was passed, in the order of [`ALL`].
    pub fn counts(&self) -> Vec<(Mark, u64)> {
        let counts = COUNTS.with_borrow(|counts| counts.clone().unwrap_or_default());
        ALL.iter().copied().zip(counts).collect()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        LISTENERS.fetch_sub(1, Ordering::Relaxed);
        COUNTS.set(None);
    }
}

/// What [`sometimes!`](crate::sometimes) calls.
#[inline]
pub fn pass(mark: Mark) {
    if LISTENERS.load(Ordering::Relaxed) > 0 {
        count(mark);
    }
}

#[cold]
fn count(mark: Mark) {
    COUNTS.with_borrow_mut(|counts| {
        if let Some(count) = counts.as_mut().and_then(|counts| counts.get_mut(mark.number)) {
            *count += 1;
        }
    });
}

/// Says that the rare state `NAME` of [`marks`](crate::marks) has come about.
#[macro_export]
macro_rules! sometimes {
    ($name:ident) => {
        $crate::marks::pass($crate::marks::$name)
    };
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Threads are what is tested.
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_mark_says_what_happened() {
        for (at, mark) in ALL.iter().enumerate() {
            assert_eq!(mark.number, at);
            assert!(ALL.iter().skip(at + 1).all(|other| other.name != mark.name));
            assert!(mark.sentence.ends_with('.'), "{}", mark.name);
        }
    }

    #[test]
    fn a_listener_counts_what_its_own_thread_passes_while_it_lives() {
        crate::sometimes!(SNAPSHOT_INSTALLED);
        let listener = listen();
        crate::sometimes!(SNAPSHOT_INSTALLED);
        crate::sometimes!(SNAPSHOT_INSTALLED);
        std::thread::spawn(|| crate::sometimes!(TORN_TAIL_RECOVERED)).join().unwrap();
        let passed: Vec<_> = listener.counts().into_iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(passed, [(SNAPSHOT_INSTALLED, 2)]);
        drop(listener);
        assert!(listen().counts().iter().all(|(_, count)| *count == 0));
    }
}
