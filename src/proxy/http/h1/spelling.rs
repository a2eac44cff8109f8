//! How a head was spelled: the names of its fields and its reason phrase, for a head that is made
//! anew of a map.
//!
//! Both carry no meaning (RFC 9110 section 5.1, RFC 9112 section 4), but there are clients and
//! instances that compare them, and what they get must not depend on what a proxy has to do with a
//! message.

use super::response_head::ResponseHead;
use super::scan::Field;

/// The spelling of the head of a response, when its bytes are no longer there.
#[derive(Debug)]
pub struct Spelling {
    status: u16,
    reason: Box<[u8]>,
    names: Vec<Box<[u8]>>,
}

impl Spelling {
    /// That of the head that was read from `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8], head: &ResponseHead, fields: &[Field]) -> Self {
        let is_upper = |name: &&[u8]| name.iter().any(u8::is_ascii_uppercase);
        let names = fields
            .iter()
            .map(|field| field.name.of(bytes))
            .filter(is_upper)
            .map(Box::from)
            .collect();
        Self {
            status: head.status,
            reason: head.reason.of(bytes).into(),
            names,
        }
    }

    /// The reason phrase that came with `status`. None: another status came.
    #[must_use]
    pub fn reason(&self, status: u16) -> Option<&[u8]> {
        (status == self.status).then_some(&self.reason)
    }

    /// `name`, in lower case, as it was spelled.
    #[must_use]
    pub fn name<'a>(&'a self, name: &'a str) -> &'a [u8] {
        spelled(self.names.iter().map(|name| &**name), name)
    }
}

/// `name`, in lower case, as the first of `names` spells it that is the same; as it is where there
/// is none.
#[must_use]
pub fn spelled<'a>(mut names: impl Iterator<Item = &'a [u8]>, name: &'a str) -> &'a [u8] {
    names
        .find(|spelling| spelling.eq_ignore_ascii_case(name.as_bytes()))
        .unwrap_or(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::http::h1::response_head::{Parsed, parse};

    #[test]
    fn names_and_reasons_are_those_that_came() {
        let bytes = b"HTTP/1.1 200 Alles gut\r\nETag: \"1\"\r\nx-lower: 1\r\nX-Twice: 1\r\nx-twice: 2\r\n\r\n";
        let mut fields = Vec::new();
        let Parsed::Whole(head) = parse(bytes, &http::Method::GET, &mut fields) else {
            panic!("no head")
        };
        let spelling = Spelling::of(bytes, &head, &fields);
        for (name, expected) in [
            ("etag", "ETag"),
            ("x-lower", "x-lower"),
            ("x-twice", "X-Twice"),
            ("content-encoding", "content-encoding"),
        ] {
            assert_eq!(spelling.name(name), expected.as_bytes());
        }
        assert_eq!(
            (spelling.reason(200), spelling.reason(304)),
            (Some(&b"Alles gut"[..]), None)
        );
    }
}
