//! Locks: take one, read the count, think, write the count plus one, give it back. Some holders
//! fall asleep for longer than the lock lives.

use holdfast_runtime::sleep;

use super::{Actor, Workload};
use crate::history::{Request, Told};

pub(super) async fn work(workload: &Workload, mut actor: Actor) {
    let plan = &workload.plan;
    let ttl_ms = u64::try_from(plan.ttl.as_millis()).unwrap_or(u64::MAX);
    for _ in workload.rounds(plan.operations / 4) {
        actor.think().await;
        let name = plan.key("lock/", actor.below(plan.keys.div_ceil(4).into()));
        let lock = Request::Lock { name: name.clone(), ttl_ms };
        let Some(answer) = actor.answer(lock).await else { continue };
        let Told::Locked(token) = answer.told else { continue };
        let process = actor.process();
        if let Some(count) = workload.resource.read(&name, process, token) {
            if actor.random().chance(10) {
                sleep(plan.ttl * 3 / 2).await;
            } else {
                actor.think().await;
            }
            workload.resource.write(&name, process, token, count + 1);
        }
        actor.ask(Request::Unlock { name, token }).await;
    }
}
