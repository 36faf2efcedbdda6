//! Compiles `proto/` into Rust, writes the descriptor set for server reflection, and tells the code
//! its Git revision.
//!
//! protox is a protobuf compiler in Rust, so that no `protoc` is needed on the machine. The
//! revision is read from the files of Git, so that no `git` is needed either.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

#[expect(
    clippy::disallowed_methods,
    reason = "Cargo tells build scripts by the environment"
)]
fn main() -> Result<(), Box<dyn Error>> {
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    println!("cargo:rerun-if-env-changed={REVISION}");
    let revision = match env::var(REVISION) {
        Ok(given) => given,
        // A build for tests would be made anew after each commit.
        Err(_) if env::var("PROFILE")? == "debug" => String::new(),
        Err(_) => revision(&package.join(".git")).unwrap_or_default(),
    };
    println!("cargo:rustc-env={REVISION}={revision}");

    let root = package.join("proto");
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

/// Reads the revision that is checked out, and has this run again when another one is. None where
/// there is no repository, as in a source archive.
fn revision(dot_git: &Path) -> Option<String> {
    // In a worktree, `.git` is a file that names the folder.
    let folder = match fs::read_to_string(dot_git) {
        Ok(text) => dot_git.parent()?.join(text.strip_prefix("gitdir:")?.trim()),
        Err(_) => dot_git.to_owned(),
    };
    // The branches of a worktree are in the repository that it belongs to.
    let common = match fs::read_to_string(folder.join("commondir")) {
        Ok(path) => folder.join(path.trim()),
        Err(_) => folder.clone(),
    };
    let head = read_watched(&folder.join("HEAD"))?;
    let Some(branch) = head.strip_prefix("ref:").map(str::trim) else {
        return Some(head);
    };
    if let Some(revision) = read_watched(&common.join(branch)) {
        return Some(revision);
    }
    // The next commit makes the file of the branch, which Cargo cannot watch while it is not there.
    let branches = common.join("refs/heads");
    println!("cargo:rerun-if-changed={}", branches.display());
    let packed = read_watched(&common.join("packed-refs"))?;
    let line = packed.lines().find_map(|line| line.strip_suffix(branch))?;
    Some(line.trim().to_owned())
}

/// Reads a file without outer blanks, and has this run again when it changes.
fn read_watched(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    println!("cargo:rerun-if-changed={}", path.display());
    Some(text.trim().to_owned())
}

/// The variable by which a build without a repository may be told its revision, and by which the
/// code is.
const REVISION: &str = "KEYPAIRD_REVISION";
