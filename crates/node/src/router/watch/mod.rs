//! Watches: one source per range, merged, with a token that says what has been delivered.
//!
//! Every range is followed at a replica of this node, or through a node that hosts it. A source
//! that breaks is opened again where the last one stopped, so that the caller sees neither a gap
//! nor an event twice; only what cannot be bridged (compacted history, a range that is gone) ends
//! the watch, with a token where that helps. Order is kept per range; there is none between ranges.

mod arm;
mod forwarded;

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, BoxStream, SelectAll};
use futures_util::{FutureExt, Stream, StreamExt};
use holdfast_kv as kv;
use holdfast_model::{RangeId, Revision, Span};

use super::Gateway;
use super::interval::Interval;
use super::token::{Kind, Seen, Token, fingerprint};
use crate::api::{ApiError, Call, Header, Items, Point, Watch, WatchItem};
use crate::auth::{Keys, Verb};
use crate::limits::Limits;

use arm::{Arm, ArmItem, Filter};
pub(super) use forwarded::serve_forwarded;

impl Gateway {
    /// Follows changes; see [`crate::api::Kv::watch`].
    pub fn watch(&self, call: &Call, request: Watch) -> Items<WatchItem> {
        let (gateway, call) = (self.clone(), call.clone());
        let opened = async move { open(gateway, call, request).await };
        let flattened = opened.into_stream().flat_map(|opened| match opened {
            Ok(items) => items.map(Ok).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        });
        flattened.boxed()
    }
}

/// What a watch needs to know of a range before it begins.
struct Begin {
    range: RangeId,
    span: Span,
    from: Option<Revision>,
}

/// A watch as it was asked for, checked.
struct Question {
    filter: Filter,
    fingerprint: u64,
    begins: Vec<Begin>,
}

async fn open(
    gateway: Gateway,
    call: Call,
    request: Watch,
) -> Result<BoxStream<'static, WatchItem>, ApiError> {
    gateway.enter(&call, &request.keyspace).await?;
    let question = question(&gateway, &call, &request)?;
    let keyspace: std::sync::Arc<str> = request.keyspace.as_str().into();
    let arms = question.begins.iter().map(|begin| {
        Arm::open(&gateway, &call, &keyspace, begin.range, begin.from, question.filter.clone())
    });
    let mut sources = SelectAll::new();
    let mut delivered = Delivered::new(question.fingerprint);
    let mut header = gateway.plain_header();
    let single = question.begins.len() == 1;
    for (begin, opened) in question.begins.iter().zip(join_all(arms).await) {
        let (arm, arm_header) = match opened {
            Ok(opened) => opened,
            // Whoever may not follow these keys has no watch that could be cancelled.
            Err(error) if error.is_about_caller() => return Err(error),
            Err(error) => return Ok(refused(header, error, &request)),
        };
        delivered.begin(begin.range, begin.span, arm.delivered());
        if single {
            header = arm_header;
        }
        sources.push(arm.items(request.progress.clone()));
    }
    let created = WatchItem::Created { header, resume_token: delivered.token() };
    Ok(stream::iter([created]).chain(merged(sources, delivered)).boxed())
}

/// A watch that cannot begin although the request is right: created, then cancelled, so that the
/// caller learns of it in the same way as of one that ends later.
fn refused(header: Header, error: ApiError, request: &Watch) -> BoxStream<'static, WatchItem> {
    let resume_token = request.resume_token.clone();
    let created = WatchItem::Created { header, resume_token: resume_token.clone() };
    stream::iter([created, WatchItem::Canceled { error, resume_token }]).boxed()
}

fn question(gateway: &Gateway, call: &Call, request: &Watch) -> Result<Question, ApiError> {
    let limits = &gateway.parts.limits;
    let interval = interval_of(limits, request)?;
    let keys = Keys::Interval { start: &interval.start, end: &interval.end };
    gateway.allow(call, Verb::Read, &request.keyspace, keys)?;
    let (keyspace, one_key) = (&request.keyspace, !request.prefix && request.end.is_none());
    let prefix: &[u8] = if request.end.is_some() { &[] } else { &request.key };
    let ranges = gateway.ranges_of_question(keyspace, request.range, prefix, one_key)?;
    let map = gateway.parts.map.peek();
    let keyspace = super::keyspace_of(&map, keyspace)?.id;
    let (id, range) = (keyspace.0.to_le_bytes(), request.range.0.to_le_bytes());
    let prefix = [u8::from(request.prefix)];
    let mut parts: Vec<&[u8]> = vec![b"watch", &id, &request.key, &prefix, &range];
    parts.extend(request.end.as_deref());
    let fingerprint = fingerprint(&parts);
    let token = match request.resume_token.is_empty() {
        true => None,
        false => Some(Token::decode(&request.resume_token, Kind::Watch, fingerprint)?),
    };
    let found = ranges.iter().filter_map(|id| map.ranges.get(id));
    let begins = found.map(|range| Begin {
        range: range.id,
        span: range.span,
        from: first_revision(request.from, token.as_ref(), range.span),
    });
    let begins = begins.collect();
    let filter = Filter {
        interval,
        previous: request.previous,
        no_puts: request.no_puts,
        no_deletes: request.no_deletes,
    };
    Ok(Question { filter, fingerprint, begins })
}

/// The keys a watch is about.
fn interval_of(limits: &Limits, request: &Watch) -> Result<Interval, ApiError> {
    if request.prefix {
        limits.bound("prefix bytes", &request.key)?;
        return Ok(Interval::prefix(&request.key));
    }
    limits.key(&request.key)?;
    let Some(end) = &request.end else { return Ok(Interval::one(&request.key)) };
    limits.bound("end bytes", end)?;
    let interval = Interval { start: request.key.clone(), end: end.clone() };
    match interval.is_empty() {
        true => {
            Err(ApiError::Invalid("interval of a watch: its end is not after its start".into()))
        }
        false => Ok(interval),
    }
}

/// Where the watch of a span begins; `None` = now.
fn first_revision(from: Revision, token: Option<&Token>, span: Span) -> Option<Revision> {
    match token {
        // A span the token has not seen belongs to a range that did not exist: all of it is new.
        Some(token) => {
            let seen = token.seen.iter().find(|seen| seen.span.contains(span.start));
            Some(Revision(seen.map_or(1, |seen| seen.point.revision.0 + 1)))
        }
        None => (from.0 != 0).then_some(from),
    }
}

/// What has been delivered of every range.
struct Delivered {
    fingerprint: u64,
    ranges: BTreeMap<RangeId, Seen>,
}

impl Delivered {
    fn new(fingerprint: u64) -> Self {
        Self { fingerprint, ranges: BTreeMap::new() }
    }

    fn begin(&mut self, range: RangeId, span: Span, revision: Revision) {
        let point = Point { revision, clock_ms: 0 };
        self.ranges.insert(range, Seen { span, point });
    }

    fn advance(&mut self, range: RangeId, revision: Revision) {
        if let Some(seen) = self.ranges.get_mut(&range) {
            seen.point.revision = seen.point.revision.max(revision);
        }
    }

    fn token(&self) -> Bytes {
        let seen = self.ranges.values().copied().collect();
        let fingerprint = self.fingerprint;
        Token { kind: Kind::Watch, fingerprint, last_key: None, seen }.encode()
    }
}

/// The items of all ranges as one stream, which ends with the first range that cannot go on.
fn merged(
    sources: SelectAll<BoxStream<'static, ArmItem>>,
    delivered: Delivered,
) -> impl Stream<Item = WatchItem> + Send {
    stream::unfold(Some((sources, delivered)), |state| async move {
        let (mut sources, mut delivered) = state?;
        let item = sources.next().await?;
        match item {
            ArmItem::Events { header, revisions } => {
                delivered.advance(header.range, header.revision);
                let resume_token = delivered.token();
                let item = WatchItem::Events { header, revisions, resume_token };
                Some((item, Some((sources, delivered))))
            }
            ArmItem::Progress { header } => {
                delivered.advance(header.range, header.revision);
                let item = WatchItem::Progress { header, resume_token: delivered.token() };
                Some((item, Some((sources, delivered))))
            }
            ArmItem::Failed(error) => {
                let resumable = !matches!(error, ApiError::Compacted { .. });
                let resume_token = if resumable { delivered.token() } else { Bytes::new() };
                Some((WatchItem::Canceled { error, resume_token }, None))
            }
        }
    })
}

/// The last revision among events, which is what they have brought the watch up to.
fn last_revision(revisions: &[kv::RevisionEvents]) -> Revision {
    revisions.last().map_or(Revision(0), |revision| revision.revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(revision: u64) -> Token {
        let point = Point { revision: Revision(revision), clock_ms: 0 };
        let seen = Span::split_ring(2).into_iter().map(|span| Seen { span, point });
        Token { kind: Kind::Watch, fingerprint: 1, last_key: None, seen: seen.collect() }
    }

    #[test]
    fn both_halves_of_a_split_span_go_on_where_the_span_stopped() {
        let token = token(41);
        for span in Span::split_ring(4) {
            let first = first_revision(Revision(7), Some(&token), span);
            assert_eq!(first, Some(Revision(42)), "{span}");
        }
    }

    #[test]
    fn a_watch_without_token_begins_at_its_revision_or_now() {
        assert_eq!(first_revision(Revision(7), None, Span::ALL), Some(Revision(7)));
        assert_eq!(first_revision(Revision(0), None, Span::ALL), None);
    }

    #[test]
    fn a_late_progress_never_takes_a_token_back() {
        let mut delivered = Delivered::new(1);
        delivered.begin(RangeId(1), Span::ALL, Revision(10));
        delivered.advance(RangeId(1), Revision(12));
        delivered.advance(RangeId(1), Revision(11));
        assert_eq!(delivered.ranges[&RangeId(1)].point.revision, Revision(12));
    }
}
