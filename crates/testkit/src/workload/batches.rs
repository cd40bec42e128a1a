//! Batches: several writes or reads in one request, independent of each other; and scans.

use super::{Actor, Workload};
use crate::history::{Level, Request, When};

/// Most items of a batch.
const ITEMS_MAX: u64 = 5;

pub(super) async fn work(workload: &Workload, mut actor: Actor) {
    let plan = &workload.plan;
    for _ in workload.rounds(plan.operations / 2) {
        actor.think().await;
        let prefix = format!("{}batch/", plan.prefix);
        match actor.below(4) {
            0 => {
                let level = Level::Linearizable;
                actor.ask(Request::Scan { prefix, level }).await;
            }
            1 => {
                let gets = (0..plan.keys).map(|n| Request::get(plan.key("batch/", n.into())));
                actor.ask_many(gets.collect()).await;
            }
            _ => {
                let requests = writes(workload, &mut actor);
                actor.ask_many(requests).await;
            }
        }
    }
}

/// Writes to different keys.
fn writes(workload: &Workload, actor: &mut Actor) -> Vec<Request> {
    let plan = &workload.plan;
    let first = actor.below(plan.keys.into());
    let count = 1 + actor.below(ITEMS_MAX.min(plan.keys.into()));
    (0..count)
        .map(|offset| {
            let key = plan.key("batch/", (first + offset) % u64::from(plan.keys));
            let value = actor.value();
            match actor.below(5) {
                0 => Request::delete(key),
                1 => {
                    let when = Some(When::Absent);
                    Request::Put { key, value, when, ttl_ms: None, lease: None }
                }
                _ => Request::put(key, value),
            }
        })
        .collect()
}
