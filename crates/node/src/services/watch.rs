//! The watch stream of service `Kv`: many watches on one connection.
//!
//! Requests are read as they come; answers of all watches leave through one channel whose bound is
//! the back-pressure: a client that does not read stops its watches here, they fall back to reading
//! history at the client's own pace, and memory stays bounded.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::AbortHandle;
use futures_util::stream::{Abortable, BoxStream, SelectAll};
use holdfast_model::{RangeId, Revision};
use holdfast_runtime::spawn;
use holdfast_wire::v1::{self, watch_request::Request as Asked};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::api::{ApiError, Call, Items, Observer, Operation, Watch, WatchItem};
use crate::convert;
use crate::router::{Gateway, answer_by};

/// Answers that may wait for the client to read them.
const ANSWERS_WAITING_MAX: usize = 16;

type Answer = Result<v1::WatchResponse, Status>;

/// Serves one watch stream until the client ends it.
pub(super) fn serve(
    gateway: Gateway,
    call: Call,
    requests: Streaming<v1::WatchRequest>,
) -> BoxStream<'static, Answer> {
    let (answers, receiver) = mpsc::channel(ANSWERS_WAITING_MAX);
    let progress = watch::Sender::new(0);
    let (watches, items) = (BTreeMap::new(), SelectAll::new());
    let multiplexer = Multiplexer { gateway, call, answers, progress, watches, items };
    spawn(multiplexer.run(requests));
    ReceiverStream::new(receiver).boxed()
}

/// What one watch gives, with its id.
struct Given {
    id: u64,
    item: Result<WatchItem, ApiError>,
}

/// A watch under way: it ends, and is no longer counted, when this is dropped.
struct OpenWatch {
    handle: AbortHandle,
    observer: Arc<dyn Observer>,
}

impl OpenWatch {
    fn new(handle: AbortHandle, observer: Arc<dyn Observer>) -> Self {
        observer.watch_opened();
        Self { handle, observer }
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.handle.abort();
        self.observer.watch_closed();
    }
}

struct Multiplexer {
    gateway: Gateway,
    call: Call,
    answers: mpsc::Sender<Answer>,
    /// Counts the client's wishes for progress; every watch follows it.
    progress: watch::Sender<u64>,
    watches: BTreeMap<u64, OpenWatch>,
    items: SelectAll<BoxStream<'static, Given>>,
}

impl Multiplexer {
    async fn run(mut self, mut requests: Streaming<v1::WatchRequest>) {
        let mut reading = true;
        while reading || !self.watches.is_empty() {
            let answer = tokio::select! {
                request = requests.next(), if reading => match request {
                    Some(Ok(request)) => self.asked(request),
                    Some(Err(status)) => {
                        // The stream is broken or was refused: that is its last word.
                        let _ = self.answers.send(Err(status)).await;
                        return;
                    }
                    // A client that only listens from here on keeps its watches.
                    None => {
                        reading = false;
                        None
                    }
                },
                Some(given) = self.items.next(), if !self.items.is_empty() => self.given(given),
                () = self.answers.closed() => return,
            };
            if let Some(answer) = answer
                && self.answers.send(Ok(answer)).await.is_err()
            {
                return;
            }
        }
    }

    fn asked(&mut self, request: v1::WatchRequest) -> Option<v1::WatchResponse> {
        match request.request {
            Some(Asked::Create(create)) => self.create(create),
            Some(Asked::Cancel(cancel)) => {
                drop(self.watches.remove(&cancel.watch_id)?);
                Some(v1::WatchResponse {
                    watch_id: cancel.watch_id,
                    canceled: true,
                    ..Default::default()
                })
            }
            Some(Asked::Progress(_)) => {
                self.progress.send_modify(|count| *count += 1);
                None
            }
            None => {
                let error = ApiError::Invalid("watch request: none of its kinds is set".into());
                Some(refused(0, &error))
            }
        }
    }

    fn create(&mut self, create: v1::WatchCreate) -> Option<v1::WatchResponse> {
        let id = create.watch_id;
        let most = self.gateway.limits().watches_per_stream_max;
        if self.watches.contains_key(&id) {
            let error = ApiError::Invalid(format!("watch_id: {id} is in use on this stream"));
            return Some(refused(id, &error));
        }
        if self.watches.len() >= most {
            let error = ApiError::too_large("watches of a stream", most, most + 1);
            return Some(refused(id, &error));
        }
        let mut call = self.call.clone();
        call.direct = create.direct;
        call.deadline = answer_by(self.gateway.limits().deadline(None));
        let items = self.gateway.watch(&call, watch_of(create, self.progress.subscribe()));
        let (handle, registration) = AbortHandle::new_pair();
        self.watches.insert(id, OpenWatch::new(handle, self.gateway.observer().clone()));
        self.items.push(with_id(id, Abortable::new(items, registration)));
        None
    }

    /// The answer for an item; `None` where its watch has been cancelled by the client.
    fn given(&mut self, given: Given) -> Option<v1::WatchResponse> {
        let Given { id, item } = given;
        // Cancelled by the client: its answer has gone out, nothing may follow it.
        self.watches.get(&id)?;
        let error = match &item {
            Ok(WatchItem::Canceled { error, .. }) | Err(error) => Some(error),
            Ok(_) => None,
        };
        if let Some(error) = error {
            let now = self.gateway.now();
            self.gateway.finished(Operation::Watch, None, Some(error), now);
            self.watches.remove(&id);
        }
        Some(match item {
            Ok(item) => response(id, item),
            Err(error) => refused(id, &error),
        })
    }
}

fn with_id(id: u64, items: Abortable<Items<WatchItem>>) -> BoxStream<'static, Given> {
    items.map(move |item| Given { id, item }).boxed()
}

fn watch_of(create: v1::WatchCreate, progress: watch::Receiver<u64>) -> Watch {
    Watch {
        keyspace: create.keyspace,
        key: create.key,
        prefix: create.prefix,
        end: None,
        from: Revision(create.from_revision),
        resume_token: create.resume_token,
        previous: create.previous,
        no_puts: create.no_puts,
        no_deletes: create.no_deletes,
        range: RangeId(create.range_id),
        progress: Some(progress),
    }
}

/// A watch that could not be created: created and cancelled in one answer.
fn refused(watch_id: u64, error: &ApiError) -> v1::WatchResponse {
    v1::WatchResponse {
        watch_id,
        created: true,
        canceled: true,
        cancel_error: Some(error.info()),
        ..Default::default()
    }
}

fn response(watch_id: u64, item: WatchItem) -> v1::WatchResponse {
    let answer = v1::WatchResponse { watch_id, ..Default::default() };
    match item {
        WatchItem::Created { header, resume_token } => v1::WatchResponse {
            header: Some(convert::header(&header)),
            created: true,
            resume_token,
            ..answer
        },
        WatchItem::Events { header, revisions, resume_token } => {
            let events = revisions.into_iter().flat_map(|revision| revision.events);
            v1::WatchResponse {
                header: Some(convert::header(&header)),
                events: events.map(convert::event).collect(),
                resume_token,
                ..answer
            }
        }
        WatchItem::Progress { header, resume_token } => v1::WatchResponse {
            header: Some(convert::header(&header)),
            progress: true,
            resume_token,
            ..answer
        },
        WatchItem::Canceled { error, resume_token } => v1::WatchResponse {
            canceled: true,
            cancel_error: Some(error.info()),
            resume_token,
            ..answer
        },
    }
}
