//! Finding what was built beside this test.

use std::path::PathBuf;

/// The folder the profile builds into: `target/release` for `target/release/deps/all-…`.
fn profile_folder() -> PathBuf {
    let own = std::env::current_exe().expect("a running test has a path");
    let folder = own.ancestors().nth(2);
    folder.expect("a test lies in target/<profile>/deps").to_owned()
}

/// The folder for what tests write.
pub(crate) fn scratch() -> PathBuf {
    let profile = profile_folder();
    profile.parent().unwrap_or(&profile).join("tmp")
}

/// Keeps `text` in a file called `name` beside what was built, for who looks at a failed test.
///
/// # Errors
/// If it cannot be written.
pub fn keep(name: &str, text: &[u8]) -> std::io::Result<PathBuf> {
    let folder = scratch();
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

/// The binary `name`.
///
/// # Panics
/// If it was not built.
pub fn binary(name: &str) -> PathBuf {
    let path = profile_folder().join(name);
    assert!(path.exists(), "{} is missing: run `make build` first", path.display());
    path
}

/// The example program `name`.
///
/// # Panics
/// If it was not built.
pub fn example(name: &str) -> PathBuf {
    built_example(name).unwrap_or_else(|| panic!("no example {name} was built"))
}

/// The example program `name`, if it was built.
pub(crate) fn built_example(name: &str) -> Option<PathBuf> {
    // Examples may use it, who lie among them.
    let places = [profile_folder().join("examples").join(name), profile_folder().join(name)];
    places.into_iter().find(|path| path.is_file())
}
