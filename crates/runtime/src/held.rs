//! Bytes on their way out that wait for what comes right behind them.
//!
//! Where a connection takes several slices at once, `h2` writes every frame of 256 bytes or more by
//! itself: an event that 20 watches of a connection see was 20 calls of the system, and so was each
//! answer with a value. Where it takes one, `h2` gathers frames below 1 KiB, but writes the head of
//! a longer one apart from the rest. So a connection says that it takes one, and what is written in
//! pieces is put together here until it is flushed: 512 watches cost half of what they did.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Most bytes held: a frame of HTTP/2 as long as may be. What is longer goes at once.
const HELD_MAX: usize = 16 * 1024;
/// Memory that a connection keeps for the next time.
const KEPT_MAX: usize = 4 * 1024;

/// What was written and not flushed yet, at most [`HELD_MAX`] bytes.
#[derive(Debug, Default)]
pub(crate) struct Held {
    bytes: Vec<u8>,
    /// How much of them has gone.
    gone: usize,
}

impl Held {
    fn left(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    fn sent(&mut self, count: usize) {
        self.gone += count;
        if self.gone < self.bytes.len() {
            return;
        }
        self.gone = 0;
        self.bytes.clear();
        if self.bytes.capacity() > KEPT_MAX {
            self.bytes = Vec::new();
        }
    }

    /// Holds `bytes`, or writes them behind what is held where both are too long. Returns how many
    /// of them were taken; where it is not ready none were.
    pub(crate) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.left().len() + bytes.len() <= HELD_MAX {
            self.bytes.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        while !self.left().is_empty() {
            let slices = [IoSlice::new(self.left()), IoSlice::new(bytes)];
            let written = ready!(Pin::new(&mut *to).poll_write_vectored(context, &slices))?;
            let of_held = written.min(self.left().len());
            self.sent(progress(of_held)?);
            if written > of_held {
                return Poll::Ready(Ok(written - of_held));
            }
        }
        Pin::new(to).poll_write(context, bytes)
    }

    /// Writes what is held. It has to come before a flush of `to`.
    pub(crate) fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.left().is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(context, self.left()))?;
            self.sent(progress(written)?);
        }
        Poll::Ready(Ok(()))
    }
}

/// A connection that takes nothing will take nothing.
fn progress(written: usize) -> io::Result<usize> {
    if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use super::*;

    /// Takes `most` bytes at a time, and every other time none.
    #[derive(Default)]
    struct Narrow {
        most: usize,
        taken: Vec<u8>,
        calls: usize,
        is_stuck: bool,
        takes_turns: bool,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.is_stuck = self.takes_turns && !self.is_stuck;
            if self.is_stuck {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.calls += 1;
            let count = bytes.len().min(self.most);
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            self.poll_write(context, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn wide() -> Narrow {
        Narrow { most: usize::MAX, ..Narrow::default() }
    }

    async fn write_all(held: &mut Held, to: &mut Narrow, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = poll_fn(|context| held.poll_write(to, context, bytes)).await.unwrap();
            bytes = &bytes[count..];
        }
    }

    #[tokio::test]
    async fn pieces_written_before_a_flush_go_together() {
        let (mut held, mut to) = (Held::default(), wide());
        for piece in ["head", "body", "head", "body"] {
            write_all(&mut held, &mut to, piece.as_bytes()).await;
        }
        assert_eq!(to.calls, 0);
        poll_fn(|context| held.poll_flush(&mut to, context)).await.unwrap();
        assert_eq!((to.calls, to.taken.as_slice()), (1, b"headbodyheadbody".as_slice()));
        poll_fn(|context| held.poll_flush(&mut to, context)).await.unwrap();
        assert_eq!(to.calls, 1, "nothing was held");
    }

    #[tokio::test]
    async fn what_is_too_long_to_be_held_goes_at_once_with_what_is() {
        let (mut held, mut to) = (Held::default(), wide());
        let long = vec![7; HELD_MAX];
        write_all(&mut held, &mut to, b"head").await;
        write_all(&mut held, &mut to, &long).await;
        assert_eq!((to.calls, to.taken.len()), (1, 4 + HELD_MAX));
        write_all(&mut held, &mut to, &[7; HELD_MAX + 1]).await;
        assert_eq!(to.calls, 2);
        write_all(&mut held, &mut to, &long).await;
        poll_fn(|context| held.poll_flush(&mut to, context)).await.unwrap();
        assert_eq!((to.calls, held.bytes.capacity()), (3, 0), "a connection keeps little memory");
    }

    #[tokio::test]
    async fn every_byte_arrives_once_and_in_order_however_little_is_taken_at_a_time() {
        for most in [1, 3, 1_000, 20_000] {
            let mut to = Narrow { most, takes_turns: true, ..Narrow::default() };
            let (mut held, mut all) = (Held::default(), Vec::new());
            for round in 0..40_usize {
                let length = [1, 9, 300, HELD_MAX - 9, HELD_MAX, 2 * HELD_MAX][round % 6];
                let piece: Vec<u8> = (0..length).map(|at| (at * 31 + round) as u8).collect();
                write_all(&mut held, &mut to, &piece).await;
                all.extend_from_slice(&piece);
                assert!(held.left().len() <= HELD_MAX);
                if round % 5 == 4 {
                    poll_fn(|context| held.poll_flush(&mut to, context)).await.unwrap();
                    assert!(to.taken == all, "at most {most} bytes, round {round}");
                }
            }
        }
    }

    #[test]
    fn connection_that_takes_nothing_is_an_error_and_not_a_loop() {
        let (mut held, mut to) = (Held::default(), Narrow::default());
        let context = &mut Context::from_waker(Waker::noop());
        assert!(held.poll_write(&mut to, context, b"head").is_ready());
        for flushed in [
            held.poll_flush(&mut to, context),
            held.poll_write(&mut to, context, &[0; HELD_MAX]).map_ok(drop),
        ] {
            let Poll::Ready(Err(error)) = flushed else { panic!("{flushed:?}") };
            assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        }
    }
}
