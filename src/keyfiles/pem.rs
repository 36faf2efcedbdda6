//! PEM (RFC 7468): private keys in all their labels, and certificates.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use der::Decode;
use der::pem::LineEnding;
use pkcs8::pkcs5::EncryptionScheme;
use pkcs8::pkcs5::pbes2::Parameters;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::encryption::{Work, decrypt_pbes2};
use super::private_key::{from_pkcs1, from_pkcs8, from_sec1};
use super::{ITERATIONS, KeyFile, KeyFileError, one_key_of};
use crate::domain::{Certificate, PrivateKey, Refusal};

/// Reads all blocks of a file. Text between them is skipped, in whatever encoding: many programs write what the blocks
/// are.
pub(super) fn read(file: &[u8], password: &str) -> Result<KeyFile, KeyFileError> {
    let text = Zeroizing::new(String::from_utf8_lossy(file).into_owned());
    let blocks = blocks(&text)?;
    let keys = blocks.iter().filter(|block| block.label.ends_with(KEY));
    // Before any is decrypted: of several, none is taken.
    one_key_of(keys.count())?;
    let mut private_key = None;
    let mut certificates = Vec::new();
    for block in &blocks {
        match block.label {
            "CERTIFICATE" | "X509 CERTIFICATE" => {
                certificates.push(Certificate::from_der(&**block.decode()?));
            }
            label if label.ends_with(KEY) => private_key = Some(block.key(password)?),
            // What OpenSSL writes before an EC key, and what says nothing that the key does not say.
            "EC PARAMETERS" | "PUBLIC KEY" => {}
            other => return Err(unexpected(other)),
        }
    }
    Ok(KeyFile {
        private_key: private_key.ok_or_else(neither)?,
        certificates,
    })
}

/// A block, from its first line to its last.
struct Block<'a> {
    label: &'a str,
    text: &'a str,
}

fn blocks(text: &str) -> Result<Vec<Block<'_>>, KeyFileError> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find(BEGIN) {
        rest = &rest[begin..];
        let label = rest[BEGIN.len()..]
            .split("-----")
            .next()
            .unwrap_or_default();
        let end = format!("-----END {label}-----");
        let at = rest
            .find(&end)
            .ok_or_else(|| KeyFileError::damaged("a block has no end"))?;
        let (text, behind) = rest.split_at(at + end.len());
        rest = behind;
        blocks.push(Block { label, text });
        if blocks.len() > BLOCKS_MAX {
            return Err(KeyFileError::file(format!(
                "has more than {BLOCKS_MAX} blocks"
            )));
        }
    }
    match blocks.is_empty() {
        true => Err(neither()),
        false => Ok(blocks),
    }
}

impl Block<'_> {
    /// Reads a private key.
    fn key(&self, password: &str) -> Result<PrivateKey, KeyFileError> {
        if self.text.contains("Proc-Type:") {
            return Err(KeyFileError::file(
                "has a private key in the old encryption of OpenSSL (Proc-Type: 4,ENCRYPTED); convert it with `openssl pkcs8 -topk8 -in OLD -out NEW`".to_owned(),
            ));
        }
        match self.label {
            "PRIVATE KEY" => from_pkcs8(&self.decode()?),
            "RSA PRIVATE KEY" => from_pkcs1(&self.decode()?),
            "EC PRIVATE KEY" => from_sec1(&self.decode()?),
            "ENCRYPTED PRIVATE KEY" => decrypt(&self.decode()?, password),
            "OPENSSH PRIVATE KEY" => Err(KeyFileError::file(
                "has a key in the form of OpenSSH; convert it with `ssh-keygen -p -m PKCS8`"
                    .to_owned(),
            )),
            other => Err(unexpected(other)),
        }
    }

    /// Decodes lines of any length: not all programs keep to the 64 characters of RFC 7468.
    fn decode(&self) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        let body = self.text.split("-----").nth(2).unwrap_or_default();
        // With room for all: a text that grows leaves copies behind, which nobody wipes.
        let mut compact = Zeroizing::new(String::with_capacity(body.len()));
        for part in body.split_ascii_whitespace() {
            compact.push_str(part);
        }
        let decoded = STANDARD.decode(compact.as_bytes()).map(Zeroizing::new);
        decoded.map_err(|_| KeyFileError::damaged("a block is not base64"))
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

/// Writes a file: the private key as PKCS#8, encrypted under PBES2 with AES-256-CBC and PBKDF2 with
/// HMAC-SHA-256, then the certificates.
pub fn write_pem(
    private_key: &PrivateKey,
    certificate: &Certificate,
    chain: &[Certificate],
    password: &SecretString,
) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let failed = |_| KeyFileError::Failed("PEM");
    let (mut salt, mut iv) = ([0; SALT_LEN], [0; 16]);
    aws_lc_rs::rand::fill(&mut salt)
        .and_then(|()| aws_lc_rs::rand::fill(&mut iv))
        .map_err(|_| KeyFileError::Failed("there is no randomness"))?;
    let parameters = Parameters::generate_pbkdf2_sha256_aes256cbc(ITERATIONS, &salt, iv)
        .map_err(|_| KeyFileError::Failed("PBES2"))?;
    let info = PrivateKeyInfoRef::from_der(private_key.pkcs8()).map_err(failed)?;
    let encrypted = info
        .encrypt_with_params(parameters, password.expose_secret())
        .map_err(|_| KeyFileError::Failed("PKCS#8"))?;
    let label = "ENCRYPTED PRIVATE KEY";
    let mut pem = der::pem::encode_string(label, LineEnding::LF, encrypted.as_bytes())
        .map_err(|_| KeyFileError::Failed("PEM"))?;
    pem.push_str(&certificate.pem());
    pem.extend(chain.iter().map(Certificate::pem));
    Ok(Zeroizing::new(pem.into_bytes()))
}

fn neither() -> KeyFileError {
    KeyFileError::Unreadable(
        "fileData",
        Refusal::new("is neither PKCS#12 nor PEM, or is damaged"),
    )
}

fn unexpected(label: &str) -> KeyFileError {
    let refusal = Refusal::of(label, "is a kind of block that a key file has not");
    KeyFileError::Refused("fileData", refusal)
}

fn unsupported_encryption() -> KeyFileError {
    KeyFileError::file(
        "has a private key that is damaged, or not encrypted by PBES2; convert it with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW`".to_owned(),
    )
}

const BEGIN: &str = "-----BEGIN ";
const BLOCKS_MAX: usize = 64;
const SALT_LEN: usize = 16;
/// What the labels of all private keys end with.
const KEY: &str = "PRIVATE KEY";
