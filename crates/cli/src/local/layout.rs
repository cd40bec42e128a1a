//! Where the files, addresses and ports of a local node are.
//!
//! ```text
//! .cluster/n1/            node 1
//!   holdfast.toml         its configuration, written at the first start
//!   data/                 its data directory
//!   log                   its output
//!   pid                   "PID START_TIME" of the running process
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::local::process::Recorded;

/// A family of local nodes: a folder, an address, and three port bases.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Folder that holds `n1/`, `n2/`, …
    pub root: PathBuf,
    /// Loopback address all nodes listen on.
    pub address: String,
    /// Node i serves clients on this + i, peers on +10 + i, HTTP on +20 + i.
    pub port_base: u16,
    /// How many nodes there are.
    pub nodes: u16,
    /// The server binary.
    pub server: PathBuf,
    /// More `--set` arguments for every node.
    pub settings: Vec<String>,
}

impl Layout {
    /// The cluster of `make cluster`: `.cluster/` here, 127.0.0.1, ports 740i, 741i, 742i.
    pub fn standard(root: &Path, nodes: u16) -> io::Result<Self> {
        let server = std::env::current_exe()?.with_file_name("holdfastd");
        Ok(Self {
            root: root.to_owned(),
            address: "127.0.0.1".into(),
            port_base: 7400,
            nodes,
            server,
            settings: Vec::new(),
        })
    }

    /// How many nodes the folder already holds.
    pub fn existing_nodes(root: &Path) -> u16 {
        (1..=64).take_while(|i| root.join(format!("n{i}")).is_dir()).count() as u16
    }

    /// Numbers of all nodes.
    pub fn numbers(&self) -> impl Iterator<Item = u16> + use<> {
        1..=self.nodes
    }

    /// Folder of node `i`.
    pub fn folder(&self, i: u16) -> PathBuf {
        self.root.join(format!("n{i}"))
    }

    /// Log file of node `i`.
    pub fn log(&self, i: u16) -> PathBuf {
        self.folder(i).join("log")
    }

    /// Configuration file of node `i`.
    pub fn config(&self, i: u16) -> PathBuf {
        self.folder(i).join("holdfast.toml")
    }

    fn pid_file(&self, i: u16) -> PathBuf {
        self.folder(i).join("pid")
    }

    /// Client address of node `i`.
    pub fn client(&self, i: u16) -> String {
        format!("{}:{}", self.address, self.port_base + i)
    }

    /// Peer address of node `i`.
    pub fn peer(&self, i: u16) -> String {
        format!("{}:{}", self.address, self.port_base + 10 + i)
    }

    /// HTTP address of node `i`.
    pub fn http(&self, i: u16) -> String {
        format!("{}:{}", self.address, self.port_base + 20 + i)
    }

    /// Client addresses of all nodes, comma-separated.
    pub fn endpoints(&self) -> String {
        self.numbers().map(|i| self.client(i)).collect::<Vec<_>>().join(",")
    }

    /// The running process of node `i`, if there is one.
    pub fn process(&self, i: u16) -> Option<Recorded> {
        let text = fs::read_to_string(self.pid_file(i)).ok()?;
        Recorded::parse(&text).filter(|p| p.is_alive())
    }

    /// Notes the process of node `i`.
    pub fn record(&self, i: u16, process: Recorded) -> io::Result<()> {
        fs::write(self.pid_file(i), process.to_string())
    }

    /// Forgets the process of node `i`.
    pub fn forget(&self, i: u16) {
        // A missing file is what is wanted.
        let _ = fs::remove_file(self.pid_file(i));
    }

    /// Creates the folder of node `i` and writes its configuration (kept if there is one).
    pub fn prepare(&self, i: u16) -> io::Result<()> {
        let folder = self.folder(i);
        fs::create_dir_all(&folder)?;
        if !self.config(i).exists() {
            fs::write(self.config(i), self.config_text(i)?)?;
        }
        Ok(())
    }

    fn config_text(&self, i: u16) -> io::Result<String> {
        let data = std::path::absolute(self.folder(i).join("data"))?;
        let seeds: Vec<String> = self
            .numbers()
            .filter(|other| *other != i && self.nodes > 1)
            .map(|other| format!("{:?}", self.peer(other)))
            .collect();
        Ok(format!(
            "# Node {i} of a local cluster; every key is described in config/reference.toml.\n\
             [node]\ndata_dir = {:?}\n\n\
             [listen]\nclient = {:?}\npeer = {:?}\nhttp = {:?}\n\n\
             [cluster]\nseeds = [{}]\n",
            data.display().to_string(),
            self.client(i),
            self.peer(i),
            self.http(i),
            seeds.join(", ")
        ))
    }
}
