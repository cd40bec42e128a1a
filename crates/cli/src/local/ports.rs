//! Who holds a port.

use std::fs;
use std::net::TcpListener;

/// Whether `address` can be listened on; if not, a sentence that names the likely holder.
pub fn problem(address: &str) -> Option<String> {
    match TcpListener::bind(address) {
        Ok(_) => None,
        Err(error) => {
            let port = address.rsplit(':').next().and_then(|p| p.parse().ok()).unwrap_or(0);
            let holder = match holder(port) {
                Some((pid, name)) => format!("held by process {pid} ({name})"),
                None => "held by a process this user cannot see".to_owned(),
            };
            Some(format!("port {port}: {error}; {holder}"))
        }
    }
}

/// The process that listens on `port`, by `/proc/net/tcp` and the descriptors of all processes.
fn holder(port: u16) -> Option<(i32, String)> {
    let inode = listening_inode(port)?;
    let wanted = format!("socket:[{inode}]");
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        let holds = descriptors.flatten().any(|d| {
            fs::read_link(d.path()).is_ok_and(|target| target.to_string_lossy() == wanted)
        });
        if holds {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

fn listening_inode(port: u16) -> Option<String> {
    let suffix = format!(":{port:04X}");
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(text) = fs::read_to_string(table) else { continue };
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, "0A", ..] = fields.as_slice() else { continue };
            if local.ends_with(&suffix) {
                return fields.get(9).map(|inode| (*inode).to_owned());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_taken_port_is_named() {
        let listener = TcpListener::bind("127.0.0.91:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sentence = problem(&address.to_string()).unwrap();
        assert!(sentence.contains(&address.port().to_string()), "{sentence}");
        assert!(sentence.contains(&std::process::id().to_string()), "{sentence}");
        drop(listener);
        assert_eq!(problem(&address.to_string()), None);
    }
}
