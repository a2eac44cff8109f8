//! From the lines of the event stream to hints. Pure.

use std::time::Instant;

use super::wire::Line;

/// A line that is longer than this is passed over: a hint that is lost costs time, and no truth.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Something may have changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hint {
    /// A registration of this service came, changed or went.
    Service {
        name: String,
        /// Its tags; none when it went.
        tags: Option<Vec<String>>,
        index: u64,
        at: Instant,
    },
    /// So did something of this allocation.
    Allocation { id: String, at: Instant },
    /// The stream begins: what happened before it may have been missed.
    Live,
    /// It does not tell of changes any more.
    Lost,
}

/// Puts lines together.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
    /// The rest of this line is passed over.
    skips: bool,
}

impl Lines {
    /// Takes a part of the stream, and gives what the lines in it say; lines that cannot be
    /// understood say nothing.
    pub(super) fn take(&mut self, part: &[u8], at: Instant) -> Vec<Hint> {
        let mut found = Vec::new();
        for piece in part.split_inclusive(|byte| *byte == b'\n') {
            let ends = piece.last() == Some(&b'\n');
            if !self.skips {
                self.rest.extend_from_slice(piece);
            }
            if ends {
                found.extend(hints(&self.rest, at));
            }
            self.skips = !ends && (self.skips || self.rest.len() > LINE_BYTES_MAX);
            if ends || self.skips {
                self.rest.clear();
            }
        }
        found
    }
}

fn hints(line: &[u8], at: Instant) -> Vec<Hint> {
    let Ok(line) = serde_json::from_slice::<Line>(line) else {
        return Vec::new();
    };
    let index = line.index;
    let events = line.events.into_iter();
    let hint = |event: super::wire::Event| match event.topic.as_str() {
        "Service" => {
            let service = event.payload?.service?;
            let went = event.kind == "ServiceDeregistration";
            Some(Hint::Service {
                name: service.service_name,
                tags: service.tags.filter(|_| !went),
                index,
                at,
            })
        }
        "Allocation" => Some(Hint::Allocation { id: event.key, at }),
        _ => None,
    };
    events.filter_map(hint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_and_what_is_not_one_says_nothing() {
        let at = Instant::now();
        let service = |tags: Option<&str>| Hint::Service {
            name: "web".to_owned(),
            tags: tags.map(|tag| vec![tag.to_owned()]),
            index: 14,
            at,
        };
        let event = |kind: &str| {
            format!(
                "{{\"Index\":14,\"Events\":[{{\"Topic\":\"Service\",\"Type\":\"{kind}\",\"Key\":\"k\",\"Payload\":\
                 {{\"Service\":{{\"ServiceName\":\"web\",\"Tags\":[\"t\"]}}}}}}]}}\n"
            )
        };
        let allocation = "{\"Index\":15,\"Events\":[{\"Topic\":\"Allocation\",\"Key\":\"a\",\"Payload\":{\"Allocation\":{}}}]}\n";
        let text = format!(
            "{{}}\nno JSON\n{}{}{allocation}",
            event("ServiceRegistration"),
            event("ServiceDeregistration")
        );
        let expected = [
            service(Some("t")),
            service(None),
            Hint::Allocation {
                id: "a".to_owned(),
                at,
            },
        ];
        for size in [1, 7, 64, text.len()] {
            let mut lines = Lines::default();
            let found: Vec<Hint> = text
                .as_bytes()
                .chunks(size)
                .flat_map(|part| lines.take(part, at))
                .collect();
            assert_eq!(found, expected, "in parts of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let (mut lines, at) = (Lines::default(), Instant::now());
        let part = vec![b'x'; LINE_BYTES_MAX / 4];
        for _ in 0..8 {
            assert!(lines.take(&part, at).is_empty());
            assert!(lines.rest.len() <= LINE_BYTES_MAX + part.len());
        }
        let next = "\n{\"Events\":[{\"Topic\":\"Allocation\",\"Key\":\"a\"}]}\n";
        assert_eq!(
            lines.take(next.as_bytes(), at).len(),
            1,
            "the next line counts"
        );
    }
}
