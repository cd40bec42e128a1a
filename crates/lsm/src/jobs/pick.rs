//! What to compact next.
//!
//! Leveled, the usual way:
//!
//! Sizes of the levels follow from the largest one: each level above it is smaller by the
//! multiplier, down to the first that would be below the base size; level 0 compacts right into
//! that one. So the last level holds about nine tenths of the data, whatever its amount, and dead
//! versions above it cost little space.
//!
//! Tiered: every level is one run. Level 0 is merged with the runs behind it as long as they are
//! not longer than what was gathered so far, like the carry of a binary counter; the result lies
//! right above the first run that is longer. So a record is rewritten when its run has about
//! doubled, and runs are at most as many as there are levels.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::blob::BlobFile;
use crate::generation::Claims;
use crate::jobs::pick::overlap::{Hull, overlapping, overlapping_bytes};
use crate::limits::LEVELS;
use crate::options::{CompactionStyle, EngineOptions};
use crate::span::SpanFilter;
use crate::table::{FamilyProperties, Properties, Table};
use crate::types::Family;
use crate::version::Version;

mod overlap;

/// A table is compacted for its own sake when one in so many records is dead.
const GARBAGE_SHARE: u64 = 4;
/// A table with others beneath it, which will be merged down anyway, is rewritten where it is
/// when one in so many records is shadowed.
const SHADOWED_SHARE_UPPER: u64 = 2;
/// The live values of a blob file are written to another when less than one in so many of its
/// bytes is referred to.
const BLOB_LIVE_SHARE: u64 = 2;
/// A table is merged down for the sake of what its range tombstones hide beneath it when that is
/// one in so many of the bytes to be rewritten.
const HIDDEN_SHARE: u64 = 8;
/// Level 0 is compacted for its own sake when one in so many records is a tombstone.
const TOMBSTONE_SHARE_LEVEL0: u64 = 2;

/// Tables of one level that take part.
pub(crate) struct Input {
    pub(crate) level: usize,
    pub(crate) tables: Vec<Arc<Table>>,
}

/// A compaction.
pub(crate) struct Plan {
    /// Newest first.
    pub(crate) inputs: Vec<Input>,
    pub(crate) output_level: usize,
    /// Nothing is to be merged: the tables only change their level.
    pub(crate) is_move: bool,
    pub(crate) watermark: u64,
    pub(crate) span: Option<Arc<SpanFilter>>,
    /// Blob files that are mostly dead: what is alive in them moves.
    pub(crate) collected_blobs: BTreeSet<u64>,
    /// The version it was picked from; what lies below the output is looked up there.
    pub(crate) below: Arc<Version>,
}

impl Plan {
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.inputs.iter().flat_map(|input| &input.tables)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.tables().map(|t| t.bytes()).sum()
    }

    pub(crate) fn reads_level0(&self) -> bool {
        self.inputs.iter().any(|input| input.level == 0)
    }

    pub(crate) fn claim(&self, claims: &mut Claims) {
        claims.takes_level0 |= self.reads_level0();
        claims.tables.extend(self.tables().map(|t| t.number()));
    }

    pub(crate) fn release(&self, claims: &mut Claims) {
        if self.reads_level0() {
            claims.takes_level0 = false;
        }
        for table in self.tables() {
            claims.tables.remove(&table.number());
        }
        claims.idle_at = None;
    }
}

/// How large each level may be, and which one level 0 compacts into.
struct Targets {
    base_level: usize,
    bytes: [u64; LEVELS],
}

impl Targets {
    fn of(version: &Version, options: &EngineOptions) -> Self {
        let last = LEVELS - 1;
        let sizes: [u64; LEVELS] = std::array::from_fn(|level| version.level_bytes(level));
        let largest = sizes.iter().skip(1).copied().max().unwrap_or(0);
        let first_used = (1..LEVELS).find(|level| sizes[*level] > 0).unwrap_or(last);
        let multiplier = options.level_multiplier;
        let mut size = largest;
        for _ in first_used..last {
            size /= multiplier;
        }
        let mut base_level = first_used;
        while base_level > 1 && size > options.level_base_bytes {
            base_level -= 1;
            size /= multiplier;
        }
        let mut bytes = [u64::MAX; LEVELS];
        let mut target = size.clamp(1, options.level_base_bytes);
        for slot in bytes.iter_mut().skip(base_level) {
            // An upper level below the base size would be compacted over and over.
            *slot = target.max(options.level_base_bytes);
            target = target.saturating_mul(multiplier);
        }
        Self { base_level, bytes }
    }
}

/// Bytes that have to be rewritten until level 0 is empty and no level is over its size.
pub(crate) fn debt_bytes(version: &Version, options: &EngineOptions) -> u64 {
    let targets = Targets::of(version, options);
    if options.compaction_style == CompactionStyle::Tiered {
        let is_due = version.level(0).len() >= options.level0_tables;
        return if is_due { version.level_bytes(0) } else { 0 };
    }
    let level0 = if version.level(0).len() >= options.level0_tables {
        version.level_bytes(0) + version.level_bytes(targets.base_level)
    } else {
        0
    };
    let over = |level: usize| {
        let excess = version.level_bytes(level).saturating_sub(targets.bytes[level]);
        excess.saturating_mul(options.level_multiplier)
    };
    (targets.base_level..LEVELS - 1).map(over).fold(level0, u64::saturating_add)
}

/// The most urgent compaction that touches nothing claimed.
pub(crate) fn pick(
    version: &Arc<Version>,
    options: &EngineOptions,
    watermark: u64,
    span: Option<Arc<SpanFilter>>,
    claims: &Claims,
) -> Option<Plan> {
    let targets = Targets::of(version, options);
    let dead_blobs = mostly_dead_blobs(version);
    let picker = Picker { version, options, watermark, span, claims, targets, dead_blobs };
    if options.compaction_style == CompactionStyle::Tiered {
        let is_due = version.level(0).len() >= options.level0_tables;
        return if is_due { picker.level0() } else { None }.or_else(|| picker.garbage());
    }
    // Scores in thousandths; only those of at least one count.
    let mut scores: Vec<(u64, usize)> =
        (0..LEVELS - 1).map(|level| (picker.score_milli(level), level)).collect();
    scores.retain(|(score, _)| *score >= 1_000);
    scores.sort_by_key(|(score, level)| (std::cmp::Reverse(*score), *level));
    scores
        .into_iter()
        .find_map(|(_, level)| if level == 0 { picker.level0() } else { picker.level(level) })
        .or_else(|| picker.garbage())
}

struct Picker<'a> {
    version: &'a Arc<Version>,
    options: &'a EngineOptions,
    watermark: u64,
    span: Option<Arc<SpanFilter>>,
    claims: &'a Claims,
    targets: Targets,
    dead_blobs: BTreeSet<u64>,
}

/// Blob files of which few bytes are referred to.
fn mostly_dead_blobs(version: &Version) -> BTreeSet<u64> {
    let used = version.blob_use();
    let is_dead = |blob: &Arc<BlobFile>| {
        let live = used.get(&blob.number()).copied().unwrap_or(0);
        live.saturating_mul(BLOB_LIVE_SHARE) < blob.value_bytes()
    };
    version.blobs().iter().filter(|b| is_dead(b)).map(|b| b.number()).collect()
}

impl Picker<'_> {
    fn score_milli(&self, level: usize) -> u64 {
        let tables = self.version.level(level);
        if level == 0 {
            return 1_000 * tables.len() as u64 / self.options.level0_tables as u64;
        }
        if level < self.targets.base_level {
            return 0;
        }
        let bytes: u64 = tables.iter().filter(|t| self.is_free(t)).map(|t| t.bytes()).sum();
        bytes.saturating_mul(1_000) / self.targets.bytes[level]
    }

    fn is_free(&self, table: &Table) -> bool {
        !self.claims.tables.contains(&table.number())
    }

    fn all_free(&self, tables: &[Arc<Table>]) -> bool {
        tables.iter().all(|t| self.is_free(t))
    }

    fn plan(&self, inputs: Vec<Input>, output_level: usize, is_move: bool) -> Plan {
        let below = self.version.clone();
        let (watermark, span) = (self.watermark, self.span.clone());
        let collected_blobs = self.dead_blobs.clone();
        Plan { inputs, output_level, is_move, watermark, span, collected_blobs, below }
    }

    /// All of level 0 and the runs behind it that are not longer than what precedes them.
    fn tier(&self) -> Option<Plan> {
        let tables = self.version.level(0).to_vec();
        if tables.is_empty() {
            return None;
        }
        let mut gathered = self.version.level_bytes(0);
        let mut inputs = vec![Input { level: 0, tables }];
        let mut output_level = LEVELS - 1;
        for level in 1..LEVELS {
            let run = self.version.level(level);
            let bytes = self.version.level_bytes(level);
            // Above a run in level 1 there is no place for another one.
            if bytes > gathered && level > 1 {
                output_level = level - 1;
                break;
            }
            gathered += bytes;
            if !run.is_empty() {
                inputs.push(Input { level, tables: run.to_vec() });
            }
        }
        let is_free = inputs.iter().all(|input| input.level == 0 || self.all_free(&input.tables));
        is_free.then(|| self.plan(inputs, output_level, false))
    }

    /// All of level 0 into the base level.
    fn level0(&self) -> Option<Plan> {
        if self.claims.takes_level0 {
            return None;
        }
        if self.options.compaction_style == CompactionStyle::Tiered {
            return self.tier();
        }
        let output_level = self.targets.base_level;
        let tables = self.version.level(0).to_vec();
        let hull = Hull::of(&tables)?;
        let lower = overlapping(self.version.level(output_level), &hull);
        let apart = lower.is_empty() && are_disjoint(&tables);
        let same_format = self.options.compression[0] == self.options.compression[output_level];
        // Small tables are merged: moved ones would stay small for ever.
        let all_long = tables.iter().all(|t| t.bytes() >= self.options.table_bytes / 4);
        let must_change = tables.iter().any(|t| self.refers_to_dead(t) || self.is_foreign(t));
        if apart && same_format && all_long && !must_change {
            let input = Input { level: 0, tables };
            return Some(self.plan(vec![input], output_level, true));
        }
        if !self.all_free(lower) {
            return None;
        }
        let lower = Input { level: output_level, tables: lower.to_vec() };
        Some(self.plan(vec![Input { level: 0, tables }, lower], output_level, false))
    }

    /// The table of `level` that is cheapest to merge into the next one, per byte it takes away.
    fn level(&self, level: usize) -> Option<Plan> {
        let next = self.version.level(level + 1);
        let cost_milli = |table: &Arc<Table>| {
            let bytes = overlapping_bytes(next, &Hull::of_one(table));
            bytes.saturating_mul(1_000) / table.bytes().max(1)
        };
        let candidate = |table: &&Arc<Table>| {
            self.is_free(table) && self.all_free(overlapping(next, &Hull::of_one(table)))
        };
        let tables = self.version.level(level).iter().filter(candidate);
        let table = tables.min_by_key(|t| (cost_milli(t), t.number()))?;
        self.merge_down(level, table)
    }

    /// `table` of `level` into the next level, unless what it meets there is taken.
    fn merge_down(&self, level: usize, table: &Arc<Table>) -> Option<Plan> {
        let lower = overlapping(self.version.level(level + 1), &Hull::of_one(table)).to_vec();
        if !self.all_free(&lower) {
            return None;
        }
        let same_format = self.options.compression[level] == self.options.compression[level + 1];
        let is_move = lower.is_empty() && same_format;
        let mut inputs = vec![Input { level, tables: vec![table.clone()] }];
        if !is_move {
            inputs.push(Input { level: level + 1, tables: lower });
        }
        Some(self.plan(inputs, level + 1, is_move))
    }

    /// Something nobody may read any more and no growing level will ever push out: data that is
    /// no longer written to would keep its dead versions, and deleted data its place, for ever.
    fn garbage(&self) -> Option<Plan> {
        let reclaim = |level, table: &Arc<Table>| {
            self.is_reclaimable(table).then(|| self.reclaim(level, table)).flatten()
        };
        self.deepest(LEVELS - 1, reclaim)
            .or_else(|| self.merge_down_where(|level, t| self.hides_much(level, t)))
            .or_else(|| self.spent_ranges())
            .or_else(|| self.merge_down_where(|level, t| self.frees_much(level, t)))
            // A mostly dead blob file holds on to its space, a table of an older span to foreign
            // keys.
            .or_else(|| self.rewrite_where(|t| self.refers_to_dead(t)))
            .or_else(|| self.rewrite_where(|t| self.is_foreign(t)))
            .or_else(|| self.tombstones_of_level0())
    }

    /// What `plan` makes of the first free table it takes, from the level `lowest` up to 1.
    fn deepest(
        &self,
        lowest: usize,
        plan: impl Fn(usize, &Arc<Table>) -> Option<Plan>,
    ) -> Option<Plan> {
        (1..=lowest).rev().find_map(|level| {
            let mut free = self.version.level(level).iter().filter(|t| self.is_free(t));
            free.find_map(|table| plan(level, table))
        })
    }

    /// Brings a table down of which this is true: what it deletes lies beneath.
    fn merge_down_where(&self, is_due: impl Fn(usize, &Arc<Table>) -> bool) -> Option<Plan> {
        let merged = |level, table: &Arc<Table>| {
            is_due(level, table).then(|| self.merge_down(level, table)).flatten()
        };
        let level0 = || {
            let is_due = self.version.level(0).iter().any(|t| is_due(0, t));
            is_due.then(|| self.level0()).flatten()
        };
        self.deepest(LEVELS - 2, merged).or_else(level0)
    }

    /// Level 0, once it is mostly tombstones that everybody may see.
    fn tombstones_of_level0(&self) -> Option<Plan> {
        let level0 = self.version.level(0);
        let sum = |count: fn(&Properties) -> u64| -> u64 {
            level0.iter().map(|t| count(t.properties())).sum()
        };
        let is_mostly_tombstones =
            sum(Properties::tombstones) * TOMBSTONE_SHARE_LEVEL0 >= sum(Properties::records);
        let is_due = is_mostly_tombstones && level0.iter().all(|t| self.is_reclaimable(t));
        is_due.then(|| self.level0()).flatten()
    }

    /// Whether the tombstones of a table would free so much beneath it that it is worth the
    /// rewriting. A tombstone is taken to lie over an expired record of the usual length while
    /// there are such.
    fn frees_much(&self, level: usize, table: &Arc<Table>) -> bool {
        let tombstones = table.properties().tombstones();
        if tombstones == 0 || !self.is_reclaimable(table) {
            return false;
        }
        let (clock_ms, hull) = (self.version.point.clock_ms, Hull::of_one(table));
        let beneath = (level + 1..LEVELS).flat_map(|b| overlapping(self.version.level(b), &hull));
        let (mut expired, mut raw, mut records) = (0u64, 0u64, 0u64);
        for properties in beneath.map(|other| other.properties()) {
            expired = expired.saturating_add(properties.expiry.expired_bytes(clock_ms));
            let families = properties.families.iter().filter(|f| f.family.keeps_versions());
            for family in families {
                (raw, records) = (raw + family.raw_bytes, records + family.records);
            }
        }
        let freed = expired.min(tombstones.saturating_mul(raw / records.max(1)));
        let next = if level == 0 { self.targets.base_level } else { level + 1 };
        let rewritten = raw_bytes(table)
            + overlapping(self.version.level(next), &hull)
                .iter()
                .map(|t| raw_bytes(t))
                .sum::<u64>();
        freed > 0 && freed.saturating_mul(HIDDEN_SHARE) >= rewritten
    }

    /// A table that holds range tombstones together with what they hide and has nothing beneath
    /// it, to be written anew without either.
    fn spent_ranges(&self) -> Option<Plan> {
        let is_spent = |level, table: &Arc<Table>| {
            let properties = table.properties();
            properties.ranges > 0
                && properties.ranges_gone_at <= self.watermark
                && self.is_bottommost(level, table)
        };
        (1..LEVELS).find_map(|level| {
            let mut tables = self.version.level(level).iter();
            let table = tables.find(|t| self.is_free(t) && is_spent(level, t))?;
            let input = Input { level, tables: vec![table.clone()] };
            Some(self.plan(vec![input], level, false))
        })
    }

    /// Whether a table of `level` hides so much from everybody in the tables beneath that it is
    /// worth the rewriting.
    fn hides_much(&self, level: usize, table: &Arc<Table>) -> bool {
        let properties = table.properties();
        if properties.ranges == 0 || properties.ranges_gone_at > self.watermark {
            return false;
        }
        let beneath = (level + 1..LEVELS).flat_map(|below| self.version.level(below));
        let hidden: u64 = beneath.map(|other| hidden_bytes(table, other)).sum();
        let next = if level == 0 { self.targets.base_level } else { level + 1 };
        let met = overlapping_bytes(self.version.level(next), &Hull::of_one(table));
        hidden > 0 && hidden.saturating_mul(HIDDEN_SHARE) >= table.bytes() + met
    }

    fn refers_to_dead(&self, table: &Table) -> bool {
        table.properties().blobs.iter().any(|used| self.dead_blobs.contains(&used.file))
    }

    /// Whether the table was written before the span changed last.
    fn is_foreign(&self, table: &Table) -> bool {
        let epoch = self.span.as_ref().map_or(0, |span| span.epoch);
        table.family(Family::Data).is_some() && table.properties().span_epoch < epoch
    }

    /// A table of which this is true, to be written anew.
    fn rewrite_where(&self, is_due: impl Fn(&Table) -> bool) -> Option<Plan> {
        for level in 1..LEVELS {
            let mut tables = self.version.level(level).iter();
            if let Some(table) = tables.find(|t| self.is_free(t) && is_due(t)) {
                let input = Input { level, tables: vec![table.clone()] };
                return Some(self.plan(vec![input], level, false));
            }
        }
        if self.version.level(0).iter().any(|t| is_due(t)) { self.level0() } else { None }
    }

    /// What rids the tree of the dead records of `table`, if they are many.
    fn reclaim(&self, level: usize, table: &Arc<Table>) -> Option<Plan> {
        let properties = table.properties();
        let (records, tombstones) = (properties.records(), properties.tombstones());
        let shadowed = properties.garbage.saturating_sub(tombstones);
        let in_place = || {
            let input = Input { level, tables: vec![table.clone()] };
            self.plan(vec![input], level, false)
        };
        if self.is_bottommost(level, table) {
            (properties.garbage * GARBAGE_SHARE >= records).then(in_place)
        } else if shadowed * SHADOWED_SHARE_UPPER >= records {
            Some(in_place())
        } else if tombstones * GARBAGE_SHARE >= records && level + 1 < LEVELS {
            self.merge_down(level, table)
        } else {
            None
        }
    }

    /// Whether everything dead in the table may go, where nothing older lies beneath.
    fn is_reclaimable(&self, table: &Table) -> bool {
        let properties = table.properties();
        properties.garbage > 0 && properties.reclaimable_at <= self.watermark
    }

    fn is_bottommost(&self, level: usize, table: &Arc<Table>) -> bool {
        let hull = Hull::of_one(table);
        (level + 1..LEVELS).all(|below| overlapping(self.version.level(below), &hull).is_empty())
    }
}

/// Bytes of keys and values before compression.
fn raw_bytes(table: &Table) -> u64 {
    table.properties().families.iter().map(|f| f.raw_bytes).sum()
}

/// About how many bytes of `other` lie under range tombstones of `table`.
fn hidden_bytes(table: &Table, other: &Table) -> u64 {
    let families = &other.properties().families;
    let all: u64 = families.iter().map(|f| f.raw_bytes).sum();
    let hidden_of = |f: &FamilyProperties| {
        let tombstones = table.tombstones(f.family);
        let milli = tombstones.map_or(0, |t| t.share_milli(&f.key_min, &f.key_max));
        f.raw_bytes / 1_000 * milli + f.raw_bytes % 1_000 * milli / 1_000
    };
    let hidden: u64 = families.iter().map(hidden_of).sum();
    let share = u128::from(other.bytes()) * u128::from(hidden) / u128::from(all.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

fn are_disjoint(tables: &[Arc<Table>]) -> bool {
    let mut sorted: Vec<_> = tables.iter().collect();
    sorted.sort_by(|a, b| a.smallest().cmp(b.smallest()));
    sorted.windows(2).all(|pair| match pair {
        [a, b] => a.largest() < b.smallest(),
        _ => true,
    })
}
