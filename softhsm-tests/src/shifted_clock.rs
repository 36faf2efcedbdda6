//! A daemon whose clock is moved while it runs: by libfaketime, so that it is the same binary as everywhere.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::daemon::Home;
use crate::tools::INSTALL;

/// The clock of a daemon.
#[derive(Debug)]
pub struct ShiftedClock {
    folder: TempDir,
}

impl ShiftedClock {
    /// Makes a clock that is right as yet.
    pub fn new() -> Self {
        let clock = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        clock.set_days_ahead(0);
        clock
    }

    /// Has a daemon go by this clock.
    #[must_use]
    pub fn given_to(&self, home: Home) -> Home {
        home.env("LD_PRELOAD", library().to_str().unwrap())
            .env("FAKETIME_TIMESTAMP_FILE", self.file().to_str().unwrap())
            .env("FAKETIME_NO_CACHE", "1")
            // What only measures how long something takes goes on as it does.
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }

    /// Sets the clock ahead of the right time, by days.
    pub fn set_days_ahead(&self, days: u32) {
        self.set(&format!("+{days}d"));
    }

    /// Sets the clock back from the right time, by days.
    pub fn set_days_back(&self, days: u32) {
        self.set(&format!("-{days}d"));
    }

    fn set(&self, offset: &str) {
        // Put in place as a whole: it is read at every look at the clock.
        let new = self.folder.path().join("new");
        fs::write(&new, format!("{offset}\n")).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }
}

impl Default for ShiftedClock {
    fn default() -> Self {
        Self::new()
    }
}

fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap();
    let mut found = folders
        .filter_map(Result::ok)
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .filter(|path| path.exists());
    found
        .next()
        .unwrap_or_else(|| panic!("libfaketime is missing; {INSTALL}"))
}
