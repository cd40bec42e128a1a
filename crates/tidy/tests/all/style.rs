//! The shape of the code, where clippy has no say.

use std::collections::BTreeMap;

use holdfast_tidy::{SourceFile, Workspace, allowed, functions, mask, sources};

use crate::none;

/// Lines of a function, from its first to its last.
const FUNCTION_LINES_MAX: usize = 70;

/// Columns of a line of Rust or protobuf.
const COLUMNS_MAX: usize = 100;

/// Crates that may touch the world directly.
const TOUCHES_THE_WORLD: [&str; 7] =
    ["env", "runtime", "server", "cli", "tidy", "tests", "examples"];

/// Modules elsewhere that lift clippy's bans: the adapter through which openraft reaches the
/// runtime, code that prost generates, and where a simulation takes the place of the world.
const BANS_LIFTED: [&str; 4] = [
    "crates/replica/src/raft/runtime.rs",
    "crates/wire/src/lib.rs",
    "crates/testkit/src/sim/process.rs",
    "crates/testkit/src/sim/run.rs",
];

fn rust() -> impl Iterator<Item = SourceFile> {
    sources().into_iter().filter(SourceFile::is_rust)
}

#[test]
fn functions_stay_short_unless_listed_and_the_list_only_shrinks() {
    let mut long: BTreeMap<String, usize> = BTreeMap::new();
    let mut count = 0;
    for file in rust() {
        for function in functions(&mask(&file.text)) {
            count += 1;
            if function.lines > FUNCTION_LINES_MAX {
                let name = format!("{}::{}", file.path, function.name);
                let lines = long.entry(name).or_default();
                *lines = function.lines.max(*lines);
            }
        }
    }
    assert!(count > 500, "functions are found: {count}");
    let allowed: BTreeMap<String, usize> = allowed("long_functions")
        .into_iter()
        .map(|a| (a.what, a.reason.parse().expect("the list gives lines as a number")))
        .collect();
    let mut found = Vec::new();
    for (name, lines) in &long {
        let limit = allowed.get(name).copied().unwrap_or(FUNCTION_LINES_MAX);
        if *lines > limit {
            found.push(format!("{name} has {lines} lines, limit {limit}"));
        } else if *lines < limit {
            found.push(format!("{name} has {lines} lines: lower its limit of {limit}"));
        }
    }
    let needless = allowed.keys().filter(|name| !long.contains_key(*name));
    found.extend(needless.map(|name| format!("{name} is listed and no longer long")));
    none(found, "functions that are too long (allow/long_functions.txt):");
}

#[test]
fn every_library_opens_with_what_it_owns_and_must_never_know() {
    let mut found = Vec::new();
    for file in rust().filter(|file| file.is_crate_source() && file.path.ends_with("/lib.rs")) {
        let header: Vec<&str> =
            file.text.lines().take_while(|line| line.starts_with("//!")).collect();
        for part in ["//! Owns:", "//! Must never know:", "//! Invariants:"] {
            if !header.iter().any(|line| line.starts_with(part)) {
                found.push(format!("{}: no line {part:?}", file.path));
            }
        }
    }
    none(found, "lib.rs opens with a header:");
}

#[test]
fn every_module_opens_with_its_idea() {
    let bad = rust().filter(|file| file.is_crate_source() && !file.text.starts_with("//!"));
    none(bad.map(|file| file.path).collect(), "a module opens with a `//!` comment:");
}

#[test]
fn lines_end_before_column_hundred_and_one() {
    let mut found = Vec::new();
    let is_limited = |file: &SourceFile| file.is_rust() || file.path.ends_with(".proto");
    for file in sources().into_iter().filter(is_limited) {
        for (number, line) in (1..).zip(file.text.lines()) {
            if line.chars().count() > COLUMNS_MAX {
                found.push(format!("{}:{number}: {} columns", file.path, line.chars().count()));
            }
        }
    }
    none(found, "lines that are too long:");
}

#[test]
fn no_channel_is_unbounded() {
    let mut found = Vec::new();
    for file in rust() {
        let masked = mask(&file.text);
        let words = ["unbounded_channel", "::unbounded()", "::unbounded::<"];
        // The standard library's plain channel has no bound either; tests may use it.
        let plain = ["mpsc::channel()", "mpsc::channel::<"].into_iter();
        let is_plain =
            |word: &str| file.is_crate_source() && masked.contains(&format!("std::sync::{word}"));
        let used = words.into_iter().filter(|word| masked.contains(word));
        let used = used.chain(plain.filter(|word| is_plain(word)));
        found.extend(used.map(|word| format!("{}: {word}", file.path)));
    }
    none(found, "channels without a bound:");
}

#[test]
fn no_test_is_ignored() {
    let ignored = rust().filter(|file| mask(&file.text).contains("#[ignore"));
    none(ignored.map(|file| file.path).collect(), "ignored tests:");
}

#[test]
fn integration_tests_of_a_crate_are_one_binary() {
    let mut found = Vec::new();
    for package in Workspace::load().members {
        if package.tests.len() > 1 || package.tests.iter().any(|name| name != "all") {
            found.push(format!("{}: {:?}", package.name, package.tests));
        }
    }
    none(found, "one test binary per crate, called `all`:");
}

#[test]
fn only_the_doors_may_touch_the_world() {
    let mut found = Vec::new();
    for file in rust().filter(SourceFile::is_crate_source) {
        let is_excused = mask(&file.text).contains("clippy::disallowed_");
        let is_door = TOUCHES_THE_WORLD.contains(&file.crate_name())
            || BANS_LIFTED.contains(&file.path.as_str());
        if is_excused && !is_door {
            found.push(file.path);
        }
    }
    none(found, "clippy's bans are lifted outside of the doors:");
}

#[test]
fn unsafe_code_is_in_listed_modules_and_every_block_says_why_it_is_sound() {
    let allowed = allowed("unsafe_modules");
    let mut with_unsafe = Vec::new();
    let mut found = Vec::new();
    for file in rust() {
        let masked = mask(&file.text);
        let lines: Vec<&str> = file.text.lines().collect();
        let is_unsafe = |line: &str| line.contains("unsafe {") || line.contains("unsafe impl");
        for (number, _) in masked.lines().enumerate().filter(|(_, line)| is_unsafe(line)) {
            with_unsafe.push(file.path.clone());
            if !allowed.iter().any(|a| a.what == file.path) {
                found.push(format!("{}:{}: not a listed module", file.path, number + 1));
            }
            let above = &lines[number.saturating_sub(8)..=number];
            if !above.iter().any(|line| line.contains("SAFETY:")) {
                found.push(format!("{}:{}: no SAFETY comment above", file.path, number + 1));
            }
        }
    }
    let needless = allowed.iter().filter(|a| !with_unsafe.contains(&a.what));
    found.extend(needless.map(|a| format!("{} is listed and holds none", a.what)));
    none(found, "unsafe code (allow/unsafe_modules.txt):");
}
