//! Looks at gRPC frames before tonic does, to answer bad ones properly.
//!
//! tonic reports an over-long message as OUT_OF_RANGE and a cut or oddly flagged one as INTERNAL,
//! both without a typed detail. The guard reads the five bytes before every message of a request
//! (flag, length) while the body passes through, and fails the body with the right status.
//! Invariant: nothing of an over-long message is buffered.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tonic::Status;
use tonic::server::NamedService;
use tower_service::Service;

use crate::errors::ApiError;

/// Bytes before a message: a flag and a length.
const PREFIX_BYTES: usize = 5;

/// How a refusal is worded.
pub type Wording = fn(&ApiError) -> Status;

/// A service whose requests' messages are held to a length.
#[derive(Clone, Debug)]
pub struct Guard<S> {
    service: S,
    message_bytes_max: usize,
    wording: Wording,
}

impl<S> Guard<S> {
    /// Guards `service`, in the words of `holdfast.v1`.
    pub(crate) fn new(service: S, message_bytes_max: usize) -> Self {
        Self::in_words_of(ApiError::status, service, message_bytes_max)
    }

    /// Guards `service`, in the words of another protocol. The errors are
    /// [`ApiError::TooLarge`] and [`ApiError::Malformed`].
    pub fn in_words_of(wording: Wording, service: S, message_bytes_max: usize) -> Self {
        Self { service, message_bytes_max, wording }
    }
}

impl<S: NamedService> NamedService for Guard<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<Request<B>> for Guard<S>
where
    S: Service<Request<Guarded<B>>, Response = Response<tonic::body::Body>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let (limit, wording) = (self.message_bytes_max, self.wording);
        self.service.call(request.map(|body| Guarded::new(body, limit, wording)))
    }
}

/// A request body that is read along.
#[derive(Debug)]
pub struct Guarded<B> {
    body: B,
    frames: FrameReader,
    wording: Wording,
    ended: bool,
}

impl<B> Guarded<B> {
    fn new(body: B, limit: usize, wording: Wording) -> Self {
        Self { body, frames: FrameReader::new(limit), wording, ended: false }
    }
}

impl<B> Body for Guarded<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let checked = match frame {
            Some(Ok(frame)) => match frame.data_ref().map_or(Ok(()), |d| self.frames.read(d)) {
                Ok(()) => Some(Ok(frame)),
                Err(error) => Some(Err((self.wording)(&error))),
            },
            Some(Err(status)) => Some(Err(status)),
            None => match self.frames.finish() {
                Ok(()) => None,
                Err(error) => Some(Err((self.wording)(&error))),
            },
        };
        self.ended = !matches!(checked, Some(Ok(_)));
        Poll::Ready(checked)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.frames.finish().is_ok() && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where a body is between prefixes and messages.
#[derive(Debug)]
struct FrameReader {
    limit: usize,
    prefix: [u8; PREFIX_BYTES],
    /// Bytes of the prefix read so far.
    prefix_bytes: usize,
    /// Bytes of the message still to come.
    message_bytes: usize,
}

impl FrameReader {
    fn new(limit: usize) -> Self {
        Self { limit, prefix: [0; PREFIX_BYTES], prefix_bytes: 0, message_bytes: 0 }
    }

    fn read(&mut self, mut data: &[u8]) -> Result<(), ApiError> {
        while !data.is_empty() {
            let skip = self.message_bytes.min(data.len());
            self.message_bytes -= skip;
            data = data.get(skip..).unwrap_or_default();
            if self.message_bytes == 0 {
                data = self.read_prefix(data)?;
            }
        }
        Ok(())
    }

    /// Takes what there is of the next prefix; returns what follows it.
    fn read_prefix<'a>(&mut self, data: &'a [u8]) -> Result<&'a [u8], ApiError> {
        let take = (PREFIX_BYTES - self.prefix_bytes).min(data.len());
        let (head, rest) = data.split_at(take);
        let free = self.prefix.iter_mut().skip(self.prefix_bytes);
        for (to, from) in free.zip(head) {
            *to = *from;
        }
        self.prefix_bytes += take;
        if self.prefix_bytes < PREFIX_BYTES {
            return Ok(rest);
        }
        self.prefix_bytes = 0;
        let [flag, length @ ..] = self.prefix;
        if flag != 0 {
            let text = format!("compression flag of a message: 0, given {flag}");
            return Err(ApiError::Malformed(text));
        }
        let length = u32::from_be_bytes(length) as usize;
        crate::limits::at_most("request bytes", self.limit, length)?;
        self.message_bytes = length;
        Ok(rest)
    }

    fn finish(&self) -> Result<(), ApiError> {
        if self.prefix_bytes == 0 && self.message_bytes == 0 {
            return Ok(());
        }
        Err(ApiError::Malformed(format!("message ends {} bytes early", self.missing())))
    }

    fn missing(&self) -> usize {
        self.message_bytes + (PREFIX_BYTES - self.prefix_bytes) % PREFIX_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.extend(vec![7; length as usize]);
        bytes
    }

    #[test]
    fn messages_of_the_limit_pass_however_the_bytes_are_cut() {
        let bytes = [message(3), message(0), message(10)].concat();
        for cut in 1..=bytes.len() {
            let mut reader = FrameReader::new(10);
            for part in bytes.chunks(cut) {
                assert_eq!(reader.read(part), Ok(()), "pieces of {cut}");
            }
            assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn a_longer_message_is_refused_by_its_prefix_alone() {
        let mut reader = FrameReader::new(10);
        let prefix = &message(11)[..PREFIX_BYTES];
        assert_eq!(reader.read(prefix), Err(ApiError::too_large("request bytes", 10, 11)));
    }

    #[test]
    fn a_body_that_stops_inside_a_message_is_malformed() {
        let bytes = message(4);
        for cut in 1..bytes.len() {
            let mut reader = FrameReader::new(10);
            assert_eq!(reader.read(&bytes[..cut]), Ok(()));
            assert!(matches!(reader.finish(), Err(ApiError::Malformed(_))), "cut at {cut}");
        }
    }

    #[test]
    fn a_compressed_message_is_refused() {
        let mut reader = FrameReader::new(10);
        assert!(matches!(reader.read(&[1, 0, 0, 0, 0]), Err(ApiError::Malformed(_))));
    }
}
