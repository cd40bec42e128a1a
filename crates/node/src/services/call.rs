//! What a gRPC request says beside its message: when the answer is due and who asks.

use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::Service;
use crate::api::{ApiError, Call, Operation, ReadLevel};
use crate::auth::Identity;
use crate::router::answer_by;

/// Metadata keys under which a token is shown; the first one counts.
const TOKEN_HEADERS: [&str; 2] = ["token", "authorization"];
/// What may stand before a token.
const TOKEN_SCHEME: &[u8] = b"Bearer ";
/// gRPC's deadline header.
const TIMEOUT_HEADER: &str = "grpc-timeout";
/// Most digits of the header's number, by gRPC's specification.
const TIMEOUT_DIGITS_MAX: usize = 8;

impl Service {
    /// The call a request makes.
    pub(super) fn call<T>(&self, request: &Request<T>, direct: bool) -> Result<Call, ApiError> {
        let asked = timeout(request.metadata())?;
        Ok(Call {
            identity: identity(request.metadata()),
            deadline: answer_by(self.gateway.limits().deadline(asked)),
            direct,
        })
    }

    /// Ends a unary call: counts it and turns its result into gRPC's.
    pub(super) fn done<T>(
        &self,
        operation: Operation,
        level: Option<ReadLevel>,
        started: Duration,
        result: Result<T, ApiError>,
    ) -> Result<Response<T>, Status> {
        self.gateway.finished(operation, level, result.as_ref().err(), started);
        result.map(Response::new).map_err(|error| error.status())
    }
}

/// Who the caller of a gRPC service is: nobody by name until the cluster has users, and whoever the
/// token of an etcd keyspace says.
pub fn identity(metadata: &MetadataMap) -> Identity {
    let shown = TOKEN_HEADERS.iter().find_map(|name| metadata.get(*name));
    let Some(token) = shown.map(|value| value.as_bytes()) else { return Identity::ANONYMOUS };
    Identity::ANONYMOUS.showing(token.strip_prefix(TOKEN_SCHEME).unwrap_or(token))
}

/// The time the caller of a gRPC service gives, if it says.
///
/// # Errors
/// [`ApiError::Invalid`]: the header is not as gRPC writes it.
pub fn timeout(metadata: &MetadataMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = metadata.get(TIMEOUT_HEADER) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let parsed = parse_timeout(text);
    let text = || format!("{TIMEOUT_HEADER}: up to 8 digits and a unit of HMSmun, given {text:?}");
    parsed.map(Some).ok_or_else(|| ApiError::Invalid(text()))
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > TIMEOUT_DIGITS_MAX {
        return None;
    }
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_under_either_key_with_or_without_a_scheme() {
        let shown = |headers: &[(&'static str, &str)]| {
            let mut metadata = MetadataMap::new();
            for (name, value) in headers {
                metadata.insert(*name, value.parse().unwrap());
            }
            identity(&metadata)
        };
        let one = Identity::ANONYMOUS.showing(b"one");
        assert_eq!(shown(&[]), Identity::ANONYMOUS);
        assert_eq!(shown(&[("token", "one")]), one);
        assert_eq!(shown(&[("authorization", "one")]), one);
        assert_eq!(shown(&[("authorization", "Bearer one")]), one);
        assert_eq!(shown(&[("authorization", "two"), ("token", "Bearer one")]), one);
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let cases = [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3_000)),
            ("250m", Some(250)),
            ("99999999u", Some(99_999)),
            ("5000000n", Some(5)),
            ("", None),
            ("m", None),
            ("5", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            ("999999999S", None),
            ("1x", None),
            ("1µ", None),
        ];
        for (text, ms) in cases {
            let parsed = parse_timeout(text).map(|time| time.as_millis());
            assert_eq!(parsed, ms, "{text:?}");
        }
    }
}
