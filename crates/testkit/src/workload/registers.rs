//! Registers: single keys, written and read every way there is.

use super::{Actor, Workload};
use crate::history::{Answer, Item, Level, Request, Told, When};

/// The bounds follower reads ask for, milliseconds.
const AGES_MS: [Option<u64>; 3] = [None, Some(1_000), Some(5_000)];

/// What stands under a key, as an answer says.
pub(super) fn stands(answer: &Answer) -> Option<&Item> {
    match &answer.told {
        Told::Read(item) | Told::Refused(item) => item.as_ref(),
        _ => None,
    }
}

pub(super) async fn work(workload: &Workload, mut actor: Actor) {
    let plan = &workload.plan;
    let mut known: Option<Item> = None;
    for _ in workload.rounds(plan.operations) {
        actor.think().await;
        let key = plan.key("reg/", actor.below(plan.keys.into()));
        let value = actor.value();
        let put = |when| Request::Put {
            key: key.clone(),
            value: value.clone(),
            when: Some(when),
            ttl_ms: None,
            lease: None,
        };
        let request = match (actor.below(10), known.take()) {
            (0..=1, _) => Request::get(key),
            (2, _) => Request::Get { key, level: plan.lease_level() },
            (3, _) => Request::delete(key),
            (4, _) => put(When::Absent),
            (5, Some(item)) => put(When::Revision(item.revision)),
            (6, Some(item)) => put(When::Value(item.value)),
            (7, Some(item)) => Request::Delete { key, when: Some(When::Revision(item.revision)) },
            _ => Request::put(key, value.clone()),
        };
        if let Some(answer) = actor.answer(request).await {
            known = stands(&answer).cloned();
        }
    }
}

/// Follower reads of the same keys.
pub(super) async fn follow(workload: &Workload, mut actor: Actor) {
    let plan = &workload.plan;
    for _ in workload.rounds(plan.operations) {
        actor.think().await;
        let age_max_ms = AGES_MS[actor.below(AGES_MS.len() as u64) as usize];
        let level = Level::Follower { age_max_ms };
        let request = if actor.random().chance(20) {
            Request::Scan { prefix: format!("{}reg/", plan.prefix), level }
        } else {
            Request::Get { key: plan.key("reg/", actor.below(plan.keys.into())), level }
        };
        actor.ask(request).await;
    }
}
