//! Who leads, as this replica knows, and the clock of its own leadership.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_env::{Clock, defect};
use holdfast_model::{NodeId, ReplicaId, Term};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::raft::types::Membership;
use crate::range_time::{RangeTime, most_agree};

/// What a replica is in its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It receives the log and has no vote.
    #[default]
    Learner,
    /// It votes.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It leads.
    Leader,
    /// It has stopped.
    Stopped,
}

/// Who leads, as far as a replica knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaderInfo {
    /// What this replica is.
    pub role: Role,
    /// Who leads; none while nobody is known to.
    pub leader: Option<(ReplicaId, NodeId)>,
    /// The term it has seen.
    pub term: Term,
}

/// What tells a leader whether its wall clock can be trusted.
pub(crate) trait WallClocks: Send + Sync {
    /// How far the wall clock of a node is ahead of ours, milliseconds.
    fn offset_ms(&self, node: NodeId) -> Option<i64>;
}

/// Leadership as other tasks of the replica, and other threads, look at it.
pub(crate) struct Leadership {
    info: watch::Sender<LeaderInfo>,
    is_leader: AtomicBool,
    clock: Arc<dyn Clock>,
    node: NodeId,
    offset_max: Duration,
    walls: Arc<dyn WallClocks>,
    /// Nodes whose wall clocks count: those of the voters, this one included.
    members: Mutex<Vec<NodeId>>,
    /// The running clock of this leadership. A lock, because leadership changes on another task
    /// than the one that stamps; never held across an await.
    time: Mutex<Option<RangeTime>>,
    /// Range clock and monotonic time of the last apply, so that a new leader goes on from there.
    applied_clock_ms: AtomicU64,
    applied_at_nanos: AtomicU64,
    /// The last term of our own in which everything was removed that had ended before it began.
    settled: watch::Sender<Term>,
}

impl Leadership {
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        node: NodeId,
        offset_max: Duration,
        walls: Arc<dyn WallClocks>,
    ) -> Self {
        Self {
            info: watch::Sender::new(LeaderInfo::default()),
            is_leader: AtomicBool::new(false),
            clock,
            node,
            offset_max,
            walls,
            members: Mutex::default(),
            time: Mutex::default(),
            applied_clock_ms: AtomicU64::new(0),
            applied_at_nanos: AtomicU64::new(u64::MAX),
            settled: watch::Sender::new(Term::default()),
        }
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.is_leader.load(Ordering::Acquire)
    }

    /// Whether nobody but this node votes.
    pub(crate) fn is_only_voter(&self) -> bool {
        *self.members.lock() == [self.node]
    }

    pub(crate) fn leader(&self) -> Option<(ReplicaId, NodeId)> {
        self.info.borrow().leader
    }

    pub(crate) fn info(&self) -> LeaderInfo {
        *self.info.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<LeaderInfo> {
        self.info.subscribe()
    }

    /// Takes what openraft says now. A new term of our own begins with a new clock.
    pub(crate) fn update(&self, info: LeaderInfo, membership: &Membership) {
        let voters: Vec<_> = membership.voter_ids().collect();
        let host = |id: &ReplicaId| membership.get_node(id).map(|host| host.0);
        *self.members.lock() = voters.iter().filter_map(host).collect();
        let before = self.info();
        let leads = info.role == Role::Leader;
        if leads && (before.role != Role::Leader || before.term != info.term) {
            *self.time.lock() = Some(self.start_clock());
        }
        if !leads {
            *self.time.lock() = None;
        }
        self.is_leader.store(leads, Ordering::Release);
        if before != info {
            self.info.send_replace(info);
        }
    }

    /// Notes that the range clock has caught up with the time of `term`, a term of our own: what
    /// ended while nobody led is shown no more.
    pub(crate) fn settle(&self, term: Term) {
        self.settled.send_if_modified(|settled| {
            let is_news = *settled < term;
            *settled = term.max(*settled);
            is_news
        });
    }

    /// Waits until the present term is settled, or is over.
    pub(crate) async fn settled(&self) {
        let term = self.info().term;
        if *self.settled.borrow() >= term {
            return;
        }
        let (mut settled, mut leaders) = (self.settled.subscribe(), self.watch());
        // Neither sender goes before this does.
        tokio::select! {
            _ = settled.wait_for(|settled| *settled >= term) => {}
            _ = leaders.wait_for(|info| info.role != Role::Leader || info.term != term) => {}
        }
    }

    /// The stamp for an entry proposed now; `None` while this replica does not lead.
    pub(crate) fn stamp_ms(&self) -> Option<u64> {
        let (monotonic, wall) = (self.clock.monotonic(), self.agreed_wall());
        let applied = self.applied_clock_ms.load(Ordering::Acquire);
        let mut time = self.time.lock();
        if defect!(TTL_BY_LOCAL_CLOCK) && time.is_some() {
            return u64::try_from(self.clock.wall().as_millis()).ok();
        }
        time.as_mut().map(|time| time.now_ms(monotonic, wall).max(applied))
    }

    /// Notes the range clock after an apply.
    pub(crate) fn applied(&self, clock_ms: u64) {
        let now = u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX);
        self.applied_clock_ms.store(clock_ms, Ordering::Release);
        self.applied_at_nanos.store(now, Ordering::Release);
    }

    fn start_clock(&self) -> RangeTime {
        let now = self.clock.monotonic();
        let applied_at = Duration::from_nanos(self.applied_at_nanos.load(Ordering::Acquire));
        let clock_ms = self.applied_clock_ms.load(Ordering::Acquire);
        let since = now.saturating_sub(applied_at);
        RangeTime::start(clock_ms, since, now, self.agreed_wall(), self.offset_max)
    }

    /// The wall clock, while most of the range's nodes agree with it.
    fn agreed_wall(&self) -> Option<Duration> {
        let members = self.members.lock();
        let offset = |node: &NodeId| match *node == self.node {
            true => Some(0),
            false => self.walls.offset_ms(*node),
        };
        let agree = match members.as_slice() {
            [only] => *only == self.node,
            members => most_agree(&members.iter().map(offset).collect::<Vec<_>>(), self.offset_max),
        };
        agree.then(|| self.clock.wall())
    }
}
