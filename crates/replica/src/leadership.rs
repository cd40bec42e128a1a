//! Who leads, as this replica knows, and the clock of its own leadership.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_env::{Clock, defect};
use holdfast_model::{NodeId, ReplicaId, Term};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::raft::types::Membership;
use crate::range_time::{Heard, RangeTime, most_agree};

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

/// Range time, as far as this replica knows.
#[derive(Default)]
struct Times {
    /// The running clock of this leadership.
    running: Option<RangeTime>,
    /// What others told since this process began, or this replica knew when it led last.
    heard: Option<Heard>,
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
    /// A lock, because leadership changes on another task than the one that stamps; never held
    /// across an await.
    times: Mutex<Times>,
    /// Range clock and monotonic time of the last apply, so that a leader that has heard of none
    /// goes on from there.
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
            times: Mutex::default(),
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

    /// Takes what openraft says now. A term of our own begins with the time that was heard last.
    pub(crate) fn update(&self, info: LeaderInfo, membership: &Membership) {
        let voters: Vec<_> = membership.voter_ids().collect();
        let host = |id: &ReplicaId| membership.get_node(id).map(|host| host.0);
        *self.members.lock() = voters.iter().filter_map(host).collect();
        let before = self.info();
        let leads = info.role == Role::Leader;
        if !(leads && before.role == Role::Leader && before.term == info.term) {
            self.change_clock(before.term, leads);
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
        let mut times = self.times.lock();
        if defect!(TTL_BY_LOCAL_CLOCK) && times.running.is_some() {
            return u64::try_from(self.clock.wall().as_millis()).ok();
        }
        times.running.as_mut().map(|time| time.now_ms(monotonic, wall).max(applied))
    }

    /// What this leader tells its followers of its clock; 0 while it does not lead. Costs less than
    /// a stamp.
    pub(crate) fn told_ms(&self) -> u64 {
        let applied = self.applied_clock_ms.load(Ordering::Acquire);
        let now = self.clock.monotonic();
        self.times.lock().running.as_ref().map_or(0, |time| time.at_ms(now).max(applied))
    }

    /// The leader of `term` said that it is `clock_ms`; 0 where it said nothing of that.
    pub(crate) fn heard(&self, term: Term, clock_ms: u64) {
        if clock_ms == 0 {
            return;
        }
        let told = Heard::new(term, clock_ms, self.clock.monotonic());
        let heard = &mut self.times.lock().heard;
        *heard = Some(heard.map_or(told, |before| before.and_then(told)));
    }

    /// The range clock after the last apply.
    pub(crate) fn applied_ms(&self) -> u64 {
        self.applied_clock_ms.load(Ordering::Acquire)
    }

    /// Notes the range clock after an apply.
    pub(crate) fn applied(&self, clock_ms: u64) {
        let now = u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX);
        self.applied_clock_ms.store(clock_ms, Ordering::Release);
        self.applied_at_nanos.store(now, Ordering::Release);
    }

    /// Ends the clock of a leadership in term `before`, if there was one, and begins the next.
    fn change_clock(&self, before: Term, leads: bool) {
        let (now, wall) = (self.clock.monotonic(), self.agreed_wall());
        let clock_ms = self.applied_clock_ms.load(Ordering::Acquire);
        let mut times = self.times.lock();
        if let Some(ended) = times.running.take() {
            // Who leads by now may have been heard already; it knows better.
            let known = Heard::new(before, ended.at_ms(now).max(clock_ms), now);
            times.heard.get_or_insert(known);
        }
        if leads {
            times.running = Some(match times.heard.take() {
                Some(heard) => RangeTime::go_on(clock_ms, heard, now),
                None => {
                    let applied_at = self.applied_at_nanos.load(Ordering::Acquire);
                    let since = now.saturating_sub(Duration::from_nanos(applied_at));
                    RangeTime::start(clock_ms, since, now, wall, self.offset_max)
                }
            });
        }
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use holdfast_env::sim::{SimClock, SimTime};

    use super::*;
    use crate::raft::types::Host;

    const OFFSET: Duration = Duration::from_millis(500);
    const SECOND_MS: u64 = 1_000;

    /// Everybody's wall clock agrees with ours.
    struct Agreed;

    impl WallClocks for Agreed {
        fn offset_ms(&self, _: NodeId) -> Option<i64> {
            Some(0)
        }
    }

    struct Rig {
        clock: Arc<SimClock>,
        leadership: Leadership,
        membership: Membership,
    }

    impl Rig {
        fn new() -> Self {
            let clock = Arc::new(SimClock::new(SimTime::new()));
            let nodes: BTreeMap<_, _> = (1..=3).map(|n| (ReplicaId(n), Host(NodeId(n)))).collect();
            let voters: BTreeSet<_> = nodes.keys().copied().collect();
            let membership = Membership::new(vec![voters], nodes).unwrap();
            let walls = Arc::new(Agreed);
            let leadership = Leadership::new(clock.clone(), NodeId(1), OFFSET, walls);
            Self { clock, leadership, membership }
        }

        fn is(&self, role: Role, term: u64) {
            let info = LeaderInfo { role, leader: None, term: Term(term) };
            self.leadership.update(info, &self.membership);
        }

        fn wall_ms(&self) -> u64 {
            u64::try_from(self.clock.wall().as_millis()).unwrap()
        }

        fn stamp_ms(&self) -> u64 {
            self.leadership.stamp_ms().expect("this replica leads")
        }
    }

    #[test]
    fn a_leader_that_has_heard_of_none_starts_near_the_wall_clock() {
        let rig = Rig::new();
        rig.leadership.applied(7 * SECOND_MS);
        rig.is(Role::Leader, 1);
        assert_eq!(rig.stamp_ms(), rig.wall_ms() - 500);
        assert_eq!(rig.leadership.told_ms(), rig.stamp_ms());
    }

    #[test]
    fn a_leader_that_has_heard_another_goes_on_from_there_whatever_the_wall_clock_says() {
        let rig = Rig::new();
        rig.leadership.heard(Term(1), 9 * SECOND_MS);
        rig.leadership.applied(7 * SECOND_MS);
        rig.clock.advance(Duration::from_secs(2));
        rig.leadership.heard(Term(1), 0);
        rig.is(Role::Leader, 2);
        assert_eq!(rig.stamp_ms(), 11 * SECOND_MS);
    }

    #[test]
    fn a_leader_that_led_before_goes_on_from_its_own_time() {
        let rig = Rig::new();
        rig.leadership.heard(Term(1), 9 * SECOND_MS);
        rig.is(Role::Leader, 2);
        rig.clock.advance(Duration::from_secs(1));
        rig.is(Role::Follower, 2);
        assert_eq!((rig.leadership.stamp_ms(), rig.leadership.told_ms()), (None, 0));
        rig.clock.advance(Duration::from_secs(1));
        rig.is(Role::Leader, 3);
        rig.clock.advance(Duration::from_secs(1));
        rig.is(Role::Leader, 5);
        assert_eq!(rig.stamp_ms(), 12 * SECOND_MS);
    }

    #[test]
    fn a_deposed_leader_takes_the_word_of_the_next() {
        let rig = Rig::new();
        rig.leadership.heard(Term(1), 9 * SECOND_MS);
        rig.is(Role::Leader, 2);
        rig.clock.advance(Duration::from_secs(5));
        // It hears of the next before it knows that it is deposed.
        rig.leadership.heard(Term(3), 11 * SECOND_MS);
        rig.is(Role::Follower, 3);
        rig.clock.advance(Duration::from_secs(1));
        rig.is(Role::Leader, 4);
        assert_eq!(rig.stamp_ms(), 12 * SECOND_MS);
    }
}
