//! Where the user PIN comes from, and that a refused one is not tried again.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::domain::is_unprintable;
use crate::providers::{Finding, ProviderErrorKind};

/// Where a PIN comes from. It is read anew for each connection, so that a changed file takes effect.
#[derive(Clone, Debug)]
pub enum PinSource {
    /// The first line of a file that others cannot read.
    File(PathBuf),
    /// A value that came from the environment.
    Value(SecretString),
}

impl PinSource {
    /// Reads the PIN.
    pub fn read(&self) -> Result<SecretString, PinError> {
        let path = match self {
            Self::Value(pin) => {
                check(pin.expose_secret().as_bytes())?;
                return Ok(pin.clone());
            }
            Self::File(path) => path,
        };
        let io = |source| PinError::Read {
            path: path.clone(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o007 != 0 {
            return Err(PinError::Exposed {
                path: path.clone(),
                mode,
            });
        }
        // One allocation of fixed size, so that no copy of the PIN is left behind by growing.
        let mut bytes = Zeroizing::new(Vec::with_capacity(PIN_FILE_LEN_MAX + 1));
        let limit = u64::try_from(PIN_FILE_LEN_MAX).unwrap_or(u64::MAX);
        file.take(limit).read_to_end(&mut bytes).map_err(io)?;
        // The end of a line is LF, CR LF or CR.
        let line = bytes.split(|byte| matches!(byte, b'\n' | b'\r')).next();
        match check(line.unwrap_or_default())? {
            "" => Err(PinError::Empty(path.clone())),
            pin => Ok(SecretString::from(pin)),
        }
    }
}

/// Refuses what an editor left rather than a person: to try it would take one of the few tries that
/// a token allows.
fn check(pin: &[u8]) -> Result<&str, PinError> {
    let why = match pin {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "is written in UTF-16",
        [0xef, 0xbb, 0xbf, ..] => {
            "begins with a byte order mark, as editors on Windows write it, which is not part of it"
        }
        _ if pin.contains(&0) => "has zero bytes in it, as UTF-16 has",
        _ => match std::str::from_utf8(pin) {
            Err(_) => "is not written in UTF-8",
            Ok(text) if text.chars().any(is_unprintable) => {
                "has a control character in it, or one that cannot be seen"
            }
            Ok(text) if has_odd_blank(text) => {
                "begins or ends with a blank that is not a space, such as U+00A0, as text copied from a page or a document has; write the PIN without it"
            }
            Ok(text) => return Ok(text),
        },
    };
    Err(PinError::Malformed(why))
}

/// Tells whether a text begins or ends with a blank other than the space of ASCII.
fn has_odd_blank(text: &str) -> bool {
    let ends = [text.chars().next(), text.chars().next_back()];
    let mut ends = ends.into_iter().flatten();
    ends.any(|end| end.is_whitespace() && end != ' ')
}

/// Why there is no PIN.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The file cannot be read.
    #[error("read the PIN file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Everybody can read the file.
    #[error("the PIN file {path} is accessible to everybody (mode {mode:03o}); run chmod o= on it")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file is empty.
    #[error("the PIN file {0} is empty")]
    Empty(PathBuf),
    /// What is in it, or in the environment, is no PIN.
    #[error("the PIN {0}; write it as plain text, as by printf %s PIN > FILE")]
    Malformed(&'static str),
}

impl PinError {
    fn finding(&self) -> Finding {
        match self {
            // The kind, and not the text of the system, which may change.
            Self::Read { source, .. } => Finding::PinUnreadable(source.kind().to_string()),
            Self::Exposed { mode, .. } => Finding::PinExposed(*mode),
            Self::Empty(_) => Finding::PinEmpty,
            Self::Malformed(why) => Finding::PinMalformed((*why).to_owned()),
        }
    }
}

/// The PIN, unless it is the one that the token refused: a few tries lock the token.
#[derive(Debug)]
pub(in crate::providers) struct Login {
    source: PinSource,
    tried: Mutex<Tried>,
}

/// What is known of PINs that did not do.
#[derive(Debug, Default)]
struct Tried {
    /// The one that the token refused last, and what it said. It stays known while the token is away, or while others are tried.
    refused: Option<(SecretString, Finding)>,
    /// The last login did not succeed, and that was for the PIN.
    is_barred: bool,
}

impl Login {
    /// Takes the source of the PIN, of which none was refused yet.
    pub(in crate::providers) fn new(source: PinSource) -> Self {
        Self {
            source,
            tried: Mutex::default(),
        }
    }

    /// Returns the PIN to log in with.
    pub(in crate::providers) fn pin(&self) -> Result<SecretString, LoginError> {
        let pin = self.source.read()?;
        let mut tried = self.tried.lock();
        let refused = tried.refused.as_ref();
        let refused = refused.filter(|(refused, _)| refused.expose_secret() == pin.expose_secret());
        match refused.map(|(_, finding)| finding.clone()) {
            Some(finding) => {
                tried.is_barred = true;
                Err(LoginError::RefusedBefore(finding))
            }
            None => Ok(pin),
        }
    }

    /// Notes what was in the way of a connection. A PIN that the token refused is not given out again.
    pub(in crate::providers) fn note(&self, pin: SecretString, finding: &Finding) {
        let mut tried = self.tried.lock();
        tried.is_barred = finding.is_of_pin();
        if finding.condemns_pin() {
            tried.refused = Some((pin, finding.clone()));
        }
    }

    /// Notes that the token accepted the PIN.
    pub(in crate::providers) fn accept(&self) {
        *self.tried.lock() = Tried::default();
    }

    /// Says why there is no connection, as far as the login has to do with it.
    pub(in crate::providers) fn kind_when_unconnected(&self) -> ProviderErrorKind {
        match self.tried.lock().is_barred {
            true => ProviderErrorKind::LoginRefused,
            false => ProviderErrorKind::Unavailable,
        }
    }
}

/// Why a login is not tried.
#[derive(Debug, thiserror::Error)]
pub(in crate::providers) enum LoginError {
    /// The PIN cannot be read.
    #[error("read the PIN")]
    Pin(#[from] PinError),
    /// The token refused this PIN before.
    #[error(
        "the token refused this PIN before, and a few tries lock it; it is tried again when the PIN changes"
    )]
    RefusedBefore(Finding),
}

impl LoginError {
    /// Returns what this means outside.
    pub(in crate::providers) const fn kind(&self) -> ProviderErrorKind {
        match self {
            Self::Pin(_) => ProviderErrorKind::Unavailable,
            Self::RefusedBefore(_) => ProviderErrorKind::LoginRefused,
        }
    }

    /// Returns what an operator is told.
    pub(in crate::providers) fn finding(&self) -> Finding {
        match self {
            Self::Pin(error) => error.finding(),
            Self::RefusedBefore(finding) => finding.clone(),
        }
    }
}

const PIN_FILE_LEN_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::TriesLeft;

    #[test]
    fn what_an_editor_left_in_a_pin_file_is_not_sent_to_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            PinSource::File(path.clone()).read()
        };
        for (what, bytes) in [
            ("no line end", &b"648219"[..]),
            ("LF", b"648219\n"),
            ("CR LF", b"648219\r\n"),
            ("CR", b"648219\r"),
            ("more lines", b"648219\n# the PIN\n"),
        ] {
            assert_eq!(read(bytes).unwrap().expose_secret(), "648219", "{what}");
        }
        // Blanks, and letters beyond ASCII, may be meant.
        assert_eq!(
            read("pä ss \n".as_bytes()).unwrap().expose_secret(),
            "pä ss "
        );
        for (bytes, why) in [
            (&b"\xef\xbb\xbf648219\r\n"[..], "byte order mark"),
            ("\u{a0}648219".as_bytes(), "a blank that is not a space"),
            ("648219\u{3000}\n".as_bytes(), "a blank that is not a space"),
            (b"\xff\xfe6\x004\x008\x00\r\x00\n\x00", "UTF-16"),
            (b"\xfe\xff\x006\x004\x008", "UTF-16"),
            (b"6\x004\x008\x00\r\x00\n\x00", "zero bytes"),
            (b"648219\0", "zero bytes"),
            (b"648\x1b219", "control character"),
            (b"648219\xe2\x80\x8b", "cannot be seen"),
            (b"M\xfcller", "UTF-8"),
        ] {
            let said = read(bytes).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
        assert!(matches!(read(b"\r\n648219"), Err(PinError::Empty(_))));
        let value = PinSource::Value("\u{feff}648219".into());
        assert!(matches!(value.read(), Err(PinError::Malformed(_))));
    }

    #[test]
    fn a_refused_pin_stays_refused_whatever_is_tried_between() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        let put = |pin: &str| {
            std::fs::write(&path, pin).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        let login = Login::new(PinSource::File(path.clone()));
        let refused = |login: &Login| matches!(login.pin(), Err(LoginError::RefusedBefore(_)));

        put("1");
        login.note(login.pin().unwrap(), &Finding::PinRefused(TriesLeft::Fewer));
        assert!(refused(&login));
        put("2");
        let away = Finding::NoSuchToken {
            wanted: String::new(),
            seen: Vec::new(),
        };
        login.note(login.pin().unwrap(), &away);
        assert_eq!(
            login.kind_when_unconnected(),
            ProviderErrorKind::Unavailable
        );
        login.note(login.pin().unwrap(), &Finding::LastTry);
        put("1");
        assert!(refused(&login));
        assert_eq!(
            login.kind_when_unconnected(),
            ProviderErrorKind::LoginRefused
        );
        put("2");
        login.pin().unwrap();
        login.accept();
        put("1");
        login.pin().unwrap();
    }
}
