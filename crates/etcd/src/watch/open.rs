//! One watch of a stream: what is asked for, how it is opened, what is kept of it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use holdfast_model::Revision;
use holdfast_node::api::{ApiError, Header, Items, Observer, Watch, WatchItem};
use holdfast_wire::etcd::etcdserverpb::WatchCreateRequest;
use holdfast_wire::etcd::etcdserverpb::watch_create_request::FilterType;
use tokio::sync::watch;

use crate::EtcdError;
use crate::call::{Asked, Service};

/// What stands for "every key from here on" at the end of an interval, and for "the first key".
const ZERO: &[u8] = &[0];

/// A watch as a client wants it.
pub(super) struct Wish {
    pub id: i64,
    pub notify: bool,
    pub fragment: bool,
    watch: Watch,
}

impl Wish {
    /// What a request asks for, without an id.
    ///
    /// # Errors
    /// Why it is refused, in etcd's words.
    pub fn of(create: WatchCreateRequest) -> Result<Self, String> {
        let from = u64::try_from(create.start_revision);
        let from = from.map_err(|_| EtcdError::Compacted.to_string())?;
        let has = |kind: FilterType| create.filters.contains(&kind.into());
        let (no_puts, no_deletes) = (has(FilterType::Noput), has(FilterType::Nodelete));
        let key = if create.key.is_empty() { Bytes::from_static(ZERO) } else { create.key };
        let end = match create.range_end {
            end if end.is_empty() => None,
            end if end.as_ref() == ZERO => Some(Bytes::new()),
            end if end <= key => return Err("mvcc: watcher range is empty".to_owned()),
            end => Some(end),
        };
        let watch = Watch {
            key,
            end,
            from: Revision(from),
            previous: create.prev_kv,
            no_puts,
            no_deletes,
            ..Watch::default()
        };
        let (notify, fragment) = (create.progress_notify, create.fragment);
        Ok(Self { id: create.watch_id, notify, fragment, watch })
    }
}

/// A watch that was opened, or was not.
pub(super) struct Opened {
    pub wish: Wish,
    /// The node's state as the watch began, and what it gives from then on.
    pub begun: Result<(Header, Stream), ApiError>,
}

/// What a watch gives, and the way to ask it how far it is.
pub(super) type Stream = (Items<WatchItem>, watch::Sender<u64>);

/// Opens a watch.
pub(super) fn open(service: Service, asked: Asked, wish: Wish) -> BoxFuture<'static, Opened> {
    async move {
        let begun = begin(&service, &asked, &wish).await;
        Opened { wish, begun }
    }
    .boxed()
}

async fn begin(
    service: &Service,
    asked: &Asked,
    wish: &Wish,
) -> Result<(Header, Stream), ApiError> {
    let mut call = asked.call.clone();
    call.deadline = service.deadline_of_one();
    let (ask, progress) = watch::channel(0);
    let (keyspace, progress) = (asked.keyspace.clone(), Some(progress));
    let request = Watch { keyspace, progress, ..wish.watch.clone() };
    let is_from_now = request.from.0 == 0;
    let mut items = service.gateway.watch(&call, request);
    let created = items.next().await;
    let header = match created {
        Some(Ok(WatchItem::Created { header, .. })) => header,
        Some(Err(error)) => return Err(error),
        other => return Err(ApiError::Internal(format!("a watch began with {other:?}"))),
    };
    // One that begins elsewhere than now tells how far the node is, not where it begins.
    let header = match is_from_now {
        true => header,
        false => service.header_now(&Asked { call, ..asked.clone() }).await.unwrap_or(header),
    };
    Ok((header, (items, ask)))
}

/// What one watch gives, with its id.
pub(super) struct Given {
    pub id: i64,
    pub item: Result<WatchItem, ApiError>,
}

/// A watch under way: it ends, and is no longer counted, when this is dropped.
pub(super) struct OpenWatch {
    handle: AbortHandle,
    observer: Arc<dyn Observer>,
    /// Every change asks it how far it is.
    ask: watch::Sender<u64>,
    /// First revision it wants; progress before it says nothing.
    from: Revision,
    /// It wants to hear now and then how far it is.
    notify: bool,
    /// It was asked how far it is, for itself.
    is_asked: bool,
    /// Nothing has happened since the last beat.
    pub is_quiet: bool,
    /// Its answers may be cut.
    pub fragment: bool,
}

impl OpenWatch {
    /// A watch that has begun, and its items.
    pub fn new(
        wish: &Wish,
        (items, ask): Stream,
        observer: Arc<dyn Observer>,
    ) -> (Self, BoxStream<'static, Given>) {
        let (handle, registration) = AbortHandle::new_pair();
        observer.watch_opened();
        let id = wish.id;
        let items = Abortable::new(items, registration).map(move |item| Given { id, item });
        let watch = Self {
            handle,
            observer,
            ask,
            from: wish.watch.from,
            notify: wish.notify,
            is_asked: false,
            is_quiet: true,
            fragment: wish.fragment,
        };
        (watch, items.boxed())
    }

    /// Asks how far it is.
    pub fn ask(&self) {
        self.ask.send_modify(|count| *count += 1);
    }

    /// Asks for itself, if it wants that and nothing has happened since the last beat.
    pub fn beat(&mut self) {
        if self.notify && self.is_quiet {
            self.is_asked = true;
            self.ask();
        }
        self.is_quiet = true;
    }

    /// Whether it has reached `revision` in a way that can be told: not before its beginning.
    pub fn has_begun_by(&self, revision: Revision) -> bool {
        revision >= self.from
    }

    /// Whether a progress up to `revision` is to be told to this watch alone.
    pub fn take_progress(&mut self, revision: Revision) -> bool {
        std::mem::take(&mut self.is_asked) && self.has_begun_by(revision)
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.handle.abort();
        self.observer.watch_closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(key: &'static str, range_end: &'static str) -> WatchCreateRequest {
        let (key, range_end) = (key.into(), range_end.into());
        WatchCreateRequest { key, range_end, ..WatchCreateRequest::default() }
    }

    fn interval(key: &'static str, range_end: &'static str) -> (Bytes, Option<Bytes>) {
        let watch = Wish::of(request(key, range_end)).map(|wish| wish.watch).ok().unwrap();
        (watch.key, watch.end)
    }

    #[test]
    fn a_watch_names_a_key_an_interval_or_everything_from_a_key_on() {
        assert_eq!(interval("a", ""), ("a".into(), None));
        assert_eq!(interval("a", "b"), ("a".into(), Some("b".into())));
        assert_eq!(interval("a", "\0"), ("a".into(), Some(Bytes::new())));
        assert_eq!(interval("", ""), ("\0".into(), None));
        assert_eq!(interval("", "\0"), ("\0".into(), Some(Bytes::new())));
    }

    #[test]
    fn an_empty_interval_and_a_revision_before_time_are_refused_in_etcds_words() {
        let refused = |request| Wish::of(request).err().unwrap();
        assert_eq!(refused(request("b", "b")), "mvcc: watcher range is empty");
        assert_eq!(refused(request("b", "a")), "mvcc: watcher range is empty");
        let early = WatchCreateRequest { start_revision: -1, ..request("b", "") };
        assert_eq!(refused(early), EtcdError::Compacted.to_string());
    }

    #[test]
    fn filters_are_told_apart() {
        let filters = vec![FilterType::Nodelete.into()];
        let wish = Wish::of(WatchCreateRequest { filters, ..request("a", "") }).ok().unwrap();
        assert!(wish.watch.no_deletes && !wish.watch.no_puts);
    }
}
