//! The ring of tokens, and the walk along it.

use std::collections::BTreeMap;

use holdfast_model::{NodeId, RangeId};
use xxhash_rust::xxh3::xxh3_64;

use crate::Placement;
use crate::shares::{Part, REPLICA, shares};

/// Tokens of a node of weight 1.0.
pub const TOKENS_PER_WEIGHT: u64 = 256;

/// Weights are given in thousandths.
const WEIGHT_ONE_MILLI: u64 = 1_000;

/// No node holds more than this many hundredths of its share.
const LOAD_MAX_PERCENT: u64 = 125;

/// A node, as the ring sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingNode {
    /// Its id.
    pub id: NodeId,
    /// Failure zone; nodes without one are one zone.
    pub zone: String,
    /// Share of the ring in thousandths (1000 = weight 1.0; 0 = drained, holds nothing).
    pub weight_milli: u32,
}

/// A node that has tokens.
#[derive(Debug)]
struct Member {
    id: NodeId,
    zone: usize,
    weight: u64,
}

/// The tokens of all nodes with weight, in ring order.
#[derive(Debug)]
pub struct Ring {
    members: Vec<Member>,
    zones: usize,
    /// (token, member), sorted.
    tokens: Vec<(u64, u32)>,
}

impl Ring {
    /// The ring of `nodes`, in any order; of nodes with the same id the first counts.
    /// Cost: n log n of all tokens.
    pub fn new(nodes: &[RingNode]) -> Self {
        let mut by_id: BTreeMap<NodeId, &RingNode> = BTreeMap::new();
        for node in nodes.iter().filter(|node| node.weight_milli > 0) {
            by_id.entry(node.id).or_insert(node);
        }
        let mut zones: Vec<&str> = by_id.values().map(|node| node.zone.as_str()).collect();
        zones.sort_unstable();
        zones.dedup();
        let member = |node: &&RingNode| Member {
            id: node.id,
            zone: zones.partition_point(|zone| *zone < node.zone.as_str()),
            weight: u64::from(node.weight_milli),
        };
        let members: Vec<Member> = by_id.values().map(member).collect();
        let tokens = tokens_of(&members);
        Self { zones: zones.len(), members, tokens }
    }

    /// The preferred replicas of `ranges`, each given with the number of replicas it wants (or one
    /// on every node that has weight, where that is less), most preferred first.
    ///
    /// Ranges are placed in the order of their ids, so that ranges created later do not push
    /// older ones around. Cost: a short walk per replica.
    pub fn place(&self, ranges: &[(RangeId, u32)]) -> Placement {
        let ranges: BTreeMap<RangeId, u32> = ranges.iter().copied().collect();
        let mut loads = Loads::new(self, &ranges);
        ranges.iter().map(|(id, wanted)| (*id, self.replicas(*id, *wanted, &mut loads))).collect()
    }

    fn replicas(&self, range: RangeId, wanted: u32, loads: &mut Loads) -> Vec<NodeId> {
        let wanted = (wanted as usize).min(self.members.len());
        let mut chosen: Vec<usize> = Vec::with_capacity(wanted);
        while chosen.len() < wanted {
            let Some(next) = self.next_replica(point(range), &chosen, loads) else { break };
            loads.held[next] += 1;
            chosen.push(next);
        }
        chosen.into_iter().map(|member| self.members[member].id).collect()
    }

    /// The first member on the walk from `point` that is in a zone of its own (while zones
    /// remain) and has room; where none has room, the least loaded of them.
    fn next_replica(&self, point: u64, chosen: &[usize], loads: &Loads) -> Option<usize> {
        let zone_is_taken = |zone| chosen.iter().any(|member| self.members[*member].zone == zone);
        let zones_remain = (0..self.zones).any(|zone| !zone_is_taken(zone));
        let is_eligible = |member: &usize| {
            let is_same_zone = zones_remain && zone_is_taken(self.members[*member].zone);
            !is_same_zone && !chosen.contains(member)
        };
        let with_room = |member: &usize| loads.has_room(*member) && is_eligible(member);
        self.walk(point).find(with_room).or_else(|| {
            let members = (0..self.members.len()).filter(is_eligible);
            members.min_by_key(|member| loads.overload(*member))
        })
    }

    /// The members whose tokens follow `point` clockwise; one comes once per token.
    fn walk(&self, point: u64) -> impl Iterator<Item = usize> {
        let start = self.tokens.partition_point(|(token, _)| *token < point);
        let (before, after) = self.tokens.split_at(start);
        after.iter().chain(before).map(|(_, member)| *member as usize)
    }
}

/// Tokens of a member are decided by its id and their number alone, so they stay when it changes
/// weight, and every machine finds the same.
fn tokens_of(members: &[Member]) -> Vec<(u64, u32)> {
    let mut tokens = Vec::new();
    for (index, member) in (0u32..).zip(members) {
        let count = (TOKENS_PER_WEIGHT * member.weight).div_ceil(WEIGHT_ONE_MILLI);
        tokens.extend((0..count as u32).map(|i| (token(member.id, i), index)));
    }
    tokens.sort_unstable();
    tokens
}

/// `xxh3_64(node id as LE u64 ‖ i as LE u32)`.
fn token(node: NodeId, i: u32) -> u64 {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&node.0.to_le_bytes());
    bytes[8..].copy_from_slice(&i.to_le_bytes());
    xxh3_64(&bytes)
}

/// `xxh3_64(range id as LE u64)`: where the walk for a range starts.
///
/// Not the start of its span: keyspaces of 8 ranges all start at the same 8 points, so all would
/// prefer the same few nodes, and the bound on load would decide everything.
fn point(range: RangeId) -> u64 {
    xxh3_64(&range.0.to_le_bytes())
}

/// How many replicas each member holds so far, and may hold.
#[derive(Debug)]
struct Loads {
    held: Vec<u64>,
    /// Share of each member, in thousandths of a replica.
    share: Vec<u64>,
}

impl Loads {
    fn new(ring: &Ring, ranges: &BTreeMap<RangeId, u32>) -> Self {
        let mut share = vec![0; ring.members.len()];
        for (zone, zone_share) in zone_shares(ring, ranges).into_iter().enumerate() {
            let members: Vec<usize> = members_of(ring, zone).collect();
            let part = |member: &usize| Part {
                weight: ring.members[*member].weight,
                min: 0,
                max: ranges.len() as u64 * REPLICA,
            };
            let parts: Vec<Part> = members.iter().map(part).collect();
            for (member, amount) in members.into_iter().zip(shares(zone_share, &parts)) {
                share[member] = amount;
            }
        }
        Self { held: vec![0; ring.members.len()], share }
    }

    /// Whether one more keeps the member within its bound, counted in whole replicas upwards.
    fn has_room(&self, member: usize) -> bool {
        let bound = (self.share[member] * LOAD_MAX_PERCENT).div_ceil(100 * REPLICA);
        self.held[member] < bound
    }

    /// Sorts members by how far one more would put them above their share.
    fn overload(&self, member: usize) -> u64 {
        (self.held[member] + 1) * REPLICA * REPLICA / self.share[member].max(1)
    }
}

fn members_of(ring: &Ring, zone: usize) -> impl Iterator<Item = usize> {
    (0..ring.members.len()).filter(move |member| ring.members[*member].zone == zone)
}

/// What each zone should hold: by weight, but at least one replica of every range that has
/// enough of them for all zones, and no more than one of a range that has not.
fn zone_shares(ring: &Ring, ranges: &BTreeMap<RangeId, u32>) -> Vec<u64> {
    let zones = ring.zones as u64;
    let members = ring.members.len() as u64;
    let wanted = || ranges.values().map(|wanted| u64::from(*wanted).min(members));
    let part = |zone| {
        let size = members_of(ring, zone).count() as u64;
        let most = |wanted: u64| (wanted.saturating_sub(zones) + 1).min(size).min(wanted);
        Part {
            weight: members_of(ring, zone).map(|member| ring.members[member].weight).sum(),
            min: wanted().filter(|wanted| *wanted >= zones).count() as u64 * REPLICA,
            max: wanted().map(most).sum::<u64>() * REPLICA,
        }
    };
    let parts: Vec<Part> = (0..ring.zones).map(part).collect();
    shares(wanted().sum::<u64>() * REPLICA, &parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_points_are_the_golden_vectors() {
        assert_eq!(token(NodeId(1), 0), 0x1ae5_c641_2588_0f18);
        assert_eq!(token(NodeId(1), 255), 0x0237_4135_0a27_02a9);
        assert_eq!(token(NodeId(0xdead_beef), 7), 0x995f_38ff_269f_e0ec);
        assert_eq!(point(RangeId(0)), 0xc77b_3abb_6f87_acd9);
        assert_eq!(point(RangeId(1)), 0x2fbc_5935_64db_792e);
    }

    #[test]
    fn a_heavier_node_keeps_the_tokens_it_had() {
        let node = |weight_milli| RingNode { id: NodeId(7), zone: String::new(), weight_milli };
        let light = Ring::new(&[node(1_000)]).tokens;
        let heavy = Ring::new(&[node(2_500)]).tokens;
        assert_eq!((light.len(), heavy.len()), (256, 640));
        assert!(light.iter().all(|token| heavy.contains(token)));
    }
}
