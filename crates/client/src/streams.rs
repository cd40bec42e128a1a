//! Opening streams, and telling breaks that can be mended from ends.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use holdfast_model::{hashed_part, position};
use holdfast_runtime::{Elapsed, sleep, timeout};
use holdfast_wire::Codec;
use holdfast_wire::v1::ErrorCode;
use prost::Message;
use tonic::{Code, Status, Streaming};

use crate::attempts::Attempts;
use crate::call::{Limit, Prefer, Target};
use crate::client::Client;
use crate::error::{Error, error_of_info, error_of_status};
use crate::transport::{Connection, Failure};

/// A node is given this long to begin a stream before another is asked.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);
/// First pause after a break; doubles up to [`PAUSE_MAX`] while nothing comes.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest pause between attempts to open a stream.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Longest life the header of a stream that ends by itself may ask for.
const STREAM_DEADLINE: Duration = Duration::from_secs(60);

/// Pauses between attempts, growing until something succeeds.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    failures: u32,
}

impl Pauses {
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next attempt; the first follows at once.
    pub(crate) async fn wait(&mut self, client: &Client) {
        if self.failures > 0 {
            let doubled = PAUSE_MIN * 2u32.saturating_pow((self.failures - 1).min(8));
            sleep(client.inner.jitter(doubled.min(PAUSE_MAX))).await;
        }
        self.failures += 1;
    }
}

/// How a stream came to a stop.
#[derive(Debug)]
pub(crate) enum Break {
    /// It can be opened again, here or elsewhere.
    Mendable(Error),
    /// It would end in the same way again.
    Final(Error),
}

impl Break {
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Mendable(error) | Self::Final(error) => error,
        }
    }
}

/// Judges the status a stream ended with. Streams only read, so every break of the way is mendable.
pub(crate) fn break_of(status: &Status) -> Break {
    let Some(info) = holdfast_wire::error_info(status) else {
        let error = error_of_status(status);
        return match status.code() {
            Code::InvalidArgument
            | Code::Unimplemented
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::DataLoss => Break::Final(error),
            _ => Break::Mendable(Error::Unavailable(error.to_string())),
        };
    };
    break_of_info(&info)
}

/// Judges a typed error.
pub(crate) fn break_of_info(info: &holdfast_wire::v1::ErrorInfo) -> Break {
    let error = error_of_info(info);
    match info.code() {
        ErrorCode::NotLeader
        | ErrorCode::NoQuorum
        | ErrorCode::NotHere
        | ErrorCode::NotReady
        | ErrorCode::TooStale
        | ErrorCode::Behind
        | ErrorCode::Deadline
        | ErrorCode::Overloaded => Break::Mendable(error),
        _ if info.retryable => Break::Mendable(error),
        _ => Break::Final(error),
    }
}

fn break_of_failure(failure: &Failure) -> Break {
    match failure {
        Failure::Status(status) => break_of(status),
        other => Break::Mendable(Error::Unavailable(other.to_string())),
    }
}

/// The position all keys with `prefix` share, if they do: those of a complete `{tag}`.
pub(crate) fn shared_position(prefix: &[u8]) -> Option<u64> {
    (hashed_part(prefix).len() < prefix.len()).then(|| position(prefix))
}

impl Client {
    /// The node a stream over the keys of `place` (`None` = of any place) should be opened on.
    pub(crate) async fn stream_node(
        &self,
        place: Option<u64>,
        prefer: Prefer,
        limit: Limit,
    ) -> Result<Option<Arc<Connection>>, Error> {
        let target = match place {
            Some(place) => Target::Position(&self.keyspace, place),
            None => {
                // One range alone is as good as a place.
                let is_single = |ranges: &[_]| ranges.len() == 1;
                let routes = self.inner.cache.routes();
                match routes.ranges(&self.keyspace) {
                    Some(ranges) if is_single(ranges) => Target::Position(&self.keyspace, 0),
                    Some(_) => Target::Anyone,
                    None => Target::Position(&self.keyspace, 0),
                }
            }
        };
        let range = self.inner.resolve(target, limit).await?;
        let range = range.filter(|_| !matches!(target, Target::Anyone));
        let plan = crate::call::Plan {
            target,
            prefer,
            kind: crate::call::Kind::Read,
            limit,
            waits: false,
        };
        Ok(self.inner.choose(range.as_deref(), &plan, &Attempts::new(plan)))
    }
}

/// Opens a stream on `connection`; `ends` says whether the server ends it by itself.
pub(crate) async fn open<Q, S>(
    connection: &Connection,
    path: &'static str,
    requests: impl Stream<Item = Q> + Send + 'static,
    ends: bool,
) -> Result<Streaming<S>, Break>
where
    Q: Message + Send + Sync + 'static,
    S: Message + Default + Send + Sync + 'static,
{
    let opening = async {
        let mut grpc = connection.streams().await.map_err(|f| break_of_failure(&f))?;
        let mut request = tonic::Request::new(requests.boxed());
        if ends {
            request.set_timeout(STREAM_DEADLINE);
        }
        let path = http::uri::PathAndQuery::from_static(path);
        let answer = grpc.streaming(request, path, Codec::<Q, S>::default()).await;
        answer.map(tonic::Response::into_inner).map_err(|status| break_of(&status))
    };
    let opened = match timeout(OPEN_PATIENCE, opening).await {
        Ok(opened) => opened,
        Err(Elapsed) => {
            let text = format!("{}: no answer in time", connection.address());
            Err(Break::Mendable(Error::Unavailable(text)))
        }
    };
    if let Err(Break::Mendable(_)) = &opened {
        connection.suspect();
    }
    opened
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_tag_pins_a_prefix() {
        assert_eq!(shared_position(b"{user}."), Some(position(b"user")));
        assert_eq!(shared_position(b"a{user}"), Some(position(b"{user}b")));
        for open in [&b""[..], b"user", b"{user", b"{}x"] {
            assert_eq!(shared_position(open), None);
        }
    }
}
