//! Which coding a client likes best: `Accept-Encoding` (RFC 9110 section 12.5.3). Pure.

use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderValue};

use crate::config::Coding;

/// Weight of something that is mentioned without one, in thousandths.
const FULL: u16 = 1000;

/// The coding of `offered` that the client gives the most weight, the first of them where it likes
/// several equally. None: it takes none of them, or would rather have the response as it is.
#[must_use]
pub(crate) fn preferred(headers: &HeaderMap, offered: &[Coding]) -> Option<Coding> {
    let mut best = None;
    let mut best_weight = headers
        .contains_key(ACCEPT_ENCODING)
        .then(|| weight(headers, "identity"))?
        .unwrap_or(0);
    let any = weight(headers, "*").unwrap_or(0);
    for &coding in offered {
        let named = weight(headers, coding.as_str());
        // RFC 9110 section 8.4.1.3: an old name of the same.
        let named = if coding == Coding::Gzip {
            named.or_else(|| weight(headers, "x-gzip"))
        } else {
            named
        };
        let weight = named.unwrap_or(any);
        // As it is costs us nothing, but the client said that it likes both: then the shorter one.
        if weight > best_weight || (weight == best_weight && weight > 0 && best.is_none()) {
            (best, best_weight) = (Some(coding), weight);
        }
    }
    best
}

/// The weight of a name, if it is mentioned.
fn weight(headers: &HeaderMap, name: &str) -> Option<u16> {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .flat_map(elements)
        .find(|(known, _)| known.eq_ignore_ascii_case(name))?
        .1
}

/// Names and weights of one field. A weight that is none counts as zero: what cannot be read is not
/// consent.
fn elements(value: &HeaderValue) -> impl Iterator<Item = (&str, Option<u16>)> {
    value
        .to_str()
        .unwrap_or_default()
        .split(',')
        .map(|element| {
            let (name, parameter) = element.split_once(';').unwrap_or((element, ""));
            let weight = match parameter.trim() {
                "" => FULL,
                text => qvalue(text).unwrap_or(0),
            };
            (name.trim(), Some(weight))
        })
}

/// `q=0.5` as thousandths: at most three decimals, at most 1.
fn qvalue(text: &str) -> Option<u16> {
    let (name, number) = text.split_once('=')?;
    let (whole, decimals) = number.trim().split_once('.').unwrap_or((number.trim(), ""));
    let digits = decimals.len() <= 3 && decimals.bytes().all(|byte| byte.is_ascii_digit());
    if !name.trim().eq_ignore_ascii_case("q") || !matches!(whole, "0" | "1") || !digits {
        return None;
    }
    let thousandths: u16 = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        _ => (thousandths == 0).then_some(FULL),
    }
}

#[cfg(test)]
mod tests {
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
