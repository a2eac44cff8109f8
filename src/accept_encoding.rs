//! How much a client wants each content coding: `Accept-Encoding` (RFC 9110 section 12.5.3). Pure.

use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderValue};

/// Weight of something that is mentioned without one, in thousandths.
const FULL: u16 = 1000;

/// The weight of a coding, in thousandths: by its name, else by `*`. 0: the client does not take
/// it.
pub(crate) fn coding_weight(headers: &HeaderMap, coding: &str) -> u16 {
    // RFC 9110 section 8.4.1.3: an old name of the same.
    let old = (coding == "gzip").then_some("x-gzip");
    weight(headers, coding)
        .or_else(|| weight(headers, old?))
        .or_else(|| weight(headers, "*"))
        .unwrap_or(0)
}

/// The weight of a name as it stands there, in thousandths. None: it is not mentioned.
pub(crate) fn weight(headers: &HeaderMap, name: &str) -> Option<u16> {
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
