//! The key under which software keys are encrypted, and the file it comes from.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::domain::SealedKey;
use crate::providers::KeyName;

/// A 256-bit AES key from a file that only the daemon can read.
///
/// Encryption is AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits for each key, so that one
/// key encryption key is good for 2^32 keys. The associated data binds a key to its name: a row of the
/// store cannot be passed off as another.
pub struct KeyEncryptionKey(RandomizedNonceKey);

impl KeyEncryptionKey {
    /// Reads the key from its file.
    ///
    /// # Errors
    /// When the file is missing, readable by others, or not one that [`KeyEncryptionKey::create`] made.
    pub fn read(path: &Path) -> Result<Self, KeyEncryptionKeyError> {
        let io = |source| KeyEncryptionKeyError::Read {
            path: path.to_owned(),
            source,
        };
        let mut file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => KeyEncryptionKeyError::Missing(path.to_owned()),
            _ => io(source),
        })?;
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyEncryptionKeyError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = Zeroizing::new(String::with_capacity(FILE_LEN_MAX));
        let limit = u64::try_from(FILE_LEN_MAX).unwrap_or(u64::MAX);
        let malformed = || KeyEncryptionKeyError::Malformed(path.to_owned());
        Read::by_ref(&mut file)
            .take(limit)
            .read_to_string(&mut text)
            .map_err(|_| malformed())?;
        let encoded = text
            .trim_end()
            .strip_prefix(FILE_PREFIX)
            .ok_or_else(malformed)?;
        let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| malformed())?);
        Self::from_bytes(&bytes).map_err(|_| malformed())
    }

    /// Makes a new key and its file, with mode 0600, durably. A file that exists is never overwritten.
    ///
    /// The file gets its name when the key is in it: a power cut leaves the whole file, or none.
    pub fn create(path: &Path) -> Result<Self, KeyEncryptionKeyError> {
        let io = |source| KeyEncryptionKeyError::Create {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(&mut *bytes).map_err(|_| KeyEncryptionKeyError::Entropy)?;
        let key = Self::from_bytes(&*bytes).map_err(|_| KeyEncryptionKeyError::Entropy)?;
        let text = Zeroizing::new(format!("{FILE_PREFIX}{}\n", STANDARD.encode(*bytes)));
        write_new(path, text.as_bytes()).map_err(io)?;
        Ok(key)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Unspecified> {
        RandomizedNonceKey::new(&AES_256_GCM, bytes).map(Self)
    }

    /// Encrypts a known text, by which [`KeyEncryptionKey::recognises`] tells this key from others.
    pub fn check_value(&self) -> Result<SealedKey, KeyEncryptionKeyError> {
        self.encrypt(CHECK_CONTEXT, CHECK_TEXT)
            .map_err(|_| KeyEncryptionKeyError::Entropy)
    }

    /// Tells whether a check value was made by this key.
    pub fn recognises(&self, check_value: &SealedKey) -> bool {
        self.decrypt(CHECK_CONTEXT, check_value)
            .is_ok_and(|text| *text == CHECK_TEXT)
    }

    /// Tells whether a private key was encrypted by this key and under this name.
    pub fn opens(&self, name: &KeyName, sealed: &SealedKey) -> bool {
        self.open(name, sealed).is_ok()
    }

    /// Encrypts a private key.
    pub(super) fn seal(&self, name: &KeyName, pkcs8: &[u8]) -> Result<SealedKey, Unspecified> {
        self.encrypt(&context(name), pkcs8)
    }

    /// Decrypts a private key that was encrypted under this name.
    pub(super) fn open(
        &self,
        name: &KeyName,
        sealed: &SealedKey,
    ) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
        self.decrypt(&context(name), sealed)
    }

    /// Writes the version, the nonce, the ciphertext and the tag.
    fn encrypt(&self, context: &[u8], plain: &[u8]) -> Result<SealedKey, Unspecified> {
        let mut buffer = Zeroizing::new(Vec::with_capacity(plain.len() + AES_256_GCM.tag_len()));
        buffer.extend_from_slice(plain);
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(context), &mut *buffer)?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + buffer.len());
        sealed.push(SEALED_VERSION);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&buffer);
        Ok(SealedKey::from_bytes(sealed))
    }

    fn decrypt(
        &self,
        context: &[u8],
        sealed: &SealedKey,
    ) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
        let rest = sealed
            .as_bytes()
            .strip_prefix(&[SEALED_VERSION])
            .ok_or(Unspecified)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Unspecified)?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let len = self
            .0
            .open_in_place(nonce, Aad::from(context), &mut buffer)?
            .len();
        buffer.truncate(len);
        Ok(buffer)
    }
}

impl fmt::Debug for KeyEncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyEncryptionKey(..)")
    }
}

/// Why there is no key encryption key. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyEncryptionKeyError {
    /// The store has keys, and the file is not there.
    #[error(
        "the key encryption key {0} is missing, but the store was made with one; put the file back, or point crypto.local.key_encryption_key_file at it (a new one is never made over old data)"
    )]
    Missing(PathBuf),
    /// The file is another one than the store was made with.
    #[error(
        "the key encryption key {0} is not the one that the store was made with; put the right file back, or point store.url at the store that belongs to it"
    )]
    Wrong(PathBuf),
    /// Others than the owner can read the file.
    #[error(
        "the key encryption key {path} is accessible to others (mode {mode:03o}); run chmod 600 on it"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file holds something else.
    #[error("{0} is not a key encryption key made by keypaird")]
    Malformed(PathBuf),
    /// The file cannot be read.
    #[error("read the key encryption key {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("create the key encryption key {path}")]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The random number generator failed.
    #[error("the system's random number generator failed")]
    Entropy,
}

/// Makes a private file with these contents, whole and durable, unless there is one.
fn write_new(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    // What a power cut left.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(contents)?;
    file.sync_all()?;
    // Unlike a renaming, this does not replace a file.
    let named = fs::hard_link(&new, path);
    fs::remove_file(&new)?;
    named?;
    // The file is there for good only when its folder says so.
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// What a sealed key is bound to.
fn context(name: &KeyName) -> Vec<u8> {
    let mut context = b"keypaird private key\0".to_vec();
    context.extend_from_slice(name.id.as_str().as_bytes());
    context.push(0);
    context.extend_from_slice(&name.generation.number().to_be_bytes());
    context.extend_from_slice(name.key_ref.as_bytes());
    context
}

const FILE_PREFIX: &str = "keypaird-key-encryption-key-v1:";
const FILE_LEN_MAX: usize = 256;
const SEALED_VERSION: u8 = 1;
const CHECK_CONTEXT: &[u8] = b"keypaird check value\0";
const CHECK_TEXT: &[u8] = b"keypaird";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Generation, KeyPairId, KeyRef};

    fn name(id: &str, generation: u32) -> KeyName {
        KeyName {
            id: KeyPairId::parse(id).unwrap(),
            generation: Generation::new(generation).unwrap(),
            key_ref: KeyRef::from_random([7; 16]),
        }
    }

    #[test]
    fn a_key_opens_only_under_its_own_name_and_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyEncryptionKey::create(&folder.path().join("kek")).unwrap();
        let sealed = key.seal(&name("a", 1), b"secret").unwrap();
        assert_eq!(*key.open(&name("a", 1), &sealed).unwrap(), b"secret");
        assert!(key.open(&name("b", 1), &sealed).is_err());
        assert!(key.open(&name("a", 2), &sealed).is_err());
        for index in 0..sealed.as_bytes().len() {
            let mut damaged = sealed.as_bytes().to_vec();
            damaged[index] ^= 1;
            assert!(
                key.open(&name("a", 1), &SealedKey::from_bytes(damaged))
                    .is_err()
            );
        }
        assert!(key.open(&name("a", 1), &SealedKey::from_bytes([])).is_err());
    }

    #[test]
    fn the_file_is_private_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        let made = KeyEncryptionKey::create(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let read = KeyEncryptionKey::read(&path).unwrap();
        assert!(read.recognises(&made.check_value().unwrap()));
        assert!(matches!(
            KeyEncryptionKey::create(&path),
            Err(KeyEncryptionKeyError::Create { .. })
        ));
    }

    #[test]
    fn a_file_without_a_folder_is_made_where_the_process_is() {
        // Tests share their folder, so the name is one that nothing else has.
        let path = PathBuf::from(format!("key-encryption-key-{}", std::process::id()));
        let made = KeyEncryptionKey::create(&path);
        let _ = fs::remove_file(&path);
        made.unwrap();
    }

    #[test]
    fn what_a_power_cut_left_of_the_making_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        // The file gets its name when the key is in it, and not before: what was being written has another.
        fs::write(folder.path().join("kek.new"), "").unwrap();
        KeyEncryptionKey::create(&path).unwrap();
        KeyEncryptionKey::read(&path).unwrap();
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn another_key_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let one = KeyEncryptionKey::create(&folder.path().join("one")).unwrap();
        let two = KeyEncryptionKey::create(&folder.path().join("two")).unwrap();
        assert!(!two.recognises(&one.check_value().unwrap()));
    }

    #[test]
    fn a_file_that_is_missing_exposed_or_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        let read = || KeyEncryptionKey::read(&path).unwrap_err();
        assert!(matches!(read(), KeyEncryptionKeyError::Missing(_)));
        for content in [
            "",
            "x",
            FILE_PREFIX,
            "keypaird-key-encryption-key-v1:AAAA",
            "\u{0}",
        ] {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(
                matches!(read(), KeyEncryptionKeyError::Malformed(_)),
                "{content:?}"
            );
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(
            read().to_string(),
            format!(
                "the key encryption key {} is accessible to others (mode 640); run chmod 600 on it",
                path.display()
            )
        );
    }

    #[test]
    fn nothing_of_the_key_shows_in_debug() {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyEncryptionKey::create(&folder.path().join("kek")).unwrap();
        assert_eq!(format!("{key:?}"), "KeyEncryptionKey(..)");
    }
}
