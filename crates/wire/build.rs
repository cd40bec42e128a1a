//! Compiles the protos with protox: no `protoc` is needed.

#![allow(clippy::disallowed_methods)]

use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 17] = [
    "holdfast/v1/common.proto",
    "holdfast/v1/kv.proto",
    "holdfast/v1/session.proto",
    "holdfast/v1/cluster.proto",
    "holdfast/system/v1/system.proto",
    "holdfast/peer/v1/peer.proto",
    "etcd/mvccpb/kv.proto",
    "etcd/authpb/auth.proto",
    "etcd/etcdserverpb/header.proto",
    "etcd/etcdserverpb/kv.proto",
    "etcd/etcdserverpb/watch.proto",
    "etcd/etcdserverpb/lease.proto",
    "etcd/etcdserverpb/cluster.proto",
    "etcd/etcdserverpb/maintenance.proto",
    "etcd/etcdserverpb/auth.proto",
    "etcd/v3lockpb/lock.proto",
    "etcd/v3electionpb/election.proto",
];

/// Messages that are not printed as they are.
const WITH_PASSWORDS: [&str; 4] = [
    ".holdfast.peer.v1.ForwardPassword",
    ".etcdserverpb.AuthenticateRequest",
    ".etcdserverpb.AuthUserAddRequest",
    ".etcdserverpb.AuthUserChangePasswordRequest",
];

/// The packages of the etcd API.
const ETCD: [&str; 5] = ["mvccpb", "authpb", "etcdserverpb", "v3lockpb", "v3electionpb"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let public = descriptors_of(&descriptors, &["holdfast.v1"]);
    std::fs::write(out.join("holdfast_v1_descriptor.bin"), public)?;
    let etcd = descriptors_of(&descriptors, &ETCD);
    std::fs::write(out.join("etcd_descriptor.bin"), etcd)?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::Codec")
        .skip_debug(WITH_PASSWORDS)
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}

/// The descriptors of some packages alone: what reflection shows of an API.
fn descriptors_of(set: &prost_types::FileDescriptorSet, packages: &[&str]) -> Vec<u8> {
    let file = set.file.iter().filter(|f| packages.contains(&f.package())).cloned().collect();
    prost_types::FileDescriptorSet { file }.encode_to_vec()
}
