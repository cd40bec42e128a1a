//! Watches that survive the failure of whoever serves them.
//!
//! A watch holds the token of everything it has handed out. When its stream breaks, another node
//! goes on from that token, so there is no gap and no event twice.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use holdfast_model::{RangeId, Revision, position};
use holdfast_runtime::Elapsed;
use holdfast_wire::v1;
use tonic::Streaming;

use crate::call::{Limit, Prefer};
use crate::client::{Client, check_deadline};
use crate::error::Error;
use crate::method;
use crate::options::with_deadline;
use crate::streams::{Break, Pauses, break_of, break_of_info, open, shared_position};
use crate::types::Entry;

/// A broken watch looks for a node this long per round; it never gives up by itself.
const ROUND: Duration = Duration::from_secs(5);
/// The only watch on its stream.
const WATCH_ID: u64 = 1;

impl Client {
    /// Watches one key.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// let mut watch = client.watch_prefix("config/").start().await?;
    /// while let Ok(batch) = watch.next().await {
    ///     for event in batch.events {
    ///         println!("{:?} {:?}", event.kind, event.entry.key);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch(&self, key: impl Into<Bytes>) -> WatchBuilder {
        self.watch_with(key.into(), false)
    }

    /// Watches every key that starts with `prefix`; empty: all keys.
    pub fn watch_prefix(&self, prefix: impl Into<Bytes>) -> WatchBuilder {
        self.watch_with(prefix.into(), true)
    }

    fn watch_with(&self, key: Bytes, prefix: bool) -> WatchBuilder {
        let create = v1::WatchCreate { watch_id: WATCH_ID, key, prefix, ..Default::default() };
        WatchBuilder { client: self.clone(), create, progress: false }
    }
}

/// Options of a watch. Made by [`Client::watch`] and [`Client::watch_prefix`].
#[derive(Clone, Debug)]
#[must_use = "a watch does nothing until it is started"]
pub struct WatchBuilder {
    client: Client,
    create: v1::WatchCreate,
    progress: bool,
}

impl WatchBuilder {
    with_deadline!();

    /// Begins with this revision instead of now, in every range of the watch: meant for keys of
    /// one range. Over several, use [`WatchBuilder::resume`].
    pub fn from_revision(mut self, revision: Revision) -> Self {
        self.create.from_revision = revision.0;
        self
    }

    /// Goes on after everything that the batch with this token and those before it held.
    pub fn resume(mut self, token: impl Into<Bytes>) -> Self {
        self.create.resume_token = token.into();
        self
    }

    /// Gives the entry before the change with every event.
    pub fn previous(mut self) -> Self {
        self.create.previous = true;
        self
    }

    /// Leaves puts out.
    pub fn no_puts(mut self) -> Self {
        self.create.no_puts = true;
        self
    }

    /// Leaves deletes out.
    pub fn no_deletes(mut self) -> Self {
        self.create.no_deletes = true;
        self
    }

    /// Only keys held by this range.
    pub fn range_id(mut self, range: RangeId) -> Self {
        self.create.range_id = range.0;
        self
    }

    /// Also gives batches without events, which say how far a range has been followed.
    pub fn progress(mut self) -> Self {
        self.progress = true;
        self
    }

    /// Starts the watch: every change after this has returned will be seen.
    ///
    /// # Errors
    /// [`Error::Compacted`] for where it should begin (said here, or by the first [`Watch::next`]);
    /// [`Error::Deadline`]; otherwise what the request is at fault for.
    pub async fn start(self) -> Result<Watch, Error> {
        check_deadline(self.client.deadline)?;
        let Self { client, mut create, progress } = self;
        create.keyspace = client.wire_keyspace();
        create.direct = client.inner.config.direct;
        let limit = client.limit();
        let pauses = Pauses::default();
        let mut watch = Watch { client, create, progress, messages: None, pauses, is_done: false };
        let mut last = "no node answered".to_owned();
        loop {
            match limit.deadline.limit(watch.open(limit)).await {
                Ok(Ok(())) => return Ok(watch),
                Ok(Err(Break::Mendable(error))) if !watch.client.inner.config.direct => {
                    last = error.to_string();
                }
                Ok(Err(end)) => return Err(end.into_error()),
                Err(Elapsed) => return Err(Error::Deadline { deadline: limit.total, last }),
            }
        }
    }
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put,
    /// It was deleted, or has expired.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The entry after a put; of a delete, key and revision only.
    pub entry: Entry,
    /// The entry before, if asked for and there was one.
    pub previous: Option<Entry>,
}

/// Whole revisions of one range, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchBatch {
    /// The range.
    pub range: RangeId,
    /// The range has been followed up to this revision.
    pub revision: Revision,
    /// The changes; none in a progress notice.
    pub events: Vec<Event>,
    /// Resumes after this batch, in this process or another.
    pub resume_token: Bytes,
}

/// A watch under way. Breaks are mended without a gap and without an event twice.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    create: v1::WatchCreate,
    progress: bool,
    messages: Option<Streaming<v1::WatchResponse>>,
    pauses: Pauses,
    is_done: bool,
}

impl Watch {
    /// Waits for the next batch, as long as it takes. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Compacted`]: too far behind; read the present, then watch anew.
    /// [`Error::StreamLost`]: broke before it had a token; likewise. Otherwise what the request is
    /// at fault for. After an error the watch has ended.
    pub async fn next(&mut self) -> Result<WatchBatch, Error> {
        loop {
            if self.is_done {
                return Err(Error::StreamLost("the watch has ended".to_owned()));
            }
            match self.step().await {
                Ok(Some(batch)) => return Ok(batch),
                Ok(None) => {}
                Err(Break::Mendable(_)) if !self.client.inner.config.direct => {
                    self.messages = None;
                }
                Err(end) => {
                    self.is_done = true;
                    self.messages = None;
                    return Err(end.into_error());
                }
            }
        }
    }

    /// Resumes after everything handed out so far; empty while nothing has been promised yet.
    pub fn resume_token(&self) -> &Bytes {
        &self.create.resume_token
    }

    /// Gives the batches as a stream that ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<WatchBatch, Error>> + Send + Unpin {
        let step = |watch: Option<Self>| async move {
            let mut watch = watch?;
            match watch.next().await {
                Ok(batch) => Some((Ok(batch), Some(watch))),
                Err(error) => Some((Err(error), None)),
            }
        };
        Box::pin(stream::unfold(Some(self), step))
    }

    async fn step(&mut self) -> Result<Option<WatchBatch>, Break> {
        if self.messages.is_none() {
            self.open(Limit::after(ROUND)).await?;
        }
        let Some(messages) = &mut self.messages else { return Ok(None) };
        let message = match messages.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(self.unless_lost(mendable("the server ended the stream"))),
            Err(status) => return Err(self.unless_lost(break_of(&status))),
        };
        self.pauses.reset();
        self.take(message)
    }

    /// Opens a stream where the watch has got to, and waits until it is established.
    async fn open(&mut self, limit: Limit) -> Result<(), Break> {
        self.pauses.wait(&self.client).await;
        let place = if self.create.prefix {
            shared_position(&self.create.key)
        } else {
            Some(position(&self.create.key))
        };
        let node = self.client.stream_node(place, Prefer::Leader, limit).await;
        let node = node.map_err(|error| match error {
            error if error.is_retryable() => Break::Mendable(error),
            error => Break::Final(error),
        })?;
        let node = node.ok_or_else(|| mendable("no endpoint is configured"))?;
        let create = v1::watch_request::Request::Create(self.create.clone());
        let create = v1::WatchRequest { request: Some(create) };
        // The requests end only with the watch: their end would cancel it.
        let requests = stream::iter([create]).chain(stream::pending());
        let mut messages = open(&node, method::WATCH, requests, false).await?;
        let first = limit.deadline.limit(messages.message()).await;
        let first = match first {
            Ok(Ok(Some(first))) => first,
            Ok(Ok(None)) => return Err(mendable("the server ended the stream")),
            Ok(Err(status)) => return Err(break_of(&status)),
            Err(Elapsed) => {
                node.suspect();
                return Err(mendable("the watch was not established in time"));
            }
        };
        if let Some(end) = end_of(&first) {
            return Err(end);
        }
        if !first.created {
            let text = "the first answer does not establish the watch".to_owned();
            return Err(Break::Final(Error::Malformed(text)));
        }
        self.establish(&first);
        self.messages = Some(messages);
        self.pauses.reset();
        Ok(())
    }

    /// Fixes where "now" was, so that a break before the first event leaves no gap.
    fn establish(&mut self, created: &v1::WatchResponse) {
        if !created.resume_token.is_empty() {
            self.create.resume_token = created.resume_token.clone();
        }
        let is_open = self.create.resume_token.is_empty() && self.create.from_revision == 0;
        if let (true, Some(header)) = (is_open && !self.create.prefix, &created.header) {
            self.create.from_revision = header.revision + 1;
        }
    }

    fn take(&mut self, message: v1::WatchResponse) -> Result<Option<WatchBatch>, Break> {
        if let Some(end) = end_of(&message) {
            return Err(self.unless_lost(end));
        }
        if !message.resume_token.is_empty() {
            self.create.resume_token = message.resume_token.clone();
        }
        if message.events.is_empty() && !(message.progress && self.progress) {
            return Ok(None);
        }
        let events: Result<Vec<Event>, Break> = message.events.into_iter().map(event_of).collect();
        let header = message.header.unwrap_or_default();
        Ok(Some(WatchBatch {
            range: RangeId(header.range_id),
            revision: Revision(header.revision),
            events: events?,
            resume_token: message.resume_token,
        }))
    }

    /// Without a place to resume from, a new stream would begin at a later "now".
    fn unless_lost(&self, end: Break) -> Break {
        let has_place = !self.create.resume_token.is_empty() || self.create.from_revision != 0;
        match end {
            Break::Mendable(error) if !has_place => {
                Break::Final(Error::StreamLost(error.to_string()))
            }
            end => end,
        }
    }
}

fn mendable(text: &str) -> Break {
    Break::Mendable(Error::Unavailable(text.to_owned()))
}

/// Why the server ended the watch, if it did.
fn end_of(message: &v1::WatchResponse) -> Option<Break> {
    if !message.canceled {
        return None;
    }
    Some(match &message.cancel_error {
        Some(info) => break_of_info(info),
        None => mendable("the server ended the watch"),
    })
}

fn event_of(event: v1::WatchEvent) -> Result<Event, Break> {
    let kind = match event.kind() {
        v1::watch_event::Kind::Put => EventKind::Put,
        v1::watch_event::Kind::Delete => EventKind::Delete,
        v1::watch_event::Kind::Unspecified => {
            let text = "an event of no kind".to_owned();
            return Err(Break::Final(Error::Malformed(text)));
        }
    };
    let entry = event.entry.map(Entry::from).unwrap_or_default();
    Ok(Event { kind, entry, previous: event.previous.map(Entry::from) })
}
