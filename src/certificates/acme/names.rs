//! Which hosts of routes get a certificate. Pure.

use std::net::IpAddr;

/// The patterns of `names`.
#[derive(Clone, Debug)]
pub(super) struct Names {
    patterns: Vec<String>,
    /// Control over a whole domain can be proven.
    takes_wildcards: bool,
}

/// What is to be done for a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It gets a certificate.
    Wanted,
    /// It is none of the names.
    NotNamed,
    /// It would need dns-01.
    Wildcard,
}

impl Names {
    pub(super) fn new(patterns: &[String], takes_wildcards: bool) -> Self {
        Self {
            patterns: patterns.to_vec(),
            takes_wildcards,
        }
    }

    /// `host`: as [`host_of`] gives it.
    pub(super) fn verdict(&self, host: &str) -> Verdict {
        if !self.patterns.iter().any(|pattern| fits(pattern, host)) {
            Verdict::NotNamed
        } else if host.starts_with("*.") && !self.takes_wildcards {
            Verdict::Wildcard
        } else {
            Verdict::Wanted
        }
    }
}

/// `*` is exactly one label.
fn fits(pattern: &str, host: &str) -> bool {
    let (mut wanted, mut given) = (pattern.split('.'), host.split('.'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(wanted), Some(given)) if wanted == "*" || wanted == given => {}
            _ => return false,
        }
    }
}

/// The name that a certificate for this host of a route is for: without port, in lower case. None:
/// an address, or what no certificate can name.
pub(super) fn host_of(route: &str) -> Option<String> {
    let host = match route.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|it| it.is_ascii_digit()) => host,
        _ => route,
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host.parse::<IpAddr>().is_ok() || host.len() > 253 {
        return None;
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(fits);
    let rest = host.strip_prefix("*.").unwrap_or(&host);
    rest.split('.').all(is_label).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_routes_and_their_names() {
        let cases = [
            ("Shop.Example.com", Some("shop.example.com")),
            ("shop.example.com:8443", Some("shop.example.com")),
            ("shop.example.com.", Some("shop.example.com")),
            ("*.example.com", Some("*.example.com")),
            ("a.*.example.com", None),
            ("*", None),
            ("10.0.0.1", None),
            ("10.0.0.1:80", None),
            ("[::1]:80", None),
            ("", None),
            (":80", None),
            ("a..b", None),
            ("{a,b}.test", None),
        ];
        for (route, wanted) in cases {
            assert_eq!(host_of(route).as_deref(), wanted, "{route}");
        }
    }

    #[test]
    fn a_star_is_one_label() {
        let patterns = ["*.example.com", "shop.test", "*.*.deep.test"].map(str::to_owned);
        let cases = [
            ("a.example.com", Verdict::Wanted),
            ("a.b.example.com", Verdict::NotNamed),
            ("example.com", Verdict::NotNamed),
            ("xexample.com", Verdict::NotNamed),
            ("*.example.com", Verdict::Wildcard),
            ("shop.test", Verdict::Wanted),
            ("shop.test.evil", Verdict::NotNamed),
            ("a.b.deep.test", Verdict::Wanted),
            ("a.deep.test", Verdict::NotNamed),
        ];
        for (host, wanted) in cases {
            assert_eq!(Names::new(&patterns, false).verdict(host), wanted, "{host}");
        }
        let names = Names::new(&patterns, true);
        assert_eq!(names.verdict("*.example.com"), Verdict::Wanted);
    }
}
