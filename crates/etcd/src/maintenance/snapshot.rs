//! The stream of a snapshot: the newest state of a keyspace, read part by part at one revision.
//!
//! What is sent is an [archive](crate::archive) in blobs, and then the SHA-256 of all blobs, as
//! etcd's clients expect it. Whoever does not read holds up nothing but the stream: the next part
//! is read when the one before has been sent.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use holdfast_kv::command::{EtcdOperation, EtcdRange, EtcdTxn};
use holdfast_kv::{EtcdOutcome, EtcdResult};
use holdfast_model::LeaseId;
use holdfast_node::api::{Answer, Cluster as _, EtcdRead, Header, Lease as _};
use holdfast_wire::etcd::etcdserverpb::SnapshotResponse;
use sha2::{Digest, Sha256};
use tonic::Status;

use crate::archive::{ArchivedLease, Head, Part, Writer};
use crate::call::{Asked, Failure, Service, unexpected};
use crate::key_value;

/// Bytes of a blob: as many as etcd's.
const BLOB_BYTES: usize = 32 * 1_024;
/// Bytes of entries that are read together.
const PART_BYTES: u64 = 1_024 * 1_024;
/// Leases that are read together.
const PART_LEASES: usize = 1_000;
/// Names all keys, as first key and as range end.
const EVERYTHING: Bytes = Bytes::from_static(&[0]);

/// What is to be read or sent next.
enum Next {
    /// Entries from this key on.
    Entries(Bytes),
    /// Leases after this one.
    Leases(LeaseId),
    /// What is still waiting to be sent, then the hash.
    Sum,
    /// Nothing: all has been said.
    Nothing,
}

/// A snapshot on its way.
struct Snapshot {
    service: Service,
    asked: Asked,
    version: String,
    /// The keyspace's when the first part was read.
    revision: i64,
    writer: Writer,
    digest: Sha256,
    next: Next,
    /// What the keyspace takes on this node's disk, bytes: about as much as will be sent.
    expected_bytes: u64,
    sent_bytes: u64,
}

/// The blobs of a snapshot of the asked keyspace.
///
/// # Errors
/// The first part could not be read.
pub(super) async fn snapshot(
    service: Service,
    asked: Asked,
    version: String,
) -> Result<BoxStream<'static, Result<SnapshotResponse, Status>>, Failure> {
    let (found, part, next) = read(&service, &asked, EVERYTHING, 0).await?;
    let head = Head {
        cluster: Bytes::copy_from_slice(&found.cluster.to_bytes()),
        keyspace: asked.keyspace.clone(),
        revision: found.revision.0,
    };
    let mut writer = Writer::new(head);
    writer.part(part);
    let status = service.gateway.status(&asked.call)?;
    let expected_bytes = service.replica(&asked, &status).map_or(0, |replica| replica.data_bytes);
    let snapshot = Snapshot {
        service,
        asked,
        version,
        revision: i64::try_from(found.revision.0).unwrap_or(i64::MAX),
        writer,
        digest: Sha256::new(),
        next: next.map_or(Next::Leases(LeaseId(0)), Next::Entries),
        expected_bytes,
        sent_bytes: 0,
    };
    let blobs = stream::unfold(Some(Box::new(snapshot)), |snapshot| async move {
        let mut snapshot = snapshot?;
        match snapshot.blob().await {
            Ok(blob) => blob.map(|blob| (Ok(blob), Some(snapshot))),
            Err(failure) => Some((Err(Status::from(failure)), None)),
        }
    });
    Ok(blobs.boxed())
}

impl Snapshot {
    /// The next blob; none after the last one.
    async fn blob(&mut self) -> Result<Option<SnapshotResponse>, Failure> {
        while self.writer.waiting_bytes() < BLOB_BYTES {
            match &self.next {
                Next::Entries(from) => self.entries(from.clone()).await?,
                Next::Leases(after) => self.leases(*after).await?,
                Next::Sum if self.writer.waiting_bytes() > 0 => break,
                Next::Sum => {
                    self.next = Next::Nothing;
                    let sum = self.digest.finalize_reset();
                    return Ok(Some(self.response(Bytes::copy_from_slice(&sum))));
                }
                Next::Nothing => return Ok(None),
            }
        }
        let blob = self.writer.take(BLOB_BYTES);
        self.digest.update(&blob);
        Ok(Some(self.response(blob)))
    }

    fn response(&mut self, blob: Bytes) -> SnapshotResponse {
        self.sent_bytes += blob.len() as u64;
        // How much is still to come is not known before it was read: it is told about, and never
        // as nothing while there is something.
        let remaining_bytes = match self.next {
            Next::Nothing => 0,
            _ => self.expected_bytes.saturating_sub(self.sent_bytes).max(1),
        };
        // As etcd's, it has no header.
        SnapshotResponse { header: None, remaining_bytes, blob, version: self.version.clone() }
    }

    async fn entries(&mut self, from: Bytes) -> Result<(), Failure> {
        self.asked.call.deadline = self.service.deadline_of_one();
        let (_, part, next) = read(&self.service, &self.asked, from, self.revision).await?;
        self.writer.part(part);
        self.next = next.map_or(Next::Leases(LeaseId(0)), Next::Entries);
        Ok(())
    }

    async fn leases(&mut self, after: LeaseId) -> Result<(), Failure> {
        self.asked.call.deadline = self.service.deadline_of_one();
        let (gateway, asked) = (&self.service.gateway, &self.asked);
        let found = gateway.leases(&asked.call, &asked.keyspace, after, PART_LEASES).await?.value;
        let last = found.last().map(|lease| lease.id).filter(|_| found.len() == PART_LEASES);
        let archived = found
            .iter()
            .map(|lease| ArchivedLease { id: lease.id.0.cast_signed(), ttl_ms: lease.ttl_ms });
        self.writer.part(Part { entries: Vec::new(), leases: archived.collect() });
        match last {
            Some(last) => self.next = Next::Leases(last),
            None => {
                self.writer.end();
                self.next = Next::Sum;
            }
        }
        Ok(())
    }
}

/// Entries from a key on at a revision, 0 being the newest; and the key to go on from.
async fn read(
    service: &Service,
    asked: &Asked,
    from: Bytes,
    revision: i64,
) -> Result<(Header, Part, Option<Bytes>), Failure> {
    let range = EtcdRange {
        key: from,
        range_end: EVERYTHING,
        revision,
        part_bytes: PART_BYTES,
        ..EtcdRange::default()
    };
    let txn = EtcdTxn { success: vec![EtcdOperation::Range(range).into()], ..EtcdTxn::default() };
    let keyspace = asked.keyspace.clone();
    let request = EtcdRead { keyspace, txn, ..EtcdRead::default() };
    let Answer { header, value } = service.gateway.etcd_read(&asked.call, request).await?;
    let EtcdOutcome { results, .. } = value;
    let Some(EtcdResult::Range { entries, more, .. }) = results.into_iter().next() else {
        return Err(unexpected("range", &"another step"));
    };
    let last = entries.last().filter(|_| more);
    let next = last.map(|entry| [entry.key.as_ref(), &[0]].concat().into());
    let entries = entries.into_iter().map(key_value).collect();
    Ok((header, Part { entries, leases: Vec::new() }, next))
}
