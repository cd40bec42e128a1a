//! The node's copy of the cluster map.
//!
//! Readers load a pointer; one task (see [`super`]) keeps the copy current from range 0. It is a
//! hint everywhere: a newer truth of a range always wins over it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use holdfast_model::ClusterMap;
use tokio::sync::watch;

/// The newest map this node has seen; cheap to load, and a channel for those who wait.
#[derive(Debug)]
pub struct MapCache {
    current: ArcSwap<ClusterMap>,
    changes: watch::Sender<Arc<ClusterMap>>,
}

impl MapCache {
    /// A cache that begins with `map` (empty, or as it was saved before the last stop).
    pub fn new(map: ClusterMap) -> Self {
        let map = Arc::new(map);
        Self { current: ArcSwap::new(Arc::clone(&map)), changes: watch::Sender::new(map) }
    }

    /// The newest map. Cost: one atomic load and a reference count.
    pub fn load(&self) -> Arc<ClusterMap> {
        self.current.load_full()
    }

    /// The newest map without a reference count, for look-ups that do not cross an await.
    pub fn peek(&self) -> arc_swap::Guard<Arc<ClusterMap>> {
        self.current.load()
    }

    /// A channel that holds the newest map and tells of changes.
    pub fn watch(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.changes.subscribe()
    }

    /// Replaces the copy; an older revision of the same cluster is ignored.
    pub fn publish(&self, map: ClusterMap) {
        let current = self.current.load();
        if current.cluster == map.cluster && current.revision > map.revision {
            return;
        }
        let map = Arc::new(map);
        self.current.store(Arc::clone(&map));
        self.changes.send_replace(map);
    }
}
