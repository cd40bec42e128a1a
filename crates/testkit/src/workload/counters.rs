//! Counters: increments that the client repeats where it must, and reads.

use super::{Actor, Workload};
use crate::history::Request;

pub(super) async fn work(workload: &Workload, mut actor: Actor) {
    let plan = &workload.plan;
    for _ in workload.rounds(plan.operations) {
        actor.think().await;
        let key = plan.key("count/", actor.below(plan.keys.div_ceil(2).into()));
        let request = match actor.below(5) {
            0 => Request::get(key),
            1 => Request::increment(key, 1 + actor.below(100) as i64),
            _ => Request::increment(key, 1),
        };
        actor.ask(request).await;
    }
}
