//! Clients that write and read all the time and note what they saw.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_client::{Client, Error, ReadLevel};
use tokio::task::JoinSet;

use crate::history::{History, Outcome, Read, Seen, Write};

/// Keys of a batch that reads everything back.
const READ_BACK_KEYS: usize = 500;
/// Pause of a client whose call failed at once.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// What clients shall do.
#[derive(Clone, Debug)]
pub struct Load {
    /// Begins every key.
    pub prefix: String,
    /// Keys that are overwritten, over and over.
    pub keys: u64,
    /// Clients that write, each in turn to an overwritten key and to one of its own.
    pub writers: u64,
    /// Clients that read the overwritten keys, by level.
    pub readers: Vec<ReadLevel>,
    /// What each call is given.
    pub deadline: Duration,
}

impl Load {
    /// Four writers, no readers, 16 keys, 30 s.
    pub fn writes(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            keys: 16,
            writers: 4,
            readers: Vec::new(),
            deadline: Duration::from_secs(30),
        }
    }
}

#[derive(Debug, Default)]
struct Notes {
    history: History,
    failures: Vec<Error>,
}

/// A load under way.
#[derive(Debug)]
pub struct Workload {
    client: Client,
    notes: Arc<Mutex<Notes>>,
    is_over: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

/// What one client needs.
#[derive(Clone, Debug)]
struct Actor {
    client: Client,
    load: Load,
    notes: Arc<Mutex<Notes>>,
    is_over: Arc<AtomicBool>,
    next_value: Arc<AtomicU64>,
}

impl Workload {
    /// Lets `load` begin, over `client`.
    ///
    /// # Errors
    /// If the deadline of the load is none.
    pub fn start(client: &Client, load: Load) -> Result<Self> {
        let actor = Actor {
            client: client.with_deadline(load.deadline)?,
            load: load.clone(),
            notes: Arc::default(),
            is_over: Arc::default(),
            next_value: Arc::new(AtomicU64::new(1)),
        };
        let mut clients = JoinSet::new();
        for writer in 0..load.writers {
            clients.spawn(actor.clone().write(writer));
        }
        for (reader, level) in load.readers.iter().enumerate() {
            clients.spawn(actor.clone().read(reader as u64, *level));
        }
        let Actor { client, notes, is_over, .. } = actor;
        Ok(Self { client, notes, is_over, clients })
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.with(|notes| notes.history.acknowledged())
    }

    fn with<T>(&self, look: impl FnOnce(&mut Notes) -> T) -> T {
        look(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until `count` more writes are acknowledged.
    ///
    /// # Errors
    /// If that takes longer than half a minute.
    pub async fn acknowledges(&self, count: usize) -> Result<()> {
        let goal = self.acknowledged() + count;
        let limit = Duration::from_secs(30);
        let reached = crate::eventually(limit, async || {
            let count = self.acknowledged();
            anyhow::ensure!(count >= goal, "{count} of {goal} writes were acknowledged");
            Ok(())
        });
        reached.await.with_context(|| format!("{:?}", self.with(|notes| notes.failures.pop())))
    }

    /// Ends the load and answers what was seen, and the calls that failed.
    pub async fn stop(mut self) -> (History, Vec<Error>) {
        self.is_over.store(true, Ordering::Relaxed);
        while self.clients.join_next().await.is_some() {}
        let notes = self.with(std::mem::take);
        (notes.history, notes.failures)
    }

    /// Ends the load, then reads every written key and adds that to what was seen, so that
    /// [`History::check`] finds what is missing.
    ///
    /// # Errors
    /// If a key cannot be read.
    pub async fn stop_and_read_back(self) -> Result<(History, Vec<Error>)> {
        let client = self.client.with_deadline(Duration::from_secs(60))?;
        let (mut history, failures) = self.stop().await;
        read_back(&client, &mut history).await?;
        Ok((history, failures))
    }
}

/// Reads every key that `history` wrote and adds that to it.
///
/// # Errors
/// If a key cannot be read.
pub async fn read_back(client: &Client, history: &mut History) -> Result<()> {
    let mut keys: Vec<String> = history.writes.iter().map(|w| w.key.clone()).collect();
    keys.sort_unstable();
    keys.dedup();
    for keys in keys.chunks(READ_BACK_KEYS) {
        let start = Instant::now();
        let answers = client.batch_get(keys.iter().cloned()).await?;
        let end = Instant::now();
        for (key, answer) in keys.iter().zip(answers) {
            let entry = answer?.entry;
            let seen = entry.map(|e| seen(&e)).transpose()?;
            let (key, level) = (key.clone(), ReadLevel::Linearizable);
            history.reads.push(Read { key, level, start, end, seen, bound: None });
        }
    }
    Ok(())
}

fn seen(entry: &holdfast_client::Entry) -> Result<Seen> {
    let value = std::str::from_utf8(&entry.value)?.parse()?;
    Ok(Seen { revision: entry.revision.0, value })
}

impl Actor {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    async fn note(&self, failure: Error, note: impl FnOnce(&mut History)) {
        {
            let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
            note(&mut notes.history);
            notes.failures.push(failure);
        }
        tokio::time::sleep(FAILURE_PAUSE).await;
    }

    fn overwritten(&self, n: u64) -> String {
        format!("{}/k{}", self.load.prefix, n % self.load.keys)
    }

    async fn write(self, writer: u64) {
        for n in 0.. {
            if self.is_over() {
                return;
            }
            let key = if n % 2 == 0 {
                self.overwritten(writer * 5 + n / 2)
            } else {
                format!("{}/own/{writer}/{n}", self.load.prefix)
            };
            self.write_one(key).await;
        }
    }

    async fn write_one(&self, key: String) {
        let value = self.next_value.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        let answer = self.client.put(key.clone(), value.to_string()).await;
        let end = Instant::now();
        let outcome = match &answer {
            Ok(answer) => Outcome::Acknowledged(answer.revision.0),
            Err(error) if error.is_unknown() => Outcome::Unknown,
            Err(_) => Outcome::Refused,
        };
        let write = Write { key, value, start, end, outcome };
        match answer {
            Ok(_) => {
                let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
                notes.history.writes.push(write);
            }
            Err(error) => self.note(error, |history| history.writes.push(write)).await,
        }
    }

    async fn read(self, reader: u64, level: ReadLevel) {
        for n in reader.. {
            if self.is_over() {
                return;
            }
            let key = self.overwritten(n);
            let start = Instant::now();
            let answer = self.client.get(key.clone()).level(level).send().await;
            let end = Instant::now();
            let seen = match answer {
                Ok(answer) => answer.entry.as_ref().map(seen).transpose().map(|seen| {
                    let bound = answer.staleness.map(|staleness| staleness.bound);
                    Read { key, level, start, end, seen, bound }
                }),
                Err(error) => {
                    self.note(error, |_| ()).await;
                    continue;
                }
            };
            let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
            match seen {
                Ok(read) => notes.history.reads.push(read),
                Err(error) => notes.failures.push(Error::Malformed(error.to_string())),
            }
        }
    }
}
