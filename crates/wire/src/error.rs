//! The typed error detail inside a gRPC status.
//!
//! `grpc-status-details-bin` carries a `google.rpc.Status` {code = 1, message = 2, details = 3}
//! whose only detail is an `Any` of [`v1::ErrorInfo`], as every gRPC error library expects.

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

use crate::v1::{ErrorCode, ErrorInfo};

const TYPE_URL: &str = "type.googleapis.com/holdfast.v1.ErrorInfo";

#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// The gRPC code that belongs to an [`ErrorCode`].
pub trait ErrorInfoExt {
    /// The gRPC code this error travels under.
    fn grpc_code(&self) -> Code;
}

impl ErrorInfoExt for ErrorInfo {
    fn grpc_code(&self) -> Code {
        match self.code() {
            ErrorCode::Malformed
            | ErrorCode::Invalid
            | ErrorCode::TooLarge
            | ErrorCode::DuplicateKey => Code::InvalidArgument,
            ErrorCode::UnknownKeyspace | ErrorCode::LeaseNotFound => Code::NotFound,
            ErrorCode::FailedPrecondition
            | ErrorCode::SessionExpired
            | ErrorCode::SessionStale
            | ErrorCode::LockNotHeld
            | ErrorCode::NotANumber
            | ErrorCode::AlreadyExists => Code::FailedPrecondition,
            ErrorCode::Compacted | ErrorCode::FutureRevision => Code::OutOfRange,
            ErrorCode::Overloaded | ErrorCode::DiskFull => Code::ResourceExhausted,
            ErrorCode::NotLeader
            | ErrorCode::NoQuorum
            | ErrorCode::NotHere
            | ErrorCode::TooStale
            | ErrorCode::Behind
            | ErrorCode::NotReady => Code::Unavailable,
            ErrorCode::Unauthenticated => Code::Unauthenticated,
            ErrorCode::PermissionDenied => Code::PermissionDenied,
            ErrorCode::OutcomeUnknown if self.deadline_passed => Code::DeadlineExceeded,
            ErrorCode::OutcomeUnknown => Code::Aborted,
            ErrorCode::Deadline => Code::DeadlineExceeded,
            ErrorCode::Unimplemented => Code::Unimplemented,
            ErrorCode::Corrupt => Code::DataLoss,
            ErrorCode::Internal | ErrorCode::Unspecified => Code::Internal,
        }
    }
}

/// A status that carries `info` as its detail.
pub fn status_of(info: ErrorInfo) -> Status {
    status_with(info.grpc_code(), info)
}

/// A status of `code` that carries `info` as its detail.
pub fn status_with(code: Code, info: ErrorInfo) -> Status {
    let message = info.message.clone();
    let any = prost_types::Any { type_url: TYPE_URL.into(), value: info.encode_to_vec() };
    let details = RpcStatus { code: code as i32, message: message.clone(), details: vec![any] };
    Status::with_details(code, message, Bytes::from(details.encode_to_vec()))
}

/// The typed detail of a status, if it carries one.
pub fn error_info(status: &Status) -> Option<ErrorInfo> {
    let details = RpcStatus::decode(status.details()).ok()?;
    let any = details.details.into_iter().find(|any| any.type_url == TYPE_URL)?;
    ErrorInfo::decode(any.value.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_gives_back_the_detail_it_was_made_of() {
        let info = ErrorInfo {
            code: ErrorCode::TooLarge.into(),
            message: "value: at most 10485760 bytes, given 10485761".into(),
            bound: 10_485_760,
            ..Default::default()
        };
        let status = status_of(info.clone());
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(error_info(&status), Some(info));
        assert_eq!(error_info(&Status::unknown("x")), None);
    }
}
