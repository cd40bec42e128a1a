//! Clients of etcd at a cluster: keys through every node, watches across the death of a leader.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_tests::{Cluster, Options, eventually, http_get, scenario, shared};
use holdfast_wire::etcd::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use holdfast_wire::etcd::etcdserverpb::kv_client::KvClient;
use holdfast_wire::etcd::etcdserverpb::request_op::Request as Step;
use holdfast_wire::etcd::etcdserverpb::watch_client::WatchClient;
use holdfast_wire::etcd::etcdserverpb::watch_request::RequestUnion;
use holdfast_wire::etcd::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use holdfast_wire::etcd::mvccpb::event::EventType;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};

/// Watches of the test with a leader's death, the streams they share, and keys of each of them.
const WATCHES: usize = 1_000;
const STREAMS: usize = 4;
const KEYS_EACH: usize = 10;
/// Writers of that test.
const WRITERS: usize = 32;
/// Clients that read what they wrote through the same node, and rounds of each.
const OWN_WRITERS: usize = 12;
const OWN_WRITES: usize = 50;
/// How long a watch may take to tell what there is.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause before something that failed is tried again.
const PAUSE: Duration = Duration::from_millis(50);

async fn channel(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint.connect_timeout(Duration::from_secs(2)).connect().await?)
}

async fn kv(address: &str) -> Result<KvClient<Channel>> {
    Ok(KvClient::new(channel(address).await?).max_decoding_message_size(64 << 20))
}

async fn watches(address: &str) -> Result<WatchClient<Channel>> {
    Ok(WatchClient::new(channel(address).await?))
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn one(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

#[test]
fn a_client_of_etcd_is_served_by_every_node() {
    shared(async |cluster| {
        let mut clients = Vec::new();
        for i in 1..=3 {
            clients.push(kv(&cluster.node(i).client).await?);
        }
        let [first, second, third] = clients.as_mut_slice() else { bail!("three nodes") };
        let written = first.put(put("etcd/a", "1")).await?.into_inner();
        let revision = written.header.context("no header")?.revision;
        for client in [&mut *second, &mut *third] {
            let found = client.range(one("etcd/a")).await?.into_inner();
            ensure!(found.kvs.len() == 1 && found.kvs[0].mod_revision == revision, "{found:?}");
        }
        let compare = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: "etcd/a".into(),
            target_union: Some(TargetUnion::ModRevision(revision)),
            ..Default::default()
        };
        let step = |step| RequestOp { request: Some(step) };
        let swap = TxnRequest {
            compare: vec![compare],
            success: vec![step(Step::RequestPut(put("etcd/a", "2")))],
            failure: vec![step(Step::RequestRange(one("etcd/a")))],
        };
        ensure!(second.txn(swap.clone()).await?.into_inner().succeeded, "nobody came between");
        ensure!(!third.txn(swap).await?.into_inner().succeeded, "it has changed");
        let compact = CompactionRequest { revision: revision + 1, physical: false };
        third.compact(compact).await?;
        let old = first.range(RangeRequest { revision, ..one("etcd/a") }).await;
        let old = old.err().context("it was compacted")?;
        ensure!(old.code() == Code::OutOfRange, "{old:?}");
        let delete = DeleteRangeRequest { key: "etcd/a".into(), ..Default::default() };
        ensure!(third.delete_range(delete).await?.into_inner().deleted == 1, "it was there");
        ensure!(first.range(one("etcd/a")).await?.into_inner().kvs.is_empty(), "it is gone");
        Ok(())
    });
}

/// Writes and at once reads what the same node has, and watches from now on: finds just what it
/// was told of, round after round.
async fn read_own_writes(endpoint: String, key: String) -> Result<()> {
    let (mut client, mut watches) = (kv(&endpoint).await?, watches(&endpoint).await?);
    for round in 0..OWN_WRITES {
        let (old, new) = (format!("{round} old"), format!("{round} new"));
        let written = client.put(put(&key, &old)).await?.into_inner();
        let revision = written.header.context("no header")?.revision;
        let here = RangeRequest { serializable: true, ..one(&key) };
        let found = client.range(here).await?.into_inner();
        ensure!(found.kvs.len() == 1 && found.kvs[0].value == old, "{round}: {found:?}");
        let (requests, wishes) = mpsc::channel(1);
        let create = WatchCreateRequest { key: key.clone().into(), ..Default::default() };
        requests.send(request(RequestUnion::CreateRequest(create))).await?;
        let mut answers = watches.watch(ReceiverStream::new(wishes)).await?.into_inner();
        let created = next(&mut answers).await?.header.context("no header")?.revision;
        ensure!(created >= revision, "a watch of {revision} begins at {created}");
        client.put(put(&key, &new)).await?;
        let events = next(&mut answers).await?.events;
        let value = events.first().and_then(|event| event.kv.as_ref()).map(|kv| &kv.value);
        ensure!(value.is_some_and(|value| *value == new), "{round}: {events:?}");
    }
    Ok(())
}

#[test]
fn whoever_stays_with_a_node_finds_what_it_wrote_there() {
    shared(async |cluster| {
        let mut clients = Vec::new();
        for (n, endpoint) in cluster.endpoints().iter().cycle().take(OWN_WRITERS).enumerate() {
            clients.push(tokio::spawn(read_own_writes(endpoint.clone(), format!("own/{n}"))));
        }
        for client in clients {
            client.await??;
        }
        Ok(())
    });
}

#[test]
fn health_and_version_are_told_as_etcd_tells_them() {
    shared(async |cluster| {
        for i in 1..=3 {
            for path in ["/health", "/health?serializable=true"] {
                let health = http_get(&cluster.node(i).http, path)?;
                ensure!(health.status == 200, "{health:?}");
                ensure!(health.body.trim() == r#"{"health":"true","reason":""}"#, "{health:?}");
            }
            let version = http_get(&cluster.node(i).http, "/version")?;
            let version: serde_json::Value = serde_json::from_str(version.body.trim())?;
            ensure!(version["etcdserver"] == "3.7.1", "{version}");
            ensure!(version["etcdcluster"] == "3.7.0", "{version}");
        }
        Ok(())
    });
}

#[test]
fn an_empty_node_is_not_healthy() {
    scenario(Options::nodes(1).left_empty(), async |cluster| {
        cluster.node_mut(1).start()?;
        cluster.answers(1).await?;
        let health = http_get(&cluster.node(1).http, "/health")?;
        ensure!(health.status == 503, "{health:?}");
        let health: serde_json::Value = serde_json::from_str(health.body.trim())?;
        ensure!(health["health"] == "false" && health["reason"] != "", "{health}");
        Ok(())
    });
}

/// The key with a number; those of one watch lie beside each other.
fn key(n: usize) -> String {
    format!("w/{:04}/{}", n / KEYS_EACH, n % KEYS_EACH)
}

/// A change: key, whether it was put, revision.
type Change = (String, bool, i64);

/// One stream of watches, opened again elsewhere wherever it breaks.
struct Follower {
    endpoints: Vec<String>,
    /// The node it is at.
    at: usize,
    /// For every watch: the interval it is about, and what it was told.
    watches: Vec<((String, String), Vec<Change>)>,
    /// The first revision that is wanted.
    from: i64,
    /// Every watch is told once it is as far as this; 0 = not known yet.
    until: watch::Receiver<i64>,
}

impl Follower {
    /// What every watch was told up to the end.
    async fn run(mut self) -> Result<Vec<Vec<Change>>> {
        loop {
            match self.follow().await {
                Ok(()) => return Ok(self.watches.into_iter().map(|(_, told)| told).collect()),
                Err(error) if error.downcast_ref::<Broken>().is_some() => {
                    self.at = (self.at + 1) % self.endpoints.len();
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Follows one stream until it breaks or everything was told.
    async fn follow(&mut self) -> Result<()> {
        let (requests, receiver) = mpsc::channel(WATCHES);
        let broken = |_| Broken;
        let channel = channel(&self.endpoints[self.at]).await.map_err(|_| Broken)?;
        let mut client = WatchClient::new(channel).max_decoding_message_size(64 << 20);
        for (n, ((key, range_end), told)) in self.watches.iter().enumerate() {
            let last = told.last().map_or(self.from, |(_, _, revision)| revision + 1);
            let create = WatchCreateRequest {
                key: key.clone().into(),
                range_end: range_end.clone().into(),
                start_revision: last,
                watch_id: n as i64 + 1,
                ..Default::default()
            };
            requests.send(request(RequestUnion::CreateRequest(create))).await?;
        }
        let opened = client.watch(ReceiverStream::new(receiver)).await;
        let mut answers = opened.map_err(|_| Broken)?.into_inner();
        let mut until = self.until.clone();
        let mut look = tokio::time::interval(PAUSE);
        loop {
            tokio::select! {
                answer = next(&mut answers) => {
                    let answer = answer.map_err(broken)?;
                    let end = *until.borrow_and_update();
                    let revision = answer.header.as_ref().map_or(0, |header| header.revision);
                    if answer.watch_id == -1 && end != 0 && revision >= end {
                        return Ok(());
                    }
                    self.take(answer)?;
                }
                _ = look.tick() => {
                    let asked = RequestUnion::ProgressRequest(WatchProgressRequest {});
                    requests.send(request(asked)).await.map_err(|_| Broken)?;
                }
            }
        }
    }

    fn take(&mut self, answer: WatchResponse) -> Result<()> {
        ensure!(!answer.canceled, "{answer:?}");
        let Ok(n) = usize::try_from(answer.watch_id - 1) else { return Ok(()) };
        let (_, told) = self.watches.get_mut(n).context("nobody asked for this watch")?;
        for event in answer.events {
            let is_put = event.r#type() == EventType::Put;
            let kv = event.kv.context("an event without its key")?;
            told.push((String::from_utf8(kv.key.to_vec())?, is_put, kv.mod_revision));
        }
        Ok(())
    }
}

/// The stream broke, or could not be opened.
#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the stream broke")
    }
}

impl std::error::Error for Broken {}

async fn next(answers: &mut Streaming<WatchResponse>) -> Result<WatchResponse> {
    let answer = tokio::time::timeout(PATIENCE, answers.message()).await;
    answer.context("nothing was told")??.context("the stream has ended")
}

fn request(union: RequestUnion) -> WatchRequest {
    WatchRequest { request_union: Some(union) }
}

/// Puts its share of the keys, each until it is answered; tells how many are.
async fn write(endpoints: Vec<String>, first: usize, done: mpsc::Sender<()>) -> Result<()> {
    let mut at = first % endpoints.len();
    let mut client = None;
    for n in (first..WATCHES * KEYS_EACH).step_by(WRITERS) {
        loop {
            if client.is_none() {
                client = kv(&endpoints[at]).await.ok();
            }
            let answer = match &mut client {
                Some(client) => client.put(put(&key(n), "x")).await.ok(),
                None => None,
            };
            if answer.is_some() {
                break;
            }
            client = None;
            at = (at + 1) % endpoints.len();
            tokio::time::sleep(PAUSE).await;
        }
        done.send(()).await?;
    }
    Ok(())
}

/// Everything that happened, as one watch of it all tells from the beginning.
async fn history(endpoints: &[String], from: i64, until: i64) -> Result<Vec<Change>> {
    let follower = Follower {
        endpoints: endpoints.to_vec(),
        at: 0,
        watches: vec![(("w/".into(), "w0".into()), Vec::new())],
        from,
        until: watch::Sender::new(until).subscribe(),
    };
    let mut told = follower.run().await?;
    told.pop().context("one watch")
}

async fn kill_the_leader(cluster: &mut Cluster) -> Result<()> {
    let client = cluster.client().await?;
    let map = client.map();
    let range = map.ranges_of("etcd")?.first().context("one range")?.id.0;
    let leader = eventually(PATIENCE, async || cluster.leader(range).await).await?;
    cluster.node_mut(leader).kill()
}

#[test]
fn a_thousand_watches_miss_nothing_and_repeat_nothing_when_their_leader_dies() {
    scenario(Options::nodes(3), async |cluster| {
        let endpoints = cluster.endpoints();
        let begin = kv(&endpoints[0]).await?.range(one("w/")).await?.into_inner();
        let from = begin.header.context("no header")?.revision + 1;
        let (end, until) = watch::channel(0);
        let mut followers = Vec::new();
        for stream in 0..STREAMS {
            let of = |n: usize| ((format!("w/{n:04}/"), format!("w/{n:04}0")), Vec::new());
            let watches = (stream..WATCHES).step_by(STREAMS).map(of).collect();
            let (endpoints, until) = (endpoints.clone(), until.clone());
            let follower = Follower { endpoints, at: stream % 3, watches, from, until };
            followers.push(tokio::spawn(follower.run()));
        }
        let (done, mut acknowledged) = mpsc::channel(WRITERS);
        let writers: Vec<_> = (0..WRITERS)
            .map(|first| tokio::spawn(write(endpoints.clone(), first, done.clone())))
            .collect();
        drop(done);
        let mut count = 0;
        while acknowledged.recv().await.is_some() {
            count += 1;
            if count == WATCHES * KEYS_EACH / 3 {
                kill_the_leader(cluster).await?;
            }
        }
        for writer in writers {
            writer.await??;
        }
        ensure!(count == WATCHES * KEYS_EACH, "{count} were acknowledged");
        let last = eventually(PATIENCE, async || {
            for endpoint in &endpoints {
                let Ok(mut client) = kv(endpoint).await else { continue };
                if let Ok(found) = client.range(one("w/")).await {
                    return found.into_inner().header.context("no header");
                }
            }
            bail!("nobody answers")
        });
        let last = last.await?.revision;
        end.send(last)?;
        let mut expected: BTreeMap<usize, Vec<Change>> = BTreeMap::new();
        for change in history(&endpoints, from, last).await? {
            let n = change.0.get(2..6).context("a key of ours")?.parse()?;
            expected.entry(n).or_default().push(change);
        }
        for (stream, follower) in followers.into_iter().enumerate() {
            for (told, n) in follower.await??.into_iter().zip((stream..).step_by(STREAMS)) {
                let expected = expected.remove(&n).unwrap_or_default();
                ensure!(expected.len() >= KEYS_EACH, "watch {n}: {expected:?}");
                ensure!(told == expected, "watch {n} was told {told:?}, not {expected:?}");
            }
        }
        ensure!(expected.is_empty(), "{} intervals nobody watched", expected.len());
        Ok(())
    });
}
