//! Nodes die.
