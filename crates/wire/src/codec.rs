//! How messages become gRPC frames: prost, with typed errors and small buffers.
//!
//! tonic's own codec reports a message that does not decode as INTERNAL without a detail, and
//! takes 8 KiB twice per call before a byte has arrived. A client that sends garbage has to learn
//! that it did, and the typical request here is 250 bytes.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::v1::{ErrorCode, ErrorInfo};

/// First allocation of an encode or decode buffer, bytes; it grows to what a message needs.
const BUFFER_BYTES: usize = 1024;
/// A stream hands over what it encoded once it holds this many bytes.
const YIELD_BYTES: usize = 32 * 1024;

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}

/// The codec of every service; encodes `T`, decodes `U`.
///
/// A message that does not decode is answered with INVALID_ARGUMENT and
/// [`ErrorCode::Malformed`]. In a client the same status means that the *answer* was malformed.
#[derive(Clone, Debug)]
pub struct Codec<T, U> {
    types: PhantomData<(T, U)>,
}

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self { types: PhantomData }
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProtobufEncoder<T>;
    type Decoder = ProtobufDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProtobufEncoder { item: PhantomData }
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProtobufDecoder { item: PhantomData }
    }
}

/// Encodes `T`.
#[derive(Clone, Debug)]
pub struct ProtobufEncoder<T> {
    item: PhantomData<T>,
}

impl<T: Message> Encoder for ProtobufEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}

/// Decodes `U`; `bytes` fields are slices of the frame.
#[derive(Clone, Debug)]
pub struct ProtobufDecoder<U> {
    item: PhantomData<U>,
}

impl<U: Message + Default> Decoder for ProtobufDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(buffer).map(Some).map_err(|error| {
            crate::status_of(ErrorInfo {
                code: ErrorCode::Malformed.into(),
                message: format!("message could not be decoded: {error}"),
                ..ErrorInfo::default()
            })
        })
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}
