//! A simulated world: time that moves when told, seeded randomness, a disk that keeps only what was synced.
