//! Service `KV`: keys, transactions, compaction.
//!
//! What a single native command or look-up can answer goes that way; the rest is a transaction of
//! the state machine, read-only ones beside its log.

use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use holdfast_kv::command::{Compact, EtcdOperation, EtcdRange, EtcdSort, EtcdTxn};
use holdfast_kv::{EtcdOutcome, Outcome};
use holdfast_model::Revision;
use holdfast_node::api::{
    Answer, ApiError, EtcdRead, Found, Get, Header, Operation, ReadOptions, Write,
};
use holdfast_runtime::Deadline;
use holdfast_wire::etcd::etcdserverpb::request_op::Request as Step;
use holdfast_wire::etcd::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader, TxnRequest,
    TxnResponse, kv_server,
};
use tonic::{Request, Response, Status, async_trait};

use crate::call::{Asked, Failure, Service, read_options, unexpected};
use crate::{Answers, EtcdError, key_value, request};

/// Most entries of a stream's first chunk: who asks sees something soon.
const FIRST_CHUNK_KEYS: i64 = 10;
/// What a later chunk of a stream weighs, bytes: as much as a request of etcd's may.
const CHUNK_BYTES: u64 = 1_536 * 1_024;

#[async_trait]
impl kv_server::Kv for Service {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let read = read_options(request.get_ref().serializable);
        let level = Some(read.level);
        let range = request::lone_range(request.into_inner())?;
        let kind = if range.range_end.is_empty() { Operation::Get } else { Operation::Scan };
        let result = self.read_range(&asked, range, read).await;
        self.done(kind, level, started, result)
    }

    type RangeStreamStream = BoxStream<'static, Result<RangeStreamResponse, Status>>;

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let asked = self.asked(request.metadata())?;
        let read = read_options(request.get_ref().serializable);
        let range = request::lone_range(request.into_inner())?;
        if !range.comes_sorted() {
            return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
        }
        if range.is_filtered() {
            return Err(Status::unimplemented("RangeStream does not support revision filters"));
        }
        let time = asked.call.deadline.remaining();
        let chunks =
            Chunks { service: self.clone(), asked, read, time, pinned: None, range, count: 0 };
        let chunks = stream::unfold(Some(Box::new(chunks)), |chunks| async move {
            match chunks?.next().await {
                Ok((chunk, rest)) => Some((Ok(chunk), rest)),
                Err(failure) => Some((Err(Status::from(failure)), None)),
            }
        });
        Ok(Response::new(chunks.boxed()))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        self.check_size(request.get_ref())?;
        let operation = request::put(request.into_inner())?;
        let result = self.write(&asked, operation).await.and_then(|(header, outcome)| {
            let answers = self.answers(&asked);
            match outcome {
                Outcome::Applied(mutation) => Ok(answers.put(&header, mutation)),
                Outcome::Etcd(outcome) => {
                    let answer = answers.etcd_put(&header, outcome);
                    answer.ok_or_else(|| unexpected("put", &"another step"))
                }
                other => Err(unexpected("put", &other)),
            }
        });
        self.done(Operation::Put, None, started, result)
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        self.check_size(request.get_ref())?;
        let operation = request::delete_range(request.into_inner())?;
        let result = self.write(&asked, operation).await.and_then(|(header, outcome)| {
            let answers = self.answers(&asked);
            match outcome {
                Outcome::Applied(mutation) => Ok(answers.delete(&header, mutation)),
                Outcome::Etcd(outcome) => {
                    let answer = answers.delete_range(&header, outcome);
                    answer.ok_or_else(|| unexpected("removal", &"another step"))
                }
                other => Err(unexpected("removal", &other)),
            }
        });
        self.done(Operation::Delete, None, started, result)
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let reads = reads_of(request.get_ref());
        let most = self.gateway.limits().transaction_operations_max;
        if reads.is_none() {
            self.check_size(request.get_ref())?;
        }
        let txn = request::txn(request.into_inner(), most)?;
        let level = reads.as_ref().map(|read| read.level);
        let result = self.run(&asked, txn, reads).await;
        let result = result.map(|(header, outcome)| self.answers(&asked).txn(&header, outcome));
        self.done(Operation::Txn, level, started, result)
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let asked = self.asked(request.metadata())?;
        // Space comes back in the engine's own time, so there is nothing `physical` could wait for.
        let asked_for = request.into_inner().revision;
        let revision = u64::try_from(asked_for).map_err(|_| EtcdError::Compacted)?;
        let keyspace = asked.keyspace.clone();
        let write = Write { keyspace, operation: Compact { revision }.into(), session: None };
        let header = match self.gateway.write(&asked.call, write).await {
            Ok(answer) => answer.header,
            // etcd begins before revision 0: once, there is something to give up.
            Err(ApiError::Compacted { oldest: 0 }) if revision == 0 => {
                let answer = self.gateway.etcd_read(&asked.call, nothing(&asked.keyspace)).await;
                answer.map_err(|error| crate::error_of(&error))?.header
            }
            Err(error) => return Err(crate::error_of(&error)),
        };
        let header = Some(self.answers(&asked).header(&header));
        Ok(Response::new(CompactionResponse { header }))
    }
}

impl Service {
    async fn read_range(
        &self,
        asked: &Asked,
        range: EtcdRange,
        read: ReadOptions,
    ) -> Result<RangeResponse, Failure> {
        if is_lookup(&range) {
            return self.look_up(asked, range, read).await;
        }
        let (header, outcome) = self.run(asked, only(range), Some(read)).await?;
        let answer = self.answers(asked).range(&header, outcome);
        answer.ok_or_else(|| unexpected("range", &"another step"))
    }

    async fn look_up(
        &self,
        asked: &Asked,
        range: EtcdRange,
        read: ReadOptions,
    ) -> Result<RangeResponse, Failure> {
        let revision = Revision(u64::try_from(range.revision).unwrap_or(0));
        let get = Get { keyspace: asked.keyspace.clone(), key: range.key, read, revision };
        let Answer { header, value: Found { entry, .. } } =
            self.gateway.get(&asked.call, get).await?;
        let count = i64::from(entry.is_some());
        let mut kvs: Vec<_> = entry.map(key_value).into_iter().collect();
        if let (true, Some(kv)) = (range.keys_only, kvs.first_mut()) {
            kv.value.clear();
            if range.sort != i32::from(EtcdSort::Value) {
                kv.lease = 0;
            }
        }
        let header = Some(self.answers(asked).header(&header));
        Ok(RangeResponse { header, kvs, more: false, count })
    }

    pub(crate) async fn write(
        &self,
        asked: &Asked,
        operation: holdfast_kv::Operation,
    ) -> Result<(Header, Outcome), Failure> {
        let write = Write { keyspace: asked.keyspace.clone(), operation, session: None };
        let Answer { header, value } = self.gateway.write(&asked.call, write).await?;
        match value {
            Outcome::ConditionFailed { current: None } => Err(EtcdError::KeyNotFound.into()),
            outcome => Ok((header, outcome)),
        }
    }

    /// Carries a transaction out, or only reads where `reads` says how.
    pub(crate) async fn run(
        &self,
        asked: &Asked,
        txn: EtcdTxn,
        reads: Option<ReadOptions>,
    ) -> Result<(Header, EtcdOutcome), Failure> {
        if let Some(read) = reads {
            let request = EtcdRead { keyspace: asked.keyspace.clone(), txn, read };
            let Answer { header, value } = self.gateway.etcd_read(&asked.call, request).await?;
            return Ok((header, value));
        }
        match self.write(asked, txn.into()).await? {
            (header, Outcome::Etcd(outcome)) => Ok((header, outcome)),
            (_, other) => Err(unexpected("transaction", &other)),
        }
    }
}

/// Whether a range is the look-up of one key.
fn is_lookup(range: &EtcdRange) -> bool {
    range.range_end.is_empty() && range.revision >= 0 && !range.count_only && !range.is_filtered()
}

fn only(range: EtcdRange) -> EtcdTxn {
    EtcdTxn { success: vec![EtcdOperation::Range(range).into()], ..EtcdTxn::default() }
}

/// A read whose answer is its header.
fn nothing(keyspace: &str) -> EtcdRead {
    EtcdRead { keyspace: keyspace.to_owned(), ..EtcdRead::default() }
}

/// How a transaction that only reads is to be read; `None` where it writes, or has another
/// transaction in it.
fn reads_of(request: &TxnRequest) -> Option<ReadOptions> {
    let mut serializable = true;
    for step in request.success.iter().chain(&request.failure) {
        let Some(Step::RequestRange(range)) = &step.request else { return None };
        serializable &= range.serializable;
    }
    Some(read_options(serializable))
}

/// A range that is answered chunk by chunk, all of them at the first one's revision.
struct Chunks {
    service: Service,
    asked: Asked,
    read: ReadOptions,
    /// The time every chunk may take.
    time: Duration,
    /// The header of the first chunk.
    pinned: Option<Header>,
    /// What is left, with the limit that is left.
    range: EtcdRange,
    /// Entries that were sent.
    count: i64,
}

impl Chunks {
    /// The next chunk, and the rest unless it is the last.
    async fn next(
        mut self: Box<Self>,
    ) -> Result<(RangeStreamResponse, Option<Box<Self>>), Failure> {
        if self.range.count_only {
            let range = self.range.clone();
            let answer = self.service.read_range(&self.asked, range, self.read.clone()).await?;
            return Ok((RangeStreamResponse { range_response: Some(answer) }, None));
        }
        let mut chunk = self.chunk().await?;
        let sent = i64::try_from(chunk.kvs.len()).unwrap_or(i64::MAX);
        self.count += sent;
        let is_limited = self.range.limit > 0;
        let is_last = !chunk.more || is_limited && sent >= self.range.limit;
        if is_limited {
            self.range.limit -= sent;
        }
        if let Some(last) = chunk.kvs.last() {
            self.range.key = [last.key.as_ref(), &[0]].concat().into();
        }
        if !is_last {
            let range_response =
                Some(RangeResponse { header: None, more: false, count: 0, ..chunk });
            return Ok((RangeStreamResponse { range_response }, Some(self)));
        }
        chunk.count = self.count;
        if chunk.more {
            chunk.count += self.rest().await?;
        }
        chunk.header = self.pinned.map(|header| self.header(&header));
        Ok((RangeStreamResponse { range_response: Some(chunk) }, None))
    }

    async fn chunk(&mut self) -> Result<RangeResponse, Failure> {
        self.asked.call.deadline = Deadline::after(self.time);
        let mut range = EtcdRange { part_bytes: CHUNK_BYTES, sort: 0, ..self.range.clone() };
        if self.pinned.is_none() {
            let limited = (range.limit > 0).then_some(range.limit);
            range.limit = limited.unwrap_or(i64::MAX).min(FIRST_CHUNK_KEYS);
        }
        let txn = only(range);
        let (header, outcome) = self.service.run(&self.asked, txn, Some(self.read.clone())).await?;
        if self.pinned.is_none() {
            self.pinned = Some(header);
            if self.range.revision <= 0 {
                self.range.revision = i64::try_from(header.revision.0).unwrap_or(i64::MAX);
            }
        }
        let answer = self.service.answers(&self.asked).range(&header, outcome);
        answer.ok_or_else(|| unexpected("range", &"another step"))
    }

    /// How many keys follow those that were sent.
    async fn rest(&mut self) -> Result<i64, Failure> {
        self.asked.call.deadline = Deadline::after(self.time);
        let range = EtcdRange { limit: 0, count_only: true, ..self.range.clone() };
        let answer = self.service.read_range(&self.asked, range, self.read.clone()).await?;
        Ok(answer.count)
    }

    fn header(&self, header: &Header) -> ResponseHeader {
        let answers: Answers = self.service.answers(&self.asked);
        answers.header(header)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_node::api::ReadLevel;
    use holdfast_wire::etcd::etcdserverpb::RequestOp;

    use super::*;

    fn step(serializable: bool) -> RequestOp {
        let range = RangeRequest { key: "k".into(), serializable, ..RangeRequest::default() };
        RequestOp { request: Some(Step::RequestRange(range)) }
    }

    #[test]
    fn a_transaction_is_read_as_strictly_as_its_strictest_range() {
        let level = |success: Vec<RequestOp>, failure: Vec<RequestOp>| {
            reads_of(&TxnRequest { success, failure, ..TxnRequest::default() })
                .map(|read| read.level)
        };
        let follower = Some(ReadLevel::Follower);
        assert_eq!(level(vec![step(true)], vec![step(true)]), follower);
        assert_eq!(level(vec![], vec![]), follower);
        assert_eq!(level(vec![step(true)], vec![step(false)]), Some(ReadLevel::Linearizable));
        let put = RequestOp { request: Some(Step::RequestPut(PutRequest::default())) };
        assert_eq!(level(vec![step(true)], vec![put]), None);
        let txn = RequestOp { request: Some(Step::RequestTxn(TxnRequest::default())) };
        assert_eq!(level(vec![txn], vec![]), None);
    }

    #[test]
    fn only_plain_reads_of_one_key_are_look_ups() {
        let one = EtcdRange { key: "k".into(), ..EtcdRange::default() };
        assert!(is_lookup(&one));
        assert!(is_lookup(&EtcdRange { limit: 5, keys_only: true, revision: 3, ..one.clone() }));
        assert!(!is_lookup(&EtcdRange { range_end: "l".into(), ..one.clone() }));
        assert!(!is_lookup(&EtcdRange { revision: -1, ..one.clone() }));
        assert!(!is_lookup(&EtcdRange { count_only: true, ..one.clone() }));
        assert!(!is_lookup(&EtcdRange { max_create_revision: 9, ..one }));
    }
}
