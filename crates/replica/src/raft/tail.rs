//! Where a replica's log ends and how far it is committed, for the sessions that replicate it.
//!
//! openraft tells every follower of every commit at once, with a request of its own where no
//! entries are at hand. While entries are under way such a request is wasted: their own requests,
//! or the one that follows when the last of them is committed, say the same. A session therefore
//! asks openraft for a request only when there is an entry to send or nothing more is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

/// Last appended and last committed index of one replica's log.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    appended: AtomicU64,
    committed: AtomicU64,
    /// Sessions to wake; as many as the range has other replicas. The lock is held for a walk over
    /// them.
    sessions: Mutex<Vec<Arc<AtomicWaker>>>,
}

impl Tail {
    /// The log ends at `appended` when the replica starts.
    pub(crate) fn new(appended: u64) -> Arc<Self> {
        Arc::new(Self { appended: AtomicU64::new(appended), ..Self::default() })
    }

    /// The log ends at `index` now; entries may have been added or taken away.
    pub(crate) fn ends_at(&self, index: u64) {
        self.appended.store(index, Ordering::Release);
        self.wake();
    }

    /// Everything up to `index` is committed.
    pub(crate) fn committed(&self, index: u64) {
        self.committed.fetch_max(index, Ordering::AcqRel);
        if self.is_settled() {
            self.wake();
        }
    }

    /// Whether nothing is under way.
    pub(crate) fn is_settled(&self) -> bool {
        self.committed.load(Ordering::Acquire) >= self.end()
    }

    /// Index of the last entry.
    pub(crate) fn end(&self) -> u64 {
        self.appended.load(Ordering::Acquire)
    }

    fn wake(&self) {
        self.sessions.lock().iter().for_each(|session| session.wake());
    }
}

/// A session that is woken when the log grows, and when everything in it is committed.
#[derive(Debug)]
pub(crate) struct Follow {
    tail: Arc<Tail>,
    waker: Arc<AtomicWaker>,
}

impl Follow {
    pub(crate) fn new(tail: Arc<Tail>) -> Self {
        let waker = Arc::new(AtomicWaker::new());
        tail.sessions.lock().push(waker.clone());
        Self { tail, waker }
    }

    /// Whether there may be something to send for who has sent everything up to `sent`; if not,
    /// `waker` is called when there is.
    pub(crate) fn has_news(&self, sent: u64, waker: &Waker) -> bool {
        self.waker.register(waker);
        self.tail.end() > sent || self.tail.is_settled()
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.tail.sessions.lock().retain(|waker| !Arc::ptr_eq(waker, &self.waker));
    }
}
