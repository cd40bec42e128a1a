//! Real processes, sockets and disks. Each test says what must be true of Holdfast in use.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod bad_input;
mod command_line;
mod configuration;
mod crashes;
mod damage;
mod disk;
mod elections;
mod etcd;
mod examples;
mod founding;
mod http;
mod journal;
mod keys;
mod late_maps;
mod local;
mod locks;
mod metrics;
mod minority;
mod pauses;
mod restarts;
mod semaphores;
mod snapshots;
mod spread;
mod torture;
mod transfers;
mod ttl;
mod watches;
mod workloads;

use holdfast_client::Client;

/// One key of every range of the default keyspace, all beginning with `prefix`.
fn key_in_each_range(client: &Client, prefix: &str) -> anyhow::Result<Vec<String>> {
    let map = client.map();
    let count = map.ranges_of("")?.len();
    let mut keys = std::collections::BTreeMap::new();
    for n in 0..10_000 {
        let key = format!("{prefix}{n}");
        let range = map.lookup("", holdfast_model::position(key.as_bytes()))?.id;
        keys.entry(range).or_insert(key);
        if keys.len() == count {
            return Ok(keys.into_values().collect());
        }
    }
    anyhow::bail!("10,000 keys reach {} of {count} ranges", keys.len())
}
