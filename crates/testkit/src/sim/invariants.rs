//! What must hold at every moment of a run, seen from inside the nodes.
//!
//! * Election safety: at most one replica leads a range in a term.
//! * State-machine safety: replicas that have applied the same entries hold the same.
//! * What a replica has applied never goes back while its process lives.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_model::RangeId;
use holdfast_replica::Role;

use super::cluster::{Cluster, Violation};
use crate::history::StateHash;

/// Leaders and applied indexes are looked at so often.
const LOOK: Duration = Duration::from_millis(20);
/// States are compared so often.
const COMPARE: Duration = Duration::from_secs(4);
/// States that are remembered for those who reach the same index later.
const HASHES_MAX: usize = 4_096;

/// Remembers what it saw.
#[derive(Debug, Default)]
pub(super) struct Invariants {
    next_look: Duration,
    next_comparison: Duration,
    /// Who led which range in which term, by replica id.
    leaders: BTreeMap<(RangeId, u64), u64>,
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
                let info = hosted.replica.leader();
                let id = hosted.replica.options().replica.0;
                if info.role == Role::Leader {
                    let term = info.term.0;
                    let first = *self.leaders.entry((*range, term)).or_insert(id);
                    if first != id {
                        return Err(Violation(format!(
                            "{range} is led by {first} and by {id} in term {term}"
                        )));
                    }
                }
                let index = hosted.replica.reader().point().index.0;
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
        if self.states.len() > HASHES_MAX {
            self.states.pop_first();
        }
        Ok(())
    }
}
