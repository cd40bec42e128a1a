//! A state machine on an engine on a simulated disk, fed by a log that is kept.

use std::path::Path;
use std::sync::Arc;

use holdfast_env::sim::{SimDisk, SimEntropy};
use holdfast_kv::command::{Command, Configure, Envelope};
use holdfast_kv::{ApplyResult, Kind, LogEntry, LogPosition, Outcome, Reader, StateMachine};
use holdfast_lsm::{Engine, EngineOptions, Shared, SharedOptions};
use holdfast_model::{History, KeyspaceId, LogIndex, RangeEpoch, RangeId, ReplicaId, Span, Term};
use prost::Message;

/// A range with everything around it that a test needs.
pub struct World {
    pub disk: SimDisk,
    pub machine: StateMachine,
    /// Every entry ever applied, from index 1 on.
    pub log: Vec<LogEntry>,
    pub clock_ms: u64,
}

impl World {
    /// A range that was never configured.
    pub fn bare() -> Self {
        let disk = SimDisk::new();
        let machine = open(&disk);
        Self { disk, machine, log: Vec::new(), clock_ms: 1_000 }
    }

    /// A range that owns the whole ring and keeps all history.
    pub fn new() -> Self {
        let mut world = Self::bare();
        world.one(configure(Span::ALL, 1, History::Manual));
        world
    }

    pub fn reader(&self) -> Reader {
        self.machine.reader()
    }

    /// Applies entries that are in the log already, cut into calls of `step` entries.
    pub fn replay(&mut self, entries: &[LogEntry], step: usize) -> Vec<ApplyResult> {
        let calls = entries.chunks(step.max(1));
        calls.map(|call| self.machine.apply(call, 0).expect("apply")).collect()
    }

    /// Appends envelopes to the log, one entry each, and applies them in one call.
    pub fn apply(&mut self, envelopes: Vec<Envelope>) -> ApplyResult {
        let from = self.log.len();
        for envelope in envelopes {
            self.append(Kind::Normal(envelope.encode_to_vec().into()));
        }
        self.machine.apply(&self.log[from..], 0).expect("apply")
    }

    pub fn append(&mut self, kind: Kind) {
        let position = position(self.log.len() as u64 + 1);
        self.log.push(LogEntry { position, kind });
    }

    /// Applies one command as one entry.
    pub fn command(&mut self, command: Command) -> Vec<Outcome> {
        let envelope = self.envelope(vec![command]);
        self.apply(vec![envelope]).outcomes.remove(0).remove(0)
    }

    /// Applies one operation as one entry.
    pub fn one(&mut self, operation: impl Into<holdfast_kv::Operation>) -> Outcome {
        self.command(Command::single(operation)).remove(0)
    }

    pub fn envelope(&self, commands: Vec<Command>) -> Envelope {
        Envelope { apply_version: 1, stamp_ms: self.clock_ms, commands }
    }

    /// Flushes everything to tables; afterwards it survives a crash.
    pub fn flush(&self) {
        self.machine.engine().seal();
        run_jobs(&self.machine);
    }

    /// The world after a power cut: what was flushed is there, the rest is applied again from the
    /// log, `step` entries at a time.
    pub fn after_power_cut(self, step: usize) -> Self {
        let disk = self.disk.crash(0, 7);
        let machine = open(&disk);
        let durable = machine.applied().position.map_or(0, |p| p.index.0);
        let mut world = Self { disk, machine, log: self.log, clock_ms: self.clock_ms };
        let rest = world.log[usize::try_from(durable).expect("index")..].to_vec();
        world.replay(&rest, step);
        world
    }
}

/// Runs what the engine has to do.
pub fn run_jobs(machine: &StateMachine) {
    while let Some(job) = machine.engine().next_job() {
        job.run().expect("job");
    }
}

pub fn open(disk: &SimDisk) -> StateMachine {
    open_with(disk, EngineOptions::default())
}

/// Opens a state machine on an engine with the smallest memtables and tables there are, so that
/// little is needed to flush and compact.
pub fn open_tiny(disk: &SimDisk) -> StateMachine {
    open_with(
        disk,
        EngineOptions {
            memtable_bytes: 4 << 10,
            block_bytes: 256,
            table_bytes: 4 << 10,
            level_base_bytes: 8 << 10,
            level_multiplier: 2,
            level0_tables: 2,
            ..EngineOptions::default()
        },
    )
}

fn open_with(disk: &SimDisk, options: EngineOptions) -> StateMachine {
    let shared = Arc::new(Shared::new(SharedOptions::default()).expect("options"));
    let engine = Engine::open(
        Arc::new(disk.clone()),
        Arc::new(SimEntropy::new(1)),
        Path::new("/r1"),
        shared,
        Arc::new(|| u64::MAX),
        options,
    );
    StateMachine::open(Arc::new(engine.expect("engine"))).expect("state machine")
}

pub fn configure(span: Span, epoch: u64, history: History) -> Configure {
    Configure::new(RangeId(1), KeyspaceId(1), span, RangeEpoch(epoch), history)
}

pub fn position(index: u64) -> LogPosition {
    LogPosition { term: Term(1), leader: ReplicaId(1_000), index: LogIndex(index) }
}
