//! Service `Watch`: many watches on one stream.
//!
//! Requests are carried out in their order, one at a time, while the events of the watches that
//! stand go on. All of it happens while the client takes its answers: one that does not read stops
//! its watches here, they fall back to reading history at its own pace.
//! Invariants:
//! * A watch is told to be created before anything else is said about it, and nothing follows its
//!   end.
//! * Watches are told to be created in the order in which they were asked for.
//! * A progress for all watches of a stream is not ahead of any event of any of them.
//!
//! What only this node cannot serve any longer ends the stream instead of a watch: clients open
//! another one, elsewhere, and go on where they were.

mod answer;
mod open;
mod progress;

use std::collections::{BTreeMap, VecDeque};

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, pending};
use futures_util::stream::{self, BoxStream, SelectAll};
use holdfast_node::api::{ApiError, Operation, WatchItem};
use holdfast_runtime::{Interval, interval};
use holdfast_wire::etcd::etcdserverpb::watch_request::RequestUnion;
use holdfast_wire::etcd::etcdserverpb::{
    ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse, watch_server,
};
use tonic::{Code, Request, Response, Status, Streaming, async_trait};

use crate::call::{Asked, Service};
use answer::{ended, fragments, happened, refused};
use open::{Given, OpenWatch, Opened, Wish, open};
use progress::Round;

/// Watches of a stream. etcd knows no bound.
const WATCHES_MAX: usize = 10_000;
/// A watch's id where the client leaves it to the server.
const AUTOMATIC_ID: i64 = 0;

type Answer = Result<WatchResponse, Status>;
/// What a step of a stream says, or why it is the last one.
type Said = Result<Vec<WatchResponse>, Status>;

#[async_trait]
impl watch_server::Watch for Service {
    type WatchStream = BoxStream<'static, Answer>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let asked = self.asked(request.metadata())?;
        let multiplexer = Box::new(Multiplexer {
            service: self.clone(),
            asked: asked.clone(),
            requests: Some(request.into_inner()),
            opening: None,
            said: VecDeque::new(),
            watches: BTreeMap::new(),
            items: SelectAll::new(),
            next_id: 0,
            round: None,
            beat: interval(self.progress_notify_interval()),
        });
        let answers = stream::unfold(multiplexer, |mut multiplexer| async move {
            let answer = multiplexer.next().await?;
            Some((answer, multiplexer))
        });
        Ok(Response::new(self.while_led(&asked, answers.boxed())))
    }
}

/// One stream and its watches.
struct Multiplexer {
    service: Service,
    asked: Asked,
    /// What the client still asks for; `None` once it only listens.
    requests: Option<Streaming<WatchRequest>>,
    /// The watch that is being opened; requests behind it wait.
    opening: Option<BoxFuture<'static, Opened>>,
    /// What one step said and the client has not taken yet.
    said: VecDeque<Answer>,
    watches: BTreeMap<i64, OpenWatch>,
    items: SelectAll<BoxStream<'static, Given>>,
    /// The id of the next watch whose id is left to us, unless it is taken.
    next_id: i64,
    /// The wish for progress of all watches that is being answered.
    round: Option<Round>,
    /// When watches that want to hear now and then are told how far they are.
    beat: Interval,
}

impl Multiplexer {
    /// The next answer; `None` once nothing is watched and nothing can be asked for any more.
    async fn next(&mut self) -> Option<Answer> {
        loop {
            if let Some(answer) = self.said.pop_front() {
                return Some(answer);
            }
            if self.requests.is_none() && self.opening.is_none() && self.watches.is_empty() {
                return None;
            }
            match self.step().await {
                Ok(answers) => self.said.extend(answers.into_iter().map(Ok)),
                Err(status) => {
                    // Its last word.
                    (self.requests, self.opening) = (None, None);
                    self.watches.clear();
                    return Some(Err(status));
                }
            }
        }
    }

    async fn step(&mut self) -> Said {
        tokio::select! {
            request = asked(&mut self.requests), if self.opening.is_none() => match request {
                Some(Ok(request)) => Ok(self.asked_for(request)),
                Some(Err(status)) => Err(status),
                // A client that only listens from here on keeps its watches.
                None => {
                    self.requests = None;
                    Ok(Vec::new())
                }
            },
            opened = opened(&mut self.opening) => {
                self.opening = None;
                self.opened(opened)
            }
            Some(given) = self.items.next(), if !self.items.is_empty() => self.given(given),
            () = self.beat.tick() => {
                self.ask_the_quiet();
                Ok(Vec::new())
            }
        }
    }

    fn asked_for(&mut self, request: WatchRequest) -> Vec<WatchResponse> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => match self.wish(create) {
                Ok(wish) => {
                    self.opening = Some(open(self.service.clone(), self.asked.clone(), wish));
                    Vec::new()
                }
                Err(reason) => vec![refused(self.header_now(), reason)],
            },
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => {
                self.begin_round();
                Vec::new()
            }
            // etcd says nothing to what it does not know either.
            None => Vec::new(),
        }
    }

    /// A watch as it is asked for, with its id.
    ///
    /// # Errors
    /// Why there is none, in the words of etcd where it has any.
    fn wish(&mut self, create: WatchCreateRequest) -> Result<Wish, String> {
        let id = create.watch_id;
        let mut wish = Wish::of(create)?;
        if self.watches.len() >= WATCHES_MAX {
            return Err(format!(
                "etcdserver: too many watches on a stream (at most {WATCHES_MAX})"
            ));
        }
        wish.id = match id {
            AUTOMATIC_ID => {
                while self.watches.contains_key(&self.next_id) {
                    self.next_id += 1;
                }
                self.next_id += 1;
                self.next_id - 1
            }
            taken if self.watches.contains_key(&taken) => {
                return Err("mvcc: duplicate watch ID provided on the WatchStream".to_owned());
            }
            free => free,
        };
        Ok(wish)
    }

    /// Tells that a watch stands, or that it does not.
    fn opened(&mut self, opened: Opened) -> Said {
        let Opened { wish, begun } = opened;
        let (header, items) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                let status = crate::error_of(&error);
                if is_of_this_node(&status) {
                    return Err(status);
                }
                let reason = reason_of(&error, &status);
                if error.is_about_caller() && self.next_id == wish.id + 1 {
                    // etcd gives no number to a watch that is not allowed.
                    self.next_id = wish.id;
                }
                return Ok(vec![refused(self.header_now(), reason)]);
            }
        };
        let observer = self.service.gateway.observer().clone();
        let (watch, items) = OpenWatch::new(&wish, items, observer);
        self.watches.insert(wish.id, watch);
        self.items.push(items);
        let header = Some(self.service.answers(&self.asked).header(&header));
        let (watch_id, created) = (wish.id, true);
        Ok(vec![WatchResponse { header, watch_id, created, ..WatchResponse::default() }])
    }

    fn cancel(&mut self, watch_id: i64) -> Vec<WatchResponse> {
        if self.watches.remove(&watch_id).is_none() {
            return Vec::new();
        }
        let (header, canceled) = (Some(self.header_now()), true);
        let canceled = WatchResponse { header, watch_id, canceled, ..WatchResponse::default() };
        let rest = self.left_round(watch_id);
        std::iter::once(canceled).chain(rest).collect()
    }

    /// What to say about an item of a watch.
    fn given(&mut self, given: Given) -> Said {
        let Given { id, item } = given;
        // Cancelled by the client: its answer has gone out, nothing may follow it.
        let Some(watch) = self.watches.get_mut(&id) else { return Ok(Vec::new()) };
        let answers = self.service.answers(&self.asked);
        match item {
            Ok(WatchItem::Created { .. }) => Ok(Vec::new()),
            Ok(WatchItem::Events { header, revisions, .. }) => {
                watch.is_quiet = false;
                let happened = happened(answers.header(&header), id, revisions);
                let limit = watch.fragment.then(|| self.service.message_bytes_max());
                Ok(fragments(happened, limit))
            }
            Ok(WatchItem::Progress { header, .. }) => {
                let own = watch.take_progress(header.revision);
                let header = answers.header(&header);
                let own = own.then(|| WatchResponse {
                    header: Some(header),
                    watch_id: id,
                    ..WatchResponse::default()
                });
                let all = self.reached(id, header);
                Ok(own.into_iter().chain(all).collect())
            }
            Ok(WatchItem::Canceled { error, .. }) | Err(error) => self.failed(id, &error),
        }
    }

    /// Ends a watch that cannot go on, or the stream where another node can go on with it.
    fn failed(&mut self, id: i64, error: &ApiError) -> Said {
        let gateway = &self.service.gateway;
        gateway.finished(Operation::Watch, None, Some(error), gateway.now());
        self.watches.remove(&id);
        let status = crate::error_of(error);
        if is_of_this_node(&status) {
            return Err(status);
        }
        // As etcd's, it tells no revision: the watch is behind that of now.
        let header = ResponseHeader { revision: 0, ..self.header_now() };
        let ended = match error {
            ApiError::Compacted { oldest } => ended(header, id, Some(*oldest), String::new()),
            _ => ended(header, id, None, status.message().to_owned()),
        };
        let rest = self.left_round(id);
        Ok(std::iter::once(ended).chain(rest).collect())
    }

    fn header_now(&self) -> ResponseHeader {
        let gateway = &self.service.gateway;
        let header = gateway.standing(&self.asked.keyspace).header;
        let header = header.unwrap_or_else(|| gateway.plain_header());
        self.service.answers(&self.asked).header(&header)
    }
}

/// Whether what happened says nothing about the watch, only about the node that serves it.
fn is_of_this_node(status: &Status) -> bool {
    status.code() == Code::Unavailable
}

/// Why there is no watch. Of what is about the caller etcd's clients look for the words that its
/// transport has for an error as a whole.
fn reason_of(error: &ApiError, status: &Status) -> String {
    match error.is_about_caller() {
        true => format!("rpc error: code = {:?} desc = {}", status.code(), status.message()),
        false => status.message().to_owned(),
    }
}

/// What the client asks for next; never anything, where it only listens.
async fn asked(
    requests: &mut Option<Streaming<WatchRequest>>,
) -> Option<Result<WatchRequest, Status>> {
    match requests {
        Some(requests) => requests.next().await,
        None => pending().await,
    }
}

/// The watch that is being opened, when it stands or does not; never, where none is.
async fn opened(opening: &mut Option<BoxFuture<'static, Opened>>) -> Opened {
    match opening {
        Some(opening) => opening.await,
        None => pending().await,
    }
}
