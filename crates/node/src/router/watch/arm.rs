//! One range of a watch: opened, followed, and opened again where it broke.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::pending;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use holdfast_kv as kv;
use holdfast_model::{RangeId, Revision};
use holdfast_replica::{Replica, WatchError, WatchFilter, WatchItem as Found, WatchStream};
use holdfast_runtime::{Deadline, Interval as Beat, interval};
use tokio::sync::watch::Receiver;

use super::forwarded::{self, Remote};
use super::last_revision;
use crate::api::{ApiError, Call, Header};
use crate::auth::Identity;
use crate::router::attempt::not_hosted;
use crate::router::backoff::Backoff;
use crate::router::interval::Interval;
use crate::router::{Gateway, Place};

/// How long a broken source is tried to be opened again before the watch is cancelled.
const REOPEN_MAX: Duration = Duration::from_secs(10);
/// How often a quiet watch is told how far it has come, so that its token stays inside history.
const PROGRESS_EVERY: Duration = Duration::from_secs(60);
/// Revisions that are handed on together where they are ready together.
const REVISIONS_TOGETHER_MAX: usize = 100;
/// Bytes of events after which no more are added to what is handed on.
const BYTES_TOGETHER: usize = 256 * 1024;

/// Which changes are wanted.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    pub interval: Interval,
    pub previous: bool,
    pub no_puts: bool,
    pub no_deletes: bool,
}

impl Filter {
    /// The same, as a replica takes it.
    pub fn of_replica(&self, from: Option<Revision>) -> WatchFilter {
        let end = &self.interval.end;
        WatchFilter {
            start: Bound::Included(self.interval.start.clone()),
            end: if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end.clone()) },
            from,
            previous: self.previous,
            no_puts: self.no_puts,
            no_deletes: self.no_deletes,
        }
    }
}

/// What one range gives.
pub(super) enum ArmItem {
    /// Whole revisions, in order; the header's revision is the last one's.
    Events { header: Header, revisions: Vec<kv::RevisionEvents> },
    /// Everything up to the header's revision has been delivered.
    Progress { header: Header },
    /// The range cannot be followed any further. Always the last item.
    Failed(ApiError),
}

/// Where the events of a range come from.
enum Source {
    Local(Box<Local>),
    Remote(Remote),
}

/// One range of a watch.
pub(super) struct Arm {
    gateway: Gateway,
    call: Call,
    keyspace: Arc<str>,
    range: RangeId,
    filter: Filter,
    /// First revision that was not delivered.
    next: Revision,
    source: Source,
}

impl Arm {
    /// Opens the watch of `range`, at a replica of this node or through another node.
    pub async fn open(
        gateway: &Gateway,
        call: &Call,
        keyspace: &Arc<str>,
        range: RangeId,
        from: Option<Revision>,
        filter: Filter,
    ) -> Result<(Self, Header), ApiError> {
        let opened = open_source(gateway, call, keyspace, range, from, &filter).await?;
        let (source, next, header) = opened;
        let (gateway, call, keyspace) = (gateway.clone(), call.clone(), keyspace.clone());
        Ok((Self { gateway, call, keyspace, range, filter, next, source }, header))
    }

    /// Everything up to here needs no delivery.
    pub fn delivered(&self) -> Revision {
        Revision(self.next.0.saturating_sub(1))
    }

    /// The range's items, until one fails.
    pub fn items(self, progress: Option<Receiver<u64>>) -> BoxStream<'static, ArmItem> {
        let beat = interval(PROGRESS_EVERY);
        let state = Some((self, progress, beat));
        stream::unfold(state, |state| async move {
            let (mut arm, mut progress, mut beat) = state?;
            let item = arm.next(&mut progress, &mut beat).await;
            let over = matches!(item, ArmItem::Failed(_));
            Some((item, (!over).then_some((arm, progress, beat))))
        })
        .boxed()
    }

    async fn next(&mut self, progress: &mut Option<Receiver<u64>>, beat: &mut Beat) -> ArmItem {
        loop {
            let found = match &mut self.source {
                Source::Local(local) => local.next(&self.gateway, progress, beat).await,
                Source::Remote(remote) => remote.next().await,
            };
            match found {
                Ok(item) => return self.passed_on(item),
                Err(error) if error.is_elsewhere() && !self.call.direct => {
                    if let Err(error) = self.reopen().await {
                        return ArmItem::Failed(error);
                    }
                }
                Err(error) => return ArmItem::Failed(error),
            }
        }
    }

    /// Remembers how far an item has brought the watch. One that begins behind what its source has
    /// applied, since this node was told of more, has nothing to be told until then: no progress
    /// goes back behind its beginning.
    fn passed_on(&mut self, mut item: ArmItem) -> ArmItem {
        if let ArmItem::Events { header, .. } | ArmItem::Progress { header } = &mut item {
            header.revision = header.revision.max(self.delivered());
            self.next = Revision(header.revision.0 + 1);
        }
        item
    }

    async fn reopen(&mut self) -> Result<(), ApiError> {
        self.call.deadline = Deadline::after(REOPEN_MAX);
        let from = Some(self.next);
        let (keyspace, range) = (&self.keyspace, self.range);
        let opened =
            open_source(&self.gateway, &self.call, keyspace, range, from, &self.filter).await;
        let opened = opened.map_err(|error| match error {
            // It was good when the watch began. Whoever opens another one gets another token.
            error if error.is_unauthenticated() => ApiError::NotHere(
                "the watch broke, and the token it was opened with has ended".into(),
            ),
            error => error,
        })?;
        self.source = opened.0;
        Ok(())
    }
}

/// Opens a source, asking wherever the range may be hosted until the call's deadline.
async fn open_source(
    gateway: &Gateway,
    call: &Call,
    keyspace: &str,
    range: RangeId,
    from: Option<Revision>,
    filter: &Filter,
) -> Result<(Source, Revision, Header), ApiError> {
    let mut backoff = Backoff::new(call.deadline);
    loop {
        let error = match open_once(gateway, call, keyspace, range, from, filter).await {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        gateway.again(call, &mut backoff, error).await?;
    }
}

async fn open_once(
    gateway: &Gateway,
    call: &Call,
    keyspace: &str,
    range: RangeId,
    from: Option<Revision>,
    filter: &Filter,
) -> Result<(Source, Revision, Header), ApiError> {
    let target = gateway.resolve(Place::Range { keyspace, range })?;
    if let Some(replica) = gateway.parts.host.replica(range) {
        // "Now" is after whatever this node has told.
        let told = gateway.told_revision(range);
        let is_ahead = told > replica.reader().point().revision;
        let from = from.or_else(|| is_ahead.then_some(Revision(told.0 + 1)));
        let local = Local::open(gateway, replica, &call.identity, from, filter)?;
        let next = local.resume();
        let header = local.header(gateway, Revision(next.0.saturating_sub(1)));
        return Ok((Source::Local(Box::new(local)), next, header));
    }
    if call.direct {
        return Err(not_hosted(range));
    }
    let node = gateway.any_host(&target)?;
    let (remote, header) = forwarded::open(gateway, call, node, range, from, filter).await?;
    Ok((Source::Remote(remote), Revision(header.revision.0 + 1), header))
}

/// What a replica's watch error means to the watcher.
pub(super) fn watch_error(range: RangeId, error: WatchError) -> ApiError {
    match error {
        WatchError::Compacted { oldest } => ApiError::Compacted { oldest: oldest.0 },
        WatchError::TooMany { limit } => ApiError::Overloaded {
            what: format!("range {} has {limit} watches on this node", range.0),
            retry_after: Duration::from_secs(1),
        },
        WatchError::Failed { .. } | WatchError::Stopped => {
            ApiError::NotHere(format!("the watch of range {} broke: {error}", range.0))
        }
    }
}

/// A source at a replica of this node.
pub(super) struct Local {
    replica: Replica,
    stream: WatchStream,
    /// Taken from the stream while looking for more events, not returned yet.
    held: Option<Found>,
}

impl Local {
    /// Follows `replica` for `who`.
    pub fn open(
        gateway: &Gateway,
        replica: Replica,
        who: &Identity,
        from: Option<Revision>,
        filter: &Filter,
    ) -> Result<Self, ApiError> {
        gateway.allow_watch(&replica, who, &filter.interval)?;
        let opened = replica.watch(filter.of_replica(from));
        let stream = opened.map_err(|error| watch_error(replica.options().range, error))?;
        Ok(Self { replica, stream, held: None })
    }

    /// First revision that has not been delivered.
    pub fn resume(&self) -> Revision {
        self.stream.resume()
    }

    /// The header of what has been delivered up to `revision`.
    pub fn header(&self, gateway: &Gateway, revision: Revision) -> Header {
        Header { revision, ..gateway.header_of(&self.replica) }
    }

    /// The next item, with the events that are ready behind it. Asks for progress at every beat
    /// without one, and where the caller does.
    pub async fn next(
        &mut self,
        gateway: &Gateway,
        progress: &mut Option<Receiver<u64>>,
        beat: &mut Beat,
    ) -> Result<ArmItem, ApiError> {
        let found = match self.held.take() {
            Some(found) => Some(found),
            None => self.wait(progress, beat).await,
        };
        beat.reset();
        match found {
            Some(Found::Events(events)) => {
                let revisions = self.together(events);
                let header = self.header(gateway, last_revision(&revisions));
                Ok(ArmItem::Events { header, revisions })
            }
            Some(Found::Progress(point)) => {
                let header = self.header(gateway, point.revision);
                Ok(ArmItem::Progress { header: Header { clock_ms: point.clock_ms, ..header } })
            }
            Some(Found::Cancelled { reason, .. }) => {
                Err(watch_error(self.replica.options().range, reason))
            }
            None => Err(watch_error(self.replica.options().range, WatchError::Stopped)),
        }
    }

    async fn wait(
        &mut self,
        progress: &mut Option<Receiver<u64>>,
        beat: &mut Beat,
    ) -> Option<Found> {
        loop {
            tokio::select! {
                found = self.stream.next() => return found,
                () = asked(progress) => {}
                () = beat.tick() => {}
            }
            self.stream.request_progress();
        }
    }

    /// `first` and the revisions that are ready behind it, up to a bound.
    fn together(&mut self, first: kv::RevisionEvents) -> Vec<kv::RevisionEvents> {
        let mut bytes = first.weight();
        let mut revisions = vec![first];
        while revisions.len() < REVISIONS_TOGETHER_MAX && bytes < BYTES_TOGETHER {
            match self.stream.next().now_or_never().flatten() {
                Some(Found::Events(events)) => {
                    bytes += events.weight();
                    revisions.push(events);
                }
                other => {
                    self.held = other;
                    break;
                }
            }
        }
        revisions
    }
}

/// Waits until progress is asked for; for ever where nobody can ask any more.
async fn asked(progress: &mut Option<Receiver<u64>>) {
    if let Some(receiver) = progress
        && receiver.changed().await.is_ok()
    {
        return;
    }
    pending().await
}
