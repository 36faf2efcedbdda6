//! The key derivation of PKCS#12 itself (RFC 7292 appendices B and C): of its MAC, and of what programs encrypted with
//! before PBES2.

use std::cell::Cell;

use aws_lc_rs::{digest, hmac};
use cbc::Decryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt, KeyInit, KeyIvInit};
use des::{TdesEde2, TdesEde3};
use rc2::Rc2;
use zeroize::Zeroizing;

/// A password, in the forms that the keys of a file are derived from.
pub(super) struct Password<'a> {
    /// As it was given.
    pub(super) text: &'a str,
    /// A `BMPString` with a zero behind it (appendix B.1).
    bmp: Zeroizing<Vec<u8>>,
    /// Whether the MAC was made without even the zero at the end of the empty password.
    is_none: Cell<bool>,
}

/// One form of a password, in bytes.
#[derive(Clone, Copy)]
pub(super) struct PasswordForm<'a>(&'a [u8]);

impl<'a> Password<'a> {
    /// Makes the form of PKCS#12 itself: once for a file, which may have many keys.
    pub(super) fn new(text: &'a str) -> Self {
        // With room for all: a buffer that grows leaves copies behind, which nobody wipes.
        let mut bmp = Zeroizing::new(Vec::<u8>::with_capacity(2 * text.len() + 2));
        for unit in text.encode_utf16().chain([0]) {
            bmp.extend_from_slice(&unit.to_be_bytes());
        }
        Self {
            text,
            bmp,
            is_none: Cell::new(false),
        }
    }

    /// Returns the forms to be tried in turn. Where there is no password, some programs derive keys
    /// from the zero at the end of the empty one, and others from no bytes at all. The one that the
    /// MAC was made with comes first, so that the other one is seldom work.
    pub(super) fn forms(&self) -> impl Iterator<Item = PasswordForm<'_>> {
        let (empty, none) = (PasswordForm(&self.bmp), PasswordForm(&[]));
        let (first, second) = match self.is_none.get() {
            true => (none, empty),
            false => (empty, none),
        };
        std::iter::once(first).chain(self.text.is_empty().then_some(second))
    }

    /// Notes the form that a MAC was made with.
    pub(super) fn prefer(&self, form: PasswordForm<'_>) {
        self.is_none.set(form.0.is_empty());
    }
}

/// Tells whether a MAC is right. None when its hash is one that is not read.
pub(super) fn is_mac(
    hash: &[u8],
    mac: &[u8],
    data: &[u8],
    password: PasswordForm<'_>,
    salt: &[u8],
    iterations: u32,
) -> Option<bool> {
    let (algorithm, hash) = match hash {
        SHA_1 => (
            hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            &digest::SHA1_FOR_LEGACY_USE_ONLY,
        ),
        SHA_224 => (hmac::HMAC_SHA224, &digest::SHA224),
        SHA_256 => (hmac::HMAC_SHA256, &digest::SHA256),
        SHA_384 => (hmac::HMAC_SHA384, &digest::SHA384),
        SHA_512 => (hmac::HMAC_SHA512, &digest::SHA512),
        _ => return None,
    };
    let key = derive(hash, password, salt, FOR_MAC, iterations, hash.output_len());
    let key = hmac::Key::new(algorithm, &key);
    Some(hmac::verify(&key, data, mac).is_ok())
}

/// Derives a key from a password (appendix B.2), for a purpose, which is the ID of appendix B.3.
fn derive(
    hash: &'static digest::Algorithm,
    PasswordForm(password): PasswordForm<'_>,
    salt: &[u8],
    purpose: u8,
    iterations: u32,
    length: usize,
) -> Zeroizing<Vec<u8>> {
    let block = hash.block_len();
    let filled = |part: &[u8]| block * part.len().div_ceil(block);
    // With room for all, both: see above.
    let room = block + filled(salt) + filled(password);
    let mut input = Zeroizing::new(Vec::<u8>::with_capacity(room));
    input.resize(block, purpose);
    for part in [salt, password] {
        input.extend(part.iter().cycle().take(filled(part)));
    }
    let mut derived = Zeroizing::new(Vec::<u8>::with_capacity(length + hash.output_len()));
    loop {
        let mut hashed = digest::digest(hash, &input);
        for _ in 1..iterations {
            hashed = digest::digest(hash, hashed.as_ref());
        }
        derived.extend_from_slice(hashed.as_ref());
        if derived.len() >= length {
            derived.truncate(length);
            return derived;
        }
        // The next input: this one plus the hash plus one, block by block.
        let addend: Vec<u8> = hashed
            .as_ref()
            .iter()
            .copied()
            .cycle()
            .take(block)
            .collect();
        for block in input.chunks_exact_mut(block).skip(1) {
            let mut carry = 1;
            for (byte, addend) in block.iter_mut().zip(&addend).rev() {
                let sum = u16::from(*byte) + u16::from(*addend) + u16::from(carry);
                [carry, *byte] = sum.to_be_bytes();
            }
        }
    }
}

/// A cipher of appendix C.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cipher {
    TripleDes3,
    TripleDes2,
    Rc2Of128Bits,
    Rc2Of40Bits,
}

impl Cipher {
    /// Finds a cipher by its object identifier.
    pub(super) fn of(oid: &[u8]) -> Option<Self> {
        // RC4, the first two, is not read.
        Some(match oid.strip_prefix(PBES1)? {
            [3] => Self::TripleDes3,
            [4] => Self::TripleDes2,
            [5] => Self::Rc2Of128Bits,
            [6] => Self::Rc2Of40Bits,
            _ => return None,
        })
    }

    /// Decrypts. None when the password is another one.
    pub(super) fn decrypt(
        self,
        data: &[u8],
        password: PasswordForm<'_>,
        salt: &[u8],
        iterations: u32,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let derive = |purpose, length| {
            let hash = &digest::SHA1_FOR_LEGACY_USE_ONLY;
            derive(hash, password, salt, purpose, iterations, length)
        };
        let length = match self {
            Self::TripleDes3 => 24,
            Self::TripleDes2 | Self::Rc2Of128Bits => 16,
            Self::Rc2Of40Bits => 5,
        };
        let (key, iv) = (derive(FOR_KEY, length), derive(FOR_IV, 8));
        match self {
            Self::TripleDes3 => decrypt::<TdesEde3>(&key, &iv, data),
            Self::TripleDes2 => decrypt::<TdesEde2>(&key, &iv, data),
            Self::Rc2Of128Bits | Self::Rc2Of40Bits => decrypt::<Rc2>(&key, &iv, data),
        }
    }
}

fn decrypt<T: KeyInit + BlockCipherDecrypt>(
    key: &[u8],
    iv: &[u8],
    data: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let cipher = Decryptor::<T>::new_from_slices(key, iv).ok()?;
    cipher
        .decrypt_padded_vec::<Pkcs7>(data)
        .ok()
        .map(Zeroizing::new)
}

const FOR_KEY: u8 = 1;
const FOR_IV: u8 = 2;
const FOR_MAC: u8 = 3;
/// What the object identifiers of appendix C begin with, in DER.
const PBES1: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01";
/// The hashes' object identifiers (FIPS 180-4) in DER.
const SHA_1: &[u8] = b"\x2b\x0e\x03\x02\x1a";
const SHA_224: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x02\x04";
const SHA_256: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x02\x01";
const SHA_384: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x02\x02";
const SHA_512: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x02\x03";
