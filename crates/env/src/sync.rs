//! What threads meet at: locks and atomics, real ones, or ones that a model checker schedules.
//!
//! Code whose interleavings are to be explored takes `Mutex`, `Condvar` and atomics from here.
//! In every ordinary build these *are* parking_lot's and the standard library's. Built with
//! `--cfg shuttle` (a target directory of its own, `make storm-storage`) each use is a point at
//! which shuttle may switch to another thread, and a failing schedule can be replayed.
//!
//! Why shuttle and not loom: the memtable's links lie in raw memory of an arena, where loom's
//! atomics, which are objects with an identity, cannot be; and arc-swap and the block cache are
//! other people's code that loom refuses to look through. Here an atomic keeps its layout and
//! gains a switch before every use. What that gives up is the weak orders of memory: shuttle runs
//! sequentially consistent schedules. For those the rules stand beside the code in `node.rs`.
//!
//! Must never know: what is protected.

#[cfg(not(shuttle))]
mod real {
    pub use std::hint::spin_loop;
    pub use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

    pub use parking_lot::{Condvar, Mutex, MutexGuard};

    /// A point at which another thread may come between; nothing in an ordinary build.
    #[inline(always)]
    pub fn interleave() {}
}

#[cfg(shuttle)]
#[path = "sync/scheduled.rs"]
mod scheduled;

#[cfg(not(shuttle))]
pub use real::{
    AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering,
    interleave, spin_loop,
};
#[cfg(shuttle)]
pub use scheduled::{
    AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering,
    interleave, spin_loop,
};
