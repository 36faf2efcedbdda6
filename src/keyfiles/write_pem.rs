//! Writes PEM (RFC 7468).

use der::Decode;
use der::pem::LineEnding;
use pkcs8::PrivateKeyInfoRef;
use pkcs8::pkcs5::pbes2::Parameters;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{ITERATIONS, KeyFileError};
use crate::domain::{Certificate, PrivateKey};

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

const SALT_LEN: usize = 16;
