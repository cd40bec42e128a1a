//! How many requests of a replication session may be unanswered.
//!
//! The receiver has room for exactly that many, so one slow replica never holds up the others on
//! the same stream: its session waits for credit, the stream goes on.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Unanswered requests of one session; one append is about 1 MiB at most.
pub(super) const SESSION_CREDITS: usize = 64;

/// The credit of one session, shared by its sending and its receiving side.
#[derive(Debug)]
pub(super) struct Credits {
    left: AtomicUsize,
    is_cancelled: AtomicBool,
    waker: AtomicWaker,
}

/// What the sending side may do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// One more request may go.
    Go,
    /// The session was replaced or its receiver is gone: end it.
    End,
}

impl Credits {
    pub(super) fn new() -> Self {
        Self {
            left: AtomicUsize::new(SESSION_CREDITS),
            is_cancelled: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// Waits until a request may go; does not use the credit up.
    pub(super) fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Grant> {
        if let Some(grant) = self.look() {
            return Poll::Ready(grant);
        }
        self.waker.register(context.waker());
        // A credit may have come back between the look and the registration.
        self.look().map_or(Poll::Pending, Poll::Ready)
    }

    fn look(&self) -> Option<Grant> {
        if self.is_cancelled.load(Ordering::Acquire) {
            return Some(Grant::End);
        }
        (self.left.load(Ordering::Acquire) > 0).then_some(Grant::Go)
    }

    /// Uses one credit up; call after [`Grant::Go`] only. One task takes, so none is lost.
    pub(super) fn take(&self) {
        let before = self.left.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "credit taken without a grant");
    }

    /// A request was answered.
    pub(super) fn give(&self) {
        self.left.fetch_add(1, Ordering::AcqRel);
        self.waker.wake();
    }

    /// The session is over for the sending side.
    pub(super) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
        self.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_fn;
    use futures_util::task::noop_waker;

    use super::*;

    #[test]
    fn a_session_stops_at_its_last_credit_and_goes_on_with_the_next_answer() {
        let credits = Credits::new();
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        for _ in 0..SESSION_CREDITS {
            assert_eq!(credits.poll_ready(&mut context), Poll::Ready(Grant::Go));
            credits.take();
        }
        assert_eq!(credits.poll_ready(&mut context), Poll::Pending);
        credits.give();
        assert_eq!(credits.poll_ready(&mut context), Poll::Ready(Grant::Go));
    }

    #[tokio::test]
    async fn a_cancelled_session_wakes_and_ends_without_credit() {
        let credits = std::sync::Arc::new(Credits::new());
        (0..SESSION_CREDITS).for_each(|_| credits.take());
        let waiter = credits.clone();
        let task =
            holdfast_runtime::spawn(
                async move { poll_fn(|context| waiter.poll_ready(context)).await },
            );
        holdfast_runtime::yield_now().await;
        credits.cancel();
        assert_eq!(task.await.unwrap(), Grant::End);
    }
}
