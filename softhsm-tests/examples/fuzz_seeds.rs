//! Writes the seeds of the fuzz targets: a folder for each, below the one that is given.

use std::fs;
use std::path::PathBuf;

use softhsm_tests::fuzzing::{TARGETS, seeds};

fn main() {
    let folder: PathBuf = std::env::args_os().nth(1).expect("a folder").into();
    for (name, _) in TARGETS {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    for (number, (target, bytes)) in seeds().into_iter().enumerate() {
        fs::write(folder.join(target).join(format!("{number:03}")), bytes).unwrap();
    }
}
