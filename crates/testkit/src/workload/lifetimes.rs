//! Keys that end by themselves, with a TTL or with a lease; each process has its own, so that what
//! it reads says when they ended.

use std::time::Duration;

use holdfast_runtime::sleep;

use super::{Actor, Plan, Workload};
use crate::history::{Level, Request, Told};

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads `key` so often within `span` that its end is seen.
async fn observe(plan: &Plan, actor: &mut Actor, key: &str, span: Duration) {
    const READS: u32 = 8;
    for _ in 0..READS {
        let is_by_lease = actor.random().chance(30);
        let level = if is_by_lease { plan.lease_level() } else { Level::Linearizable };
        actor.ask(Request::Get { key: key.to_owned(), level }).await;
        sleep(span / READS).await;
    }
}

pub(super) async fn keys(workload: &Workload, mut actor: Actor) {
    let plan = &workload.plan;
    for round in workload.rounds(plan.operations.div_ceil(10)) {
        let key = plan.key("ttl/", actor.process().into());
        let ttl_ms = millis(plan.ttl) + actor.below(millis(plan.ttl));
        let value = actor.value();
        let put =
            Request::Put { key: key.clone(), value, when: None, ttl_ms: Some(ttl_ms), lease: None };
        actor.ask(put).await;
        // Some are replaced while they live: the new life counts.
        let part = if round % 3 == 0 { 2 } else { 5 };
        observe(plan, &mut actor, &key, Duration::from_millis(ttl_ms) * part / 4).await;
    }
}

pub(super) async fn leases(workload: &Workload, mut actor: Actor) {
    let plan = &workload.plan;
    let tag = format!("{}{{lease{}}}/", plan.prefix, actor.process());
    for round in workload.rounds(plan.operations.div_ceil(15)) {
        let key = format!("{tag}{round}");
        let ttl_ms = millis(plan.ttl) * 2;
        let grant = Request::Grant { key: key.clone(), ttl_ms };
        let Some(granted) = actor.answer(grant).await else { continue };
        let Told::Granted { lease, .. } = granted.told else { continue };
        let value = actor.value();
        let put =
            Request::Put { key: key.clone(), value, when: None, ttl_ms: None, lease: Some(lease) };
        actor.ask(put).await;
        for _ in 0..actor.below(4) {
            sleep(plan.ttl).await;
            actor.ask(Request::Renew { lease }).await;
            actor.ask(Request::get(key.clone())).await;
        }
        if actor.random().chance(30) {
            actor.ask(Request::Revoke { lease }).await;
            actor.ask(Request::get(key.clone())).await;
        } else {
            observe(plan, &mut actor, &key, plan.ttl * 3).await;
        }
    }
}
