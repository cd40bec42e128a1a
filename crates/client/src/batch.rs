//! Batches: many keys of any ranges, independent of each other, one status each.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use holdfast_model::limits::SCAN_PAGE_BYTES_MAX;
use holdfast_model::{RangeId, Revision, position};
use holdfast_runtime::sleep;
use holdfast_wire::v1::{self, ErrorCode};

use crate::attempts::as_unknown;
use crate::call::{Ended, Kind, Limit, Plan, Prefer, Target};
use crate::client::{Client, check_deadline};
use crate::error::{Error, error_of_info};
use crate::map::Missing;
use crate::method;
use crate::operation::Operation;
use crate::options::{awaitable, with_deadline, with_read_options};
use crate::read::prefer;
use crate::types::{Condition, Entry, Staleness};

/// Most items of one request; a range remembers 1,024 unanswered ones per client.
const CHUNK_ITEMS: usize = 250;
/// Bytes after which a chunk is closed; one item may be larger.
const CHUNK_BYTES: usize = SCAN_PAGE_BYTES_MAX;
/// Requests of one batch under way at once.
const CHUNKS_UNDER_WAY: usize = 32;
/// Pause between rounds for the items that were refused for the moment: from …
const ROUND_PAUSE_MIN: Duration = Duration::from_millis(5);
/// … doubling to this.
const ROUND_PAUSE_MAX: Duration = Duration::from_millis(200);

impl Client {
    /// Reads many keys, of any ranges, in parallel. The answer has one result per key, in the
    /// order of the keys; a key that cannot be read does not hold back the others.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// for answer in client.batch_get(["config/port", "config/rate"]).await? {
    ///     match answer?.entry {
    ///         Some(entry) => println!("{:?} = {:?}", entry.key, entry.value),
    ///         None => println!("no such key"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch_get<K: Into<Bytes>>(&self, keys: impl IntoIterator<Item = K>) -> BatchGet {
        let keys = keys.into_iter().map(Into::into).collect();
        BatchGet { client: self.clone(), keys, read: self.read_options() }
    }

    /// Independent writes to many keys, of any ranges, in parallel.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// let results = client.batch().put("a", "1").put("b", "2").delete("c").await?;
    /// for result in results {
    ///     result?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch(&self) -> Batch {
        Batch { client: self.clone(), items: Vec::new() }
    }
}

/// Options of a batch get. Made by [`Client::batch_get`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct BatchGet {
    client: Client,
    keys: Vec<Bytes>,
    read: v1::ReadOptions,
}

/// What became of one key of a batch get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchGetAnswer {
    /// The entry; `None`: no such key.
    pub entry: Option<Entry>,
    /// Follower reads: how old the answer can be at most.
    pub staleness: Option<Staleness>,
}

impl BatchGet {
    with_deadline!();
    with_read_options!();

    /// Reads.
    ///
    /// # Errors
    /// As a whole only for what the request is at fault for; else one result per key.
    pub async fn send(self) -> Result<Vec<Result<BatchGetAnswer, Error>>, Error> {
        check_deadline(self.client.deadline)?;
        let limit = self.client.limit();
        let mut results: Vec<Option<Result<BatchGetAnswer, Error>>> = vec![None; self.keys.len()];
        let mut pending: Vec<usize> = (0..self.keys.len()).collect();
        let mut pause = ROUND_PAUSE_MIN;
        while !pending.is_empty() {
            let place = |index: &usize| self.keys.get(*index).map_or(0, |key| position(key));
            let cost = |index: &usize| self.keys.get(*index).map_or(0, Bytes::len);
            let chunks = self.client.chunks(&pending, place, cost, limit).await?;
            let rounds = chunks.into_iter().map(|chunk| self.read_chunk(chunk, limit));
            let answers: Vec<_> = bounded(rounds).await;
            pending.clear();
            for (index, result, may_retry) in answers.into_iter().flatten() {
                if may_retry {
                    pending.push(index);
                }
                if let Some(slot) = results.get_mut(index) {
                    *slot = Some(result);
                }
            }
            if self.client.inner.config.direct || limit.deadline.remaining() <= pause {
                break;
            }
            if !pending.is_empty() {
                sleep(self.client.inner.jitter(pause)).await;
                pause = (pause * 2).min(ROUND_PAUSE_MAX);
            }
        }
        Ok(results.into_iter().map(|r| r.unwrap_or_else(|| Err(unanswered()))).collect())
    }

    /// Reads one chunk; the flag says whether the key may be asked for again.
    async fn read_chunk(
        &self,
        chunk: Vec<usize>,
        limit: Limit,
    ) -> Vec<(usize, Result<BatchGetAnswer, Error>, bool)> {
        let keys: Vec<Bytes> = chunk.iter().filter_map(|i| self.keys.get(*i)).cloned().collect();
        let place = keys.first().map_or(0, |key| position(key));
        let request = v1::BatchGetRequest {
            keyspace: self.client.wire_keyspace(),
            keys,
            read: Some(self.read.clone()),
            direct: self.client.inner.config.direct,
        };
        let plan = Plan {
            target: Target::Position(&self.client.keyspace, place),
            prefer: prefer(&self.read),
            kind: Kind::Read,
            limit,
            waits: false,
        };
        match self.client.inner.call(&method::BATCH_GET, &request, plan).await {
            Err(Ended { error, .. }) => {
                chunk.into_iter().map(|index| (index, Err(error.clone()), false)).collect()
            }
            Ok(answer) => {
                let mut items = answer.items.into_iter();
                let item = |index| match items.next() {
                    Some(item) => read_item(index, item),
                    None => (index, Err(unanswered()), false),
                };
                chunk.into_iter().map(item).collect()
            }
        }
    }
}

awaitable!(BatchGet => Vec<Result<BatchGetAnswer, Error>>, send);

fn read_item(index: usize, item: v1::BatchGetItem) -> (usize, Result<BatchGetAnswer, Error>, bool) {
    if let Some(info) = refusal(item.status.as_ref()) {
        let error = error_of_info(&info);
        let may_retry = info.retryable || error.is_retryable();
        return (index, Err(error), may_retry);
    }
    let entry = if item.found { item.entry.map(Entry::from) } else { None };
    let staleness = item.staleness.map(Staleness::from);
    (index, Ok(BatchGetAnswer { entry, staleness }), false)
}

/// A batch of writes being put together. Made by [`Client::batch`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct Batch {
    client: Client,
    items: Vec<v1::BatchWriteItem>,
}

/// What became of one item of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchAnswer {
    /// Whether it was written; `false`: its condition did not hold.
    pub applied: bool,
    /// Not applied: what stands there; `None`: no such key.
    pub current: Option<Entry>,
    /// Applied, if asked for: the entry before. Lost when the answer came from a retry.
    pub previous: Option<Entry>,
    /// Applied: the revision of the change.
    pub revision: Revision,
    /// The range that holds the key.
    pub range: RangeId,
    /// Delete: how many keys; put: 1.
    pub count: u64,
    /// Increment: the number now.
    pub value: i64,
}

impl From<v1::BatchWriteResult> for BatchAnswer {
    fn from(result: v1::BatchWriteResult) -> Self {
        Self {
            applied: result.applied,
            current: result.current.map(Entry::from),
            previous: result.previous.map(Entry::from),
            revision: Revision(result.revision),
            range: RangeId(result.range_id),
            count: result.count,
            value: result.value,
        }
    }
}

impl Batch {
    with_deadline!();

    /// Adds a put.
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.push(Operation::put(key, value))
    }

    /// Adds a delete.
    pub fn delete(self, key: impl Into<Bytes>) -> Self {
        self.push(Operation::delete(key))
    }

    /// Adds an increment.
    pub fn increment(self, key: impl Into<Bytes>, delta: i64) -> Self {
        self.push(Operation::increment(key, delta))
    }

    /// Adds any write.
    pub fn push(mut self, operation: Operation) -> Self {
        self.items.push(item_of(operation, None));
        self
    }

    /// Adds a put or delete with a condition of its own.
    pub fn push_if(mut self, condition: Condition, operation: Operation) -> Self {
        self.items.push(item_of(operation, Some(condition.into())));
        self
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Writes. Each item runs exactly once (at most once without sessions).
    ///
    /// # Errors
    /// As a whole only for what the request is at fault for, before anything was sent; else one
    /// result per item, in their order.
    pub async fn send(self) -> Result<Vec<Result<BatchAnswer, Error>>, Error> {
        check_deadline(self.client.deadline)?;
        if self.items.iter().any(|item| item.operation.is_none()) {
            return Err(Error::Invalid("a batch writes; reads belong in batch_get".to_owned()));
        }
        let limit = self.client.limit();
        let all: Vec<usize> = (0..self.items.len()).collect();
        let place = |index: &usize| self.items.get(*index).map_or(0, place_of);
        let cost = |index: &usize| self.items.get(*index).map_or(0, prost::Message::encoded_len);
        let chunks = self.client.chunks(&all, place, cost, limit).await?;
        let writes = chunks.into_iter().map(|chunk| {
            let items = chunk.iter().filter_map(|i| self.items.get(*i).cloned()).collect();
            self.client.write_chunk(chunk, items, limit)
        });
        let mut results = vec![None; self.items.len()];
        for (index, result) in bounded(writes).await.into_iter().flatten() {
            if let Some(slot) = results.get_mut(index) {
                *slot = Some(result);
            }
        }
        Ok(results.into_iter().map(|r| r.unwrap_or_else(|| Err(unanswered()))).collect())
    }
}

awaitable!(Batch => Vec<Result<BatchAnswer, Error>>, send);

type Written = (usize, Result<BatchAnswer, Error>);

/// The items of one chunk that have no final answer yet.
struct Open {
    index: usize,
    item: v1::BatchWriteItem,
    /// An attempt may have been executed.
    is_unknown: bool,
    last: Option<Error>,
}

impl Client {
    /// Writes the items of one range, each under one number through all attempts.
    async fn write_chunk(
        &self,
        indexes: Vec<usize>,
        items: Vec<v1::BatchWriteItem>,
        limit: Limit,
    ) -> Vec<Written> {
        let place = items.first().map_or(0, place_of);
        let target = Target::Position(&self.keyspace, place);
        let ticket = match self.number_chunk(target, items.len(), limit).await {
            Ok(ticket) => ticket,
            Err(error) => return indexes.into_iter().map(|i| (i, Err(error.clone()))).collect(),
        };
        let kind = if ticket.is_some() { Kind::Recognised } else { Kind::Once };
        let plan = Plan { target, prefer: Prefer::Leader, kind, limit, waits: false };
        let tag = ticket.as_ref().map(crate::session::Ticket::tag);
        let first = tag.as_ref().map_or(0, |tag| tag.seq);
        let numbered = indexes.into_iter().zip(items).zip(first..);
        let mut open: Vec<Open> = numbered
            .map(|((index, mut item), seq)| {
                item.seq = seq;
                Open { index, item, is_unknown: false, last: None }
            })
            .collect();
        let mut done = Vec::with_capacity(open.len());
        let mut pause = ROUND_PAUSE_MIN;
        while !open.is_empty() {
            let request = v1::BatchWriteRequest {
                keyspace: self.wire_keyspace(),
                items: open.iter().map(|open| open.item.clone()).collect(),
                session: tag.clone(),
                direct: self.inner.config.direct,
            };
            match self.inner.call_with_doubt(&method::BATCH_WRITE, &request, plan).await {
                Err(ended) => {
                    if let (true, Some(ticket)) = (ended.session_expired, &ticket) {
                        self.inner.sessions.expire(ticket.generation());
                    }
                    open.drain(..).for_each(|o| done.push(o.end(ended.error.clone(), false)));
                }
                Ok((answer, is_doubtful)) => {
                    // An attempt before this one may have run: what is refused now stays unknown.
                    open.iter_mut().for_each(|item| item.is_unknown |= is_doubtful);
                    open = sort_out(open, answer, kind, &mut done);
                }
            }
            let is_last = self.inner.config.direct || limit.deadline.remaining() <= pause;
            if is_last {
                open.drain(..).for_each(|o| done.push(o.end_of_time(limit)));
            } else if !open.is_empty() {
                sleep(self.inner.jitter(pause)).await;
                pause = (pause * 2).min(ROUND_PAUSE_MAX);
            }
        }
        done
    }

    async fn number_chunk(
        &self,
        target: Target<'_>,
        count: usize,
        limit: Limit,
    ) -> Result<Option<crate::session::Ticket>, Error> {
        if !self.inner.config.sessions {
            return Ok(None);
        }
        let Some(range) = self.inner.resolve(target, limit).await? else { return Ok(None) };
        let session = match self.inner.session(&self.keyspace, &range, limit).await {
            // The range has forgotten the identity; another one has been drawn.
            Err(Error::FailedPrecondition(_)) => {
                self.inner.session(&self.keyspace, &range, limit).await?
            }
            other => other?,
        };
        let begin = self.inner.sessions.begin(&session, count);
        limit.deadline.limit(begin).await.map(Some).map_err(|_| Error::Deadline {
            deadline: limit.total,
            last: "too many operations of this client are under way".to_owned(),
        })
    }

    /// Cuts `indexes` into requests: one range each, bounded in items and bytes.
    async fn chunks(
        &self,
        indexes: &[usize],
        place: impl Fn(&usize) -> u64,
        cost: impl Fn(&usize) -> usize,
        limit: Limit,
    ) -> Result<Vec<Vec<usize>>, Error> {
        if let Some(first) = indexes.first() {
            // Makes sure that there is a map, and that the keyspace exists.
            let target = Target::Position(&self.keyspace, place(first));
            self.inner.resolve(target, limit).await?;
        }
        let mut by_range: BTreeMap<RangeId, (Vec<usize>, usize)> = BTreeMap::new();
        let mut chunks = Vec::new();
        let routes = self.inner.cache.routes();
        for index in indexes {
            let range = match routes.range_at(&self.keyspace, place(index)) {
                Ok(range) => range.id(),
                // All that the map cannot place go together; the server knows better.
                Err(Missing::Keyspace | Missing::Range) => RangeId::default(),
            };
            let (chunk, bytes) = by_range.entry(range).or_default();
            let more = cost(index);
            if chunk.len() >= CHUNK_ITEMS || (!chunk.is_empty() && *bytes + more > CHUNK_BYTES) {
                chunks.push(std::mem::take(chunk));
                *bytes = 0;
            }
            chunk.push(*index);
            *bytes += more;
        }
        let rest = by_range.into_values().map(|(chunk, _)| chunk);
        chunks.extend(rest.filter(|chunk| !chunk.is_empty()));
        Ok(chunks)
    }
}

impl Open {
    fn end(self, error: Error, by_outcome: bool) -> Written {
        let is_undone = by_outcome || !self.is_unknown;
        (self.index, Err(if is_undone { error } else { as_unknown(&error) }))
    }

    fn end_of_time(self, limit: Limit) -> Written {
        let last = self.last.clone().unwrap_or_else(unanswered);
        match last {
            error @ (Error::Overloaded { .. } | Error::Unknown(_)) => self.end(error, false),
            error => {
                let last = error.to_string();
                self.end(Error::Deadline { deadline: limit.total, last }, false)
            }
        }
    }
}

/// Moves the items with a final answer to `done`; answers those to be sent again.
fn sort_out(
    open: Vec<Open>,
    answer: v1::BatchWriteResponse,
    kind: Kind,
    done: &mut Vec<Written>,
) -> Vec<Open> {
    let mut results = answer.results.into_iter();
    let mut again = Vec::new();
    for mut item in open {
        let Some(result) = results.next() else {
            item.is_unknown = true;
            done.push(item.end(unanswered(), false));
            continue;
        };
        let Some(info) = refusal(result.status.as_ref()) else {
            done.push((item.index, Ok(result.into())));
            continue;
        };
        let error = error_of_info(&info);
        match info.code() {
            _ if error.is_unknown() && kind == Kind::Recognised => {
                item.is_unknown = true;
                item.last = Some(error);
                again.push(item);
            }
            _ if error.is_unknown() => done.push((item.index, Err(error))),
            _ if info.retryable || error.is_retryable() => {
                item.last = Some(error);
                again.push(item);
            }
            ErrorCode::NotANumber | ErrorCode::LeaseNotFound => done.push(item.end(error, true)),
            _ => done.push(item.end(error, false)),
        }
    }
    again
}

/// The error of an item, if it has one.
fn refusal(status: Option<&v1::ItemStatus>) -> Option<v1::ErrorInfo> {
    let status = status.filter(|status| status.grpc_code != 0)?;
    Some(status.error.clone().unwrap_or_else(|| v1::ErrorInfo {
        code: ErrorCode::Internal.into(),
        message: format!("gRPC code {} without a reason", status.grpc_code),
        ..Default::default()
    }))
}

fn unanswered() -> Error {
    Error::Malformed("the answer left out an item".to_owned())
}

fn item_of(operation: Operation, condition: Option<v1::Condition>) -> v1::BatchWriteItem {
    use v1::batch_write_item::Operation as Item;
    use v1::txn_operation::Operation as Kind;
    let operation = match operation.0 {
        Kind::Put(put) => Some(Item::Put(put)),
        Kind::Delete(delete) => Some(Item::Delete(delete)),
        Kind::Increment(increment) => Some(Item::Increment(increment)),
        Kind::Get(_) => None,
    };
    v1::BatchWriteItem { operation, condition, seq: 0 }
}

fn place_of(item: &v1::BatchWriteItem) -> u64 {
    use v1::batch_write_item::Operation as Item;
    let key = match &item.operation {
        Some(Item::Put(put)) => &put.key,
        Some(Item::Delete(delete)) => &delete.key,
        Some(Item::Increment(increment)) => &increment.key,
        None => return 0,
    };
    position(key)
}

/// Runs `futures`, a bounded number at a time.
async fn bounded<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    stream::iter(futures).buffer_unordered(CHUNKS_UNDER_WAY).collect().await
}
