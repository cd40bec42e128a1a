//! Nodes of a measurement: three, beside a running local cluster.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::local::{self, Layout, cpu_seconds, kill_all, resident_bytes};

/// Loopback address and ports of the nodes: beside a running local cluster.
const ADDRESS: &str = "127.0.0.77";
const PORT_BASE: u16 = 17_400;
const FOLDER: &str = "target/bench-cluster";

/// The nodes; dropped, they are ended and their data is deleted.
pub struct Nodes(Layout);

impl Nodes {
    /// Three new nodes with `settings` beyond the defaults, founded and healthy.
    ///
    /// # Errors
    /// Nodes that do not start or do not get healthy.
    pub async fn start(settings: Vec<String>) -> Result<Self> {
        let mut layout = Layout::standard(&PathBuf::from(FOLDER), 3)?;
        layout.address = ADDRESS.into();
        layout.port_base = PORT_BASE;
        layout.settings = settings;
        local::stop_all(&layout);
        let _ = std::fs::remove_dir_all(FOLDER);
        let nodes = Self(layout);
        nodes.launch()?;
        local::found_and_wait(&nodes.0).await?;
        Ok(nodes)
    }

    /// Starts what does not run; does not wait for it.
    ///
    /// # Errors
    /// A port that is taken, a binary that is missing.
    pub fn launch(&self) -> Result<()> {
        local::launch_missing(&self.0)
    }

    /// SIGKILL, all at once.
    pub fn kill(&self) {
        kill_all(&self.0);
    }

    /// Client addresses.
    pub fn endpoints(&self) -> Vec<String> {
        self.0.numbers().map(|i| self.0.client(i)).collect()
    }

    /// Processes that run.
    pub fn pids(&self) -> Vec<i32> {
        self.0.numbers().filter_map(|i| self.0.process(i).map(|p| p.pid)).collect()
    }

    /// Memory of the largest process, bytes.
    pub fn resident_bytes_max(&self) -> u64 {
        self.pids().into_iter().filter_map(resident_bytes).max().unwrap_or(0)
    }

    /// Bytes of the files of all ranges on the node that has most of them.
    pub fn range_bytes_max(&self) -> u64 {
        let ranges = |i| self.0.folder(i).join("data").join("ranges");
        self.0.numbers().map(|i| bytes_of(&ranges(i))).max().unwrap_or(0)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        local::stop_all(&self.0);
        let _ = std::fs::remove_dir_all(FOLDER);
    }
}

/// Processor time of these processes together, seconds.
pub fn cpu_of(pids: &[i32]) -> f64 {
    pids.iter().filter_map(|pid| cpu_seconds(*pid)).sum()
}

/// Bytes of all files below `folder`; what vanishes meanwhile counts nothing.
fn bytes_of(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_of(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
