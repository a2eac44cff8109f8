//! Tables for a terminal: columns padded to their widest cell.
//!
//! Cells hold strangers' text: control characters are shown instead of sent, so that a tag cannot
//! move the cursor.

/// A header line and rows of as many cells.
pub(super) fn aligned<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let header = header.map(str::to_owned);
    let rows: Vec<[String; N]> = std::iter::once(&header)
        .chain(rows)
        .map(|row| std::array::from_fn(|cell| flat(&row[cell])))
        .collect();
    let widths: [usize; N] = std::array::from_fn(|cell| {
        rows.iter()
            .map(|row| row[cell].chars().count())
            .max()
            .unwrap_or(0)
    });
    let mut text = String::new();
    for row in &rows {
        let start = text.len();
        for (cell, width) in row.iter().zip(widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        // No blanks at the end of a line.
        let end = text.trim_end_matches(' ').len();
        text.truncate(end.max(start));
        text.push('\n');
    }
    text
}

/// Text with every control character but the line feed made visible.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\n' {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// The same for one cell, which has no line feeds either; an empty one shows as a dash.
fn flat(cell: &str) -> String {
    if cell.is_empty() {
        "-".to_owned()
    } else {
        printable(cell).replace('\n', "\\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_blanks_at_the_end() {
        let rows = [
            ["a".to_owned(), "é".to_owned()],
            ["long one".to_owned(), String::new()],
        ];
        assert_eq!(
            aligned(["ONE", "TWO"], &rows),
            "ONE       TWO\na         é\nlong one  -\n"
        );
        assert_eq!(aligned(["ONE"], &[]), "ONE\n");
    }

    #[test]
    fn escapes_of_strangers_are_shown() {
        let text = aligned(["X"], &[["\u{1b}[2J\nfake".to_owned()]]);
        assert_eq!(text, "X\n\\u{1b}[2J\\nfake\n");
        assert_eq!(printable("a\nb\r"), "a\nb\\r");
    }
}
