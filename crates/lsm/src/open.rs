//! Finding the engine in its directory, or founding it.
//!
//! ```text
//! DIR/CURRENT              names the generation that counts
//! DIR/gen-0000000001/      a generation
//!       MANIFEST           which tables make up the tree
//!       0000000002.tbl     tables
//!       0000000003.blob    long values the tables refer to
//! DIR.gone                 what is left of an engine being destroyed
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use holdfast_env::sync::{AtomicBool, AtomicU64, Mutex};
use holdfast_env::{Disk, Entropy};

use crate::blob::BlobFile;
use crate::error::{Error, Result};
use crate::generation::{
    CURRENT_NAME, Generation, MANIFEST_NAME, blob_number, generation_name, is_generation_name,
    table_number,
};
use crate::graveyard::Graveyard;
use crate::manifest::{
    Edit, LeveledTable, ManifestLog, read_current, read_manifest, write_current,
};
use crate::memtable::{Memtable, Seal};
use crate::options::EngineOptions;
use crate::point::PublishedPoint;
use crate::shared::Shared;
use crate::stats::Counters;
use crate::swap::ArcSwap;
use crate::table::{Home, Table};
use crate::tree::{Durable, State, Tree};
use crate::version::Version;

/// Number of the first generation.
const FIRST_GENERATION: u64 = 1;

pub(crate) fn open_tree(
    disk: Arc<dyn Disk>,
    entropy: Arc<dyn Entropy>,
    dir: &Path,
    shared: Arc<Shared>,
    durable: Durable,
    options: EngineOptions,
) -> Result<Tree> {
    let graveyard = Arc::new(Graveyard::default());
    let resident_index_bytes = options.resident_index_bytes;
    let home = Home { disk, shared, graveyard, resident_index_bytes };
    let number = current_generation(home.disk.as_ref(), entropy.as_ref(), dir)?;
    let generation_dir = dir.join(generation_name(number));
    sync_names(home.disk.as_ref(), &[&generation_dir, dir])?;
    let version = load_version(&home, entropy.as_ref(), &generation_dir, number)?;
    delete_orphans(home.disk.as_ref(), dir, &version)?;
    let (point, floor) = (version.point, version.floor);
    let active = Arc::new(Memtable::new(home.shared.clone(), Seal { point, gate: 0 }, None));
    let state = State { active, sealed: Vec::new(), version: Arc::new(version) };
    let published = PublishedPoint::default();
    published.store(point);
    Ok(Tree {
        dir: dir.to_path_buf(),
        home,
        entropy,
        options,
        durable,
        published,
        state: ArcSwap::from_pointee(state),
        swap: Mutex::new(()),
        writer: Mutex::new(()),
        watermark: AtomicU64::new(floor),
        span: ArcSwapOption::empty(),
        is_destroyed: AtomicBool::new(false),
        counters: Counters::default(),
    })
}

/// The directory a destroyed engine is moved to before it is deleted.
pub(crate) fn gone_path(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_os_string();
    name.push(".gone");
    dir.with_file_name(name)
}

/// The directory `path` lies in.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Opens the manifest and all tables of a generation.
pub(crate) fn load_version(
    home: &Home,
    entropy: &dyn Entropy,
    dir: &Path,
    number: u64,
) -> Result<Version> {
    let disk = home.disk.as_ref();
    let path = dir.join(MANIFEST_NAME);
    let bytes = disk.read(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::corrupt(&path, 0, "manifest is missing"),
        _ => Error::unreferenced("read", &path, e),
    })?;
    let read = read_manifest(&bytes, &path)?;
    let manifest = if read.is_torn {
        // What is torn must not stand behind the next edit.
        ManifestLog::create(disk, entropy, &path, &read.base)?
    } else {
        ManifestLog::reopen(disk, &path, &bytes, &read)?
    };
    let base = read.base;
    let graveyard = home.graveyard.clone();
    let generation =
        Arc::new(Generation::new(number, dir.to_path_buf(), base.next_file, manifest, graveyard));
    let tables = open_tables(home, &generation, &base)?;
    Version::new(generation, &base, tables)
}

fn open_tables(home: &Home, generation: &Generation, base: &Edit) -> Result<Vec<Arc<Table>>> {
    let mut blobs = BTreeMap::new();
    for descriptor in &base.added_blobs {
        let path = generation.blob_path(descriptor.number);
        let blob = Arc::new(BlobFile::open(home.clone(), path, *descriptor)?);
        blobs.insert(descriptor.number, blob);
    }
    let blob = |number| blobs.get(&number).cloned();
    let open = |t: &LeveledTable| {
        let path = generation.table_path(t.table.number);
        let place = (t.level, home.shared.next_opening());
        Table::open(home.clone(), path, t.table, place, &blob).map(Arc::new)
    };
    base.added.iter().map(open).collect()
}

/// The generation that counts; founds the first one where there is none.
fn current_generation(disk: &dyn Disk, entropy: &dyn Entropy, dir: &Path) -> Result<u64> {
    let gone = gone_path(dir);
    let failed = |action, path: &Path| {
        let path = path.to_path_buf();
        move |e| Error::unreferenced(action, &path, e)
    };
    if disk.exists(&gone).map_err(failed("look for", &gone))? {
        disk.remove_dir_all(&gone).map_err(failed("delete", &gone))?;
    }
    disk.create_dir_all(dir).map_err(failed("create", dir))?;
    let current = dir.join(CURRENT_NAME);
    match read_current(disk, &current)? {
        Some(number) => Ok(number),
        None => found(disk, entropy, dir, &current),
    }
}

/// Creates the first generation. `CURRENT` comes last: before it nothing counts.
fn found(disk: &dyn Disk, entropy: &dyn Entropy, dir: &Path, current: &Path) -> Result<u64> {
    for leftover in list(disk, dir)?.iter().filter(|p| is_generation_name(name_of(p))) {
        let holds_data = |name: &str| table_number(name).or(blob_number(name)).is_some();
        if list(disk, leftover)?.iter().any(|p| holds_data(name_of(p))) {
            return Err(Error::corrupt(current, 0, "file is missing"));
        }
        disk.remove_dir_all(leftover).map_err(|e| Error::unreferenced("delete", leftover, e))?;
    }
    let generation = dir.join(generation_name(FIRST_GENERATION));
    disk.create_dir_all(&generation).map_err(|e| Error::unreferenced("create", &generation, e))?;
    let base = Edit { is_base: true, next_file: 1, ..Edit::default() };
    ManifestLog::create(disk, entropy, &generation.join(MANIFEST_NAME), &base)?;
    // Whoever created the directory may have ended before its name was durable.
    for dir in [dir, parent_of(dir)] {
        disk.sync_dir(dir).map_err(|e| Error::durable("sync", dir, e))?;
    }
    write_current(disk, current, FIRST_GENERATION)?;
    Ok(FIRST_GENERATION)
}

/// Makes durable which files there are: the last process may have ended because it could not, and
/// what nothing refers to by the names of now is deleted.
fn sync_names(disk: &dyn Disk, dirs: &[&Path]) -> Result<()> {
    for dir in dirs {
        disk.sync_dir(dir).map_err(|source| Error::Unsynced { path: dir.to_path_buf(), source })?;
    }
    Ok(())
}

/// Deletes what a crash left behind: other generations, files no manifest names.
fn delete_orphans(disk: &dyn Disk, dir: &Path, version: &Version) -> Result<()> {
    let generation = version.generation.dir();
    for path in list(disk, dir)? {
        if is_generation_name(name_of(&path)) && path != generation {
            disk.remove_dir_all(&path).map_err(|e| Error::unreferenced("delete", &path, e))?;
        }
    }
    for path in list(disk, generation)? {
        let name = name_of(&path);
        let is_unnamed_table = table_number(name)
            .is_some_and(|number| !version.tables().any(|t| t.number() == number));
        let is_unnamed_blob = blob_number(name)
            .is_some_and(|number| !version.blobs().iter().any(|b| b.number() == number));
        if is_unnamed_table || is_unnamed_blob || path.extension() == Some(OsStr::new("tmp")) {
            disk.remove_file(&path).map_err(|e| Error::unreferenced("delete", &path, e))?;
        }
    }
    Ok(())
}

fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>> {
    disk.list(dir).map_err(|e| Error::unreferenced("list", dir, e))
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}
