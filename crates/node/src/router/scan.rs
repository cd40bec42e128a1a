//! Scans: the ranges of a question, each read at one pinned point, merged into one order, in pages.
//!
//! The first part of every range is read at the level that was asked for, which pins the range's
//! read point; all later parts are read at that point, from any replica that has reached it. So a
//! scan shows each range as it was at one moment, however long the client takes. The token of a
//! page carries the points; a resumed scan goes on at them, until history gives them up.
//! Memory: every range buffers one part; parts are smaller the more ranges there are.

use std::cmp::Ordering;
use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use holdfast_kv as kv;
use holdfast_model::{RangeId, Span};
use holdfast_runtime::Deadline;

use super::interval::Interval;
use super::read::check_options;
use super::serve::{Page, Query, ReadSpec, Reply, ScanQuery};
use super::token::{Kind, Seen, Token, fingerprint};
use super::{Gateway, Place};
use crate::api::{
    ApiError, Call, Header, Items, Operation, Point, ReadLevel, ReadOptions, Scan, ScanPage,
    Staleness,
};
use crate::auth::{Keys, Verb};
use crate::limits::at_most;

/// Fewest keys of a part, so that many ranges do not mean many round trips per key.
const PART_KEYS_MIN: usize = 16;
/// Fewest bytes of a part.
const PART_BYTES_MIN: usize = 64 * 1024;

impl Gateway {
    /// Reads keys in order; see [`crate::api::Kv::scan`].
    pub fn scan(&self, call: &Call, request: Scan) -> Items<ScanPage> {
        let (gateway, call) = (self.clone(), call.clone());
        let time = call.deadline.remaining();
        let begin = Stage::Begin(Box::new(request));
        stream::unfold(begin, move |stage| {
            let (gateway, mut call) = (gateway.clone(), call.clone());
            async move {
                call.deadline = Deadline::after(time);
                let started = gateway.now();
                let mut merge = match stage {
                    Stage::Begin(request) => match Merge::begin(&gateway, &call, *request).await {
                        Ok(merge) => merge,
                        Err(error) => {
                            gateway.finished(Operation::Scan, None, Some(&error), started);
                            return Some((Err(error), Stage::End));
                        }
                    },
                    Stage::Going(merge) => *merge,
                    Stage::End => return None,
                };
                let level = Some(merge.read.level);
                let page = merge.page(&gateway, &call).await;
                gateway.finished(Operation::Scan, level, page.as_ref().err(), started);
                match page {
                    Ok(page) if merge.is_over() => Some((Ok(page), Stage::End)),
                    Ok(page) => Some((Ok(page), Stage::Going(Box::new(merge)))),
                    Err(error) => Some((Err(error), Stage::End)),
                }
            }
        })
        .boxed()
    }
}

enum Stage {
    Begin(Box<Scan>),
    Going(Box<Merge>),
    End,
}

/// One range of a scan.
struct Cursor {
    range: RangeId,
    span: Span,
    /// Set by the first part, or by the token.
    pinned: Option<Point>,
    /// Read and not delivered.
    buffer: VecDeque<kv::Entry>,
    /// What is still to be read; `None` = nothing.
    rest: Option<Interval>,
}

impl Cursor {
    fn is_dry(&self) -> bool {
        self.buffer.is_empty() && self.rest.is_some()
    }

    fn is_done(&self) -> bool {
        self.buffer.is_empty() && self.rest.is_none()
    }
}

/// A scan under way.
struct Merge {
    keyspace: String,
    read: ReadOptions,
    keys_only: bool,
    reverse: bool,
    fingerprint: u64,
    cursors: Vec<Cursor>,
    /// Keys still wanted.
    left: u64,
    page_keys: usize,
    page_bytes: usize,
    header: Header,
    staleness: Option<Staleness>,
    first: bool,
    last_key: Option<Bytes>,
}

impl Merge {
    async fn begin(gateway: &Gateway, call: &Call, request: Scan) -> Result<Self, ApiError> {
        gateway.enter(call, &request.keyspace).await?;
        check_options(&request.read)?;
        let interval = interval_of(gateway, &request)?;
        let keys = Keys::Interval { start: &interval.start, end: &interval.end };
        gateway.allow(call, Verb::Read, &request.keyspace, keys)?;
        let keys_max = gateway.parts.limits.scan_page_keys_max;
        at_most("page keys", keys_max, request.page_keys)?;
        let ranges =
            gateway.ranges_of_question(&request.keyspace, request.range, &request.prefix, false)?;
        let fingerprint = fingerprint_of(gateway, &request, &interval)?;
        let (cursors, last_key) = match request.resume_token.is_empty() {
            true => (fresh_cursors(gateway, &ranges, &interval), None),
            false => {
                let token = Token::decode(&request.resume_token, Kind::Scan, fingerprint)?;
                let rest = after(&interval, token.last_key.as_ref(), request.reverse);
                (resumed_cursors(gateway, &ranges, &rest, &token), token.last_key)
            }
        };
        Ok(Self {
            keyspace: request.keyspace,
            read: request.read,
            keys_only: request.keys_only,
            reverse: request.reverse,
            fingerprint,
            cursors,
            left: if request.limit == 0 { u64::MAX } else { request.limit },
            page_keys: if request.page_keys == 0 { keys_max } else { request.page_keys },
            page_bytes: gateway.parts.limits.scan_page_bytes_max,
            header: gateway.plain_header(),
            staleness: None,
            first: true,
            last_key,
        })
    }

    fn is_over(&self) -> bool {
        self.left == 0 || self.cursors.iter().all(Cursor::is_done)
    }

    /// The next page: at least one entry, unless nothing is left.
    async fn page(&mut self, gateway: &Gateway, call: &Call) -> Result<ScanPage, ApiError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        loop {
            self.refill(gateway, call).await?;
            let full = self.take(&mut entries, &mut bytes);
            if full || self.is_over() {
                break;
            }
        }
        if let Some(last) = entries.last() {
            self.last_key = Some(last.key.clone());
        }
        let points = match std::mem::take(&mut self.first) {
            true => self.cursors.iter().map(|c| (c.range, c.pinned.unwrap_or_default())).collect(),
            false => Vec::new(),
        };
        let resume_token = self.token();
        let staleness = self.staleness;
        Ok(ScanPage { header: self.header, entries, resume_token, points, staleness })
    }

    /// Moves entries in order, as long as every range has its next one at hand. True where the page
    /// is full.
    fn take(&mut self, entries: &mut Vec<kv::Entry>, bytes: &mut usize) -> bool {
        loop {
            if entries.len() >= self.page_keys || self.left == 0 {
                return true;
            }
            if self.cursors.iter().any(Cursor::is_dry) {
                return false;
            }
            let page_bytes = self.page_bytes;
            let Some(next) = self.next_cursor() else { return false };
            let Some(head) = next.buffer.front() else { return false };
            let weight = head.key.len() + head.value.len();
            if !entries.is_empty() && *bytes + weight > page_bytes {
                return true;
            }
            *bytes += weight;
            entries.extend(next.buffer.pop_front());
            self.left -= 1;
        }
    }

    /// The range whose next key is first in the scan's order.
    fn next_cursor(&mut self) -> Option<&mut Cursor> {
        let reverse = self.reverse;
        let order = |a: &Option<&kv::Entry>, b: &Option<&kv::Entry>| {
            let order = a.map(|entry| &entry.key).cmp(&b.map(|entry| &entry.key));
            if reverse { order.reverse() } else { order }
        };
        self.cursors
            .iter_mut()
            .filter(|cursor| !cursor.buffer.is_empty())
            .min_by(|a, b| -> Ordering { order(&a.buffer.front(), &b.buffer.front()) })
    }

    /// Reads the next part of every range that has nothing at hand, all at once.
    async fn refill(&mut self, gateway: &Gateway, call: &Call) -> Result<(), ApiError> {
        let count = self.cursors.len().max(1);
        let limit =
            (self.page_keys * 2 / count).clamp(PART_KEYS_MIN, self.page_keys.max(PART_KEYS_MIN));
        let bytes_max = (self.page_bytes / count).max(PART_BYTES_MIN);
        let parts = self.cursors.iter().enumerate().filter(|(_, cursor)| cursor.is_dry());
        let reads = parts.map(|(index, cursor)| {
            let rest = cursor.rest.clone().unwrap_or_default();
            let query = Query::Scan(ScanQuery {
                start: rest.start,
                end: rest.end,
                limit,
                bytes_max,
                keys_only: self.keys_only,
                reverse: self.reverse,
            });
            let place = Place::Range { keyspace: &self.keyspace, range: cursor.range };
            let spec = match cursor.pinned {
                None => gateway.spec(place, &self.read, None),
                // Empty ranges at revision 0 have no point to go back to; there is nothing there.
                pinned => ReadSpec {
                    level: ReadLevel::Follower,
                    max_staleness: None,
                    min: pinned,
                    at: pinned,
                },
            };
            async move { (index, gateway.read(call, place, &spec, &query).await) }
        });
        for (index, result) in join_all(reads).await {
            self.accept(index, result?)?;
        }
        Ok(())
    }

    fn accept(&mut self, index: usize, served: super::serve::Served) -> Result<(), ApiError> {
        let single = self.cursors.len() == 1;
        let Some(cursor) = self.cursors.get_mut(index) else { return Ok(()) };
        if cursor.pinned.is_none() {
            cursor.pinned = Some(served.point());
            self.staleness = match (self.staleness, served.staleness) {
                (Some(a), Some(b)) => Some(a.together_with(b)),
                (a, b) => a.or(b),
            };
        }
        if single {
            let pinned = cursor.pinned.unwrap_or_default();
            let (revision, clock_ms) = (pinned.revision, pinned.clock_ms);
            self.header = Header { revision, clock_ms, ..served.header };
        }
        let Reply::Page(Page { entries, resume }) = served.reply else {
            return Err(super::coordination::unexpected("scan", &served.reply));
        };
        let rest = cursor.rest.take().unwrap_or_default();
        cursor.rest = resume.map(|key| match self.reverse {
            true => Interval { start: rest.start, end: key },
            false => Interval { start: key, end: rest.end },
        });
        cursor.buffer.extend(entries);
        Ok(())
    }

    /// Where the scan goes on; empty where it does not.
    fn token(&self) -> Bytes {
        let open = self.cursors.iter().filter(|cursor| !cursor.is_done());
        let seen: Vec<Seen> = open
            .map(|cursor| Seen { span: cursor.span, point: cursor.pinned.unwrap_or_default() })
            .collect();
        if seen.is_empty() {
            return Bytes::new();
        }
        let (fingerprint, last_key) = (self.fingerprint, self.last_key.clone());
        Token { kind: Kind::Scan, fingerprint, last_key, seen }.encode()
    }
}

/// The keys a scan asks for.
fn interval_of(gateway: &Gateway, request: &Scan) -> Result<Interval, ApiError> {
    let limits = &gateway.parts.limits;
    limits.bound("prefix bytes", &request.prefix)?;
    limits.bound("start key bytes", &request.start)?;
    limits.bound("end key bytes", &request.end)?;
    if request.prefix.is_empty() {
        return Ok(Interval { start: request.start.clone(), end: request.end.clone() });
    }
    if !request.start.is_empty() || !request.end.is_empty() {
        return Err(ApiError::Invalid("prefix: not together with start or end".into()));
    }
    Ok(Interval::prefix(&request.prefix))
}

fn fingerprint_of(gateway: &Gateway, request: &Scan, interval: &Interval) -> Result<u64, ApiError> {
    let map = gateway.parts.map.peek();
    let keyspace = super::keyspace_of(&map, &request.keyspace)?.id;
    Ok(fingerprint(&[
        b"scan",
        &keyspace.0.to_le_bytes(),
        &interval.start,
        &interval.end,
        &[u8::from(request.reverse)],
        &request.range.0.to_le_bytes(),
    ]))
}

/// What is left of an interval once everything up to `last` has been delivered.
fn after(interval: &Interval, last: Option<&Bytes>, reverse: bool) -> Interval {
    match last {
        None => interval.clone(),
        Some(last) if reverse => Interval { start: interval.start.clone(), end: last.clone() },
        Some(last) => Interval { start: Interval::one(last).end, end: interval.end.clone() },
    }
}

fn fresh_cursors(gateway: &Gateway, ranges: &[RangeId], interval: &Interval) -> Vec<Cursor> {
    let map = gateway.parts.map.peek();
    let found = ranges.iter().filter_map(|id| map.ranges.get(id));
    found.map(|range| cursor(range.id, range.span, None, interval)).collect()
}

/// A cursor for every range that owns part of a span of the token.
fn resumed_cursors(
    gateway: &Gateway,
    ranges: &[RangeId],
    rest: &Interval,
    token: &Token,
) -> Vec<Cursor> {
    let map = gateway.parts.map.peek();
    let found = ranges.iter().filter_map(|id| map.ranges.get(id));
    let pinned = found.filter_map(|range| {
        let seen = token.seen.iter().find(|seen| seen.span.contains(range.span.start))?;
        Some(cursor(range.id, range.span, Some(seen.point), rest))
    });
    pinned.collect()
}

fn cursor(range: RangeId, span: Span, pinned: Option<Point>, rest: &Interval) -> Cursor {
    let rest = (!rest.is_empty()).then(|| rest.clone());
    Cursor { range, span, pinned, buffer: VecDeque::new(), rest }
}
