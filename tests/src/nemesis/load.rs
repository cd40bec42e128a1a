//! Clients that ask for too much, or for nonsense.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use holdfast_client::{Client, Operation, Watch};

use super::{Field, Kind, Nemesis, Proof};
use crate::rpc::Rpc;

/// Keys that expire at once.
const KEYS: usize = 4_000;
/// Keys written at once.
const BATCH_KEYS: usize = 500;
/// When they expire.
const TTL: Duration = Duration::from_secs(3);
/// How long after that they may still be there, faults included.
const EXPIRY_LIMIT: Duration = Duration::from_secs(60);
/// What requests of these clients are given.
const DEADLINE: Duration = Duration::from_secs(5);
/// Watches that nobody reads.
const CONSUMERS: usize = 24;
/// Connections of a flood.
const CONNECTIONS: usize = 800;
/// Attempts to have them.
const CONNECTIONS_TRIED_MAX: usize = CONNECTIONS + 20;
/// What one connection may take.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// Longer than any request may be.
const HUGE_BYTES: usize = 24 << 20;
/// Of so many pieces of nonsense one is that large.
const HUGE_EVERY: u32 = 5;
/// Attempts to have both refused, after others have gone.
const HEAL_STEPS_MAX: u32 = 2 * HUGE_EVERY;

pub(super) fn of(kind: Kind) -> Box<dyn Nemesis> {
    match kind {
        Kind::MassExpiry => Box::new(Expiry::default()),
        Kind::SlowConsumers => Box::new(Slow::default()),
        Kind::BadRequests => Box::new(Nonsense::default()),
        _ => Box::new(Flood::default()),
    }
}

/// Thousands of keys, in a keyspace of their own, expire within a moment.
#[derive(Default)]
struct Expiry {
    client: Option<Client>,
    written: usize,
}

#[async_trait(?Send)]
impl Nemesis for Expiry {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        let client = field.cluster.client().await?.with_deadline(DEADLINE)?;
        let name = format!("expiry-{:x}", field.random.u64());
        client.with_deadline(EXPIRY_LIMIT)?.cluster().create_keyspace(&name, 2, 0, None).await?;
        let client = self.client.insert(client.keyspace(&name));
        for first in (0..KEYS).step_by(BATCH_KEYS) {
            let keys = first..first + BATCH_KEYS;
            let put = |n: usize| Operation::put(format!("k{n}"), "x".repeat(64)).ttl(TTL);
            let batch = keys.fold(client.batch(), |batch, n| batch.push(put(n)));
            // Others may keep this from succeeding; then there are fewer.
            if let Ok(answers) = batch.send().await {
                self.written += answers.iter().filter(|answer| answer.is_ok()).count();
            }
        }
        Ok(())
    }

    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof> {
        let client = self.client.take().context("it was installed")?;
        let gone = crate::eventually(EXPIRY_LIMIT, async || {
            let left = client.scan("k").limit(10).collect().await?.len();
            ensure!(left == 0, "{left} keys and more are there long after their time");
            Ok(())
        });
        gone.await?;
        let admin = field.client.with_deadline(EXPIRY_LIMIT)?;
        admin.cluster().drop_keyspace(client.keyspace_name()).await?;
        Ok(Proof::of(self.written > 0, format!("{} keys expired", self.written)))
    }
}

/// Watches of everything that the load does, whose events nobody takes.
#[derive(Default)]
struct Slow {
    watches: Vec<Watch>,
}

#[async_trait(?Send)]
impl Nemesis for Slow {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        // Connections of their own: the load's must not stand still with them.
        let client = field.cluster.client().await?.keyspace(field.client.keyspace_name());
        for _ in 0..CONSUMERS {
            let watch = client.watch_prefix("").previous().start();
            if let Ok(Ok(watch)) = tokio::time::timeout(DEADLINE, watch).await {
                self.watches.push(watch);
            }
        }
        Ok(())
    }

    async fn heal(&mut self, _field: &mut Field<'_>) -> Result<Proof> {
        let mut late = 0;
        for mut watch in self.watches.drain(..) {
            // What waits for the consumer, or the news that it was too slow, is there at once.
            late += usize::from(tokio::time::timeout(DEADLINE, watch.next()).await.is_ok());
        }
        Ok(Proof::of(late > 0, format!("{late} watches had something that was not taken")))
    }
}

/// Requests that are no requests, or too large.
#[derive(Default)]
struct Nonsense {
    step: u32,
    refused: usize,
    /// Of these, such as were too large.
    refused_huge: usize,
    unanswered: usize,
}

#[async_trait(?Send)]
impl Nemesis for Nonsense {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        self.step(field).await
    }

    async fn step(&mut self, field: &mut Field<'_>) -> Result<()> {
        let node = 1 + field.random.below(field.cluster.size() as u64) as usize;
        let node = field.cluster.node(node);
        let mut bytes = vec![0; 1 + field.random.below(2_000) as usize];
        field.random.fill(&mut bytes);
        for address in [&node.client, &node.peer, &node.http] {
            if let Ok(mut stream) = TcpStream::connect(address) {
                // Whether it is taken is the node's business.
                let _ = stream.write_all(&bytes);
            }
        }
        // A field of no type that exists: no parser takes it for a message.
        let bad = Bytes::from([&[0x0f][..], &bytes].concat());
        let is_huge_one = self.step.is_multiple_of(HUGE_EVERY);
        self.step += 1;
        let huge = Bytes::from(vec![0x0a; if is_huge_one { HUGE_BYTES } else { 0 }]);
        let Ok(Ok(rpc)) = tokio::time::timeout(DEADLINE, Rpc::connect(&node.client)).await else {
            self.unanswered += 1;
            return Ok(());
        };
        for request in [bad, huge].into_iter().filter(|request| !request.is_empty()) {
            let is_huge = request.len() == HUGE_BYTES;
            let answer = rpc.unary("/holdfast.v1.Kv/Put", request);
            match tokio::time::timeout(DEADLINE, answer).await {
                Ok(Ok(_)) => anyhow::bail!("nonsense was answered as if it were a request"),
                Ok(Err(_)) => {
                    self.refused += 1;
                    self.refused_huge += usize::from(is_huge);
                }
                Err(_) => self.unanswered += 1,
            }
        }
        Ok(())
    }

    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof> {
        // Others may have kept the nodes from refusing.
        for _ in 0..HEAL_STEPS_MAX {
            if self.refused > self.refused_huge && self.refused_huge > 0 {
                break;
            }
            self.step(field).await?;
        }
        let words = format!(
            "{} requests refused, {} of them too large, {} unanswered",
            self.refused, self.refused_huge, self.unanswered
        );
        Ok(Proof::of(self.refused > self.refused_huge && self.refused_huge > 0, words))
    }
}

/// Connections to one node of which nothing comes.
#[derive(Default)]
struct Flood {
    connections: Vec<TcpStream>,
}

#[async_trait(?Send)]
impl Nemesis for Flood {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        let free = field.free();
        let node = *free.first().context("no node is free")?;
        let address: SocketAddr = field.cluster.node(node).client.parse()?;
        for n in 0..CONNECTIONS_TRIED_MAX {
            if self.connections.len() >= CONNECTIONS {
                break;
            }
            // The queue of those that are not accepted yet is short, and the machine is busy.
            let attempt = TcpStream::connect_timeout(&address, CONNECT_LIMIT);
            let Ok(mut stream) = attempt else { continue };
            if n % 2 == 0 {
                // Half of them begin as clients do.
                let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            }
            self.connections.push(stream);
        }
        Ok(())
    }

    async fn heal(&mut self, _field: &mut Field<'_>) -> Result<Proof> {
        let count = self.connections.len();
        self.connections.clear();
        Ok(Proof::of(count * 2 > CONNECTIONS, format!("{count} connections stood")))
    }
}
