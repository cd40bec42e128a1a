//! What cargo knows: the packages of the workspace and of its dependencies.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::root;

/// Packages of this workspace are called so.
const OWN_PREFIX: &str = "holdfast-";

/// A dependency as a manifest writes it.
#[derive(Clone, Debug)]
pub struct Dependency {
    /// The package.
    pub name: String,
    /// `normal`, `dev` or `build`.
    pub kind: String,
    /// Features the manifest asks for.
    pub features: Vec<String>,
}

/// A package of the workspace or below it.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence expression; empty where it gives none.
    pub licence: String,
    /// Its dependencies, all kinds.
    pub dependencies: Vec<Dependency>,
    /// Its features with what they switch on.
    pub features: BTreeMap<String, Vec<String>>,
    /// Names of its integration-test binaries.
    pub tests: Vec<String>,
}

impl Package {
    /// The name without the prefix all packages here have; `None` for others.
    pub fn own_name(&self) -> Option<&str> {
        self.name.strip_prefix(OWN_PREFIX)
    }

    /// The crates of this workspace it depends on, dev-dependencies included.
    pub fn own_dependencies(&self) -> impl Iterator<Item = &str> {
        self.dependencies.iter().filter_map(|dependency| dependency.name.strip_prefix(OWN_PREFIX))
    }
}

/// What `cargo metadata` says, for the machine the tests run on.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The packages of this repository.
    pub members: Vec<Package>,
    /// All others that are compiled here.
    pub external: Vec<Package>,
}

impl Workspace {
    /// Asks cargo, offline.
    ///
    /// # Panics
    /// If cargo fails: a dependency has never been fetched on this machine.
    pub fn load() -> Self {
        let platform = format!("--filter-platform={}", host());
        let arguments = ["metadata", "--offline", "--locked", "--format-version=1", &platform];
        let metadata = run(&cargo(), &arguments);
        let metadata: Value = serde_json::from_str(&metadata).expect("cargo writes JSON");
        let ids = |value: &Value| -> BTreeSet<String> { list(value).map(string).collect() };
        let members = ids(&metadata["workspace_members"]);
        let compiled: BTreeSet<String> =
            list(&metadata["resolve"]["nodes"]).map(|node| string(&node["id"])).collect();
        let mut workspace = Self { members: Vec::new(), external: Vec::new() };
        for value in list(&metadata["packages"]) {
            let id = string(&value["id"]);
            if members.contains(&id) {
                workspace.members.push(package(value));
            } else if compiled.contains(&id) {
                workspace.external.push(package(value));
            }
        }
        workspace
    }
}

fn package(value: &Value) -> Package {
    let feature = |(name, on): (&String, &Value)| (name.clone(), list(on).map(string).collect());
    let features = value["features"].as_object().into_iter().flatten().map(feature).collect();
    let is_test = |target: &&Value| list(&target["kind"]).any(|kind| kind == "test");
    Package {
        name: string(&value["name"]),
        version: string(&value["version"]),
        licence: string(&value["license"]),
        dependencies: list(&value["dependencies"]).map(dependency).collect(),
        features,
        tests: list(&value["targets"]).filter(is_test).map(|t| string(&t["name"])).collect(),
    }
}

fn dependency(value: &Value) -> Dependency {
    Dependency {
        name: string(&value["name"]),
        kind: value["kind"].as_str().unwrap_or("normal").to_owned(),
        features: list(&value["features"]).map(string).collect(),
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// The triple of this machine: packages for others may never have been fetched.
fn host() -> String {
    let version = run(&cargo(), &["--version", "--verbose"]);
    let line = version.lines().find_map(|line| line.strip_prefix("host: "));
    line.expect("cargo names its host").to_owned()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(root()).output();
    let output = output.expect("cargo can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
