//! Judges of histories, one file each.
