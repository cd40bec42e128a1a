//! Watches: many on one stream.

use std::collections::VecDeque;

use holdfast_wire::etcd::etcdserverpb::watch_create_request::FilterType;
use holdfast_wire::etcd::etcdserverpb::watch_request::RequestUnion;
use holdfast_wire::etcd::etcdserverpb::{
    CompactionRequest, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
    WatchResponse,
};
use holdfast_wire::etcd::mvccpb::Event;
use holdfast_wire::etcd::mvccpb::event::EventType;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::harness::{Running, delete, put, soon};

/// A watch stream.
pub struct Watching {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
    waiting: VecDeque<Seen>,
}

/// An event, and the watch it came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub watch: i64,
    pub key: String,
    pub is_put: bool,
    pub revision: i64,
    pub previous: Option<String>,
}

impl Seen {
    fn of(watch: i64, event: Event) -> Self {
        let is_put = event.r#type() == EventType::Put;
        let kv = event.kv.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let previous = event.prev_kv.map(|kv| text(&kv.value));
        Self { watch, key: text(&kv.key), is_put, revision: kv.mod_revision, previous }
    }
}

/// Every change from now on.
pub fn everything() -> WatchCreateRequest {
    let (key, range_end) = ("\0".into(), "\0".into());
    WatchCreateRequest { key, range_end, ..Default::default() }
}

fn of(key: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: key.to_owned().into(), ..Default::default() }
}

impl Watching {
    pub async fn begin(running: &Running) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = running.watch().await;
        let answers = soon(client.watch(ReceiverStream::new(receiver))).await.unwrap();
        Self { requests, answers: answers.into_inner(), waiting: VecDeque::new() }
    }

    async fn ask(&self, union: RequestUnion) {
        let request = WatchRequest { request_union: Some(union) };
        soon(self.requests.send(request)).await.unwrap();
    }

    /// The next answer, which tells who gives it.
    pub async fn answer(&mut self) -> WatchResponse {
        let answer = soon(self.answers.message()).await.unwrap().expect("the stream has ended");
        let header = answer.header.unwrap();
        assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);
        answer
    }

    /// Asks for a watch; what is said to that.
    pub async fn create(&mut self, create: WatchCreateRequest) -> WatchResponse {
        self.ask(RequestUnion::CreateRequest(create)).await;
        let answer = self.answer().await;
        assert!(answer.created, "{answer:?}");
        answer
    }

    /// The next so many events.
    pub async fn events(&mut self, count: usize) -> Vec<Seen> {
        while self.waiting.len() < count {
            let answer = self.answer().await;
            assert!(!answer.canceled && !answer.events.is_empty(), "{answer:?}");
            let seen = answer.events.into_iter().map(|event| Seen::of(answer.watch_id, event));
            self.waiting.extend(seen);
        }
        self.waiting.drain(..count).collect()
    }
}

fn told(events: &[Seen]) -> Vec<(&str, bool, i64)> {
    events.iter().map(|event| (event.key.as_str(), event.is_put, event.revision)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_of_a_stream_are_numbered_created_in_order_and_told_their_changes() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    put(&mut kv, "a", "0").await;
    let mut watching = Watching::begin(&running).await;
    for (id, create) in [(0, of("a")), (1, everything()), (9, of("b"))] {
        let create = WatchCreateRequest { watch_id: if id == 9 { 9 } else { 0 }, ..create };
        let created = watching.create(create).await;
        assert_eq!((created.watch_id, created.canceled), (id, false));
        assert_eq!(created.header.unwrap().revision, 2);
    }
    put(&mut kv, "a", "1").await;
    put(&mut kv, "b", "2").await;
    delete(&mut kv, "a").await;
    let events = watching.events(6).await;
    let of_watch =
        |id| -> Vec<Seen> { events.iter().filter(|event| event.watch == id).cloned().collect() };
    assert_eq!(told(&of_watch(0)), [("a", true, 3), ("a", false, 5)]);
    assert_eq!(told(&of_watch(1)), [("a", true, 3), ("b", true, 4), ("a", false, 5)]);
    assert_eq!(told(&of_watch(9)), [("b", true, 4)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_from_an_old_revision_is_told_history_with_what_was_there_before() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    for value in ["1", "2"] {
        put(&mut kv, "a", value).await;
    }
    delete(&mut kv, "a").await;
    let mut watching = Watching::begin(&running).await;
    let create = WatchCreateRequest { start_revision: 2, prev_kv: true, ..of("a") };
    assert_eq!(watching.create(create).await.header.unwrap().revision, 4, "that of now");
    let events = watching.events(3).await;
    assert_eq!(told(&events), [("a", true, 2), ("a", true, 3), ("a", false, 4)]);
    let previous: Vec<_> = events.iter().map(|event| event.previous.as_deref()).collect();
    assert_eq!(previous, [None, Some("1"), Some("2")]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_leave_out_what_is_not_wanted() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    let mut watching = Watching::begin(&running).await;
    let filters = vec![FilterType::Noput.into()];
    watching.create(WatchCreateRequest { filters, ..everything() }).await;
    put(&mut kv, "a", "1").await;
    delete(&mut kv, "a").await;
    assert_eq!(told(&watching.events(1).await), [("a", false, 3)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_what_is_compacted_is_created_and_ended_with_the_revision_to_go_on_from() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    for value in ["1", "2", "3"] {
        put(&mut kv, "a", value).await;
    }
    let compact = CompactionRequest { revision: 4, physical: false };
    soon(kv.compact(compact)).await.unwrap();
    let mut watching = Watching::begin(&running).await;
    let created = watching.create(WatchCreateRequest { start_revision: 2, ..of("a") }).await;
    assert!(!created.canceled);
    let ended = watching.answer().await;
    assert!(ended.canceled && ended.watch_id == created.watch_id, "{ended:?}");
    assert_eq!((ended.compact_revision, ended.cancel_reason.as_str()), (4, ""));
    let kept = watching.create(WatchCreateRequest { start_revision: 4, ..of("a") }).await;
    assert!(!kept.canceled);
    assert_eq!(told(&watching.events(1).await), [("a", true, 4)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_cannot_be_is_refused_and_the_stream_goes_on() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    let mut watching = Watching::begin(&running).await;
    watching.create(WatchCreateRequest { watch_id: 5, ..of("a") }).await;
    let text = "mvcc: duplicate watch ID provided on the WatchStream";
    let cases = [
        (WatchCreateRequest { watch_id: 5, ..of("a") }, text),
        (WatchCreateRequest { range_end: "a".into(), ..of("a") }, "mvcc: watcher range is empty"),
        (
            WatchCreateRequest { start_revision: -1, ..of("a") },
            "etcdserver: mvcc: required revision has been compacted",
        ),
    ];
    for (create, reason) in cases {
        let refused = watching.create(create).await;
        assert_eq!((refused.watch_id, refused.canceled), (-1, true));
        assert_eq!(refused.cancel_reason, reason);
    }
    put(&mut kv, "a", "1").await;
    assert_eq!(told(&watching.events(1).await), [("a", true, 2)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_watch_is_told_so_and_nothing_after() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    let mut watching = Watching::begin(&running).await;
    for _ in 0..2 {
        watching.create(of("a")).await;
    }
    let cancel = |watch_id| RequestUnion::CancelRequest(WatchCancelRequest { watch_id });
    watching.ask(cancel(7)).await;
    watching.ask(cancel(0)).await;
    let ended = watching.answer().await;
    assert_eq!((ended.watch_id, ended.canceled, ended.cancel_reason.as_str()), (0, true, ""));
    put(&mut kv, "a", "1").await;
    let events = watching.events(1).await;
    assert_eq!((events[0].watch, events[0].revision), (1, 2));
    put(&mut kv, "a", "2").await;
    assert_eq!(watching.events(1).await[0].watch, 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_told_for_all_watches_behind_their_events_and_not_before_a_beginning() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    let mut watching = Watching::begin(&running).await;
    watching.create(of("a")).await;
    watching.create(everything()).await;
    put(&mut kv, "b", "1").await;
    assert_eq!(told(&watching.events(1).await), [("b", true, 2)]);
    watching.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    let progress = watching.answer().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    assert_eq!(progress.header.unwrap().revision, 2);
    watching.create(WatchCreateRequest { start_revision: 50, ..of("a") }).await;
    watching.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    put(&mut kv, "b", "2").await;
    assert_eq!(told(&watching.events(1).await), [("b", true, 3)], "no progress in between");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_watch_that_wants_to_is_told_how_far_it_is() {
    let running = Running::start_with(&["etcd.progress_notify_interval_ms=100"]).await;
    let mut kv = running.kv().await;
    put(&mut kv, "b", "1").await;
    let mut watching = Watching::begin(&running).await;
    watching.create(of("a")).await;
    let quiet = watching.create(WatchCreateRequest { progress_notify: true, ..of("a") }).await;
    let progress = watching.answer().await;
    assert_eq!((progress.watch_id, progress.events.len()), (quiet.watch_id, 0));
    assert_eq!(progress.header.unwrap().revision, 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_revision_comes_in_pieces_where_that_is_wanted() {
    use holdfast_wire::etcd::etcdserverpb::TxnRequest;
    use holdfast_wire::etcd::etcdserverpb::request_op::Request as Step;
    let running = Running::start_with(&["etcd.request_bytes_max=1048576"]).await;
    let mut kv = running.kv().await;
    let mut watching = Watching::begin(&running).await;
    let create = WatchCreateRequest { fragment: true, prev_kv: true, ..everything() };
    watching.create(create).await;
    let value = "x".repeat(300_000);
    for _ in 0..2 {
        let put = |n: usize| super::harness::put_request(&format!("k{n}"), &value);
        let success = (0..3).map(|n| super::keys::step(Step::RequestPut(put(n)))).collect();
        soon(kv.txn(TxnRequest { success, ..Default::default() })).await.unwrap();
    }
    let mut pieces = Vec::new();
    while pieces.iter().map(|piece: &WatchResponse| piece.events.len()).sum::<usize>() < 6 {
        pieces.push(watching.answer().await);
    }
    assert!(pieces.iter().any(|piece| piece.fragment), "the second revision is 1.8 MB");
    assert!(!pieces.last().unwrap().fragment);
    running.stop().await;
}
