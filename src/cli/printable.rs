//! Text of others on a terminal: what would steer the terminal, or turn the text around, is escaped.
//!
//! A certificate that was imported may have anything in its names, and what answers at the address may
//! not be keypaird at all.

/// Returns a text in which control characters, and those that change the direction of text, are
/// escaped.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match is_harmful(character) {
            true => shown.extend(character.escape_unicode()),
            false => shown.push(character),
        }
    }
    shown
}

/// The characters with the property `Bidi_Control`, and the separators of lines and paragraphs
/// (Unicode Standard Annex #9).
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'
                | '\u{2029}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped_and_all_else_stays() {
        for (text, expected) in [
            ("CN=Zürich 東京, O=Acme", "CN=Zürich 東京, O=Acme"),
            ("a\u{1b}[2Jb\r\nc\u{9b}", "a\\u{1b}[2Jb\\u{d}\\u{a}c\\u{9b}"),
            ("x\u{202e}gpj.exe", "x\\u{202e}gpj.exe"),
        ] {
            assert_eq!(printable(text), expected);
        }
    }
}
