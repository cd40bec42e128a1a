//! Sets: what was added is there once, in one order for all.
//!
//! A set is a key whose value is a list of numbers parted by spaces; an element is added by a CAS
//! that writes the whole list with the element at its end. Every current view must begin as every
//! longer one does; each element stands in it once; the last view holds all that was acknowledged
//! and nothing that was refused.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checker, Finding, Verdict};
use crate::history::{History, Item, Operation, Outcome, Request, Told, When};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sets;

/// Keys of sets begin so, after their tag.
pub const SET_MARK: &str = "set/";

#[derive(Default)]
struct Set<'h> {
    added: Vec<(&'h str, &'h Operation)>,
    views: Vec<(&'h Operation, &'h str)>,
}

impl Checker for Sets {
    fn name(&self) -> &'static str {
        "sets"
    }

    fn check(&self, history: &History) -> Verdict {
        let mut sets: BTreeMap<&str, Set<'_>> = BTreeMap::new();
        for operation in history.operations() {
            let Some(key) = operation.request.key().filter(|key| key.contains(SET_MARK)) else {
                continue;
            };
            let set = sets.entry(key).or_default();
            if let Request::Put { value, .. } = &operation.request {
                let element = value.rsplit(' ').next().unwrap_or_default();
                set.added.push((element, operation));
            }
            if let Some(view) = view(operation) {
                set.views.push((operation, view));
            }
        }
        let mut judged = 0;
        for (key, set) in &sets {
            judged += judge(key, set)?;
        }
        Ok(judged)
    }
}

fn text(item: Option<&Item>) -> &str {
    item.map_or("", |item| item.value.as_str())
}

/// The list an answer shows: as it stood, or as a write that was acknowledged left it.
fn view(operation: &Operation) -> Option<&str> {
    match (&operation.request, &operation.answer()?.told) {
        (Request::Get { level, .. }, Told::Read(item)) if level.is_current() => {
            Some(text(item.as_ref()))
        }
        (Request::Put { when: Some(When::Value(_) | When::Absent), .. }, Told::Refused(item)) => {
            Some(text(item.as_ref()))
        }
        (Request::Put { value, .. }, Told::Written { .. }) => Some(value),
        _ => None,
    }
}

fn is_beginning(short: &str, long: &str) -> bool {
    short.is_empty()
        || short == long
        || long.strip_prefix(short).is_some_and(|r| r.starts_with(' '))
}

fn judge(key: &str, set: &Set<'_>) -> Result<usize, Finding> {
    let mut views = set.views.clone();
    views.sort_by_key(|(_, view)| view.len());
    for pair in views.windows(2) {
        if let [(_, short), (by, long)] = pair
            && !is_beginning(short, long)
        {
            return Err(Finding::Violation(format!("{key}: {by:?} does not continue {short:?}")));
        }
    }
    let Some((_, longest)) = views.last() else { return Ok(0) };
    let elements: Vec<&str> = longest.split_whitespace().collect();
    let distinct: BTreeSet<&str> = elements.iter().copied().collect();
    if distinct.len() != elements.len() {
        return Err(Finding::Violation(format!("{key} holds an element twice: {longest:?}")));
    }
    for (element, by) in &set.added {
        let is_there = distinct.contains(element);
        let is_refused = matches!(by.outcome, Outcome::Failed(_))
            || by.answer().is_some_and(|answer| matches!(answer.told, Told::Refused(_)));
        let again = set.added.iter().any(|(other, o)| {
            other == element && !std::ptr::eq(*o, *by) && !matches!(o.outcome, Outcome::Failed(_))
        });
        if by.answer().is_some_and(|a| matches!(a.told, Told::Written { .. })) && !is_there {
            return Err(Finding::Violation(format!("{key} lost {element}: {longest:?}")));
        }
        if is_refused && is_there && !again {
            return Err(Finding::Violation(format!("{key} holds {element}, which was refused")));
        }
    }
    let added: BTreeSet<&str> = set.added.iter().map(|(element, _)| *element).collect();
    if let Some(invented) = distinct.difference(&added).next() {
        return Err(Finding::Violation(format!("{key} holds {invented}, which nobody added")));
    }
    later_views_are_longer(key, set)?;
    Ok(set.views.len())
}

/// A view that was asked for after another had been answered is no shorter.
fn later_views_are_longer(key: &str, set: &Set<'_>) -> Result<(), Finding> {
    let mut ended: Vec<(u64, usize)> = set.views.iter().map(|(o, v)| (o.back, v.len())).collect();
    ended.sort_unstable();
    let mut longest = 0;
    for (_, length) in &mut ended {
        longest = longest.max(*length);
        *length = longest;
    }
    for (operation, view) in &set.views {
        let before = ended.partition_point(|(back, _)| *back < operation.call);
        let known = before.checked_sub(1).map_or(0, |last| ended[last].1);
        if view.len() < known {
            return Err(Finding::Violation(format!("{key}: stale: {operation:?}")));
        }
    }
    Ok(())
}
