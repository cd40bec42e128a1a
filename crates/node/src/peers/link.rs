//! One outgoing stream to one node: connect, introduce, exchange, and again after every break.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use holdfast_env::Clock;
use holdfast_model::NodeId;
use holdfast_replica::PeerError;
use holdfast_wire::peer::v1::hello::Class;
use holdfast_wire::peer::v1::peer_client::PeerClient;
use holdfast_wire::peer::v1::{Frame, Hello};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use super::conn::Conn;
use super::introduce::shake;
use super::transport::Inner;
use super::walls::{PeerWall, Reading};

/// Wait before the second attempt to connect.
const RECONNECT_MIN: Duration = Duration::from_millis(50);
/// Nodes that start or are founded together miss each other a few times.
const ATTEMPTS_BEFORE_WARNING: u32 = 4;
/// How often wall clocks are compared on a connection that lasts.
const MEASURE_INTERVAL: Duration = Duration::from_secs(10);
/// How soon they are compared again while the other one is not known.
const MEASURE_AGAIN: Duration = Duration::from_secs(1);
/// Silences of [`super::TransportOptions::silent_after`] after which a stream is given up.
const SILENCES_MAX: u32 = 4;

/// A node this node talks to.
#[derive(Debug)]
pub(super) struct PeerNode {
    pub(super) id: NodeId,
    /// `host:port`; changes when the map says so, and holds from the next connection on.
    pub(super) address: Mutex<String>,
    /// Per reactor of this node: replication, control, forwarding.
    pub(super) links: Vec<[Link; 3]>,
    /// Whether it answers.
    pub(super) is_present: AtomicBool,
    /// How often it fell silent: told to those who wait for its answer.
    pub(super) silences: watch::Sender<u64>,
    /// What is known of its wall clock.
    pub(super) wall: PeerWall,
    /// Told when the node introduces itself here: it listens, so nobody need wait to call it.
    pub(super) introduced: Notify,
    pub(super) tasks: holdfast_runtime::Tasks,
}

/// One stream's place; empty while it is down.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) conn: ArcSwapOption<Conn>,
}

impl PeerNode {
    pub(super) fn link(&self, reactor: usize, class: Class) -> &Link {
        let [replication, control, forward] = &self.links[reactor % self.links.len()];
        match class {
            Class::Replication => replication,
            Class::Forward => forward,
            Class::Control | Class::Unspecified => control,
        }
    }

    /// The stream's connection.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`] while it is down.
    pub(super) fn conn(&self, reactor: usize, class: Class) -> Result<Arc<Conn>, PeerError> {
        let conn = self.link(reactor, class).conn.load_full();
        conn.ok_or_else(|| PeerError::Unreachable(format!("{} is not connected", self.id)))
    }
}

/// Keeps one stream up, once this node may take part, until the node's tasks stop.
pub(super) async fn keep_up(inner: Arc<Inner>, node: Arc<PeerNode>, reactor: usize, class: Class) {
    let stop = node.tasks.stop_wish();
    let is_lead = reactor == 0 && class == Class::Control;
    let mut wait = RECONNECT_MIN;
    let mut trouble = Trouble::default();
    if stop.or(inner.accepted()).await.is_none() {
        return;
    }
    while !stop.is_wanted() {
        let attempt = stop.or(connect(&inner, &node, reactor, class)).await;
        match attempt {
            None => break,
            Some(Ok((conn, frames, client))) => {
                wait = RECONNECT_MIN;
                trouble = Trouble::default();
                let link = node.link(reactor, class);
                link.conn.store(Some(conn.clone()));
                if is_lead {
                    tracing::info!(node = %node.id, "connected");
                    inner.set_present(&node, true);
                }
                let reading = async {
                    tokio::select! {
                        problem = read(&inner, &node, &conn, frames, is_lead) => problem,
                        problem = measure(&inner, &node, client), if is_lead => problem,
                    }
                };
                let problem = stop.or(reading).await.unwrap_or_else(|| "stopping".into());
                link.conn.store(None);
                conn.fail(&PeerError::Broken(problem.clone()));
                if is_lead {
                    tracing::warn!(node = %node.id, problem, "connection lost");
                    inner.set_present(&node, false);
                }
            }
            Some(Err(problem)) if is_lead => trouble.note(node.id, problem),
            Some(Err(_)) => {}
        }
        let introduced =
            holdfast_runtime::timeout(jittered(&inner, wait), node.introduced.notified());
        wait = match stop.or(introduced).await {
            Some(Ok(())) => RECONNECT_MIN,
            _ => (wait * 2).min(inner.options.reconnect_max),
        };
    }
}

/// One line per kind of trouble that lasts, not one per attempt.
#[derive(Debug, Default)]
struct Trouble {
    problem: String,
    attempts: u32,
}

impl Trouble {
    fn note(&mut self, node: NodeId, problem: String) {
        if problem != self.problem {
            *self = Self { problem, attempts: 0 };
        }
        self.attempts += 1;
        if self.attempts == ATTEMPTS_BEFORE_WARNING {
            tracing::warn!(%node, problem = self.problem, "cannot connect");
        }
    }
}

/// Between half and all of `wait`, so that the streams of many nodes do not come in step.
fn jittered(inner: &Inner, wait: Duration) -> Duration {
    let half = u64::try_from(wait.as_micros() / 2).unwrap_or(u64::MAX).max(1);
    Duration::from_micros(half + inner.entropy.u64() % half)
}

async fn connect(
    inner: &Inner,
    node: &PeerNode,
    reactor: usize,
    class: Class,
) -> Result<(Arc<Conn>, Streaming<Frame>, PeerClient<Channel>), String> {
    let limit = inner.options.connect_timeout;
    let address = node.address.lock().clone();
    let mut client = inner.dial(&address)?;
    let (cluster, _) = inner.identity.membership().ok_or("this node belongs to no cluster")?;
    let shaken = holdfast_runtime::timeout(limit, shake(inner, &mut client, cluster, node.id));
    let (_, reading) = shaken.await.map_err(|_| format!("{address} does not answer"))??;
    note_clock(inner, node, reading);
    let (conn, outbox) = Conn::new(hello(inner, node.id, reactor, class), inner.outbox_options());
    let call = client.exchange(Request::new(outbox));
    let response = holdfast_runtime::timeout(limit, call)
        .await
        .map_err(|_| format!("{address} opens no stream"))?
        .map_err(|status| status.message().to_owned())?;
    Ok((conn, response.into_inner(), client))
}

/// Compares wall clocks now and then; says why that failed, which ends the connection.
async fn measure(inner: &Inner, node: &PeerNode, mut client: PeerClient<Channel>) -> String {
    loop {
        let is_known = node.wall.ahead_ms().is_some();
        holdfast_runtime::sleep(if is_known { MEASURE_INTERVAL } else { MEASURE_AGAIN }).await;
        let Some((cluster, _)) = inner.identity.membership() else {
            return "this node belongs to no cluster".into();
        };
        let shaken = shake(inner, &mut client, cluster, node.id);
        match holdfast_runtime::timeout(MEASURE_INTERVAL, shaken).await {
            Ok(Ok((_, reading))) => note_clock(inner, node, reading),
            Ok(Err(problem)) => return problem,
            // Silence is noticed by the streams.
            Err(_) => {}
        }
    }
}

fn note_clock(inner: &Inner, node: &PeerNode, reading: Reading) {
    let most = u64::try_from(inner.options.clock_offset_max.as_millis()).unwrap_or(u64::MAX);
    if let Some(offset_ms) = node.wall.note(reading, own_ahead_ms(&*inner.clock), most) {
        tracing::error!(
            node = %node.id,
            offset_ms,
            "its wall clock and this node's differ too much; set both by NTP"
        );
    }
}

/// How far this node's wall clock is ahead of its monotonic one, milliseconds.
pub(super) fn own_ahead_ms(clock: &dyn Clock) -> i64 {
    let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    millis(clock.wall()).saturating_sub(millis(clock.monotonic()))
}

pub(super) fn hello(inner: &Inner, to: NodeId, reactor: usize, class: Class) -> Hello {
    let (cluster, from) = inner.identity.membership().unwrap_or_default();
    Hello {
        cluster_id: cluster.to_bytes().to_vec().into(),
        from_node: from.0,
        to_node: to.0,
        from_reactor: u32::try_from(reactor).unwrap_or(0),
        to_reactor: u32::try_from(reactor).unwrap_or(0),
        class: class.into(),
        store_id: inner.identity.store().to_bytes().to_vec().into(),
        boot_counter: inner.identity.boot_counter(),
        boot_id: inner.identity.boot_id(),
    }
}

/// Hands out answers until the stream breaks; says why it did.
async fn read(
    inner: &Inner,
    node: &PeerNode,
    conn: &Conn,
    mut frames: Streaming<Frame>,
    is_lead: bool,
) -> String {
    let mut silences = 0;
    loop {
        match holdfast_runtime::timeout(inner.options.silent_after, frames.message()).await {
            Ok(Ok(Some(frame))) => {
                if silences > 0 && is_lead {
                    inner.set_present(node, true);
                }
                silences = 0;
                frame.messages.into_iter().for_each(|message| conn.deliver(message));
            }
            Ok(Ok(None)) => return "it closed the stream".into(),
            Ok(Err(status)) => return status.message().to_owned(),
            Err(_) => {
                silences += 1;
                if is_lead && silences == 1 {
                    tracing::warn!(node = %node.id, "silent");
                    inner.set_present(node, false);
                    node.silences.send_modify(|count| *count += 1);
                }
                if silences >= SILENCES_MAX {
                    return "it has been silent for too long".into();
                }
            }
        }
    }
}
