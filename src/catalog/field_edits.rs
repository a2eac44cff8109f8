//! Fields that a route sets and takes away (`sethdr=`, `delhdr=`, `setresphdr=`, `delresphdr=`).

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::matchers::decode;

/// What is done to the fields of a message: names taken away first, then fields set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldEdits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
}

/// Fields that frame a message or belong to one connection (RFC 9110 section 7.6.1), and Host: only
/// the proxy itself sets them.
pub const FRAMING: [HeaderName; 8] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    HeaderName::from_static("keep-alive"),
];
/// Beginnings of others that a tag may not write, those by which this balancer tells about the
/// client among them: it would deceive an instance or a client.
const REFUSED_STARTS: [&str; 4] = ["x-forwarded-", "x-real-ip", "proxy-", "keep-alive"];

impl FieldEdits {
    /// Whether they change nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }

    /// Names that they write or take away.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.remove
            .iter()
            .chain(self.set.iter().map(|(name, _)| name))
    }

    /// Changes `fields`.
    pub fn apply(&self, fields: &mut HeaderMap) {
        for name in &self.remove {
            fields.remove(name);
        }
        for (name, value) in &self.set {
            fields.insert(name, value.clone());
        }
    }

    /// These, and those of `own`, which win where both write one name.
    #[must_use]
    pub(super) fn and(&self, own: &Self) -> Self {
        let mut both = self.clone();
        both.set
            .retain(|(name, _)| own.names().all(|other| other != name));
        both.remove.extend(own.remove.iter().cloned());
        both.set.extend(own.set.iter().cloned());
        both
    }

    /// Reads `NAME:VALUE` of an option that sets a field.
    ///
    /// # Errors
    /// Why it cannot be one.
    pub(super) fn read_set(&mut self, text: &str) -> Result<(), &'static str> {
        let (name, value) = text
            .split_once(':')
            .ok_or("write NAME:VALUE, as in sethdr=X-Team:shop")?;
        let name = field_name(name)?;
        let value = HeaderValue::try_from(decode(value)?)
            .map_err(|_| "the value holds a character that a field cannot hold")?;
        self.set.retain(|(other, _)| *other != name);
        self.set.push((name, value));
        Ok(())
    }

    /// Reads `NAME` of an option that takes a field away.
    ///
    /// # Errors
    /// Why it cannot be one.
    pub(super) fn read_remove(&mut self, text: &str) -> Result<(), &'static str> {
        let name = field_name(text)?;
        if !self.remove.contains(&name) {
            self.remove.push(name);
        }
        Ok(())
    }
}

fn field_name(text: &str) -> Result<HeaderName, &'static str> {
    let name =
        HeaderName::try_from(decode(text)?).map_err(|_| "the name is not a valid field name")?;
    let refused = FRAMING.contains(&name)
        || name == header::FORWARDED
        || REFUSED_STARTS
            .iter()
            .any(|start| name.as_str().starts_with(start));
    if refused {
        return Err("tags may not change Host, nor fields of framing, of one hop or of forwarding");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(set: &[&str], remove: &[&str]) -> Result<FieldEdits, &'static str> {
        let mut edits = FieldEdits::default();
        for text in set {
            edits.read_set(text)?;
        }
        for text in remove {
            edits.read_remove(text)?;
        }
        Ok(edits)
    }

    #[test]
    fn fields_are_taken_away_and_then_set() {
        let edits = edits(&["A:1", "a:2", "B:x%20y:z", "C:"], &["b", "gone", "GONE"]).unwrap();
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("a", "0"),
            ("b", "0"),
            ("b", "1"),
            ("gone", "1"),
            ("kept", "1"),
        ] {
            fields.append(name, HeaderValue::from_static(value));
        }
        edits.apply(&mut fields);
        let mut shown: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        shown.sort();
        assert_eq!(shown, ["a: 2", "b: x y:z", "c: ", "kept: 1"]);
    }

    #[test]
    fn what_may_not_be_written_is_refused() {
        for name in [
            "Host",
            "content-length",
            "Transfer-Encoding",
            "Connection",
            "Upgrade",
            "TE",
            "Trailer",
            "Keep-Alive",
            "Proxy-Connection",
            "Proxy-Authorization",
            "Forwarded",
            "X-Forwarded-For",
            "x-forwarded-anything",
            "X-Real-Ip",
            "",
            "a b",
            "a%20b",
            "a%",
        ] {
            assert!(edits(&[&format!("{name}:1")], &[]).is_err(), "{name}");
            assert!(edits(&[], &[name]).is_err(), "{name}");
        }
        for value in ["A", "A:%0d%0a", "A:%00", "A:%0a", "A:%x"] {
            assert!(edits(&[value], &[]).is_err(), "{value}");
        }
    }
}
