//! The invariants of absence: which room may name which, and who may use which crate.
//!
//! Read from the code itself, so that the architecture page stays true.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms a room may name. The binaries and `app` may name all.
const ROOMS: &[(&str, &[&str])] = &[
    ("printable", &[]),
    ("domain", &["printable"]),
    ("proto", &[]),
    ("certs", &["domain"]),
    ("keyfiles", &["domain"]),
    ("providers", &["domain", "telemetry"]),
    ("store", &["domain"]),
    ("telemetry", &["printable"]),
    (
        "service",
        &[
            "certs",
            "domain",
            "keyfiles",
            "providers",
            "store",
            "telemetry",
        ],
    ),
    ("config", &["domain", "providers", "telemetry"]),
    ("grpc", &["domain", "proto", "service", "telemetry"]),
    ("rest", &["domain", "printable", "service", "telemetry"]),
    (
        "server",
        &[
            "certs",
            "config",
            "domain",
            "grpc",
            "rest",
            "service",
            "telemetry",
        ],
    ),
    ("cli", &["printable", "proto"]),
];

/// Where a crate, or a part of the standard library, may be named. Paths are from `src`.
const CRATES: &[(&str, &[&str])] = &[
    ("cryptoki", &["providers/pkcs11"]),
    ("rcgen", &["certs"]),
    ("webpki", &["certs"]),
    ("p12_keystore", &["keyfiles"]),
    ("num_bigint", &["domain"]),
    ("icu_normalizer", &["certs"]),
    ("rusqlite", &["store"]),
    ("axum", &["rest", "server"]),
    ("hyper", &["server"]),
    (
        "tonic",
        &["app", "cli", "grpc", "proto.rs", "proto", "server"],
    ),
    ("prost", &["cli", "grpc", "proto"]),
    ("tonic_types", &["cli", "grpc"]),
    ("clap", &["bin", "cli"]),
    ("clap_mangen", &["cli"]),
    ("rustls_native_certs", &["cli"]),
    ("config", &["config"]),
    ("std::env", &["app", "bin"]),
    ("std::process", &["app", "bin", "cli", "providers/isolated"]),
    ("postcard", &["providers/isolated"]),
];

/// What the domain, being pure, never names.
const NOT_IN_DOMAIN: &[&str] = &[
    "tokio",
    "async_trait",
    "std::fs",
    "std::io",
    "std::thread",
    "std::sync",
    "tracing",
    "async fn",
];

#[test]
fn rooms_name_only_the_rooms_below_them() {
    let known: Vec<_> = ROOMS.iter().map(|(room, _)| *room).collect();
    for (path, code) in sources() {
        let room = room_of(&path);
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            assert!(
                matches!(&*room, "app" | "bin" | "lib" | "manual"),
                "{room} is no room of the page"
            );
            continue;
        };
        for other in known.iter().chain(&["app"]) {
            let names_it = code.contains(&format!("crate::{other}::"))
                || code.contains(&format!("crate::{other} "));
            assert!(
                !names_it || *other == room || allowed.contains(other),
                "{} names the room {other}",
                path.display()
            );
        }
    }
}

#[test]
fn crates_stay_in_their_rooms() {
    for (path, code) in sources() {
        for (name, allowed) in CRATES {
            let used =
                code.contains(&format!("{name}::")) && code.lines().any(|line| names(line, name));
            let permitted = allowed.iter().any(|place| path.starts_with(place));
            assert!(!used || permitted, "{} names {name}", path.display());
        }
    }
}

#[test]
fn the_domain_does_nothing_but_think() {
    for (path, code) in sources() {
        if path.starts_with("domain") {
            for name in NOT_IN_DOMAIN {
                assert!(!code.contains(name), "{} names {name}", path.display());
            }
        }
    }
}

#[test]
fn files_are_short_enough_to_be_read() {
    let long: BTreeMap<_, _> = sources()
        .into_iter()
        .filter(|(path, _)| !path.ends_with("tests.rs"))
        .map(|(path, code)| (path, code.lines().count()))
        .filter(|(_, lines)| *lines > 520)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}

/// Tells whether a line of code names a crate by a path that begins with it.
fn names(line: &str, name: &str) -> bool {
    let line = line.trim();
    if line.starts_with("//") {
        return false;
    }
    line.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
    })
}

fn room_of(path: &Path) -> String {
    let first = path
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Returns every file below `src` without the tests at its end.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap().to_owned();
                let relative = path.strip_prefix(&root).unwrap().to_owned();
                if !relative.ends_with("tests.rs") {
                    sources.push((relative, code));
                }
            }
        }
    }
    assert!(sources.len() > 50, "{}", sources.len());
    sources
}
