//! The fuzz targets without a fuzzer: with what it begins with, and with what it found once.

use std::fs;
use std::path::Path;

use softhsm_tests::fuzzing::{TARGETS, seeds, try_target};

#[test]
fn what_fuzzers_begin_with_is_answered_as_the_contract_says() {
    for (target, bytes) in seeds() {
        println!("{target}: {} bytes", bytes.len());
        try_target(target, &bytes);
    }
}

#[test]
fn what_fuzzers_found_is_answered_as_the_contract_says() {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions");
    for (target, _) in TARGETS {
        // No folder: nothing was found.
        for entry in fs::read_dir(found.join(target)).into_iter().flatten() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            try_target(target, &fs::read(path).unwrap());
        }
    }
}
