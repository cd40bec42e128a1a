//! WGL on the keys of a history: values and times only, no word of a revision.
//!
//! Keys that transactions touch together are judged together, all others alone (a history is
//! linearizable if each part is that shares nothing with the rest). The end of a key by its TTL or
//! its lease is an operation of unknown outcome; whether it came in time, others judge.

use std::collections::BTreeMap;

use super::wgl::{Bound, Found, Model, Span, search};
use super::{Checker, Finding, Verdict};
use crate::history::{Compare, History, Operation, Outcome, Request, Step, StepTold, Told, When};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Linearizability {
    /// What each search may spend.
    pub bound: Bound,
    /// Parts with more operations are cut to their beginning: the search is for samples, the
    /// witness for everything.
    pub operations_max: usize,
    /// Parts are also cut before there are more operations of unknown outcome: each doubles the
    /// number of orders where sums are all that is seen.
    pub unknown_max: usize,
}

impl Default for Linearizability {
    fn default() -> Self {
        Self { bound: Bound::default(), operations_max: 1_000, unknown_max: 8 }
    }
}

impl Checker for Linearizability {
    fn name(&self) -> &'static str {
        "linearizable"
    }

    fn check(&self, history: &History) -> Verdict {
        let mut judged = 0;
        for (keys, mut spans) in parts(history) {
            shorten(&mut spans, self.operations_max, self.unknown_max);
            judged += spans.len();
            match search(&Store { keys: keys.len() }, &spans, self.bound) {
                Found::Linearizable => {}
                Found::Illegal => {
                    let text = format!("no order explains what was seen of {keys:?}");
                    return Err(Finding::Violation(text));
                }
                Found::Undecided => {
                    let text = format!("too many orders of {} on {keys:?}", spans.len());
                    return Err(Finding::Undecided(text));
                }
            }
        }
        Ok(judged)
    }
}

/// A value: numbers are told apart from texts, so that increments have something to count.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Value {
    Number(i64),
    Text(String),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Text(text.to_owned()), Self::Number)
    }
}

/// One thing seen or done, on keys counted from 0.
#[derive(Clone, Debug)]
enum Act {
    Saw(usize, Option<Value>),
    Holds(usize, Condition),
    Fails(Vec<(usize, Condition)>),
    Put(usize, Value),
    Delete(usize),
    Add(usize, i64),
    /// The life that began with this value ends.
    End(usize, Value),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Absent,
    Is(Value),
}

impl Condition {
    fn holds(&self, value: Option<&Value>) -> bool {
        match self {
            Self::Absent => value.is_none(),
            Self::Is(expected) => value == Some(expected),
        }
    }
}

/// Keys and their values, one operation a list of acts at once.
struct Store {
    keys: usize,
}

impl Model for Store {
    type State = Vec<Option<Value>>;
    type Operation = Vec<Act>;

    fn initial(&self) -> Self::State {
        vec![None; self.keys]
    }

    fn step(&self, state: &Self::State, operation: &Self::Operation) -> Option<Self::State> {
        let mut state = state.clone();
        for act in operation {
            match act {
                Act::Saw(key, value) if state[*key] != *value => return None,
                Act::Holds(key, condition) if !condition.holds(state[*key].as_ref()) => {
                    return None;
                }
                Act::Fails(all) if all.iter().all(|(key, c)| c.holds(state[*key].as_ref())) => {
                    return None;
                }
                Act::Saw(..) | Act::Holds(..) | Act::Fails(_) => {}
                Act::Put(key, value) => state[*key] = Some(value.clone()),
                Act::Delete(key) => state[*key] = None,
                Act::Add(key, delta) => match &state[*key] {
                    None => state[*key] = Some(Value::Number(*delta)),
                    Some(Value::Number(n)) => {
                        state[*key] = Some(Value::Number(n.checked_add(*delta)?));
                    }
                    Some(Value::Text(_)) => return None,
                },
                Act::End(key, value) if state[*key].as_ref() == Some(value) => state[*key] = None,
                Act::End(..) => return None,
            }
        }
        Some(state)
    }
}

type Part = (Vec<String>, Vec<Span<Vec<Act>>>);

/// The keys an operation names.
fn keys_of(operation: &Operation) -> Vec<&str> {
    match &operation.request {
        Request::Txn { compares, then, otherwise } => {
            let steps = then.iter().chain(otherwise).map(Step::key);
            compares.iter().map(|c| c.key.as_str()).chain(steps).collect()
        }
        request => request.key().into_iter().collect(),
    }
}

/// The parts of a history that share no key.
fn parts(history: &History) -> Vec<Part> {
    let mut groups = Groups::default();
    for operation in history.operations() {
        groups.join(&keys_of(operation));
    }
    let mut parts: BTreeMap<usize, Part> = BTreeMap::new();
    for operation in history.operations() {
        let Some(group) = keys_of(operation).first().map(|key| groups.of(key)) else { continue };
        let (keys, spans) = parts.entry(group).or_default();
        translate(operation, keys, spans);
    }
    parts.into_values().collect()
}

/// Keys that belong together, by union and find.
#[derive(Default)]
struct Groups<'h> {
    index: BTreeMap<&'h str, usize>,
    parent: Vec<usize>,
}

impl<'h> Groups<'h> {
    fn root(&self, mut at: usize) -> usize {
        while self.parent[at] != at {
            at = self.parent[at];
        }
        at
    }

    fn of(&self, key: &str) -> usize {
        self.index.get(key).map_or(0, |at| self.root(*at))
    }

    fn join(&mut self, keys: &[&'h str]) {
        let mut first = None;
        for key in keys.iter().copied() {
            let next = self.parent.len();
            let at = *self.index.entry(key).or_insert(next);
            if at == next {
                self.parent.push(next);
            }
            let root = self.root(at);
            let first = *first.get_or_insert(root);
            self.parent[root] = self.root(first);
        }
    }
}

/// The number of `key` among `keys`.
fn number(keys: &mut Vec<String>, key: &str) -> usize {
    keys.iter().position(|known| known == key).unwrap_or_else(|| {
        keys.push(key.to_owned());
        keys.len() - 1
    })
}

/// Adds what `operation` did, as far as values tell.
fn translate(operation: &Operation, keys: &mut Vec<String>, spans: &mut Vec<Span<Vec<Act>>>) {
    let mut add = |back, acts: Vec<Act>| {
        if !acts.is_empty() {
            spans.push(Span { call: operation.call, back, operation: acts });
        }
    };
    match &operation.outcome {
        Outcome::Failed(_) => {}
        Outcome::Done(answer) => {
            let is_old =
                matches!(&operation.request, Request::Get { level, .. } if !level.is_current());
            if !is_old {
                add(Some(operation.back), answered(operation, &answer.told, keys));
            }
        }
        Outcome::Unknown(_) if operation.request.is_read() => {}
        Outcome::Unknown(_) => {
            let mut ways = possible(&operation.request, keys);
            if ways.len() > 1 {
                // One of them at most: each puts a mark where there must be none.
                let mark = number(keys, &format!("\0{}/{}", operation.process, operation.call));
                let once = [Act::Holds(mark, Condition::Absent), Act::Put(mark, Value::Number(1))];
                ways.iter_mut().for_each(|way| way.extend(once.clone()));
            }
            ways.into_iter().for_each(|acts| add(None, acts));
        }
    }
    if let (Request::Put { key, value, ttl_ms, lease, .. }, true) =
        (&operation.request, !matches!(operation.outcome, Outcome::Failed(_)))
        && (ttl_ms.is_some() || lease.is_some())
    {
        let key = number(keys, key);
        let end = vec![Act::End(key, value.as_str().into())];
        spans.push(Span { call: operation.call, back: None, operation: end });
    }
}

/// Keeps what was called first. What was still under way then may or may not have happened.
fn shorten(spans: &mut Vec<Span<Vec<Act>>>, operations_max: usize, unknown_max: usize) {
    spans.sort_by_key(|span| span.call);
    let is_open = |span: &&Span<Vec<Act>>| {
        span.back.is_none() && !matches!(span.operation.as_slice(), [Act::End(..)])
    };
    let one_too_many = spans.iter().filter(is_open).nth(unknown_max).map(|span| span.call);
    let by_count = spans.get(operations_max).map(|span| span.call);
    let Some(end) = one_too_many.into_iter().chain(by_count).min() else { return };
    spans.retain(|span| span.call < end);
    for span in spans {
        span.back = span.back.filter(|back| *back < end);
    }
}

fn condition(when: &When) -> Option<Condition> {
    match when {
        When::Absent => Some(Condition::Absent),
        When::Value(value) => Some(Condition::Is(value.as_str().into())),
        // A revision is the witness's business.
        When::Revision(_) => None,
    }
}

/// What an answered operation did and saw.
fn answered(operation: &Operation, told: &Told, keys: &mut Vec<String>) -> Vec<Act> {
    let value = |text: &String| Value::from(text.as_str());
    match (&operation.request, told) {
        (Request::Get { key, .. }, Told::Read(item))
        | (Request::Put { key, .. } | Request::Delete { key, .. }, Told::Refused(item)) => {
            vec![Act::Saw(number(keys, key), item.as_ref().map(|item| value(&item.value)))]
        }
        (Request::Put { key, value: new, when, .. }, Told::Written { .. }) => {
            let key = number(keys, key);
            let held = when.as_ref().and_then(condition).map(|c| Act::Holds(key, c));
            held.into_iter().chain([Act::Put(key, value(new))]).collect()
        }
        (Request::Delete { key, .. }, Told::Deleted(0)) => vec![Act::Saw(number(keys, key), None)],
        (Request::Delete { key, when }, Told::Deleted(_)) => {
            let key = number(keys, key);
            let held = when.as_ref().and_then(condition).map(|c| Act::Holds(key, c));
            held.into_iter().chain([Act::Delete(key)]).collect()
        }
        (Request::Increment { key, delta }, Told::Number(sum)) => {
            let key = number(keys, key);
            vec![Act::Add(key, *delta), Act::Saw(key, Some(Value::Number(*sum)))]
        }
        (Request::Txn { compares, .. }, Told::Txn { succeeded, .. }) => {
            let (steps, results) = operation.steps().unwrap_or_default();
            let mut acts = branch(compares, *succeeded, keys);
            for (step, told) in steps.iter().zip(results) {
                acts.extend(stepped(step, Some(told), keys));
            }
            acts
        }
        _ => Vec::new(),
    }
}

/// Why a transaction took the side it took.
fn branch(compares: &[Compare], succeeded: bool, keys: &mut Vec<String>) -> Vec<Act> {
    let known = compares.iter().filter_map(|c| Some((number(keys, &c.key), condition(&c.when)?)));
    let known: Vec<(usize, Condition)> = known.collect();
    if succeeded {
        known.into_iter().map(|(key, condition)| Act::Holds(key, condition)).collect()
    } else if known.len() == compares.len() {
        vec![Act::Fails(known)]
    } else {
        Vec::new()
    }
}

fn stepped(step: &Step, told: Option<&StepTold>, keys: &mut Vec<String>) -> Vec<Act> {
    let key = number(keys, step.key());
    match (step, told) {
        (Step::Get(_), Some(StepTold::Read(item))) => {
            vec![Act::Saw(key, item.as_ref().map(|item| item.value.as_str().into()))]
        }
        (Step::Get(_), _) => Vec::new(),
        (Step::Put(_, value), _) => vec![Act::Put(key, value.as_str().into())],
        (Step::Delete(_), _) => vec![Act::Delete(key)],
        (Step::Increment(_, delta), Some(StepTold::Number(sum))) => {
            vec![Act::Add(key, *delta), Act::Saw(key, Some(Value::Number(*sum)))]
        }
        (Step::Increment(_, delta), _) => vec![Act::Add(key, *delta)],
    }
}

/// What an operation may have done whose answer nobody saw: one way, or for a transaction two.
fn possible(request: &Request, keys: &mut Vec<String>) -> Vec<Vec<Act>> {
    match request {
        Request::Put { key, value, when, .. } => {
            let key = number(keys, key);
            let held = when.as_ref().and_then(condition).map(|c| Act::Holds(key, c));
            vec![held.into_iter().chain([Act::Put(key, value.as_str().into())]).collect()]
        }
        Request::Delete { key, when } => {
            let key = number(keys, key);
            let held = when.as_ref().and_then(condition).map(|c| Act::Holds(key, c));
            vec![held.into_iter().chain([Act::Delete(key)]).collect()]
        }
        Request::Increment { key, delta } => vec![vec![Act::Add(number(keys, key), *delta)]],
        Request::Txn { compares, then, otherwise } => {
            let sides = [(true, then), (false, otherwise)];
            let mut ways = Vec::new();
            for (succeeded, steps) in sides {
                if steps.iter().any(|step| !matches!(step, Step::Get(_))) {
                    let mut acts = branch(compares, succeeded, keys);
                    acts.extend(steps.iter().flat_map(|step| stepped(step, None, keys)));
                    ways.push(acts);
                }
            }
            ways
        }
        _ => Vec::new(),
    }
}
