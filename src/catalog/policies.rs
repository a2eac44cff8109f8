//! What a route does to requests beside sending them on: limits of rate, of requests at once, of
//! bodies and of time (`rate=`, `burst=`, `by=`, `inflight=`, `maxbody=`, `timeout=`, `retries=`),
//! and changes of fields (`sethdr=` and the like).
//!
//! What protects (`rate` with `burst` and `by`, `inflight`, `maxbody`) fails closed: a value that
//! cannot be read closes the route, because a rejected tag could let requests fall through to a
//! shorter one without the limit. Other options that cannot be read reject their tag.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};

use super::access::{Access, plain_networks};
use super::cors::Cors;
use super::duration::parse_duration;
use super::error_pages::ErrorPages;
use super::field_edits::FieldEdits;
use super::matchers::decode;
use super::path_rewrite::PathRewrite;

/// How a remark about a closed route ends.
pub(super) const UNTIL_MENDED: &str = "until it is mended";

/// The policies of one target. What they count is counted for its route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// Why every request is refused: a protection that cannot be read.
    pub closed: Option<Arc<str>>,
    /// How many requests there may be in a time.
    pub rate: Option<Rate>,
    /// How many requests there may be at once.
    pub in_flight_max: Option<u32>,
    /// Most bytes of a request's body.
    pub body_max: Option<u64>,
    /// From the whole head of the request to the head of the response, all attempts together.
    pub timeout: Option<Duration>,
    /// Attempts after the first, inside the retry budget.
    pub retries: Option<u32>,
    /// Which clients may use the route, beside what its tag says: that of a named policy.
    pub access: (Access, Access),
    /// The authentication scheme of a named policy.
    pub auth: Option<Arc<str>>,
    /// What is done to the fields of requests on their way to the instance.
    pub request_fields: FieldEdits,
    /// What is done to the fields of responses, also of those that are made here.
    pub response_fields: FieldEdits,
    /// Which sites may use the route from a browser.
    pub cors: Option<Arc<Cors>>,
    /// What becomes of paths on their way to the instance.
    pub rewrite: Option<Arc<PathRewrite>>,
    /// What takes the place of failed responses.
    pub error_pages: Option<Arc<ErrorPages>>,
}

/// What is done to the fields of a response.
#[derive(Clone, Copy, Debug)]
pub struct ResponseEdits<'a> {
    policies: &'a Policies,
    origin: Option<&'a [u8]>,
    preflight: bool,
}

impl ResponseEdits<'_> {
    /// Changes `fields`.
    pub fn apply(&self, fields: &mut HeaderMap) {
        if let Some(cors) = &self.policies.cors {
            cors.put(self.origin, self.preflight, fields);
        }
        self.policies.response_fields.apply(fields);
    }
}

/// A key of the configuration, the option that would stand in a tag for it, and its value.
pub type PolicyOption = (&'static str, &'static str, String);

/// The policies of the configuration (`[policy.NAME]`), by name.
pub type NamedPolicies = BTreeMap<Arc<str>, Arc<Policies>>;

impl Policies {
    /// Reads a named policy: its `options`, and which clients may use its routes.
    ///
    /// # Errors
    /// The key that cannot be read, and why.
    pub fn read(
        options: &[PolicyOption],
        allow: &[String],
        deny: &[String],
    ) -> Result<Self, (&'static str, String)> {
        let mut reader = PoliciesReader::default();
        for (key, option, value) in options {
            let taken = reader.take(option, value);
            taken.map_err(|error| (*key, error.fault.to_owned()))?;
            if let Some(why) = &reader.read.closed {
                let fault = why.rsplit_once("`: ").map_or(&**why, |(_, fault)| fault);
                return Err((*key, fault.to_owned()));
            }
        }
        let mut policies = reader
            .finish()
            .0
            .map(Arc::unwrap_or_clone)
            .unwrap_or_default();
        if let Some(why) = policies.closed {
            return Err(("rate", why.to_string()));
        }
        let networks = |key, texts: &[String]| plain_networks(texts).map_err(|why| (key, why));
        if !allow.is_empty() {
            policies.access.0 = Access::Allow(networks("allow", allow)?);
        }
        if !deny.is_empty() {
            policies.access.1 = Access::Deny(networks("deny", deny)?);
        }
        Ok(policies)
    }

    /// What is done to the fields of a response to a request from `origin`, which may be a
    /// `preflight`; none where that is nothing.
    #[must_use]
    pub fn response_edits<'a>(
        &'a self,
        origin: Option<&'a [u8]>,
        preflight: bool,
    ) -> Option<ResponseEdits<'a>> {
        let edits = self.cors.is_some() || !self.response_fields.is_empty();
        edits.then_some(ResponseEdits {
            policies: self,
            origin,
            preflight,
        })
    }

    /// Whether it says anything about responses.
    #[must_use]
    pub fn concerns_responses(&self) -> bool {
        self.error_pages.is_some() || self.response_edits(None, false).is_some()
    }

    /// Whether a client may use the route, as far as its policy says.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        self.access.0.permits(address) && self.access.1.permits(address)
    }

    /// What of it protects and cannot be carried out where there are no requests.
    #[must_use]
    pub fn not_for_tcp(&self) -> Option<&str> {
        if let Some(why) = &self.closed {
            return Some(why);
        }
        match self {
            Self { auth: Some(_), .. } => Some("`auth` looks at the fields of requests"),
            Self { rate: Some(_), .. } => Some("`rate` counts requests"),
            Self {
                body_max: Some(_), ..
            } => Some("`maxbody` measures the bodies of requests"),
            _ => None,
        }
    }
}

impl Policies {
    /// Both, as a route that names these and has `own` carries them out.
    pub(super) fn and(&self, own: Self) -> Self {
        Self {
            closed: own.closed,
            rate: [&self.rate, &own.rate]
                .into_iter()
                .flatten()
                .max_by_key(|rate| (rate.interval_ns, std::cmp::Reverse(rate.burst)))
                .cloned(),
            in_flight_max: smaller(self.in_flight_max, own.in_flight_max),
            body_max: smaller(self.body_max, own.body_max),
            timeout: own.timeout.or(self.timeout),
            retries: own.retries.or(self.retries),
            access: self.access.clone(),
            auth: self.auth.clone(),
            request_fields: self.request_fields.and(&own.request_fields),
            response_fields: self.response_fields.and(&own.response_fields),
            cors: self.cors.clone(),
            rewrite: self.rewrite.clone(),
            error_pages: self.error_pages.clone(),
        }
    }
}

fn smaller<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}

/// A limit of requests in a time, as a token bucket for each key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// A token comes back after so long, in nanoseconds.
    pub interval_ns: u64,
    /// Most tokens.
    pub burst: u32,
    /// What has a bucket of its own.
    pub by: RateKey,
}

/// Which requests share a bucket (`by=`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RateKey {
    /// Those from one address; of IPv6, from one /64.
    #[default]
    Ip,
    /// Those with one value in this field; those without it share one.
    Header(HeaderName),
    /// All of the route.
    Route,
}

/// A policy that does not protect and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} `{value}`: {fault}")]
pub struct PolicyError {
    key: &'static str,
    value: String,
    fault: &'static str,
}

/// Collects the policies of one tag.
#[derive(Clone, Debug, Default)]
pub(super) struct PoliciesReader {
    read: Policies,
    per_second: Option<f64>,
    burst: Option<u32>,
    by: Option<RateKey>,
    any: bool,
}

const SECOND_NS: f64 = 1e9;
/// The longest time that a limit may count in.
const TIMEOUT_MAX: Duration = Duration::from_secs(86_400);

impl PoliciesReader {
    /// Reads one option. Returns whether it is a policy.
    ///
    /// # Errors
    /// It does not protect, and its value cannot be read.
    pub(super) fn take(&mut self, key: &str, value: &str) -> Result<bool, PolicyError> {
        let error = |key, fault| PolicyError {
            key,
            value: value.to_owned(),
            fault,
        };
        match key {
            "rate" => match rate(value) {
                _ if self.per_second.is_some() => self.close(key, value, "it is given twice"),
                Some(per_second) => self.per_second = Some(per_second),
                None => self.close(key, value, "write rate=100/s, rate=100/m or rate=100/h"),
            },
            "burst" => match positive(value) {
                Some(burst) => self.burst = Some(burst),
                None => self.close(key, value, "write a whole number above 0"),
            },
            "by" => match rate_key(value) {
                Some(by) => self.by = Some(by),
                None => self.close(key, value, "write by=ip, by=header:NAME or by=route"),
            },
            "inflight" => match positive(value) {
                _ if self.read.in_flight_max.is_some() => {
                    self.close(key, value, "it is given twice");
                }
                Some(most) => self.read.in_flight_max = Some(most),
                None => self.close(key, value, "write a whole number above 0"),
            },
            "maxbody" => match size(value) {
                _ if self.read.body_max.is_some() => self.close(key, value, "it is given twice"),
                Some(bytes) => self.read.body_max = Some(bytes),
                None => self.close(key, value, "write a number of bytes, or 64k, 10m, 1g"),
            },
            "timeout" => {
                let timeout = duration(value).filter(|timeout| *timeout <= TIMEOUT_MAX);
                self.read.timeout = Some(timeout.ok_or_else(|| {
                    error(
                        "timeout",
                        "write it like 500ms, 5s or 2m, above 0 and up to 24h",
                    )
                })?);
            }
            "retries" => {
                let retries = value.parse().ok().filter(|retries| *retries <= 100);
                self.read.retries = Some(
                    retries
                        .ok_or_else(|| error("retries", "write a whole number from 0 to 100"))?,
                );
            }
            "sethdr" => {
                let read = self.read.request_fields.read_set(value);
                read.map_err(|fault| error("sethdr", fault))?;
            }
            "delhdr" => {
                let read = self.read.request_fields.read_remove(value);
                read.map_err(|fault| error("delhdr", fault))?;
            }
            "setresphdr" => {
                let read = self.read.response_fields.read_set(value);
                read.map_err(|fault| error("setresphdr", fault))?;
            }
            "delresphdr" => {
                let read = self.read.response_fields.read_remove(value);
                read.map_err(|fault| error("delresphdr", fault))?;
            }
            _ => return Ok(false),
        }
        self.any = true;
        Ok(true)
    }

    fn close(&mut self, key: &str, value: &str, fault: &str) {
        if self.read.closed.is_none() {
            self.read.closed = Some(format!("{key} `{value}`: {fault}").into());
        }
    }

    /// All of them together; none where there are none. With a warning for what has no effect.
    pub(super) fn finish(mut self) -> (Option<Arc<Policies>>, Option<String>) {
        if !self.any {
            return (None, None);
        }
        let mut warning = None;
        match self.per_second {
            Some(per_second) => {
                // One second's worth.
                let burst = self.burst.unwrap_or(per_second.max(1.0) as u32);
                self.read.rate = Some(Rate {
                    interval_ns: (SECOND_NS / per_second).max(1.0) as u64,
                    burst,
                    by: self.by.unwrap_or_default(),
                });
            }
            // What was to be limited is not known: it is not left without a limit.
            None if self.read.closed.is_none() && (self.burst.is_some() || self.by.is_some()) => {
                self.read.closed = Some(
                    "burst and by say how rate counts, and there is no rate: write rate=100/s"
                        .into(),
                );
            }
            None => {}
        }
        if let Some(why) = &self.read.closed {
            warning = Some(format!(
                "{why}: the route responds 503 to every request {UNTIL_MENDED}"
            ));
        }
        (Some(Arc::new(self.read)), warning)
    }
}

/// Requests per second of `100`, `100/s`, `100/m` or `100/h`.
fn rate(text: &str) -> Option<f64> {
    let (number, seconds) = match text.split_once('/') {
        None | Some((_, "s")) => (text.trim_end_matches("/s"), 1.0),
        Some((number, "m")) => (number, 60.0),
        Some((number, "h")) => (number, 3600.0),
        Some(_) => return None,
    };
    positive(number).map(|number| f64::from(number) / seconds)
}

/// A whole number above 0; digits alone.
fn positive(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten()?;
    (number > 0).then_some(number)
}

fn rate_key(text: &str) -> Option<RateKey> {
    match text.split_once(':') {
        None if text == "ip" => Some(RateKey::Ip),
        None if text == "route" => Some(RateKey::Route),
        Some(("header", name)) => {
            let name = decode(name).ok()?;
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some(RateKey::Header(name))
        }
        _ => None,
    }
}

/// Bytes of `100`, `64k`, `10m` or `1g` (of 1024).
fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 1 << 10),
        b'm' => (&text[..text.len() - 1], 1 << 20),
        b'g' => (&text[..text.len() - 1], 1_u64 << 30),
        _ => (text, 1),
    };
    u64::from(positive(digits)?).checked_mul(unit)
}

/// A time as the configuration writes it, above 0.
fn duration(text: &str) -> Option<Duration> {
    parse_duration(text).ok().filter(|time| !time.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Policies, Option<String>), PolicyError> {
        let mut reader = PoliciesReader::default();
        for word in text.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            assert!(reader.take(key, value)?, "{word}");
        }
        let (policies, warning) = reader.finish();
        Ok((Arc::unwrap_or_clone(policies.unwrap()), warning))
    }

    fn rate_of(interval_ns: u64, burst: u32, by: RateKey) -> Policies {
        Policies {
            rate: Some(Rate {
                interval_ns,
                burst,
                by,
            }),
            ..Policies::default()
        }
    }

    #[test]
    fn values_are_read() {
        let tenant = RateKey::Header(HeaderName::from_static("x-tenant"));
        for (text, expected) in [
            ("rate=10", rate_of(100_000_000, 10, RateKey::Ip)),
            ("rate=100/s", rate_of(10_000_000, 100, RateKey::Ip)),
            ("rate=6/m", rate_of(10_000_000_000, 1, RateKey::Ip)),
            (
                "rate=1/h burst=5",
                rate_of(3_600_000_000_000, 5, RateKey::Ip),
            ),
            (
                "rate=1 by=header:X-Tenant",
                rate_of(1_000_000_000, 1, tenant),
            ),
            (
                "rate=2 by=route burst=1",
                rate_of(500_000_000, 1, RateKey::Route),
            ),
        ] {
            assert_eq!(read(text).unwrap(), (expected, None), "{text}");
        }
        let (policies, _) = read("inflight=200 maxbody=10m timeout=5s retries=0").unwrap();
        assert_eq!(
            policies,
            Policies {
                in_flight_max: Some(200),
                body_max: Some(10 << 20),
                timeout: Some(Duration::from_secs(5)),
                retries: Some(0),
                ..Policies::default()
            }
        );
        for (text, bytes) in [("1", 1), ("64k", 65_536), ("1g", 1 << 30)] {
            assert_eq!(size(text), Some(bytes));
        }
        for (text, ms) in [("500ms", 500), ("1m30s", 90_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)));
        }
    }

    #[test]
    fn protections_that_cannot_be_read_close_the_route() {
        for text in [
            "rate=",
            "rate=0",
            "rate=-1",
            "rate=+1",
            "rate=ten",
            "rate=10/d",
            "rate=10/",
            "rate=10/s/s",
            "rate=1e3",
            "rate=99999999999",
            "rate=1 rate=2",
            "rate=1 burst=0",
            "rate=1 burst=x",
            "rate=1 by=cookie:a",
            "rate=1 by=header:",
            "rate=1 by=header:a%20b",
            "burst=5",
            "by=ip",
            "inflight=0",
            "inflight=many",
            "inflight=1 inflight=2",
            "maxbody=",
            "maxbody=k",
            "maxbody=10mb",
            "maxbody=-1",
            "maxbody=0",
        ] {
            let (policies, warning) = read(text).unwrap();
            assert!(policies.closed.is_some(), "{text}");
            assert!(warning.unwrap().contains("503"), "{text}");
        }
    }

    #[test]
    fn others_that_cannot_be_read_are_errors() {
        for text in [
            "timeout=",
            "timeout=5",
            "timeout=0s",
            "timeout=5d",
            "timeout=25h",
            "timeout=-1s",
            "retries=",
            "retries=-1",
            "retries=101",
            "retries=1.5",
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains('`'), "{error}");
        }
    }
}
