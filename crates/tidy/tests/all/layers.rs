//! Who may lean on whom. The table is that of `ARCHITECTURE.md`.

use std::collections::BTreeMap;

use holdfast_tidy::Workspace;

use crate::none;

/// Crates by layer; a crate depends only on crates of a smaller one, dev-dependencies included.
/// `tidy` stands outside: nobody knows it, it knows nobody.
const LAYERS: [(&str, u32); 18] = [
    ("model", 0),
    ("env", 0),
    ("runtime", 1),
    ("lsm", 1),
    ("journal", 1),
    ("ring", 1),
    ("wire", 1),
    ("kv", 2),
    ("client", 2),
    ("replica", 3),
    ("node", 4),
    ("etcd", 5),
    ("console", 5),
    ("server", 6),
    ("cli", 6),
    ("testkit", 7),
    ("examples", 7),
    ("tests", 8),
];

/// Arrows between own crates that layers would allow and the table's last column forbids.
const FORBIDDEN: [(&str, &[&str]); 7] = [
    ("runtime", &["lsm", "journal"]),
    ("client", &["kv", "lsm", "journal"]),
    ("kv", &["journal", "wire", "runtime"]),
    ("console", &["replica", "kv", "lsm", "journal"]),
    ("etcd", &["replica", "lsm", "journal"]),
    ("cli", &["node", "replica", "kv", "server"]),
    ("examples", &["node", "replica", "kv", "lsm", "journal", "wire", "runtime"]),
];

/// Libraries from outside and the only crates that may name them; `tidy` is free.
const CONFINED: [(&str, &[&str]); 8] = [
    ("openraft", &["replica"]),
    ("tonic", &["wire", "runtime", "client", "node", "etcd", "cli", "testkit", "tests"]),
    ("tonic-prost-build", &["wire"]),
    ("tonic-reflection", &["node"]),
    ("axum", &["console", "etcd"]),
    ("clap", &["cli", "server"]),
    ("anyhow", &["cli", "server", "examples", "tests", "testkit"]),
    ("foca", &["node"]),
];

/// Crates that stay synchronous, and deaf to the network.
const WITHOUT_TOKIO: [&str; 6] = ["model", "env", "lsm", "journal", "ring", "kv"];

fn layers() -> BTreeMap<&'static str, u32> {
    LAYERS.into_iter().collect()
}

#[test]
fn every_crate_depends_downward_only() {
    let layers = layers();
    let mut found = Vec::new();
    for package in Workspace::load().members {
        let Some(name) = package.own_name().map(str::to_owned) else {
            found.push(format!("{} lacks the prefix of the house", package.name));
            continue;
        };
        for dependency in package.own_dependencies() {
            let is_downward = match (layers.get(name.as_str()), layers.get(dependency)) {
                (Some(from), Some(to)) => to < from,
                _ => false,
            };
            if !is_downward {
                found.push(format!("{name} depends on {dependency}"));
            }
        }
        if name != "tidy" && !layers.contains_key(name.as_str()) {
            found.push(format!("{name} has no layer"));
        }
    }
    none(found, "a crate depends only on crates of a smaller layer:");
}

#[test]
fn no_crate_knows_what_the_table_says_it_must_never_know() {
    let forbidden: BTreeMap<&str, &[&str]> = FORBIDDEN.into_iter().collect();
    let mut found = Vec::new();
    for package in Workspace::load().members {
        let Some(name) = package.own_name() else { continue };
        let of_crate = forbidden.get(name).copied().unwrap_or_default();
        let bad = package.own_dependencies().filter(|dependency| of_crate.contains(dependency));
        found.extend(bad.map(|dependency| format!("{name} depends on {dependency}")));
    }
    none(found, "the last column of the table forbids:");
}

#[test]
fn outside_libraries_stay_where_they_are_wrapped() {
    let mut found = Vec::new();
    for package in Workspace::load().members {
        let Some(name) = package.own_name().filter(|name| *name != "tidy") else { continue };
        for dependency in &package.dependencies {
            let of_library = CONFINED.iter().find(|(library, _)| *library == dependency.name);
            if of_library.is_some_and(|(_, allowed)| !allowed.contains(&name)) {
                found.push(format!("{name} names {}", dependency.name));
            }
            if WITHOUT_TOKIO.contains(&name) && dependency.name.starts_with("tokio") {
                found.push(format!("{name} names {}", dependency.name));
            }
        }
    }
    none(found, "a library is named only by the crates that wrap it:");
}

#[test]
fn every_crate_takes_lints_and_edition_from_the_workspace() {
    let mut found = Vec::new();
    for file in holdfast_tidy::sources() {
        if !file.path.ends_with("Cargo.toml") || file.path == "Cargo.toml" {
            continue;
        }
        let needed = ["[lints]\nworkspace = true", "edition.workspace = true"];
        let needed = needed.into_iter().chain(["license.workspace = true"]);
        let missing = needed.filter(|line| !file.text.contains(line));
        found.extend(missing.map(|line| format!("{}: {line:?} is missing", file.path)));
    }
    none(found, "one set of lints, one edition, one licence:");
}
