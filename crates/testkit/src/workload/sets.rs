//! Sets: an element is added by a compare and swap of the whole list, tried until it is clear
//! what became of it.

use super::registers::stands;
use super::{Actor, Workload};
use crate::check::SET_MARK;
use crate::history::{Outcome, Request, Told, When};

/// How often one element is tried.
const ATTEMPTS_MAX: usize = 8;

pub(super) async fn work(workload: &Workload, mut actor: Actor) {
    let plan = &workload.plan;
    for _ in workload.rounds(plan.operations / 2) {
        actor.think().await;
        let key = plan.key(SET_MARK, actor.below(plan.keys.into()));
        let element = actor.element();
        let Some(answer) = actor.answer(Request::get(key.clone())).await else { continue };
        let mut list = stands(&answer).map(|item| item.value.clone());
        for _ in 0..ATTEMPTS_MAX {
            let (when, value) = match list {
                None => (When::Absent, element.clone()),
                Some(list) => (When::Value(list.clone()), format!("{list} {element}")),
            };
            let (key, when) = (key.clone(), Some(when));
            let request = Request::Put { key, value, when, ttl_ms: None, lease: None };
            match actor.ask(request).await {
                Outcome::Done(answer) if matches!(answer.told, Told::Refused(_)) => {
                    list = stands(&answer).map(|item| item.value.clone());
                }
                // Written, or unknown: never added again.
                _ => break,
            }
        }
    }
}
