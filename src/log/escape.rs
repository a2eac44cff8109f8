//! Putting strangers' bytes into a line without letting them end it, forge a field, or make it
//! huge.
//!
//! Two styles: Apache's (`\"`, `\\`, `\n`, `\xHH`; what its `mod_log_config` documents) and JSON
//! strings (RFC 8259, section 7).

/// Longest text of one field, in input bytes: what is longer is cut and marked with `...`. Bounds
/// the memory of the queue, as a header may be as large as the whole request head.
pub(super) const FIELD_MAX_BYTES: usize = 2048;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` for use between double quotes, as Apache does.
pub(super) fn push_quoted(line: &mut Vec<u8>, text: &[u8]) {
    let (text, cut) = bounded(text);
    let (plain, rest) = text.split_at(plain_length(text));
    line.extend_from_slice(plain);
    for &byte in rest {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', byte]),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\t' => line.extend_from_slice(b"\\t"),
            0x20..=0x7e => line.push(byte),
            other => line.extend_from_slice(&[
                b'\\',
                b'x',
                HEX[usize::from(other >> 4)],
                HEX[usize::from(other & 15)],
            ]),
        }
    }
    if cut {
        line.extend_from_slice(b"...");
    }
}

/// Appends `text` as a JSON string, quotes included. Bytes that are not UTF-8 become U+FFFD.
pub(super) fn push_json(line: &mut Vec<u8>, text: &[u8]) {
    line.push(b'"');
    push_json_inner(line, text);
    line.push(b'"');
}

/// The same without the quotes.
pub(super) fn push_json_inner(line: &mut Vec<u8>, text: &[u8]) {
    let (text, cut) = bounded(text);
    let (plain, rest) = text.split_at(plain_length(text));
    line.extend_from_slice(plain);
    for chunk in rest.utf8_chunks() {
        for character in chunk.valid().chars() {
            push_json_char(line, character);
        }
        // A character that the cut splits is left out: the sender's bytes were valid.
        let at_cut = cut && chunk.invalid().as_ptr_range().end == text.as_ptr_range().end;
        if !chunk.invalid().is_empty() && !at_cut {
            line.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    if cut {
        line.extend_from_slice(b"...");
    }
}

fn push_json_char(line: &mut Vec<u8>, character: char) {
    match character {
        '"' => line.extend_from_slice(b"\\\""),
        '\\' => line.extend_from_slice(b"\\\\"),
        '\n' => line.extend_from_slice(b"\\n"),
        '\r' => line.extend_from_slice(b"\\r"),
        '\t' => line.extend_from_slice(b"\\t"),
        // Controls by rule; DEL, C1 and the two Unicode line ends because terminals and log readers
        // act on them.
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
            let code = u32::from(character);
            line.extend_from_slice(b"\\u");
            for shift in [12, 8, 4, 0] {
                line.push(HEX[(code >> shift & 15) as usize]);
            }
        }
        other => line.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// How many bytes at the beginning stand for themselves, in both styles: all of them, usually.
fn plain_length(text: &[u8]) -> usize {
    let is_plain = |byte: &u8| matches!(byte, 0x20..=0x7e) && !matches!(byte, b'"' | b'\\');
    text.iter()
        .position(|byte| !is_plain(byte))
        .unwrap_or(text.len())
}

fn bounded(text: &[u8]) -> (&[u8], bool) {
    match text.get(..FIELD_MAX_BYTES) {
        Some(start) if text.len() > FIELD_MAX_BYTES => (start, true),
        _ => (text, false),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quoted(text: &[u8]) -> String {
        let mut line = Vec::new();
        push_quoted(&mut line, text);
        String::from_utf8(line).unwrap()
    }

    fn json(text: &[u8]) -> String {
        let mut line = Vec::new();
        push_json(&mut line, text);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn quoted_text_cannot_leave_its_quotes() {
        assert_eq!(
            quoted(b"a\" 200 1\n10.0.0.1 - -\t\x1b[31m\\\xff"),
            r#"a\" 200 1\n10.0.0.1 - -\t\x1b[31m\\\xff"#
        );
    }

    #[test]
    fn json_text_is_escaped_and_bad_utf8_replaced() {
        assert_eq!(json(b"a\"b\\\r\n\x00\x7f"), r#""a\"b\\\r\n\u0000\u007f""#);
        assert_eq!(json(b"x\xff\xc3"), "\"x\u{fffd}\u{fffd}\"");
        assert_eq!(json("é\u{2028}".as_bytes()), "\"é\\u2028\"");
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        let exact = [b'a'; FIELD_MAX_BYTES];
        assert_eq!(quoted(&exact).len(), FIELD_MAX_BYTES);
        let long = [b'a'; FIELD_MAX_BYTES + 1];
        assert!(quoted(&long).ends_with("a...") && quoted(&long).len() == FIELD_MAX_BYTES + 3);
        let mut split = vec![b'a'; FIELD_MAX_BYTES - 1];
        split.extend_from_slice("é".as_bytes());
        let text = json(&split);
        assert!(
            text.ends_with("a...\"") && !text.contains('\u{fffd}'),
            "{}",
            &text[text.len() - 10..]
        );
    }

    proptest! {
        #[test]
        fn json_of_any_bytes_parses_to_the_same_text(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let parsed: String = serde_json::from_str(&json(&bytes)).unwrap();
            prop_assert_eq!(parsed, String::from_utf8_lossy(&bytes).into_owned());
        }

        #[test]
        fn no_bytes_make_a_control_character(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(quoted(&bytes).bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            prop_assert!(!json(&bytes).chars().any(char::is_control));
        }
    }
}
