//! The API as JSON over HTTP: `POST /v3/…`.
//!
//! A request is read whole, its messages are translated by the descriptors of the API, and the
//! services are asked as they are over gRPC; nothing of a service is written a second time. A
//! method that answers with a stream sends one line for each answer, while the client listens.

use std::pin::Pin;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream;
use holdfast_wire::etcd::DESCRIPTORS;
use http_body::Body as _;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor,
    SerializeOptions,
};
use serde_json::{Deserializer, Serializer, Value, json};
use tonic::service::Routes;
use tonic::{Code, Status};
use tower_service::Service as _;

use super::paths::PATHS;

/// Bytes before a message: a flag and a length.
const PREFIX_BYTES: usize = 5;
/// Headers that are passed on to the services as they are.
const PASSED_HEADERS: [&str; 3] = ["holdfast-keyspace", "hasleader", "grpc-timeout"];
/// Headers with this prefix are passed on without it.
const METADATA_PREFIX: &str = "grpc-metadata-";

/// The method behind a path.
pub(super) fn method_of(pool: &DescriptorPool, path: &str) -> Option<MethodDescriptor> {
    let (_, service, method) = PATHS.iter().find(|(known, ..)| *known == path)?;
    let service = pool.get_service_by_name(service)?;
    service.methods().find(|known| known.name() == *method)
}

/// The descriptors of the API; empty where those of the build cannot be read.
pub(super) fn descriptors() -> DescriptorPool {
    DescriptorPool::decode(DESCRIPTORS).unwrap_or_default()
}

/// Asks `method` of the services what the JSON in `body` says.
pub(super) async fn ask(
    mut routes: Routes,
    method: MethodDescriptor,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    let request = match request_of(&method, headers, body) {
        Ok(request) => request,
        Err(status) => return refusal(&status),
    };
    let Ok(response) = routes.call(request).await;
    let mut answers = Answers::of(response);
    if method.is_server_streaming() {
        return lines(answers, method.output());
    }
    match answers.next().await.and_then(|message| message.ok_or_else(nothing)) {
        Ok(message) => match json_of(method.output(), message) {
            Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
            Err(status) => refusal(&status),
        },
        Err(status) => refusal(&status),
    }
}

fn nothing() -> Status {
    Status::internal("a method answered with nothing")
}

/// A request of gRPC with every message that `body` holds.
fn request_of(
    method: &MethodDescriptor,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<axum::http::Request<Body>, Status> {
    let mut frames = BytesMut::new();
    for message in messages(method, body)? {
        let bytes = message.encoded_len();
        let length = u32::try_from(bytes).map_err(|_| Status::resource_exhausted("too long"))?;
        frames.reserve(PREFIX_BYTES + bytes);
        frames.put_u8(0);
        frames.put_u32(length);
        let encoded = message.encode(&mut frames);
        encoded.map_err(|error| Status::internal(error.to_string()))?;
    }
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let mut request = axum::http::Request::post(path)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers");
    for (name, value) in headers {
        let passed = name
            .as_str()
            .strip_prefix(METADATA_PREFIX)
            .or_else(|| PASSED_HEADERS.iter().find(|passed| name.as_str() == **passed).copied());
        if let Some(passed) = passed {
            request = request.header(passed, value);
        }
    }
    // Over gRPC a token comes under a name of its own.
    if let Some(token) = headers.get(header::AUTHORIZATION) {
        request = request.header("token", token).header(header::AUTHORIZATION, token);
    }
    let request = request.body(Body::from(frames.freeze()));
    request.map_err(|error| Status::invalid_argument(error.to_string()))
}

/// The messages in `body`: one, unless the method takes a stream of them. Nothing stands for an
/// empty message.
fn messages(method: &MethodDescriptor, body: &[u8]) -> Result<Vec<DynamicMessage>, Status> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let bad = |error: serde_json::Error| Status::invalid_argument(error.to_string());
    let mut found = Vec::new();
    for value in Deserializer::from_slice(body).into_iter::<Value>() {
        let value = value.map_err(bad)?;
        let message = DynamicMessage::deserialize_with_options(method.input(), value, &options);
        found.push(message.map_err(bad)?);
    }
    if found.is_empty() && !method.is_client_streaming() {
        found.push(DynamicMessage::new(method.input()));
    }
    if found.len() > 1 && !method.is_client_streaming() {
        return Err(Status::invalid_argument("one message is taken"));
    }
    Ok(found)
}

/// A message as JSON: fields by their names in the API, what is not set left out.
fn value_of(descriptor: MessageDescriptor, message: Bytes) -> Result<Value, Status> {
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(true)
        .stringify_64_bit_integers(true);
    let broken = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
    let message = DynamicMessage::decode(descriptor, message).map_err(|error| broken(&error))?;
    let serialized = message.serialize_with_options(serde_json::value::Serializer, &options);
    serialized.map_err(|error| broken(&error))
}

fn json_of(descriptor: MessageDescriptor, message: Bytes) -> Result<Vec<u8>, Status> {
    text_of(&value_of(descriptor, message)?)
}

fn text_of(value: &Value) -> Result<Vec<u8>, Status> {
    let mut text = Vec::new();
    let written = serde::Serialize::serialize(value, &mut Serializer::new(&mut text));
    written.map_err(|error| Status::internal(error.to_string()))?;
    Ok(text)
}

/// One line for each answer, then one for the error that ended the stream, if any did.
fn lines(answers: Answers, descriptor: MessageDescriptor) -> Response {
    let state = Some((answers, descriptor));
    let lines = stream::unfold(state, |state| async move {
        let (mut answers, descriptor) = state?;
        let line = match answers.next().await {
            Ok(None) => return None,
            Ok(Some(message)) => value_of(descriptor.clone(), message),
            Err(status) => Err(status),
        };
        let (line, rest) = match line {
            Ok(result) => (json!({ "result": result }), Some((answers, descriptor))),
            Err(status) => (json!({ "error": error_of(&status) }), None),
        };
        let mut text = text_of(&line).unwrap_or_default();
        text.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(text)), rest))
    });
    let body = Body::from_stream(lines);
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn error_of(status: &Status) -> Value {
    // Without details: etcd's gateway leaves out what is empty.
    json!({ "code": i32::from(status.code()), "message": status.message() })
}

/// A refusal as the gateway of etcd words it.
pub(super) fn refusal(status: &Status) -> Response {
    let code = StatusCode::from_u16(http_code(status.code())).unwrap_or_default();
    (code, axum::Json(error_of(status))).into_response()
}

fn http_code(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::DeadlineExceeded => 504,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::PermissionDenied => 403,
        Code::Unauthenticated => 401,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    }
}

/// The messages of a gRPC response.
struct Answers {
    body: tonic::body::Body,
    read: BytesMut,
    /// How the call ended, where that is known.
    status: Option<Status>,
}

impl Answers {
    fn of(response: axum::http::Response<tonic::body::Body>) -> Self {
        let status = Status::from_header_map(response.headers());
        Self { body: response.into_body(), read: BytesMut::new(), status }
    }

    /// The next message; none where the call has ended well.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take() {
                return Ok(Some(message));
            }
            let body = &mut self.body;
            let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
            match frame.await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.read.extend_from_slice(&data),
                    Err(other) => {
                        let trailers = other.into_trailers().unwrap_or_default();
                        self.status = Status::from_header_map(&trailers);
                    }
                },
                Some(Err(status)) => return Err(status),
                None => return self.ended(),
            }
        }
    }

    fn ended(&mut self) -> Result<Option<Bytes>, Status> {
        match self.status.take() {
            Some(status) if status.code() != Code::Ok => Err(status),
            _ => Ok(None),
        }
    }

    /// The first whole message of what was read.
    fn take(&mut self) -> Option<Bytes> {
        let (_, length) = self.read.first_chunk::<PREFIX_BYTES>()?.split_at(1);
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        if self.read.len() < PREFIX_BYTES + length {
            return None;
        }
        self.read.advance(PREFIX_BYTES);
        Some(self.read.split_to(length).freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(path: &str) -> MethodDescriptor {
        method_of(&descriptors(), path).unwrap()
    }

    #[test]
    fn every_path_has_its_method() {
        let pool = descriptors();
        for (path, service, name) in PATHS {
            let method = method_of(&pool, path).unwrap_or_else(|| panic!("{service}/{name}"));
            assert_eq!((method.parent_service().full_name(), method.name()), (service, name));
        }
        assert!(method_of(&pool, "/v3/kv/nothing").is_none());
    }

    #[test]
    fn bytes_are_base64_and_long_numbers_text_in_both_directions() {
        let method = method("/v3/kv/put");
        let body = br#"{"key": "Zm9v", "value": "YmFy", "lease": "7", "of a later version": 1}"#;
        let message = messages(&method, body).unwrap().remove(0);
        let bytes = Bytes::from(message.encode_to_vec());
        let expected = json!({ "key": "Zm9v", "value": "YmFy", "lease": "7" });
        assert_eq!(value_of(method.input(), bytes).unwrap(), expected);
    }

    #[test]
    fn a_stream_takes_many_messages_and_a_call_one() {
        let body = b"{\"create_request\": {\"key\": \"Zm9v\"}}\n{\"progress_request\": {}}";
        assert_eq!(messages(&method("/v3/watch"), body).unwrap().len(), 2);
        let range = method("/v3/kv/range");
        assert!(messages(&range, b"{} {}").is_err());
        assert_eq!(messages(&range, b"").unwrap().len(), 1);
        for bad in [b"{".as_slice(), b"[]", br#"{"key": 1}"#, br#"{"limit": "x"}"#] {
            assert!(messages(&range, bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
