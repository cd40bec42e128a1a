//! Pages of keys in order.

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_lsm::{Family, ReadPoint};
use holdfast_model::limits::{SCAN_PAGE_BYTES_MAX, SCAN_PAGE_KEYS_MAX};

use super::{At, Reader, View};
use crate::working::{decode, interval};
use crate::{Entry, Result};

/// Most keys one page looks at, hidden and foreign ones included.
const PAGE_EXAMINED_MAX: usize = 10_000;
/// Most keys one `count` looks at.
const COUNT_EXAMINED_MAX: usize = 100_000;
/// What a scan asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRequest {
    /// First key.
    pub start: Bytes,
    /// First key after the interval; empty means to the end.
    pub end: Bytes,
    /// Most entries of the page; at most `SCAN_PAGE_KEYS_MAX`, 0 means that.
    pub limit: usize,
    /// Most bytes of the page; at most `SCAN_PAGE_BYTES_MAX`, 0 means that. One entry always fits.
    pub bytes_max: usize,
    /// Leave values out.
    pub keys_only: bool,
    /// From the last key down.
    pub reverse: bool,
    /// At which state.
    pub at: At,
}

impl ScanRequest {
    /// The first page of all keys of `[start, end)` of the current state.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self {
            start: start.into(),
            end: end.into(),
            limit: 0,
            bytes_max: 0,
            keys_only: false,
            reverse: false,
            at: At::Current,
        }
    }
}

/// One page of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In order of keys; may be empty while there is more, where much was hidden.
    pub entries: Vec<Entry>,
    /// Where the next page goes on: its `start`, or its `end` in reverse. None on the last page.
    pub resume: Option<Bytes>,
    /// The read point of the page; pass it as `At::Point` for the next.
    pub point: ReadPoint,
}

/// A part of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountPage<K> {
    /// How many keys were found.
    pub count: u64,
    /// Where to go on; none where the count is complete.
    pub resume: Option<K>,
    /// The read point of the count.
    pub point: ReadPoint,
}

impl Reader {
    /// One page of the keys of an interval, in order.
    ///
    /// # Errors
    /// As [`Reader::get`]; the span is not checked but shown.
    pub fn scan(&self, request: &ScanRequest) -> Result<Page> {
        let limit = match request.limit {
            0 => SCAN_PAGE_KEYS_MAX,
            limit => limit.min(SCAN_PAGE_KEYS_MAX),
        };
        let bytes_max = match request.bytes_max {
            0 => SCAN_PAGE_BYTES_MAX,
            bytes => bytes.min(SCAN_PAGE_BYTES_MAX),
        };
        self.look(request.at, |view| {
            let mut page = Page { entries: Vec::new(), resume: None, point: view.point };
            let mut bytes = 0;
            page.resume = self.walk(view, request, PAGE_EXAMINED_MAX, |mut entry| {
                if request.keys_only {
                    entry.value = Bytes::new();
                }
                let weight = entry.weight();
                let full = page.entries.len() == limit || bytes + weight > bytes_max;
                if full && !page.entries.is_empty() {
                    return false;
                }
                bytes += weight;
                page.entries.push(entry);
                true
            })?;
            Ok(page)
        })
    }

    /// How many keys lie in `[start, end)`; looks at a bounded number of keys per call.
    ///
    /// # Errors
    /// As [`Reader::scan`].
    pub fn count(&self, start: &Bytes, end: &Bytes, at: At) -> Result<CountPage<Bytes>> {
        let request = ScanRequest { at, ..ScanRequest::new(start.clone(), end.clone()) };
        self.look(at, |view| {
            let mut count = 0;
            let resume = self.walk(view, &request, COUNT_EXAMINED_MAX, |_| {
                count += 1;
                true
            })?;
            Ok(CountPage { count, resume, point: view.point })
        })
    }

    /// Visits shown entries until `take` declines one or `examined_max` keys were looked at; then
    /// gives the place to go on from.
    pub(super) fn walk(
        &self,
        view: &View,
        request: &ScanRequest,
        examined_max: usize,
        mut take: impl FnMut(Entry) -> bool,
    ) -> Result<Option<Bytes>> {
        let bounds = interval(&request.start, &request.end);
        if !request.end.is_empty() && request.end <= request.start {
            return Ok(None);
        }
        let scan = self.engine.scan(Family::Data, bounds, view.point, request.reverse)?;
        for (examined, found) in (1..).zip(scan) {
            let (key, record) = found?;
            let entry = decode(key, record)?;
            let key = entry.key.clone();
            let visible = view.shows(&entry) && view.truth.owns(&key);
            if visible && !take(entry) {
                return Ok(Some(if request.reverse { successor(&key) } else { key }));
            }
            if examined >= examined_max {
                return Ok(Some(if request.reverse { key } else { successor(&key) }));
            }
        }
        Ok(None)
    }
}

/// The smallest key after `key`.
fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}
