//! The server of a URL, and where a redirect leads.

use http::Uri;

/// The server of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) tls: bool,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// For the `Host` header.
    pub(super) authority: String,
    /// `user:password`.
    pub(super) credentials: Option<String>,
}

impl Origin {
    pub(super) fn of(url: &Uri) -> Option<Self> {
        let tls = match url.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = url.host().filter(|host| !host.is_empty())?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let written = url.authority()?.as_str();
        let (credentials, authority) = match written.rsplit_once('@') {
            Some((credentials, authority)) => (Some(decoded(credentials)), authority),
            None => (None, written),
        };
        let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Some(Self {
            tls,
            host,
            port,
            authority: authority.to_owned(),
            credentials,
        })
    }

    /// Host and port, for messages.
    pub(super) fn server(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Scheme, host and port of a URL, with another host if one is given.
    pub(super) fn base(&self, host: Option<&str>) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        match host.unwrap_or(&self.host) {
            host if host.contains(':') => format!("{scheme}://[{host}]:{}", self.port),
            host => format!("{scheme}://{host}:{}", self.port),
        }
    }
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8_lossy()
        .into_owned()
}

/// A URL for messages: without password and query.
#[must_use]
pub(crate) fn shown(url: &Uri) -> String {
    match (url.scheme_str(), Origin::of(url)) {
        (Some(scheme), Some(origin)) => format!("{scheme}://{}{}", origin.authority, url.path()),
        _ => url.path().to_owned(),
    }
}

/// Where a redirect leads: to another URL, or to another path at the same host.
#[must_use]
pub(crate) fn onward(from: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (
        from.scheme_str().unwrap_or("http"),
        from.authority().map_or("", |it| it.as_str()),
    );
    let whole = match location {
        url if url.starts_with("http://") || url.starts_with("https://") => url.to_owned(),
        path if path.starts_with("//") => format!("{scheme}:{path}"),
        path if path.starts_with('/') => format!("{scheme}://{authority}{path}"),
        path => {
            let folder = from
                .path()
                .rsplit_once('/')
                .map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{path}")
        }
    };
    whole.parse().ok().filter(|url| Origin::of(url).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn places_have_their_usual_ports_and_hide_what_is_secret() {
        let origin = Origin::of(&uri("https://u:p%40x@[::1]/a?k=v")).unwrap();
        assert_eq!((origin.tls, &*origin.host, origin.port), (true, "::1", 443));
        assert_eq!(
            (&*origin.authority, origin.credentials.as_deref()),
            ("[::1]", Some("u:p@x"))
        );
        assert_eq!(shown(&uri("https://u:p@h:1/a?k=v")), "https://h:1/a");
        assert_eq!(Origin::of(&uri("http://h/")).unwrap().port, 80);
        for other in ["/a", "ftp://h/"] {
            assert_eq!(Origin::of(&uri(other)), None, "{other}");
        }
    }

    #[test]
    fn redirects_lead_on() {
        let from = uri("https://h:1/a/b?x=1");
        let cases = [
            ("c", Some("https://h:1/a/c")),
            ("/c", Some("https://h:1/c")),
            ("//i/c", Some("https://i/c")),
            ("http://i/c?y", Some("http://i/c?y")),
            ("https://", None),
        ];
        for (location, wanted) in cases {
            assert_eq!(
                onward(&from, location)
                    .map(|url| url.to_string())
                    .as_deref(),
                wanted,
                "{location}"
            );
        }
    }
}
