//! Engines and a journal on one disk, worked with as replicas do: entries are appended, applied
//! once somebody says that they are committed (which may be before they are durable here), flushed
//! behind the gate, purged behind the flush; snapshots are installed, replicas come and go.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::Disk;
use holdfast_env::sim::{Random, SimClock, SimDisk, SimEntropy, SimTime};
use holdfast_journal::{
    Done, Entry, Error as JournalError, GroupId, Journal, JournalOptions, LogPosition, Step, Writer,
};
use holdfast_lsm::{
    Completed, Durable, Engine, EngineOptions, Error as EngineError, Shared, SharedOptions, Staging,
};
use holdfast_model::{RangeId, ReplicaId, Revision};

use crate::camera::{Camera, KEEP_PERCENT};
use crate::campaign::Sums;
use crate::command::Command;
use crate::harness::{Model, try_check};
use crate::options::{self, pick};
use crate::probe;
use crate::rig::{DIR, open_on};

/// Steps of a run, at least; at most twice as many.
const STEPS_MIN: u64 = 90;
/// Most replicas of a node.
const REPLICAS_MAX: usize = 3;
/// Most rounds of the writer or of jobs until something comes to rest.
const ROUNDS_MAX: usize = 10_000;

/// See the module.
pub fn run(seed: u64) -> Sums {
    let disk = SimDisk::new();
    let known = Arc::new(Mutex::new(Vec::new()));
    let mut random = Random::new(seed);
    let percent = pick(&mut random, &[100, 40]);
    let mut camera = film(&disk, percent, seed, &known);
    let mut node = Node::open(disk, random, known, seed.is_multiple_of(4)).unwrap();
    let mut sums = Sums::default();
    for _ in 0..STEPS_MIN + node.random.below(STEPS_MIN) {
        let before = node.disk.clone();
        node.step().unwrap();
        for image in camera.develop() {
            let claims = &image.claim;
            let found = probe::inspect(&node, &image.disk, claims);
            found.unwrap_or_else(|noticed| panic!("{}: {noticed}", image.what));
            image.count_in(&mut sums);
            if node.random.below(16) == 0 {
                // What opening showed is durable.
                let again = image.disk.crash(0, seed);
                let found = probe::inspect(&node, &again, claims);
                found.unwrap_or_else(|noticed| panic!("{}, again: {noticed}", image.what));
                sums.images += 1;
            }
        }
        if std::mem::take(&mut node.was_reopened) {
            before.unwatch();
            camera = film(&node.disk, percent, node.random.u64(), &node.known);
        }
    }
    sums
}

fn film(
    disk: &SimDisk,
    percent: u8,
    seed: u64,
    known: &Arc<Mutex<Vec<Known>>>,
) -> Camera<Vec<Claim>> {
    let known = known.clone();
    Camera::on(disk, percent, seed, move || claims(&known))
}

/// What is promised now.
pub fn claims(known: &Mutex<Vec<Known>>) -> Vec<Claim> {
    known.lock().unwrap().iter().map(Known::now).collect()
}

/// Why a step ended early.
#[derive(Debug)]
pub enum Stop {
    Engine(EngineError),
    Journal(JournalError),
    /// The journal says that it is damaged.
    Hit,
}

impl From<EngineError> for Stop {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<JournalError> for Stop {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

/// How far a replica's life is.
pub mod stage {
    pub const CREATING: u64 = 0;
    pub const LIVE: u64 = 1;
    pub const ENDING: u64 = 2;
    pub const GONE: u64 = 3;
}

/// What somebody was told about a replica, readable at any moment.
#[derive(Clone)]
pub struct Known {
    pub group: GroupId,
    pub stage: Arc<AtomicU64>,
    /// Last index of which the append was acknowledged.
    pub acked: Arc<AtomicU64>,
    pub vote: Arc<AtomicU64>,
    /// Last index applied.
    pub applied: Arc<AtomicU64>,
    /// Index of the engine's durable point.
    pub durable: Arc<AtomicU64>,
    /// Index of a snapshot that may be in place while the journal does not know it yet.
    pub installing: Arc<AtomicU64>,
}

impl Known {
    fn new(group: GroupId) -> Self {
        let [stage, acked, vote, applied, durable, installing] = Default::default();
        Self { group, stage, acked, vote, applied, durable, installing }
    }

    fn now(&self) -> Claim {
        let load = |of: &Arc<AtomicU64>| of.load(Ordering::SeqCst);
        Claim {
            group: self.group,
            stage: load(&self.stage),
            acked: load(&self.acked),
            vote: load(&self.vote),
            applied: load(&self.applied),
            durable: load(&self.durable),
            installing: load(&self.installing),
        }
    }
}

/// [`Known`] at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub group: GroupId,
    pub stage: u64,
    pub acked: u64,
    pub vote: u64,
    pub applied: u64,
    pub durable: u64,
    pub installing: u64,
}

/// One replica.
pub struct Replica {
    pub known: Known,
    pub dir: PathBuf,
    pub engine: Engine,
    /// The state after `history`.
    pub model: Model,
    /// Everything applied, from index 1 on.
    pub history: Vec<Entry>,
    /// Appended and not applied yet.
    pub ahead: Vec<Entry>,
    /// What once stood in the log and was removed, in this step and before.
    pub just_replaced: Vec<Entry>,
    pub replaced: Vec<Entry>,
    term: u64,
    pub votes: u64,
    /// Where the journal has to be durable for a snapshot to be known to it.
    installed_gate: Option<u64>,
    /// Counts truncations: an older append is no promise any more.
    epoch: Arc<AtomicU64>,
}

impl Replica {
    pub fn applied(&self) -> u64 {
        self.history.len() as u64
    }

    fn last(&self) -> u64 {
        self.applied() + self.ahead.len() as u64
    }

    fn fresh(&mut self, random: &mut Random, is_uniform: bool, index: u64) -> Entry {
        self.term += u64::from(random.below(8) == 0);
        let position = LogPosition { term: self.term, leader: 1, index };
        Entry { position, payload: Command::random(random, is_uniform).encode() }
    }
}

/// The whole.
pub struct Node {
    pub disk: SimDisk,
    pub random: Random,
    pub known: Arc<Mutex<Vec<Known>>>,
    pub replicas: Vec<Replica>,
    pub engine_options: EngineOptions,
    pub journal_options: JournalOptions,
    pub journal: Arc<Journal>,
    pub was_reopened: bool,
    /// Whether processes end and begin in between.
    pub is_restarted: bool,
    writer: Writer,
    clock: Arc<SimClock>,
    shared: Arc<Shared>,
    is_uniform: bool,
    next_replica: u64,
}

/// The caches of a node are small, so that most reads go to the disk.
fn shared() -> Arc<Shared> {
    let options = SharedOptions { cache_bytes: 16 << 10, open_files_max: 8, ..<_>::default() };
    Arc::new(Shared::new(options).unwrap())
}

/// Opens an engine that waits for `journal`.
fn open_engine(
    disk: &SimDisk,
    dir: &Path,
    journal: &Arc<Journal>,
    shared: &Arc<Shared>,
    (options, seed): (&EngineOptions, u64),
) -> Result<Engine, EngineError> {
    let journal = journal.clone();
    let durable: Durable = Arc::new(move || journal.durable());
    let (disk, entropy) = (Arc::new(disk.clone()), Arc::new(SimEntropy::new(seed)));
    Engine::open(disk, entropy, dir, shared.clone(), durable, options.clone())
}

impl Node {
    /// A new node on an empty disk.
    pub fn open(
        disk: SimDisk,
        mut random: Random,
        known: Arc<Mutex<Vec<Known>>>,
        is_uniform: bool,
    ) -> Result<Self, Stop> {
        let engine_options = options::engine(&mut random);
        let journal_options = options::journal(&mut random);
        for dir in ["/data", DIR] {
            disk.create_dir_all(Path::new(dir)).expect("an empty disk takes a directory");
        }
        disk.sync_dir(Path::new("/")).expect("an empty disk syncs");
        let clock = Arc::new(SimClock::new(SimTime::new()));
        let (journal, writer, _) = open_on(
            Arc::new(disk.clone()),
            clock.clone(),
            Path::new(DIR),
            journal_options.clone(),
            random.u64(),
        )?;
        let replicas = Vec::new();
        let mut node = Self {
            disk,
            random,
            known,
            replicas,
            engine_options,
            journal_options,
            journal,
            was_reopened: false,
            is_restarted: true,
            writer,
            clock,
            shared: shared(),
            is_uniform,
            next_replica: 1,
        };
        node.create()?;
        Ok(node)
    }

    /// One piece of random work.
    pub fn step(&mut self) -> Result<(), Stop> {
        let at = self.random.below(self.replicas.len() as u64) as usize;
        for replica in &mut self.replicas {
            replica.replaced.append(&mut replica.just_replaced);
        }
        match self.random.below(100) {
            0..24 => self.append(at)?,
            24..42 => self.apply(at)?,
            42..58 => drop(self.writer.step()?),
            58..61 => self.rest()?,
            61..63 => self.truncate(at)?,
            63..66 => self.vote(at)?,
            66..70 => self.replicas[at].engine.seal(),
            70..80 => self.job(at)?,
            80..83 => self.work(at)?,
            83..88 => self.purge(at)?,
            88..91 => self.move_watermark(at),
            91..93 => self.create()?,
            93 => self.destroy(at)?,
            94..96 => self.install(at)?,
            96 if self.is_restarted => self.adopt(self.disk.kill())?,
            97 if self.is_restarted => {
                let keep = pick(&mut self.random, &KEEP_PERCENT);
                let image = self.disk.crash(keep, self.random.u64());
                self.adopt(image)?;
            }
            _ => try_check(&self.replicas[at].engine, &self.replicas[at].model)?,
        }
        self.note_progress();
        Ok(())
    }

    /// Notes what became durable.
    fn note_progress(&mut self) {
        let durable = self.journal.durable();
        for replica in &mut self.replicas {
            let index = replica.engine.durable_point().index.0;
            replica.known.durable.store(index, Ordering::SeqCst);
            if replica.installed_gate.take_if(|gate| *gate <= durable).is_some() {
                replica.known.installing.store(0, Ordering::SeqCst);
            }
        }
    }

    fn append(&mut self, at: usize) -> Result<(), Stop> {
        let replica = &mut self.replicas[at];
        let first = replica.last() + 1;
        let count = 1 + self.random.below(3);
        let fresh = |index| replica.fresh(&mut self.random, self.is_uniform, index);
        let entries: Vec<Entry> = (first..first + count).map(fresh).collect();
        let done = acknowledge(replica, first + count - 1);
        match self.journal.append(replica.known.group, entries.clone(), done) {
            Err(JournalError::Full { .. }) => return self.make_room(),
            result => result?,
        }
        replica.ahead.extend(entries);
        Ok(())
    }

    /// Makes engines durable and purges, so that segments become free.
    fn make_room(&mut self) -> Result<(), Stop> {
        self.rest()?;
        for at in 0..self.replicas.len() {
            self.replicas[at].engine.seal();
            self.work(at)?;
            self.purge(at)?;
        }
        self.rest()
    }

    fn apply(&mut self, at: usize) -> Result<(), Stop> {
        let gate = self.journal.logical_end();
        let replica = &mut self.replicas[at];
        let count = self.random.below(replica.ahead.len() as u64 + 1) as usize;
        for entry in replica.ahead.drain(..count) {
            let command = Command::decode(entry.payload.clone());
            command.apply(&replica.engine, entry.position.index, gate)?;
            command.apply_to_model(&mut replica.model, entry.position.index);
            replica.history.push(entry);
        }
        replica.known.applied.store(replica.applied(), Ordering::SeqCst);
        Ok(())
    }

    /// Lets the writer come to rest, and the mark be written.
    pub fn rest(&mut self) -> Result<(), Stop> {
        self.settle()?;
        self.clock.advance(Duration::from_millis(10));
        self.settle()
    }

    fn settle(&mut self) -> Result<(), Stop> {
        for _ in 0..ROUNDS_MAX {
            if let Step::Idle { .. } = self.writer.step()? {
                return Ok(());
            }
        }
        panic!("the writer never comes to rest");
    }

    /// Steps until everything queued is durable.
    fn sync(&mut self) -> Result<(), Stop> {
        while self.journal.durable() < self.journal.logical_end() {
            if let Step::Idle { .. } = self.writer.step()? {
                // A purge rides along with the next mark.
                self.clock.advance(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    fn truncate(&mut self, at: usize) -> Result<(), Stop> {
        let replica = &mut self.replicas[at];
        let kept = self.random.below(replica.ahead.len() as u64 + 1) as usize;
        let last = replica.applied() + kept as u64;
        // From now on older acknowledgements say nothing about what was removed.
        replica.epoch.fetch_add(1, Ordering::SeqCst);
        replica.known.acked.fetch_min(last, Ordering::SeqCst);
        replica.term += 1;
        replica.just_replaced.extend(replica.ahead.drain(kept..));
        self.journal.truncate_after(replica.known.group, Some(last), Box::new(|_| {}))?;
        Ok(())
    }

    fn vote(&mut self, at: usize) -> Result<(), Stop> {
        let replica = &mut self.replicas[at];
        replica.votes += 1;
        let (vote, known) = (replica.votes, replica.known.vote.clone());
        let done: Done = Box::new(move |result| {
            if result.is_ok() {
                known.fetch_max(vote, Ordering::SeqCst);
            }
        });
        let bytes = Bytes::copy_from_slice(&vote.to_le_bytes());
        Ok(self.journal.save_vote(replica.known.group, bytes, done)?)
    }

    fn job(&mut self, at: usize) -> Result<(), Stop> {
        match self.replicas[at].engine.next_job().map(holdfast_lsm::Job::run) {
            // Without space nothing happened; the same work is handed out again.
            Some(Err(error)) if !error.is_no_space() => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn work(&mut self, at: usize) -> Result<(), Stop> {
        self.sync()?;
        for _ in 0..ROUNDS_MAX {
            let Some(job) = self.replicas[at].engine.next_job() else { return Ok(()) };
            match job.run() {
                Err(error) if error.is_no_space() => return Ok(()),
                result => result?,
            }
        }
        panic!("jobs never end");
    }

    fn purge(&mut self, at: usize) -> Result<(), Stop> {
        let replica = &self.replicas[at];
        let upto = replica.engine.durable_point().index.0;
        let upto = upto - self.random.below(upto.min(4) + 1);
        if let Some(position) = self.journal.position(replica.known.group, upto) {
            self.journal.purge(replica.known.group, position)?;
        }
        Ok(())
    }

    fn move_watermark(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        let revision = self.random.below(replica.model.point.revision.0 + 1);
        replica.model.watermark = replica.model.watermark.max(revision);
        replica.engine.set_watermark(Revision(revision));
    }

    fn create(&mut self) -> Result<(), Stop> {
        if self.replicas.len() >= REPLICAS_MAX {
            return Ok(());
        }
        let number = self.next_replica;
        let group = GroupId { range: RangeId(number), replica: ReplicaId(1_000 + number) };
        let known = Known::new(group);
        let stage = known.stage.clone();
        self.known.lock().unwrap().push(known.clone());
        let done: Done = Box::new(move |result| {
            if result.is_ok() {
                stage.store(stage::LIVE, Ordering::SeqCst);
            }
        });
        match self.journal.create_group(group, Bytes::new(), done) {
            Err(JournalError::Full { .. }) => return Ok(()),
            result => result?,
        }
        self.next_replica += 1;
        self.sync()?;
        let dir = PathBuf::from(format!("/data/r{number}"));
        let settings = (&self.engine_options, self.random.u64());
        let engine = open_engine(&self.disk, &dir, &self.journal, &self.shared, settings)?;
        self.replicas.push(Replica {
            known,
            dir,
            engine,
            model: Model::default(),
            history: Vec::new(),
            ahead: Vec::new(),
            just_replaced: Vec::new(),
            replaced: Vec::new(),
            term: 1,
            votes: 0,
            installed_gate: None,
            epoch: Arc::default(),
        });
        Ok(())
    }

    fn destroy(&mut self, at: usize) -> Result<(), Stop> {
        if self.replicas.len() == 1 {
            return Ok(());
        }
        let replica = &self.replicas[at];
        let stage = replica.known.stage.clone();
        stage.store(stage::ENDING, Ordering::SeqCst);
        replica.engine.destroy()?;
        let done: Done = Box::new(move |result| {
            if result.is_ok() {
                stage.store(stage::GONE, Ordering::SeqCst);
            }
        });
        self.journal.destroy_group(replica.known.group, done)?;
        self.sync()?;
        self.replicas.remove(at);
        Ok(())
    }

    /// A snapshot of a replica that is further on takes the place of everything.
    fn install(&mut self, at: usize) -> Result<(), Stop> {
        let donor = self.donor(at);
        let snapshot = donor.engine.pin();
        let dir = PathBuf::from("/data/staging");
        let staging = Staging::create(Arc::new(self.disk.clone()), &dir, snapshot.manifest());
        let staging = match staging {
            Err(error) if error.is_no_space() => return Ok(()),
            other => other?,
        };
        for (number, file) in snapshot.files().iter().enumerate() {
            let chunk = snapshot.read_chunk(number, 0, 1 << 20)?;
            staging.write(&file.name, 0, &chunk)?;
        }
        // What was damaged on its way is written again another time.
        let Completed::Verified(files) = staging.complete()? else { return Ok(()) };
        let replica = &mut self.replicas[at];
        let applied = replica.applied();
        replica.epoch.fetch_add(1, Ordering::SeqCst);
        replica.known.acked.fetch_min(applied, Ordering::SeqCst);
        replica.just_replaced.append(&mut replica.ahead);
        let group = replica.known.group;
        self.journal.truncate_after(group, Some(applied), Box::new(|_| {}))?;
        self.sync()?;
        let gate = self.journal.logical_end();
        let replica = &mut self.replicas[at];
        let index = donor.model.point.index.0;
        replica.known.installing.store(index, Ordering::SeqCst);
        // Images of this very moment are compared with the new state, too.
        replica.model = donor.model;
        replica.history = donor.history;
        replica.term = donor.term;
        replica.engine.switch_to(&files, gate)?;
        replica.known.applied.store(index, Ordering::SeqCst);
        let position = replica.history.last().expect("a donor has a state").position;
        self.journal.purge(group, position)?;
        replica.installed_gate = Some(self.journal.logical_end());
        Ok(try_check(&replica.engine, &replica.model)?)
    }

    /// A replica that applied the same and some more, on a disk of its own, flushed.
    fn donor(&mut self, at: usize) -> Replica {
        let disk = SimDisk::new();
        let of = &self.replicas[at];
        let dir = PathBuf::from("/donor");
        let settings = (&self.engine_options, self.random.u64());
        let engine = open_engine(&disk, &dir, &self.journal, &self.shared, settings).unwrap();
        let mut donor = Replica {
            known: Known::new(of.known.group),
            dir,
            engine,
            model: Model { watermark: of.model.watermark, ..Model::default() },
            history: Vec::new(),
            ahead: of.history.clone(),
            just_replaced: Vec::new(),
            replaced: Vec::new(),
            term: of.term,
            votes: 0,
            installed_gate: None,
            epoch: Arc::default(),
        };
        for _ in 0..1 + self.random.below(12) {
            let index = donor.last() + 1;
            let entry = donor.fresh(&mut self.random, self.is_uniform, index);
            donor.ahead.push(entry);
        }
        for entry in std::mem::take(&mut donor.ahead) {
            let command = Command::decode(entry.payload.clone());
            command.apply(&donor.engine, entry.position.index, 0).unwrap();
            command.apply_to_model(&mut donor.model, entry.position.index);
            donor.history.push(entry);
            if self.random.below(12) == 0 {
                donor.engine.seal();
            }
        }
        donor.engine.seal();
        while let Some(job) = donor.engine.next_job() {
            job.run().unwrap();
        }
        assert_eq!(donor.engine.durable_point(), donor.model.point);
        donor
    }

    /// Ends the process and begins another on `disk`: engines are opened and the log is applied
    /// again as far as it is known.
    fn adopt(&mut self, disk: SimDisk) -> Result<(), Stop> {
        self.was_reopened = true;
        self.disk = disk;
        self.shared = shared();
        let (journal, writer, recovery) = open_on(
            Arc::new(self.disk.clone()),
            self.clock.clone(),
            Path::new(DIR),
            self.journal_options.clone(),
            self.random.u64(),
        )?;
        if !recovery.hit.is_empty() || !recovery.damage.is_empty() {
            return Err(Stop::Hit);
        }
        (self.journal, self.writer) = (journal, writer);
        for at in 0..self.replicas.len() {
            self.take_up(at)?;
        }
        Ok(())
    }

    /// Goes on with a replica after the process ended.
    fn take_up(&mut self, at: usize) -> Result<(), Stop> {
        let settings = (&self.engine_options, self.random.u64());
        let replica = &mut self.replicas[at];
        let dir = &replica.dir;
        replica.engine = open_engine(&self.disk, dir, &self.journal, &self.shared, settings)?;
        let group = replica.known.group;
        let point = replica.engine.durable_point();
        let state = self.journal.log_state(group);
        if state.last.map_or(0, |last| last.index) < point.index.0 {
            // A snapshot was in place before the log knew.
            let position = replica.history[point.index.0 as usize - 1].position;
            self.journal.purge(group, position)?;
            replica.installed_gate = Some(self.journal.logical_end());
        } else {
            replica.installed_gate = None;
            replica.known.installing.store(0, Ordering::SeqCst);
        }
        let last = self.journal.log_state(group).last.map_or(0, |last| last.index);
        let last = last.max(point.index.0);
        let acked = replica.known.acked.load(Ordering::SeqCst);
        assert!(last >= acked, "{group}: entry {acked} was acknowledged, {last} is the last");
        let found = self.journal.read(group, point.index.0 + 1..last + 1, u64::MAX)?;
        replica.model.fall_back(point);
        try_check(&replica.engine, &replica.model)?;
        let again = (replica.applied().min(last) - point.index.0) as usize;
        replica.history.truncate(point.index.0 as usize);
        replica.epoch.fetch_add(1, Ordering::SeqCst);
        let gate = self.journal.logical_end();
        for entry in &found[..again] {
            let command = Command::decode(entry.payload.clone());
            command.apply(&replica.engine, entry.position.index, gate)?;
            command.apply_to_model(&mut replica.model, entry.position.index);
            replica.history.push(entry.clone());
        }
        replica.known.applied.store(replica.applied(), Ordering::SeqCst);
        replica.replaced.clear();
        replica.ahead = found[again..].to_vec();
        replica.term = found.last().map_or(replica.term, |e| e.position.term.max(replica.term));
        Ok(())
    }
}

/// Remembers that the entries up to `last` were acknowledged, unless they were removed meanwhile.
fn acknowledge(replica: &Replica, last: u64) -> Done {
    let (known, epoch) = (replica.known.acked.clone(), replica.epoch.clone());
    let at = epoch.load(Ordering::SeqCst);
    Box::new(move |result| {
        if result.is_ok() && epoch.load(Ordering::SeqCst) == at {
            known.fetch_max(last, Ordering::SeqCst);
        }
    })
}
