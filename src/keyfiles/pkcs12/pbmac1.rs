//! The MAC of PKCS#12 by PBMAC1 (RFC 9579): HMAC under a key that PBKDF2 derives, from the password
//! as it is.

use std::num::NonZeroU32;

use aws_lc_rs::{hmac, pbkdf2};
use zeroize::Zeroizing;

use crate::domain::ber::{Element, Elements, INTEGER, OBJECT_IDENTIFIER, SEQUENCE};
use crate::keyfiles::KeyFileError;
use crate::keyfiles::encryption::Work;

/// `PBMAC1-params` (RFC 8018 appendix A.5).
pub(super) struct Pbmac1 {
    salt: Vec<u8>,
    iterations: NonZeroU32,
    key_len: usize,
    /// How many bytes of the key come of all the iterations.
    block_len: usize,
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
        let (prf, prf_hmac) = hash_of(match derivation.is_empty() {
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
                block_len: prf_hmac.digest_algorithm().output_len(),
                prf,
                mac,
            })
    }

    /// Takes what the derivation of the key needs.
    pub(super) fn take(&self, work: &mut Work) -> Result<(), KeyFileError> {
        let blocks = self.key_len.div_ceil(self.block_len);
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        work.take_blocks(self.iterations.get(), blocks)
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
/// RFC 9579 asks for 20 bytes at least. No key is longer than the longest hash.
const KEY_LEN_MIN: usize = 20;
const KEY_LEN_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn tagged(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let contents = parts.concat();
        let len = u8::try_from(contents.len()).unwrap();
        assert!(len < 128);
        [&[tag, len], &*contents].concat()
    }

    #[test]
    fn a_key_of_several_blocks_is_counted_block_by_block() {
        let hmac = |number: u8| {
            let name = tagged(6, &[DIGEST_ALGORITHM, &[number]]);
            tagged(SEQUENCE, &[&name])
        };
        // A million iterations, of three that a file may ask for.
        let iterations = tagged(INTEGER, &[&[0x0f, 0x42, 0x40]]);
        for (row, hash, key_len, derivations) in [
            ("SHA-1, a whole block", 7, 20, 3),
            ("SHA-1, a byte more", 7, 21, 1),
            ("SHA-1, the longest", 7, 64, 0),
            ("SHA-256, a whole block", 9, 32, 3),
            ("SHA-256, the longest", 9, 64, 1),
            ("SHA-512, the longest", 11, 64, 3),
        ] {
            let salt = tagged(4, &[b"salt"]);
            let key_len = tagged(INTEGER, &[&[key_len]]);
            let pbkdf2 = tagged(SEQUENCE, &[&salt, &iterations, &key_len, &hmac(hash)]);
            let name = tagged(6, &[PBKDF2]);
            let derivation = tagged(SEQUENCE, &[&name, &pbkdf2]);
            let parameters = tagged(SEQUENCE, &[&derivation, &hmac(9)]);
            let mut elements = Elements::of(&parameters);
            let pbmac1 = Pbmac1::read(elements.next().unwrap()).unwrap();
            let mut work = Work::of_a_file();
            let done = (0..9).take_while(|_| pbmac1.take(&mut work).is_ok());
            assert_eq!(done.count(), derivations, "{row}");
        }
    }
}
