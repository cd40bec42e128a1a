//! The calling side of a stream while it is up: what waits for an answer, and handing out answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_model::{RangeId, ReplicaId};
use holdfast_replica::{PeerAddress, PeerError, SESSION_REQUESTS_MAX, Session};
use holdfast_wire::peer::v1::message::Body;
use holdfast_wire::peer::v1::{AppendResponse, ForwardRequest, Hello, Message};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::credits::{Credits, SESSION_CREDITS};
use super::outbox::{Item, Lazy, OUTBOX_ITEMS_MAX, Outbox, OutboxOptions, SessionOut};

type Answer = Result<Body, PeerError>;
type SessionKey = (RangeId, ReplicaId, ReplicaId);

/// Whether a call waits for company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Goes out at once.
    Now,
    /// May wait for other heartbeats.
    Batched,
}

/// One stream that is up. When it breaks, everything that waits fails with it.
#[derive(Debug)]
pub(super) struct Conn {
    items: mpsc::Sender<Item>,
    lazy: Lazy,
    next_id: AtomicU64,
    // Two tasks at most meet here (a caller and the reader of the stream), for a map operation.
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    broken: Option<PeerError>,
    calls: BTreeMap<u64, oneshot::Sender<Answer>>,
    sessions: BTreeMap<u64, SessionIn>,
    by_key: BTreeMap<SessionKey, u64>,
}

#[derive(Debug)]
struct SessionIn {
    key: SessionKey,
    responses: mpsc::Sender<Result<AppendResponse, PeerError>>,
    credits: Arc<Credits>,
}

impl Waiting {
    fn remove_session(&mut self, id: u64) -> Option<SessionIn> {
        let session = self.sessions.remove(&id)?;
        if self.by_key.get(&session.key) == Some(&id) {
            self.by_key.remove(&session.key);
        }
        session.credits.cancel();
        Some(session)
    }
}

/// Forgets a call whose caller has gone.
#[derive(Debug)]
struct Forget {
    conn: Arc<Conn>,
    id: u64,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.conn.waiting.lock().calls.remove(&self.id);
    }
}

/// A message that was handed to the stream; dropping it forgets the answer.
#[derive(Debug)]
pub(super) struct Asked {
    answer: oneshot::Receiver<Answer>,
    _forget: Forget,
}

impl Asked {
    /// The answer, waited for at most `limit`.
    pub(super) async fn answer(self, limit: Duration) -> Answer {
        let Self { answer, _forget } = self;
        match holdfast_runtime::timeout(limit, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(PeerError::Broken("the stream ended".into())),
            Err(_) => Err(PeerError::Timeout),
        }
    }
}

impl Conn {
    /// A connection and the frames it sends.
    pub(super) fn new(hello: Hello, options: OutboxOptions) -> (Arc<Self>, Outbox) {
        let (items, receiver) = mpsc::channel(OUTBOX_ITEMS_MAX);
        let lazy = Lazy::default();
        let outbox = Outbox::new(receiver, lazy.clone(), hello, options);
        let conn = Self {
            items,
            lazy,
            next_id: AtomicU64::new(1),
            waiting: Mutex::new(Waiting::default()),
        };
        (Arc::new(conn), outbox)
    }

    fn envelope(&self, to: &PeerAddress) -> Message {
        Message {
            range_id: to.range.0,
            from_replica: to.from.0,
            to_replica: to.to.0,
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            body: None,
        }
    }

    /// Begins a session; an older one between the same replicas ends.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`].
    pub(super) fn open_session(&self, to: &PeerAddress) -> Result<Session, PeerError> {
        let (requests_in, requests) = mpsc::channel(SESSION_REQUESTS_MAX);
        // Room for the answer to every credit and for one error.
        let (responses, responses_out) = mpsc::channel(SESSION_CREDITS + 1);
        let credits = Arc::new(Credits::new());
        let envelope = self.envelope(to);
        let (id, key) = (envelope.id, (to.range, to.from, to.to));
        let mut waiting = self.waiting.lock();
        if let Some(error) = &waiting.broken {
            return Err(error.clone());
        }
        let out = SessionOut { envelope, requests, credits: credits.clone(), has_ended: false };
        if self.items.try_send(Item::Session(out)).is_err() {
            return Err(PeerError::Unreachable("the stream is overloaded".into()));
        }
        if let Some(old) = waiting.by_key.insert(key, id) {
            waiting.remove_session(old);
            waiting.by_key.insert(key, id);
        }
        waiting.sessions.insert(id, SessionIn { key, responses, credits });
        Ok(Session { requests: requests_in, responses: responses_out })
    }

    /// Sends `body` and waits at most `limit` for its answer.
    pub(super) fn call(
        self: &Arc<Self>,
        to: &PeerAddress,
        body: Body,
        urgency: Urgency,
        limit: Duration,
    ) -> BoxFuture<'static, Answer> {
        let message = Message { body: Some(body), ..self.envelope(to) };
        match self.ask(message, urgency) {
            Ok(asked) => Box::pin(asked.answer(limit)),
            Err(error) => Box::pin(async { Err(error) }),
        }
    }

    /// Sends a client's operation, whose answer [`Asked::answer`] waits for.
    ///
    /// # Errors
    /// It certainly was not sent.
    pub(super) fn forward(self: &Arc<Self>, request: ForwardRequest) -> Result<Asked, PeerError> {
        let message = Message {
            range_id: request.range_id,
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            body: Some(Body::Forward(request)),
            ..Message::default()
        };
        self.ask(message, Urgency::Now)
    }

    fn ask(self: &Arc<Self>, message: Message, urgency: Urgency) -> Result<Asked, PeerError> {
        let id = message.id;
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if let Some(error) = waiting.broken.clone() {
                return Err(error);
            }
            waiting.calls.insert(id, sender);
        }
        let asked = Asked { answer, _forget: Forget { conn: self.clone(), id } };
        if !self.post(message, urgency) {
            return Err(PeerError::Unreachable("the stream is overloaded".into()));
        }
        Ok(asked)
    }

    fn post(&self, message: Message, urgency: Urgency) -> bool {
        if urgency == Urgency::Now {
            return self.items.try_send(Item::Message(message)).is_ok();
        }
        let mut lazy = self.lazy.lock();
        if lazy.len() >= OUTBOX_ITEMS_MAX {
            return false;
        }
        lazy.push(message);
        // Only the first one needs to start the clock; the rest ride along.
        lazy.len() > 1 || self.items.try_send(Item::Lazy).is_ok()
    }

    /// Hands an answer to whoever waits for it; one nobody waits for any more is dropped.
    pub(super) fn deliver(&self, message: Message) {
        let Some(body) = message.body else { return };
        match body {
            Body::AppendResponse(response) => self.deliver_append(message.id, response),
            Body::SessionEnded(end) => {
                let session = self.waiting.lock().remove_session(message.id);
                if let Some(session) = session.filter(|_| !end.reason.is_empty()) {
                    // A full channel means that the replica has not even read the answers before.
                    let _ = session.responses.try_send(Err(PeerError::Refused(end.reason)));
                }
            }
            Body::Refusal(refusal) => {
                self.answer(message.id, Err(PeerError::Refused(refusal.reason)));
            }
            body => self.answer(message.id, Ok(body)),
        }
    }

    fn answer(&self, id: u64, answer: Answer) {
        if let Some(caller) = self.waiting.lock().calls.remove(&id) {
            // The caller may have gone in this moment.
            let _ = caller.send(answer);
        }
    }

    fn deliver_append(&self, id: u64, response: AppendResponse) {
        let mut waiting = self.waiting.lock();
        let Some(session) = waiting.sessions.get(&id) else { return };
        if session.responses.try_send(Ok(response)).is_ok() {
            session.credits.give();
        } else {
            // The replica has dropped the session, or does not read it: end it.
            waiting.remove_session(id);
        }
    }

    /// The stream is gone: everything that waits fails with `error`, and so does what comes.
    pub(super) fn fail(&self, error: &PeerError) {
        let broken = Waiting { broken: Some(error.clone()), ..Waiting::default() };
        let mut waiting = std::mem::replace(&mut *self.waiting.lock(), broken);
        for (_, caller) in std::mem::take(&mut waiting.calls) {
            let _ = caller.send(Err(error.clone()));
        }
        for (_, session) in std::mem::take(&mut waiting.sessions) {
            session.credits.cancel();
            let _ = session.responses.try_send(Err(error.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use holdfast_model::{ClusterId, NodeId};
    use holdfast_wire::peer::v1::{AppendRequest, Refusal, SessionEnd, VoteRequest, VoteResponse};

    use super::*;

    fn address() -> PeerAddress {
        PeerAddress {
            cluster: ClusterId(1),
            range: RangeId(1),
            from: ReplicaId(1000),
            to: ReplicaId(1001),
            node: NodeId(2),
        }
    }

    async fn conn() -> (Arc<Conn>, Outbox) {
        let options = OutboxOptions {
            heartbeat_batch: Duration::from_millis(20),
            ping: Duration::from_secs(3600),
        };
        let (conn, mut outbox) = Conn::new(Hello::default(), options);
        outbox.next().await.unwrap();
        (conn, outbox)
    }

    const LIMIT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_call_gets_the_answer_with_its_own_number() {
        let (conn, mut outbox) = conn().await;
        let vote = || Body::Vote(VoteRequest::default());
        let first = conn.call(&address(), vote(), Urgency::Now, LIMIT);
        let second = conn.call(&address(), vote(), Urgency::Now, LIMIT);
        let sent = outbox.next().await.unwrap().messages;
        for (i, message) in sent.into_iter().enumerate() {
            let granted = i == 1;
            let body = VoteResponse { granted, ..VoteResponse::default() };
            conn.deliver(Message { body: Some(Body::VoteResponse(body)), ..message });
        }
        for (call, expected) in [(first, false), (second, true)] {
            let Ok(Body::VoteResponse(answer)) = call.await else { panic!("no vote") };
            assert_eq!(answer.granted, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_times_out_and_is_forgotten() {
        let (conn, _outbox) = conn().await;
        let call = conn.call(&address(), Body::Vote(VoteRequest::default()), Urgency::Now, LIMIT);
        assert_eq!(call.await, Err(PeerError::Timeout));
        assert!(conn.waiting.lock().calls.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_reaches_the_caller_with_its_reason() {
        let (conn, mut outbox) = conn().await;
        let call = conn.call(&address(), Body::Vote(VoteRequest::default()), Urgency::Now, LIMIT);
        let message = outbox.next().await.unwrap().messages.remove(0);
        let refusal = Refusal { reason: "stopping".into(), unknown_replica: false };
        conn.deliver(Message { body: Some(Body::Refusal(refusal)), ..message });
        assert_eq!(call.await, Err(PeerError::Refused("stopping".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_stream_fails_everything_that_waits_and_all_that_follows() {
        let (conn, _outbox) = conn().await;
        let mut session = conn.open_session(&address()).unwrap();
        let call = conn.call(&address(), Body::Vote(VoteRequest::default()), Urgency::Now, LIMIT);
        let error = PeerError::Broken("reset".into());
        conn.fail(&error);
        assert_eq!(call.await, Err(error.clone()));
        assert_eq!(session.responses.recv().await, Some(Err(error.clone())));
        assert_eq!(session.responses.recv().await, None);
        assert!(conn.open_session(&address()).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_give_credit_back_and_the_end_marker_ends_the_session() {
        let (conn, mut outbox) = conn().await;
        let mut session = conn.open_session(&address()).unwrap();
        let mut id = 0;
        for _ in 0..3 * SESSION_CREDITS {
            session.requests.try_send(AppendRequest::default()).unwrap();
            let message = outbox.next().await.unwrap().messages.pop().unwrap();
            id = message.id;
            conn.deliver(Message {
                body: Some(Body::AppendResponse(AppendResponse::default())),
                ..message
            });
            assert!(session.responses.recv().await.unwrap().is_ok());
        }
        conn.deliver(Message {
            id,
            body: Some(Body::SessionEnded(SessionEnd::default())),
            ..Message::default()
        });
        assert_eq!(session.responses.recv().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_session_between_the_same_replicas_ends_the_first() {
        let (conn, mut outbox) = conn().await;
        let mut first = conn.open_session(&address()).unwrap();
        let mut second = conn.open_session(&address()).unwrap();
        assert_eq!(first.responses.recv().await, None);
        let bodies: Vec<_> = outbox.next().await.unwrap().messages;
        let ends = bodies.iter().filter(|m| matches!(m.body, Some(Body::SessionEnd(_)))).count();
        assert_eq!((bodies.len(), ends), (3, 1));
        second.requests.try_send(AppendRequest::default()).unwrap();
        let message = outbox.next().await.unwrap().messages.remove(0);
        conn.deliver(Message {
            body: Some(Body::AppendResponse(AppendResponse::default())),
            ..message
        });
        assert!(second.responses.recv().await.unwrap().is_ok());
    }
}
