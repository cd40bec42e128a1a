//! Follower reads: no older than they say.
//!
//! An answer with a bound contains every write that had been acknowledged longer ago than the
//! bound, counted from the call; and it never claims a bound above the one that was asked for.
//! What it shows belongs to one point of the log, which the witness judges. Follower reads whose
//! answers carry no bound are no evidence.

use super::log::Log;
use super::{Checker, Finding, Verdict};
use crate::history::{History, Level, Request, Told};

const MS: u64 = 1_000_000;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Staleness;

impl Checker for Staleness {
    fn name(&self) -> &'static str {
        "staleness"
    }

    fn check(&self, history: &History) -> Verdict {
        let log = Log::of(history)?;
        let mut judged = 0;
        for operation in history.operations() {
            let level = match &operation.request {
                Request::Get { level, .. } | Request::Scan { level, .. } => *level,
                _ => continue,
            };
            let Level::Follower { age_max_ms } = level else { continue };
            let Some(answer) = operation.answer() else { continue };
            let Some(age_ms) = answer.age_ms else { continue };
            if age_max_ms.is_some_and(|max| age_ms > max) {
                let text = format!("a bound above the one asked for: {operation:?}");
                return Err(Finding::Violation(text));
            }
            let single = [answer.point];
            let points = match &answer.told {
                Told::Scanned { points, .. } => points.as_slice(),
                _ => &single,
            };
            // A bound told in whole milliseconds may be cut by almost one.
            let since = operation.call.saturating_sub((age_ms + 1) * MS);
            for point in points {
                let floor = log.ranges.get(&point.range).map_or(0, |r| r.written.before(since));
                if point.revision < floor {
                    return Err(Finding::Violation(format!(
                        "older than {age_ms} ms: revision {floor} was acknowledged before; \
                         {operation:?}"
                    )));
                }
                judged += 1;
            }
        }
        Ok(judged)
    }
}
