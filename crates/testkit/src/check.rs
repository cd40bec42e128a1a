//! Judges of histories, one file each.
//!
//! Three kinds, from the strongest evidence to the least trusting. The *witness* takes the
//! revisions in the answers for the order of all changes and replays it: it judges every
//! operation, in O(n log n). *WGL* (Wing, Gong, Lowe) trusts nothing but values and times and
//! searches for an order, key by key. *Invariants* each state one thing that must never happen.
//!
//! Owns: what "correct" means, as far as clients can see it.
//! Must never know: how a history came about.
//! Invariants:
//! * A checker says how many facts it judged; none at all is no evidence, and whoever expects
//!   some must ask for it ([`Report::demand`]).
//! * "Undecided" is a failure of the run, never a pass.
//! * What an unknown operation did is never guessed in the server's favour where an answer
//!   contradicts it.
//! Source: `reliability.md` (checkers); Lowe, "Testing for linearizability" (2017); Horn and
//! Kroening, "Faster linearizability checking via P-compositionality" (2015).

mod bank;
mod evidence;
mod hashes;
mod leases;
mod linearizable;
mod locks;
mod log;
mod lost;
mod once;
mod report;
mod revisions;
mod sets;
mod staleness;
mod watch;
pub mod wgl;
mod witness;

pub use bank::BankTotal;
pub use evidence::{Evidence, Quota};
pub use hashes::ReplicaHashes;
pub use leases::{Lifetimes, Punctuality};
pub use linearizable::Linearizability;
pub use locks::LockFencing;
pub use lost::NothingLost;
pub use once::ExactlyOnce;
pub use report::{Report, judge};
pub use revisions::Revisions;
pub use sets::{SET_MARK, Sets};
pub use staleness::Staleness;
pub use watch::{Watches, validator_names};
pub use witness::Witness;

use crate::history::{History, Operation};

/// Why a history does not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// A store that keeps its promises cannot have shown this.
    #[error("violation: {0}")]
    Violation(String),
    /// The checker could not tell; the run proves nothing.
    #[error("undecided: {0}")]
    Undecided(String),
}

impl Finding {
    /// A violation, described by `text`.
    pub fn violation(text: impl Into<String>) -> Self {
        Self::Violation(text.into())
    }
}

/// How many facts were judged, or what was found.
pub type Verdict = Result<usize, Finding>;

/// A judge.
pub trait Checker {
    /// What it looks after, in a word or two.
    fn name(&self) -> &'static str;

    /// Judges `history`.
    ///
    /// # Errors
    /// [`Finding`]: the first thing that is wrong, or why nothing can be said.
    fn check(&self, history: &History) -> Verdict;
}

/// The keys an operation changes, or may change.
pub fn keys_changed(operation: &Operation) -> Vec<&str> {
    log::keys_changed(operation)
}

/// Every checker, for runs whose times are as `punctuality` says.
pub fn everything(punctuality: Punctuality) -> Vec<Box<dyn Checker>> {
    vec![
        Box::new(Witness),
        Box::new(Linearizability::default()),
        Box::new(NothingLost),
        Box::new(Revisions),
        Box::new(ExactlyOnce),
        Box::new(Sets),
        Box::new(BankTotal),
        Box::new(LockFencing),
        Box::new(Lifetimes(punctuality)),
        Box::new(Watches),
        Box::new(Staleness),
        Box::new(ReplicaHashes),
    ]
}
