//! Opens the parts of a key file: finds the private key, in the clear or encrypted, and the
//! certificates.

use der::Decode;
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::pkcs5::EncryptionScheme;

use super::encryption::{Work, decrypt_pbes2};
use super::private_key::{from_pkcs8, from_sec1};
use super::rsa::from_pkcs1;
use super::{KeyFile, KeyFileError, one_key_of, pkcs12};
use crate::domain::contents::{Contents, KeyForm};
use crate::domain::pem::Part;
use crate::domain::{PrivateKey, Refusal};

/// Reads the private key and the certificates. What is neither is passed over: it says nothing that
/// they do not say.
pub(super) fn open(parts: &[Part], password: &str) -> Result<KeyFile, KeyFileError> {
    let mut keys: Vec<(&Part, Contents)> = Vec::new();
    let mut certificates = Vec::new();
    let mut curve = None;
    for part in parts {
        match Contents::of(part) {
            Contents::Certificates(found) => certificates.extend(found),
            contents @ (Contents::PrivateKey(_) | Contents::Pkcs12) => {
                // The same key twice is one.
                if keys.iter().all(|(other, _)| other.bytes != part.bytes) {
                    keys.push((part, contents));
                }
            }
            Contents::Curve => curve = part.bytes.as_deref().map(Vec::as_slice),
            Contents::Damaged => {
                let refusal = Refusal::of(&part.label, "is a damaged block: it is not base64");
                return Err(KeyFileError::Unreadable("fileData", refusal));
            }
            Contents::Other if part.label.is_empty() => {
                return Err(KeyFileError::damaged("it is not PKCS#12"));
            }
            Contents::Other => {}
        }
    }
    if is_one_key(&keys, curve) {
        keys.truncate(1);
    }
    // Before any is decrypted: of several, none is taken.
    one_key_of(keys.len())?;
    let (part, contents) = keys
        .first()
        .ok_or_else(|| KeyFileError::damaged("the private key"))?;
    let bytes = part.bytes.as_deref().map_or(&[][..], Vec::as_slice);
    let Contents::PrivateKey(form) = contents else {
        let mut file = pkcs12::read(bytes, password)?;
        file.certificates.extend(certificates);
        return Ok(file);
    };
    Ok(KeyFile {
        private_key: private_key(*form, bytes, curve, &part.label, password)?,
        certificates,
    })
}

/// Tells whether keys in the clear are forms of one key, such as PKCS#8 and PKCS#1.
fn is_one_key(keys: &[(&Part, Contents)], curve: Option<&[u8]>) -> bool {
    if keys.len() > FORMS {
        return false;
    }
    let read = keys.iter().map(|(part, contents)| match contents {
        Contents::PrivateKey(form @ (KeyForm::Pkcs8 | KeyForm::Pkcs1 | KeyForm::Sec1)) => {
            let bytes = part.bytes.as_deref().map_or(&[][..], Vec::as_slice);
            private_key(*form, bytes, curve, &part.label, "").ok()
        }
        _ => None,
    });
    let Some(read) = read.collect::<Option<Vec<_>>>() else {
        return false;
    };
    let mut others = read.iter().skip(1);
    read.first()
        .is_some_and(|first| others.all(|key| key.public_key() == first.public_key()))
}

fn private_key(
    form: KeyForm,
    bytes: &[u8],
    curve: Option<&[u8]>,
    label: &str,
    password: &str,
) -> Result<PrivateKey, KeyFileError> {
    let refused = |sentence: &str| Err(KeyFileError::file(sentence.to_owned()));
    match form {
        KeyForm::Pkcs8 => from_pkcs8(bytes),
        KeyForm::Encrypted => decrypt(bytes, password),
        KeyForm::Pkcs1 => from_pkcs1(bytes),
        KeyForm::Sec1 => from_sec1(bytes, curve),
        KeyForm::EncryptedByHeaders => refused(
            "has a private key in the old encryption of OpenSSL (Proc-Type: 4,ENCRYPTED); convert it with `openssl pkcs8 -topk8 -in OLD -out NEW`",
        ),
        KeyForm::Dsa => refused("has a DSA key; RSA, EC and Ed25519 keys are taken"),
        KeyForm::OpenSsh => {
            refused("has a key in the form of OpenSSH; convert it with `ssh-keygen -p -m PKCS8`")
        }
        KeyForm::Unknown if KNOWN_LABELS.contains(&label) => {
            Err(KeyFileError::damaged("the private key"))
        }
        KeyForm::Unknown => Err(KeyFileError::Refused(
            "fileData",
            Refusal::of(label, "is a kind of private key that is not read"),
        )),
    }
}

/// Decrypts an `EncryptedPrivateKeyInfo` (RFC 5958 section 3).
fn decrypt(der: &[u8], password: &str) -> Result<PrivateKey, KeyFileError> {
    let encrypted =
        EncryptedPrivateKeyInfoRef::from_der(der).map_err(|_| unsupported_encryption())?;
    let EncryptionScheme::Pbes2(parameters) = &encrypted.encryption_algorithm else {
        return Err(unsupported_encryption());
    };
    if password.is_empty() {
        return Err(KeyFileError::Unreadable(
            "password",
            Refusal::new("is required: the private key is encrypted"),
        ));
    }
    let data = encrypted.encrypted_data.as_bytes();
    let decrypted = decrypt_pbes2(parameters, data, password, &mut Work::of_a_file())?;
    from_pkcs8(&decrypted.ok_or_else(unsupported_encryption)?)
}

fn unsupported_encryption() -> KeyFileError {
    KeyFileError::file(
        "has a private key that is damaged, or not encrypted by PBES2; convert it with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW`".to_owned(),
    )
}

/// In how many forms a file may have one key: PKCS#8, and PKCS#1 or SEC 1.
const FORMS: usize = 2;
/// The labels of private keys that are read.
const KNOWN_LABELS: [&str; 4] = [
    "PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY",
    "RSA PRIVATE KEY",
    "EC PRIVATE KEY",
];
