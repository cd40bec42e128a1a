//! What must hold at every moment of a run, seen from inside the nodes.
//!
//! * Log matching: at one index all replicas have applied an entry of the same leader and term.
//! * State-machine safety: replicas that have applied the same entries hold the same.
//! * What a replica has applied never goes back while its process lives.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_model::RangeId;
use holdfast_replica::Role;

use super::cluster::{Cluster, Violation};
use crate::history::StateHash;

/// Leaders and applied indexes are looked at so often.
const LOOK: Duration = Duration::from_millis(20);
/// States are compared so often.
const COMPARE: Duration = Duration::from_secs(4);
/// What is remembered for those who reach the same index later.
const STATES_MAX: usize = 65_536;

/// Remembers what it saw.
#[derive(Debug, Default)]
pub(super) struct Invariants {
    next_look: Duration,
    next_comparison: Duration,
    /// Who led which range in which term, by replica id. A term has as many leaders as candidates
    /// overbid each other in it: the greater id wins.
    leaders: BTreeSet<(RangeId, u64, u64)>,
    /// Term and leader of the last applied entry, by its index.
    terms: BTreeMap<(RangeId, u64), (u64, u64)>,
    /// What a replica of this boot had applied when it was last looked at.
    applied: BTreeMap<(usize, u64, RangeId), u64>,
    /// First state seen of a range at an index: replica and hash.
    states: BTreeMap<(RangeId, u64), (u64, u64)>,
    /// States that two replicas gave alike.
    equal: u64,
}

impl Invariants {
    /// How many elections were seen, and how many equal states.
    pub(super) fn seen(&self) -> (usize, u64) {
        (self.leaders.len(), self.equal)
    }

    /// Looks, when it is time to. States of machines that `is_suspect` are not believed.
    pub(super) fn look(
        &mut self,
        cluster: &Cluster,
        is_suspect: impl Fn(usize) -> bool,
    ) -> Result<(), Violation> {
        if cluster.elapsed() < self.next_look {
            return Ok(());
        }
        self.next_look = cluster.elapsed() + LOOK;
        self.leaders_and_applied(cluster)?;
        if cluster.elapsed() >= self.next_comparison {
            self.next_comparison = cluster.elapsed() + COMPARE;
            for state in cluster.states(&is_suspect)? {
                self.compare(&state)?;
            }
        }
        Ok(())
    }

    fn leaders_and_applied(&mut self, cluster: &Cluster) -> Result<(), Violation> {
        for machine in 0..cluster.nodes() {
            let Some(node) = cluster.node(machine) else { continue };
            for (range, hosted) in node.registry().hosted().iter() {
                let (status, id) = (hosted.replica.status(), hosted.replica.options().replica.0);
                let (info, index) = (hosted.replica.leader(), status.point.index.0);
                if info.role == Role::Leader && self.leaders.insert((*range, info.term.0, id)) {
                    cluster.say(format_args!("r{id} leads {range} in term {}", info.term.0));
                }
                if let Some(applied) = status.applied {
                    let (at, term) =
                        ((*range, applied.index.0), (applied.term.0, applied.leader.0));
                    let known = *self.terms.entry(at).or_insert(term);
                    if known != term {
                        return Err(Violation(format!(
                            "r{id} applied entry {} of {range} as one of {term:?}, not {known:?}",
                            applied.index.0
                        )));
                    }
                    if self.terms.len() > STATES_MAX {
                        self.terms.pop_first();
                    }
                }
                let known =
                    self.applied.entry((machine, cluster.boots(machine), *range)).or_default();
                if index < *known {
                    return Err(Violation(format!(
                        "{range} of n{} went back from {known} to {index}",
                        machine + 1
                    )));
                }
                *known = index;
            }
        }
        Ok(())
    }

    /// Compares a state with what another replica held at the same index.
    pub(super) fn compare(&mut self, state: &StateHash) -> Result<(), Violation> {
        let key = (RangeId(state.range), state.index);
        let (replica, hash) = *self.states.entry(key).or_insert((state.replica, state.hash));
        if hash != state.hash {
            return Err(Violation(format!("{state:?} is not what {replica} held: {hash}")));
        }
        self.equal += u64::from(replica != state.replica);
        if self.states.len() > STATES_MAX {
            self.states.pop_first();
        }
        Ok(())
    }
}
