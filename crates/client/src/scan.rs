//! Ordered scans, page by page, that go on over failures where they stopped.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::{Stream, stream};
use holdfast_model::RangeId;
use holdfast_runtime::{Elapsed, timeout};
use holdfast_wire::v1;
use tonic::Streaming;

use crate::call::Limit;
use crate::client::{Client, check_deadline};
use crate::error::Error;
use crate::method;
use crate::options::{with_deadline, with_read_options};
use crate::read::prefer;
use crate::streams::{Break, Pauses, break_of, open, shared_position};
use crate::types::{Entry, ReadPoint, Staleness};

impl Client {
    /// Reads all keys that start with `prefix` (empty: all keys), in order.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// let mut scan = client.scan("config/").limit(100).start()?;
    /// while let Some(entry) = scan.next().await? {
    ///     println!("{:?} = {:?}", entry.key, entry.value);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn scan(&self, prefix: impl Into<Bytes>) -> ScanBuilder {
        let request = v1::ScanRequest { prefix: prefix.into(), ..Default::default() };
        ScanBuilder { client: self.clone(), request, read: self.read_options() }
    }

    /// Reads the keys from `start` up to, not including, `end` (empty: to the last), in order.
    pub fn scan_range(&self, start: impl Into<Bytes>, end: impl Into<Bytes>) -> ScanBuilder {
        let (start, end) = (start.into(), end.into());
        let request = v1::ScanRequest { start, end, ..Default::default() };
        ScanBuilder { client: self.clone(), request, read: self.read_options() }
    }
}

/// Options of a scan. Made by [`Client::scan`] and [`Client::scan_range`].
#[derive(Clone, Debug)]
#[must_use = "a scan does nothing until it is started"]
pub struct ScanBuilder {
    client: Client,
    request: v1::ScanRequest,
    read: v1::ReadOptions,
}

impl ScanBuilder {
    with_deadline!();
    with_read_options!();

    /// Stops after so many keys; 0 = never.
    pub fn limit(mut self, keys: u64) -> Self {
        self.request.limit = keys;
        self
    }

    /// Leaves the values out.
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// From the last key to the first.
    pub fn reverse(mut self) -> Self {
        self.request.reverse = true;
        self
    }

    /// Keys of a page, 1 … 1,000; 0 = 1,000. A page is also cut at 4 MiB.
    pub fn page_keys(mut self, keys: u32) -> Self {
        self.request.page_keys = keys;
        self
    }

    /// Only keys held by this range.
    pub fn range_id(mut self, range: RangeId) -> Self {
        self.request.range_id = range.0;
        self
    }

    /// Goes on where the page with this token ended, at the same read points.
    pub fn resume(mut self, token: impl Into<Bytes>) -> Self {
        self.request.resume_token = token.into();
        self
    }

    /// The scan; the first page is asked for by the first call of [`Scan::next`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a deadline over 60 s.
    pub fn start(self) -> Result<Scan, Error> {
        check_deadline(self.client.deadline)?;
        let Self { client, mut request, read } = self;
        request.keyspace = client.wire_keyspace();
        request.direct = client.inner.config.direct;
        request.read = Some(read);
        Ok(Scan {
            client,
            request,
            pages: None,
            buffered: VecDeque::new(),
            pauses: Pauses::default(),
            is_done: false,
        })
    }

    /// Reads everything into memory.
    ///
    /// # Errors
    /// As [`Scan::next_page`].
    pub async fn collect(self) -> Result<Vec<Entry>, Error> {
        let mut scan = self.start()?;
        let mut entries = Vec::new();
        while let Some(page) = scan.next_page().await? {
            entries.extend(page.entries);
        }
        Ok(entries)
    }
}

/// One page of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// Its entries, in order.
    pub entries: Vec<Entry>,
    /// Continues after this page, in this process or another; empty on the last page.
    pub resume_token: Bytes,
    /// First page: the point in history of every range that the scan shows.
    pub points: Vec<ReadPoint>,
    /// Follower reads: how old the answer can be at most.
    pub staleness: Option<Staleness>,
}

/// A scan under way. Breaks are mended: it goes on after the last page at the same read points,
/// on another node if need be, so no key is missed or given twice.
#[derive(Debug)]
pub struct Scan {
    client: Client,
    request: v1::ScanRequest,
    pages: Option<Streaming<v1::ScanResponse>>,
    buffered: VecDeque<Entry>,
    pauses: Pauses,
    is_done: bool,
}

impl Scan {
    /// The next entry; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// As [`Scan::next_page`].
    pub async fn next(&mut self) -> Result<Option<Entry>, Error> {
        while self.buffered.is_empty() {
            let Some(page) = self.next_page().await? else { return Ok(None) };
            self.buffered = page.entries.into();
        }
        Ok(self.buffered.pop_front())
    }

    /// The next page; `None` at the end. Each page has the whole deadline. Cancel safe.
    ///
    /// Do not mix with [`Scan::next`]: entries that call holds back are not given here.
    ///
    /// # Errors
    /// [`Error::Deadline`]: call again to go on. [`Error::Compacted`]: the pinned state is gone.
    /// Otherwise what the request is at fault for.
    pub async fn next_page(&mut self) -> Result<Option<ScanPage>, Error> {
        if self.is_done {
            return Ok(None);
        }
        let limit = self.client.limit();
        let mut last = None;
        loop {
            let left = limit.deadline.remaining();
            let attempt = match timeout(left, self.page(limit)).await {
                Ok(attempt) => attempt,
                Err(Elapsed) => {
                    self.pages = None;
                    let last = last.unwrap_or_else(|| "no page came in time".to_owned());
                    return Err(Error::Deadline { deadline: limit.total, last });
                }
            };
            match attempt {
                Ok(page) => {
                    self.pauses.reset();
                    return Ok(page.map(|page| self.take(page)));
                }
                Err(Break::Mendable(error)) if !self.client.inner.config.direct => {
                    self.pages = None;
                    last = Some(error.to_string());
                }
                Err(end) => {
                    self.is_done = true;
                    return Err(end.into_error());
                }
            }
        }
    }

    /// Gives the entries as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Entry, Error>> + Send + Unpin {
        let step = |scan: Option<Self>| async move {
            let mut scan = scan?;
            match scan.next().await {
                Ok(Some(entry)) => Some((Ok(entry), Some(scan))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        };
        Box::pin(stream::unfold(Some(self), step))
    }

    async fn page(&mut self, limit: Limit) -> Result<Option<v1::ScanResponse>, Break> {
        if self.pages.is_none() {
            self.pauses.wait(&self.client).await;
            self.pages = Some(self.open(limit).await?);
        }
        let Some(pages) = &mut self.pages else { return Ok(None) };
        let page = pages.message().await.map_err(|status| break_of(&status))?;
        if page.is_none() {
            self.is_done = true;
        }
        Ok(page)
    }

    async fn open(&self, limit: Limit) -> Result<Streaming<v1::ScanResponse>, Break> {
        let request = self.request.clone();
        let place = shared_position(&request.prefix);
        let prefer = request.read.as_ref().map_or(crate::call::Prefer::Leader, prefer);
        let node = self.client.stream_node(place, prefer, limit).await.map_err(Break::Final)?;
        let node = node.ok_or_else(|| {
            Break::Final(Error::Unavailable("no endpoint is configured".to_owned()))
        })?;
        open(&node, method::SCAN, stream::iter([request]), true).await
    }

    /// Remembers where to go on, and hands the page out.
    fn take(&mut self, page: v1::ScanResponse) -> ScanPage {
        let count = page.entries.len() as u64;
        let is_last = page.resume_token.is_empty();
        self.request.resume_token = page.resume_token.clone();
        if self.request.limit > 0 {
            self.request.limit = self.request.limit.saturating_sub(count);
            self.is_done |= self.request.limit == 0;
        }
        self.is_done |= is_last;
        if self.is_done {
            self.pages = None;
        }
        let point = |point: &v1::ReadPoint| ReadPoint {
            range: RangeId(point.range_id),
            revision: holdfast_model::Revision(point.revision),
            clock_ms: point.clock_ms,
        };
        ScanPage {
            entries: page.entries.into_iter().map(Entry::from).collect(),
            resume_token: page.resume_token,
            points: page.points.iter().map(point).collect(),
            staleness: page.staleness.map(Staleness::from),
        }
    }
}
