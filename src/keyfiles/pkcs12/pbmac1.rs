//! The MAC of PKCS#12 by PBMAC1 (RFC 9579): HMAC under a key that PBKDF2 derives, from the password
//! as it is.

use std::num::NonZeroU32;

use aws_lc_rs::{hmac, pbkdf2};
use zeroize::Zeroizing;

use crate::domain::ber::{Element, Elements, INTEGER, OBJECT_IDENTIFIER, SEQUENCE};

/// `PBMAC1-params` (RFC 8018 appendix A.5).
pub(super) struct Pbmac1 {
    salt: Vec<u8>,
    pub(super) iterations: NonZeroU32,
    key_len: usize,
    prf: pbkdf2::Algorithm,
    mac: hmac::Algorithm,
}

impl Pbmac1 {
    /// Reads the parameters. None when they name what is not read.
    pub(super) fn read(parameters: Element<'_>) -> Option<Self> {
        let mut parts = parameters.parts();
        let mut derivation = parts.take(SEQUENCE)?.parts();
        if derivation.take(OBJECT_IDENTIFIER)?.contents != PBKDF2 {
            return None;
        }
        let mut derivation = derivation.take(SEQUENCE)?.parts();
        let salt = derivation.take_octets()?.into_owned();
        let iterations = NonZeroU32::new(derivation.take(INTEGER)?.number()?)?;
        // RFC 9579 requires the length of the key.
        let key_len = usize::try_from(derivation.take(INTEGER)?.number()?).ok()?;
        let (prf, _) = hash_of(match derivation.is_empty() {
            true => HMAC_WITH_SHA_1,
            false => algorithm(&mut derivation)?,
        })?;
        let (_, mac) = hash_of(algorithm(&mut parts)?)?;
        (KEY_LEN_MIN..=KEY_LEN_MAX)
            .contains(&key_len)
            .then_some(Self {
                salt,
                iterations,
                key_len,
                prf,
                mac,
            })
    }

    /// Tells whether a MAC is right.
    pub(super) fn is_mac(&self, mac: &[u8], data: &[u8], password: &str) -> bool {
        let mut key = Zeroizing::new(vec![0; self.key_len]);
        let password = password.as_bytes();
        pbkdf2::derive(self.prf, self.iterations, &self.salt, password, &mut key);
        hmac::verify(&hmac::Key::new(self.mac, &key), data, mac).is_ok()
    }
}

fn algorithm<'a>(parts: &mut Elements<'a>) -> Option<&'a [u8]> {
    let mut algorithm = parts.take(SEQUENCE)?.parts();
    Some(algorithm.take(OBJECT_IDENTIFIER)?.contents)
}

fn hash_of(hmac_with: &[u8]) -> Option<(pbkdf2::Algorithm, hmac::Algorithm)> {
    Some(match hmac_with.strip_prefix(DIGEST_ALGORITHM)? {
        [7] => (
            pbkdf2::PBKDF2_HMAC_SHA1,
            hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        ),
        [9] => (pbkdf2::PBKDF2_HMAC_SHA256, hmac::HMAC_SHA256),
        [10] => (pbkdf2::PBKDF2_HMAC_SHA384, hmac::HMAC_SHA384),
        [11] => (pbkdf2::PBKDF2_HMAC_SHA512, hmac::HMAC_SHA512),
        _ => return None,
    })
}

/// The object identifier of PBMAC1 (RFC 8018 appendix A.5), in DER.
pub(super) const PBMAC1: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0e";
const PBKDF2: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0c";
/// What the object identifiers of RFC 8018 appendix B.1 begin with.
const DIGEST_ALGORITHM: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x02";
const HMAC_WITH_SHA_1: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x02\x07";
/// RFC 9579 asks for 20 bytes at least. More than the longest hash would be derived in several
/// turns, which are work that nothing needs.
const KEY_LEN_MIN: usize = 20;
const KEY_LEN_MAX: usize = 64;
