//! The bank: whoever looks at all accounts at once finds the same sum.
//!
//! A view is a transaction that reads every account, or a scan over them at one point of one
//! range. Before the accounts are filled a view may find none; it never finds some.

use super::{Checker, Finding, Verdict};
use crate::history::{Bank, History, Item, Operation, Record, Request, StepTold, Told};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct BankTotal;

impl Checker for BankTotal {
    fn name(&self) -> &'static str {
        "bank"
    }

    fn check(&self, history: &History) -> Verdict {
        let banks = history.records.iter().filter_map(|record| match record {
            Record::Bank(bank) => Some(bank),
            _ => None,
        });
        let mut judged = 0;
        for bank in banks {
            for operation in history.operations() {
                let Some(found) = view(operation, bank) else { continue };
                judged += 1;
                if found.is_empty() {
                    continue;
                }
                let numbers: Result<Vec<i64>, _> =
                    found.iter().map(|item| item.value.parse::<i64>()).collect();
                let is_whole = found.len() == bank.accounts
                    && numbers.is_ok_and(|all| all.iter().sum::<i64>() == bank.total);
                if !is_whole {
                    return Err(Finding::Violation(format!(
                        "{bank:?} was seen as {found:?} by {operation:?}"
                    )));
                }
            }
        }
        Ok(judged)
    }
}

/// The accounts of `bank` as one operation saw them all at once.
fn view<'h>(operation: &'h Operation, bank: &Bank) -> Option<Vec<&'h Item>> {
    let is_account = |key: &str| key.starts_with(bank.prefix.as_str());
    match (&operation.request, &operation.answer()?.told) {
        (Request::Scan { prefix, .. }, Told::Scanned { points, entries }) => {
            let is_whole = *prefix == bank.prefix && points.len() == 1;
            is_whole.then(|| entries.iter().map(|placed| &placed.item).collect())
        }
        (Request::Txn { .. }, Told::Txn { changed: false, .. }) => {
            let (steps, results) = operation.steps()?;
            let pairs = steps.iter().zip(results).filter(|(step, _)| is_account(step.key()));
            let reads: Vec<Option<&Item>> = pairs
                .filter_map(|(_, told)| match told {
                    StepTold::Read(item) => Some(item.as_ref()),
                    _ => None,
                })
                .collect();
            (reads.len() == bank.accounts).then(|| reads.into_iter().flatten().collect())
        }
        _ => None,
    }
}
