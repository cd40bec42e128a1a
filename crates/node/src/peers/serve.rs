//! The answering side of one stream: requests in, answers out, in one task.
//!
//! The response stream reads the requests itself whenever it is polled, so a request that can be
//! answered at once costs no hop between tasks.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, SelectAll, Stream};
use holdfast_model::limits::PEER_MESSAGE_BYTES_MAX;
use holdfast_model::{NodeId, RangeId, ReplicaId};
use holdfast_wire::peer::v1::message::Body;
use holdfast_wire::peer::v1::{
    AppendRequest, AppendResponse, ForwardRequest, ForwardResponse, Frame, Hello, Message,
    SessionEnd,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::Status;

use super::credits::SESSION_CREDITS;
use super::forward::ForwardHandler;
use super::host::{Host, Route, busy};
use super::outbox::Filling;
use crate::errors::ApiError;

/// Requests of one stream that may be under way at once.
const REQUESTS_MAX: usize = 8_192;
/// Largest answer to an operation, bytes; the rest is for what is around it in its frame.
const ANSWER_BYTES_MAX: usize = PEER_MESSAGE_BYTES_MAX - 4096;
/// Frames read before answers get a turn.
const FRAMES_PER_TURN: usize = 8;

type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The answers of one replication session.
struct Answers {
    envelope: Message,
    responses: mpsc::Receiver<AppendResponse>,
    has_ended: bool,
}

impl Stream for Answers {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let body = match self.responses.poll_recv(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(response)) => Body::AppendResponse(response),
            Poll::Ready(None) => {
                self.has_ended = true;
                Body::SessionEnded(SessionEnd::default())
            }
        };
        Poll::Ready(Some(Message { body: Some(body), ..self.envelope.clone() }))
    }
}

/// The answer, or in place of one that no message holds that it was lost: the stream goes on.
fn fitting(answer: ForwardResponse) -> ForwardResponse {
    let bytes = answer.encoded_len();
    if bytes <= ANSWER_BYTES_MAX {
        return answer;
    }
    let reason = format!("its answer of {bytes} bytes is larger than a message between nodes");
    let lost = ApiError::OutcomeUnknown { reason, deadline: false };
    ForwardResponse { error: Some(lost.info()), ..ForwardResponse::default() }
}

/// One stream being served; ends when the caller's half ends or breaks.
pub(super) struct Serve<S> {
    frames: S,
    host: Arc<dyn Host>,
    forward: Arc<dyn ForwardHandler>,
    node: NodeId,
    sessions: BTreeMap<u64, mpsc::Sender<AppendRequest>>,
    answers: SelectAll<Answers>,
    requests: FuturesUnordered<BoxFuture<'static, Message>>,
    ready: VecDeque<Message>,
    hello: Option<Hello>,
    ping: Duration,
    ping_timer: Timer,
    has_sent_since_ping: bool,
}

impl<S> Serve<S>
where
    S: Stream<Item = Result<Frame, Status>> + Unpin,
{
    /// Serves `frames` of `node`; answers begin with `hello`.
    pub(super) fn new(
        frames: S,
        (host, forward): (Arc<dyn Host>, Arc<dyn ForwardHandler>),
        node: NodeId,
        hello: Hello,
        ping: Duration,
    ) -> Self {
        Self {
            frames,
            host,
            forward,
            node,
            sessions: BTreeMap::new(),
            answers: SelectAll::new(),
            requests: FuturesUnordered::new(),
            ready: VecDeque::new(),
            hello: Some(hello),
            ping,
            ping_timer: Box::pin(holdfast_runtime::sleep(ping)),
            has_sent_since_ping: false,
        }
    }

    /// Reads what has come; `Ready` once the caller's half is over.
    fn poll_frames(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for _ in 0..FRAMES_PER_TURN {
            match Pin::new(&mut self.frames).poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => {
                    frame.messages.into_iter().for_each(|message| self.dispatch(message));
                }
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
            }
        }
        // More may have come; answers get a turn first.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn dispatch(&mut self, mut message: Message) {
        let Some(body) = message.body.take() else { return };
        let route = Route {
            range: RangeId(message.range_id),
            from: ReplicaId(message.from_replica),
            to: ReplicaId(message.to_replica),
            node: self.node,
        };
        match body {
            Body::SessionOpen(_) => self.open(route, message),
            Body::Append(request) => self.append(message, request),
            Body::SessionEnd(_) => drop(self.sessions.remove(&message.id)),
            body
            @ (Body::Heartbeat(_) | Body::Vote(_) | Body::Transfer(_) | Body::ReadIndex(_)) => {
                self.request(message, |this| this.host.request(route, body));
            }
            Body::Forward(request) => self.request(message, |this| this.forward(request)),
            // Answers never come this way round; a peer that sends them is of another kind.
            _ => {}
        }
    }

    fn open(&mut self, route: Route, envelope: Message) {
        match self.host.session(route, SESSION_CREDITS) {
            Ok(session) => {
                self.sessions.insert(envelope.id, session.requests);
                let responses = session.responses;
                self.answers.push(Answers { envelope, responses, has_ended: false });
            }
            Err(refusal) => self.end(envelope, refusal.reason),
        }
    }

    fn append(&mut self, envelope: Message, request: AppendRequest) {
        let Some(session) = self.sessions.get(&envelope.id) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = session.try_send(request) {
            // The sender has no more credit than the channel has room: it does not keep the rules.
            self.sessions.remove(&envelope.id);
            self.end(envelope, "more requests than the session has credit for".into());
        }
    }

    fn end(&mut self, envelope: Message, reason: String) {
        let body = Some(Body::SessionEnded(SessionEnd { reason }));
        self.ready.push_back(Message { body, ..envelope });
    }

    fn forward(&self, request: ForwardRequest) -> BoxFuture<'static, Body> {
        let answer = self.forward.forward(request);
        Box::pin(async move { Body::ForwardResponse(fitting(answer.await)) })
    }

    fn request(
        &mut self,
        envelope: Message,
        serve: impl FnOnce(&Self) -> BoxFuture<'static, Body>,
    ) {
        if self.requests.len() >= REQUESTS_MAX {
            let body = Some(Body::Refusal(busy("too many requests are under way")));
            self.ready.push_back(Message { body, ..envelope });
            return;
        }
        let answer = serve(self);
        self.requests
            .push(Box::pin(async move { Message { body: Some(answer.await), ..envelope } }));
    }

    fn fill(&mut self, context: &mut Context<'_>, frame: &mut Filling) {
        while let Some(message) = self.ready.pop_front() {
            if let Some(message) = frame.put(message) {
                self.ready.push_front(message);
                return;
            }
        }
        while !frame.is_full() {
            match Pin::new(&mut self.requests).poll_next(context) {
                Poll::Ready(Some(message)) => self.put(frame, message),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        while !frame.is_full() {
            match Pin::new(&mut self.answers).poll_next(context) {
                Poll::Ready(Some(message)) => {
                    if matches!(message.body, Some(Body::SessionEnded(_))) {
                        self.sessions.remove(&message.id);
                    }
                    self.put(frame, message);
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
    }

    fn put(&mut self, frame: &mut Filling, message: Message) {
        if let Some(message) = frame.put(message) {
            self.ready.push_back(message);
        }
    }

    fn poll_ping(&mut self, context: &mut Context<'_>, frame: &mut Filling) {
        while self.ping_timer.as_mut().poll(context).is_ready() {
            if !self.has_sent_since_ping {
                frame.force();
            }
            self.has_sent_since_ping = false;
            self.ping_timer = Box::pin(holdfast_runtime::sleep(self.ping));
        }
    }
}

impl<S> Stream for Serve<S>
where
    S: Stream<Item = Result<Frame, Status>> + Unpin,
{
    type Item = Result<Frame, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, Status>>> {
        let this = &mut *self;
        if let Some(hello) = this.hello.take() {
            return Poll::Ready(Some(Ok(Frame { messages: Vec::new(), hello: Some(hello) })));
        }
        if this.poll_frames(context).is_ready() {
            return Poll::Ready(None);
        }
        let mut frame = Filling::default();
        this.fill(context, &mut frame);
        this.poll_ping(context, &mut frame);
        match frame.finish() {
            Some(frame) => {
                this.has_sent_since_ping = true;
                Poll::Ready(Some(Ok(frame)))
            }
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use holdfast_wire::v1::ErrorCode;

    use super::*;

    #[test]
    fn an_answer_that_no_message_holds_is_told_to_be_lost() {
        let of = |bytes| ForwardResponse {
            resume_key: Some(Bytes::from(vec![0; bytes])),
            ..ForwardResponse::default()
        };
        assert_eq!(fitting(of(1_000)), of(1_000));
        let lost = fitting(of(PEER_MESSAGE_BYTES_MAX)).error.unwrap();
        assert_eq!(lost.code(), ErrorCode::OutcomeUnknown);
    }
}
