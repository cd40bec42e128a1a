//! Accepting client connections, so many and no more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt};
use holdfast_runtime::net::{self, Ends, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;

/// A connection that counts until it is closed.
#[derive(Debug)]
pub(super) struct Counted {
    stream: net::Stream,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Counted {
    type ConnectInfo = Ends;

    fn connect_info(&self) -> Ends {
        self.stream.ends()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The connections of `listener`; while all of `places` are taken, new ones are closed at once,
/// so that a client learns it instead of hanging.
pub(super) fn counted(
    listener: Box<dyn Listener>,
    places: Arc<Semaphore>,
) -> impl Stream<Item = io::Result<Counted>> + Send {
    net::incoming(listener).filter_map(move |accepted| {
        let permit = places.clone().try_acquire_owned();
        std::future::ready(match (accepted, permit) {
            (Ok(stream), Ok(permit)) => Some(Ok(Counted { stream, _permit: permit })),
            (Ok(stream), Err(_)) => {
                tracing::warn!(from = %stream.ends().remote, "too many connections, one is closed");
                None
            }
            (Err(error), _) => Some(Err(error)),
        })
    })
}
