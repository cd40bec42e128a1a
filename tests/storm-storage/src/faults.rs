//! One thing goes wrong, in any file, in any way: it is noticed, or it changes no answer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use holdfast_env::sim::{Effect, Fault, Operation, Random, SimDisk};
use holdfast_env::{Disk, OpenMode};
use holdfast_lsm::{Completed, Staging};

use crate::camera::KEEP_PERCENT;
use crate::campaign::Sums;
use crate::node::{Claim, Node, Stop, claims};
use crate::options::pick;
use crate::probe::{self, Noticed};

/// Steps of a node before its files are damaged.
const STEPS: u64 = 110;
/// Damages tried on one node.
const DAMAGES: u64 = 120;
/// What a bad spot of a disk takes at most.
const BLOCK_BYTES: u64 = 4_096;
/// Faulty runs per seed.
const FLIGHTS: u64 = 8;

/// What can happen to bytes at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// A bit changes.
    Flip,
    /// Two blocks of a file change places.
    SwapBlocks,
    /// Two pieces that are read as one change places, in a file or between two.
    SwapPieces,
    /// The file ends early.
    Truncate,
    /// A range reads as zeros.
    Zero,
    /// The file is as it was some time ago.
    Stale,
    /// A block lies in another place as well, over what belongs there.
    Misplace,
    /// A sector cannot be read.
    Unreadable,
    /// The file is gone.
    Missing,
}

const DAMAGES_ALL: [Damage; 9] = [
    Damage::Flip,
    Damage::SwapBlocks,
    Damage::SwapPieces,
    Damage::Truncate,
    Damage::Zero,
    Damage::Stale,
    Damage::Misplace,
    Damage::Unreadable,
    Damage::Missing,
];

/// A piece of a file that is read as one: path, offset, bytes.
type Piece = (PathBuf, u64, usize);

/// A node at rest, and what is known of its disk.
struct AtRest {
    node: Node,
    disk: SimDisk,
    claims: Vec<Claim>,
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// The files as they were some time before.
    older: BTreeMap<PathBuf, Vec<u8>>,
    pieces: Vec<Piece>,
}

impl AtRest {
    fn new(seed: u64) -> Self {
        let mut node = open_node(SimDisk::new(), seed, seed.is_multiple_of(2)).unwrap();
        let mut older = BTreeMap::new();
        for step in 0..STEPS {
            node.step().unwrap();
            if step == STEPS * 2 / 3 {
                older = node.disk.files(Path::new("/")).unwrap();
            }
        }
        node.rest().unwrap();
        let disk = node.disk.image(100, seed);
        let claims = claims(&node.known);
        let files = disk.files(Path::new("/")).unwrap();
        let pieces = pieces(&node, &disk, &claims);
        Self { node, disk, claims, files, older, pieces }
    }

    /// A file of any kind, each kind as likely as the others.
    fn choose(&self, random: &mut Random) -> PathBuf {
        let kinds: BTreeSet<String> = self.files.keys().map(|path| kind_of(path)).collect();
        let kinds: Vec<String> = kinds.into_iter().collect();
        let kind = &kinds[random.below(kinds.len() as u64) as usize];
        let files: Vec<_> = self.files.keys().filter(|path| kind_of(path) == *kind).collect();
        files[random.below(files.len() as u64) as usize].clone()
    }
}

fn open_node(disk: SimDisk, seed: u64, is_uniform: bool) -> Result<Node, Stop> {
    Node::open(disk, Random::new(seed), Arc::default(), is_uniform)
}

/// What tells files of one kind from others.
fn kind_of(path: &Path) -> String {
    let name = path.extension().or(path.file_name()).unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Opens and reads everything once, and learns what is read as one.
fn pieces(node: &Node, disk: &SimDisk, claims: &[Claim]) -> Vec<Piece> {
    let image = disk.image(100, 0);
    let read = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = read.clone();
    image.watch(move |_, call| {
        if call.operation == Operation::Read {
            seen.lock().unwrap().insert((call.path.to_owned(), call.offset, call.bytes));
        }
    });
    let found = probe::inspect(node, &image, claims);
    found.unwrap_or_else(|noticed| panic!("nothing was damaged yet: {noticed}"));
    image.unwatch();
    let is_piece = |(path, ..): &Piece| matches!(kind_of(path).as_str(), "tbl" | "blob");
    let read = read.lock().unwrap();
    read.iter().filter(|piece| is_piece(piece)).cloned().collect()
}

/// Damages of files at rest.
pub fn run_platter(seed: u64) -> Sums {
    let at_rest = AtRest::new(seed);
    let mut random = Random::new(seed ^ 0x0070_1a77);
    let mut sums = Sums::default();
    for _ in 0..DAMAGES {
        let damage = pick(&mut random, &DAMAGES_ALL);
        let path = at_rest.choose(&mut random);
        let image = at_rest.disk.image(100, 0);
        let Some(what) = inflict(damage, &path, &image, &at_rest, &mut random) else { continue };
        let what = format!("{damage:?} of {}: {what}", path.display());
        judge(&at_rest.node, &image, &at_rest.claims, &what, &mut sums);
    }
    damage_staged(at_rest, &mut random, &mut sums);
    sums
}

/// Counts what became of a fault; a wrong answer panics.
fn judge(node: &Node, disk: &SimDisk, claims: &[Claim], what: &str, sums: &mut Sums) {
    let context = Context(what);
    match probe::inspect(node, disk, claims) {
        Ok(()) => sums.harmless += 1,
        Err(Noticed(_)) => sums.detected += 1,
    }
    std::mem::forget(context);
    sums.faults += 1;
}

/// Names the fault when a check panics.
struct Context<'a>(&'a str);

impl Drop for Context<'_> {
    fn drop(&mut self) {
        crate::campaign::note(self.0);
    }
}

/// Damages `image`; says where, or that there was nothing to damage.
fn inflict(
    damage: Damage,
    path: &Path,
    image: &SimDisk,
    at_rest: &AtRest,
    random: &mut Random,
) -> Option<String> {
    let bytes = &at_rest.files[path];
    let place = place_in(bytes, random);
    match damage {
        Damage::Stale | Damage::Missing => replace(damage, path, image, at_rest),
        Damage::SwapPieces => swap_pieces(image, at_rest, random),
        Damage::SwapBlocks | Damage::Misplace => {
            exchange(damage, path, image, at_rest, (place, random))
        }
        _ if bytes.is_empty() => None,
        Damage::Flip => {
            image.flip_bit(path, place, random.u64() as u8).unwrap();
            Some(format!("byte {place}"))
        }
        Damage::Truncate => {
            let length = random.below(bytes.len() as u64);
            image.truncate(path, length).unwrap();
            Some(format!("to {length} bytes"))
        }
        Damage::Zero => {
            let in_block = BLOCK_BYTES - place % BLOCK_BYTES;
            let left = bytes.len() as u64 - place;
            let count = (1 + random.below(600)).min(left).min(in_block) as usize;
            overwrite(image, path, place, &vec![0; count]);
            let was_zero = bytes[place as usize..][..count].iter().all(|byte| *byte == 0);
            (!was_zero).then(|| format!("{count} bytes at {place}"))
        }
        Damage::Unreadable => {
            image.mark_bad(path, place, 1).unwrap();
            Some(format!("sector at {place}"))
        }
    }
}

/// The whole file is an older one, or none.
fn replace(damage: Damage, path: &Path, image: &SimDisk, at_rest: &AtRest) -> Option<String> {
    if damage == Damage::Missing {
        image.remove_file(path).unwrap();
        return Some("removed".to_owned());
    }
    let older = at_rest.older.get(path).filter(|older| *older != &at_rest.files[path])?;
    let file = image.open(path, OpenMode::Write).unwrap();
    file.set_len(0).unwrap();
    file.write_all_at(older, 0).unwrap();
    Some(format!("{} bytes of before", older.len()))
}

/// Two blocks change places, or one lies at the place of another as well.
fn exchange(
    damage: Damage,
    path: &Path,
    image: &SimDisk,
    at_rest: &AtRest,
    (place, random): (u64, &mut Random),
) -> Option<String> {
    let bytes = &at_rest.files[path];
    let sector = pick(random, &[512, BLOCK_BYTES]);
    let to = random.below((bytes.len() as u64).max(1)) / sector * sector;
    let from = place / sector * sector;
    let block = |at: u64| bytes.get(at as usize..(at + sector) as usize);
    let (one, other) = (block(from)?, block(to)?);
    if damage == Damage::SwapBlocks {
        overwrite(image, path, from, other);
    }
    overwrite(image, path, to, one);
    (one != other).then(|| format!("{from} and {to}, {sector} bytes"))
}

/// The last byte that is not zero: in a segment at rest, of the mark.
fn place_of_last(bytes: &[u8]) -> u64 {
    bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64
}

/// An offset in the file, mostly where there is something.
fn place_in(bytes: &[u8], random: &mut Random) -> u64 {
    let used = place_of_last(bytes) + 1;
    let bound = if random.chance(90) { used } else { bytes.len() as u64 };
    random.below(bound)
}

fn overwrite(image: &SimDisk, path: &Path, offset: u64, bytes: &[u8]) {
    let file = image.open(path, OpenMode::Write).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

/// Two pieces of equal length change places: two data blocks, two values, two partitions.
fn swap_pieces(image: &SimDisk, at_rest: &AtRest, random: &mut Random) -> Option<String> {
    let pieces = &at_rest.pieces;
    let (path, offset, bytes) = pieces.get(random.below(pieces.len() as u64) as usize)?;
    let alike: Vec<_> = pieces.iter().filter(|piece| piece.2 == *bytes).collect();
    let other = alike[random.below(alike.len() as u64) as usize];
    let content = |(path, offset, bytes): &Piece| {
        at_rest.files.get(path)?.get(*offset as usize..*offset as usize + bytes)
    };
    let one = (path.clone(), *offset, *bytes);
    let (first, second) = (content(&one)?, content(other)?);
    overwrite(image, path, *offset, second);
    overwrite(image, &other.0, other.1, first);
    let what =
        || format!("{} at {offset} with {} at {}", path.display(), other.0.display(), other.1);
    (first != second).then(what)
}

/// Damages files of a snapshot between their staging and their check.
fn damage_staged(at_rest: AtRest, random: &mut Random, sums: &mut Sums) {
    let dir = PathBuf::from("/staged");
    for replica in &at_rest.node.replicas {
        let snapshot = replica.engine.pin();
        let disk = SimDisk::new();
        let staging = Staging::create(Arc::new(disk.clone()), &dir, snapshot.manifest()).unwrap();
        for (number, file) in snapshot.files().iter().enumerate() {
            let chunk = snapshot.read_chunk(number, 0, 1 << 20).unwrap();
            staging.write(&file.name, 0, &chunk).unwrap();
        }
        let Some(file) = snapshot.files().first() else { continue };
        let name = dir.join(&file.name);
        disk.flip_bit(&name, random.below(file.bytes), random.u64() as u8).unwrap();
        let is_noticed = matches!(staging.complete(), Ok(Completed::Damaged(..)));
        assert!(is_noticed, "a damaged file of a snapshot was taken for good");
        sums.faults += 1;
        sums.detected += 1;
    }
}

/// Calls that fail, and calls that lie, while a node works.
pub fn run_flight(seed: u64) -> Sums {
    let mut random = Random::new(seed ^ 0xf119_4700);
    let mut sums = Sums::default();
    for flight in 0..FLIGHTS {
        fly(seed * FLIGHTS + flight, &mut random, &mut sums);
    }
    sums
}

/// What may go wrong with a call, and whether the disk lies about it.
fn choose_effect(random: &mut Random) -> (Operation, Effect, bool) {
    let bytes = random.below(2_000) as usize;
    let distance = 512 * (1 + random.below(8));
    let bit = random.below(4_000) as usize;
    pick(
        random,
        &[
            (Operation::Write, Effect::Eio, false),
            (Operation::Write, Effect::Enospc, false),
            (Operation::Write, Effect::ShortWrite { bytes }, false),
            (Operation::Write, Effect::PhantomWrite, true),
            (Operation::Write, Effect::MisdirectedWrite { distance }, true),
            (Operation::Read, Effect::FlipBit { bit }, true),
            (Operation::Read, Effect::Eio, true),
            (Operation::Sync, Effect::SyncFails, false),
            (Operation::SyncDir, Effect::SyncFails, false),
            (Operation::Rename, Effect::Eio, false),
            (Operation::Create, Effect::Enospc, false),
            (Operation::Resize, Effect::Enospc, false),
            (Operation::Remove, Effect::Eio, false),
        ],
    )
}

fn fly(seed: u64, random: &mut Random, sums: &mut Sums) {
    let disk = SimDisk::new();
    let mut node = open_node(disk.clone(), seed, seed.is_multiple_of(2)).unwrap();
    node.is_restarted = false;
    let (operation, effect, is_lie) = choose_effect(random);
    let kinds = ["journal", "witness", "tbl", "blob", "MANIFEST", "tmp", "spare", "fresh", ""];
    let kind = pick(random, &kinds);
    let on_kind = move |path: &Path| kind.is_empty() || kind_of(path) == kind;
    let fault = Fault::new(operation, effect).on(on_kind).after(random.below(10));
    let what = format!("{fault:?} on {kind:?}");
    let _context = Context(&what);
    let id = disk.inject(fault);
    let mut stopped = None;
    for _ in 0..STEPS {
        stopped = node.step().err();
        if stopped.is_some() {
            break;
        }
    }
    if disk.fault_struck(id) == 0 {
        return;
    }
    disk.remove_faults();
    if stopped.is_none() {
        // Nobody noticed; a mark covers what was acknowledged.
        stopped = node.rest().err();
    }
    sums.faults += 1;
    let keep = pick(random, &KEEP_PERCENT);
    let image = node.disk.image(keep, random.u64());
    let found = probe::inspect(&node, &image, &claims(&node.known));
    match (found, stopped) {
        // A refusal that nobody could have missed, or one that was told and led to nothing.
        (Ok(()), Some(_)) => sums.detected += 1,
        (Ok(()), None) => sums.harmless += 1,
        (Err(Noticed(_)), _) if is_lie => sums.detected += 1,
        (Err(noticed), _) => panic!("{what}: a call that failed honestly left damage: {noticed}"),
    }
}
