//! Snapshots between nodes: chunks from a disk, rate-limited, few at a time.

use std::sync::Arc;
use std::time::Duration;

use holdfast_replica::{PeerError, SnapshotSource};
use holdfast_runtime::Pool;
use holdfast_wire::peer::v1::snapshot_chunk::Body;
use holdfast_wire::peer::v1::{
    SnapshotChunk, SnapshotData, SnapshotEnd, SnapshotHeader, SnapshotResult,
};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::host::{Host, SnapshotSink};
use super::introduce::shake;
use super::link::PeerNode;
use super::transport::{Inner, TransportOptions};
use holdfast_model::NodeId;

/// Bytes of one chunk.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks read ahead of the network.
const CHUNKS_AHEAD: usize = 4;
/// A receiver that takes no chunk, or a sender that sends none, for this long is given up.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);
/// Verifying and installing what was sent takes at most this long.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(300);

/// What all outgoing snapshots share.
#[derive(Debug)]
pub(super) struct Sending {
    slots: Semaphore,
    pace: Mutex<Pace>,
    pub(super) receiving: Arc<Semaphore>,
}

/// A schedule on the monotonic clock: each chunk books its share of time.
#[derive(Debug)]
struct Pace {
    bytes_per_second: u64,
    booked_until: Duration,
}

impl Pace {
    /// Books `bytes` at `now`; the caller waits as long as the answer says.
    fn book(&mut self, now: Duration, bytes: usize) -> Duration {
        let start = self.booked_until.max(now);
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        self.booked_until = start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        start - now
    }
}

impl Sending {
    pub(super) fn new(options: &TransportOptions) -> Self {
        let pace = Pace {
            bytes_per_second: options.snapshot_bytes_per_second,
            booked_until: Duration::ZERO,
        };
        Self {
            slots: Semaphore::new(options.snapshots_out_max),
            pace: Mutex::new(pace),
            receiving: Arc::new(Semaphore::new(options.snapshots_in_max)),
        }
    }
}

/// Sends one snapshot to `node`, from where an earlier transfer to it ended; dropping the future
/// ends the transfer.
pub(super) async fn send(
    inner: &Arc<Inner>,
    node: &PeerNode,
    header: SnapshotHeader,
    mut source: Box<dyn SnapshotSource>,
) -> Result<SnapshotResult, PeerError> {
    let slot = inner.sending.slots.acquire().await;
    let _slot = slot.map_err(|_| PeerError::Refused("this node is stopping".into()))?;
    let address = node.address.lock().clone();
    let mut client = inner.dial(&address).map_err(PeerError::Unreachable)?;
    let shaken = shake(inner, &mut client, inner_cluster(inner), node.id);
    holdfast_runtime::timeout(inner.options.connect_timeout, shaken)
        .await
        .map_err(|_| PeerError::Unreachable(format!("{address} does not answer")))?
        .map_err(PeerError::Unreachable)?;
    let offer = client.offer_snapshot(header.clone());
    let offer = holdfast_runtime::timeout(CHUNK_TIMEOUT, offer).await;
    let offer = offer.map_err(|_| PeerError::Timeout)?.map_err(|status| refused(&status))?;
    source.resume(offer.into_inner().files);
    let (chunks, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let first = SnapshotChunk { body: Some(Body::Header(header)) };
    let pump = pump(inner, first, source, chunks);
    let call = client.send_snapshot(ReceiverStream::new(receiver));
    let (pumped, answer) = futures_util::join!(pump, call);
    match answer {
        Ok(response) => pumped.map(|()| response.into_inner()),
        Err(status) => Err(pumped.err().unwrap_or_else(|| refused(&status))),
    }
}

fn inner_cluster(inner: &Inner) -> holdfast_model::ClusterId {
    inner.identity.membership().map(|(cluster, _)| cluster).unwrap_or_default()
}

fn refused(status: &Status) -> PeerError {
    let reason = status.message().to_owned();
    match status.code() {
        Code::ResourceExhausted | Code::FailedPrecondition | Code::NotFound => {
            PeerError::Refused(reason)
        }
        _ => PeerError::Broken(reason),
    }
}

async fn pump(
    inner: &Inner,
    first: SnapshotChunk,
    mut source: Box<dyn SnapshotSource>,
    chunks: mpsc::Sender<SnapshotChunk>,
) -> Result<(), PeerError> {
    let mut next = first;
    loop {
        let is_last = matches!(next.body, Some(Body::End(_)));
        let sent = holdfast_runtime::timeout(CHUNK_TIMEOUT, chunks.send(next)).await;
        match sent {
            // The call has ended; its status says why.
            Ok(Err(_)) => return Ok(()),
            Err(_) => return Err(PeerError::Timeout),
            Ok(Ok(())) if is_last => return Ok(()),
            Ok(Ok(())) => {}
        }
        let (back, chunk) = inner
            .pool
            .run(move || {
                let chunk = source.next_chunk(CHUNK_BYTES);
                (source, chunk)
            })
            .await
            .map_err(|e| PeerError::Broken(e.to_string()))?;
        source = back;
        let chunk = chunk.map_err(|e| PeerError::Broken(format!("snapshot: {e}")))?;
        let body = match chunk {
            None => Body::End(SnapshotEnd {}),
            Some(data) => {
                let now = inner.clock.monotonic();
                let wait = inner.sending.pace.lock().book(now, data.bytes.len());
                if !wait.is_zero() {
                    holdfast_runtime::sleep(wait).await;
                }
                Body::Data(data)
            }
        };
        next = SnapshotChunk { body: Some(body) };
    }
}

/// Receives one snapshot: the header has to come first.
pub(super) async fn receive(
    host: Arc<dyn Host>,
    pool: Pool,
    slots: Arc<Semaphore>,
    mut chunks: Streaming<SnapshotChunk>,
    check: impl FnOnce(&SnapshotHeader) -> Result<(), Status>,
) -> Result<SnapshotResult, Status> {
    let Ok(_slot) = slots.try_acquire_owned() else {
        return Err(Status::resource_exhausted("enough snapshots are being received"));
    };
    let Some(Body::Header(header)) = next(&mut chunks).await? else {
        return Err(Status::invalid_argument("a snapshot begins with its header"));
    };
    check(&header)?;
    let node = NodeId(header.from_node);
    let refusal = |r: holdfast_wire::peer::v1::Refusal| Status::failed_precondition(r.reason);
    let mut sink = host.snapshot(node, header).await.map_err(refusal)?;
    loop {
        match next(&mut chunks).await? {
            Some(Body::Data(data)) => sink = write(&pool, sink, data).await?,
            Some(Body::End(_)) => break,
            Some(Body::Header(_)) | None => {
                return Err(Status::aborted("the snapshot ended before its end marker"));
            }
        }
    }
    holdfast_runtime::timeout(INSTALL_TIMEOUT, sink.finish())
        .await
        .map_err(|_| Status::deadline_exceeded("the snapshot was not installed in time"))?
        .map_err(refusal)
}

async fn next(chunks: &mut Streaming<SnapshotChunk>) -> Result<Option<Body>, Status> {
    let chunk = holdfast_runtime::timeout(CHUNK_TIMEOUT, chunks.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no chunk in time"))??;
    Ok(chunk.and_then(|c| c.body))
}

async fn write(
    pool: &Pool,
    mut sink: Box<dyn SnapshotSink>,
    data: SnapshotData,
) -> Result<Box<dyn SnapshotSink>, Status> {
    pool.run(move || sink.write(data).map(|()| sink))
        .await
        .map_err(|e| Status::unavailable(e.to_string()))?
        .map_err(|e| Status::aborted(format!("chunk refused: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_spread_over_time_at_the_configured_rate() {
        let mut pace = Pace { bytes_per_second: 1_000, booked_until: Duration::ZERO };
        let second = Duration::from_secs(1);
        assert_eq!(pace.book(10 * second, 500), Duration::ZERO);
        assert_eq!(pace.book(10 * second, 1_000), second / 2);
        assert_eq!(pace.book(11 * second, 1), second / 2);
        assert_eq!(pace.book(20 * second, 1), Duration::ZERO);
    }
}
