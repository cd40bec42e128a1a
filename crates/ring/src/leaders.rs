//! Which replica of each range should lead.
//!
//! Two wishes, the first one stronger: no node leads more than one range more than another, and
//! the most preferred healthy replica leads. Giving each range in turn to its least busy replica
//! gets stuck above the optimum, so this is solved as the graph problem it is. Nodes are points;
//! an arc runs from `a` to `b` if `a` leads a range that `b` could lead. Moving one leadership
//! along each arc of a path takes one from its start and gives one to its end:
//! * as long as some path ends at a node that leads at least two less, follow it (when none is
//!   left, the loads are as even as they can be: Harvey et al., theorem 3.1);
//! * then follow cycles that make more ranges led as preferred, which changes no load.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use holdfast_model::{NodeId, RangeId};

use crate::Placement;

/// Cycles followed at most for the second wish; beyond, leaders are even yet less as preferred.
const CYCLES_MAX: usize = 4_096;

/// The target leaders for `placement` while only `healthy` nodes can lead. Ranges without a
/// healthy replica are left out. Where every node could take any range, loads differ by one at
/// most.
///
/// Cost: proportional to replicas times leaderships that must leave their preferred node; some
/// milliseconds for thousands of ranges.
pub fn leaders(placement: &Placement, healthy: &BTreeSet<NodeId>) -> BTreeMap<RangeId, NodeId> {
    let mut layout = Layout::preferred(placement, healthy);
    layout.even_out();
    layout.prefer();
    let led = layout.ranges.iter().zip(&layout.leader);
    led.map(|(range, leader)| (range.id, layout.nodes[range.candidates[*leader]])).collect()
}

/// A range with the nodes that can lead it, most preferred first.
struct Candidates {
    id: RangeId,
    /// Indexes into `Layout::nodes`; never empty.
    candidates: Vec<usize>,
}

struct Layout {
    nodes: Vec<NodeId>,
    ranges: Vec<Candidates>,
    /// By range: which of its candidates leads.
    leader: Vec<usize>,
    /// By node: the ranges it leads.
    led: Vec<BTreeSet<usize>>,
}

/// A leadership that could move: range `range` to its candidate `candidate`.
#[derive(Clone, Copy)]
struct Step {
    range: usize,
    candidate: usize,
}

impl Layout {
    fn preferred(placement: &Placement, healthy: &BTreeSet<NodeId>) -> Self {
        let nodes: Vec<NodeId> = healthy.iter().copied().collect();
        let mut led = vec![BTreeSet::new(); nodes.len()];
        let mut ranges = Vec::new();
        for (id, replicas) in placement {
            let index = |node| nodes.binary_search(node).ok();
            let candidates: Vec<usize> = replicas.iter().filter_map(index).collect();
            if let Some(first) = candidates.first() {
                led[*first].insert(ranges.len());
                ranges.push(Candidates { id: *id, candidates });
            }
        }
        Self { nodes, leader: vec![0; ranges.len()], ranges, led }
    }

    fn node_of(&self, step: Step) -> usize {
        self.ranges[step.range].candidates[step.candidate]
    }

    fn leader_of(&self, range: usize) -> usize {
        self.ranges[range].candidates[self.leader[range]]
    }

    fn take(&mut self, step: Step) {
        let from = self.leader_of(step.range);
        self.led[from].remove(&step.range);
        self.leader[step.range] = step.candidate;
        let to = self.node_of(step);
        self.led[to].insert(step.range);
    }

    /// Every move of one leadership away from `node`.
    fn steps_from(&self, node: usize) -> impl Iterator<Item = Step> {
        self.led[node].iter().flat_map(move |range| {
            let count = self.ranges[*range].candidates.len();
            let others = (0..count).filter(move |candidate| *candidate != self.leader[*range]);
            others.map(move |candidate| Step { range: *range, candidate })
        })
    }

    /// Every path followed lowers the sum of squared loads, so this ends.
    fn even_out(&mut self) {
        loop {
            let mut by_load: Vec<usize> = (0..self.nodes.len()).collect();
            by_load.sort_by_key(|node| std::cmp::Reverse(self.led[*node].len()));
            let Some(path) = by_load.into_iter().find_map(|node| self.path_to_idler(node)) else {
                return;
            };
            path.into_iter().for_each(|step| self.take(step));
        }
    }

    /// A shortest path from `busy` to a node that leads at least two ranges less.
    fn path_to_idler(&self, busy: usize) -> Option<Vec<Step>> {
        let load = self.led[busy].len();
        let mut reached: Vec<Option<Step>> = vec![None; self.nodes.len()];
        let mut open = VecDeque::from([busy]);
        while let Some(node) = open.pop_front() {
            for step in self.steps_from(node) {
                let next = self.node_of(step);
                if next == busy || reached[next].is_some() {
                    continue;
                }
                reached[next] = Some(step);
                if self.led[next].len() + 2 <= load {
                    return Some(self.path_back(&reached, busy, next));
                }
                open.push_back(next);
            }
        }
        None
    }

    /// The steps that led from `start` to `end`, last one first.
    fn path_back(&self, reached: &[Option<Step>], start: usize, end: usize) -> Vec<Step> {
        let mut path = Vec::new();
        let mut node = end;
        while node != start {
            let Some(step) = reached[node] else { break };
            path.push(step);
            node = self.leader_of(step.range);
        }
        path
    }

    /// How many more ranges `step` leaves led by another than the most preferred node: −1, 0, 1.
    fn cost(&self, step: Step) -> i64 {
        i64::from(step.candidate != 0) - i64::from(self.leader[step.range] != 0)
    }

    fn prefer(&mut self) {
        for _ in 0..CYCLES_MAX {
            match self.improving_cycle() {
                Some(cycle) => cycle.into_iter().for_each(|step| self.take(step)),
                None => return,
            }
        }
    }

    /// A cycle of negative cost, found as Bellman and Ford do.
    fn improving_cycle(&self) -> Option<Vec<Step>> {
        let arcs = self.arcs();
        let points = arcs.iter().map(|arc| arc.to + 1).max().unwrap_or(0).max(self.nodes.len());
        let mut distance = vec![0i64; points];
        let mut parent: Vec<Option<Arc>> = vec![None; points];
        for _ in 0..=points {
            let mut is_settled = true;
            for arc in &arcs {
                if distance[arc.from] + arc.cost < distance[arc.to] {
                    distance[arc.to] = distance[arc.from] + arc.cost;
                    parent[arc.to] = Some(*arc);
                    is_settled = false;
                }
            }
            if is_settled {
                return None;
            }
            if let Some(point) = point_on_cycle(&parent) {
                return Some(cycle_through(&parent, point));
            }
        }
        None
    }

    /// The cheapest arc between any two nodes, and arcs through one point per load.
    ///
    /// A path from a node to one that leads one less is as good as a cycle: their loads change
    /// places. It is closed by two arcs that move nothing, by way of the point of the smaller load.
    fn arcs(&self) -> Vec<Arc> {
        let mut arcs: BTreeMap<(usize, usize), Arc> = BTreeMap::new();
        for from in 0..self.nodes.len() {
            for step in self.steps_from(from) {
                let arc =
                    Arc { from, to: self.node_of(step), cost: self.cost(step), step: Some(step) };
                let known = arcs.entry((from, arc.to)).or_insert(arc);
                if arc.cost < known.cost {
                    *known = arc;
                }
            }
        }
        let mut arcs: Vec<Arc> = arcs.into_values().collect();
        for (node, led) in self.led.iter().enumerate() {
            let point_of = |load: usize| self.nodes.len() + load;
            arcs.push(Arc { from: node, to: point_of(led.len()), cost: 0, step: None });
            if let Some(smaller) = led.len().checked_sub(1) {
                arcs.push(Arc { from: point_of(smaller), to: node, cost: 0, step: None });
            }
        }
        arcs
    }
}

#[derive(Clone, Copy)]
struct Arc {
    from: usize,
    to: usize,
    cost: i64,
    /// `None` where nothing moves.
    step: Option<Step>,
}

/// A point from which the parents lead back to itself, if there is one.
fn point_on_cycle(parent: &[Option<Arc>]) -> Option<usize> {
    let mut visited_from = vec![usize::MAX; parent.len()];
    for start in 0..parent.len() {
        let mut at = start;
        while visited_from[at] == usize::MAX {
            visited_from[at] = start;
            match &parent[at] {
                Some(arc) => at = arc.from,
                None => break,
            }
        }
        if visited_from[at] == start && parent[at].is_some() {
            return Some(at);
        }
    }
    None
}

/// The steps of the cycle that the parents of `point` form.
fn cycle_through(parent: &[Option<Arc>], point: usize) -> Vec<Step> {
    let (mut steps, mut at) = (Vec::new(), point);
    while let Some(arc) = &parent[at] {
        steps.extend(arc.step);
        at = arc.from;
        if at == point {
            break;
        }
    }
    steps
}
