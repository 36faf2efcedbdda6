//! How the columns of a table fit a terminal.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Cuts texts so that a row fits a terminal. `cuts` has the columns that may be cut, in the order
/// in which they are, each with how narrow it may become.
pub(super) fn fit(
    header: &[&str],
    rows: &mut [Vec<String>],
    cuts: impl IntoIterator<Item = (usize, usize)>,
    width: usize,
) {
    let widths = widths(header, rows, cuts, width);
    for row in rows {
        for (text, width) in row.iter_mut().zip(&widths) {
            *text = cut(text, *width);
        }
    }
}

/// Returns how wide the columns may be.
fn widths(
    header: &[&str],
    rows: &[Vec<String>],
    cuts: impl IntoIterator<Item = (usize, usize)>,
    width: usize,
) -> Vec<usize> {
    let mut widths: Vec<_> = header.iter().map(|name| name.width()).collect();
    for row in rows {
        for (widest, text) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(text.width());
        }
    }
    let gaps = GAP_LEN * header.len().saturating_sub(1);
    let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(width);
    for (column, least) in cuts {
        if let Some(width) = widths.get_mut(column) {
            let less = width.saturating_sub(least).min(excess);
            *width -= less;
            excess -= less;
        }
    }
    widths
}

/// Cuts a text to a width, with a mark where something is missing.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut taken = 1;
    for character in text.chars() {
        taken += character.width().unwrap_or_default();
        if taken > width {
            break;
        }
        kept.push(character);
    }
    format!("{}…", kept.trim_end())
}

/// How many blanks are between two columns.
pub(super) const GAP_LEN: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_wide_is_cut_and_marked() {
        for (text, width, expected) in [
            ("Example", 7, "Example"),
            ("Example Name", 9, "Example…"),
            ("東京都", 6, "東京都"),
            ("東京都", 5, "東京…"),
            ("東京都", 4, "東…"),
        ] {
            assert_eq!(cut(text, width), expected, "{text} {width}");
        }
    }

    #[test]
    fn a_row_fits_the_terminal_and_columns_are_cut_in_their_order() {
        let header = ["ID", "CN", "EXPIRES"];
        let rows = [vec![
            "i".repeat(25),
            "n".repeat(64),
            "in 100 days".to_owned(),
        ]];
        let cuts = [(1, 8), (0, 12)];
        for (width, expected) in [
            (200, [25, 64, 11]),
            (80, [25, 40, 11]),
            (40, [17, 8, 11]),
            (20, [12, 8, 11]),
        ] {
            assert_eq!(widths(&header, &rows, cuts, width), expected, "{width}");
        }
    }
}
