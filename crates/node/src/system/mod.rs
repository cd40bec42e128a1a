//! Range 0: its layout, founding, the map every node caches, keyspaces, placement of leaders.

mod layout;
mod map;
mod plan;

pub use map::MapCache;
