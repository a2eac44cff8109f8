//! Which coding a client prefers. Pure.

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

use crate::accept_encoding::{coding_weight, weight};
use crate::config::Coding;

/// The coding of `offered` that the client gives the most weight, the first of them where it likes
/// several equally. None: it takes none of them, or would rather have the response as it is.
#[must_use]
pub(crate) fn preferred(headers: &HeaderMap, offered: &[Coding]) -> Option<Coding> {
    let mut best = None;
    let mut best_weight = headers
        .contains_key(ACCEPT_ENCODING)
        .then(|| weight(headers, "identity"))?
        .unwrap_or(0);
    for &coding in offered {
        let weight = coding_weight(headers, coding.as_str());
        // As it is costs us nothing, but the client said that it likes both: then the shorter one.
        if weight > best_weight || (weight == best_weight && weight > 0 && best.is_none()) {
            (best, best_weight) = (Some(coding), weight);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const ALL: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];

    fn headers(fields: &[&str]) -> HeaderMap {
        fields
            .iter()
            .map(|field| (ACCEPT_ENCODING, HeaderValue::from_str(field).unwrap()))
            .collect()
    }

    #[test]
    fn the_client_chooses_and_ties_are_ours() {
        let cases: &[(&[&str], Option<Coding>)] = &[
            (&[], None),
            (&[""], None),
            (&["gzip"], Some(Coding::Gzip)),
            (&["GZip"], Some(Coding::Gzip)),
            (&["x-gzip"], Some(Coding::Gzip)),
            (&["gzip, deflate, br, zstd"], Some(Coding::Zstd)),
            (&["gzip, deflate", "br"], Some(Coding::Brotli)),
            (&["br;q=0.8, gzip;q=0.9"], Some(Coding::Gzip)),
            (&["br ; Q=0.801, gzip;q=0.8"], Some(Coding::Brotli)),
            (&["gzip;q=0"], None),
            (&["gzip;q=0.000, br;q=0.001"], Some(Coding::Brotli)),
            (&["*"], Some(Coding::Zstd)),
            (&["*, zstd;q=0"], Some(Coding::Brotli)),
            (&["gzip;q=0.5, *;q=0.1"], Some(Coding::Gzip)),
            (&["*;q=0"], None),
            (&["identity"], None),
            (&["identity;q=1, gzip;q=0.5"], None),
            (&["identity;q=0.5, gzip;q=0.5"], Some(Coding::Gzip)),
            (&["identity;q=0, gzip;q=0.1"], Some(Coding::Gzip)),
            (&["gzip;q=2"], None),
            (&["gzip;q=0.1234"], None),
            (&["gzip;q=1.001"], None),
            (&["gzip;q=1.000"], Some(Coding::Gzip)),
            (&["gzip;q="], None),
            (&["gzip;level=1"], None),
            (&["deflate, compress"], None),
            (&["gzipped"], None),
        ];
        for (fields, wanted) in cases {
            assert_eq!(preferred(&headers(fields), &ALL), *wanted, "{fields:?}");
        }
        let gzip_alone = preferred(&headers(&["br, zstd, gzip;q=0.1"]), &[Coding::Gzip]);
        assert_eq!(gzip_alone, Some(Coding::Gzip));
    }

    proptest! {
        #[test]
        fn whatever_comes_only_what_was_named_is_chosen(text in "[ -~]{0,40}") {
            if let Some(coding) = preferred(&headers(&[&text]), &ALL) {
                let text = text.to_ascii_lowercase();
                prop_assert!(text.contains(coding.as_str()) || text.contains('*'), "{text}");
            }
        }
    }
}
