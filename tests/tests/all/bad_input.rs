//! Requests that no client of ours would send.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use holdfast_tests::{Cluster, Rpc, refusal, shared};
use holdfast_wire::v1::{self, ErrorCode};
use prost::Message;
use tonic::Code;

const MIB: usize = 1024 * 1024;

/// A keyspace of one range, so that one number tells whether anything has changed.
struct Untouched {
    rpc: Rpc,
    name: &'static str,
    revision: u64,
}

impl Untouched {
    async fn new(cluster: &Cluster, name: &'static str) -> Result<Self> {
        let client = cluster.client().await?;
        client.cluster().create_keyspace(name, 1, 0, None).await?;
        let rpc = cluster.rpc(1).await?;
        let revision = revision(&rpc, name).await?;
        Ok(Self { rpc, name, revision })
    }

    /// `answer` must be the refusal `code`, under the right gRPC code, and nothing has changed.
    async fn refused<T>(
        &self,
        what: &str,
        answer: std::result::Result<T, tonic::Status>,
        (grpc, code): (Code, ErrorCode),
    ) -> Result<v1::ErrorInfo> {
        let (given, info) = refusal(answer).with_context(|| what.to_owned())?;
        ensure!(info.code() == code && given == grpc, "{what}: {given:?} {info:?}");
        ensure!(!info.message.is_empty(), "{what}: no message");
        ensure!(!info.outcome_unknown, "{what}: {info:?}");
        let now = revision(&self.rpc, self.name).await?;
        ensure!(now == self.revision, "{what} changed revision {} to {now}", self.revision);
        Ok(info)
    }

    async fn put(
        &self,
        request: v1::PutRequest,
    ) -> Result<tonic::Response<v1::PutResponse>, tonic::Status> {
        self.rpc.kv().put(v1::PutRequest { keyspace: self.name.to_owned(), ..request }).await
    }
}

async fn revision(rpc: &Rpc, keyspace: &str) -> Result<u64> {
    let key = Bytes::from_static(b"nothing");
    let request = v1::GetRequest { keyspace: keyspace.to_owned(), key, ..Default::default() };
    let header = rpc.kv().get(request).await?.into_inner().header;
    Ok(header.context("no header")?.revision)
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> v1::PutRequest {
    v1::PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

#[test]
fn the_largest_value_and_long_keys_are_stored_and_given_back() {
    shared(async |cluster| {
        let client = cluster.client().await?.with_deadline(Duration::from_secs(30))?;
        let value: Bytes = (0..10 * MIB).map(|n| (n % 251) as u8).collect();
        for length in [256, 4096] {
            let key = Bytes::from(vec![b'k'; length]);
            client.put(key.clone(), value.clone()).await?;
            let entry = client.get(key.clone()).await?.context("missing")?;
            ensure!(entry.value == value, "{} bytes came back changed", entry.value.len());
            client.delete(key).await?;
        }
        Ok(())
    });
}

#[test]
fn sizes_over_their_limits_are_refused_with_the_limit_and_change_nothing() {
    shared(async |cluster| {
        let space = Untouched::new(cluster, "bad-sizes").await?;
        let too_large = (Code::InvalidArgument, ErrorCode::TooLarge);
        let answer = space.put(put("k", vec![0; 10 * MIB + 1])).await;
        let info = space.refused("10 MiB + 1", answer, too_large).await?;
        ensure!(info.bound == 10 * MIB as u64, "{info:?}");
        let answer = space.put(put(vec![b'k'; 4097], "v")).await;
        let info = space.refused("a key of 4,097 bytes", answer, too_large).await?;
        ensure!(info.bound == 4096, "{info:?}");
        let item = v1::BatchWriteItem {
            operation: Some(v1::batch_write_item::Operation::Put(v1::TxnPut {
                key: Bytes::from_static(b"k"),
                value: Bytes::from_static(b"v"),
                ..Default::default()
            })),
            ..Default::default()
        };
        let keyspace = space.name.to_owned();
        let request =
            v1::BatchWriteRequest { keyspace, items: vec![item; 1001], ..Default::default() };
        let answer = space.rpc.kv().batch_write(request).await;
        let info = space.refused("a batch of 1,001", answer, too_large).await?;
        ensure!(info.bound == 1000, "{info:?}");
        let keyspace = space.name.to_owned();
        let keys = vec![Bytes::from_static(b"k"); 1001];
        let request = v1::BatchGetRequest { keyspace, keys, ..Default::default() };
        let answer = space.rpc.kv().batch_get(request).await;
        space.refused("a batch get of 1,001", answer, too_large).await?;
        let answer = space.put(put("k", vec![0; 17 * MIB])).await;
        space.refused("a message of 17 MiB", answer, too_large).await?;
        Ok(())
    });
}

#[test]
fn fields_without_sense_are_refused_and_change_nothing() {
    shared(async |cluster| {
        let space = Untouched::new(cluster, "bad-fields").await?;
        let invalid = (Code::InvalidArgument, ErrorCode::Invalid);
        space.refused("an empty key", space.put(put("", "v")).await, invalid).await?;
        let answer = space.put(v1::PutRequest { ttl_ms: Some(0), ..put("k", "v") }).await;
        space.refused("a TTL of 0", answer, invalid).await?;
        let answer = space.put(v1::PutRequest { ttl_ms: Some(999), ..put("k", "v") }).await;
        space.refused("a TTL of 999 ms", answer, invalid).await?;
        let eleven_years = Some(11 * 365 * 24 * 3_600_000);
        let answer = space.put(v1::PutRequest { ttl_ms: eleven_years, ..put("k", "v") }).await;
        let too_large = (Code::InvalidArgument, ErrorCode::TooLarge);
        space.refused("a TTL of eleven years", answer, too_large).await?;
        let both = v1::PutRequest { ttl_ms: Some(5_000), lease_id: 7, ..put("k", "v") };
        space.refused("a TTL and a lease", space.put(both).await, invalid).await?;
        let answer = space.put(v1::PutRequest { lease_id: 7, ..put("k", "v") }).await;
        let no_lease = (Code::NotFound, ErrorCode::LeaseNotFound);
        space.refused("a lease that is none", answer, no_lease).await?;
        let put_twice = |key: &'static [u8]| v1::TxnOperation {
            operation: Some(v1::txn_operation::Operation::Put(v1::TxnPut {
                key: Bytes::from_static(key),
                ..Default::default()
            })),
        };
        let keyspace = space.name.to_owned();
        let success = vec![put_twice(b"k"), put_twice(b"k")];
        let request = v1::TxnRequest { keyspace, success, ..Default::default() };
        let answer = space.rpc.kv().txn(request).await;
        let duplicate = (Code::InvalidArgument, ErrorCode::DuplicateKey);
        space.refused("a key written twice in a transaction", answer, duplicate).await?;
        let operation = v1::TxnOperation { operation: None };
        let keyspace = space.name.to_owned();
        let request = v1::TxnRequest { keyspace, success: vec![operation], ..Default::default() };
        let answer = space.rpc.kv().txn(request).await;
        space.refused("an operation that is none", answer, invalid).await?;
        let client_id = Bytes::from_static(b"short");
        let tag = v1::SessionTag { client_id, seq: 1, watermark: 1 };
        let answer = space.put(v1::PutRequest { session: Some(tag), ..put("k", "v") }).await;
        space.refused("a client id of 5 bytes", answer, invalid).await?;
        let client_id = Bytes::from(vec![9; 16]);
        let tag = v1::SessionTag { client_id, seq: 1, watermark: 1 };
        let answer = space.put(v1::PutRequest { session: Some(tag), ..put("k", "v") }).await;
        let expired = (Code::FailedPrecondition, ErrorCode::SessionExpired);
        space.refused("a session that was never opened", answer, expired).await?;
        Ok(())
    });
}

#[test]
fn what_does_not_exist_is_not_found() {
    shared(async |cluster| {
        let space = Untouched::new(cluster, "bad-names").await?;
        let unknown = (Code::NotFound, ErrorCode::UnknownKeyspace);
        let keyspace = "no-such-keyspace".to_owned();
        let answer = space.rpc.kv().put(v1::PutRequest { keyspace, ..put("k", "v") }).await;
        space.refused("an unknown keyspace", answer, unknown).await?;
        let key = Bytes::from_static(b"k");
        let keyspace = "no-such-keyspace".to_owned();
        let answer =
            space.rpc.kv().get(v1::GetRequest { keyspace, key, ..Default::default() }).await;
        space.refused("a get in an unknown keyspace", answer, unknown).await?;
        let keyspace = "sys".to_owned();
        let answer = space.rpc.kv().put(v1::PutRequest { keyspace, ..put("sys/x", "v") }).await;
        ensure!(answer.is_err(), "the system range is written to from outside");
        let future = v1::GetRequest {
            keyspace: space.name.to_owned(),
            key: Bytes::from_static(b"k"),
            revision: 1_000_000,
            ..Default::default()
        };
        let answer = space.rpc.kv().get(future).await;
        let out_of_range = (Code::OutOfRange, ErrorCode::FutureRevision);
        let info = space.refused("a revision of the future", answer, out_of_range).await?;
        ensure!(info.bound == space.revision, "{info:?}, newest is {}", space.revision);
        let answer = space.rpc.unary("/holdfast.v1.Kv/Conjure", Bytes::new()).await;
        let code = answer.err().context("an unknown method was answered")?.code();
        ensure!(code == Code::Unimplemented, "{code:?}");
        Ok(())
    });
}

#[test]
fn bytes_that_are_no_protobuf_are_refused_as_malformed() {
    shared(async |cluster| {
        let space = Untouched::new(cluster, "bad-bytes").await?;
        let malformed = (Code::InvalidArgument, ErrorCode::Malformed);
        let whole = v1::PutRequest { keyspace: "bad-bytes".to_owned(), ..put("k", "value") };
        let whole = whole.encode_to_vec();
        let cut = Bytes::copy_from_slice(&whole[..whole.len() - 2]);
        let cases = [
            ("a cut message", cut),
            ("all bits set", Bytes::from_static(&[0xff; 64])),
            ("a length beyond the end", Bytes::from_static(&[0x12, 0xff, 0xff, 0xff, 0x7f])),
            ("a keyspace that is no UTF-8", Bytes::from_static(&[0x0a, 0x02, 0xff, 0xfe])),
            ("a field of the wrong type", Bytes::from_static(&[0x15, 1, 2, 3, 4])),
        ];
        for (what, bytes) in cases {
            for path in ["/holdfast.v1.Kv/Put", "/holdfast.v1.Kv/BatchWrite"] {
                if path.ends_with("BatchWrite") && what == "a cut message" {
                    continue;
                }
                let answer = space.rpc.unary(path, bytes.clone()).await;
                space.refused(&format!("{what} to {path}"), answer, malformed).await?;
            }
        }
        Ok(())
    });
}

/// Sends `bytes` to `address`; answers what comes back until the other side closes or 5 s are
/// over.
fn send(address: &str, bytes: &[u8]) -> Result<(Vec<u8>, bool)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => return Ok((answer, true)),
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                return Ok((answer, true));
            }
            Err(_) => return Ok((answer, false)),
        }
    }
}

#[test]
fn a_wrong_protocol_on_any_port_is_turned_away_and_harms_nobody() {
    shared(async |cluster| {
        let node = cluster.node(1);
        let noise: Vec<u8> =
            (0..8192_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let http1 = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        for (port, address) in [("client", &node.client), ("peer", &node.peer)] {
            for (what, bytes) in [("noise", noise.as_slice()), ("HTTP/1.1", http1)] {
                let (answer, is_closed) = send(address, bytes)?;
                ensure!(is_closed, "{what} keeps a connection of the {port} port open");
                println!("{what} to the {port} port: {:?}", String::from_utf8_lossy(&answer));
            }
        }
        let (answer, _) = send(&node.http, &noise)?;
        ensure!(answer.starts_with(b"HTTP/1.1 400") || answer.is_empty(), "{answer:?}");
        // The public API on the peer port, and gRPC on the HTTP port.
        let wrong_port = Rpc::connect(&node.peer).await?;
        let code = wrong_port.kv().put(put("k", "v")).await.err().map(|status| status.code());
        ensure!(code == Some(Code::Unimplemented), "a put on the peer port: {code:?}");
        if let Ok(wrong_port) = Rpc::connect(&node.http).await {
            let answer = wrong_port.kv().put(put("k", "v")).await;
            ensure!(answer.is_err(), "a put on the HTTP port was answered");
        }
        cluster.client().await?.put("still", "here").await?;
        cluster.status(1).await?;
        Ok(())
    });
}
