//! The rules of the house, one module per kind.
#![allow(clippy::disallowed_methods)]

mod dependencies;
mod layers;
mod style;
mod text;

/// Fails with all that was found at once, so that one run shows all there is to mend.
fn none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}\n  {}\n", found.join("\n  "));
}
