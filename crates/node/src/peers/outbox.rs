//! The sending half of a stream: everything that is ready when it wakes goes into one frame.
//!
//! No timer fills a frame: what queues up while the last write is under way is the next frame.
//! Heartbeats alone may wait, [`OutboxOptions::heartbeat_batch`] at most, and travel with whatever
//! goes out before that.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{SelectAll, Stream};
use holdfast_wire::peer::v1::forward_request::Work;
use holdfast_wire::peer::v1::message::Body;
use holdfast_wire::peer::v1::{AppendRequest, Frame, Hello, Message, SessionEnd, SessionOpen};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::mpsc;

use super::credits::{Credits, Grant};

/// A frame is closed once it holds this many bytes; a larger message travels alone.
pub(super) const FRAME_BYTES: usize = 1024 * 1024;
/// Single messages that may wait for a stream.
pub(super) const OUTBOX_ITEMS_MAX: usize = 8_192;
/// Bytes a message is counted with besides its payload.
const MESSAGE_OVERHEAD_BYTES: usize = 64;

type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;

fn timer(wait: Duration) -> Timer {
    Box::pin(holdfast_runtime::sleep(wait))
}

/// What is handed to a stream.
#[derive(Debug)]
pub(super) enum Item {
    /// Goes out at once.
    Message(Message),
    /// The first of the heartbeats that wait in [`Lazy`]: start the clock.
    Lazy,
    /// A replication session begins.
    Session(SessionOut),
}

/// Heartbeats that wait for company.
pub(super) type Lazy = Arc<Mutex<Vec<Message>>>;

/// The sending half of one replication session.
#[derive(Debug)]
pub(super) struct SessionOut {
    /// A message with ids and addresses filled in; cloned for every request.
    pub(super) envelope: Message,
    pub(super) requests: mpsc::Receiver<AppendRequest>,
    pub(super) credits: Arc<Credits>,
    pub(super) has_ended: bool,
}

impl SessionOut {
    fn message(&self, body: Body) -> Message {
        Message { body: Some(body), ..self.envelope.clone() }
    }
}

impl Stream for SessionOut {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let request = match self.credits.poll_ready(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Grant::End) => None,
            Poll::Ready(Grant::Go) => match self.requests.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(request) => request,
            },
        };
        let body = match request {
            Some(request) => {
                self.credits.take();
                Body::Append(request)
            }
            None => {
                self.has_ended = true;
                Body::SessionEnd(SessionEnd::default())
            }
        };
        Poll::Ready(Some(self.message(body)))
    }
}

/// How an outbox behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutboxOptions {
    /// Heartbeats wait this long for company.
    pub(super) heartbeat_batch: Duration,
    /// An empty frame is sent where nothing went out for this long.
    pub(super) ping: Duration,
}

/// The stream of frames that gRPC sends.
pub(super) struct Outbox {
    items: mpsc::Receiver<Item>,
    lazy: Lazy,
    sessions: SelectAll<SessionOut>,
    /// Collected but not yet in a frame: opening messages, and one that was too large.
    ready: VecDeque<Message>,
    hello: Option<Hello>,
    lazy_timer: Option<Timer>,
    ping_timer: Timer,
    has_sent_since_ping: bool,
    options: OutboxOptions,
}

impl Outbox {
    pub(super) fn new(
        items: mpsc::Receiver<Item>,
        lazy: Lazy,
        hello: Hello,
        options: OutboxOptions,
    ) -> Self {
        Self {
            items,
            lazy,
            sessions: SelectAll::new(),
            ready: VecDeque::new(),
            hello: Some(hello),
            lazy_timer: None,
            ping_timer: timer(options.ping),
            has_sent_since_ping: false,
            options,
        }
    }

    fn poll_items(&mut self, context: &mut Context<'_>, frame: &mut Filling) -> Poll<()> {
        while !frame.is_full() {
            let Poll::Ready(item) = self.items.poll_recv(context) else { return Poll::Pending };
            match item {
                Some(Item::Message(message)) => self.put(frame, message),
                Some(Item::Lazy) => {
                    if self.lazy_timer.is_none() {
                        self.lazy_timer = Some(timer(self.options.heartbeat_batch));
                    }
                }
                Some(Item::Session(session)) => {
                    let open = session.message(Body::SessionOpen(SessionOpen {}));
                    self.put(frame, open);
                    self.sessions.push(session);
                }
                None => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    fn poll_sessions(&mut self, context: &mut Context<'_>, frame: &mut Filling) {
        while !frame.is_full() {
            match Pin::new(&mut self.sessions).poll_next(context) {
                Poll::Ready(Some(message)) => self.put(frame, message),
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
    }

    fn put(&mut self, frame: &mut Filling, message: Message) {
        if let Some(message) = frame.put(message) {
            self.ready.push_back(message);
        }
    }

    fn poll_timers(&mut self, context: &mut Context<'_>, frame: &mut Filling) {
        let is_due = match &mut self.lazy_timer {
            Some(timer) => timer.as_mut().poll(context).is_ready(),
            None => false,
        };
        if is_due || !frame.is_empty() {
            self.lazy_timer = None;
            let waiting = std::mem::take(&mut *self.lazy.lock());
            for message in waiting {
                self.put(frame, message);
            }
        }
        while self.ping_timer.as_mut().poll(context).is_ready() {
            frame.must_go |= !self.has_sent_since_ping;
            self.has_sent_since_ping = false;
            self.ping_timer = timer(self.options.ping);
        }
    }
}

impl Stream for Outbox {
    type Item = Frame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        let this = &mut *self;
        if let Some(hello) = this.hello.take() {
            return Poll::Ready(Some(Frame { messages: Vec::new(), hello: Some(hello) }));
        }
        let mut frame = Filling::default();
        while let Some(message) = this.ready.pop_front() {
            if let Some(message) = frame.put(message) {
                this.ready.push_front(message);
                break;
            }
        }
        let is_closed = this.poll_items(context, &mut frame).is_ready();
        this.poll_sessions(context, &mut frame);
        this.poll_timers(context, &mut frame);
        match frame.finish() {
            Some(frame) => {
                this.has_sent_since_ping = true;
                Poll::Ready(Some(frame))
            }
            None if is_closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// A frame that is being filled.
#[derive(Debug, Default)]
pub(super) struct Filling {
    messages: Vec<Message>,
    bytes: usize,
    must_go: bool,
    was_refused: bool,
}

impl Filling {
    /// Adds `message`, or gives it back where it belongs into the next frame.
    pub(super) fn put(&mut self, message: Message) -> Option<Message> {
        let bytes = weight(&message);
        if !self.messages.is_empty() && self.bytes + bytes > FRAME_BYTES {
            self.was_refused = true;
            return Some(message);
        }
        self.bytes += bytes;
        self.messages.push(message);
        None
    }

    /// Whether nothing more should be added.
    pub(super) fn is_full(&self) -> bool {
        self.was_refused || self.bytes >= FRAME_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Sends the frame even if it is empty.
    pub(super) fn force(&mut self) {
        self.must_go = true;
    }

    pub(super) fn finish(self) -> Option<Frame> {
        let goes = self.must_go || !self.messages.is_empty();
        goes.then_some(Frame { messages: self.messages, hello: None })
    }
}

fn weight(message: &Message) -> usize {
    let payload = match &message.body {
        Some(Body::Append(append)) => {
            append.entries.iter().map(|e| e.payload.len() + MESSAGE_OVERHEAD_BYTES).sum()
        }
        Some(Body::Forward(request)) => match &request.work {
            Some(Work::Command(command)) => command.len(),
            _ => request.encoded_len(),
        },
        Some(Body::ForwardResponse(response)) => response.encoded_len(),
        _ => 0,
    };
    payload + MESSAGE_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::StreamExt;
    use futures_util::future::poll_immediate;
    use holdfast_runtime::Deadline;
    use holdfast_wire::peer::v1::LogEntry;

    use super::*;

    struct Rig {
        items: mpsc::Sender<Item>,
        lazy: Lazy,
        outbox: Outbox,
    }

    async fn rig() -> Rig {
        let (items, receiver) = mpsc::channel(OUTBOX_ITEMS_MAX);
        let lazy = Lazy::default();
        let options = OutboxOptions {
            heartbeat_batch: Duration::from_millis(20),
            ping: Duration::from_millis(250),
        };
        let mut outbox = Outbox::new(receiver, lazy.clone(), Hello::default(), options);
        assert!(outbox.next().await.unwrap().hello.is_some());
        Rig { items, lazy, outbox }
    }

    fn numbered(id: u64) -> Message {
        Message { id, ..Message::default() }
    }

    fn append(bytes: usize) -> AppendRequest {
        let entry = LogEntry { payload: Bytes::from(vec![0; bytes]), log_id: None };
        AppendRequest { entries: vec![entry], ..AppendRequest::default() }
    }

    fn session(rig: &Rig) -> (mpsc::Sender<AppendRequest>, Arc<Credits>) {
        let (sender, requests) = mpsc::channel(SESSION_TEST_CAPACITY);
        let credits = Arc::new(Credits::new());
        let out = SessionOut {
            envelope: numbered(7),
            requests,
            credits: credits.clone(),
            has_ended: false,
        };
        rig.items.try_send(Item::Session(out)).unwrap();
        (sender, credits)
    }

    const SESSION_TEST_CAPACITY: usize = 256;

    #[tokio::test(start_paused = true)]
    async fn everything_that_is_ready_travels_in_one_frame() {
        let mut rig = rig().await;
        let (sender, _) = session(&rig);
        sender.try_send(append(10)).unwrap();
        sender.try_send(append(10)).unwrap();
        rig.items.try_send(Item::Message(numbered(1))).unwrap();
        let frame = rig.outbox.next().await.unwrap();
        assert_eq!(frame.messages.len(), 4, "open, one message, two appends");
        assert!(poll_immediate(rig.outbox.next()).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_is_bounded_and_a_large_message_travels_alone() {
        let mut rig = rig().await;
        let (sender, _) = session(&rig);
        sender.try_send(append(10)).unwrap();
        sender.try_send(append(4 * FRAME_BYTES)).unwrap();
        sender.try_send(append(10)).unwrap();
        let sizes = [2, 1, 1];
        for size in sizes {
            assert_eq!(rig.outbox.next().await.unwrap().messages.len(), size);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_session_sends_its_end_marker_once() {
        let mut rig = rig().await;
        let (sender, _) = session(&rig);
        sender.try_send(append(1)).unwrap();
        drop(sender);
        let bodies: Vec<_> =
            rig.outbox.next().await.unwrap().messages.into_iter().map(|m| m.body).collect();
        assert!(matches!(
            bodies.as_slice(),
            [Some(Body::SessionOpen(_)), Some(Body::Append(_)), Some(Body::SessionEnd(_))]
        ));
        assert!(poll_immediate(rig.outbox.next()).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_without_credit_does_not_hold_up_the_others() {
        let mut rig = rig().await;
        let (slow, credits) = session(&rig);
        for _ in 0..SESSION_TEST_CAPACITY {
            slow.try_send(append(1)).unwrap();
        }
        let sent = rig.outbox.next().await.unwrap().messages.len();
        assert_eq!(sent, 1 + super::super::credits::SESSION_CREDITS);
        let (other, _) = session(&rig);
        other.try_send(append(1)).unwrap();
        assert_eq!(rig.outbox.next().await.unwrap().messages.len(), 2);
        credits.give();
        assert_eq!(rig.outbox.next().await.unwrap().messages.len(), 1);
    }

    const HOUR: Duration = Duration::from_secs(3_600);

    /// Time that has passed since `Deadline::after(HOUR)`.
    fn since(deadline: Deadline) -> Duration {
        HOUR - deadline.remaining()
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_wait_for_company_but_not_for_long() {
        let mut rig = rig().await;
        rig.lazy.lock().extend([numbered(1), numbered(2)]);
        rig.items.try_send(Item::Lazy).unwrap();
        assert!(poll_immediate(rig.outbox.next()).await.is_none());
        let started = Deadline::after(HOUR);
        assert_eq!(rig.outbox.next().await.unwrap().messages.len(), 2);
        assert!(since(started) <= Duration::from_millis(21));
        rig.lazy.lock().push(numbered(3));
        rig.items.try_send(Item::Lazy).unwrap();
        rig.items.try_send(Item::Message(numbered(4))).unwrap();
        assert_eq!(poll_immediate(rig.outbox.next()).await.unwrap().unwrap().messages.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_sends_empty_frames() {
        let mut rig = rig().await;
        let started = Deadline::after(HOUR);
        assert_eq!(rig.outbox.next().await, Some(Frame::default()));
        let waited = since(started);
        assert!(waited >= Duration::from_millis(250) && waited < Duration::from_millis(260));
    }
}
