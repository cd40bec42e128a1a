//! The ceiling: a gRPC server that answers with messages of the same sizes and does nothing else.
//!
//! It runs as a process of its own, so that its processor time is told apart from the clients'.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::Stream;
use holdfast_wire::v1;
use holdfast_wire::v1::kv_client::KvClient;
use holdfast_wire::v1::kv_server::{Kv, KvServer};
use tonic::{Request, Response, Status, Streaming};

use crate::args::BenchArgs;
use crate::bench::driver::{self, Outcome};

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers put and get from what the request says.
#[derive(Debug)]
struct Echo {
    value: Bytes,
}

fn header() -> Option<v1::Header> {
    Some(v1::Header {
        cluster_id: Bytes::from_static(&[7; 16]),
        node_id: 1,
        range_id: 12,
        range_epoch: 1,
        revision: 1_000_000,
        clock_ms: 1_760_000_000_000,
        term: 3,
        leader_node_id: 1,
    })
}

#[tonic::async_trait]
impl Kv for Echo {
    type ScanStream = Answers<v1::ScanResponse>;
    type WatchStream = Answers<v1::WatchResponse>;

    async fn get(&self, request: Request<v1::GetRequest>) -> Answer<v1::GetResponse> {
        let entry = v1::Entry {
            key: request.into_inner().key,
            value: self.value.clone(),
            revision: 1_000_000,
            create_revision: 1_000_000,
            version: 1,
            ..Default::default()
        };
        let answer =
            v1::GetResponse { header: header(), found: true, entry: Some(entry), staleness: None };
        Ok(Response::new(answer))
    }

    async fn put(&self, _: Request<v1::PutRequest>) -> Answer<v1::PutResponse> {
        Ok(Response::new(v1::PutResponse {
            header: header(),
            applied: true,
            revision: 1_000_000,
            create_revision: 1_000_000,
            version: 1,
            ..Default::default()
        }))
    }

    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Answer<v1::DeleteResponse> {
        Err(Status::unimplemented("echo"))
    }

    async fn increment(&self, _: Request<v1::IncrementRequest>) -> Answer<v1::IncrementResponse> {
        Err(Status::unimplemented("echo"))
    }

    async fn txn(&self, _: Request<v1::TxnRequest>) -> Answer<v1::TxnResponse> {
        Err(Status::unimplemented("echo"))
    }

    async fn batch_get(&self, _: Request<v1::BatchGetRequest>) -> Answer<v1::BatchGetResponse> {
        Err(Status::unimplemented("echo"))
    }

    async fn batch_write(
        &self,
        _: Request<v1::BatchWriteRequest>,
    ) -> Answer<v1::BatchWriteResponse> {
        Err(Status::unimplemented("echo"))
    }

    async fn scan(&self, _: Request<v1::ScanRequest>) -> Answer<Self::ScanStream> {
        Err(Status::unimplemented("echo"))
    }

    async fn watch(&self, _: Request<Streaming<v1::WatchRequest>>) -> Answer<Self::WatchStream> {
        Err(Status::unimplemented("echo"))
    }
}

/// Runs the closed loop against the echo: messages of a put, or of a get.
///
/// # Errors
/// The echo cannot be reached.
pub async fn load(
    address: &str,
    arguments: &BenchArgs,
    put: bool,
    duration: Duration,
) -> Result<Outcome> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?;
    let client = KvClient::new(endpoint.connect().await?);
    let key = Bytes::from(vec![b'k'; arguments.key_bytes as usize]);
    let value = Bytes::from(vec![b'v'; arguments.value_bytes as usize]);
    let label = if put { "echo put" } else { "echo get" };
    driver::run(label, arguments.clients, duration, |i| {
        let (client, key, value) = (client.clone(), key.clone(), value.clone());
        let mut seq = 0;
        move || {
            let (mut client, key, value) = (client.clone(), key.clone(), value.clone());
            seq += 1;
            let session = v1::SessionTag {
                client_id: Bytes::from_static(&[3; 16]),
                seq: seq * 4096 + u64::from(i),
                watermark: seq,
            };
            async move {
                if put {
                    let session = Some(session);
                    let request = v1::PutRequest { key, value, session, ..Default::default() };
                    client.put(request).await?;
                } else {
                    let request = v1::GetRequest { key, ..Default::default() };
                    client.get(request).await?;
                }
                Ok(())
            }
        }
    })
    .await
}

/// Serves the echo until the process is ended.
pub async fn serve(address: &str, value_bytes: u32) -> Result<()> {
    let address: SocketAddr = address.parse().context("echo address")?;
    let echo = Echo { value: Bytes::from(vec![b'v'; value_bytes as usize]) };
    tonic::transport::Server::builder().add_service(KvServer::new(echo)).serve(address).await?;
    Ok(())
}
