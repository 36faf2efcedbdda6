//! Files that hold a private key with its certificates: PKCS#12 and PEM, as other programs write and read them.
//!
//! Pure: bytes in, values out, and back. Whatever encoding a key comes in, it leaves this room as a
//! [`PrivateKey`] whose public half was computed from it. To derive a key from a
//! password takes a processor for up to a second, so none of this belongs on a thread that has others waiting.

mod encryption;
mod error;
mod open;
mod pkcs12;
mod private_key;
mod rsa;
mod write_pem;

pub use error::KeyFileError;
pub use pkcs12::write_pkcs12;
pub use write_pem::write_pem;

use secrecy::{ExposeSecret, SecretString};

use crate::domain::contents::Contents;
use crate::domain::pem::{self, Part, PemError};
use crate::domain::{Certificate, PrivateKey, Refusal};

/// The kinds of key files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFileFormat {
    /// PEM (RFC 7468).
    Pem,
    /// PKCS#12 (RFC 7292).
    Pkcs12,
}

impl KeyFileFormat {
    /// Returns the name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pem => "PEM",
            Self::Pkcs12 => "PKCS12",
        }
    }

    /// Finds a format by its name on the wire.
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        [Self::Pem, Self::Pkcs12]
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| Refusal::of(name, "must be PKCS12 or PEM"))
    }
}

/// What a key file holds.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// The private key.
    pub private_key: PrivateKey,
    /// All certificates, in the order of the file.
    pub certificates: Vec<Certificate>,
}

/// Reads a key file.
///
/// # Errors
/// [`KeyFileError::Unreadable`] for a wrong password or damage; [`KeyFileError::Refused`] for what it is or holds, and for a
/// password that is too long: every derivation would hash all of it.
pub fn read(
    file: &[u8],
    format: Option<KeyFileFormat>,
    password: &SecretString,
) -> Result<KeyFile, KeyFileError> {
    if password.expose_secret().len() > PASSWORD_BYTES_MAX {
        return Err(KeyFileError::Refused("password", password_too_long()));
    }
    if file.len() > FILE_LEN_MAX {
        return Err(KeyFileError::file(format!(
            "has {} bytes, and may have {FILE_LEN_MAX}",
            file.len()
        )));
    }
    if let Some((_, sentence)) = FOREIGN.iter().find(|(magic, _)| file.starts_with(magic)) {
        return Err(KeyFileError::file((*sentence).to_owned()));
    }
    let parts = pem::parts(file);
    refuse_other_format(file, &parts, format)?;
    let parts = parts.map_err(not_read)?;
    let read = open::open(&parts, password.expose_secret())?;
    match read.certificates.len() {
        0 => Err(KeyFileError::file(
            "has no certificate; add the one of the key, behind the key in a PEM file".to_owned(),
        )),
        1..=CERTIFICATES_MAX => Ok(read),
        count => Err(KeyFileError::file(format!(
            "has {count} certificates, and may have {CERTIFICATES_MAX}"
        ))),
    }
}

/// Refuses a file of another format than the caller named. PKCS#12 in base64 is both.
fn refuse_other_format(
    file: &[u8],
    parts: &Result<Vec<Part>, PemError>,
    wanted: Option<KeyFileFormat>,
) -> Result<(), KeyFileError> {
    let found = match parts.as_deref() {
        Ok([part]) if Contents::of(part) == Contents::Pkcs12 => match file.first() {
            Some(0x30) if part.label.is_empty() => KeyFileFormat::Pkcs12,
            _ => return Ok(()),
        },
        Ok([part]) if part.label.is_empty() => return Ok(()),
        Err(_) if file.first() == Some(&0x30) => KeyFileFormat::Pkcs12,
        Ok(_) | Err(_) => KeyFileFormat::Pem,
    };
    match wanted.filter(|wanted| *wanted != found) {
        None => Ok(()),
        Some(wanted) => Err(KeyFileError::Refused(
            "format",
            Refusal::new(format!(
                "is {}, and the file is {}; leave it out to have it found out",
                wanted.name(),
                found.name()
            )),
        )),
    }
}

fn not_read(error: PemError) -> KeyFileError {
    match error {
        PemError::Neither => KeyFileError::Unreadable(
            "fileData",
            Refusal::new("is neither PKCS#12 nor PEM, or is damaged"),
        ),
        PemError::NotWhole => KeyFileError::damaged("it is not PKCS#12"),
        PemError::NoEnd => KeyFileError::damaged("a block has no end"),
        PemError::TooManyBlocks => {
            KeyFileError::file(format!("has more than {} blocks", pem::BLOCKS_MAX))
        }
    }
}

/// Refuses a file that has not one private key.
fn one_key_of(count: usize) -> Result<(), KeyFileError> {
    match count {
        0 => Err(KeyFileError::file("has no private key".to_owned())),
        1 => Ok(()),
        count => Err(KeyFileError::file(format!(
            "has {count} private keys; give one file for each"
        ))),
    }
}

/// Checks the password for a file to be made.
pub fn check_new_password(password: &SecretString) -> Result<(), Refusal> {
    let password = password.expose_secret();
    match (password.chars().count(), password.len()) {
        (0, _) => Err(Refusal::new(format!(
            "is required: at least {PASSWORD_LEN_MIN} characters"
        ))),
        (..PASSWORD_LEN_MIN, _) => Err(Refusal::new(format!(
            "must have at least {PASSWORD_LEN_MIN} characters"
        ))),
        (_, ..=PASSWORD_BYTES_MAX) => Ok(()),
        _ => Err(password_too_long()),
    }
}

fn password_too_long() -> Refusal {
    Refusal::new(format!("must have at most {PASSWORD_BYTES_MAX} bytes"))
}

/// Far more than a key and a chain of any size take.
const FILE_LEN_MAX: usize = 64 * 1024;
/// What files of other programs begin with, and what to do with them.
const FOREIGN: [(&[u8], &str); 4] = [
    (
        b"\xfe\xed\xfe\xed",
        "is a Java keystore (JKS); convert it with `keytool -importkeystore -srckeystore OLD -destkeystore NEW -deststoretype PKCS12`",
    ),
    (
        b"\xce\xce\xce\xce",
        "is a Java keystore (JCEKS); convert it with `keytool -importkeystore -srckeystore OLD -srcstoretype JCEKS -destkeystore NEW -deststoretype PKCS12`",
    ),
    (
        b"PuTTY-User-Key-File-",
        "is a key file of PuTTY; export the key from PuTTYgen as an OpenSSH key, and convert that with `ssh-keygen -p -m PKCS8`",
    ),
    (
        b"SQLite format 3\0",
        "is a database, such as NSS keeps keys in; export the key with `pk12util -o NEW -n NAME -d FOLDER`",
    ),
];
const CERTIFICATES_MAX: usize = 32;
const PASSWORD_LEN_MIN: usize = 8;
const PASSWORD_BYTES_MAX: usize = 1024;
/// What OWASP asks of PBKDF2 with HMAC-SHA-256 (2023), for the files that we write.
const ITERATIONS: u32 = 600_000;

#[cfg(test)]
mod tests;
