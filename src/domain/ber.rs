//! BER (ITU-T X.690), as far as files of keys and certificates need it: DER, and what some programs write in its place,
//! contents whose length is told by their end, and strings in pieces. Firefox and Bouncy Castle do so in PKCS#12, and CAs in
//! PKCS#7.

use std::borrow::Cow;

/// A tag with what it stands before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'a> {
    /// The first byte: of class, form and number.
    pub(crate) tag: u8,
    /// What is in it.
    pub(crate) contents: &'a [u8],
    /// All of it, from the tag on.
    pub(crate) whole: &'a [u8],
}

impl<'a> Element<'a> {
    /// Reads the elements that it consists of.
    pub(crate) const fn parts(self) -> Elements<'a> {
        Elements(self.contents)
    }

    /// Returns what a string of bytes has in it, put together from its pieces.
    pub(crate) fn octets(self) -> Option<Cow<'a, [u8]>> {
        self.octets_at(0)
    }

    fn octets_at(self, depth: usize) -> Option<Cow<'a, [u8]>> {
        if self.tag & CONSTRUCTED == 0 {
            return Some(Cow::Borrowed(self.contents));
        }
        if depth > DEPTH_MAX {
            return None;
        }
        let mut whole = Vec::new();
        let mut pieces = self.parts();
        while !pieces.is_empty() {
            let piece = pieces.next()?;
            if piece.tag & !CONSTRUCTED != OCTET_STRING {
                return None;
            }
            whole.extend_from_slice(&piece.octets_at(depth + 1)?);
        }
        Some(Cow::Owned(whole))
    }

    /// Returns a number of up to 32 bits that is not negative.
    pub(crate) fn number(self) -> Option<u32> {
        let digits = match self.contents {
            [0, digits @ ..] => digits,
            [first, ..] if *first < 0x80 => self.contents,
            _ => return None,
        };
        let mut bytes = [0; 4];
        bytes
            .get_mut(4_usize.checked_sub(digits.len())?..)?
            .copy_from_slice(digits);
        Some(u32::from_be_bytes(bytes))
    }
}

/// Elements that follow each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    /// Reads the elements of a file.
    pub(crate) const fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Tells whether none is left.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the next one; none when there is no whole one.
    pub(crate) fn next(&mut self) -> Option<Element<'a>> {
        let (element, rest) = split(self.0, 0)?;
        self.0 = rest;
        Some(element)
    }

    /// Returns the next one if it has this tag.
    pub(crate) fn take(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }

    /// Returns the bytes of the next one if that is a string of them.
    pub(crate) fn take_octets(&mut self) -> Option<Cow<'a, [u8]>> {
        let element = self.next()?;
        match element.tag & !CONSTRUCTED == OCTET_STRING {
            true => element.octets(),
            false => None,
        }
    }
}

/// Splits the first element off.
fn split(bytes: &[u8], depth: usize) -> Option<(Element<'_>, &[u8])> {
    let [tag, length, rest @ ..] = bytes else {
        return None;
    };
    // Numbers beyond 30 take more bytes, and are nowhere in these files.
    if tag & 0x1f == 0x1f || depth > DEPTH_MAX {
        return None;
    }
    let (contents, rest) = match *length {
        length @ ..0x80 => rest.split_at_checked(length.into())?,
        0x80 if tag & CONSTRUCTED != 0 => {
            let mut left = rest;
            while !left.starts_with(&END) {
                (_, left) = split(left, depth + 1)?;
            }
            let contents = &rest[..rest.len() - left.len()];
            (contents, &left[END.len()..])
        }
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            let length = digits
                .iter()
                .fold(0, |length, digit| length << 8 | usize::from(*digit));
            rest.split_at_checked(length)?
        }
        _ => return None,
    };
    let whole = &bytes[..bytes.len() - rest.len()];
    let element = Element {
        tag: *tag,
        contents,
        whole,
    };
    Some((element, rest))
}

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;
/// The tag 0 of a context, around another element.
pub(crate) const CONTEXT_0: u8 = 0xa0;
const CONSTRUCTED: u8 = 0x20;
/// What ends contents whose length is not told before them.
const END: [u8; 2] = [0, 0];
/// Far more than such files have.
const DEPTH_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn first(bytes: &[u8]) -> Option<Element<'_>> {
        Elements::of(bytes).next()
    }

    #[test]
    fn lengths_are_told_before_or_by_an_end() {
        for bytes in [
            &b"\x30\x03\x02\x01\x07"[..],
            b"\x30\x81\x03\x02\x01\x07",
            b"\x30\x84\x00\x00\x00\x03\x02\x01\x07",
            b"\x30\x80\x02\x01\x07\x00\x00",
        ] {
            let element = first(bytes).unwrap();
            assert_eq!(element.whole, bytes);
            assert_eq!(element.contents, b"\x02\x01\x07");
            let number = element.parts().take(INTEGER).unwrap();
            assert_eq!(number.number(), Some(7));
        }
        for bytes in [
            &b""[..],
            b"\x30",
            b"\x30\x01",
            b"\x30\x85\x00\x00\x00\x00\x00",
            b"\x30\x80\x02\x01\x07",
            b"\x04\x80\x00\x00",
            b"\x3f\x20\x00",
        ] {
            assert!(first(bytes).is_none(), "{bytes:?}");
        }
        assert!(first(&[0x30, 0x80].repeat(100_000)).is_none());
    }

    #[test]
    fn strings_in_pieces_are_put_together() {
        let octets = |bytes| Elements::of(bytes).take_octets().map(Cow::into_owned);
        let wanted = Some(b"abc".to_vec());
        assert_eq!(octets(b"\x04\x03abc"), wanted);
        assert_eq!(octets(b"\x24\x07\x04\x01a\x04\x02bc"), wanted);
        assert_eq!(
            octets(b"\x24\x80\x24\x80\x04\x01a\x00\x00\x04\x02bc\x00\x00"),
            wanted
        );
        assert_eq!(octets(b"\x24\x03\x02\x01\x07"), None);
        assert_eq!(octets(b"\x02\x01\x07"), None);
    }

    #[test]
    fn numbers_have_up_to_32_bits() {
        for (bytes, number) in [
            (&b"\x02\x01\x00"[..], Some(0)),
            (b"\x02\x02\x00\xff", Some(255)),
            (b"\x02\x05\x00\xff\xff\xff\xff", Some(u32::MAX)),
            (b"\x02\x05\x01\x00\x00\x00\x00", None),
            (b"\x02\x01\xff", None),
            (b"\x02\x00", None),
        ] {
            assert_eq!(first(bytes).unwrap().number(), number, "{bytes:?}");
        }
    }
}
