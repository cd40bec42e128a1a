//! Who dials: the process that owns the other end of a connection, as the system tells.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The processes of nodes, and which node each is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Callers(Arc<Mutex<BTreeMap<usize, u32>>>);

impl Callers {
    /// Node `number` is process `id` from now on.
    pub(crate) fn is(&self, number: usize, id: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number, id);
    }

    /// The node whose process has dialled from `there` to `here`.
    pub(crate) fn who(&self, there: SocketAddr, here: SocketAddr) -> Option<usize> {
        let socket = format!("socket:[{}]", inode(there, here)?);
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        nodes.into_iter().find_map(|(number, id)| owns(id, &socket).then_some(number))
    }
}

/// The number of the socket that is bound to `own` and connected to `other`.
fn inode(own: SocketAddr, other: SocketAddr) -> Option<String> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let (own, other) = (hexadecimal(own)?, hexadecimal(other)?);
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| {
        words.get(1).copied() == Some(own.as_str()) && words.get(2).copied() == Some(&other)
    })?;
    Some((*line.get(9)?).to_owned())
}

/// An address as the system's table has it: the bytes of a number in memory, and the port.
fn hexadecimal(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    let host = u32::from_ne_bytes(address.ip().octets());
    Some(format!("{host:08X}:{:04X}", address.port()))
}

fn owns(id: u32, socket: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{id}/fd")) else { return false };
    let mut targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    targets.any(|target| target.as_os_str() == socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_dialled_is_found_by_its_socket_and_no_other() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let here = listener.local_addr().expect("it is bound");
        let stream = std::net::TcpStream::connect(here).expect("it listens");
        let (_accepted, there) = listener.accept().expect("somebody dialled");
        assert_eq!(stream.local_addr().ok(), Some(there));
        let callers = Callers::default();
        callers.is(1, 1);
        assert_eq!(callers.who(there, here), None);
        callers.is(2, std::process::id());
        assert_eq!(callers.who(there, here), Some(2));
    }
}
