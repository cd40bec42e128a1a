//! The names of a simulated file system: directories, links, and which changes of them a power
//! cut may undo.
//!
//! Every change of a directory stays pending until that directory is synced. A crash keeps each
//! pending change with a given probability, with one restriction real file systems obey too: a
//! change is lost if an earlier change of the same name or of the same file is lost. So a rename
//! is atomic, and a file is never at two names because only half its history survived.
//! Syncing a file does not make its name durable (POSIX promises no more, and programs that rely
//! on ext4 doing so lose files elsewhere).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use super::content::Content;
use super::random::Random;

/// Unlinked files are swept out of memory when there are so many of them.
const UNLINKED_MAX: usize = 64;

/// Number of a file or directory, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Inode(u64);

const ROOT: Inode = Inode(0);

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    directory: Inode,
    name: OsString,
}

/// One change of the name space: `inode` disappears from `from` and appears at `to`.
#[derive(Clone, Debug)]
struct Change {
    inode: Inode,
    from: Option<Place>,
    to: Option<Place>,
}

impl Change {
    /// The directory whose sync makes the change durable: where the name arrives, else leaves.
    fn durable_with(&self) -> Option<Inode> {
        self.to.as_ref().or(self.from.as_ref()).map(|place| place.directory)
    }

    /// Whether one of two changes means something else without the other.
    fn is_entangled_with(&self, other: &Self) -> bool {
        let places = |c: &Self| [c.from.clone(), c.to.clone()];
        self.inode == other.inode
            || places(self).iter().flatten().any(|p| places(other).contains(&Some(p.clone())))
    }
}

#[derive(Clone, Debug, Default)]
struct Directory {
    live: BTreeMap<OsString, Inode>,
    durable: BTreeMap<OsString, Inode>,
}

#[derive(Clone, Debug)]
enum Node {
    Directory(Directory),
    File(Content),
}

#[derive(Clone, Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<Inode, Node>,
    pending: Vec<Change>,
    handles: BTreeMap<Inode, usize>,
    next: u64,
    unlinked: usize,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node::Directory(Directory::default());
        let nodes = BTreeMap::from([(ROOT, root)]);
        Self { nodes, pending: Vec::new(), handles: BTreeMap::new(), next: 1, unlinked: 0 }
    }
}

impl Tree {
    /// The directory or file at `path`.
    pub(super) fn find(&self, path: &Path) -> io::Result<Inode> {
        let mut inode = ROOT;
        for name in names(path) {
            inode = *self.directory(inode)?.live.get(name).ok_or(Errno::NOENT)?;
        }
        Ok(inode)
    }

    /// The file at `path`.
    pub(super) fn find_file(&self, path: &Path) -> io::Result<Inode> {
        let inode = self.find(path)?;
        match self.nodes.get(&inode) {
            Some(Node::File(_)) => Ok(inode),
            _ => Err(Errno::ISDIR.into()),
        }
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.find(path).is_ok()
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let directory = self.directory(self.find(path)?)?;
        Ok(directory.live.keys().map(|name| path.join(name)).collect())
    }

    pub(super) fn content(&mut self, inode: Inode) -> io::Result<&mut Content> {
        match self.nodes.get_mut(&inode) {
            Some(Node::File(content)) => Ok(content),
            _ => Err(Errno::ISDIR.into()),
        }
    }

    /// An empty file at `path`, which must be free.
    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<Inode> {
        let to = self.place(path)?;
        if self.at(&to).is_some() {
            return Err(Errno::EXIST.into());
        }
        Ok(self.create(to, Node::File(Content::default())))
    }

    /// The directory at `path` and its parents.
    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut directory = ROOT;
        for name in names(path) {
            let to = Place { directory, name: name.to_owned() };
            self.directory(directory)?;
            directory = match self.at(&to) {
                Some(inode) => inode,
                None => self.create(to, Node::Directory(Directory::default())),
            };
        }
        self.directory(directory).map(|_| ())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.find(from)?;
        let (from, to) = (self.place(from)?, self.place(to)?);
        match self.at(&to) {
            Some(target) if target == inode => return Ok(()),
            Some(target) => self.check_replaceable(inode, target)?,
            None => {}
        }
        self.change(Change { inode, from: Some(from), to: Some(to) });
        Ok(())
    }

    pub(super) fn hard_link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.find_file(from)?;
        let to = self.place(to)?;
        if self.at(&to).is_some() {
            return Err(Errno::EXIST.into());
        }
        self.change(Change { inode, from: None, to: Some(to) });
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.find_file(path)?;
        let from = self.place(path)?;
        self.change(Change { inode, from: Some(from), to: None });
        Ok(())
    }

    /// Removes the tree at `path`, children first; a crash may leave some of them.
    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let top = self.find(path)?;
        let names: Vec<OsString> = self.directory(top)?.live.keys().cloned().collect();
        for name in names {
            let child = path.join(name);
            if self.find_file(&child).is_ok() {
                self.remove_file(&child)?;
            } else {
                self.remove_dir_all(&child)?;
            }
        }
        let from = self.place(path)?;
        self.change(Change { inode: top, from: Some(from), to: None });
        Ok(())
    }

    /// The pending changes of the directory, and the earlier ones they rest on, become durable.
    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.find(path)?;
        self.directory(inode)?;
        let pending = std::mem::take(&mut self.pending);
        let mut taken = vec![false; pending.len()];
        for index in (0..pending.len()).rev() {
            taken[index] = pending[index].durable_with() == Some(inode)
                || (index + 1..pending.len())
                    .any(|later| taken[later] && pending[later].is_entangled_with(&pending[index]));
        }
        for (change, is_taken) in pending.into_iter().zip(taken) {
            if is_taken {
                self.make_durable(&change);
            } else {
                self.pending.push(change);
            }
        }
        if self.unlinked > UNLINKED_MAX {
            self.sweep();
        }
        Ok(())
    }

    /// Bytes of all files that have a name or are open, in whole pages.
    pub(super) fn used_bytes(&self) -> u64 {
        let mut counted: BTreeSet<Inode> = self.handles.keys().copied().collect();
        for node in self.nodes.values() {
            if let Node::Directory(directory) = node {
                counted.extend(directory.live.values());
            }
        }
        let pages = counted.iter().filter_map(|inode| match self.nodes.get(inode) {
            Some(Node::File(content)) => Some(content.len().div_ceil(super::PAGE_BYTES)),
            _ => None,
        });
        pages.sum::<u64>() * super::PAGE_BYTES
    }

    pub(super) fn opened(&mut self, inode: Inode) {
        *self.handles.entry(inode).or_default() += 1;
    }

    pub(super) fn closed(&mut self, inode: Inode) {
        if let Some(count) = self.handles.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                self.handles.remove(&inode);
            }
        }
    }

    /// Paths and live contents of all files below `path`.
    pub(super) fn files_below(&self, path: &Path) -> io::Result<Vec<(PathBuf, &Content)>> {
        let mut files = Vec::new();
        for child in self.list(path)? {
            match self.nodes.get(&self.find(&child)?) {
                Some(Node::File(content)) => files.push((child, content)),
                _ => files.extend(self.files_below(&child)?),
            }
        }
        Ok(files)
    }

    /// The tree as a power cut may leave it.
    pub(super) fn after_crash(&self, keep: u8, block_bytes: u64, random: &mut Random) -> Self {
        let mut image = self.clone();
        let mut lost: Vec<Change> = Vec::new();
        for change in std::mem::take(&mut image.pending) {
            let is_kept = random.chance(keep);
            if is_kept && !lost.iter().any(|earlier| change.is_entangled_with(earlier)) {
                image.make_durable(&change);
            } else {
                lost.push(change);
            }
        }
        for node in image.nodes.values_mut() {
            match node {
                Node::Directory(directory) => directory.live.clone_from(&directory.durable),
                Node::File(content) => *content = content.after_crash(keep, block_bytes, random),
            }
        }
        image.handles.clear();
        image.sweep();
        image
    }

    /// The tree as the end of a process leaves it: all is there, nothing is open.
    pub(super) fn after_kill(&self) -> Self {
        let mut image = self.clone();
        image.handles.clear();
        image
    }

    fn directory(&self, inode: Inode) -> io::Result<&Directory> {
        match self.nodes.get(&inode) {
            Some(Node::Directory(directory)) => Ok(directory),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    fn place(&self, path: &Path) -> io::Result<Place> {
        let name = path.file_name().ok_or(Errno::INVAL)?.to_owned();
        let directory = self.find(path.parent().unwrap_or(Path::new("")))?;
        self.directory(directory)?;
        Ok(Place { directory, name })
    }

    fn at(&self, place: &Place) -> Option<Inode> {
        self.directory(place.directory).ok()?.live.get(&place.name).copied()
    }

    fn check_replaceable(&self, inode: Inode, target: Inode) -> io::Result<()> {
        match (self.directory(inode), self.directory(target)) {
            (Ok(_), Ok(directory)) if !directory.live.is_empty() => Err(Errno::NOTEMPTY.into()),
            (Ok(_), Ok(_)) | (Err(_), Err(_)) => Ok(()),
            (Ok(_), Err(_)) => Err(Errno::NOTDIR.into()),
            (Err(_), Ok(_)) => Err(Errno::ISDIR.into()),
        }
    }

    fn create(&mut self, to: Place, node: Node) -> Inode {
        let inode = Inode(self.next);
        self.next += 1;
        self.nodes.insert(inode, node);
        self.change(Change { inode, from: None, to: Some(to) });
        inode
    }

    fn change(&mut self, change: Change) {
        self.unlinked += usize::from(change.from.is_some());
        apply(&mut self.nodes, &change, |directory| &mut directory.live);
        self.pending.push(change);
    }

    fn make_durable(&mut self, change: &Change) {
        apply(&mut self.nodes, change, |directory| &mut directory.durable);
    }

    /// Forgets what no name, live or durable or pending, and no handle leads to.
    fn sweep(&mut self) {
        let mut reached: BTreeSet<Inode> = self.handles.keys().copied().collect();
        reached.insert(ROOT);
        reached.extend(self.pending.iter().map(|change| change.inode));
        let mut open: Vec<Inode> = reached.iter().copied().collect();
        while let Some(inode) = open.pop() {
            if let Some(Node::Directory(directory)) = self.nodes.get(&inode) {
                let children = directory.live.values().chain(directory.durable.values());
                open.extend(children.copied().filter(|child| reached.insert(*child)));
            }
        }
        self.nodes.retain(|inode, _| reached.contains(inode));
        self.unlinked = 0;
    }
}

fn apply(
    nodes: &mut BTreeMap<Inode, Node>,
    change: &Change,
    names: impl Fn(&mut Directory) -> &mut BTreeMap<OsString, Inode>,
) {
    if let Some(from) = &change.from
        && let Some(Node::Directory(directory)) = nodes.get_mut(&from.directory)
    {
        let names = names(directory);
        if names.get(&from.name) == Some(&change.inode) {
            names.remove(&from.name);
        }
    }
    if let Some(to) = &change.to
        && let Some(Node::Directory(directory)) = nodes.get_mut(&to.directory)
    {
        names(directory).insert(to.name.clone(), change.inode);
    }
}

/// The components that name something; `..` is kept and found nowhere, so it is refused.
fn names(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        _ => None,
    })
}
