//! Generated code of `proto/` (public, peer, system, etcd) and checked conversions to `model`.
//!
//! Owns: the messages as they travel, their conversions, the typed error detail.
//! Must never know: how a request is served.
//! Invariants:
//! * `bytes` fields decode without a copy, into slices of the frame they came in.
//! * A conversion checks every field; what does not fit is an error, never a default.

mod codec;
mod convert;
mod error;
mod secrets;

pub use codec::{Codec, ProtobufDecoder, ProtobufEncoder};
pub use convert::WireError;
pub use error::{ErrorInfoExt, error_info, status_of, status_with};

/// Names and messages of the public API.
#[allow(missing_docs, clippy::all, clippy::disallowed_methods)]
pub mod v1 {
    tonic::include_proto!("holdfast.v1");

    /// The public API's descriptors, for the reflection service.
    pub const DESCRIPTORS: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/holdfast_v1_descriptor.bin"));
}

/// Names and messages of the etcd v3 API. Packages, services, messages and numbers are etcd's, so
/// that its clients connect unchanged; `tests/golden/etcd-api.txt` holds them still.
pub mod etcd {
    /// Keys and events.
    #[allow(missing_docs, clippy::all, clippy::disallowed_methods)]
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }

    /// Users and permissions.
    #[allow(missing_docs, clippy::all, clippy::disallowed_methods)]
    pub mod authpb {
        tonic::include_proto!("authpb");
    }

    /// Keys, watches, leases, members, maintenance, users.
    #[allow(missing_docs, clippy::all, clippy::disallowed_methods)]
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }

    /// Locks.
    #[allow(missing_docs, clippy::all, clippy::disallowed_methods)]
    pub mod v3lockpb {
        tonic::include_proto!("v3lockpb");
    }

    /// Elections.
    #[allow(missing_docs, clippy::all, clippy::disallowed_methods)]
    pub mod v3electionpb {
        tonic::include_proto!("v3electionpb");
    }

    /// The etcd API's descriptors, for the reflection service.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/etcd_descriptor.bin"));
}

/// What is stored in range 0 and in a node's own files.
pub mod system {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::disallowed_methods)]
    pub mod v1 {
        tonic::include_proto!("holdfast.system.v1");
    }
}

/// What nodes say to each other.
pub mod peer {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::disallowed_methods)]
    pub mod v1 {
        tonic::include_proto!("holdfast.peer.v1");
    }
}
