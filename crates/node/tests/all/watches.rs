//! Watches: order, resumption, many on one stream.

use std::time::Duration;

use bytes::Bytes;
use holdfast_runtime::timeout;
use holdfast_wire::v1::{self, ErrorCode, watch_request::Request as Asked};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::harness::{Kv, Running, put};

const PATIENCE: Duration = Duration::from_secs(20);

struct Stream {
    requests: mpsc::Sender<v1::WatchRequest>,
    answers: Streaming<v1::WatchResponse>,
}

impl Stream {
    async fn open(kv: &mut Kv) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let answers = kv.watch(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    async fn ask(&self, asked: Asked) {
        self.requests.send(v1::WatchRequest { request: Some(asked) }).await.unwrap();
    }

    async fn create(&mut self, create: v1::WatchCreate) -> v1::WatchResponse {
        let id = create.watch_id;
        self.ask(Asked::Create(create)).await;
        let answer = self.next().await;
        assert!(answer.created && answer.watch_id == id, "{answer:?}");
        answer
    }

    async fn next(&mut self) -> v1::WatchResponse {
        let answer = timeout(PATIENCE, self.answers.message()).await;
        answer.expect("an answer comes").unwrap().expect("the stream goes on")
    }

    /// Events of answers until there are `count`, and the last token.
    async fn events(&mut self, count: usize) -> (Vec<v1::WatchEvent>, Bytes) {
        let (mut events, mut token) = (Vec::new(), Bytes::new());
        while events.len() < count {
            let answer = self.next().await;
            assert!(!answer.canceled, "{answer:?}");
            events.extend(answer.events);
            token = answer.resume_token;
        }
        assert_eq!(events.len(), count);
        (events, token)
    }
}

fn prefix(id: u64, key: &'static str) -> v1::WatchCreate {
    v1::WatchCreate { watch_id: id, key: key.into(), prefix: true, ..Default::default() }
}

fn keys(events: &[v1::WatchEvent]) -> Vec<Bytes> {
    events.iter().map(|event| event.entry.as_ref().unwrap().key.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_sees_every_change_after_its_creation_and_none_before() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    kv.put(put("{t}before", "x")).await.unwrap();
    let mut stream = Stream::open(&mut kv).await;
    stream.create(v1::WatchCreate { previous: true, ..prefix(1, "{t}") }).await;
    for value in ["v1", "v2"] {
        kv.put(put("{t}a", value)).await.unwrap();
    }
    kv.put(put("{other}a", "x")).await.unwrap();
    kv.delete(v1::DeleteRequest { key: "{t}a".into(), ..Default::default() }).await.unwrap();
    let (events, _) = stream.events(3).await;
    let kinds: Vec<i32> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [1, 1, 2]);
    assert_eq!(keys(&events), ["{t}a", "{t}a", "{t}a"]);
    let previous: Vec<_> = events.iter().map(|e| e.previous.clone().map(|p| p.value)).collect();
    assert_eq!(previous, [None, Some("v1".into()), Some("v2".into())]);
    let revisions: Vec<u64> = events.iter().map(|e| e.entry.as_ref().unwrap().revision).collect();
    assert!(revisions.windows(2).all(|pair| pair[0] < pair[1]));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_over_all_ranges_resumes_from_any_token_without_gap_or_double() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    let mut stream = Stream::open(&mut kv).await;
    let created = stream.create(prefix(1, "key-")).await;
    for index in 0..100 {
        kv.put(put(format!("key-{index:03}"), "x")).await.unwrap();
    }
    let mut tokens = vec![(0, created.resume_token)];
    let mut seen = Vec::new();
    while seen.len() < 100 {
        let answer = stream.next().await;
        seen.extend(keys(&answer.events));
        tokens.push((seen.len(), answer.resume_token));
    }
    let whole: std::collections::BTreeSet<Bytes> = seen.iter().cloned().collect();
    assert_eq!(whole.len(), 100);
    for (delivered, token) in tokens.into_iter().step_by(9) {
        let mut resumed = Stream::open(&mut kv).await;
        resumed.create(v1::WatchCreate { resume_token: token, ..prefix(1, "key-") }).await;
        let (rest, _) = resumed.events(100 - delivered).await;
        let mut all = seen[..delivered].to_vec();
        all.extend(keys(&rest));
        assert_eq!(all.iter().cloned().collect::<std::collections::BTreeSet<_>>(), whole);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_watch_is_silent_and_its_neighbours_go_on() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    let mut stream = Stream::open(&mut kv).await;
    stream.create(prefix(1, "{t}")).await;
    stream.create(prefix(2, "{t}")).await;
    stream.ask(Asked::Cancel(v1::WatchCancel { watch_id: 1 })).await;
    let canceled = stream.next().await;
    assert!(canceled.canceled && canceled.watch_id == 1 && canceled.cancel_error.is_none());
    kv.put(put("{t}a", "x")).await.unwrap();
    kv.put(put("{t}b", "x")).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let answer = stream.next().await;
        assert_eq!(answer.watch_id, 2);
        seen.extend(keys(&answer.events));
    }
    assert_eq!(seen, ["{t}a", "{t}b"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_cannot_begin_is_cancelled_with_the_reason() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    let mut stream = Stream::open(&mut kv).await;
    let nowhere = v1::WatchCreate { keyspace: "nowhere".into(), ..prefix(1, "k") };
    let damaged = v1::WatchCreate { resume_token: "damaged".into(), ..prefix(2, "k") };
    let empty_key = v1::WatchCreate { prefix: false, ..prefix(3, "") };
    let cases = [
        (nowhere, ErrorCode::UnknownKeyspace),
        (damaged, ErrorCode::Malformed),
        (empty_key, ErrorCode::Invalid),
    ];
    for (create, code) in cases {
        let answer = stream.create(create).await;
        assert!(answer.canceled);
        assert_eq!(answer.cancel_error.unwrap().code(), code);
    }
    stream.create(prefix(4, "k")).await;
    let again = stream.create(prefix(4, "k")).await;
    assert_eq!(again.cancel_error.unwrap().code(), ErrorCode::Invalid);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_that_is_asked_for_follows_all_events_before_it() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    let mut stream = Stream::open(&mut kv).await;
    stream.create(prefix(1, "{t}a")).await;
    let last = kv.put(put("{t}b", "x")).await.unwrap().into_inner().revision;
    stream.ask(Asked::Progress(v1::WatchProgress {})).await;
    let answer = stream.next().await;
    assert!(answer.progress && answer.events.is_empty());
    assert!(answer.header.unwrap().revision >= last);
    running.stop().await;
}
