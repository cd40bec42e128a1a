//! Machines, the network between them, and everything that can be done to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use holdfast_client::{Client, Doors};
use holdfast_env::sim::{Random, SimClock, SimDisk, SimEntropy, SimTime};
use holdfast_node::Node;

use super::brakes::Brakes;
use super::clock::HostClock;
use super::machine::{Companion, Machine, Standing};
use super::net::SimNet;
use super::options::Options;
use super::process::Seeded;
use super::trace::Trace;
use crate::history::StateHash;

/// Simulated time moves by this much at once.
const TICK: Duration = Duration::from_millis(1);
/// Segments a connection holds in each direction.
const SEGMENTS_MAX: usize = 65_536;
/// Longest simulated time of a run.
const RUN_MAX: Duration = Duration::from_secs(86_400);

/// How the link between two machines is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Segments arrive.
    Up,
    /// Segments are lost.
    Cut,
    /// Segments wait until the link is up again.
    Held,
    /// What is sent to this one of the two is lost.
    OneWay {
        /// The machine that hears nothing.
        to: usize,
    },
}

/// Why a run is bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A whole cluster on simulated network, time and disks.
pub struct Cluster {
    sim: turmoil::Sim<'static>,
    machines: Vec<Arc<Machine>>,
    /// Machines that clients run on.
    clients: Vec<String>,
    /// Links that are not up, the lower number first; clients count on after the machines.
    links: BTreeMap<(usize, usize), LinkState>,
    /// Machines that may end by themselves, for what was done to them.
    excused: BTreeSet<usize>,
    time: Arc<SimTime>,
    trace: Trace,
    process: Seeded,
    latency_max: Duration,
    /// For what needs randomness of its own: clients, power cuts.
    random: Random,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cluster({} machines)", self.machines.len())
    }
}

impl Cluster {
    pub(super) fn new(seed: u64, options: &Options, trace: Trace, process: Seeded) -> Self {
        let mut random = Random::new(seed);
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(random.u64())
            .simulation_duration(RUN_MAX)
            .tick_duration(TICK)
            .tcp_capacity(SEGMENTS_MAX)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(options.network_latency_max)
            .enable_random_order();
        let (mut sim, time) = (builder.build(), SimTime::new());
        let mut machines = Vec::new();
        for i in 1..=options.nodes {
            let name = format!("n{i}");
            let address = sim.lookup(name.as_str()).to_string();
            let machine = Machine::new(name, address, random.u64(), options, &time, &trace);
            let lives = machine.clone();
            sim.host(machine.name.as_str(), move || lives.clone().live());
            machines.push(machine);
        }
        Self {
            sim,
            machines,
            clients: Vec::new(),
            links: BTreeMap::new(),
            excused: BTreeSet::new(),
            time,
            trace,
            process,
            latency_max: options.network_latency_max,
            random,
        }
    }

    /// Takes everything away.
    ///
    /// # Errors
    /// [`Violation`] where something of a machine or a client is left in memory, whichever of its
    /// processes it belonged to: all that matters knows a clock, and all clocks the simulated time.
    pub(super) fn end(self) -> Result<(), Violation> {
        let time = self.time.clone();
        drop(self);
        match Arc::strong_count(&time) - 1 {
            0 => Ok(()),
            left => Err(Violation(format!("{left} clocks outlive their machines"))),
        }
    }

    /// How many machines there are.
    pub fn nodes(&self) -> usize {
        self.machines.len()
    }

    /// Simulated time since the start.
    pub fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    /// What a machine is doing.
    pub fn standing(&self, machine: usize) -> Standing {
        self.machines[machine].standing()
    }

    /// The node on a machine, while it is up.
    pub fn node(&self, machine: usize) -> Option<Arc<Node>> {
        self.machines[machine].node()
    }

    /// Peer addresses of all nodes.
    pub fn peer_addresses(&self) -> Vec<String> {
        self.machines.iter().map(|machine| machine.peer_address()).collect()
    }

    /// Doors for a client, and addresses to connect to.
    pub fn client_parts(&mut self) -> (Doors, Vec<String>) {
        let clock = Arc::new(SimClock::new(self.time.clone()));
        let doors = Doors {
            clock: Arc::new(HostClock { time: self.time.clone(), clock }),
            entropy: Arc::new(SimEntropy::new(self.random.u64())),
            net: Arc::new(SimNet {
                brakes: Arc::new(Brakes::new(self.time.clone())),
                trace: self.trace.clone(),
            }),
        };
        let addresses = self.machines.iter().map(|machine| machine.client_address()).collect();
        (doors, addresses)
    }

    /// Runs `work` on a machine of its own, with a client of the cluster.
    pub fn run_client<F, W>(&mut self, name: &str, deadline: Duration, work: W)
    where
        F: Future<Output = ()> + 'static,
        W: FnOnce(Client) -> F + 'static,
    {
        let (doors, addresses) = self.client_parts();
        self.clients.push(name.to_owned());
        self.sim.client(name, async move {
            let client = Client::builder(addresses).doors(doors).deadline(deadline).build()?;
            work(client).await;
            Ok(())
        });
    }

    /// One tick.
    ///
    /// # Errors
    /// [`Violation`]: a node ended by itself without [excuse](Self::excuse), or a task of the
    /// simulation failed.
    pub fn step(&mut self) -> Result<(), Violation> {
        let elapsed = self.sim.elapsed();
        self.process.set_elapsed(elapsed);
        self.time.advance_to(elapsed);
        self.trace.set_now(elapsed);
        self.sim.step().map_err(|error| Violation(format!("the simulation broke: {error}")))?;
        for (number, machine) in self.machines.iter().enumerate() {
            if let Standing::Ended(reason) = machine.standing()
                && !self.excused.contains(&number)
            {
                return Err(Violation(format!("{} {reason}", machine.name)));
            }
        }
        Ok(())
    }

    /// From now on the node of a machine may, or may no more, end by itself.
    pub fn excuse(&mut self, machine: usize, is_excused: bool) {
        if is_excused {
            self.excused.insert(machine);
        } else {
            self.excused.remove(&machine);
        }
    }

    /// Lets `duration` pass.
    ///
    /// # Errors
    /// As [`Cluster::step`].
    pub fn run_for(&mut self, duration: Duration) -> Result<(), Violation> {
        let end = self.elapsed() + duration;
        while self.elapsed() < end {
            self.step()?;
        }
        Ok(())
    }

    /// Lets time pass until `holds`, at most `limit`.
    ///
    /// # Errors
    /// [`Violation`]: `what` did not come true; or as [`Cluster::step`].
    pub fn run_until(
        &mut self,
        what: &str,
        limit: Duration,
        holds: impl Fn(&Self) -> bool,
    ) -> Result<(), Violation> {
        let end = self.elapsed() + limit;
        while !holds(self) {
            if self.elapsed() >= end {
                return Err(Violation(format!("within {limit:?} it never came true that {what}")));
            }
            self.step()?;
        }
        Ok(())
    }

    /// Adds a line about what is done to the cluster.
    pub fn say(&self, what: impl fmt::Display) {
        self.trace.say("", what);
    }

    /// Ends the process of a node at once.
    pub fn kill(&mut self, machine: usize) {
        self.say(format_args!("n{} is killed", machine + 1));
        self.machines[machine].killed();
        self.sim.crash(self.machines[machine].name.as_str());
    }

    /// Cuts the power of a machine: nobody hears of it, and of what was not synced each block
    /// stays with `keep_percent`.
    pub fn cut_power(&mut self, machine: usize, keep_percent: u8) {
        let number = machine + 1;
        self.say(format_args!("n{number} loses power, {keep_percent} % of the unsynced stays"));
        let seed = self.random.u64();
        self.machines[machine].lost_power(keep_percent, seed);
        // A crashed host of turmoil still says goodbye; a machine without power does not.
        let others: Vec<usize> = (0..self.ends()).filter(|other| *other != machine).collect();
        for other in &others {
            self.apply_link(machine, *other, LinkState::Cut);
        }
        self.sim.crash(self.machines[machine].name.as_str());
        for other in others {
            let link = (machine.min(other), machine.max(other));
            self.apply_link(machine, other, LinkState::Up);
            if let Some(state) = self.links.get(&link) {
                self.apply_link(machine, other, *state);
            }
        }
    }

    /// Takes the disk out of a machine that is down, and puts an empty one in.
    pub fn wipe(&mut self, machine: usize) {
        self.say(format_args!("the disk of n{} is replaced by an empty one", machine + 1));
        self.machines[machine].wiped();
    }

    /// Stops the process of a machine for `duration`; then it must be [resumed](Self::resume).
    pub fn pause(&mut self, machine: usize, duration: Duration) {
        self.say(format_args!("n{} is paused for {duration:?}", machine + 1));
        self.machines[machine].pause(duration);
    }

    /// Lets a paused process go on.
    pub fn resume(&mut self, machine: usize) {
        self.say(format_args!("n{} goes on", machine + 1));
        self.machines[machine].resume();
    }

    /// How many times the machine was started.
    pub fn boots(&self, machine: usize) -> u64 {
        self.machines[machine].boots()
    }

    /// Whether the node of a machine may end by itself.
    pub fn is_excused(&self, machine: usize) -> bool {
        self.excused.contains(&machine)
    }

    /// A clock that shows true time.
    pub(super) fn true_clock(&self) -> HostClock {
        let clock = Arc::new(SimClock::new(self.time.clone()));
        HostClock { time: self.time.clone(), clock }
    }

    /// Has `companion` run beside the node of every machine, from its next start on.
    pub(super) fn set_companion(&self, companion: &Companion) {
        self.machines.iter().for_each(|machine| machine.set_companion(companion.clone()));
    }

    /// The disk of a machine, to spoil.
    pub fn disk(&self, machine: usize) -> SimDisk {
        self.machines[machine].disk()
    }

    /// The brakes of a machine.
    pub(super) fn brakes(&self, machine: usize) -> &Brakes {
        &self.machines[machine].brakes
    }

    /// Ends of links: machines, then clients.
    pub fn ends(&self) -> usize {
        self.machines.len() + self.clients.len()
    }

    fn end_name(&self, end: usize) -> &str {
        match self.machines.get(end) {
            Some(machine) => &machine.name,
            None => &self.clients[end - self.machines.len()],
        }
    }

    /// Sets the state of the link between two ends.
    pub fn set_link(&mut self, a: usize, b: usize, state: LinkState) {
        let link = (a.min(b), a.max(b));
        let known = match state {
            LinkState::Up => self.links.remove(&link),
            _ => self.links.insert(link, state),
        };
        if known.unwrap_or(LinkState::Up) == state {
            return;
        }
        // What was held is let go first; one state at a time is all that turmoil knows.
        self.apply_link(a, b, LinkState::Up);
        if state != LinkState::Up {
            self.apply_link(a, b, state);
        }
    }

    /// Starts a machine that is down.
    pub fn start(&mut self, machine: usize) {
        self.say(format_args!("n{} is switched on", machine + 1));
        self.sim.bounce(self.machines[machine].name.as_str());
    }

    /// Asks a node to stop in order; it is down some time later.
    pub fn ask_to_stop(&mut self, machine: usize) {
        self.say(format_args!("n{} is asked to stop", machine + 1));
        self.machines[machine].ask_to_stop();
    }

    /// Sets the state of every link between the two groups.
    pub fn set_links(&mut self, a: &[usize], b: &[usize], state: LinkState) {
        for &a in a {
            for &b in b.iter().filter(|b| **b != a) {
                self.set_link(a, b, state);
            }
        }
    }

    /// Repairs all links; what was held arrives.
    pub fn repair_links(&mut self) {
        for ((a, b), _) in std::mem::take(&mut self.links) {
            self.apply_link(a, b, LinkState::Up);
        }
    }

    fn apply_link(&mut self, a: usize, b: usize, state: LinkState) {
        let name = |end: usize| self.end_name(end);
        match state {
            LinkState::Up => self.sim.release(name(a), name(b)),
            LinkState::Cut => self.sim.partition(name(a), name(b)),
            LinkState::Held => self.sim.hold(name(a), name(b)),
            LinkState::OneWay { to } => {
                let from = if to == a { b } else { a };
                self.sim.partition_oneway(name(from), name(to));
            }
        }
    }

    /// A segment between two ends takes at most `latency` from now on; what it was before.
    pub fn set_latency(&mut self, a: usize, b: usize, latency: Duration) -> Duration {
        self.sim.set_link_max_message_latency(self.end_name(a), self.end_name(b), latency);
        self.latency_max
    }

    /// How many ranges a machine's node leads.
    pub fn led_by(&self, machine: usize) -> usize {
        let status = self.node(machine).map(|node| node.status());
        let replicas = status.map(|status| status.replicas).unwrap_or_default();
        replicas.iter().filter(|replica| replica.role == "leader").count()
    }

    /// Whether all replicas of every range have applied the same entries, those of machines that
    /// are out left aside.
    pub fn replicas_agree(&self, is_out: impl Fn(usize) -> bool) -> bool {
        let mut ranges = BTreeMap::new();
        (0..self.nodes()).filter(|machine| !is_out(*machine)).all(|machine| {
            let Some(node) = self.node(machine) else { return false };
            let hosted = node.registry().hosted();
            hosted.iter().all(|(range, hosted)| {
                let index = hosted.replica.reader().point().index;
                *ranges.entry(*range).or_insert(index) == index
            })
        })
    }

    /// The state of every replica that runs. Where `is_suspect` says so, one that cannot be read
    /// is left out.
    ///
    /// # Errors
    /// [`Violation`]: one of another machine cannot be read.
    pub fn states(&self, is_suspect: impl Fn(usize) -> bool) -> Result<Vec<StateHash>, Violation> {
        let mut states = Vec::new();
        for machine in 0..self.nodes() {
            let Some(node) = self.node(machine) else { continue };
            for (range, hosted) in node.registry().hosted().iter() {
                let (reader, replica) = (hosted.replica.reader(), hosted.replica.options().replica);
                let index = reader.point().index.0;
                match reader.state_hash() {
                    Ok(hash) => {
                        let (range, replica) = (range.0, replica.0);
                        states.push(StateHash { range, replica, index, hash });
                    }
                    Err(holdfast_kv::Error::Unsettled) => {}
                    Err(_) if is_suspect(machine) => {}
                    Err(error) => {
                        let text = format!("{range} of n{} cannot be read: {error}", machine + 1);
                        return Err(Violation(text));
                    }
                }
            }
        }
        Ok(states)
    }

    /// Asks the node of a machine to hand over the first range it leads.
    pub fn hand_over(&mut self, machine: usize) {
        self.say(format_args!("n{} is asked to hand over", machine + 1));
        self.machines[machine].ask_to_hand_over();
    }

    /// The clock of a machine, to bend.
    pub fn clock(&self, machine: usize) -> Arc<SimClock> {
        self.machines[machine].clock()
    }
}
