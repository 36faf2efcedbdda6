//! Tokens of SoftHSM2, each in a directory of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::tools;

/// The module.
pub const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
/// Returns the module that daemons load, and tests that load one themselves: SoftHSM2, or what `KEYPAIRD_TEST_MODULE` names,
/// such as one that passes every call on to it.
pub fn module() -> String {
    std::env::var("KEYPAIRD_TEST_MODULE").unwrap_or_else(|_| MODULE.to_owned())
}

/// The label of every token.
pub const LABEL: &str = "tests";
/// The user PIN of every token. Long enough to be found in a log if it were there.
pub const PIN: &str = "user-pin-73519";
/// The security officer's PIN of every token.
pub const SO_PIN: &str = "so-pin-91537";

/// A token that ends with its directory.
#[derive(Debug)]
pub struct Token {
    folder: PathBuf,
    /// What removes the folder, unless somebody else does.
    _owned: Option<TempDir>,
}

impl Token {
    /// Makes a directory without a token in it.
    pub fn none() -> Self {
        assert!(
            Path::new(MODULE).exists(),
            "SoftHSM2 is missing: there is no {MODULE}; {}",
            tools::INSTALL
        );
        let folder = tempfile::Builder::new()
            .prefix("keypaird-token-")
            .tempdir()
            .unwrap();
        let token = Self {
            folder: folder.path().to_owned(),
            _owned: Some(folder),
        };
        fs::create_dir(token.objects()).unwrap();
        fs::write(
            token.conf(),
            format!(
                "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
                token.objects().display()
            ),
        )
        .unwrap();
        token.write_pin(PIN);
        token
    }

    /// Makes an initialised token.
    pub fn fresh() -> Self {
        let token = Self::none();
        token.initialise(LABEL);
        token
    }

    /// Returns the token of a configuration, which belongs to somebody else.
    pub fn there(conf: &Path) -> Self {
        Self {
            folder: conf.parent().unwrap().to_owned(),
            _owned: None,
        }
    }

    /// Initialises a token in the directory.
    pub fn initialise(&self, label: &str) {
        let output = std::process::Command::new("softhsm2-util")
            .env("SOFTHSM2_CONF", self.conf())
            .args(["--init-token", "--free", "--label", label])
            .args(["--pin", PIN, "--so-pin", SO_PIN])
            .output()
            .unwrap_or_else(|error| {
                panic!("softhsm2-util cannot be run ({error}); {}", tools::INSTALL)
            });
        tools::succeeded("softhsm2-util".as_ref(), &output);
    }

    /// Adds a line to the configuration of SoftHSM2.
    pub fn configure(&self, line: &str) {
        let conf = fs::read_to_string(self.conf()).unwrap();
        fs::write(self.conf(), format!("{conf}{line}\n")).unwrap();
    }

    /// Writes the file that the daemon reads the PIN from.
    pub fn write_pin(&self, pin: &str) {
        fs::write(self.pin_file(), format!("{pin}\n")).unwrap();
        fs::set_permissions(self.pin_file(), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Returns the file that the daemon reads the PIN from.
    pub fn pin_file(&self) -> PathBuf {
        self.folder.join("pin")
    }

    /// Returns the configuration of SoftHSM2, for `SOFTHSM2_CONF`.
    pub fn conf(&self) -> PathBuf {
        self.folder.join("softhsm2.conf")
    }

    /// Returns the directory of the tokens.
    pub fn objects(&self) -> PathBuf {
        self.folder.join("tokens")
    }

    /// Has another program generate a key pair on the token, such as `EC:prime256v1`, with a `CKA_ID` in hexadecimal
    /// digits, or without one.
    pub fn make_foreign_key(&self, kind: &str, label: &str, id: &str) {
        let arguments = [
            "--keypairgen",
            "--key-type",
            kind,
            "--label",
            label,
            "--id",
            id,
            "--usage-sign",
        ];
        tools::pkcs11_tool(self, &arguments[..if id.is_empty() { 5 } else { 8 }]);
    }

    /// Returns how many objects of a kind pkcs11-tool sees: `Private Key`, `Public Key`, `Certificate`.
    pub fn count(&self, kind: &str) -> usize {
        let listed = tools::pkcs11_tool(self, &["--list-objects"]);
        listed
            .lines()
            .filter(|line| line.starts_with(&format!("{kind} Object")))
            .count()
    }
}
