//! Carries the bytes of one connection, each direction by the rule of its pair.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use holdfast_testkit::Random;
use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Break, Links, Rule};

/// Bytes carried at once: about what a few packets hold.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces under way in one direction: with a delay, what a window would hold.
const PIECES_MAX: usize = 256;
/// What TCP waits before it sends a packet again, at least.
const RESEND_AFTER: Duration = Duration::from_millis(200);

/// An end that is still open after so long was not told that the other has gone.
const STANDS: Duration = Duration::from_millis(200);

/// Bytes that arrive at their time.
struct Piece {
    due: Instant,
    bytes: Vec<u8>,
}

/// One direction of a connection.
struct Way {
    links: Links,
    from: usize,
    to: usize,
}

/// Carries both directions of what `from` dialled, until it ends or is broken.
pub(super) async fn carry(links: &Links, from: usize, to: usize, near: TcpStream, far: TcpStream) {
    // Small messages must not wait for each other in the proxy.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let copies = (near.as_fd().try_clone_to_owned(), far.as_fd().try_clone_to_owned());
    let (Ok(near_copy), Ok(far_copy)) = copies else { return };
    let before = links.breaks(from, to).0;
    let version = links.version.subscribe();
    let (near_in, mut near_out) = near.into_split();
    let (far_in, mut far_out) = far.into_split();
    let forth = Way { links: links.clone(), from, to };
    let back = Way { links: links.clone(), from: to, to: from };
    let work = async {
        tokio::join!(forth.carry(near_in, &mut far_out), back.carry(far_in, &mut near_out))
    };
    let how = tokio::select! {
        _ = work => return,
        how = broken(links, (from, to), before, version) => how,
    };
    // Nothing is carried any more, and the copies keep both ends open. A half that is dropped says
    // goodbye to its end; one that is forgotten says nothing.
    near_out.forget();
    far_out.forget();
    links.count(from, to, |count| count.resets += 1);
    // Where this cannot be said the end is an orderly one, which is a break, too.
    let _ = set_socket_linger(&far_copy, Some(Duration::ZERO));
    drop(far_copy);
    match how {
        Break::Reset => drop(set_socket_linger(&near_copy, Some(Duration::ZERO))),
        Break::HalfOpen => swallow(links, (from, to), near_copy).await,
    }
}

/// Waits until the connections of a pair are broken once more than `before`.
async fn broken(
    links: &Links,
    (from, to): (usize, usize),
    before: u64,
    mut version: watch::Receiver<u64>,
) -> Break {
    loop {
        if let (times, Some(how)) = links.breaks(from, to)
            && times > before
        {
            return how;
        }
        if version.changed().await.is_err() {
            return Break::Reset;
        }
    }
}

/// Takes what one end still says, and says nothing, until it gives up or is broken off, too.
async fn swallow(links: &Links, (from, to): (usize, usize), end: OwnedFd) {
    let Ok(mut stream) = TcpStream::from_std(end.into()) else { return };
    let before = links.breaks(from, to).0;
    let mut bytes = vec![0; PIECE_BYTES];
    let taking = async {
        while let Ok(length @ 1..) = stream.read(&mut bytes).await {
            links.count(from, to, |count| count.swallowed += length as u64);
        }
    };
    let standing = async {
        sleep(STANDS).await;
        links.count(from, to, |count| count.left_open += 1);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = taking => {}
        () = standing => {}
        _ = broken(links, (from, to), before, links.version.subscribe()) => {}
    }
}

impl Way {
    async fn carry(&self, from: OwnedReadHalf, to: &mut OwnedWriteHalf) {
        let (send, receive) = mpsc::channel(PIECES_MAX);
        tokio::join!(self.take(from, send), self.give(receive, to));
    }

    fn rule(&self) -> Rule {
        self.links.rule(self.from, self.to)
    }

    /// Reads, and decides when each piece arrives.
    async fn take(&self, mut from: OwnedReadHalf, to: mpsc::Sender<Piece>) {
        let mut random = Random::new(self.from as u64 * 64 + self.to as u64);
        let mut last = Instant::now();
        loop {
            let mut bytes = vec![0; PIECE_BYTES];
            let length = match from.read(&mut bytes).await {
                Ok(length) if length > 0 => length,
                // What is under way still arrives; then the other end is told.
                _ => return,
            };
            bytes.truncate(length);
            let rule = self.rule();
            let late = self.lateness(rule, length, &mut random);
            // In order: nothing overtakes what was sent before it.
            let begin = if rule.bytes_per_second.is_some() { last } else { Instant::now() };
            last = last.max(begin.max(Instant::now()) + late);
            if to.send(Piece { due: last, bytes }).await.is_err() {
                return;
            }
        }
    }

    fn lateness(&self, rule: Rule, length: usize, random: &mut Random) -> Duration {
        let mut late = rule.delay;
        if let Ok(jitter) = u64::try_from(rule.jitter.as_micros()) {
            late += Duration::from_micros(random.below(jitter + 1));
        }
        if let Some(rate) = rule.bytes_per_second {
            late += Duration::from_secs(1).mul_f64(length as f64 / f64::from(rate.max(1)));
        }
        let mut wait = RESEND_AFTER;
        // Lost again and again, at longer and longer intervals, as TCP does.
        while wait < RESEND_AFTER * 16 && random.below(1_000) < u64::from(rule.lost_permille) {
            self.links.count(self.from, self.to, |count| count.resent += 1);
            late += wait;
            wait *= 2;
        }
        if !late.is_zero() {
            self.links.count(self.from, self.to, |count| count.delayed += 1);
        }
        late
    }

    /// Writes each piece when it is due and nothing is cut.
    async fn give(&self, mut from: mpsc::Receiver<Piece>, to: &mut OwnedWriteHalf) {
        let mut version = self.links.version.subscribe();
        while let Some(piece) = from.recv().await {
            sleep_until(piece.due).await;
            let length = piece.bytes.len() as u64;
            if !self.passes(length, &mut version).await || to.write_all(&piece.bytes).await.is_err()
            {
                return;
            }
            self.links.count(self.from, self.to, |count| count.carried += length);
        }
        // Whoever reads there learns that nothing more comes, unless it has gone.
        let _ = to.shutdown().await;
    }

    /// Waits until nothing is cut; false where the network is no more.
    async fn passes(&self, length: u64, version: &mut watch::Receiver<u64>) -> bool {
        if self.rule().cut {
            self.links.count(self.from, self.to, |count| count.held += length);
        }
        while self.rule().cut {
            if version.changed().await.is_err() {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::super::{Callers, Count};
    use super::*;

    /// How long something may take to show.
    const LIMIT: Duration = Duration::from_secs(10);

    /// Reads until the connection ends, then lets go of it, as a node does; how it ended.
    fn listen(mut stream: TcpStream) -> JoinHandle<std::io::Result<usize>> {
        tokio::spawn(async move { stream.read(&mut [0; 1]).await })
    }

    /// Node 1, which is this process, has dialled node 2: what each end hears.
    async fn dialled(links: &Links) -> [JoinHandle<std::io::Result<usize>>; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let door = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let [inside, outside] =
            [&listener, &door].map(|bound| bound.local_addr().expect("it is bound").to_string());
        drop(door);
        links.open(2, &outside, &inside).await.expect("the door opens");
        let mut near = TcpStream::connect(&outside).await.expect("the door is open");
        let (mut far, _) = listener.accept().await.expect("somebody dialled");
        // Only what is carried can be broken.
        near.write_all(&[7]).await.expect("the connection stands");
        far.read_exact(&mut [0]).await.expect("the connection stands");
        [listen(near), listen(far)]
    }

    async fn shows(links: &Links, what: impl Fn(&Count) -> bool) {
        let shown = crate::eventually(LIMIT, async || {
            let count = links.counted(1, 2);
            anyhow::ensure!(what(&count), "{count:?}");
            Ok(())
        });
        shown.await.expect("it shows");
    }

    fn links() -> Links {
        let callers = Callers::default();
        callers.is(1, std::process::id());
        Links::new(callers)
    }

    #[tokio::test]
    async fn half_open_connection_stands_at_the_end_that_dialled_until_it_is_reset() {
        let links = links();
        let [near, far] = dialled(&links).await;
        links.sever(1, 2, Break::HalfOpen);
        assert!(far.await.expect("it listens").is_err(), "the end that was dialled is told");
        shows(&links, |count| count.left_open == 1).await;
        assert!(!near.is_finished(), "the end that has dialled is not");
        links.sever(1, 2, Break::Reset);
        assert_ne!(near.await.expect("it listens").ok(), Some(1), "it ends");
    }

    #[tokio::test]
    async fn connection_that_is_reset_ends_at_both_ends() {
        let links = links();
        let [near, far] = dialled(&links).await;
        links.sever(1, 2, Break::Reset);
        assert!(near.await.expect("it listens").is_err());
        assert!(far.await.expect("it listens").is_err());
        shows(&links, |count| count.resets == 1 && count.left_open == 0).await;
    }
}
