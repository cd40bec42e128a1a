//! One cell of `make bench-etcd`: closed loops against servers of the etcd API, and what the
//! servers used meanwhile, as one line of JSON.
//!
//! ```text
//! etcd_load --workload NAME --clients N --seconds S --endpoints HOST:PORT,… --pids PID,…
//! ```
//! Loops take turns over the endpoints. The client is as cheap as can be and the same for
//! everybody: what it uses of the machine is not there for the servers, and hides what tells them
//! apart. It runs on one thread, speaks gRPC without retries, balancing or tokens, and counts only
//! operations that both began and ended in the measured time. An operation that fails ends the run.
//!
//! `native put` does what `put` does, by Holdfast's own API: what the etcd API costs on top.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use holdfast_wire::etcd::etcdserverpb as pb;
use holdfast_wire::v1 as native;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::request_op::Request as Step;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// Keys written before anything is measured; loops take them at random.
const KEYS: u64 = 10_000;
/// Keys written by one transaction before the measurement.
const KEYS_AT_ONCE: u64 = 100;
/// Size of every value.
const VALUE_BYTES: usize = 256;
/// The keyspace that servers of the etcd API serve unless they are told otherwise.
const KEYSPACE: &str = "etcd";
/// Over how many connections the loops are spread at most, evenly over the endpoints.
const CONNECTIONS_MAX: usize = 24;
/// The part of the measured time that goes by before it.
const WARM_UP_SHARE: u32 = 5;
/// Of ten operations of the mix these read.
const READS_OF_TEN: u64 = 9;
/// A slower operation is a failure.
const OPERATION_TIME: Duration = Duration::from_secs(30);
/// Outlives every cell.
const LEASE_SECONDS: i64 = 3_600;
/// Ticks of `/proc/PID/stat` in a second on Linux.
const CLOCK_TICKS: u64 = 100;
const PAGE_BYTES: u64 = 4_096;

/// What the command line asked for.
struct Options {
    workload: String,
    loops: usize,
    during: Duration,
    endpoints: Vec<String>,
    pids: Vec<u32>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut given = BTreeMap::new();
        for pair in arguments.chunks(2) {
            let [name, value] = pair else { bail!("{} wants a value", pair[0]) };
            given.insert(name.as_str(), value.as_str());
        }
        let mut take = |name| given.remove(name).with_context(|| format!("{name} is missing"));
        let options = Self {
            workload: take("--workload")?.to_owned(),
            loops: take("--clients")?.parse().context("--clients")?,
            during: Duration::from_secs_f64(take("--seconds")?.parse().context("--seconds")?),
            endpoints: take("--endpoints")?.split(',').map(str::to_owned).collect(),
            pids: take("--pids")?.split(',').map(str::parse).collect::<Result<_, _>>()?,
        };
        ensure!(given.is_empty(), "no such options: {:?}", given.keys());
        ensure!(options.loops > 0 && !options.during.is_zero(), "nothing to measure");
        Ok(options)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let measured = Options::parse(&arguments).and_then(|options| {
        let local = LocalSet::new();
        local.block_on(&runtime.context("no runtime")?, measure(options))
    });
    match measured {
        Ok(figures) => {
            println!("{figures}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("etcd_load: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// When operations count, and how long those took.
struct Recorder {
    from: Instant,
    until: Instant,
    micros: RefCell<Vec<u32>>,
}

impl Recorder {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    fn add(&self, began: Instant) {
        let now = Instant::now();
        if began > self.from && now < self.until {
            let micros = now.duration_since(began).as_micros();
            self.micros.borrow_mut().push(u32::try_from(micros).unwrap_or(u32::MAX));
        }
    }
}

async fn measure(options: Options) -> Result<serde_json::Value> {
    let mut channels = Vec::new();
    for number in 0..options.loops.min(CONNECTIONS_MAX) {
        let endpoint = &options.endpoints[number % options.endpoints.len()];
        let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))?;
        channels.push(endpoint.connect().await.context("a server was not reached")?);
    }
    fill(channels[0].clone()).await.context("keys could not be written")?;
    let from = Instant::now() + options.during / WARM_UP_SHARE;
    let until = from + options.during;
    let recorder = Rc::new(Recorder { from, until, micros: RefCell::default() });
    let pids = options.pids.clone();
    let used = tokio::task::spawn_local(async move {
        tokio::time::sleep_until(from.into()).await;
        let before = (processor(&pids)?, own_processor()?);
        tokio::time::sleep_until(until.into()).await;
        let after = (processor(&pids)?, own_processor()?);
        anyhow::Ok((after.0 - before.0, after.1 - before.1, resident(&pids)?))
    });
    run(&options, &channels, &recorder).await?;
    let (servers, client, resident) = used.await??;
    let mut micros = recorder.micros.take();
    ensure!(!micros.is_empty(), "nothing was done in the measured time");
    micros.sort_unstable();
    let count = micros.len();
    let at = |share: f64| micros[((share * count as f64) as usize).min(count - 1)];
    Ok(serde_json::json!({
        "operations": count,
        "per_second": count as f64 / options.during.as_secs_f64(),
        "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999),
        "cpu_us": servers.as_micros() as f64 / count as f64,
        "client_cpu_us": client.as_micros() as f64 / count as f64,
        "resident_bytes": resident,
    }))
}

async fn run(options: &Options, channels: &[Channel], recorder: &Rc<Recorder>) -> Result<()> {
    if options.workload == "watch" {
        return watch(options.loops, channels, recorder).await;
    }
    let mut loops = JoinSet::new();
    for number in 0..options.loops {
        let channel = channels[number % channels.len()].clone();
        let mut client = Client::new(&options.workload, channel, number as u64).await?;
        let recorder = recorder.clone();
        loops.spawn_local(async move {
            while !recorder.is_over() {
                let began = Instant::now();
                tokio::time::timeout(OPERATION_TIME, client.operation()).await??;
                recorder.add(began);
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = loops.join_next().await {
        ended??;
    }
    Ok(())
}

/// One closed loop.
struct Client {
    kv: KvClient<Channel>,
    random: Random,
    value: Bytes,
    does: Does,
}

/// What a loop repeats.
enum Does {
    Put,
    NativePut { kv: native::kv_client::KvClient<Channel> },
    Range { serializable: bool },
    Mix,
    Swap { key: Bytes, revision: i64 },
    KeepAlive { id: i64, asks: mpsc::Sender<pb::LeaseKeepAliveRequest>, told: Box<KeptAlive> },
}

type KeptAlive = tonic::Streaming<pb::LeaseKeepAliveResponse>;

impl Client {
    async fn new(workload: &str, channel: Channel, number: u64) -> Result<Self> {
        let mut kv = KvClient::new(channel.clone());
        let mut random = Random(number);
        let value = random.value();
        let does = match workload {
            "put" => Does::Put,
            "native put" => Does::NativePut { kv: native::kv_client::KvClient::new(channel) },
            "range linearizable" => Does::Range { serializable: false },
            "range serializable" => Does::Range { serializable: true },
            "mix 90/10" => Does::Mix,
            "txn CAS" => {
                let key = Bytes::from(format!("swap/{number:06}"));
                let answer = kv.put(put(key.clone(), value.clone())).await?.into_inner();
                Does::Swap { key, revision: revision(answer.header) }
            }
            "lease keep-alive" => {
                let mut leases = LeaseClient::new(channel);
                let asked = pb::LeaseGrantRequest { ttl: LEASE_SECONDS, id: 0 };
                let id = leases.lease_grant(asked).await?.into_inner().id;
                let (asks, queue) = mpsc::channel(1);
                asks.send(pb::LeaseKeepAliveRequest { id }).await?;
                let told = leases.lease_keep_alive(ReceiverStream::new(queue)).await?;
                let mut told = Box::new(told.into_inner());
                told.message().await?.context("a lease's stream ended")?;
                Does::KeepAlive { id, asks, told }
            }
            other => bail!("no such workload: {other}"),
        };
        Ok(Self { kv, random, value, does })
    }

    async fn operation(&mut self) -> Result<()> {
        let number = self.random.below(KEYS);
        match &mut self.does {
            Does::Put => drop(self.kv.put(put(key(number), self.value.clone())).await?),
            Does::NativePut { kv } => {
                let answer = kv.put(native_put(key(number), self.value.clone())).await?;
                ensure!(answer.into_inner().applied, "a put without a condition was refused");
            }
            Does::Range { serializable } => read(&mut self.kv, number, *serializable).await?,
            Does::Mix if self.random.below(10) < READS_OF_TEN => {
                read(&mut self.kv, number, false).await?;
            }
            Does::Mix => drop(self.kv.put(put(key(number), self.value.clone())).await?),
            Does::Swap { key, revision: at } => {
                let asked = swap(key.clone(), *at, self.value.clone());
                let answer = self.kv.txn(asked).await?.into_inner();
                ensure!(answer.succeeded, "{key:?} was changed by somebody else");
                *at = revision(answer.header);
            }
            Does::KeepAlive { id, asks, told } => {
                asks.send(pb::LeaseKeepAliveRequest { id: *id }).await?;
                let kept = told.message().await?.context("a lease's stream ended")?;
                ensure!(kept.ttl == LEASE_SECONDS, "a lease was kept for {} s", kept.ttl);
            }
        }
        Ok(())
    }
}

async fn read(kv: &mut KvClient<Channel>, number: u64, serializable: bool) -> Result<()> {
    let asked = pb::RangeRequest { key: key(number), serializable, ..Default::default() };
    let answer = kv.range(asked).await?.into_inner();
    ensure!(answer.kvs.len() == 1, "a key is missing");
    Ok(())
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("bench/{number:010}"))
}

fn put(key: Bytes, value: Bytes) -> pb::PutRequest {
    pb::PutRequest { key, value, ..Default::default() }
}

fn native_put(key: Bytes, value: Bytes) -> native::PutRequest {
    native::PutRequest { keyspace: KEYSPACE.to_owned(), key, value, ..Default::default() }
}

fn swap(key: Bytes, revision: i64, value: Bytes) -> pb::TxnRequest {
    let compare = pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Default::default()
    };
    let step = pb::RequestOp { request: Some(Step::RequestPut(put(key, value))) };
    pb::TxnRequest { compare: vec![compare], success: vec![step], failure: Vec::new() }
}

fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

/// Writes the keys, unless an earlier cell has.
async fn fill(channel: Channel) -> Result<()> {
    let mut kv = KvClient::new(channel);
    let all = pb::RangeRequest {
        key: key(0),
        range_end: key(KEYS),
        count_only: true,
        ..Default::default()
    };
    if kv.range(all).await?.into_inner().count == KEYS as i64 {
        return Ok(());
    }
    let mut random = Random(0);
    for first in (0..KEYS).step_by(KEYS_AT_ONCE as usize) {
        let step = |number| {
            let put = put(key(number), random.value());
            pb::RequestOp { request: Some(Step::RequestPut(put)) }
        };
        let success = (first..first + KEYS_AT_ONCE).map(step).collect();
        kv.txn(pb::TxnRequest { success, ..Default::default() }).await?;
    }
    Ok(())
}

/// One writer and as many watches as there are loops; the next put follows when all have seen the
/// last. What is measured is the time from the call of the put to each event.
async fn watch(loops: usize, channels: &[Channel], recorder: &Rc<Recorder>) -> Result<()> {
    let watched = Bytes::from_static(b"watched");
    let (seen, mut all_seen) = mpsc::channel(loops);
    let mut watches = JoinSet::new();
    for number in 0..loops {
        let mut client = WatchClient::new(channels[number % channels.len()].clone());
        let (asks, queue) = mpsc::channel(1);
        let create = pb::WatchCreateRequest { key: watched.clone(), ..Default::default() };
        let create = RequestUnion::CreateRequest(create);
        asks.send(pb::WatchRequest { request_union: Some(create) }).await?;
        let mut events = client.watch(ReceiverStream::new(queue)).await?.into_inner();
        let created = events.message().await?.is_some_and(|answer| answer.created);
        ensure!(created, "a watch was not created");
        let seen = seen.clone();
        watches.spawn_local(async move {
            let _open = asks;
            while let Ok(Some(answer)) = events.message().await {
                for _ in answer.events {
                    // Whoever waits has gone: the run is over.
                    let _ = seen.send(()).await;
                }
            }
        });
    }
    let mut kv = KvClient::new(channels[0].clone());
    let value = Random(0).value();
    while !recorder.is_over() {
        let began = Instant::now();
        kv.put(put(watched.clone(), value.clone())).await?;
        for _ in 0..loops {
            let event = tokio::time::timeout(OPERATION_TIME, all_seen.recv()).await;
            event.context("an event did not arrive")?;
            recorder.add(began);
        }
    }
    watches.abort_all();
    Ok(())
}

/// SplitMix64: good enough to choose keys, cheap enough not to be measured.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn value(&mut self) -> Bytes {
        (0..VALUE_BYTES).map(|_| self.next() as u8).collect()
    }
}

/// Processor time of all processes, user and system.
fn processor(pids: &[u32]) -> Result<Duration> {
    let mut ticks = 0;
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name, in brackets, may hold blanks; utime and stime are fields 14 and 15.
        let (_, after) = stat.rsplit_once(')').context("/proc/PID/stat")?;
        for field in after.split_whitespace().skip(11).take(2) {
            ticks += field.parse::<u64>()?;
        }
    }
    Ok(Duration::from_millis(ticks * 1_000 / CLOCK_TICKS))
}

fn own_processor() -> Result<Duration> {
    processor(&[std::process::id()])
}

/// Memory of all processes, bytes.
fn resident(pids: &[u32]) -> Result<u64> {
    let mut pages = 0;
    for pid in pids {
        let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
        let field = statm.split_whitespace().nth(1).context("/proc/PID/statm")?;
        pages += field.parse::<u64>()?;
    }
    Ok(pages * PAGE_BYTES)
}
