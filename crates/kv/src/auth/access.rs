//! What an operation touches, as permissions see it.

use crate::command::{EtcdKeys, EtcdOperation, EtcdStep, EtcdTxn};

/// What somebody wants to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthAccess {
    /// Read keys.
    Read(EtcdKeys),
    /// Write or remove keys.
    Write(EtcdKeys),
    /// Manage users, members and the like: needs the role `root`.
    Admin,
}

/// Calls `visit` with everything a transaction may touch, nested ones and both branches included,
/// until it refuses one.
///
/// Keys that hang on the leases of its puts are not among it: only apply knows them, and checks.
/// Depth and length are those [`validate`](crate::validate) lets pass.
///
/// # Errors
/// What `visit` gives.
pub fn etcd_accesses<E>(
    txn: &EtcdTxn,
    visit: &mut dyn FnMut(AuthAccess) -> Result<(), E>,
) -> Result<(), E> {
    for compare in &txn.compares {
        visit(AuthAccess::Read(compare.keys()))?;
    }
    txn.success.iter().chain(&txn.failure).try_for_each(|step| step_accesses(step, visit))
}

fn step_accesses<E>(
    step: &EtcdStep,
    visit: &mut dyn FnMut(AuthAccess) -> Result<(), E>,
) -> Result<(), E> {
    match &step.operation {
        None => Ok(()),
        Some(EtcdOperation::Range(range)) => visit(AuthAccess::Read(range.keys())),
        Some(EtcdOperation::Put(put)) => {
            let key = EtcdKeys::One(put.key.clone());
            visit(AuthAccess::Write(key.clone()))?;
            if put.return_previous { visit(AuthAccess::Read(key)) } else { Ok(()) }
        }
        Some(EtcdOperation::DeleteRange(delete)) => {
            if delete.return_previous {
                visit(AuthAccess::Read(delete.keys()))?;
            }
            visit(AuthAccess::Write(delete.keys()))
        }
        Some(EtcdOperation::Txn(nested)) => etcd_accesses(nested, visit),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::command::{EtcdCompare, EtcdDelete, EtcdPut, EtcdRange};

    #[test]
    fn both_branches_nested_ones_and_previous_entries_are_visited() {
        let put = |key: &'static str, return_previous| {
            EtcdOperation::Put(EtcdPut { key: key.into(), return_previous, ..EtcdPut::default() })
        };
        let nested = EtcdTxn {
            compares: vec![EtcdCompare { key: "n".into(), ..EtcdCompare::default() }],
            success: vec![put("p", true).into()],
            failure: vec![put("q", false).into()],
        };
        let range = EtcdRange { key: "r".into(), range_end: "\0".into(), ..EtcdRange::default() };
        let delete = EtcdDelete { key: "d".into(), range_end: "e".into(), return_previous: true };
        let txn = EtcdTxn {
            compares: vec![EtcdCompare { key: "c".into(), ..EtcdCompare::default() }],
            success: vec![EtcdOperation::Range(range).into(), EtcdStep::default()],
            failure: vec![
                EtcdOperation::DeleteRange(delete).into(),
                EtcdOperation::Txn(nested).into(),
            ],
        };
        let mut seen = Vec::new();
        let _ = etcd_accesses::<Infallible>(&txn, &mut |access| {
            seen.push(access);
            Ok(())
        });
        let one = |key: &'static str| EtcdKeys::One(key.into());
        let interval =
            |start: &'static str, end: &'static str| EtcdKeys::Interval(start.into(), end.into());
        let expected = [
            AuthAccess::Read(one("c")),
            AuthAccess::Read(interval("r", "")),
            AuthAccess::Read(interval("d", "e")),
            AuthAccess::Write(interval("d", "e")),
            AuthAccess::Read(one("n")),
            AuthAccess::Write(one("p")),
            AuthAccess::Read(one("p")),
            AuthAccess::Write(one("q")),
        ];
        assert_eq!(seen, expected);
        let first = etcd_accesses(&txn, &mut Err);
        assert_eq!(first, Err(AuthAccess::Read(one("c"))), "the first refusal ends it");
    }
}
