//! The search of Wing and Gong with Lowe's memoisation: is there an order of these operations that
//! fits real time and a sequential model?
//!
//! Calls and returns stand in a list in the order of time. The search walks along it: a call whose
//! operation the model allows is lifted out together with its return, and the walk begins anew;
//! a return that is met means that its operation should have been lifted before, so the last one
//! is put back. A set of (operations lifted, state) pairs that led nowhere keeps the search from
//! going there twice. Naive enumeration is factorial; this is exponential only in the number of
//! operations that truly overlap.
//!
//! Operations of unknown outcome have no return: they may be lifted anywhere after their call, or
//! never. The search ends when all others have been lifted. It is bounded in steps and in memory,
//! and says so when it gives up.

use std::collections::HashSet;
use std::hash::Hash;

/// What a sequential store does.
pub trait Model {
    /// What it holds.
    type State: Clone + Eq + Hash;
    /// What is asked of it, together with the answer.
    type Operation;

    /// What it holds before the first operation.
    fn initial(&self) -> Self::State;

    /// What it holds after `operation`; none where it would have answered otherwise.
    fn step(&self, state: &Self::State, operation: &Self::Operation) -> Option<Self::State>;
}

/// An operation and when it took place.
#[derive(Clone, Debug)]
pub struct Span<O> {
    /// When it was called.
    pub call: u64,
    /// When it was answered; none: nobody knows whether it happened.
    pub back: Option<u64>,
    /// What it was.
    pub operation: O,
}

/// How much a search may spend.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Steps along the list.
    pub steps_max: u64,
    /// Dead ends remembered.
    pub remembered_max: usize,
}

impl Default for Bound {
    fn default() -> Self {
        Self { steps_max: 20_000_000, remembered_max: 500_000 }
    }
}

/// What a search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Illegal,
    /// The bound was met before either was clear.
    Undecided,
}

const NONE: usize = usize::MAX;

/// One event of the list, linked to its neighbours.
struct Node {
    previous: usize,
    next: usize,
    /// Which operation.
    operation: usize,
    /// A call: where its return stands (none: nowhere). A return has none.
    back: usize,
    is_call: bool,
}

/// The list of calls and returns; node 0 is its head.
struct Events {
    nodes: Vec<Node>,
}

impl Events {
    /// On equal times calls come first: operations that touch are taken to overlap.
    fn of<O>(spans: &[Span<O>]) -> Self {
        let mut order: Vec<(u64, bool, usize)> = Vec::with_capacity(spans.len() * 2);
        for (index, span) in spans.iter().enumerate() {
            order.push((span.call, false, index));
            order.extend(span.back.map(|back| (back.max(span.call), true, index)));
        }
        order.sort_unstable();
        let head = Node { previous: NONE, next: NONE, operation: NONE, back: NONE, is_call: false };
        let mut nodes = vec![head];
        let mut calls = vec![NONE; spans.len()];
        for (_, is_return, operation) in order {
            let at = nodes.len();
            if is_return {
                let call: usize = calls[operation];
                nodes[call].back = at;
            } else {
                calls[operation] = at;
            }
            nodes[at - 1].next = at;
            let is_call = !is_return;
            nodes.push(Node { previous: at - 1, next: NONE, operation, back: NONE, is_call });
        }
        Self { nodes }
    }

    fn first(&self) -> usize {
        self.nodes[0].next
    }

    fn unlink(&mut self, at: usize) {
        let Node { previous, next, .. } = self.nodes[at];
        self.nodes[previous].next = next;
        if next != NONE {
            self.nodes[next].previous = previous;
        }
    }

    fn relink(&mut self, at: usize) {
        let Node { previous, next, .. } = self.nodes[at];
        self.nodes[previous].next = at;
        if next != NONE {
            self.nodes[next].previous = at;
        }
    }

    /// Takes a call and its return out of the list.
    fn lift(&mut self, call: usize) {
        self.unlink(call);
        if self.nodes[call].back != NONE {
            self.unlink(self.nodes[call].back);
        }
    }

    /// Puts back what was lifted last.
    fn unlift(&mut self, call: usize) {
        if self.nodes[call].back != NONE {
            self.relink(self.nodes[call].back);
        }
        self.relink(call);
    }
}

/// A set of operations, as bits.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Lifted(Box<[u64]>);

impl Lifted {
    fn flip(&mut self, operation: usize) {
        self.0[operation / 64] ^= 1 << (operation % 64);
    }
}

/// Searches for an order of `spans` that `model` allows. Cost: memory of one bit per operation
/// and a state for each dead end.
pub fn search<M: Model>(model: &M, spans: &[Span<M::Operation>], bound: Bound) -> Found {
    let mut events = Events::of(spans);
    let mut state = model.initial();
    let mut lifted = Lifted(vec![0; spans.len().div_ceil(64)].into());
    let mut dead: HashSet<(Lifted, M::State)> = HashSet::new();
    let mut path: Vec<(usize, M::State)> = Vec::new();
    let mut left = spans.iter().filter(|span| span.back.is_some()).count();
    let mut at = events.first();
    for _ in 0..bound.steps_max {
        if left == 0 {
            return Found::Linearizable;
        }
        // While an answered operation is left its return is in the list, so the walk meets it.
        let Node { next, operation, back, is_call, .. } = events.nodes[at];
        if !is_call {
            let Some((call, before)) = path.pop() else { return Found::Illegal };
            let Node { operation, back, .. } = events.nodes[call];
            state = before;
            lifted.flip(operation);
            left += usize::from(back != NONE);
            events.unlift(call);
            at = events.nodes[call].next;
            continue;
        }
        let stepped = model.step(&state, &spans[operation].operation);
        let Some(after) = stepped else {
            at = next;
            continue;
        };
        lifted.flip(operation);
        if dead.contains(&(lifted.clone(), after.clone())) {
            lifted.flip(operation);
            at = next;
            continue;
        }
        if dead.len() >= bound.remembered_max {
            return Found::Undecided;
        }
        dead.insert((lifted.clone(), after.clone()));
        path.push((at, std::mem::replace(&mut state, after)));
        events.lift(at);
        left -= usize::from(back != NONE);
        at = events.first();
    }
    if left == 0 { Found::Linearizable } else { Found::Undecided }
}
