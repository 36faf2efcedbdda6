//! Text of others on a terminal, in a log and in a page: what would steer the terminal, or change
//! how the text around it is read, is escaped.
//!
//! A certificate that was imported may have anything in its names, and what answers a client may
//! not be keypaird at all. So daemon and client both need this, and it names no other room.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Returns a text in which every character that [`is_unprintable`] is escaped, as `\u{202e}`.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        push(&mut shown, character);
    }
    shown
}

/// Returns a text of a caller as it stands in a log line or in an answer: printable, and of at most
/// 256 bytes. Where something is left out at its end, there is a mark.
pub fn excerpt(text: &str) -> Cow<'_, str> {
    // As nearly all of them are.
    if text.len() <= EXCERPT_BYTES_MAX && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(EXCERPT_BYTES_MAX);
    // Where it ends if it has to be cut.
    let mut end = 0;
    for character in text.chars() {
        push(&mut shown, character);
        if shown.len() <= EXCERPT_BYTES_MAX - CUT.len() {
            end = shown.len();
        } else if shown.len() > EXCERPT_BYTES_MAX {
            shown.truncate(end);
            shown.push_str(CUT);
            break;
        }
    }
    Cow::Owned(shown)
}

/// Adds a character, escaped when it [`is_unprintable`].
fn push(shown: &mut String, character: char) {
    match is_unprintable(character) {
        true => shown.extend(character.escape_unicode()),
        false => shown.push(character),
    }
}

/// Returns a JSON text in which the same characters are escaped as JSON does: a terminal obeys
/// those that JSON leaves as they are, such as C1, and a program reads the same text. Line ends are
/// of the text itself; within strings they are escaped.
pub fn printable_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character != '\n' && is_unprintable(character) {
            true => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // Writing to a text does not fail.
                    let _ = write!(shown, "\\u{unit:04x}");
                }
            }
            false => shown.push(character),
        }
    }
    shown
}

/// Tells whether a character shows nothing of its own: those of the general categories Cc (C0, DEL
/// and C1), Cf (which change the direction of text, or join and separate what is around them), Zl
/// and Zp.
///
/// # Source
/// The general categories of the Unicode Standard, version 15.
pub fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{600}'..='\u{605}'
                | '\u{61c}'
                | '\u{6dd}'
                | '\u{70f}'
                | '\u{890}'..='\u{891}'
                | '\u{8e2}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{2064}'
                | '\u{2066}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{110bd}'
                | '\u{110cd}'
                | '\u{13430}'..='\u{1343f}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0001}'
                | '\u{e0020}'..='\u{e007f}'
        )
}

/// How long an excerpt may be.
const EXCERPT_BYTES_MAX: usize = 256;
/// What stands for the rest of a text.
const CUT: &str = "…";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_and_ends_between_two_characters() {
        let (full, rest) = ("x".repeat(256), "x".repeat(253));
        for (text, expected) in [
            (String::new(), String::new()),
            ("GET /a".into(), "GET /a".into()),
            (full.clone(), full.clone()),
            (format!("{full}x"), format!("{rest}…")),
            ("x".repeat(60_000), format!("{rest}…")),
            // Three bytes each: 85 of them are 255, and 86 are too many.
            ("東".repeat(85), "東".repeat(85)),
            ("東".repeat(86), format!("{}…", "東".repeat(84))),
            (format!("{rest}é"), format!("{rest}é")),
            (format!("{rest}xéé"), format!("{rest}…")),
            ("a\u{202e}b\u{9b}".into(), r"a\u{202e}b\u{9b}".into()),
            // An escape is whole, or not there.
            (
                format!("{}\u{202e}", "x".repeat(250)),
                format!("{}…", "x".repeat(250)),
            ),
        ] {
            let shown = excerpt(&text);
            assert_eq!(shown, expected, "{text}");
            assert!(shown.len() <= 256);
        }
    }

    #[test]
    fn what_steers_a_terminal_is_escaped_and_all_else_stays() {
        for (text, expected) in [
            ("CN=Zürich 東京, O=Acme", "CN=Zürich 東京, O=Acme"),
            ("a\u{1b}[2Jb\r\nc\u{9b}", "a\\u{1b}[2Jb\\u{d}\\u{a}c\\u{9b}"),
            ("x\u{202e}gpj.exe", "x\\u{202e}gpj.exe"),
            ("\u{7f}\0", "\\u{7f}\\u{0}"),
            ("a\u{2028}b\u{2029}c", "a\\u{2028}b\\u{2029}c"),
            ("pay\u{200b}ments\u{ad}", "pay\\u{200b}ments\\u{ad}"),
            ("\u{2066}x\u{2069}\u{feff}", "\\u{2066}x\\u{2069}\\u{feff}"),
            ("tag \u{e0041}", "tag \\u{e0041}"),
            ("\u{e0041}\u{feff}", "\\u{e0041}\\u{feff}"),
        ] {
            assert_eq!(printable(text), expected);
        }
    }

    #[test]
    fn json_on_a_terminal_steers_nothing_and_reads_as_before() {
        let value =
            serde_json::json!({"name": "a\u{1b}\u{9b}2J\u{202e}\u{e0041}\n東", "list": [1, 2]});
        let shown = printable_json(&format!("{value:#}"));
        assert!(
            !shown.chars().any(|c| c != '\n' && is_unprintable(c)),
            "{shown}"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }
}
