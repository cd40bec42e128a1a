//! Range 0: its layout, founding, the map every node caches, keyspaces, placement of leaders.

mod map;

pub use map::MapCache;
