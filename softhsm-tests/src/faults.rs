//! A PKCS#11 module that fails when told: `fault-module/fault_module.c`, between the daemon and SoftHSM2.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::daemon::Home;
use crate::token::MODULE;

/// The module, and what it is told.
#[derive(Debug)]
pub struct FaultyModule {
    folder: TempDir,
}

impl FaultyModule {
    /// Compiles the module. Nothing is wrong with it as yet.
    pub fn new() -> Self {
        let module = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fault-module/fault_module.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"])
            .arg(format!("-DMODULE=\"{MODULE}\""))
            .arg("-o")
            .arg(module.library())
            .arg(source)
            // It goes on counting when the daemon loads it anew.
            .args(["-ldl", "-lpthread", "-Wl,-z,nodelete"])
            .status()
            .unwrap();
        assert!(compiled.success());
        module.mend();
        module
    }

    /// Has a daemon use it.
    #[must_use]
    pub fn given_to(&self, home: Home) -> Home {
        home.replacing(
            "module",
            &format!("module = \"{}\"", self.library().display()),
        )
        .env("FAULT_FILE", self.orders().to_str().unwrap())
    }

    /// Tells it what to do from now on, in lines of `FUNCTION SKIP TIMES ACTION [VALUE]`.
    pub fn tell(&self, orders: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, orders).unwrap();
        fs::rename(new, self.orders()).unwrap();
    }

    /// Has it do what SoftHSM2 does.
    pub fn mend(&self) {
        self.tell("");
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("faulty.so")
    }

    fn orders(&self) -> PathBuf {
        self.folder.path().join("orders")
    }
}

impl Default for FaultyModule {
    fn default() -> Self {
        Self::new()
    }
}
