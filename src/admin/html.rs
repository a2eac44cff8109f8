//! Building blocks of the pages. Whatever is not ours passes through [`push_html`].

use std::fmt::Write as _;

/// Fills the `{{MARKER}}`s of a template. Pieces are appended in one pass, so that a marker inside
/// strangers' text stays text.
pub(super) fn fill(template: &str, mut push: impl FnMut(&mut String, &str)) -> String {
    let mut html = String::with_capacity(template.len() + 64 * 1024);
    let mut pieces = template.split("{{");
    html.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (marker, rest) = piece.split_once("}}").unwrap_or(("", piece));
        push(&mut html, marker);
        html.push_str(rest);
    }
    html
}

/// What the browser may do with a page: run the one script, use the one style sheet, send requests
/// to this server.
pub(super) fn content_security_policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
}

/// `open` and `close` are ours, `text` is a stranger's.
pub(super) fn push_element(html: &mut String, open: &str, close: &str, text: &str) {
    // Writing to a String cannot fail, here and below.
    let _ = write!(html, "<{open}>");
    push_html(html, text);
    let _ = write!(html, "</{close}>");
}

/// Appends text for use in HTML content or in a quoted attribute.
pub(super) fn push_html(html: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_allows_the_one_nonce() {
        let policy = content_security_policy("abc");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'nonce-abc';"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
    }
}
