//! What comes in from outside: licences, duplicates, sources, features.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_tidy::{Package, Workspace, allowed, is_allowed_by, root};

use crate::none;

/// Licences under which Holdfast may ship what it links, itself under Apache-2.0: permissive ones,
/// and none that ask more than to be named.
const LICENCES: [&str; 11] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

#[test]
fn every_dependency_has_an_accepted_licence() {
    let packages = Workspace::load().external;
    assert!(packages.len() > 50, "cargo names the dependencies: {}", packages.len());
    let bad = packages.iter().filter(|package| !is_allowed_by(&package.licence, &LICENCES));
    let bad = bad.map(|p| format!("{} {}: {:?}", p.name, p.version, p.licence));
    none(bad.collect(), "licences that are not on the list:");
}

#[test]
fn a_library_is_compiled_once_unless_the_list_says_why_not() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in Workspace::load().external {
        versions.entry(package.name).or_default().insert(package.version);
    }
    versions.retain(|_, versions| versions.len() > 1);
    let allowed = allowed("duplicates");
    let is_listed = |name: &String| allowed.iter().any(|a| a.what == *name);
    let duplicate = versions.iter().filter(|(name, _)| !is_listed(name));
    let mut found: Vec<String> =
        duplicate.map(|(name, versions)| format!("{name}: {versions:?}")).collect();
    let needless = allowed.iter().filter(|a| !versions.contains_key(&a.what));
    found.extend(needless.map(|a| format!("{} is listed and no longer a duplicate", a.what)));
    none(found, "two versions of one library (allow/duplicates.txt):");
}

#[test]
fn every_dependency_comes_from_the_public_registry() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock is committed");
    let expected = "registry+https://github.com/rust-lang/crates.io-index";
    let sources = lock.lines().filter_map(|line| line.strip_prefix("source = "));
    let other = sources.map(|source| source.trim_matches('"')).filter(|s| *s != expected);
    none(other.map(str::to_owned).collect(), "sources other than the public registry:");
}

#[test]
fn seeded_defects_are_switched_on_by_no_default_and_no_dependency() {
    let members = Workspace::load().members;
    let mut found = Vec::new();
    for package in &members {
        for name in package.features.keys().filter(|name| *name != "defects") {
            if reaches_defects(package, name) {
                found.push(format!("{}: the feature {name} leads to it", package.name));
            }
        }
        let asked =
            package.dependencies.iter().filter(|d| d.features.iter().any(|f| f == "defects"));
        found.extend(asked.map(|d| format!("{} asks {} for it", package.name, d.name)));
    }
    none(found, "the feature `defects` must be absent from a release:");
    let has_them = |name: &str| {
        let package = members.iter().find(|p| p.own_name() == Some(name));
        package.is_some_and(|p| p.features.contains_key("defects"))
    };
    let parts = ["env", "lsm", "journal", "kv", "replica", "node", "client"];
    let without = parts.into_iter().filter(|name| !has_them(name)).map(str::to_owned);
    none(without.collect(), "crates with nothing to switch on:");
}

/// Whether the feature `name` switches `defects` on, in the package or in one it depends on.
fn reaches_defects(package: &Package, name: &str) -> bool {
    let mut open = vec![name.to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(feature) = open.pop() {
        if feature.rsplit('/').next() == Some("defects") {
            return true;
        }
        if seen.insert(feature.clone()) {
            open.extend(package.features.get(&feature).into_iter().flatten().cloned());
        }
    }
    false
}

#[test]
fn no_verb_builds_what_is_shipped_with_seeded_defects() {
    let mut found = Vec::new();
    let scripts = ["Makefile", "tests/run", ".ci/run", "tests/bench-engine/run"];
    for script in scripts {
        let text = std::fs::read_to_string(root().join(script)).expect("the script is there");
        let asks = |line: &&str| line.contains("--features") || line.contains("--all-features");
        let asks = text.lines().filter(asks).filter(|line| line.contains("defects"));
        found.extend(asks.map(|line| format!("{script}: {}", line.trim())));
    }
    none(found, "the feature `defects` is for the tests that look for them:");
}
