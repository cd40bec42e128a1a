//! A store that is linearizable because it does one thing at a time, and versions of it that are
//! not, each by one flaw.
//!
//! Requests and answers take a random time on the way; some answers are lost. Time is virtual.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use holdfast_env::Clock;
use holdfast_env::sim::Random;
use holdfast_runtime::sleep;
use holdfast_testkit::history::{
    Answer, Change, Compare, Event, Item, Level, Outcome, Placed, Point, Request, RunClock, Step,
    StepTold, Told, When,
};
use holdfast_testkit::kv::{Delivered, Kv, WatchStart, Watching};
use parking_lot::Mutex;

/// The only range.
pub const RANGE: u64 = 7;
/// How often a watch or a waiter looks.
const LOOK: Duration = Duration::from_millis(5);
/// How long a lock is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is wrong with a store; one of them at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// Current reads may show an older state.
    StaleRead,
    /// A put is acknowledged and forgotten.
    LostWrite,
    /// An increment runs twice, as after a retry without a session.
    DoubledIncrement,
    /// A condition is not looked at.
    BlindCas,
    /// What is said to have failed happened.
    FailedHappens,
    /// A transfer is two changes.
    TornTransfer,
    /// Keys with a TTL and leases end at half their time.
    EarlyEnd,
    /// Keys with a TTL are shown long after their time, by a clock that stands still.
    LateEnd,
    /// A lock is granted again under the token it had.
    TokenRepeated,
    /// Follower reads say they are younger than they are.
    LyingFollower,
    /// A watch leaves an event out.
    MissedEvent,
    /// A resumed watch begins one revision too early.
    RepeatedEvent,
    /// A watch delivers two revisions in the wrong order.
    ReorderedEvents,
    /// A scan leaves a key out.
    GappyScan,
    /// Each item of a batch takes the same revision.
    SharedRevision,
}

impl Flaw {
    pub const PLANTED: [Self; 15] = [
        Self::StaleRead,
        Self::LostWrite,
        Self::DoubledIncrement,
        Self::BlindCas,
        Self::FailedHappens,
        Self::TornTransfer,
        Self::EarlyEnd,
        Self::LateEnd,
        Self::TokenRepeated,
        Self::LyingFollower,
        Self::MissedEvent,
        Self::RepeatedEvent,
        Self::ReorderedEvents,
        Self::GappyScan,
        Self::SharedRevision,
    ];
}

#[derive(Default)]
struct Lease {
    ttl_ms: u64,
    ends_ms: u64,
}

#[derive(Default)]
struct LockState {
    token: u64,
    ends_ms: u64,
}

struct State {
    flaw: Flaw,
    random: Random,
    revision: u64,
    clock_ms: u64,
    /// Versions of each key, in order.
    keys: BTreeMap<String, Vec<(u64, Option<Item>)>>,
    events: BTreeMap<u64, Vec<Event>>,
    leases: BTreeMap<u64, Lease>,
    locks: BTreeMap<String, LockState>,
    /// When each revision was made, milliseconds.
    made_ms: Vec<(u64, u64)>,
    /// The second half of a transfer that was torn.
    torn: Option<Vec<(String, Option<Item>)>>,
}

/// The store.
pub struct Reference {
    state: Mutex<State>,
    clock: RunClock,
    /// Of a hundred answers so many are lost.
    loss_percent: u8,
}

impl Reference {
    pub fn new(seed: u64, flaw: Flaw, loss_percent: u8, clock: RunClock) -> Arc<Self> {
        let state = State {
            flaw,
            random: Random::new(seed),
            revision: 1,
            clock_ms: 0,
            keys: BTreeMap::new(),
            events: BTreeMap::new(),
            leases: BTreeMap::new(),
            locks: BTreeMap::new(),
            made_ms: vec![(0, 1)],
            torn: None,
        };
        Arc::new(Self { state: Mutex::new(state), clock, loss_percent })
    }

    fn now_ms(&self) -> u64 {
        self.clock.monotonic().as_millis() as u64 + 1
    }

    async fn travel(&self) {
        let micros = self.state.lock().random.below(3_000);
        sleep(Duration::from_micros(micros)).await;
    }

    fn apply(&self, request: &Request) -> Outcome {
        let now = self.now_ms();
        let mut state = self.state.lock();
        state.advance(now);
        match state.apply(request) {
            Ok(answer) => Outcome::Done(answer),
            Err(why) => Outcome::Failed(why),
        }
    }

    /// Whether a request or its answer is lost, and which.
    fn lost(&self) -> (bool, bool) {
        let mut state = self.state.lock();
        let lost = state.random.chance(self.loss_percent);
        (lost && state.random.chance(50), lost)
    }
}

impl State {
    /// Ends what is due.
    fn advance(&mut self, now_ms: u64) {
        if self.flaw != Flaw::LateEnd {
            self.clock_ms = now_ms;
        } else {
            self.clock_ms = self.clock_ms.max(now_ms / 20_000 * 20_000).max(1);
        }
        let due: Vec<String> = self
            .keys
            .iter()
            .filter(|(_, versions)| {
                let item = versions.last().and_then(|(_, item)| item.as_ref());
                item.is_some_and(|i| i.expires_ms != 0 && i.expires_ms <= self.clock_ms)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.change(vec![(key, None)]);
        }
        let over: Vec<u64> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.ends_ms <= self.clock_ms)
            .map(|(id, _)| *id)
            .collect();
        for lease in over {
            self.end_lease(lease);
        }
    }

    fn end_lease(&mut self, lease: u64) -> Option<u64> {
        self.leases.remove(&lease)?;
        let of_it = self.keys.keys().filter(|key| self.now(key).is_some_and(|i| i.lease == lease));
        let doomed: Vec<(String, Option<Item>)> = of_it.map(|key| (key.clone(), None)).collect();
        let count = doomed.len() as u64;
        if count > 0 {
            self.change(doomed);
        }
        Some(count)
    }

    fn now(&self, key: &str) -> Option<&Item> {
        self.at(key, u64::MAX)
    }

    fn at(&self, key: &str, revision: u64) -> Option<&Item> {
        let versions = self.keys.get(key)?;
        let count = versions.partition_point(|(at, _)| *at <= revision);
        versions.get(count.checked_sub(1)?)?.1.as_ref()
    }

    /// Makes changes under one revision; fills in what follows from the state.
    fn change(&mut self, changes: Vec<(String, Option<Item>)>) -> u64 {
        self.revision += 1;
        let revision = self.revision;
        self.made_ms.push((self.clock_ms, revision));
        let mut events = Vec::new();
        for (key, item) in changes {
            let before = self.now(&key).cloned();
            let item = item.map(|item| Item {
                revision,
                create: before.as_ref().map_or(revision, |before| before.create),
                version: before.as_ref().map_or(0, |before| before.version) + 1,
                ..item
            });
            let change = item.clone().map_or(Change::Delete(revision), Change::Put);
            events.push(Event { key: key.clone(), change, previous: before });
            self.keys.entry(key).or_default().push((revision, item));
        }
        self.events.insert(revision, events);
        revision
    }

    fn point(&self) -> Point {
        Point { range: RANGE, revision: self.revision, clock_ms: self.clock_ms }
    }

    fn told(&self, told: Told) -> Answer {
        Answer { point: self.point(), age_ms: None, told }
    }

    fn holds(&self, key: &str, when: &When) -> bool {
        let item = self.now(key);
        match when {
            When::Absent => item.is_none(),
            When::Revision(revision) => item.is_some_and(|item| item.revision == *revision),
            When::Value(value) => item.is_some_and(|item| item.value == *value),
        }
    }

    /// Now and then, if the store has this flaw.
    fn errs(&mut self, flaw: Flaw) -> bool {
        self.flaw == flaw && self.random.chance(15)
    }

    fn apply(&mut self, request: &Request) -> Result<Answer, String> {
        if let Some(second) = self.torn.take_if(|_| !request.is_read()) {
            self.change(second);
        }
        match request {
            Request::Get { key, level } => Ok(self.get(key, *level)),
            Request::Scan { prefix, level } => Ok(self.scan(prefix, *level)),
            Request::Put { key, value, when, ttl_ms, lease } => {
                self.put(key, value, when.as_ref(), *ttl_ms, *lease)
            }
            Request::Delete { key, when } => {
                if let Some(when) = when
                    && !self.holds(key, when)
                {
                    return Ok(self.told(Told::Refused(self.now(key).cloned())));
                }
                if self.now(key).is_none() {
                    return Ok(self.told(Told::Deleted(0)));
                }
                self.change(vec![(key.clone(), None)]);
                Ok(self.told(Told::Deleted(1)))
            }
            Request::Increment { key, delta } => {
                if self.errs(Flaw::DoubledIncrement) {
                    self.add(key, *delta)?;
                }
                let sum = self.add(key, *delta)?;
                Ok(self.told(Told::Number(sum)))
            }
            Request::Txn { compares, then, otherwise } => self.txn(compares, then, otherwise),
            Request::Grant { .. } | Request::Renew { .. } | Request::Revoke { .. } => {
                self.lease(request)
            }
            Request::Lock { name, ttl_ms } => self.lock(name, *ttl_ms),
            Request::Unlock { name, token } => {
                let held = self.locks.get_mut(name).filter(|lock| lock.token == *token);
                let is_held = held.as_ref().is_some_and(|lock| lock.ends_ms > self.clock_ms);
                if let Some(lock) = held {
                    lock.ends_ms = 0;
                }
                Ok(Answer { point: Point::default(), age_ms: None, told: Told::Unlocked(is_held) })
            }
        }
    }

    /// The point a read shows, and the age it states.
    fn read_point(&mut self, level: Level) -> (Point, Option<u64>) {
        let mut point = self.point();
        let is_current = level.is_current();
        let age_max_ms = match level {
            Level::Follower { age_max_ms: Some(age_max_ms) } => age_max_ms,
            _ => u64::MAX,
        };
        let back = if is_current && self.errs(Flaw::StaleRead) {
            1 + self.random.below(3)
        } else if is_current {
            0
        } else {
            self.random.below(6)
        };
        point.revision = point.revision.saturating_sub(back).max(1);
        if is_current {
            return (point, None);
        }
        // What the replica misses was made since then.
        let next = self.made_ms.iter().find(|(_, revision)| *revision > point.revision);
        let age = next.map_or(0, |(made, _)| self.clock_ms - made);
        if age >= age_max_ms {
            return (self.point(), Some(0));
        }
        point.clock_ms -= age;
        let told = if self.flaw == Flaw::LyingFollower { 0 } else { age + 1 };
        (point, Some(told))
    }

    fn shows(&self, key: &str, point: Point) -> Option<Item> {
        let item = self.at(key, point.revision);
        item.filter(|i| i.expires_ms == 0 || i.expires_ms > point.clock_ms).cloned()
    }

    fn get(&mut self, key: &str, level: Level) -> Answer {
        let (point, age_ms) = self.read_point(level);
        Answer { point, age_ms, told: Told::Read(self.shows(key, point)) }
    }

    fn scan(&mut self, prefix: &str, level: Level) -> Answer {
        let (point, age_ms) = self.read_point(level);
        let skipped = if self.errs(Flaw::GappyScan) { 1 } else { 0 };
        let keys = self.keys.keys().filter(|key| key.starts_with(prefix));
        let found = keys.filter_map(|key| Some((key.clone(), self.shows(key, point)?)));
        let entries = found.map(|(key, item)| Placed { range: RANGE, key, item });
        let told = Told::Scanned { points: vec![point], entries: entries.skip(skipped).collect() };
        Answer { point: Point::default(), age_ms, told }
    }

    fn put(
        &mut self,
        key: &str,
        value: &str,
        when: Option<&When>,
        ttl_ms: Option<u64>,
        lease: Option<u64>,
    ) -> Result<Answer, String> {
        if let Some(when) = when
            && !self.holds(key, when)
            && !self.errs(Flaw::BlindCas)
        {
            return Ok(self.told(Told::Refused(self.now(key).cloned())));
        }
        let lease = lease.unwrap_or(0);
        if lease != 0 && !self.leases.contains_key(&lease) {
            return Err("no such lease".to_owned());
        }
        let life = |ttl: u64| if self.flaw == Flaw::EarlyEnd { ttl / 2 } else { ttl };
        let expires_ms = ttl_ms.map_or(0, |ttl| self.clock_ms + life(ttl));
        let item = Item { value: value.to_owned(), lease, expires_ms, ..Item::default() };
        if self.errs(Flaw::LostWrite) {
            self.revision += 1;
            let told = Told::Written { create: 0, version: 0 };
            return Ok(self.told(told));
        }
        if self.errs(Flaw::FailedHappens) {
            self.change(vec![(key.to_owned(), Some(item))]);
            return Err("no quorum".to_owned());
        }
        self.change(vec![(key.to_owned(), Some(item))]);
        let item = self.now(key).cloned().unwrap_or_default();
        Ok(self.told(Told::Written { create: item.create, version: item.version }))
    }

    fn add(&mut self, key: &str, delta: i64) -> Result<i64, String> {
        let old = self.now(key).cloned().unwrap_or_default();
        let base = if old.value.is_empty() { Ok(0) } else { old.value.parse::<i64>() };
        let sum = base.map_err(|error| error.to_string())? + delta;
        let Item { lease, expires_ms, .. } = old;
        let item = Item { value: sum.to_string(), lease, expires_ms, ..Item::default() };
        self.change(vec![(key.to_owned(), Some(item))]);
        Ok(sum)
    }

    fn txn(
        &mut self,
        compares: &[Compare],
        then: &[Step],
        otherwise: &[Step],
    ) -> Result<Answer, String> {
        let succeeded = compares.iter().all(|compare| self.holds(&compare.key, &compare.when));
        let steps = if succeeded { then } else { otherwise };
        let mut changes: Vec<(String, Option<Item>)> = Vec::new();
        let mut results = Vec::new();
        for step in steps {
            let old = self.now(step.key()).cloned();
            let plain = |value: String| Some(Item { value, ..Item::default() });
            results.push(match step {
                Step::Get(_) => StepTold::Read(old),
                Step::Put(key, value) => {
                    changes.push((key.clone(), plain(value.clone())));
                    StepTold::Written
                }
                Step::Delete(key) => {
                    changes.extend(old.is_some().then(|| (key.clone(), None)));
                    StepTold::Deleted(old.is_some().into())
                }
                Step::Increment(key, delta) => {
                    let base = old.map_or(Ok(0), |item| item.value.parse::<i64>());
                    let sum = base.map_err(|error| error.to_string())? + delta;
                    changes.push((key.clone(), plain(sum.to_string())));
                    StepTold::Number(sum)
                }
            });
        }
        let changed = !changes.is_empty();
        if self.flaw == Flaw::TornTransfer && changes.len() == 2 {
            self.torn = Some(changes.split_off(1));
            self.change(changes);
        } else if changed {
            self.change(changes);
        }
        Ok(self.told(Told::Txn { succeeded, changed, results }))
    }

    fn lease(&mut self, request: &Request) -> Result<Answer, String> {
        let half = if self.flaw == Flaw::EarlyEnd { 2 } else { 1 };
        let told = match request {
            Request::Grant { ttl_ms, .. } => {
                let lease =
                    1 + self.leases.last_key_value().map_or(0, |(id, _)| *id) + self.revision;
                let ends_ms = self.clock_ms + ttl_ms / half;
                self.leases.insert(lease, Lease { ttl_ms: *ttl_ms, ends_ms });
                Told::Granted { lease, ttl_ms: *ttl_ms }
            }
            Request::Renew { lease } => match self.leases.get_mut(lease) {
                Some(lease) => {
                    lease.ends_ms = self.clock_ms + lease.ttl_ms / half;
                    Told::Renewed(lease.ttl_ms)
                }
                None => Told::Renewed(0),
            },
            Request::Revoke { lease } => Told::Revoked(self.end_lease(*lease)),
            _ => return Err("not about a lease".to_owned()),
        };
        Ok(Answer { point: Point::default(), age_ms: None, told })
    }

    fn lock(&mut self, name: &str, ttl_ms: u64) -> Result<Answer, String> {
        let clock_ms = self.clock_ms;
        let known = self.locks.get(name).map(|lock| (lock.token, lock.ends_ms));
        if known.is_some_and(|(_, ends_ms)| ends_ms > clock_ms) {
            return Err("held".to_owned());
        }
        let token = match known {
            Some((token, _)) if self.errs(Flaw::TokenRepeated) => token,
            _ => {
                self.revision += 1;
                self.made_ms.push((clock_ms, self.revision));
                self.revision
            }
        };
        self.locks.insert(name.to_owned(), LockState { token, ends_ms: clock_ms + ttl_ms });
        let point = Point { range: RANGE, revision: token, clock_ms: 0 };
        Ok(Answer { point, age_ms: None, told: Told::Locked(token) })
    }
}

impl Reference {
    async fn execute(&self, request: &Request) -> Outcome {
        self.travel().await;
        let (before, lost) = self.lost();
        if before {
            sleep(PATIENCE).await;
            return unanswered(request);
        }
        let mut outcome = self.apply(request);
        let mut waited = Duration::ZERO;
        while matches!((&outcome, request), (Outcome::Failed(_), Request::Lock { .. }))
            && waited < PATIENCE
        {
            sleep(LOOK).await;
            waited += LOOK;
            outcome = self.apply(request);
        }
        if lost && !matches!(outcome, Outcome::Failed(_)) {
            sleep(PATIENCE).await;
            return unanswered(request);
        }
        self.travel().await;
        outcome
    }

    async fn batch(&self, requests: &[Request]) -> Vec<Outcome> {
        self.travel().await;
        let mut outcomes: Vec<Outcome> = requests.iter().map(|r| self.apply(r)).collect();
        for outcome in &mut outcomes {
            // As the answers to batches are: a read names its range and no revision.
            if let Outcome::Done(answer) = outcome
                && matches!(answer.told, Told::Read(_))
            {
                answer.point = Point { range: RANGE, ..Point::default() };
            }
        }
        if self.state.lock().errs(Flaw::SharedRevision)
            && let Some(first) = outcomes.first().and_then(Outcome::answer).map(|a| a.point)
        {
            for outcome in &mut outcomes {
                if let Outcome::Done(answer) = outcome {
                    answer.point = first;
                }
            }
        }
        self.travel().await;
        outcomes
    }
}

/// What becomes of a request without an answer: a read has failed, all else is unknown.
fn unanswered(request: &Request) -> Outcome {
    if request.is_read() {
        Outcome::Failed("no answer".to_owned())
    } else {
        Outcome::Unknown("no answer".to_owned())
    }
}

/// The store as workloads take it: watches share it.
#[derive(Clone)]
pub struct Shared(pub Arc<Reference>);

#[async_trait]
impl Kv for Shared {
    async fn execute(&self, request: &Request) -> Outcome {
        self.0.execute(request).await
    }

    async fn batch(&self, requests: &[Request]) -> Vec<Outcome> {
        self.0.batch(requests).await
    }

    async fn watch(&self, start: &WatchStart) -> Result<Box<dyn Watching>, String> {
        let token = start.resume.as_ref().and_then(|t| <[u8; 8]>::try_from(t.as_slice()).ok());
        let mut next = match token {
            Some(token) => u64::from_le_bytes(token) + 1,
            None => start.from.unwrap_or(self.0.state.lock().revision + 1),
        };
        if token.is_some() && self.0.state.lock().flaw == Flaw::RepeatedEvent {
            next -= 1;
        }
        Ok(Box::new(Follower { store: self.0.clone(), start: start.clone(), next }))
    }
}

struct Follower {
    store: Arc<Reference>,
    start: WatchStart,
    next: u64,
}

#[async_trait]
impl Watching for Follower {
    async fn next(&mut self) -> Result<Delivered, String> {
        loop {
            sleep(LOOK).await;
            let mut state = self.store.state.lock();
            if state.revision < self.next {
                continue;
            }
            let upto = state.revision.min(self.next + state.random.below(8));
            let wants = |event: &&Event| {
                event.key.starts_with(&self.start.key)
                    && !(if event.is_delete() { self.start.no_deletes } else { self.start.no_puts })
            };
            let due = state.events.range(self.next..=upto).flat_map(|(_, events)| events);
            let mut events: Vec<Event> = due.filter(wants).cloned().collect();
            if events.len() > 1 && state.errs(Flaw::MissedEvent) {
                events.remove(0);
            }
            if state.errs(Flaw::ReorderedEvents) {
                events.reverse();
            }
            self.next = upto + 1;
            let token = upto.to_le_bytes().to_vec();
            return Ok(Delivered { range: RANGE, revision: upto, events, token });
        }
    }
}
