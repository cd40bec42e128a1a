//! The bank: money moves between accounts of one tag, and never comes or goes.

use super::{Actor, Plan, Workload};
use crate::history::{Bank, Compare, Item, Level, Record, Request, Step, StepTold, Told, When};

/// Accounts of a bank.
const ACCOUNTS: u64 = 5;
/// What each begins with.
const BALANCE: i64 = 100;
/// How often the accounts are tried to be filled.
const ATTEMPTS_MAX: usize = 50;

fn prefix(plan: &Plan) -> String {
    format!("{}{{bank}}/", plan.prefix)
}

fn account(plan: &Plan, number: u64) -> String {
    format!("{}{number}", prefix(plan))
}

/// All accounts at once.
pub(super) fn view(plan: &Plan) -> Request {
    let then = (0..ACCOUNTS).map(|number| Step::Get(account(plan, number))).collect();
    Request::Txn { compares: Vec::new(), then, otherwise: Vec::new() }
}

/// Fills the accounts, unless they are.
fn fill(plan: &Plan) -> Request {
    let accounts = || (0..ACCOUNTS).map(|number| account(plan, number));
    Request::Txn {
        compares: accounts().map(|key| Compare { key, when: When::Absent }).collect(),
        then: accounts().map(|key| Step::Increment(key, BALANCE)).collect(),
        otherwise: Vec::new(),
    }
}

/// What the accounts hold, as a view says.
fn balances(told: &Told) -> Vec<Option<&Item>> {
    let Told::Txn { results, .. } = told else { return Vec::new() };
    let read = results.iter().map(|result| match result {
        StepTold::Read(item) => item.as_ref(),
        _ => None,
    });
    read.collect()
}

pub(super) async fn work(workload: &Workload, mut actor: Actor, is_first: bool) {
    let plan = &workload.plan;
    if is_first {
        workload.recorder.push(Record::Bank(Bank {
            prefix: prefix(plan),
            accounts: ACCOUNTS as usize,
            total: BALANCE * ACCOUNTS as i64,
        }));
        for _ in 0..ATTEMPTS_MAX {
            // Unknown is no reason to stop: whoever comes second finds them filled.
            if actor.answer(fill(plan)).await.is_some() {
                break;
            }
        }
    }
    for _ in workload.rounds(plan.operations / 2) {
        actor.think().await;
        let (prefix, level) = (prefix(plan), Level::Linearizable);
        if actor.random().chance(20) {
            actor.ask(Request::Scan { prefix, level }).await;
            continue;
        }
        let Some(seen) = actor.answer(view(plan)).await else { continue };
        let (from, to) = (actor.below(ACCOUNTS), actor.below(ACCOUNTS));
        let amount = 1 + actor.below(20) as i64;
        let balance = balances(&seen.told).get(from as usize).copied().flatten();
        let Some(balance) = balance.filter(|_| from != to) else { continue };
        if balance.value.parse::<i64>().is_ok_and(|balance| balance >= amount) {
            let (from, to) = (account(plan, from), account(plan, to));
            let compare = Compare { key: from.clone(), when: When::Value(balance.value.clone()) };
            let then = vec![Step::Increment(from, -amount), Step::Increment(to, amount)];
            let otherwise = Vec::new();
            actor.ask(Request::Txn { compares: vec![compare], then, otherwise }).await;
        }
    }
}
