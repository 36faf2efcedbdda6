//! Identifiers: of key pairs, of keys in their provider, of requests.

use std::borrow::Borrow;
use std::fmt;
use std::num::NonZeroU32;

use super::Refusal;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// The identifier of a key pair, chosen by the caller or made by the daemon.
///
/// 1 to 64 characters of `[a-z0-9._-]`, unique over both providers, the same over all rotations.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyPairId(Box<str>);

impl KeyPairId {
    /// Checks an identifier chosen by a caller.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.is_empty() || text.len() > ID_LEN_MAX {
            return Err(Refusal::new("must have 1 to 64 characters"));
        }
        if !text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
        {
            return Err(Refusal::of(
                text,
                "must consist of lower-case letters, digits, '.', '_' and '-'",
            ));
        }
        if RESERVED.contains(&text) {
            return Err(Refusal::of(text, "is reserved; choose another id"));
        }
        Ok(Self(text.into()))
    }

    /// Makes an identifier of 25 characters from 128 random bits, in base 36.
    pub fn from_random(bits: [u8; 16]) -> Self {
        let mut rest = u128::from_be_bytes(bits);
        let mut digits = [b'0'; MADE_LEN];
        for digit in digits.iter_mut().rev() {
            let value = u8::try_from(rest % 36).unwrap_or_default();
            *digit = match value {
                0..=9 => b'0' + value,
                _ => b'a' + (value - 10),
            };
            rest /= 36;
        }
        Self(digits.iter().copied().map(char::from).collect())
    }

    /// Returns the identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// So that a map of identifiers can be asked by text. Both hash and compare alike.
impl Borrow<str> for KeyPairId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyPairId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a private key is called inside its provider: the `CKA_ID` of its objects on a token.
///
/// 128 random bits, one for each generation of a key pair, or, where the key was on the token before, what it
/// is called there. Never shown to callers as an identifier.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "ByteBuf", into = "ByteBuf")]
pub struct KeyRef {
    /// Filled up with zeros.
    bytes: [u8; KeyRef::LEN_MAX],
    len: u8,
}

impl KeyRef {
    /// How long a reference may be, in bytes.
    pub const LEN_MAX: usize = 64;

    /// Makes a reference from 128 random bits.
    pub fn from_random(bits: [u8; 16]) -> Self {
        let mut bytes = [0; Self::LEN_MAX];
        bytes[..bits.len()].copy_from_slice(&bits);
        Self { bytes, len: 16 }
    }

    /// Reads a reference from bytes that may be one: 1 to 64 of them.
    pub fn from_slice(slice: &[u8]) -> Option<Self> {
        let len = u8::try_from(slice.len()).ok().filter(|len| *len > 0)?;
        let mut bytes = [0; Self::LEN_MAX];
        bytes.get_mut(..slice.len())?.copy_from_slice(slice);
        Some(Self { bytes, len })
    }

    /// Tells whether it may be one that keypaird chose. A linked key may have one of another
    /// length.
    pub fn may_be_chosen_here(&self) -> bool {
        self.len == 16
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len.into()).unwrap_or_default()
    }
}

impl From<KeyRef> for ByteBuf {
    fn from(key_ref: KeyRef) -> Self {
        Self::from(key_ref.as_bytes())
    }
}

impl TryFrom<ByteBuf> for KeyRef {
    type Error = Refusal;

    fn try_from(bytes: ByteBuf) -> Result<Self, Refusal> {
        Self::from_slice(&bytes).ok_or_else(|| Refusal::new("must have 1 to 64 bytes"))
    }
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.as_bytes().iter();
        bytes.try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRef({self})")
    }
}

/// The number of a key within its key pair: 1 for the first, one more for each rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Generation(NonZeroU32);

impl Generation {
    /// The generation that a key pair is made with.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// Returns the generation of a number; zero is none.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// Returns the number, 1 or more.
    pub const fn number(self) -> u32 {
        self.0.get()
    }

    /// Returns the one that follows.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A caller's name for one request, by which a repetition of it is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(Box<str>);

impl RequestId {
    /// Checks a name chosen by a caller.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.is_empty() || text.len() > 128 || !text.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(Refusal::new(
                "must have 1 to 128 visible ASCII characters, a UUID for example",
            ));
        }
        Ok(Self(text.into()))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const ID_LEN_MAX: usize = 64;
/// 36^25 is just above 2^128.
const MADE_LEN: usize = 25;
/// Path segments beside `{id}` in REST.
const RESERVED: [&str; 3] = ["generate", "import", "link"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_of_1_to_64_allowed_characters_are_accepted() {
        for id in ["a", "0", "a.b_c-d", &"z".repeat(64)] {
            assert_eq!(KeyPairId::parse(id).unwrap().as_str(), id);
        }
    }

    #[test]
    fn other_ids_are_refused_with_what_is_allowed() {
        for (id, message) in [
            ("", "must have 1 to 64 characters"),
            (&"z".repeat(65), "must have 1 to 64 characters"),
            (
                "Abc",
                "\"Abc\" must consist of lower-case letters, digits, '.', '_' and '-'",
            ),
            ("generate", "\"generate\" is reserved; choose another id"),
            ("import", "\"import\" is reserved; choose another id"),
            ("link", "\"link\" is reserved; choose another id"),
        ] {
            assert_eq!(KeyPairId::parse(id).unwrap_err().to_string(), message);
        }
        for id in ["a/b", "a b", "ä", "a\0", "a\n"] {
            assert!(KeyPairId::parse(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn the_smallest_and_largest_made_ids_have_25_characters() {
        assert_eq!(KeyPairId::from_random([0; 16]).as_str(), "0".repeat(25));
        assert_eq!(
            KeyPairId::from_random([0xff; 16]).as_str(),
            "f5lxx1zz5pnorynqglhzmsp33"
        );
    }

    proptest! {
        #[test]
        fn a_made_id_is_one_a_caller_could_have_chosen(bits: [u8; 16]) {
            let id = KeyPairId::from_random(bits);
            prop_assert_eq!(KeyPairId::parse(id.as_str()).unwrap(), id);
        }
    }

    #[test]
    fn request_ids_are_1_to_128_visible_characters() {
        for ok in [
            "x",
            "3f0c9a5e-0000-4000-8000-1234567890ab",
            &"r".repeat(128),
        ] {
            assert!(RequestId::parse(ok).is_ok(), "{ok:?}");
        }
        for bad in ["", "a b", "ä", &"r".repeat(129)] {
            assert!(RequestId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
