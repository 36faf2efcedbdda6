//! Compiles `proto/` into Rust and writes the descriptor set for server reflection.
//!
//! protox is a protobuf compiler in Rust, so that no `protoc` is needed on the machine.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

#[expect(
    clippy::disallowed_methods,
    reason = "Cargo tells build scripts by the environment"
)]
fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("proto");
    println!("cargo:rerun-if-changed={}", root.display());

    let mut compiler = protox::Compiler::new([&root])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files([
            "keypaird/v1/event_service.proto",
            "keypaird/v1/key_pair_service.proto",
            "keypaird/v1/signing_service.proto",
        ])?;

    // `compile_fds` does not write the descriptor set by itself.
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("keypaird.v1.bin");
    fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    let mut config = tonic_prost_build::Config::new();
    // By them `proto::codec` finds how long the lists of a message may be.
    config.enable_type_names();
    tonic_prost_build::configure()
        .codec_path("crate::proto::codec::SmallBufferCodec")
        // What tonic-types puts into errors of calls, errors of single signatures are too.
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        // Messages to be signed are not copied out of the request.
        .bytes(".keypaird.v1.SignRequest.message")
        .bytes(".keypaird.v1.SignRequest.digest")
        .bytes(".keypaird.v1.VerifyRequest.message")
        .bytes(".keypaird.v1.VerifyRequest.digest")
        // Passwords and private keys are shown by nothing, not by mistake either.
        .skip_debug([
            ".keypaird.v1.ExportSigningKeyPairRequest",
            ".keypaird.v1.ImportSigningKeyPairRequest",
            ".keypaird.v1.ImportSigningKeyPairSettings",
        ])
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    Ok(())
}
