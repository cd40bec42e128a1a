//! Who this node is, and who the others were when it last spoke to them.
//!
//! Owns: store id, boot counter, cluster and node id of the data directory; the same of every
//! known peer; the rule by which a wiped or rolled-back peer is refused.
//! Must never know: sockets, the map.
//! Invariants:
//! * The boot counter on disk is raised before anything is said to a peer.
//! * What a peer is refused for is remembered on disk before it was accepted.
//! * What is remembered of a node only grows: by meeting it, or by hearing of it.
//! Source: `sealed` draws the file.

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_env::{Disk, Entropy, defect};
use holdfast_model::{ClusterId, NodeId, StoreId};
use holdfast_wire::system::v1::{Identity as Record, KnownNode};
use parking_lot::Mutex;

use crate::sealed::{self, Kind, SealedError};

/// Nodes that a peer may have heard of and are taken over at once.
const HEARD_MAX: usize = 4_096;

/// A peer as it introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Its node id.
    pub node: NodeId,
    /// Identity of its data directory.
    pub store: StoreId,
    /// How often it has started.
    pub boot_counter: u64,
    /// Drawn at its start.
    pub boot_id: u64,
    /// Where it is reached.
    pub peer_address: String,
}

/// Why a peer is not spoken to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The directory behind a known node id is another one.
    #[error(
        "{0} has another data directory than before: its data was lost or replaced; \
         it must join as a new node"
    )]
    Wiped(NodeId),
    /// The directory is older than what was seen of it.
    #[error(
        "{node} says it has started {given} times, but an earlier start was its {known}th: \
         its disk was rolled back; it must join as a new node"
    )]
    RolledBack {
        /// The peer.
        node: NodeId,
        /// Its counter now.
        given: u64,
        /// The highest counter seen.
        known: u64,
    },
    /// This directory belongs to a cluster already.
    #[error("this node belongs to cluster {0}")]
    Taken(ClusterId),
    /// What must be remembered cannot be written.
    #[error("identity cannot be stored: {0}")]
    Storage(String),
}

impl IdentityError {
    /// The node that must not take part, where that is what the error says.
    pub fn refuses(&self) -> Option<NodeId> {
        match self {
            Self::Wiped(node) | Self::RolledBack { node, .. } => Some(*node),
            Self::Taken(_) | Self::Storage(_) => None,
        }
    }
}

/// The identity of a data directory; shared by everything that speaks for the node.
#[derive(Debug)]
pub struct Identity {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    // Held across a write of the file: introductions are rare, and two must not overtake each
    // other on disk.
    record: Mutex<Record>,
    boot_id: u64,
}

impl Identity {
    /// Reads or creates the identity of `dir` and raises its boot counter, durably.
    ///
    /// # Errors
    /// [`SealedError`]: the node must not start.
    pub fn open(
        disk: Arc<dyn Disk>,
        entropy: &dyn Entropy,
        dir: PathBuf,
    ) -> Result<Self, SealedError> {
        let mut record: Record = match sealed::load(&*disk, &dir, Kind::Identity)? {
            Some(record) => record,
            None => Record {
                store_id: StoreId(entropy.u128()).to_bytes().to_vec().into(),
                ..Record::default()
            },
        };
        record.boot_counter += 1;
        sealed::store(&*disk, &dir, Kind::Identity, &record)?;
        Ok(Self { disk, dir, record: Mutex::new(record), boot_id: entropy.u64() })
    }

    /// The store id of the directory.
    pub fn store(&self) -> StoreId {
        StoreId::from_bytes(&self.record.lock().store_id).unwrap_or_default()
    }

    /// How often the node has started on this directory, this time included.
    pub fn boot_counter(&self) -> u64 {
        self.record.lock().boot_counter
    }

    /// Drawn at this start. A disk that was rolled back by one start counts up to the same number
    /// again, and is known by this.
    pub fn boot_id(&self) -> u64 {
        self.boot_id
    }

    /// Cluster and node id; `None` while the directory belongs to no cluster.
    pub fn membership(&self) -> Option<(ClusterId, NodeId)> {
        let record = self.record.lock();
        let cluster = ClusterId::from_bytes(&record.cluster_id)?;
        Some((cluster, NodeId(record.node_id)))
    }

    /// Takes an identity, durably. The same one again changes nothing.
    ///
    /// # Errors
    /// [`IdentityError::Taken`] where it has another one already.
    pub fn join(&self, cluster: ClusterId, node: NodeId) -> Result<(), IdentityError> {
        let mut record = self.record.lock();
        if let Some(known) = ClusterId::from_bytes(&record.cluster_id) {
            let same = known == cluster && record.node_id == node.0;
            return if same { Ok(()) } else { Err(IdentityError::Taken(known)) };
        }
        let mut next = record.clone();
        next.cluster_id = cluster.to_bytes().to_vec().into();
        next.node_id = node.0;
        self.save(&mut record, next)
    }

    /// Checks a peer, and this node itself by what the peer has `heard`, against what is known of
    /// them; remembers the peer, and the starts of others it has heard of, durably if that changed
    /// anything. Blocks for a sync when it did.
    ///
    /// # Errors
    /// [`IdentityError`]: do not speak to it. Where [`IdentityError::refuses`] names this node, it
    /// is this node that must not speak to anybody.
    pub fn meet(&self, peer: &Introduction, heard: &[KnownNode]) -> Result<(), IdentityError> {
        let mut record = self.record.lock();
        let own = heard.iter().find(|k| k.node_id == record.node_id && k.node_id != 0);
        if let Some(own) = own {
            check(own, &self.latest(&record))?;
        }
        let fresh = KnownNode {
            node_id: peer.node.0,
            store_id: peer.store.to_bytes().to_vec().into(),
            boot_counter: peer.boot_counter,
            boot_id: peer.boot_id,
            peer_address: peer.peer_address.clone(),
        };
        let mut next = record.clone();
        match next.known.iter_mut().find(|k| k.node_id == fresh.node_id) {
            Some(old) => {
                check(old, &fresh)?;
                *old = fresh;
            }
            None => next.known.push(fresh),
        }
        let others = heard.iter().take(HEARD_MAX);
        let others = others.filter(|k| ![0, record.node_id, peer.node.0].contains(&k.node_id));
        others.for_each(|other| hear(&mut next.known, other));
        if next == *record {
            return Ok(());
        }
        self.save(&mut record, next)
    }

    /// This start, as others remember it.
    fn latest(&self, record: &Record) -> KnownNode {
        KnownNode {
            node_id: record.node_id,
            store_id: record.store_id.clone(),
            boot_counter: record.boot_counter,
            boot_id: self.boot_id,
            peer_address: String::new(),
        }
    }

    /// The latest start of every node met or heard of.
    pub fn known(&self) -> Vec<KnownNode> {
        self.record.lock().known.clone()
    }

    /// Why this directory must not be used any more, if another node has said so.
    pub fn refusal(&self) -> Option<String> {
        let refusal = self.record.lock().refusal.clone();
        (!refusal.is_empty()).then_some(refusal)
    }

    /// Remembers, durably, that this directory must not be used any more. Blocks for a sync.
    ///
    /// # Errors
    /// [`IdentityError::Storage`]: the next start has to be told again.
    pub fn refuse(&self, reason: &str) -> Result<(), IdentityError> {
        let mut record = self.record.lock();
        let next = Record { refusal: reason.to_owned(), ..record.clone() };
        self.save(&mut record, next)
    }

    /// Whether exactly this incarnation of `node` was met.
    pub fn knows(&self, node: NodeId, store: &[u8], boot_id: u64) -> bool {
        let record = self.record.lock();
        let mut known = record.known.iter();
        known.any(|k| k.node_id == node.0 && k.store_id == store && k.boot_id == boot_id)
    }

    /// Peer addresses of everyone remembered.
    pub fn known_addresses(&self) -> Vec<(NodeId, String)> {
        let record = self.record.lock();
        record.known.iter().map(|k| (NodeId(k.node_id), k.peer_address.clone())).collect()
    }

    fn save(&self, record: &mut Record, next: Record) -> Result<(), IdentityError> {
        sealed::store(&*self.disk, &self.dir, Kind::Identity, &next)
            .map_err(|e| IdentityError::Storage(e.to_string()))?;
        *record = next;
        Ok(())
    }
}

/// Checks the start `now` of a node against what is known of it.
fn check(known: &KnownNode, now: &KnownNode) -> Result<(), IdentityError> {
    let node = NodeId(now.node_id);
    if known.store_id != now.store_id && !defect!(NODE_ID_REUSED) {
        return Err(IdentityError::Wiped(node));
    }
    // Two starts with one counter: the disk was rolled back by one.
    let is_twin = now.boot_counter == known.boot_counter && now.boot_id != known.boot_id;
    if now.boot_counter < known.boot_counter || is_twin {
        let (given, known) = (now.boot_counter, known.boot_counter);
        return Err(IdentityError::RolledBack { node, given, known });
    }
    Ok(())
}

/// Takes over what a peer has heard of a third node, if it is later than what is known.
fn hear(known: &mut Vec<KnownNode>, other: &KnownNode) {
    match known.iter_mut().find(|k| k.node_id == other.node_id) {
        Some(old) if old.store_id == other.store_id && old.boot_counter < other.boot_counter => {
            (old.boot_counter, old.boot_id) = (other.boot_counter, other.boot_id);
        }
        Some(_) => {}
        None => known.push(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_env::sim::{SimDisk, SimEntropy};

    use super::*;

    fn open(disk: &Arc<SimDisk>, seed: u64) -> Identity {
        let disk: Arc<dyn Disk> = disk.clone();
        disk.create_dir_all("/n".as_ref()).unwrap();
        Identity::open(disk, &SimEntropy::new(seed), "/n".into()).unwrap()
    }

    fn peer(store: u128, boot_counter: u64) -> Introduction {
        Introduction {
            node: NodeId(2),
            store: StoreId(store),
            boot_counter,
            boot_id: 100 + boot_counter,
            peer_address: "127.0.0.1:1".into(),
        }
    }

    #[test]
    fn the_store_id_stays_and_the_boot_counter_grows_over_restarts() {
        let disk = Arc::new(SimDisk::new());
        let first = open(&disk, 1);
        let second = open(&disk, 2);
        assert_eq!(first.store(), second.store());
        assert_eq!((first.boot_counter(), second.boot_counter()), (1, 2));
    }

    #[test]
    fn a_directory_belongs_to_one_cluster_for_ever() {
        let disk = Arc::new(SimDisk::new());
        let identity = open(&disk, 1);
        assert_eq!(identity.membership(), None);
        identity.join(ClusterId(5), NodeId(1)).unwrap();
        identity.join(ClusterId(5), NodeId(1)).unwrap();
        assert_eq!(identity.join(ClusterId(6), NodeId(1)), Err(IdentityError::Taken(ClusterId(5))));
        assert_eq!(identity.join(ClusterId(5), NodeId(2)), Err(IdentityError::Taken(ClusterId(5))));
        assert_eq!(open(&disk, 2).membership(), Some((ClusterId(5), NodeId(1))));
    }

    #[test]
    fn a_wiped_or_rolled_back_peer_is_refused_also_after_a_restart() {
        let disk = Arc::new(SimDisk::new());
        open(&disk, 1).meet(&peer(8, 4), &[]).unwrap();
        let identity = open(&disk, 2);
        assert_eq!(identity.meet(&peer(9, 5), &[]), Err(IdentityError::Wiped(NodeId(2))));
        let refusal = IdentityError::RolledBack { node: NodeId(2), given: 3, known: 4 };
        assert_eq!(identity.meet(&peer(8, 3), &[]), Err(refusal));
        identity.meet(&peer(8, 4), &[]).unwrap();
        // Its fourth start, a second time: the disk is from before the first fourth one.
        let again = Introduction { boot_id: 7, ..peer(8, 4) };
        let refusal = IdentityError::RolledBack { node: NodeId(2), given: 4, known: 4 };
        assert_eq!(identity.meet(&again, &[]), Err(refusal));
        assert!(!identity.knows(NodeId(2), &StoreId(8).to_bytes(), 7));
        identity.meet(&peer(8, 6), &[]).unwrap();
        assert!(identity.meet(&peer(8, 5), &[]).is_err());
    }

    fn heard(node: u64, store: u128, boot_counter: u64, boot_id: u64) -> KnownNode {
        let store_id = StoreId(store).to_bytes().to_vec().into();
        KnownNode { node_id: node, store_id, boot_counter, boot_id, peer_address: String::new() }
    }

    #[test]
    fn a_start_heard_of_from_a_third_node_refuses_an_earlier_one_and_never_goes_back() {
        let disk = Arc::new(SimDisk::new());
        let identity = open(&disk, 1);
        identity.join(ClusterId(5), NodeId(1)).unwrap();
        let third = Introduction { node: NodeId(3), ..peer(30, 1) };
        identity.meet(&third, &[heard(2, 8, 6, 106)]).unwrap();
        identity.meet(&third, &[heard(2, 8, 2, 102), heard(2, 9, 9, 109)]).unwrap();
        let identity = open(&disk, 2);
        let refusal = IdentityError::RolledBack { node: NodeId(2), given: 5, known: 6 };
        assert_eq!(identity.meet(&peer(8, 5), &[]), Err(refusal));
        identity.meet(&peer(8, 6), &[]).unwrap();
        assert_eq!(identity.meet(&peer(9, 7), &[]), Err(IdentityError::Wiped(NodeId(2))));
    }

    #[test]
    fn a_node_that_hears_of_a_later_start_of_its_own_is_refused_for_ever() {
        let disk = Arc::new(SimDisk::new());
        let identity = open(&disk, 1);
        identity.join(ClusterId(5), NodeId(1)).unwrap();
        let store = identity.store().0;
        let own = heard(1, store, identity.boot_counter(), identity.boot_id());
        identity.meet(&peer(8, 1), std::slice::from_ref(&own)).unwrap();
        identity.meet(&peer(8, 1), &[heard(1, store, 0, 7)]).unwrap();
        for (counter, boot_id) in [(1, 7), (2, 7)] {
            let error = identity.meet(&peer(8, 1), &[heard(1, store, counter, boot_id)]);
            let error = error.unwrap_err();
            assert_eq!(error.refuses(), Some(NodeId(1)), "{error}");
        }
        assert_eq!(identity.refusal(), None);
        identity.refuse("n2 refuses this node").unwrap();
        assert_eq!(open(&disk, 2).refusal().as_deref(), Some("n2 refuses this node"));
    }
}
