//! A replication session: openraft's requests in, the answers back in their order.
//!
//! Two things are taken out of openraft's hands here.
//! * It learns of an answer only when the answer speaks for every request it could mean. openraft
//!   finds the request an answer belongs to by log id alone and takes the newest one that fits,
//!   although the answer may be an older one's. Its sending time would then count as confirmed by
//!   the follower although nothing sent then has arrived, and leases and read rounds would rest on
//!   it. So of several requests that end at the same entry only the last one's answer is passed on.
//! * It is asked for a request only where there may be something worth one, see [`super::tail`].

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use holdfast_runtime::sleep;
use holdfast_wire::peer::v1 as peer;
use openraft::RPCTypes;
use openraft::errors::Unreachable;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use crate::peers::{PeerAddress, PeerError, Session};
use crate::raft::convert;
use crate::raft::network::{TellTime, rpc_error};
use crate::raft::tail::{Follow, Tail};
use crate::raft::types::{AppendEntries, AppendResult, RpcError};

/// A follower is told of a commit at the latest after this time, also while entries are under way
/// that cannot be committed.
const COMMIT_HELD_MAX: Duration = Duration::from_millis(50);

type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A pipelined session: feeds openraft's requests in, gives the answers back in their order.
///
/// Both directions are driven from the one task that waits for answers, so that a session costs
/// no task of its own.
pub(crate) struct SessionStream<S> {
    address: PeerAddress,
    /// Taken from the input before the session was opened.
    first: Option<AppendEntries>,
    /// `None` once openraft has nothing more to send; the session then ends by itself.
    input: Option<S>,
    requests: PollSender<peer::AppendRequest>,
    answers: mpsc::Receiver<Result<peer::AppendResponse, PeerError>>,
    /// Last index of every request that waits for its answer, oldest first.
    in_flight: VecDeque<u64>,
    /// Index of the last entry sent.
    sent: u64,
    follow: Follow,
    time: TellTime,
    /// Runs while openraft is not asked for requests.
    held: Option<Timer>,
    idle_max: Duration,
    /// Runs while answers are due.
    idle: Option<Timer>,
    ended: bool,
}

impl<S: Stream<Item = AppendEntries> + Unpin> SessionStream<S> {
    /// A session that begins with `first`, taken from `input` before it was opened.
    pub(crate) fn new(
        address: PeerAddress,
        first: AppendEntries,
        input: S,
        session: Session,
        idle_max: Duration,
        tail: Arc<Tail>,
        time: TellTime,
    ) -> Self {
        Self {
            address,
            first: Some(first),
            input: Some(input),
            requests: PollSender::new(session.requests),
            answers: session.responses,
            in_flight: VecDeque::new(),
            sent: 0,
            follow: Follow::new(tail),
            time,
            held: None,
            idle_max,
            idle: None,
            ended: false,
        }
    }

    /// Whether openraft may have a request that is worth sending.
    fn has_news(&mut self, context: &mut Context<'_>) -> bool {
        if self.first.is_some() || self.follow.has_news(self.sent, context.waker()) {
            return true;
        }
        let held = self.held.get_or_insert_with(|| Box::pin(sleep(COMMIT_HELD_MAX)));
        let is_due = held.as_mut().poll(context).is_ready();
        if is_due {
            self.held = None;
        }
        is_due
    }

    /// Sends what openraft has ready, as far as there is room.
    fn pump(&mut self, context: &mut Context<'_>) {
        while self.input.is_some() && self.has_news(context) {
            let Some(input) = &mut self.input else { return };
            match self.requests.poll_reserve(context) {
                Poll::Pending => return,
                Poll::Ready(Err(_)) => return self.end_input(),
                Poll::Ready(Ok(())) => {}
            }
            let next = match self.first.take() {
                Some(first) => Poll::Ready(Some(first)),
                None => input.poll_next_unpin(context),
            };
            match next {
                Poll::Pending => return,
                Poll::Ready(None) => return self.end_input(),
                Poll::Ready(Some(request)) => {
                    let last = last_index(&request);
                    let request = convert::append_to_wire(&request, (self.time)());
                    if self.requests.send_item(request).is_err() {
                        return self.end_input();
                    }
                    self.in_flight.push_back(last);
                    self.sent = last;
                }
            }
        }
    }

    fn end_input(&mut self) {
        self.input = None;
        // A slot that is reserved and not used would keep the channel, and so the session, open.
        self.requests.abort_send();
        self.requests.close();
    }

    fn fail(&mut self, error: RpcError) -> Poll<Option<Result<AppendResult, RpcError>>> {
        self.ended = true;
        self.end_input();
        Poll::Ready(Some(Err(error)))
    }

    /// What openraft is to hear of an answer; `None` if a later one will say it.
    fn answered(
        &mut self,
        answer: Result<peer::AppendResponse, PeerError>,
    ) -> Option<Poll<Option<Result<AppendResult, RpcError>>>> {
        self.in_flight.pop_front();
        self.idle = None;
        let answer = match answer {
            Ok(answer) => convert::append_result_from_wire(&answer),
            Err(error) => {
                let action = RPCTypes::AppendEntries;
                return Some(self.fail(rpc_error(&self.address, &error, action, self.idle_max)));
            }
        };
        match answer {
            Ok(Ok(matched)) if self.is_ambiguous(matched.map_or(0, |id| id.index)) => None,
            Ok(result) => {
                self.ended = result.is_err();
                Some(Poll::Ready(Some(Ok(result))))
            }
            Err(error) => Some(self.fail(Unreachable::new(&error).into())),
        }
    }

    /// Whether openraft would take an answer up to `matched` for that of a request still under way.
    fn is_ambiguous(&self, matched: u64) -> bool {
        self.in_flight.front().is_some_and(|last| *last <= matched)
    }

    /// Whether answers that are due have failed to come for too long.
    fn is_stalled(&mut self, context: &mut Context<'_>) -> bool {
        if self.in_flight.is_empty() {
            self.idle = None;
            return false;
        }
        let idle_max = self.idle_max;
        let idle = self.idle.get_or_insert_with(|| Box::pin(sleep(idle_max)));
        idle.as_mut().poll(context).is_ready()
    }
    /// No answer is at hand; where `is_over`, none will come.
    fn unanswered(
        &mut self,
        is_over: bool,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<AppendResult, RpcError>>> {
        let error = match is_over {
            true if self.in_flight.is_empty() => {
                self.ended = true;
                self.end_input();
                return Poll::Ready(None);
            }
            true => PeerError::Broken("session ended with answers due".into()),
            false if self.is_stalled(context) => PeerError::Timeout,
            false => return Poll::Pending,
        };
        self.fail(rpc_error(&self.address, &error, RPCTypes::AppendEntries, self.idle_max))
    }
}

/// Index of the last entry a follower that accepts `request` has in common with the leader.
fn last_index(request: &AppendEntries) -> u64 {
    let last = request.entries.last().map(|entry| entry.log_id);
    last.or(request.prev_log_id).map_or(0, |id| id.index)
}

impl<S: Stream<Item = AppendEntries> + Unpin> Stream for SessionStream<S> {
    type Item = Result<AppendResult, RpcError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        this.pump(context);
        loop {
            let answer = match this.answers.poll_recv(context) {
                Poll::Ready(Some(answer)) => answer,
                end => return this.unanswered(end.is_ready(), context),
            };
            if let Some(told) = this.answered(answer) {
                return told;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_immediate;
    use futures_util::stream;
    use holdfast_model::{ClusterId, NodeId, RangeId, ReplicaId};

    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::peers::SESSION_REQUESTS_MAX;
    use crate::raft::codec;
    use crate::raft::types::{Entry, Payload, Vote};

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// A session between openraft, played by `input`, and a follower, played by the other two.
    struct Rig {
        tail: Arc<Tail>,
        input: mpsc::Sender<AppendEntries>,
        requests: mpsc::Receiver<peer::AppendRequest>,
        answers: mpsc::Sender<Result<peer::AppendResponse, PeerError>>,
        session: SessionStream<stream::BoxStream<'static, AppendEntries>>,
    }

    /// Entries after index `from` up to `upto`; none if they are equal.
    fn request(from: u64, upto: u64) -> AppendEntries {
        let entry = |index| Entry { log_id: codec::log_id(1, 1, index), payload: Payload::Blank };
        AppendEntries {
            vote: Vote::new_committed(1, ReplicaId(1)),
            prev_log_id: Some(codec::log_id(1, 1, from)),
            entries: (from + 1..=upto).map(entry).collect(),
            leader_commit: None,
        }
    }

    fn rig() -> Rig {
        let (input, requests_in) = mpsc::channel(8);
        let (sender, requests) = mpsc::channel(SESSION_REQUESTS_MAX);
        let (answers, responses) = mpsc::channel(8);
        let address = PeerAddress {
            cluster: ClusterId(7),
            range: RangeId(1),
            from: ReplicaId(1),
            to: ReplicaId(2),
            node: NodeId(2),
        };
        let stream = stream::unfold(requests_in, async |mut requests: mpsc::Receiver<_>| {
            requests.recv().await.map(|request| (request, requests))
        });
        let (tail, session) = (Tail::new(0), Session { requests: sender, responses });
        let (first, hour) = (request(0, 0), Duration::from_secs(3_600));
        let (stream, ending, time) = (stream.boxed(), tail.clone(), Arc::new(|| 0_u64));
        let session = SessionStream::new(address, first, stream, session, hour, ending, time);
        Rig { tail, input, requests, answers, session }
    }

    impl Rig {
        /// What openraft hears now, as the index it is told to be matched.
        async fn hears(&mut self) -> Option<u64> {
            let heard = poll_immediate(self.session.next()).await??;
            Some(heard.unwrap().unwrap().map_or(0, |id| id.index))
        }

        /// Indexes at which the requests end that reach the follower now.
        async fn sent(&mut self) -> Vec<u64> {
            assert_eq!(self.hears().await, None);
            let mut sent = Vec::new();
            while let Ok(request) = self.requests.try_recv() {
                let before = request.prev.map_or(0, |id| id.index);
                sent.push(before + request.entries.len() as u64);
            }
            sent
        }

        fn answer(&self, index: u64) {
            let answer = convert::append_result_to_wire(&Ok(Some(codec::log_id(1, 1, index))));
            self.answers.try_send(Ok(answer)).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_could_be_taken_for_a_later_requests_is_not_passed_on() {
        let mut rig = rig();
        rig.tail.ends_at(3);
        rig.input.try_send(request(0, 3)).unwrap();
        assert_eq!(rig.sent().await, [0, 3]);
        // Committed by the other follower; the commit goes out behind the entries.
        rig.tail.committed(3);
        rig.input.try_send(request(3, 3)).unwrap();
        assert_eq!(rig.sent().await, [3]);
        rig.answer(0);
        assert_eq!(rig.hears().await, Some(0), "nothing else ends there");
        rig.answer(3);
        assert_eq!(rig.hears().await, None, "two requests end there, one is not answered");
        rig.answer(3);
        assert_eq!(rig.hears().await, Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_travels_with_the_next_entries_or_when_nothing_is_under_way() {
        let mut rig = rig();
        rig.tail.ends_at(2);
        rig.input.try_send(request(0, 2)).unwrap();
        assert_eq!(rig.sent().await, [0, 2]);
        rig.tail.committed(1);
        rig.input.try_send(request(2, 2)).unwrap();
        assert_eq!(rig.sent().await, [0; 0], "entry 2 is under way");
        rig.tail.committed(2);
        assert_eq!(rig.sent().await, [2]);
        rig.input.try_send(request(2, 4)).unwrap();
        assert_eq!(rig.sent().await, [4], "everything was settled");
        rig.tail.ends_at(6);
        rig.input.try_send(request(4, 6)).unwrap();
        assert_eq!(rig.sent().await, [6]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_is_held_back_for_a_short_time_only() {
        let mut rig = rig();
        rig.tail.ends_at(2);
        rig.input.try_send(request(0, 2)).unwrap();
        assert_eq!(rig.sent().await, [0, 2]);
        rig.input.try_send(request(2, 2)).unwrap();
        assert_eq!(rig.sent().await, [0; 0]);
        holdfast_runtime::sleep(COMMIT_HELD_MAX + Duration::from_millis(2)).await;
        assert_eq!(rig.sent().await, [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_holds_back_is_woken_by_entries_and_by_the_last_commit() {
        for event in [|tail: &Tail| tail.ends_at(3), |tail: &Tail| tail.committed(2)] {
            let mut rig = rig();
            rig.tail.ends_at(2);
            rig.input.try_send(request(0, 2)).unwrap();
            assert_eq!(rig.sent().await, [0, 2]);
            let woken = Arc::new(Woken::default());
            let waker = woken.clone().into();
            assert!(rig.session.poll_next_unpin(&mut Context::from_waker(&waker)).is_pending());
            assert!(!woken.0.load(Ordering::Relaxed));
            event(&rig.tail);
            assert!(woken.0.load(Ordering::Relaxed));
        }
    }
}
