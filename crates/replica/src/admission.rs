//! Byte-based admission: what is under way is bounded before anything is proposed.
//!
//! Apply never blocks and the journal never refuses what openraft hands it, so the only place to
//! say no is the entrance. Two budgets stand there: one per range, one for the whole node. What
//! ranges have to do by themselves stands in a queue of the node, so that many of them together
//! take no more of it than one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{Mutex, MutexGuard};

/// A budget of bytes of commands that are queued, replicated or applied at the moment.
#[derive(Debug)]
pub struct Admission {
    name: &'static str,
    bytes_max: u64,
    used: AtomicU64,
    refuses_growth: AtomicBool,
    /// Held by the range that works at its own backlog.
    backlog: Mutex<()>,
}

impl Admission {
    /// A budget of `bytes_max` bytes; `name` tells clients which one is used up.
    pub fn new(name: &'static str, bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            name,
            bytes_max,
            used: AtomicU64::new(0),
            refuses_growth: AtomicBool::new(false),
            backlog: Mutex::new(()),
        })
    }

    /// Takes `bytes` out of the budget until the permit is dropped; `None` if they do not fit.
    ///
    /// A command larger than the whole budget passes while nothing else is under way: it could
    /// never pass otherwise.
    pub fn try_acquire(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let fits =
            |used: u64| (used == 0 || used + bytes <= self.bytes_max).then_some(used + bytes);
        let taken = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits);
        taken.ok().map(|_| Permit { admission: self.clone(), bytes })
    }

    /// Waits until it is the caller's turn to work at a backlog of its own, such as keys that
    /// expired: ranges of one node do so one after the other, in the order they asked.
    pub async fn backlog_turn(&self) -> MutexGuard<'_, ()> {
        self.backlog.lock().await
    }

    /// Bytes under way.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The name errors carry.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Refuses (or admits again) commands that make data grow: the disk is nearly full. Deletes,
    /// expiry and compaction go on, since they are what makes space.
    pub fn refuse_growth(&self, refuse: bool) {
        self.refuses_growth.store(refuse, Ordering::Relaxed);
    }

    /// Whether growth is refused.
    pub fn refuses_growth(&self) -> bool {
        self.refuses_growth.load(Ordering::Relaxed)
    }
}

/// Bytes taken from an [`Admission`]; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_refuses_what_does_not_fit_and_takes_it_once_there_is_room() {
        let admission = Admission::new("test", 100);
        let first = admission.try_acquire(60).unwrap();
        assert!(admission.try_acquire(41).is_none());
        let second = admission.try_acquire(40).unwrap();
        drop(first);
        assert!(admission.try_acquire(60).is_some());
        drop(second);
        assert_eq!(admission.used_bytes(), 0);
    }

    #[test]
    fn a_command_larger_than_the_budget_passes_alone() {
        let admission = Admission::new("test", 100);
        let small = admission.try_acquire(1).unwrap();
        assert!(admission.try_acquire(200).is_none());
        drop(small);
        let large = admission.try_acquire(200).unwrap();
        assert!(admission.try_acquire(1).is_none());
        drop(large);
        assert!(admission.try_acquire(1).is_some());
    }
}
