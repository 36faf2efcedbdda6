//! PEM (RFC 7468): private keys in all their labels, and certificates.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use der::Decode;
use der::pem::LineEnding;
use pkcs8::pkcs5::EncryptionScheme;
use pkcs8::pkcs5::pbes2::{Kdf, Parameters};
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::private_key::{from_pkcs1, from_pkcs8, from_sec1};
use super::{Contents, ITERATIONS, ITERATIONS_MAX, KeyFileError};
use crate::domain::{Certificate, PrivateKey, Refusal};

/// Reads all blocks of a file. Text between them is skipped: many programs write what the blocks are.
pub(super) fn read(file: &[u8], password: &str) -> Result<Contents, KeyFileError> {
    let text = std::str::from_utf8(file).map_err(|_| neither())?;
    let mut contents = Contents::default();
    let mut blocks = 0;
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
        let (block, behind) = rest.split_at(at + end.len());
        rest = behind;
        blocks += 1;
        if blocks > BLOCKS_MAX {
            return Err(KeyFileError::file(format!(
                "has more than {BLOCKS_MAX} blocks"
            )));
        }
        read_block(label, block, password, &mut contents)?;
    }
    match blocks {
        0 => Err(neither()),
        _ => Ok(contents),
    }
}

fn read_block(
    label: &str,
    block: &str,
    password: &str,
    contents: &mut Contents,
) -> Result<(), KeyFileError> {
    if block.contains("Proc-Type:") {
        return Err(KeyFileError::file(
            "has a private key in the old encryption of OpenSSL (Proc-Type: 4,ENCRYPTED); convert it with `openssl pkcs8 -topk8 -in OLD -out NEW`".to_owned(),
        ));
    }
    let decode = || {
        // Lines of any length: not all programs keep to the 64 characters of RFC 7468.
        let body = block.split("-----").nth(2).unwrap_or_default();
        let compact: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
        let decoded = STANDARD.decode(compact.as_bytes()).map(Zeroizing::new);
        decoded.map_err(|_| KeyFileError::damaged("a block is not base64"))
    };
    match label {
        "CERTIFICATE" | "X509 CERTIFICATE" => {
            let der = decode()?;
            contents.certificates.push(Certificate::from_der(&**der));
        }
        "PRIVATE KEY" => contents.keys.push(from_pkcs8(&decode()?)?),
        "RSA PRIVATE KEY" => contents.keys.push(from_pkcs1(&decode()?)?),
        "EC PRIVATE KEY" => contents.keys.push(from_sec1(&decode()?)?),
        "ENCRYPTED PRIVATE KEY" => contents.keys.push(decrypt(&decode()?, password)?),
        // What OpenSSL writes before an EC key, and what says nothing that the key does not say.
        "EC PARAMETERS" | "PUBLIC KEY" => {}
        other => {
            let mut refusal = Refusal::of(other, "is a kind of block that a key file has not");
            if other.contains("OPENSSH") {
                refusal = Refusal::new(
                    "has a key in the form of OpenSSH; convert it with `ssh-keygen -p -m PKCS8`",
                );
            }
            return Err(KeyFileError::Refused("fileData", refusal));
        }
    }
    Ok(())
}

/// Decrypts an `EncryptedPrivateKeyInfo` (RFC 5958 section 3).
fn decrypt(der: &[u8], password: &str) -> Result<PrivateKey, KeyFileError> {
    let encrypted =
        EncryptedPrivateKeyInfoRef::from_der(der).map_err(|_| unsupported_encryption())?;
    let EncryptionScheme::Pbes2(parameters) = &encrypted.encryption_algorithm else {
        return Err(unsupported_encryption());
    };
    let affordable = match &parameters.kdf {
        Kdf::Pbkdf2(pbkdf2) => pbkdf2.iteration_count <= ITERATIONS_MAX,
        Kdf::Scrypt(scrypt) => {
            let memory = 128_u64
                .checked_mul(scrypt.cost_parameter)
                .and_then(|memory| memory.checked_mul(scrypt.block_size.into()));
            memory.is_some_and(|memory| memory <= SCRYPT_MEMORY_MAX)
                && scrypt.parallelization <= SCRYPT_PARALLELIZATION_MAX
        }
        _ => false,
    };
    if !affordable {
        return Err(KeyFileError::file(format!(
            "asks for too much work to be opened: at most {ITERATIONS_MAX} iterations are done; make it anew with `openssl pkcs8 -topk8`"
        )));
    }
    if password.is_empty() {
        return Err(KeyFileError::Unreadable(
            "password",
            Refusal::new("is required: the private key is encrypted"),
        ));
    }
    let decrypted = encrypted
        .decrypt(password)
        .map_err(|_| KeyFileError::password())?;
    from_pkcs8(decrypted.as_bytes())
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

fn unsupported_encryption() -> KeyFileError {
    KeyFileError::file(
        "has a private key that is damaged, or not encrypted by PBES2; convert it with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW`".to_owned(),
    )
}

const BEGIN: &str = "-----BEGIN ";
const BLOCKS_MAX: usize = 64;
const SALT_LEN: usize = 16;
const SCRYPT_MEMORY_MAX: u64 = 256 * 1024 * 1024;
const SCRYPT_PARALLELIZATION_MAX: u16 = 16;
