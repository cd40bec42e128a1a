//! Opens a disk as the next process would and compares what is found with what was promised.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use holdfast_env::sim::{SimClock, SimDisk, SimTime};
use holdfast_journal::{Entry, Error as JournalError, Journal, Recovery};
use holdfast_lsm::{Engine, Error as EngineError};

use crate::command::Command;
use crate::harness::{Model, open_engine, try_check};
use crate::node::{Claim, Node, Replica, stage};
use crate::rig::{DIR, open_on};

/// Somebody said that something is damaged. After a mere crash that is a mistake; after damage it
/// is what was hoped for.
#[derive(Debug)]
pub struct Noticed(pub String);

impl fmt::Display for Noticed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "said to be damaged: {}", self.0)
    }
}

impl From<EngineError> for Noticed {
    fn from(error: EngineError) -> Self {
        Self(error.to_string())
    }
}

impl From<JournalError> for Noticed {
    fn from(error: JournalError) -> Self {
        Self(error.to_string())
    }
}

/// Everything promised is there, and nothing else; panics at a wrong answer.
///
/// # Errors
/// [`Noticed`]: instead of an answer there was an error, or a verdict.
pub fn inspect(node: &Node, disk: &SimDisk, claims: &[Claim]) -> Result<(), Noticed> {
    let clock = Arc::new(SimClock::new(SimTime::new()));
    let options = node.journal_options.clone();
    let opened = open_on(Arc::new(disk.clone()), clock, Path::new(DIR), options, 99)?;
    let (journal, _writer, recovery) = opened;
    // One replica that is found damaged excuses no other.
    let mut verdict = said_by(&recovery);
    for claim in claims {
        if recovery.hit.contains(&claim.group) {
            continue;
        }
        // A replica that the lost part of the journal began is missed by whoever knows that it
        // was there; that something was lost is said.
        let is_missing = claim.stage == stage::LIVE && !journal.groups().contains(&claim.group);
        if is_missing && !recovery.damage.is_empty() {
            continue;
        }
        if let Err(noticed) = inspect_replica(node, disk, &journal, claim) {
            verdict = Err(noticed);
        }
    }
    verdict
}

fn said_by(recovery: &Recovery) -> Result<(), Noticed> {
    let Recovery { hit, damage, .. } = recovery;
    match (hit.first(), damage.first()) {
        (Some(group), _) => Err(Noticed(format!("{group} is hit"))),
        (None, Some((path, offset))) => Err(Noticed(format!("{} at {offset}", path.display()))),
        (None, None) => Ok(()),
    }
}

fn inspect_replica(
    node: &Node,
    disk: &SimDisk,
    journal: &Journal,
    claim: &Claim,
) -> Result<(), Noticed> {
    let group = claim.group;
    let is_there = journal.groups().contains(&group);
    match claim.stage {
        stage::LIVE => assert!(is_there, "{group} was created and is gone"),
        stage::GONE => {
            assert!(!is_there, "{group} ended and is back");
            return Ok(());
        }
        _ => return Ok(()),
    }
    let Some(replica) = node.replicas.iter().find(|r| r.known.group == group) else {
        return Ok(());
    };
    let durable = Arc::new(AtomicU64::new(u64::MAX));
    let engine = open_engine(disk, &replica.dir, &durable, &node.engine_options, 99)?;
    let point = engine.durable_point();
    assert!(point.index.0 <= replica.applied(), "{group}: the engine made something up");
    let found = inspect_log(journal, claim, replica, point.index.0)?;
    let mut model = replica.model.clone();
    model.fall_back(point);
    try_check(&engine, &model)?;
    apply_again(&engine, &mut model, found, claim)
}

/// The entries behind the engine's `durable` index.
fn inspect_log(
    journal: &Journal,
    claim: &Claim,
    replica: &Replica,
    durable: u64,
) -> Result<Vec<Entry>, Noticed> {
    let group = claim.group;
    let state = journal.log_state(group);
    let (first, last) = (state.purged.map_or(0, |p| p.index), state.last.map_or(0, |l| l.index));
    let is_installed = claim.installing != 0 && claim.installing == durable;
    assert!(
        last >= durable || is_installed,
        "{group}: the engine is at {durable}, ahead of the journal at {last}"
    );
    if first > durable {
        let what = format!("{group}: the log is purged to {first}, the engine at {durable}");
        return Err(Noticed(what));
    }
    assert!(
        last.max(durable) >= claim.acked,
        "{group}: {} was acknowledged, {last} is the last",
        claim.acked
    );
    let vote = journal.vote(group).map_or(0, |vote| {
        u64::from_le_bytes(vote.as_ref().try_into().expect("a vote is as it was saved"))
    });
    assert!((claim.vote..=replica.votes).contains(&vote), "{group}: vote {vote}");
    if last <= durable {
        return Ok(Vec::new());
    }
    let found = journal.read(group, durable + 1..last + 1, u64::MAX)?;
    assert_eq!(found.len() as u64, last - durable, "{group}: entries are missing");
    found.iter().for_each(|entry| check_entry(entry, claim, replica));
    Ok(found)
}

/// An entry is what was appended at its index; an acknowledged one is what was appended last.
/// (What was applied and never acknowledged was durable elsewhere: here it may be missing, and
/// what a truncation removed may be back.)
fn check_entry(entry: &Entry, claim: &Claim, replica: &Replica) {
    let index = entry.position.index;
    let is_applied = replica.history.get(index as usize - 1) == Some(entry);
    let is_current =
        is_applied || replica.ahead.contains(entry) || replica.just_replaced.contains(entry);
    let is_known = is_current || replica.replaced.contains(entry);
    assert!(is_known, "{}: entry {index} was never appended", claim.group);
    assert!(index > claim.acked || is_current, "{}: entry {index} changed", claim.group);
}

/// Applies what the log holds; the answers are those of the model again.
fn apply_again(
    engine: &Engine,
    model: &mut Model,
    found: Vec<Entry>,
    claim: &Claim,
) -> Result<(), Noticed> {
    for entry in found {
        let index = entry.position.index;
        if index > claim.applied.max(claim.acked) {
            break;
        }
        let command = Command::decode(entry.payload);
        command.apply(engine, index, 0)?;
        command.apply_to_model(model, index);
    }
    Ok(try_check(engine, model)?)
}
