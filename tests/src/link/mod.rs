//! The network between the nodes of a cluster, as a proxy that can be told to be a bad one.
//!
//! ```text
//!  node i ── dials what node j advertises ──▶ door j ──▶ where node j listens
//!                     (who i is, the system tells: it knows which process owns a socket)
//! ```
//!
//! Owns: the doors, the rules of each directed pair of nodes, the count of what the rules did.
//! Must never know: what the bytes mean.
//! Invariants:
//! * A rule for (i, j) is about bytes from i to j, whichever of the two has dialled.
//! * Bytes are never lost or reordered within a connection: TCP would not let them be. What a
//!   cut holds back is delivered when it ends, unless the connection has ended before.
//! * Every rule counts the bytes it was applied to; a rule that counted nothing proves nothing.

mod caller;
mod pump;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) use caller::Callers;

/// Most connections through one door at once.
const CONNECTIONS_MAX: usize = 1_000;

/// What happens to bytes from one node to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// They are held back, and connections that are dialled wait.
    pub cut: bool,
    /// They arrive so much later.
    pub delay: Duration,
    /// And by up to so much more.
    pub jitter: Duration,
    /// So many of a thousand packets are lost and sent again, which takes what TCP waits.
    pub lost_permille: u16,
    /// No more than this arrives in a second.
    pub bytes_per_second: Option<u32>,
}

/// What the rules of one directed pair did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Bytes that arrived.
    pub carried: u64,
    /// Bytes that a cut held back.
    pub held: u64,
    /// Connections that were dialled into a cut.
    pub unanswered: u64,
    /// Pieces that arrived later than without a rule.
    pub delayed: u64,
    /// Pieces that had to be sent again.
    pub resent: u64,
    /// Connections that were reset.
    pub resets: u64,
    /// Connections of which only one end was told, and the other stood for a while.
    pub left_open: u64,
    /// Bytes that went to a peer that had gone without a word.
    pub swallowed: u64,
}

/// How a connection is to end before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// Both ends learn of it at once.
    Reset,
    /// Only the one that was dialled learns of it.
    HalfOpen,
}

#[derive(Debug, Default)]
struct State {
    rules: BTreeMap<(usize, usize), Rule>,
    counts: BTreeMap<(usize, usize), Count>,
    /// How often the connections of a pair were broken, and how the last time.
    breaks: BTreeMap<(usize, usize), (u64, Option<Break>)>,
}

/// The network of one cluster, its nodes numbered from 1.
#[derive(Clone, Debug)]
pub struct Links {
    state: Arc<Mutex<State>>,
    /// Changes when a rule does.
    version: watch::Sender<u64>,
    callers: Callers,
    doors: Arc<Mutex<JoinSet<()>>>,
}

impl Links {
    pub(crate) fn new(callers: Callers) -> Self {
        let (version, _) = watch::channel(0);
        Self { state: Arc::default(), version, callers, doors: Arc::default() }
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens the door to node `to` at `outside`, which leads to `inside`.
    pub(crate) async fn open(&self, to: usize, outside: &str, inside: &str) -> Result<()> {
        let listener = TcpListener::bind(outside).await.with_context(|| outside.to_owned())?;
        let (links, inside) = (self.clone(), inside.to_owned());
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.spawn(async move { links.keep(to, listener, inside).await });
        Ok(())
    }

    async fn keep(&self, to: usize, listener: TcpListener, inside: String) {
        let mut connections = JoinSet::new();
        let here = listener.local_addr().ok();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = listener.accept().await;
            let Ok((stream, there)) = accepted else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            if connections.len() >= CONNECTIONS_MAX {
                continue;
            }
            let from = here.and_then(|here| self.callers.who(there, here)).unwrap_or(0);
            let (links, inside) = (self.clone(), inside.clone());
            connections.spawn(async move { links.connect(from, to, stream, &inside).await });
        }
    }

    async fn connect(&self, from: usize, to: usize, near: TcpStream, inside: &str) {
        let mut version = self.version.subscribe();
        if self.rule(from, to).cut || self.rule(to, from).cut {
            self.count(from, to, |count| count.unanswered += 1);
        }
        // A connection takes bytes both ways to come about.
        while self.rule(from, to).cut || self.rule(to, from).cut {
            if version.changed().await.is_err() {
                return;
            }
        }
        let Ok(far) = TcpStream::connect(inside).await else { return };
        pump::carry(self, from, to, near, far).await;
    }

    /// What holds for bytes from `from` to `to`.
    pub fn rule(&self, from: usize, to: usize) -> Rule {
        self.with(|state| state.rules.get(&(from, to)).copied().unwrap_or_default())
    }

    /// Sets the rule for bytes from `from` to `to`.
    pub fn set(&self, from: usize, to: usize, rule: Rule) {
        self.with(|state| state.rules.insert((from, to), rule));
        self.version.send_modify(|version| *version += 1);
    }

    /// Changes the rule for bytes from `from` to `to`.
    pub fn change(&self, from: usize, to: usize, change: impl FnOnce(&mut Rule)) {
        let mut rule = self.rule(from, to);
        change(&mut rule);
        self.set(from, to, rule);
    }

    /// Breaks all connections between `from` and `to` that `from` has dialled.
    pub(crate) fn sever(&self, from: usize, to: usize, how: Break) {
        self.with(|state| {
            let (times, last) = state.breaks.entry((from, to)).or_default();
            *times += 1;
            *last = Some(how);
        });
        self.version.send_modify(|version| *version += 1);
    }

    fn breaks(&self, from: usize, to: usize) -> (u64, Option<Break>) {
        self.with(|state| state.breaks.get(&(from, to)).copied().unwrap_or_default())
    }

    fn count(&self, from: usize, to: usize, note: impl FnOnce(&mut Count)) {
        self.with(|state| note(state.counts.entry((from, to)).or_default()));
    }

    /// What happened to bytes from `from` to `to` so far.
    pub fn counted(&self, from: usize, to: usize) -> Count {
        self.with(|state| state.counts.get(&(from, to)).copied().unwrap_or_default())
    }
}
