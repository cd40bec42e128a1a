//! What happens to a cluster while its clients work: one family of nemeses a file.
//!
//! | family | nemeses |
//! |---|---|
//! | `process` | kills, also of all and in recovery, pause, stop, rolling restart, clock jump |
//! | `clocks` | clocks that run too fast or too slow, each by its own measure |
//! | `network` | cuts of every shape, flapping, loss, delay, reset, half-open, bandwidth |
//! | `leaders` | storms of leader transfers |
//! | `disk` | full, busy, corrupt journal, table or manifest, lost directory |
//! | `load` | mass expiry, slow consumers, huge and malformed requests, flood of connections |
//! | `resources` | file descriptors and memory at their limit |
//! | `snapshot` | a node that dies while a snapshot arrives, a snapshot that arrives damaged |
//!
//! Owns: how each is brought about, taken away, and proven to have been there.
//! Must never know: what clients ask meanwhile, what is concluded from their history.
//! Invariants:
//! * Whatever is destroyed is destroyed on one node of a run, always the same.
//! * After [`Nemesis::heal`] nothing of it is left, but what is destroyed.
//! * A proof rests on what the system, the proxy or the node tells, never on the mere attempt.
//!
//! Clocks go wrong by what a name space of time allows: the clock that nodes live by jumps by days
//! when one is started again. Rates, and wall clocks, go wrong in another executable, made of the
//! same parts and a bent clock. Both take a start; what changes under a running node is for the
//! simulation. Upgrades need a second version of the executable, and changes of membership a
//! cluster that can make them: there is neither yet.

mod clocks;
mod disk;
mod leaders;
mod load;
mod network;
mod process;
mod resources;
mod snapshot;

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result};
use async_trait::async_trait;
use holdfast_client::Client;
use holdfast_testkit::Random;

use crate::cluster::Cluster;

/// Where nemeses work.
pub struct Field<'a> {
    /// The cluster.
    pub cluster: &'a mut Cluster,
    /// What is drawn by chance comes from here.
    pub random: Random,
    /// The keyspace the load is on.
    pub client: Client,
    /// The one node whose data may be destroyed.
    pub weak: usize,
    /// Whether that has happened.
    pub is_weak_lost: bool,
    /// Whether the weak node is kept for a nemesis that destroys.
    pub is_weak_reserved: bool,
    /// Nodes a nemesis has in its hands.
    taken: BTreeSet<usize>,
}

impl<'a> Field<'a> {
    /// A field on `cluster`, whose load is in the keyspace of `client`.
    pub fn new(cluster: &'a mut Cluster, client: Client, mut random: Random) -> Self {
        let weak = 1 + random.below(cluster.size() as u64) as usize;
        // The one with a disk of its own is best for all that is done to disks.
        let small = (1..=cluster.size()).find(|i| cluster.node(*i).small_disk().is_some());
        let weak = small.unwrap_or(weak);
        Self {
            cluster,
            random,
            client,
            weak,
            is_weak_lost: false,
            is_weak_reserved: false,
            taken: BTreeSet::new(),
        }
    }

    /// Nodes that run and that no nemesis has in its hands.
    fn free(&mut self) -> Vec<usize> {
        let all = 1..=self.cluster.size();
        let reserved = self.is_weak_reserved.then_some(self.weak);
        let free = all.filter(|i| !self.taken.contains(i) && Some(*i) != reserved);
        free.filter(|i| self.cluster.node_mut(*i).is_running()).collect()
    }

    /// Takes `count` free nodes, or as many as there are.
    fn take(&mut self, count: usize) -> Vec<usize> {
        let mut free = self.free();
        let mut taken = Vec::new();
        while taken.len() < count && !free.is_empty() {
            let at = self.random.below(free.len() as u64) as usize;
            taken.push(free.swap_remove(at));
        }
        self.taken.extend(&taken);
        taken
    }

    /// Takes the leader of a range of the load, if it is free, or else any node.
    async fn take_leader(&mut self) -> Result<usize> {
        let ranges = self.ranges()?;
        let range = ranges[self.random.below(ranges.len() as u64) as usize];
        let leader = self.cluster.leader(range).await.ok();
        if let Some(leader) = leader.filter(|leader| self.free().contains(leader)) {
            self.taken.insert(leader);
            return Ok(leader);
        }
        self.take(1).first().copied().context("no node is free")
    }

    /// Takes `node`, or says that it is not free.
    fn take_this(&mut self, node: usize) -> bool {
        self.cluster.node_mut(node).is_running() && self.taken.insert(node)
    }

    fn give_back(&mut self, nodes: &[usize]) {
        self.taken.retain(|node| !nodes.contains(node));
    }

    /// Ranges of the load.
    fn ranges(&self) -> Result<Vec<u64>> {
        let map = self.client.map();
        let ranges = map.ranges_of(self.client.keyspace_name())?;
        Ok(ranges.iter().map(|range| range.id.0).collect())
    }

    /// Fewer than half of the nodes.
    fn minority(&self) -> usize {
        (self.cluster.size() - 1) / 2
    }
}

/// What shows whether a nemesis was there.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Whether it was.
    pub installed: bool,
    /// What was seen.
    pub words: String,
}

impl Proof {
    fn of(installed: bool, words: impl Into<String>) -> Self {
        Self { installed, words: words.into() }
    }
}

/// A fault that is brought about and taken away.
#[async_trait(?Send)]
pub trait Nemesis {
    /// Brings it about.
    ///
    /// # Errors
    /// If it could not be.
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()>;

    /// Goes on with it; called a few times a second while it is there.
    ///
    /// # Errors
    /// If it could not go on.
    async fn step(&mut self, _field: &mut Field<'_>) -> Result<()> {
        Ok(())
    }

    /// Takes it away, and proves that it was there.
    ///
    /// # Errors
    /// If it could not be taken away.
    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof>;
}

/// Every kind of nemesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // Their names say what they are; the table above says where they live.
pub enum Kind {
    KillLeader,
    KillSome,
    KillAll,
    KillInRecovery,
    Pause,
    PauseMajority,
    GracefulStop,
    RollingRestart,
    ClockJump,
    WrongClocks,
    Isolate,
    IsolateLeader,
    Halves,
    MajorityRing,
    Bridge,
    OneWay,
    Flapping,
    Loss,
    Delay,
    Reset,
    HalfOpen,
    Bandwidth,
    LeaderStorm,
    DiskFull,
    DiskBusy,
    CorruptJournal,
    CorruptTable,
    CorruptManifest,
    LostDirectory,
    MassExpiry,
    SlowConsumers,
    BadRequests,
    ConnectionFlood,
    FewFiles,
    LittleMemory,
    KillInSnapshot,
    CorruptSnapshot,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 37] = [
        Self::KillLeader,
        Self::Isolate,
        Self::Pause,
        Self::KillAll,
        Self::MajorityRing,
        Self::KillInRecovery,
        Self::OneWay,
        Self::LeaderStorm,
        Self::KillInSnapshot,
        Self::GracefulStop,
        Self::HalfOpen,
        Self::DiskFull,
        Self::KillSome,
        Self::Bridge,
        Self::MassExpiry,
        Self::Delay,
        Self::RollingRestart,
        Self::ClockJump,
        Self::WrongClocks,
        Self::Flapping,
        Self::FewFiles,
        Self::PauseMajority,
        Self::Loss,
        Self::SlowConsumers,
        Self::Reset,
        Self::BadRequests,
        Self::IsolateLeader,
        Self::LittleMemory,
        Self::CorruptSnapshot,
        Self::Halves,
        Self::ConnectionFlood,
        Self::Bandwidth,
        Self::DiskBusy,
        Self::CorruptTable,
        Self::CorruptJournal,
        Self::LostDirectory,
        Self::CorruptManifest,
    ];

    /// Kinds that may be there at once belong to different families. Those of a greater one are
    /// brought about first and taken away last: they need a cluster that answers.
    pub fn family(self) -> u8 {
        match self {
            Self::KillLeader
            | Self::KillSome
            | Self::KillAll
            | Self::KillInRecovery
            | Self::Pause
            | Self::PauseMajority
            | Self::GracefulStop
            | Self::RollingRestart
            | Self::ClockJump
            | Self::WrongClocks => 0,
            Self::Isolate
            | Self::IsolateLeader
            | Self::Halves
            | Self::MajorityRing
            | Self::Bridge
            | Self::OneWay
            | Self::Flapping
            | Self::Loss
            | Self::Delay
            | Self::Reset
            | Self::HalfOpen
            | Self::Bandwidth => 1,
            Self::LeaderStorm => 2,
            Self::DiskFull | Self::DiskBusy => 3,
            Self::CorruptJournal
            | Self::CorruptTable
            | Self::CorruptManifest
            | Self::LostDirectory => 4,
            Self::MassExpiry | Self::SlowConsumers | Self::BadRequests | Self::ConnectionFlood => 5,
            Self::FewFiles | Self::LittleMemory => 6,
            Self::KillInSnapshot | Self::CorruptSnapshot => 7,
        }
    }

    /// Whether the two can be there at once.
    pub fn goes_with(self, other: Self) -> bool {
        let (one, other) = (self.family().min(other.family()), self.family().max(other.family()));
        // What fills a disk and what destroys it are at work on the same one; of a node that waits
        // for a snapshot and one that is destroyed three leave no majority.
        one != other && (one, other) != (3, 4) && (one, other) != (4, 7)
    }

    /// Whether a node's data is lost by it for good.
    pub fn is_destructive(self) -> bool {
        self.family() == 4
    }

    /// Why it cannot be brought about on `cluster`, if it cannot.
    pub fn obstacle(self, cluster: &Cluster) -> Option<&'static str> {
        let has_disk = (1..=cluster.size()).any(|i| cluster.node(i).small_disk().is_some());
        match self {
            Self::DiskFull if !has_disk => Some("no right to mount a small disk here"),
            Self::ClockJump if !crate::node::can_move_clocks() => {
                Some("no right to a name space of time here")
            }
            Self::WrongClocks if !crate::node::can_bend_clocks() => {
                Some("holdfastd_wrong_clock, an example of the server, was not built")
            }
            _ => None,
        }
    }

    /// One of this kind.
    pub fn nemesis(self) -> Box<dyn Nemesis> {
        match self.family() {
            0 if self == Self::WrongClocks => Box::new(clocks::Wrong::default()),
            0 => process::of(self),
            1 => network::of(self),
            2 => Box::new(leaders::Storm::default()),
            3 | 4 => disk::of(self),
            5 => load::of(self),
            6 => resources::of(self),
            _ => snapshot::of(self),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // LeaderStorm → leader-storm
        for (at, letter) in format!("{self:?}").char_indices() {
            if letter.is_uppercase() && at > 0 {
                write!(f, "-")?;
            }
            write!(f, "{}", letter.to_ascii_lowercase())?;
        }
        Ok(())
    }
}
