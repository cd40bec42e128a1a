//! The tools by which the tests of this crate read the repository.
//!
//! What clippy cannot say about the code is said in `tests/`: which crate may lean on which, how
//! long a function may be, which licences and duplicates come in with dependencies.
//!
//! Owns: walking the sources, telling code from comments and text, `cargo metadata`, licence
//! expressions.
//! Must never know: everything else; no crate depends on it and it depends on none.
//! Invariants:
//! * Reads nothing but the repository and what cargo says about it; needs no network.
//! * An exception is listed in `allow/` with its reason, and an exception that is no longer
//!   needed is an error: the lists only shrink.
#![allow(clippy::disallowed_methods)]

mod licence;
mod mask;
mod metadata;
mod sources;

pub use licence::is_allowed_by;
pub use mask::{Function, functions, mask};
pub use metadata::{Dependency, Package, Workspace};
pub use sources::{Allowed, SourceFile, allowed, root, sources};
