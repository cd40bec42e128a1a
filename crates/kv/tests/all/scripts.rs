//! Golden scripts: every file under `tests/scripts` is a claim, and holds.

use std::path::{Path, PathBuf};

use holdfast_env::Disk;
use holdfast_env::real::RealDisk;

use crate::script;

/// Fewer scripts than this mean that they were not found.
const SCRIPTS_MIN: usize = 40;

fn scripts_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for path in RealDisk.list(dir).expect("list") {
        if RealDisk.list(&path).is_ok() {
            scripts_below(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// With `BLESS=1` in the environment what is expected is rewritten; read the difference then.
#[test]
fn every_script_gives_what_it_claims() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths = Vec::new();
    scripts_below(&root, &mut paths);
    assert!(paths.len() >= SCRIPTS_MIN, "only {} scripts", paths.len());
    let bless = std::env::var_os("BLESS").is_some();
    let mut failures = Vec::new();
    for path in paths {
        let text = String::from_utf8(RealDisk.read(&path).expect("read")).expect("UTF-8");
        let got = script::run(&text);
        if got == text {
            continue;
        }
        if bless {
            RealDisk.replace(&path, got.as_bytes()).expect("bless");
        } else {
            failures.push(format!("{}:\n{}", path.display(), difference(&text, &got)));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn difference(expected: &str, got: &str) -> String {
    let (mut expected, mut got) = (expected.lines(), got.lines());
    let mut lines = Vec::new();
    loop {
        match (expected.next(), got.next()) {
            (None, None) => return lines.join("\n"),
            (e, g) if e == g => lines.push(format!("  {}", e.unwrap_or_default())),
            (e, g) => {
                lines.extend(e.map(|e| format!("- {e}")));
                lines.extend(g.map(|g| format!("+ {g}")));
            }
        }
    }
}
