//! Service `Kv`: keys and values.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use holdfast_kv as kv;
use holdfast_kv::command::{Delete, Increment, Put};
use holdfast_model::{RangeId, Revision};
use holdfast_wire::v1;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{Service, messages, watch};
use crate::api::{
    Answer, ApiError, BatchGet, BatchWrite, BatchWriteItem, Call, DeletePrefix, Found, Get,
    Operation, Scan, ScanPage, SessionTag, Write,
};
use crate::convert;
use crate::router::{item_status, unexpected};

#[async_trait]
impl v1::kv_server::Kv for Service {
    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, request.get_ref().direct);
        let read = messages::read_options(request.get_ref().read.clone());
        let level = read.as_ref().ok().map(|read| read.level);
        let result = async {
            let v1::GetRequest { keyspace, key, revision, .. } = request.into_inner();
            let get = Get { keyspace, key, read: read?, revision: Revision(revision) };
            self.gateway.get(&call?, get).await.map(get_response)
        };
        let result = result.await;
        self.done(Operation::Get, level, started, result)
    }

    async fn put(
        &self,
        request: Request<v1::PutRequest>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, request.get_ref().direct);
        let result = async { self.put_one(&call?, request.into_inner()).await };
        let result = result.await;
        self.done(Operation::Put, None, started, result)
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, request.get_ref().direct);
        let result = async { self.delete_some(&call?, request.into_inner()).await };
        let result = result.await;
        self.done(Operation::Delete, None, started, result)
    }

    async fn increment(
        &self,
        request: Request<v1::IncrementRequest>,
    ) -> Result<Response<v1::IncrementResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, request.get_ref().direct);
        let result = async { self.increment_one(&call?, request.into_inner()).await };
        let result = result.await;
        self.done(Operation::Increment, None, started, result)
    }

    async fn txn(
        &self,
        request: Request<v1::TxnRequest>,
    ) -> Result<Response<v1::TxnResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, request.get_ref().direct);
        let result = async { self.txn_one(&call?, request.into_inner()).await };
        let result = result.await;
        self.done(Operation::Txn, None, started, result)
    }

    async fn batch_get(
        &self,
        request: Request<v1::BatchGetRequest>,
    ) -> Result<Response<v1::BatchGetResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, request.get_ref().direct);
        let v1::BatchGetRequest { keyspace, keys, read, .. } = request.into_inner();
        let read = messages::read_options(read);
        let level = read.as_ref().ok().map(|read| read.level);
        let result = async {
            let get = BatchGet { keyspace, keys, read: read? };
            self.gateway.batch_get(&call?, get).await
        };
        let result = result.await.map(|answer| v1::BatchGetResponse {
            header: Some(convert::header(&answer.header)),
            items: answer.value.into_iter().map(batch_get_item).collect(),
        });
        self.done(Operation::BatchGet, level, started, result)
    }

    async fn batch_write(
        &self,
        request: Request<v1::BatchWriteRequest>,
    ) -> Result<Response<v1::BatchWriteResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, request.get_ref().direct);
        let result = async {
            let write = batch_write(request.into_inner())?;
            self.gateway.batch_write(&call?, write).await
        };
        let result = result.await.map(|answer| v1::BatchWriteResponse {
            header: Some(convert::header(&answer.header)),
            results: answer.value.into_iter().map(batch_write_result).collect(),
        });
        self.done(Operation::BatchWrite, None, started, result)
    }

    type ScanStream = BoxStream<'static, Result<v1::ScanResponse, Status>>;

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let call = self.call(&request, request.get_ref().direct);
        let begun = call.and_then(|call| Ok((call, scan(request.into_inner())?)));
        let (call, scan) = begun.map_err(|error| error.status())?;
        let pages = self.gateway.scan(&call, scan);
        let pages = pages.map(|page| page.map(scan_response).map_err(|error| error.status()));
        Ok(Response::new(pages.boxed()))
    }

    type WatchStream = BoxStream<'static, Result<v1::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<v1::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        // A watch stream has no deadline of its own; the header's applies to opening each watch.
        let call = self.call(&request, false).map_err(|error| error.status())?;
        let answers = watch::serve(self.gateway.clone(), call, request.into_inner());
        Ok(Response::new(answers))
    }
}

impl Service {
    async fn put_one(
        &self,
        call: &Call,
        request: v1::PutRequest,
    ) -> Result<v1::PutResponse, ApiError> {
        let v1::PutRequest { key, value, ttl_ms, lease_id, return_previous, .. } = request;
        let put = v1::TxnPut { key, value, ttl_ms, lease_id, return_previous };
        let put: Put = messages::txn_put(put, messages::condition(request.condition)?)?;
        let session = messages::session(request.session)?;
        let write = Write { keyspace: request.keyspace, operation: put.into(), session };
        let Answer { header, value } = self.gateway.write(call, write).await?;
        let header = Some(convert::header(&header));
        match value {
            kv::Outcome::Applied(m) => Ok(v1::PutResponse {
                header,
                applied: true,
                current: None,
                previous: m.previous.map(convert::entry),
                revision: m.revision.0,
                create_revision: m.create_revision.0,
                version: m.version,
            }),
            kv::Outcome::ConditionFailed { current } => {
                let current = current.map(convert::entry);
                Ok(v1::PutResponse { header, current, ..Default::default() })
            }
            other => Err(unexpected("put", &other)),
        }
    }

    async fn delete_some(
        &self,
        call: &Call,
        request: v1::DeleteRequest,
    ) -> Result<v1::DeleteResponse, ApiError> {
        let session = messages::session(request.session.clone())?;
        let condition = messages::condition(request.condition.clone())?;
        if request.prefix {
            if condition.is_some() || request.return_previous {
                let text = "prefix: not together with a condition or return_previous";
                return Err(ApiError::Invalid(text.into()));
            }
            return self.delete_prefix(call, request, session).await;
        }
        let v1::DeleteRequest { keyspace, key, return_previous, .. } = request;
        let delete = Delete { key, return_previous, condition };
        let write = Write { keyspace, operation: delete.into(), session };
        let Answer { header, value } = self.gateway.write(call, write).await?;
        let header = Some(convert::header(&header));
        match value {
            kv::Outcome::Applied(m) => Ok(v1::DeleteResponse {
                header,
                applied: true,
                previous: m.previous.map(convert::entry),
                deleted: m.count,
                ..Default::default()
            }),
            kv::Outcome::ConditionFailed { current } => {
                let current = current.map(convert::entry);
                Ok(v1::DeleteResponse { header, current, ..Default::default() })
            }
            other => Err(unexpected("delete", &other)),
        }
    }

    async fn delete_prefix(
        &self,
        call: &Call,
        request: v1::DeleteRequest,
        session: Option<SessionTag>,
    ) -> Result<v1::DeleteResponse, ApiError> {
        let v1::DeleteRequest { keyspace, key: prefix, .. } = request;
        let delete = DeletePrefix { keyspace, prefix, session };
        let answer = self.gateway.delete_prefix(call, delete).await?;
        Ok(v1::DeleteResponse {
            header: Some(convert::header(&answer.header)),
            applied: true,
            deleted: answer.value.count,
            more: answer.value.more,
            ..Default::default()
        })
    }

    async fn increment_one(
        &self,
        call: &Call,
        request: v1::IncrementRequest,
    ) -> Result<v1::IncrementResponse, ApiError> {
        let v1::IncrementRequest { keyspace, key, delta, ttl_ms, session, .. } = request;
        let operation = Increment { key, delta, ttl_ms: messages::ttl(ttl_ms)? }.into();
        let session = messages::session(session)?;
        let answer = self.gateway.write(call, Write { keyspace, operation, session }).await?;
        let header = Some(convert::header(&answer.header));
        match answer.value {
            kv::Outcome::Applied(m) => {
                Ok(v1::IncrementResponse { header, value: m.number, revision: m.revision.0 })
            }
            other => Err(unexpected("increment", &other)),
        }
    }

    async fn txn_one(
        &self,
        call: &Call,
        mut request: v1::TxnRequest,
    ) -> Result<v1::TxnResponse, ApiError> {
        let keyspace = std::mem::take(&mut request.keyspace);
        let session = messages::session(request.session.take())?;
        let operation = messages::txn(request)?.into();
        let answer = self.gateway.write(call, Write { keyspace, operation, session }).await?;
        match answer.value {
            kv::Outcome::Txn(txn) if txn.results_lost => Err(ApiError::FailedPrecondition(
                "the transaction was carried out before, but history no longer has its results"
                    .into(),
            )),
            kv::Outcome::Txn(txn) => Ok(v1::TxnResponse {
                header: Some(convert::header(&answer.header)),
                succeeded: txn.succeeded,
                results: txn.results.into_iter().map(messages::txn_result).collect(),
                revision: if txn.changed { txn.revision.0 } else { 0 },
            }),
            other => Err(unexpected("transaction", &other)),
        }
    }
}

fn get_response(answer: Answer<Found>) -> v1::GetResponse {
    let Found { entry, staleness } = answer.value;
    v1::GetResponse {
        header: Some(convert::header(&answer.header)),
        found: entry.is_some(),
        entry: entry.map(convert::entry),
        staleness: staleness.map(convert::staleness),
    }
}

fn batch_get_item(result: Result<Found, ApiError>) -> v1::BatchGetItem {
    let status = Some(item_status(result.as_ref().err()));
    match result {
        Ok(Found { entry, staleness }) => v1::BatchGetItem {
            status,
            found: entry.is_some(),
            entry: entry.map(convert::entry),
            staleness: staleness.map(convert::staleness),
        },
        Err(_) => v1::BatchGetItem { status, ..Default::default() },
    }
}

fn batch_write(request: v1::BatchWriteRequest) -> Result<BatchWrite, ApiError> {
    let session = messages::session(request.session)?;
    let items = request.items.into_iter().map(batch_write_item);
    let items = items.collect::<Result<Vec<_>, _>>()?;
    Ok(BatchWrite { keyspace: request.keyspace, items, session })
}

fn batch_write_item(item: v1::BatchWriteItem) -> Result<BatchWriteItem, ApiError> {
    use v1::batch_write_item::Operation as Asked;
    let condition = messages::condition(item.condition)?;
    let operation = match item.operation {
        Some(Asked::Put(put)) => messages::txn_put(put, condition)?.into(),
        Some(Asked::Delete(v1::TxnDelete { key, return_previous })) => {
            Delete { key, return_previous, condition }.into()
        }
        Some(Asked::Increment(_)) if condition.is_some() => {
            return Err(ApiError::Invalid("condition: not of an increment".into()));
        }
        Some(Asked::Increment(v1::TxnIncrement { key, delta })) => {
            Increment { key, delta, ttl_ms: 0 }.into()
        }
        None => return Err(ApiError::Invalid("operation of a batch item: none is set".into())),
    };
    Ok(BatchWriteItem { operation, seq: item.seq })
}

fn batch_write_result(result: Result<Answer<kv::Outcome>, ApiError>) -> v1::BatchWriteResult {
    let status = Some(item_status(result.as_ref().err()));
    let Ok(Answer { header, value }) = result else {
        return v1::BatchWriteResult { status, ..Default::default() };
    };
    let range_id = header.range.0;
    match value {
        kv::Outcome::Applied(m) => v1::BatchWriteResult {
            status,
            applied: true,
            current: None,
            previous: m.previous.map(convert::entry),
            revision: m.revision.0,
            range_id,
            count: m.count,
            value: m.number,
        },
        kv::Outcome::ConditionFailed { current } => {
            let current = current.map(convert::entry);
            v1::BatchWriteResult { status, current, range_id, ..Default::default() }
        }
        other => {
            let status = Some(item_status(Some(&unexpected("batch", &other))));
            v1::BatchWriteResult { status, range_id, ..Default::default() }
        }
    }
}

fn scan(request: v1::ScanRequest) -> Result<Scan, ApiError> {
    Ok(Scan {
        keyspace: request.keyspace,
        start: request.start,
        end: request.end,
        prefix: request.prefix,
        read: messages::read_options(request.read)?,
        limit: request.limit,
        keys_only: request.keys_only,
        reverse: request.reverse,
        resume_token: request.resume_token,
        range: RangeId(request.range_id),
        page_keys: request.page_keys as usize,
    })
}

fn scan_response(page: ScanPage) -> v1::ScanResponse {
    v1::ScanResponse {
        header: Some(convert::header(&page.header)),
        entries: page.entries.into_iter().map(convert::entry).collect(),
        resume_token: page.resume_token,
        points: page.points.into_iter().map(|(id, point)| convert::point(id, point)).collect(),
        staleness: page.staleness.map(convert::staleness),
    }
}
