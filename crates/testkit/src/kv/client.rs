//! [`Kv`] over the Rust SDK.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use holdfast_client as sdk;
use holdfast_client::{Client, Error, LeaseId, LockGuard, Revision, ScanPage};
use holdfast_model::position;
use parking_lot::Mutex;

use super::{Delivered, Kv, WatchStart, Watching};
use crate::history::{
    Answer, Change, Compare, Event, Item, Level, Outcome, Placed, Point, Request, Step, StepTold,
    Told, When,
};

/// The store behind an SDK client; requests get the client's own deadline.
#[derive(Debug)]
pub struct ClientKv {
    client: Client,
    /// Locks that are held, by name and token; renewed until they are taken out.
    guards: Mutex<BTreeMap<(String, u64), LockGuard>>,
}

impl ClientKv {
    /// The store behind `client`.
    pub fn new(client: Client) -> Self {
        Self { client, guards: Mutex::new(BTreeMap::new()) }
    }

    /// The range that holds `key`, as the client knows it; 0: it does not.
    fn range_of(&self, key: &str) -> u64 {
        let map = self.client.map();
        let found = map.lookup(self.client.keyspace_name(), position(key.as_bytes()));
        found.map_or(0, |range| range.id.0)
    }

    async fn get(&self, key: &str, level: Level) -> Result<Answer, Error> {
        let mut get = self.client.get(key.to_owned()).level(sdk_level(level));
        if let Level::Follower { age_max_ms: Some(age_ms) } = level {
            get = get.max_staleness(Duration::from_millis(age_ms));
        }
        let answer = get.send().await?;
        Ok(Answer {
            point: point_of(answer.origin.point),
            age_ms: age_ms(answer.staleness),
            told: Told::Read(answer.entry.as_ref().map(item)),
        })
    }

    async fn put(&self, request: &Request) -> Result<Answer, Error> {
        let Request::Put { key, value, when, ttl_ms, lease } = request else {
            return Err(Error::Invalid("not a put".to_owned()));
        };
        let mut put = self.client.put(key.clone(), value.clone());
        if let Some(ttl_ms) = ttl_ms {
            put = put.ttl(Duration::from_millis(*ttl_ms));
        }
        if let Some(lease) = lease {
            put = put.lease(LeaseId(*lease));
        }
        if let Some(when) = when {
            put = put.condition(condition(when));
        }
        let answer = put.send().await?;
        let point = change_point(answer.origin.point);
        if !answer.applied {
            return Ok(plain(point, Told::Refused(answer.current.as_ref().map(item))));
        }
        let told = Told::Written { create: answer.create_revision.0, version: answer.version };
        Ok(plain(Point { revision: answer.revision.0, ..point }, told))
    }

    async fn delete(&self, key: &str, when: Option<&When>) -> Result<Answer, Error> {
        let mut delete = self.client.delete(key.to_owned());
        if let Some(when) = when {
            delete = delete.condition(condition(when));
        }
        let answer = delete.send().await?;
        let told = if answer.applied {
            Told::Deleted(answer.deleted)
        } else {
            Told::Refused(answer.current.as_ref().map(item))
        };
        Ok(plain(change_point(answer.origin.point), told))
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<Answer, Error> {
        let answer = self.client.increment(key.to_owned(), delta).await?;
        let point = change_point(answer.origin.point);
        let point = Point { revision: answer.revision.0, ..point };
        Ok(plain(point, Told::Number(answer.value)))
    }

    async fn txn(
        &self,
        compares: &[Compare],
        then: &[Step],
        otherwise: &[Step],
    ) -> Result<Answer, Error> {
        let mut txn = self.client.txn();
        txn = compares.iter().fold(txn, |txn, c| txn.when(compare(c)));
        txn = then.iter().fold(txn, |txn, step| txn.then(operation(step)));
        txn = otherwise.iter().fold(txn, |txn, step| txn.or_else(operation(step)));
        let answer = txn.send().await?;
        let steps = if answer.succeeded { then } else { otherwise };
        let told = |(step, result): (&Step, &sdk::TxnResult)| match step {
            Step::Get(_) => StepTold::Read(result.entries.first().map(item)),
            Step::Put(..) => StepTold::Written,
            Step::Delete(_) => StepTold::Deleted(result.count),
            Step::Increment(..) => StepTold::Number(result.value),
        };
        let results = steps.iter().zip(&answer.results).map(told).collect();
        let (succeeded, changed) = (answer.succeeded, answer.revision.0 != 0);
        let told = Told::Txn { succeeded, changed, results };
        Ok(plain(change_point(answer.origin.point), told))
    }

    async fn scan(&self, prefix: &str, level: Level) -> Result<Answer, Error> {
        let mut scan = self.client.scan(prefix.to_owned()).level(sdk_level(level));
        if let Level::Follower { age_max_ms: Some(age_ms) } = level {
            scan = scan.max_staleness(Duration::from_millis(age_ms));
        }
        let mut scan = scan.start()?;
        let (mut points, mut entries, mut ages) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(ScanPage { entries: page, points: of_page, staleness, .. }) =
            scan.next_page().await?
        {
            points.extend(of_page.into_iter().map(point_of));
            ages.push(age_ms(staleness));
            entries.extend(page.iter().map(|entry| {
                let key = String::from_utf8_lossy(&entry.key).into_owned();
                Placed { range: self.range_of(&key), key, item: item(entry) }
            }));
        }
        let told = Told::Scanned { points, entries };
        // All of it is as old as its oldest page, and that is proven only if it is of every page.
        let oldest = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a.max(b));
        let age_ms = ages.into_iter().reduce(oldest).flatten();
        Ok(Answer { point: Point::default(), age_ms, told })
    }

    async fn lease(&self, request: &Request) -> Result<Answer, Error> {
        let told = match request {
            Request::Grant { key, ttl_ms } => {
                let ttl = Duration::from_millis(*ttl_ms);
                let lease = self.client.grant_lease(key.clone(), ttl).await?;
                let ttl_ms = u64::try_from(lease.ttl().as_millis()).unwrap_or(u64::MAX);
                Told::Granted { lease: lease.id().0, ttl_ms }
            }
            Request::Renew { lease } => match self.client.lease(LeaseId(*lease)).renew().await {
                Ok(left) => Told::Renewed(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
                Err(Error::LeaseNotFound(_)) => Told::Renewed(0),
                Err(error) => return Err(error),
            },
            Request::Revoke { lease } => match self.client.lease(LeaseId(*lease)).revoke().await {
                Ok(keys) => Told::Revoked(Some(keys)),
                Err(Error::LeaseNotFound(_)) => Told::Revoked(None),
                Err(error) => return Err(error),
            },
            _ => return Err(Error::Invalid("not about a lease".to_owned())),
        };
        Ok(plain(Point::default(), told))
    }

    async fn lock(&self, name: &str, ttl_ms: u64) -> Result<Answer, Error> {
        let lock = self.client.lock(name.to_owned()).ttl(Duration::from_millis(ttl_ms));
        let guard = lock.acquire().await?;
        let token = guard.fencing_token();
        self.guards.lock().insert((name.to_owned(), token), guard);
        // The grant took the revision that is its token.
        let point = Point { range: self.range_of(name), revision: token, clock_ms: 0 };
        Ok(plain(point, Told::Locked(token)))
    }

    async fn unlock(&self, name: &str, token: u64) -> Result<Answer, Error> {
        let guard = self.guards.lock().remove(&(name.to_owned(), token));
        let released = match guard {
            Some(guard) => guard.release().await,
            None => return Err(Error::Invalid("no such guard".to_owned())),
        };
        match released {
            Ok(()) => Ok(plain(Point::default(), Told::Unlocked(true))),
            Err(Error::LockNotHeld(_)) => Ok(plain(Point::default(), Told::Unlocked(false))),
            Err(error) => Err(error),
        }
    }

    async fn batch_get(&self, keys: Vec<String>, level: Level) -> Vec<Outcome> {
        let mut get = self.client.batch_get(keys.iter().cloned()).level(sdk_level(level));
        if let Level::Follower { age_max_ms: Some(age_ms) } = level {
            get = get.max_staleness(Duration::from_millis(age_ms));
        }
        match get.send().await {
            Err(error) => vec![failure(&error); keys.len()],
            Ok(answers) => {
                let outcome = |(key, answer): (&String, Result<sdk::BatchGetAnswer, Error>)| {
                    // The answers of a batch name no revision.
                    let point = Point { range: self.range_of(key), ..Point::default() };
                    match answer {
                        Err(error) => failure(&error),
                        Ok(answer) => Outcome::Done(Answer {
                            point,
                            age_ms: age_ms(answer.staleness),
                            told: Told::Read(answer.entry.as_ref().map(item)),
                        }),
                    }
                };
                keys.iter().zip(answers).map(outcome).collect()
            }
        }
    }

    async fn batch_write(&self, requests: &[Request]) -> Vec<Outcome> {
        let mut batch = self.client.batch();
        for request in requests {
            batch = match request {
                Request::Put { key, value, when, .. } => {
                    push(batch, when.as_ref(), sdk::Operation::put(key.clone(), value.clone()))
                }
                Request::Delete { key, when } => {
                    push(batch, when.as_ref(), sdk::Operation::delete(key.clone()))
                }
                Request::Increment { key, delta } => {
                    batch.push(sdk::Operation::increment(key.clone(), *delta))
                }
                _ => return vec![Outcome::Failed("no item of a batch".to_owned()); requests.len()],
            };
        }
        match batch.send().await {
            Err(error) => vec![failure(&error); requests.len()],
            Ok(answers) => requests.iter().zip(answers).map(written).collect(),
        }
    }
}

fn push(batch: sdk::Batch, when: Option<&When>, operation: sdk::Operation) -> sdk::Batch {
    match when {
        Some(when) => batch.push_if(condition(when), operation),
        None => batch.push(operation),
    }
}

/// The outcome of one item of a batch.
fn written((request, answer): (&Request, Result<sdk::BatchAnswer, Error>)) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return failure(&error),
    };
    let point = Point { range: answer.range.0, revision: answer.revision.0, clock_ms: 0 };
    let told = match request {
        _ if !answer.applied => Told::Refused(answer.current.as_ref().map(item)),
        Request::Delete { .. } => Told::Deleted(answer.count),
        Request::Increment { .. } => Told::Number(answer.value),
        _ => Told::Written { create: 0, version: 0 },
    };
    Outcome::Done(plain(point, told))
}

#[async_trait]
impl Kv for ClientKv {
    async fn execute(&self, request: &Request) -> Outcome {
        let answer = match request {
            Request::Get { key, level } => self.get(key, *level).await,
            Request::Put { .. } => self.put(request).await,
            Request::Delete { key, when } => self.delete(key, when.as_ref()).await,
            Request::Increment { key, delta } => self.increment(key, *delta).await,
            Request::Txn { compares, then, otherwise } => self.txn(compares, then, otherwise).await,
            Request::Scan { prefix, level } => self.scan(prefix, *level).await,
            Request::Grant { .. } | Request::Renew { .. } | Request::Revoke { .. } => {
                self.lease(request).await
            }
            Request::Lock { name, ttl_ms } => self.lock(name, *ttl_ms).await,
            Request::Unlock { name, token } => self.unlock(name, *token).await,
        };
        answer.map_or_else(|error| failure(&error), Outcome::Done)
    }

    async fn batch(&self, requests: &[Request]) -> Vec<Outcome> {
        match requests.first() {
            Some(Request::Get { level, .. }) => {
                let keys = requests.iter().filter_map(Request::key).map(str::to_owned);
                self.batch_get(keys.collect(), *level).await
            }
            _ => self.batch_write(requests).await,
        }
    }

    async fn watch(&self, start: &WatchStart) -> Result<Box<dyn Watching>, String> {
        let key = start.key.clone();
        let mut watch =
            if start.is_prefix { self.client.watch_prefix(key) } else { self.client.watch(key) };
        watch = watch.previous().progress();
        if let Some(from) = start.from {
            watch = watch.from_revision(Revision(from));
        }
        if let Some(token) = &start.resume {
            watch = watch.resume(token.clone());
        }
        if start.no_puts {
            watch = watch.no_puts();
        }
        if start.no_deletes {
            watch = watch.no_deletes();
        }
        let watch = watch.start().await.map_err(|error| error.to_string())?;
        Ok(Box::new(ClientWatch(watch)))
    }
}

#[derive(Debug)]
struct ClientWatch(sdk::Watch);

#[async_trait]
impl Watching for ClientWatch {
    async fn next(&mut self) -> Result<Delivered, String> {
        let batch = self.0.next().await.map_err(|error| error.to_string())?;
        let event = |event: &sdk::Event| Event {
            key: String::from_utf8_lossy(&event.entry.key).into_owned(),
            change: match event.kind {
                sdk::EventKind::Put => Change::Put(item(&event.entry)),
                sdk::EventKind::Delete => Change::Delete(event.entry.revision.0),
            },
            previous: event.previous.as_ref().map(item),
        };
        Ok(Delivered {
            range: batch.range.0,
            revision: batch.revision.0,
            events: batch.events.iter().map(event).collect(),
            token: batch.resume_token.to_vec(),
        })
    }
}

fn failure(error: &Error) -> Outcome {
    if error.is_unknown() {
        Outcome::Unknown(error.to_string())
    } else {
        Outcome::Failed(error.to_string())
    }
}

fn plain(point: Point, told: Told) -> Answer {
    Answer { point, age_ms: None, told }
}

fn point_of(point: sdk::ReadPoint) -> Point {
    Point { range: point.range.0, revision: point.revision.0, clock_ms: point.clock_ms }
}

/// The point of a change. Its clock is left out: many changes are applied at once, and the clock
/// told is that of the last of them.
fn change_point(point: sdk::ReadPoint) -> Point {
    Point { clock_ms: 0, ..point_of(point) }
}

/// A bound that rests on clocks being set alike is no promise.
fn age_ms(staleness: Option<sdk::Staleness>) -> Option<u64> {
    let proven = staleness.filter(|staleness| !staleness.clock_based)?;
    u64::try_from(proven.bound.as_millis()).ok()
}

fn sdk_level(level: Level) -> sdk::ReadLevel {
    match level {
        Level::Linearizable => sdk::ReadLevel::Linearizable,
        Level::Lease => sdk::ReadLevel::Lease,
        Level::Follower { .. } => sdk::ReadLevel::Follower,
    }
}

fn condition(when: &When) -> sdk::Condition {
    match when {
        When::Absent => sdk::Condition::IfAbsent,
        When::Revision(revision) => sdk::Condition::IfRevision(Revision(*revision)),
        When::Value(value) => sdk::Condition::IfValue(value.clone().into()),
    }
}

fn compare(compare: &Compare) -> sdk::Compare {
    let key = compare.key.clone();
    match &compare.when {
        When::Absent => sdk::Compare::missing(key),
        When::Revision(revision) => {
            sdk::Compare::revision(key, sdk::Relation::Equal, Revision(*revision))
        }
        When::Value(value) => sdk::Compare::value(key, sdk::Relation::Equal, value.clone()),
    }
}

fn operation(step: &Step) -> sdk::Operation {
    match step {
        Step::Get(key) => sdk::Operation::get(key.clone()),
        Step::Put(key, value) => sdk::Operation::put(key.clone(), value.clone()),
        Step::Delete(key) => sdk::Operation::delete(key.clone()),
        Step::Increment(key, delta) => sdk::Operation::increment(key.clone(), *delta),
    }
}

/// What is no text becomes text that nobody wrote, so that a checker stumbles over it.
fn item(entry: &sdk::Entry) -> Item {
    Item {
        value: String::from_utf8_lossy(&entry.value).into_owned(),
        revision: entry.revision.0,
        create: entry.create_revision.0,
        version: entry.version,
        lease: entry.lease.map_or(0, |lease| lease.0),
        expires_ms: entry.expires_at_ms.unwrap_or(0),
    }
}
