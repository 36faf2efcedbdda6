//! Files of keys and certificates as programs, editors and people leave them: DER, PEM (RFC 7468)
//! in any encoding of text, and base64 that has lost its armour.
//!
//! The one reader for key files, for the answers of CAs and for PKCS#7. It tells the parts of a
//! file; what each of them is, [`super::contents`] tells. Reads a file once from its beginning to
//! its end, so that the work is bounded by its length.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::ber::{Elements, SEQUENCE};

/// A part of a file: a block of PEM, or the whole of DER.
pub(crate) struct Part {
    /// The label of the block; empty where there is no armour.
    pub(crate) label: String,
    /// Whether the block has the headers of an encryption of its own (RFC 1421).
    pub(crate) is_encrypted: bool,
    /// What is in it; none when that is not base64.
    pub(crate) bytes: Option<Zeroizing<Vec<u8>>>,
}

/// Why a file has no parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PemError {
    /// It begins like DER, and is not one whole value.
    #[error("it is not one whole value in DER")]
    NotWhole,
    /// It is text without PEM and base64, or something else altogether.
    #[error("it is neither DER, PEM nor base64")]
    Neither,
    /// A block begins and does not end before the next one.
    #[error("a block has no end")]
    NoEnd,
    /// It has more blocks than [`BLOCKS_MAX`].
    #[error("it has too many blocks")]
    TooManyBlocks,
}

/// Reads the parts of a file. One in DER has one part, whose label is empty.
pub(crate) fn parts(file: &[u8]) -> Result<Vec<Part>, PemError> {
    parts_within(file, 0)
}

fn parts_within(file: &[u8], depth: usize) -> Result<Vec<Part>, PemError> {
    if is_one_value(file) {
        return Ok(vec![Part {
            label: String::new(),
            is_encrypted: false,
            bytes: Some(Zeroizing::new(file.to_vec())),
        }]);
    }
    let text = text_of(file);
    let blocks = blocks(&text)?;
    if !blocks.is_empty() {
        return Ok(blocks);
    }
    let neither = match file.first() {
        Some(0x30) => PemError::NotWhole,
        _ => PemError::Neither,
    };
    let inner = decode(&text, true).filter(|inner| depth < DEPTH_MAX && !inner.is_empty());
    inner.map_or(Err(neither), |inner| parts_within(&inner, depth + 1))
}

/// Tells whether bytes are one SEQUENCE from the first to the last: text may begin with its tag,
/// which is the digit 0.
fn is_one_value(bytes: &[u8]) -> bool {
    let mut elements = Elements::of(bytes);
    elements.take(SEQUENCE).is_some() && elements.is_empty()
}

/// Reads text in UTF-8, UTF-16 of either order, or Latin-1.
///
/// What matters in it is ASCII, which is the same in all of them but for the zero bytes of UTF-16.
/// So these are dropped, which also reads files that have been put together from several encodings.
/// So are the bytes of a byte order mark, which UTF-8 never has. Of escaped text the escapes are
/// undone.
fn text_of(file: &[u8]) -> Zeroizing<String> {
    // With room for all: a text that grows leaves copies behind, which are not wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(file.len()));
    let is_text = |byte: &u8| !matches!(*byte, 0 | 0xfe | 0xff);
    bytes.extend(file.iter().copied().filter(is_text));
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    match std::str::from_utf8(&bytes) {
        Ok(utf8) => push_without_escapes(&mut text, utf8.chars()),
        Err(_) => push_without_escapes(&mut text, bytes.iter().map(|byte| char::from(*byte))),
    }
    text
}

/// Undoes what JSON, C and shells put before characters: line ends as `\n`, the slash as `\/`, plus
/// as `\u002b`. Base64 and armour have no backslash of their own.
fn push_without_escapes(text: &mut String, chars: impl Iterator<Item = char>) {
    let mut chars = chars.peekable();
    while let Some(character) = chars.next() {
        if character != '\\' {
            text.push(character);
            continue;
        }
        while chars.next_if_eq(&'\\').is_some() {}
        if chars
            .next_if(|next| matches!(next, 'n' | 'r' | 't'))
            .is_some()
        {
            text.push('\n');
        } else if chars.next_if_eq(&'u').is_some() {
            let mut code = 0;
            for _ in 0..4 {
                let digit = chars.next_if(char::is_ascii_hexdigit);
                code = 16 * code + digit.and_then(|digit| digit.to_digit(16)).unwrap_or(0);
            }
            // No escape is longer than the character in UTF-8, so that there is room.
            text.push(char::from_u32(code).unwrap_or(' '));
        }
    }
}

/// Reads the blocks of a text, whatever stands before, between and behind them.
fn blocks(text: &str) -> Result<Vec<Part>, PemError> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(begin) = Armour::find(rest, "BEGIN") {
        let body = begin.behind.trim_start_matches('-');
        let end = Armour::find(body, "END").ok_or(PemError::NoEnd)?;
        // The label at the end may be another one: it says nothing more.
        if Armour::find(end.before, "BEGIN").is_some() {
            return Err(PemError::NoEnd);
        }
        let (headers, data) = split_headers(end.before);
        blocks.push(Part {
            label: begin.label,
            is_encrypted: headers.contains("ENCRYPTED") || headers.contains("DEK-Info"),
            bytes: decode(data, false),
        });
        if blocks.len() > BLOCKS_MAX {
            return Err(PemError::TooManyBlocks);
        }
        rest = end.behind;
    }
    Ok(blocks)
}

/// A line that begins or ends a block, in a text.
struct Armour<'a> {
    before: &'a str,
    label: String,
    behind: &'a str,
}

impl<'a> Armour<'a> {
    /// Finds the first one with a word in it: dashes, the word, a label, dashes.
    fn find(text: &'a str, word: &str) -> Option<Self> {
        text.match_indices(word).find_map(|(at, _)| {
            let before = text[..at].trim_end_matches([' ', '\t']);
            let behind = &text[at + word.len()..];
            if !before.ends_with("--") || !behind.starts_with(char::is_whitespace) {
                return None;
            }
            let near = behind.char_indices().nth(LABEL_LEN_MAX);
            let near = near.map_or(behind, |(at, _)| &behind[..at]);
            let (label, _) = near.split_once("--")?;
            let words: Vec<_> = label.split_whitespace().collect();
            Some(Self {
                before: before.trim_end_matches('-'),
                label: words.join(" "),
                // With its dashes, which may be those of the next one too.
                behind: &behind[label.len()..],
            })
        })
    }
}

/// Splits what stands before the base64 of a block off: lines with a colon and those that continue
/// them, up to an empty one (RFC 1421).
fn split_headers(body: &str) -> (&str, &str) {
    let mut data = 0;
    let mut seen = false;
    for line in body.split_inclusive(['\n', '\r']) {
        let is_blank = line.trim().is_empty();
        let is_header = line.contains(':') || seen && line.starts_with([' ', '\t']) && !is_blank;
        if !is_blank && !is_header {
            break;
        }
        seen |= is_header;
        data += line.len();
    }
    match seen {
        true => body.split_at(data),
        false => ("", body),
    }
}

/// Decodes base64 in any dress: lines of any length, blanks, quotes, with padding or without. The
/// other alphabet, whose dash is that of the armour, where there is none.
fn decode(text: &str, either_alphabet: bool) -> Option<Zeroizing<Vec<u8>>> {
    let mut compact = Zeroizing::new(String::with_capacity(text.len()));
    for character in text.chars() {
        match character {
            '-' if either_alphabet => compact.push('+'),
            '_' if either_alphabet => compact.push('/'),
            '+' | '/' | '=' => compact.push(character),
            _ if character.is_ascii_alphanumeric() => compact.push(character),
            // Quotation marks of strings and of mail, and the marks of byte order and of places to
            // break a line.
            '"' | '\'' | ',' | '>' | '\u{feff}' | '\u{200b}'..='\u{200d}' | '\u{2060}' => {}
            _ if character.is_whitespace() => {}
            _ => return None,
        }
    }
    let decoded = BASE64.decode(compact.trim_end_matches('='));
    decoded.ok().map(Zeroizing::new)
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// How many blocks a file may have: more than the certificates that it may have.
pub(crate) const BLOCKS_MAX: usize = 64;
const LABEL_LEN_MAX: usize = 64;
/// How often base64 may be in base64: as in a secret of Kubernetes in a field of JSON.
const DEPTH_MAX: usize = 2;

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD as PADDED, URL_SAFE_NO_PAD};

    use super::*;

    /// A value in DER of so many bytes that its base64 is padded.
    const DER: &[u8] = b"\x30\x0e\x04\x0c\xfb\xef\xbe\xff\xff\xff-BEGIN";

    fn pem(label: &str) -> String {
        let body = PADDED.encode(DER);
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    }

    /// A label, and what is in the block.
    type Found = (String, Option<Vec<u8>>);

    fn found(file: &[u8]) -> Result<Vec<Found>, PemError> {
        let parts = parts(file)?.into_iter();
        Ok(parts
            .map(|part| (part.label, part.bytes.map(|bytes| bytes.to_vec())))
            .collect())
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn a_block_is_read_in_every_dress() {
        let plain = pem("X");
        let body = PADDED.encode(DER);
        let unpadded = body.trim_end_matches('=');
        let bom = format!("\u{feff}{plain}");
        for (dress, file) in [
            ("plain", plain.clone().into_bytes()),
            ("byte order mark", bom.clone().into_bytes()),
            ("UTF-16, little end first", utf16(&bom, u16::to_le_bytes)),
            ("UTF-16, big end first", utf16(&bom, u16::to_be_bytes)),
            ("UTF-16 without a mark", utf16(&plain, u16::to_le_bytes)),
            (
                "UTF-16, big, without a mark",
                utf16(&plain, u16::to_be_bytes),
            ),
            (
                "an ASCII file to which UTF-16 was added",
                [b"# key\n".to_vec(), utf16(&bom, u16::to_le_bytes)].concat(),
            ),
            (
                "Latin-1 before",
                [b"M\xfcller\n", plain.as_bytes()].concat(),
            ),
            ("UTF-8 before", format!("Müller 東京\n{plain}").into_bytes()),
            (
                "digit 0 before",
                format!("0 s:CN = a\n{plain}").into_bytes(),
            ),
            ("CRLF", plain.replace('\n', "\r\n").into_bytes()),
            ("CR", plain.replace('\n', "\r").into_bytes()),
            ("escaped line ends", plain.replace('\n', "\\n").into_bytes()),
            ("escaped CRLF", plain.replace('\n', "\\r\\n").into_bytes()),
            ("escaped twice", plain.replace('\n', "\\\\n").into_bytes()),
            ("escaped slashes", plain.replace('/', "\\/").into_bytes()),
            ("escaped plus", plain.replace('+', "\\u002B").into_bytes()),
            ("one line", plain.replace('\n', "").into_bytes()),
            (
                "one line with blanks",
                plain.replace('\n', " ").into_bytes(),
            ),
            ("indented", plain.replace('\n', "\n    ").into_bytes()),
            ("blank lines", plain.replace('\n', "\n\n").into_bytes()),
            (
                "one character a line",
                plain.replace(&body, &body.replace("", "\n")).into_bytes(),
            ),
            (
                "quoted lines",
                plain.replace('\n', "\\n\"\n\"").into_bytes(),
            ),
            ("a quoted mail", plain.replace('\n', "\n> ").into_bytes()),
            ("no padding", plain.replace(&body, unpadded).into_bytes()),
            (
                "blanks that do not break",
                plain
                    .replace(&body, &body.replace("BE", "B\u{a0}E"))
                    .into_bytes(),
            ),
            (
                "headers",
                plain
                    .replacen('\n', "\nComment: a key\n of mine\n\n", 1)
                    .into_bytes(),
            ),
            (
                "another label at its end",
                plain.replace("END X", "END Y").into_bytes(),
            ),
            ("four dashes", plain.replace("-----", "---- ").into_bytes()),
            ("text behind", format!("{plain}-----\n--BEGIN").into_bytes()),
        ] {
            let expected = vec![("X".to_owned(), Some(DER.to_vec()))];
            assert_eq!(found(&file), Ok(expected), "{dress}");
        }
    }

    #[test]
    fn der_and_base64_without_armour_are_one_part() {
        let twice = PADDED.encode(PADDED.encode(DER));
        for (dress, file) in [
            ("DER", DER.to_vec()),
            ("base64", PADDED.encode(DER).into_bytes()),
            ("base64 for URLs", URL_SAFE_NO_PAD.encode(DER).into_bytes()),
            (
                "base64 in UTF-16",
                utf16(&PADDED.encode(DER), u16::to_le_bytes),
            ),
            (
                "base64 in UTF-16 with a mark",
                utf16(&format!("\u{feff}{}", PADDED.encode(DER)), u16::to_le_bytes),
            ),
            (
                "base64 in UTF-16 with a mark, big end first",
                utf16(&format!("\u{feff}{}", PADDED.encode(DER)), u16::to_be_bytes),
            ),
            ("base64 of base64", twice.into_bytes()),
        ] {
            let expected = vec![(String::new(), Some(DER.to_vec()))];
            assert_eq!(found(&file), Ok(expected), "{dress}");
        }
        let two = pem("X") + &pem("Y");
        for file in [PADDED.encode(&two), two.replace('\n', ""), two] {
            let parts = found(file.as_bytes()).unwrap();
            let labels: Vec<_> = parts.iter().map(|(label, _)| &**label).collect();
            assert_eq!(labels, ["X", "Y"]);
        }
    }

    #[test]
    fn what_has_no_parts_says_why() {
        let mut longer = DER.to_vec();
        longer.push(0);
        let deep = (0..4).fold(DER.to_vec(), |inner, _| PADDED.encode(inner).into_bytes());
        for (file, expected) in [
            (&b""[..], PemError::Neither),
            (b"hello, world", PemError::Neither),
            (b"-----BEGIN", PemError::Neither),
            (&DER[..9], PemError::NotWhole),
            (&longer, PemError::NotWhole),
            (b"-----BEGIN X-----\nAAAA", PemError::NoEnd),
            (
                b"-----BEGIN X-----\nAAAA\n-----BEGIN Y-----\nAAAA\n-----END Y-----",
                PemError::NoEnd,
            ),
            (pem("X").repeat(65).as_bytes(), PemError::TooManyBlocks),
            (&deep, PemError::Neither),
        ] {
            assert_eq!(found(file), Err(expected));
        }
        let broken = b"-----BEGIN X-----\nA?AA\n-----END X-----";
        assert_eq!(found(broken), Ok(vec![("X".into(), None)]));
        let encrypted = "-----BEGIN X-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END X-----";
        assert!(parts(encrypted.as_bytes()).unwrap()[0].is_encrypted);
    }

    #[test]
    fn the_work_grows_with_the_length_alone() {
        for piece in [
            "-----BEGIN X",
            "--BEGIN X--\n",
            "-----END ",
            "BEGIN ",
            "\\",
            "-",
            "\\u",
            " ",
            "\u{feff}",
        ] {
            let file = piece.repeat(256 * 1024 / piece.len());
            let begun = std::time::Instant::now();
            let _ = parts(file.as_bytes());
            assert!(begun.elapsed().as_secs() < 2, "{piece:?}");
        }
    }
}
