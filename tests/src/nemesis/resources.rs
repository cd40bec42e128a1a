//! Processes at the limits of what the system gives them.

use std::fs;
use std::net::TcpStream;

use anyhow::{Context, Result};
use async_trait::async_trait;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::{Field, Kind, Nemesis, Proof};

/// Files a node may still open.
const FILES_LEFT: u64 = 2;
/// Bytes of addresses a node may still take.
const MEMORY_LEFT: u64 = 24 << 20;
/// Connections that want a file each, at every step.
const CONNECTIONS: usize = 8;
/// Most of them at once.
const CONNECTIONS_MAX: usize = 64;

pub(super) fn of(kind: Kind) -> Box<dyn Nemesis> {
    let resource = if kind == Kind::FewFiles { Resource::Nofile } else { Resource::As };
    Box::new(Limit {
        resource,
        node: 0,
        process: 0,
        before: None,
        lowest: 0,
        is_reached: false,
        ended: 0,
        connections: Vec::new(),
    })
}

/// A node gets hardly more of something than it has.
struct Limit {
    resource: Resource,
    node: usize,
    process: u32,
    before: Option<Rlimit>,
    lowest: u64,
    is_reached: bool,
    ended: u32,
    connections: Vec<TcpStream>,
}

fn in_use(process: u32, resource: Resource) -> Result<u64> {
    if resource == Resource::Nofile {
        return Ok(fs::read_dir(format!("/proc/{process}/fd"))?.count() as u64);
    }
    let text = fs::read_to_string(format!("/proc/{process}/statm"))?;
    let pages: u64 = text.split(' ').next().context("a size")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// The limit that holds for a process, as the system tells it.
fn told(process: u32, resource: Resource) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
    let name = if resource == Resource::Nofile { "Max open files" } else { "Max address space" };
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

impl Limit {
    fn set(&self, limit: Rlimit) -> Result<Rlimit> {
        let process = Pid::from_raw(i32::try_from(self.process)?).context("a process id")?;
        Ok(prlimit(Some(process), self.resource, limit)?)
    }
}

#[async_trait(?Send)]
impl Nemesis for Limit {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        self.node = field.take(1).first().copied().context("no node is free")?;
        self.process = field.cluster.node(self.node).pid().context("it runs")?;
        let left = if self.resource == Resource::Nofile { FILES_LEFT } else { MEMORY_LEFT };
        self.lowest = in_use(self.process, self.resource)? + left;
        // The upper limit, inherited from this process, stays what it is: who lowers it may not
        // be allowed to raise it again.
        let maximum = getrlimit(self.resource).maximum;
        let before = self.set(Rlimit { current: Some(self.lowest), maximum })?;
        self.before = Some(before);
        Ok(())
    }

    async fn step(&mut self, field: &mut Field<'_>) -> Result<()> {
        let node = field.cluster.node_mut(self.node);
        if !node.is_running() {
            self.ended += 1;
            node.start()?;
            return Ok(());
        }
        if self.ended == 0 {
            self.is_reached |= told(self.process, self.resource) == Some(self.lowest);
        }
        for _ in 0..CONNECTIONS {
            let Ok(address) = node.client.parse() else { break };
            let limit = std::time::Duration::from_millis(100);
            if let Ok(stream) = TcpStream::connect_timeout(&address, limit)
                && self.connections.len() < CONNECTIONS_MAX
            {
                self.connections.push(stream);
            }
        }
        Ok(())
    }

    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof> {
        self.connections.clear();
        let node = field.cluster.node_mut(self.node);
        if !node.is_running() {
            self.ended += 1;
            node.start()?;
        } else if let (0, Some(before)) = (self.ended, self.before) {
            self.set(before)?;
        }
        field.cluster.answers(self.node).await?;
        field.give_back(&[self.node]);
        let words = format!(
            "node {} was held to {} (the system said so: {}), it ended {} times",
            self.node, self.lowest, self.is_reached, self.ended
        );
        Ok(Proof::of(self.is_reached, words))
    }
}
