//! Compiles the protos with protox: no `protoc` is needed.

#![allow(clippy::disallowed_methods)]

use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 6] = [
    "holdfast/v1/common.proto",
    "holdfast/v1/kv.proto",
    "holdfast/v1/session.proto",
    "holdfast/v1/cluster.proto",
    "holdfast/system/v1/system.proto",
    "holdfast/peer/v1/peer.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let public = prost_types_only_public(&descriptors);
    std::fs::write(out.join("holdfast_v1_descriptor.bin"), public)?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::Codec")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}

/// The descriptors of the public package alone, which is what reflection shows.
fn prost_types_only_public(set: &prost_types::FileDescriptorSet) -> Vec<u8> {
    let file = set.file.iter().filter(|f| f.package() == "holdfast.v1").cloned().collect();
    prost_types::FileDescriptorSet { file }.encode_to_vec()
}
