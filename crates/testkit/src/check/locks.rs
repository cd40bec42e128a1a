//! Fencing: tokens only grow, and what they guard is never overwritten by who lost the lock.
//!
//! Two holders at once are possible (a holder that was paused does not know that its time is
//! over), and not judged. That the resource sees no harm of it is: a token granted later is
//! greater, the resource follows the greatest it has seen, and so nobody's count is lost.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checker, Finding, Verdict};
use crate::history::{Access, History, Outcome, Record, Request, Told};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct LockFencing;

/// A grant that was answered.
#[derive(Clone, Copy, Debug)]
struct Grant {
    call: u64,
    back: u64,
    token: u64,
    process: u32,
}

impl Checker for LockFencing {
    fn name(&self) -> &'static str {
        "fencing"
    }

    fn check(&self, history: &History) -> Verdict {
        let mut grants: BTreeMap<&str, Vec<Grant>> = BTreeMap::new();
        let mut doubtful: BTreeSet<(&str, u32)> = BTreeSet::new();
        for operation in history.operations() {
            let Request::Lock { name, .. } = &operation.request else { continue };
            let of_lock = grants.entry(name).or_default();
            match &operation.outcome {
                Outcome::Done(answer) => {
                    if let Told::Locked(token) = answer.told {
                        let (call, back, process) =
                            (operation.call, operation.back, operation.process);
                        of_lock.push(Grant { call, back, token, process });
                    }
                }
                Outcome::Unknown(_) => {
                    doubtful.insert((name.as_str(), operation.process));
                }
                Outcome::Failed(_) => {}
            }
        }
        let mut accesses: BTreeMap<&str, Vec<&Access>> = BTreeMap::new();
        for record in &history.records {
            if let Record::Access(access) = record {
                accesses.entry(&access.lock).or_default().push(access);
            }
        }
        let mut judged = 0;
        for (name, of_lock) in &grants {
            tokens_grow(name, of_lock)?;
            judged += of_lock.len();
        }
        for (name, of_lock) in &accesses {
            let grants = grants.get(name).map_or(&[][..], Vec::as_slice);
            tokens_were_granted(name, of_lock, grants, &doubtful)?;
            nothing_is_lost(name, of_lock)?;
            judged += of_lock.len();
        }
        Ok(judged)
    }
}

fn tokens_grow(name: &str, grants: &[Grant]) -> Result<(), Finding> {
    let mut ended: Vec<(u64, u64)> = grants.iter().map(|g| (g.back, g.token)).collect();
    ended.sort_unstable();
    let mut highest = 0;
    for (_, token) in &mut ended {
        highest = highest.max(*token);
        *token = highest;
    }
    let mut tokens = BTreeMap::new();
    for grant in grants {
        let before = ended.partition_point(|(back, _)| *back < grant.call);
        let known = before.checked_sub(1).map_or(0, |last| ended[last].1);
        if grant.token <= known {
            return Err(Finding::Violation(format!(
                "{name}: {grant:?} is not above {known}, granted before it was asked for"
            )));
        }
        if let Some(other) = tokens.insert(grant.token, grant) {
            return Err(Finding::Violation(format!("{name}: {other:?} and {grant:?} are one")));
        }
    }
    Ok(())
}

fn tokens_were_granted(
    name: &str,
    accesses: &[&Access],
    grants: &[Grant],
    doubtful: &BTreeSet<(&str, u32)>,
) -> Result<(), Finding> {
    // Tokens are unique, as was checked before.
    let by_token: BTreeMap<u64, &Grant> = grants.iter().map(|g| (g.token, g)).collect();
    for access in accesses {
        let granted = by_token
            .get(&access.token)
            .is_some_and(|g| g.process == access.process && g.back <= access.at);
        if !granted && !doubtful.contains(&(name, access.process)) {
            return Err(Finding::Violation(format!("{name}: {access:?} without a grant")));
        }
    }
    Ok(())
}

/// The resource itself: it refuses what is below the highest token, and each accepted write
/// continues the count that its token's user found.
fn nothing_is_lost(name: &str, accesses: &[&Access]) -> Result<(), Finding> {
    let (mut highest, mut count) = (0, 0);
    for access in accesses {
        let must_pass = access.token >= highest;
        if access.accepted != must_pass {
            let text = format!("{name}: the resource knew {highest} and did {access:?}");
            return Err(Finding::Violation(text));
        }
        if !access.accepted {
            continue;
        }
        highest = highest.max(access.token);
        let expected = if access.is_write { count + 1 } else { count };
        if access.count != expected {
            return Err(Finding::Violation(format!(
                "{name}: an update was lost: {access:?} where the count was {count}"
            )));
        }
        count = access.count;
    }
    Ok(())
}
