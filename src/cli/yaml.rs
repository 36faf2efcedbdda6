//! JSON values as YAML in block style, for people and for programs.
//!
//! Everything that YAML could take for something else is quoted, in the double quotes of JSON,
//! which YAML shares (YAML 1.2.2, section 7.3.1). What has several lines, such as PEM, is a literal
//! block.

use std::fmt::Write;

use serde_json::Value;

use crate::printable::is_unprintable;

/// Writes a document.
pub(super) fn document(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(value, 0, &mut text),
        Value::Array(list) if !list.is_empty() => block(value, 0, &mut text),
        scalar => {
            text.push_str(&inline(scalar));
            text.push('\n');
        }
    }
    text
}

/// Writes a list or a map that is not empty, each line behind so many blanks.
fn block(value: &Value, indent: usize, text: &mut String) {
    let blanks = " ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (number, (key, value)) in map.iter().enumerate() {
                // The first line of a map in a list stands behind its dash.
                if number > 0 || !text.ends_with("- ") {
                    text.push_str(&blanks);
                }
                text.push_str(&plain_or_quoted(key));
                text.push(':');
                entry(value, indent, text);
            }
        }
        Value::Array(list) => {
            for value in list {
                text.push_str(&blanks);
                match value {
                    Value::Object(map) if !map.is_empty() => {
                        text.push_str("- ");
                        block(value, indent + STEP, text);
                    }
                    _ => {
                        text.push('-');
                        entry(value, indent, text);
                    }
                }
            }
        }
        _ => {}
    }
}

/// Writes a value behind its key or dash, and ends the line.
fn entry(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            block(value, indent + STEP, text);
        }
        Value::Array(list) if !list.is_empty() => {
            text.push('\n');
            block(value, indent + STEP, text);
        }
        Value::String(lines) if is_literal(lines) => {
            text.push_str(" |\n");
            for line in lines.lines() {
                let _ = writeln!(text, "{:width$}{line}", "", width = indent + STEP);
            }
        }
        scalar => {
            text.push(' ');
            text.push_str(&inline(scalar));
            text.push('\n');
        }
    }
}

/// Writes a value that fits one line.
fn inline(value: &Value) -> String {
    match value {
        Value::String(string) => plain_or_quoted(string),
        other => other.to_string(),
    }
}

/// Tells whether a text may be a literal block: visible ASCII in lines that end, and that begin
/// with no blank.
fn is_literal(text: &str) -> bool {
    let is_line = |line: &str| {
        line.starts_with(|c: char| c.is_ascii_graphic())
            && line.bytes().all(|b| (32..127).contains(&b))
    };
    text.ends_with('\n')
        && !text.ends_with("\n\n")
        && text.lines().count() > 1
        && text.split_terminator('\n').all(is_line)
}

/// Leaves words as they are that begin with a letter, and that no version of YAML takes for
/// something else.
fn plain_or_quoted(text: &str) -> String {
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/'));
    let is_keyword = KEYWORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_word && !is_keyword {
        return text.to_owned();
    }
    let mut quoted = String::new();
    for character in Value::from(text).to_string().chars() {
        match is_unprintable(character) || !is_printable(character) {
            true => {
                let code = u32::from(character);
                let _ = write!(quoted, "\\U{code:08x}");
            }
            false => quoted.push(character),
        }
    }
    quoted
}

/// Tells whether YAML calls a character printable (YAML 1.2.2, production 1).
fn is_printable(character: char) -> bool {
    matches!(
        character,
        ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..
    )
}

/// The words that are no strings in YAML 1.1 or 1.2.
const KEYWORDS: &[&str] = &["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
/// How many blanks a level is indented by.
const STEP: usize = 2;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_written_in_blocks() {
        let value = json!({
            "keyPairs": [
                {"id": "payments", "keySize": 256, "names": ["a.example", "192.0.2.1"], "labels": {"team": "no"}},
                {"id": "42", "certificatePem": "-----BEGIN-----\nAB==\n", "none": [], "empty": {}},
                "x",
                ["y", 1],
            ],
            "valid": false,
            "dn": "CN=Z, O=A",
            "odd key": "a\nb",
            "bidi": "a\u{202e}\u{7f}b",
            "absent": null,
        });
        // The order of a map is that of its keys.
        let expected = "\
absent: null
bidi: \"a\\U0000202e\\U0000007fb\"
dn: \"CN=Z, O=A\"
keyPairs:
  - id: payments
    keySize: 256
    labels:
      team: \"no\"
    names:
      - a.example
      - \"192.0.2.1\"
  - certificatePem: |
      -----BEGIN-----
      AB==
    empty: {}
    id: \"42\"
    none: []
  - x
  -
    - \"y\"
    - 1
\"odd key\": \"a\\nb\"
valid: false
";
        assert_eq!(document(&value), expected);
        assert_eq!(document(&json!({})), "{}\n");
        assert_eq!(document(&json!("x y")), "\"x y\"\n");
    }
}
