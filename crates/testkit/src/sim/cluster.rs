//! Machines, the network between them, and everything that can be done to them.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use holdfast_client::{Client, Doors};
use holdfast_env::sim::{Random, SimClock, SimEntropy, SimTime};
use holdfast_node::Node;

use super::clock::HostClock;
use super::machine::{Machine, Standing};
use super::net::SimNet;
use super::options::Options;
use super::process::Seeded;
use super::trace::Trace;

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
    /// Links between machines that are not up, the lower number first.
    links: BTreeMap<(usize, usize), LinkState>,
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
            time,
            trace,
            process,
            latency_max: options.network_latency_max,
            random,
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
            net: Arc::new(SimNet),
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
    /// [`Violation`]: a node ended by itself, or a task of the simulation failed.
    pub fn step(&mut self) -> Result<(), Violation> {
        let elapsed = self.sim.elapsed();
        self.process.set_elapsed(elapsed);
        self.time.advance_to(elapsed);
        self.trace.set_now(elapsed);
        self.sim.step().map_err(|error| Violation(format!("the simulation broke: {error}")))?;
        for machine in &self.machines {
            if let Standing::Ended(reason) = machine.standing() {
                return Err(Violation(format!("{} {reason}", machine.name)));
            }
        }
        Ok(())
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
        let name = self.machines[machine].name.clone();
        for client in &self.clients {
            self.sim.partition(name.as_str(), client.as_str());
        }
        for other in (0..self.nodes()).filter(|other| *other != machine) {
            self.apply_link(machine, other, LinkState::Cut);
        }
        self.sim.crash(name.as_str());
        for client in &self.clients {
            self.sim.repair(name.as_str(), client.as_str());
        }
        for other in (0..self.nodes()).filter(|other| *other != machine) {
            let link = (machine.min(other), machine.max(other));
            self.apply_link(machine, other, LinkState::Up);
            if let Some(state) = self.links.get(&link) {
                self.apply_link(machine, other, *state);
            }
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
            for &b in b {
                if a != b {
                    self.links.insert((a.min(b), a.max(b)), state);
                    self.apply_link(a, b, state);
                }
            }
        }
    }

    /// Repairs all links between machines; what was held arrives.
    pub fn repair_links(&mut self) {
        for ((a, b), _) in std::mem::take(&mut self.links) {
            self.apply_link(a, b, LinkState::Up);
        }
    }

    fn apply_link(&mut self, a: usize, b: usize, state: LinkState) {
        let name = |machine: usize| self.machines[machine].name.as_str();
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

    /// A segment between two machines takes at most `latency` from now on; what it was before.
    pub fn set_latency(&mut self, a: usize, b: usize, latency: Duration) -> Duration {
        let (a, b) = (self.machines[a].name.as_str(), self.machines[b].name.as_str());
        self.sim.set_link_max_message_latency(a, b, latency);
        self.latency_max
    }

    /// How many ranges a machine's node leads.
    pub fn led_by(&self, machine: usize) -> usize {
        let status = self.node(machine).map(|node| node.status());
        let replicas = status.map(|status| status.replicas).unwrap_or_default();
        replicas.iter().filter(|replica| replica.role == "leader").count()
    }

    /// Whether all replicas of every range have applied the same entries.
    pub fn replicas_agree(&self) -> bool {
        let mut ranges = BTreeMap::new();
        (0..self.nodes()).all(|machine| {
            let Some(node) = self.node(machine) else { return false };
            let hosted = node.registry().hosted();
            hosted.iter().all(|(range, hosted)| {
                let index = hosted.replica.reader().point().index;
                *ranges.entry(*range).or_insert(index) == index
            })
        })
    }

    /// Compares the whole state of replicas that have applied the same entries.
    ///
    /// # Errors
    /// [`Violation`]: two of them differ, or one cannot be read.
    pub fn compare_replicas(&self) -> Result<(), Violation> {
        let mut states = BTreeMap::new();
        for machine in 0..self.nodes() {
            let Some(node) = self.node(machine) else { continue };
            for (range, hosted) in node.registry().hosted().iter() {
                let (reader, name) = (hosted.replica.reader(), format!("n{}", machine + 1));
                let index = reader.point().index;
                let hash = reader.state_hash();
                let hash =
                    hash.map_err(|error| Violation(format!("{range} of {name}: {error}")))?;
                let (other, first) =
                    states.entry((*range, index)).or_insert_with(|| (name.clone(), hash));
                if *first != hash {
                    let text = format!("{range} at {index:?} differs between {other} and {name}");
                    return Err(Violation(text));
                }
            }
        }
        self.say(format_args!("{} states are equal", states.len()));
        Ok(())
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

    /// Whether the disk of a machine still holds anything: a check of the harness itself.
    pub fn disk_operations(&self, machine: usize) -> u64 {
        self.machines[machine].disk().counters().operations
    }
}
