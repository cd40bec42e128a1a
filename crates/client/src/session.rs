//! Exactly-once sessions, the client's side.
//!
//! Owns: the client id, the numbers of operations, the watermark of every range.
//! Invariants:
//! * A number is used for one operation only, and every attempt of it carries the same number.
//! * The watermark sent to a range is never above a number this client still wants answered
//!   there.
//! * An id whose session ended is never used for another operation.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use holdfast_env::Entropy;
use holdfast_model::limits::SESSION_UNANSWERED_MAX;
use holdfast_model::{ClientId, RangeId};
use holdfast_wire::v1;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};

/// The name under which a client is known to every range, until one of them forgets it.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) generation: u64,
    pub(crate) bytes: Bytes,
}

/// The sessions of one client.
#[derive(Debug)]
pub(crate) struct Sessions {
    identity: ArcSwap<Identity>,
    next_seq: AtomicU64,
    entropy: Arc<dyn Entropy>,
    /// Held only while a range's session is replaced or the identity is.
    changing: Mutex<()>,
}

impl Sessions {
    pub(crate) fn new(entropy: Arc<dyn Entropy>) -> Self {
        let identity = ArcSwap::from_pointee(draw(&*entropy, 0));
        Self { identity, next_seq: AtomicU64::new(1), entropy, changing: Mutex::new(()) }
    }

    /// Gives up the identity of `generation`: some range has forgotten it.
    pub(crate) fn expire(&self, generation: u64) {
        let _changing = self.changing.lock();
        if self.identity.load().generation == generation {
            let identity = draw(&*self.entropy, generation + 1);
            self.identity.store(Arc::new(identity));
        }
    }

    /// This client's session in a range; made on first use and after the identity changed.
    pub(crate) fn of_range(
        &self,
        id: RangeId,
        slot: &arc_swap::ArcSwapOption<RangeSession>,
    ) -> Arc<RangeSession> {
        let identity = self.identity.load();
        if let Some(session) = slot.load().as_ref()
            && session.identity.generation == identity.generation
        {
            return session.clone();
        }
        let _changing = self.changing.lock();
        let identity = self.identity.load_full();
        if let Some(session) = slot.load_full()
            && session.identity.generation == identity.generation
        {
            return session;
        }
        let session = Arc::new(RangeSession::new(id, identity));
        slot.store(Some(session.clone()));
        session
    }

    /// Numbers `count` operations of `session`; waits while too many are unanswered there.
    pub(crate) async fn begin(&self, session: &Arc<RangeSession>, count: usize) -> Ticket {
        let wanted = u32::try_from(count).unwrap_or(u32::MAX);
        // The semaphore is never closed, so this cannot fail; the permits come back when the
        // window moves on (see `RangeSession::finish`).
        if let Ok(permits) = session.room.acquire_many(wanted).await {
            permits.forget();
        }
        session.is_used.store(true, Ordering::Relaxed);
        // Numbers of one range grow in the order of its window only because they are drawn
        // under its lock.
        let mut window = session.window.lock();
        let first = self.next_seq.fetch_add(count as u64, Ordering::Relaxed);
        window.push_back(Slot { first, count, is_done: false });
        let watermark = window.front().map_or(first, |slot| slot.first);
        Ticket { session: session.clone(), first, watermark }
    }

    /// Numbers one operation that runs in several sessions at once, with the one watermark that
    /// holds in each of them.
    pub(crate) async fn begin_everywhere(&self, sessions: &[Arc<RangeSession>]) -> Vec<Ticket> {
        let mut permits = Vec::with_capacity(sessions.len());
        for session in sessions {
            permits.extend(session.room.acquire().await);
            session.is_used.store(true, Ordering::Relaxed);
        }
        // Kept only from here on, where nothing can be cancelled any more.
        permits.into_iter().for_each(tokio::sync::SemaphorePermit::forget);
        let mut windows: Vec<_> = sessions.iter().map(|s| s.window.lock()).collect();
        let first = self.next_seq.fetch_add(1, Ordering::Relaxed);
        let mut watermark = first;
        for window in &mut windows {
            window.push_back(Slot { first, count: 1, is_done: false });
            watermark = watermark.min(window.front().map_or(first, |slot| slot.first));
        }
        drop(windows);
        let ticket =
            |session: &Arc<RangeSession>| Ticket { session: session.clone(), first, watermark };
        sessions.iter().map(ticket).collect()
    }
}

fn draw(entropy: &dyn Entropy, generation: u64) -> Identity {
    let bytes = ClientId(entropy.u128()).to_bytes();
    Identity { generation, bytes: Bytes::copy_from_slice(&bytes) }
}

/// Operations that were numbered together.
#[derive(Debug)]
struct Slot {
    first: u64,
    count: usize,
    is_done: bool,
}

/// One client's session in one range.
#[derive(Debug)]
pub(crate) struct RangeSession {
    pub(crate) range: RangeId,
    pub(crate) identity: Arc<Identity>,
    /// How long it may idle, once the range has opened it.
    pub(crate) opened: OnceCell<Duration>,
    /// Whether it was used since the keeper looked last.
    is_used: AtomicBool,
    room: Semaphore,
    /// Numbered and not yet forgotten operations, in order. A lock, because number and place
    /// must be taken in one step; held for a few instructions, never over an await.
    window: Mutex<VecDeque<Slot>>,
}

impl RangeSession {
    fn new(range: RangeId, identity: Arc<Identity>) -> Self {
        Self {
            range,
            identity,
            opened: OnceCell::new(),
            is_used: AtomicBool::new(false),
            room: Semaphore::new(SESSION_UNANSWERED_MAX),
            window: Mutex::new(VecDeque::new()),
        }
    }

    /// Lowest unanswered number; `None` when nothing is under way.
    pub(crate) fn watermark(&self) -> Option<u64> {
        self.window.lock().front().map(|slot| slot.first)
    }

    /// Whether it was used since this was asked last.
    pub(crate) fn take_used(&self) -> bool {
        self.is_used.swap(false, Ordering::Relaxed)
    }

    fn finish(&self, first: u64) {
        let mut window = self.window.lock();
        if let Ok(index) = window.binary_search_by_key(&first, |slot| slot.first)
            && let Some(slot) = window.get_mut(index)
        {
            slot.is_done = true;
        }
        let mut freed = 0;
        while let Some(count) = window.front().filter(|slot| slot.is_done).map(|slot| slot.count) {
            window.pop_front();
            freed += count;
        }
        drop(window);
        if freed > 0 {
            self.room.add_permits(freed);
        }
    }
}

/// Numbers taken for operations; given back when dropped: answered, given up or cancelled.
#[derive(Debug)]
pub(crate) struct Ticket {
    session: Arc<RangeSession>,
    first: u64,
    watermark: u64,
}

impl Ticket {
    pub(crate) fn generation(&self) -> u64 {
        self.session.identity.generation
    }

    /// What the request carries, the same in every attempt: the number of the first operation,
    /// which the others follow.
    pub(crate) fn tag(&self) -> v1::SessionTag {
        v1::SessionTag {
            client_id: self.session.identity.bytes.clone(),
            seq: self.first,
            watermark: self.watermark,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.session.finish(self.first);
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwapOption;
    use holdfast_env::real::RealEntropy;

    use super::*;

    fn sessions() -> (Sessions, ArcSwapOption<RangeSession>) {
        (Sessions::new(Arc::new(RealEntropy)), ArcSwapOption::empty())
    }

    #[tokio::test]
    async fn the_watermark_is_the_lowest_unanswered_number() {
        let (sessions, slot) = sessions();
        let session = sessions.of_range(RangeId(1), &slot);
        let a = sessions.begin(&session, 1).await;
        let b = sessions.begin(&session, 3).await;
        let c = sessions.begin(&session, 1).await;
        assert_eq!((a.first, b.first, c.first), (1, 2, 5));
        assert_eq!(c.tag().watermark, 1);
        drop(b);
        assert_eq!(session.watermark(), Some(1), "an answer behind an open one moves nothing");
        drop(a);
        assert_eq!(session.watermark(), Some(5));
        drop(c);
        assert_eq!(session.watermark(), None);
        let d = sessions.begin(&session, 1).await;
        assert_eq!((d.tag().seq, d.tag().watermark), (6, 6));
    }

    #[tokio::test]
    async fn no_more_operations_are_numbered_than_a_range_remembers() {
        let (sessions, slot) = sessions();
        let session = sessions.of_range(RangeId(1), &slot);
        let open = sessions.begin(&session, 1).await;
        for _ in 1..SESSION_UNANSWERED_MAX {
            drop(sessions.begin(&session, 1).await);
        }
        // All but the first are answered, but the range must remember them for the first's sake.
        let blocked = sessions.begin(&session, 1);
        tokio::pin!(blocked);
        assert!(futures_util::poll!(&mut blocked).is_pending());
        drop(open);
        assert_eq!(blocked.await.first, SESSION_UNANSWERED_MAX as u64 + 1);
    }

    #[tokio::test]
    async fn a_forgotten_identity_is_replaced_once_and_its_tickets_keep_it() {
        let (sessions, slot) = sessions();
        let old = sessions.of_range(RangeId(1), &slot);
        let ticket = sessions.begin(&old, 1).await;
        sessions.expire(ticket.generation());
        sessions.expire(ticket.generation());
        let fresh = sessions.of_range(RangeId(1), &slot);
        assert_eq!(fresh.identity.generation, 1);
        assert_ne!(fresh.identity.bytes, old.identity.bytes);
        assert_eq!(ticket.tag().client_id, old.identity.bytes);
        let next = sessions.begin(&fresh, 1).await;
        assert_eq!(next.tag().seq, 2, "numbers go on over identities");
    }

    #[tokio::test]
    async fn an_operation_in_several_ranges_carries_a_watermark_that_holds_in_each() {
        let (sessions, slot) = sessions();
        let other_slot = ArcSwapOption::empty();
        let one = sessions.of_range(RangeId(1), &slot);
        let two = sessions.of_range(RangeId(2), &other_slot);
        let open = sessions.begin(&one, 1).await;
        let tickets = sessions.begin_everywhere(&[one.clone(), two.clone()]).await;
        assert!(tickets.iter().all(|t| t.tag().seq == 2 && t.tag().watermark == 1));
        drop(open);
        drop(tickets);
        assert_eq!((one.watermark(), two.watermark()), (None, None));
    }
}
