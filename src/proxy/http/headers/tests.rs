//! One row of the header rules per case.
#![allow(clippy::type_complexity, reason = "tables of cases")]

use super::*;
use crate::config::Networks;

struct Case {
    client: ClientContext,
    rules: HeaderRules,
    host: Option<HeaderValue>,
    version: Version,
    strip: Option<&'static str>,
    rewrite: HostRewrite,
    upstream_h2: bool,
}

impl Case {
    fn new() -> Self {
        Self {
            client: ClientContext::new("192.0.2.7".parse().unwrap(), None),
            rules: rules(),
            host: Some(HeaderValue::from_static("app.example:8080")),
            version: Version::HTTP_11,
            strip: None,
            rewrite: HostRewrite::Keep,
            upstream_h2: false,
        }
    }

    fn tls() -> Self {
        let details = TlsDetails {
            version: "tls13",
            cipher: 0x1301,
        };
        Self {
            client: ClientContext::new("192.0.2.7".parse().unwrap(), Some(details)),
            ..Self::new()
        }
    }

    fn run(&self, fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = map(fields);
        let upgrade = upgrade_of(&headers);
        let ctx = RequestContext {
            edits: None,
            client: &self.client,
            rules: &self.rules,
            host: self.host.as_ref(),
            version: self.version,
            upgrade: upgrade.as_ref(),
            strip: self.strip,
            rewrite: &self.rewrite,
            target: "10.0.0.1:5000".parse().unwrap(),
            upstream_h2: self.upstream_h2,
        };
        prepare_request(&mut headers, &ctx);
        headers
    }
}

fn rules() -> HeaderRules {
    HeaderRules {
        client_ip_header: None,
        request_id_header: None,
        trusted_proxies: TrustedProxies::new(&ProxyConfig {
            trusted_proxies: Networks::parse(&["0.0.0.0/0", "::/0"]).unwrap(),
            ..ProxyConfig::default()
        }),
        tls_header: None,
        strict_transport_security: None,
        forwarded_host_sent: false,
        by: None,
        collide: false,
    }
}

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    headers
}

/// All values of a field, `|` between them; `-` for none.
fn all(headers: &HeaderMap, name: &str) -> String {
    let values: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect();
    if values.is_empty() {
        "-".to_owned()
    } else {
        values.join("|")
    }
}

#[test]
fn forwarding_fields_of_a_plain_request() {
    let headers = Case::new().run(&[("host", "app.example:8080"), ("accept", "*/*")]);
    let wanted = [
        ("host", "app.example:8080"),
        ("accept", "*/*"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-real-ip", "192.0.2.7"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-port", "8080"),
        ("x-forwarded-host", "app.example:8080"),
        ("forwarded", "for=192.0.2.7; proto=http; httpproto=http/1.1"),
    ];
    for (name, value) in wanted {
        assert_eq!(all(&headers, name), value, "{name}");
    }
    assert_eq!(headers.len(), wanted.len(), "nothing else: {headers:?}");
}

#[test]
fn rows() {
    let named = || Case {
        rewrite: HostRewrite::Name("other.example".into()),
        ..Case::new()
    };
    let no_host = || Case {
        host: None,
        version: Version::HTTP_10,
        ..Case::new()
    };
    let by = || Case {
        rules: HeaderRules {
            by: Some("10.9.9.9".into()),
            ..rules()
        },
        ..Case::tls()
    };
    let v6 = || Case {
        client: ClientContext::new("2001:db8::1".parse().unwrap(), None),
        ..Case::new()
    };
    let mapped = || Case {
        client: ClientContext::new("::ffff:192.0.2.9".parse().unwrap(), None),
        ..Case::new()
    };
    let ws = [("upgrade", "websocket"), ("connection", "Upgrade")];
    // what is sent, field, what arrives
    let cases: Vec<(Case, Vec<(&str, &str)>, &str, &str)> = vec![
        (
            Case::new(),
            vec![("x-forwarded-for", "1.1.1.1")],
            "x-forwarded-for",
            "1.1.1.1, 192.0.2.7",
        ),
        (
            Case::new(),
            vec![
                ("x-forwarded-for", "1.1.1.1"),
                ("x-forwarded-for", "2.2.2.2"),
            ],
            "x-forwarded-for",
            "1.1.1.1, 2.2.2.2, 192.0.2.7",
        ),
        (
            Case::new(),
            vec![("x-forwarded-for", "")],
            "x-forwarded-for",
            "192.0.2.7",
        ),
        (mapped(), vec![], "x-forwarded-for", "192.0.2.9"),
        (v6(), vec![], "x-forwarded-for", "2001:db8::1"),
        (
            v6(),
            vec![],
            "forwarded",
            "for=\"[2001:db8::1]\"; proto=http; httpproto=http/1.1",
        ),
        (
            Case::new(),
            vec![("x-real-ip", "3.3.3.3")],
            "x-real-ip",
            "3.3.3.3",
        ),
        (Case::tls(), vec![], "x-forwarded-proto", "https"),
        (
            Case::new(),
            vec![("x-forwarded-proto", "https")],
            "x-forwarded-proto",
            "https",
        ),
        (
            Case::new(),
            vec![("x-forwarded-proto", "https")],
            "forwarded",
            "for=192.0.2.7; proto=https; httpproto=http/1.1",
        ),
        (
            Case::new(),
            vec![("x-forwarded-proto", "a; by=evil")],
            "forwarded",
            "for=192.0.2.7; proto=http; httpproto=http/1.1",
        ),
        (
            Case::new(),
            vec![("forwarded", "for=9.9.9.9; proto=https")],
            "x-forwarded-proto",
            "https",
        ),
        (
            Case::new(),
            vec![("forwarded", "for=9.9.9.9")],
            "forwarded",
            "for=9.9.9.9; httpproto=http/1.1",
        ),
        (
            Case::new(),
            vec![("forwarded", "for=9.9.9.9")],
            "x-forwarded-proto",
            "http",
        ),
        (Case::new(), ws.to_vec(), "x-forwarded-proto", "http"),
        (
            Case::new(),
            ws.to_vec(),
            "forwarded",
            "for=192.0.2.7; proto=ws; httpproto=http/1.1",
        ),
        (Case::tls(), ws.to_vec(), "x-forwarded-proto", "https"),
        (
            by(),
            vec![],
            "forwarded",
            "for=192.0.2.7; proto=https; by=10.9.9.9; httpproto=http/1.1; tlsver=tls13; tlscipher=0x1301",
        ),
        (
            Case {
                version: Version::HTTP_2,
                ..Case::new()
            },
            vec![],
            "forwarded",
            "for=192.0.2.7; proto=http; httpproto=http/2.0",
        ),
        (
            no_host(),
            vec![],
            "forwarded",
            "for=192.0.2.7; proto=http; httpproto=http/1.0",
        ),
        (no_host(), vec![], "x-forwarded-port", "80"),
        (no_host(), vec![], "x-forwarded-host", "-"),
        (no_host(), vec![], "host", "10.0.0.1:5000"),
        (
            Case {
                host: Some(HeaderValue::from_static("[::1]")),
                ..Case::tls()
            },
            vec![],
            "x-forwarded-port",
            "443",
        ),
        (
            Case {
                host: Some(HeaderValue::from_static("[::1]:9")),
                ..Case::tls()
            },
            vec![],
            "x-forwarded-port",
            "9",
        ),
        (
            Case::new(),
            vec![("x-forwarded-port", "1")],
            "x-forwarded-port",
            "1",
        ),
        (
            Case::new(),
            vec![("x-forwarded-host", "front")],
            "x-forwarded-host",
            "front",
        ),
        (
            named(),
            vec![("host", "app.example:8080")],
            "host",
            "other.example",
        ),
        (
            named(),
            vec![("host", "app.example:8080")],
            "x-forwarded-host",
            "app.example:8080",
        ),
        (
            named(),
            vec![("host", "app.example:8080")],
            "x-forwarded-port",
            "8080",
        ),
        (
            Case {
                rewrite: HostRewrite::Target,
                ..Case::new()
            },
            vec![("host", "x")],
            "host",
            "10.0.0.1:5000",
        ),
        (
            Case {
                version: Version::HTTP_2,
                ..Case::new()
            },
            vec![],
            "host",
            "app.example:8080",
        ),
        (
            Case {
                upstream_h2: true,
                ..Case::new()
            },
            vec![("host", "app.example:8080")],
            "host",
            "-",
        ),
        (
            Case {
                strip: Some("/p"),
                ..Case::new()
            },
            vec![],
            "x-forwarded-prefix",
            "/p",
        ),
        (
            Case {
                strip: Some("/p"),
                ..Case::new()
            },
            vec![("x-forwarded-prefix", "/q")],
            "x-forwarded-prefix",
            "/p",
        ),
        (
            Case::new(),
            vec![("x-forwarded-prefix", "/q")],
            "x-forwarded-prefix",
            "/q",
        ),
        (
            Case::new(),
            vec![("te", "trailers, deflate")],
            "te",
            "trailers",
        ),
        (Case::new(), vec![("te", "trailers")], "connection", "te"),
        (
            Case {
                upstream_h2: true,
                ..Case::new()
            },
            vec![("te", "trailers")],
            "connection",
            "-",
        ),
        (Case::new(), vec![("te", "deflate")], "te", "-"),
        (
            Case::new(),
            vec![("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")],
            "cookie",
            "a=1; b=2; c=3",
        ),
        (
            Case {
                upstream_h2: true,
                ..Case::new()
            },
            vec![("cookie", "a=1"), ("cookie", "b=2")],
            "cookie",
            "a=1|b=2",
        ),
        (Case::new(), vec![("trailer", "x-sum")], "trailer", "x-sum"),
        (Case::new(), vec![], "user-agent", "-"),
    ];
    for (case, fields, name, wanted) in cases {
        assert_eq!(
            all(&case.run(&fields), name),
            wanted,
            "{name} of {fields:?}"
        );
    }
}

#[test]
fn hop_by_hop_fields_go() {
    let names = [
        "connection",
        "proxy-connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "transfer-encoding",
    ];
    for name in names {
        assert_eq!(
            all(&Case::new().run(&[(name, "x"), ("x-stays", "1")]), name),
            "-",
            "{name}"
        );
    }
    let headers = Case::new().run(&[
        ("connection", "X-Own, close"),
        ("connection", "x-second"),
        ("x-own", "1"),
        ("x-second", "1"),
        ("x-stays", "1"),
        ("upgrade", "websocket"),
    ]);
    for (name, wanted) in [
        ("x-own", "-"),
        ("x-second", "-"),
        ("x-stays", "1"),
        ("upgrade", "-"),
        ("connection", "-"),
    ] {
        assert_eq!(all(&headers, name), wanted, "{name}");
    }
}

#[test]
fn connection_cannot_take_protected_fields() {
    let mut case = Case::new();
    case.rules.client_ip_header = Some(HeaderName::from_static("x-client"));
    case.rules.request_id_header = Some(HeaderName::from_static("x-request-id"));
    for name in [
        "x-forwarded-for",
        "x-real-ip",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-forwarded-host",
        "forwarded",
        "x-request-id",
        "host",
        "content-length",
    ] {
        let headers = case.run(&[("connection", name), (name, "7")]);
        assert!(headers.contains_key(name), "{name}");
    }
    assert_eq!(
        all(
            &case.run(&[("connection", "X-Client"), ("x-client", "forged")]),
            "x-client"
        ),
        "192.0.2.7"
    );
}

#[test]
fn tls_field_is_set_or_removed() {
    let with = |mut case: Case| {
        case.rules.tls_header = Some((
            HeaderName::from_static("x-tls"),
            HeaderValue::from_static("yes"),
        ));
        all(&case.run(&[("x-tls", "forged")]), "x-tls")
    };
    assert_eq!(with(Case::tls()), "yes");
    assert_eq!(with(Case::new()), "-");
}

#[test]
fn upgrades() {
    let cases: [(&[(&str, &str)], Option<bool>); 9] = [
        (
            &[
                ("upgrade", "websocket"),
                ("connection", "keep-alive, Upgrade"),
            ],
            Some(true),
        ),
        (
            &[("upgrade", "WebSocket"), ("connection", "upgrade")],
            Some(true),
        ),
        (
            &[("upgrade", "foo/2"), ("connection", "upgrade")],
            Some(false),
        ),
        (&[("upgrade", "websocket")], None),
        (&[("upgrade", "websocket"), ("connection", "close")], None),
        (
            &[
                ("upgrade", "h2c"),
                ("connection", "upgrade, http2-settings"),
            ],
            None,
        ),
        (
            &[("upgrade", "websocket, H2C"), ("connection", "upgrade")],
            None,
        ),
        (&[("upgrade", "TLS/1.2"), ("connection", "upgrade")], None),
        (
            &[
                ("upgrade", "a"),
                ("upgrade", "b"),
                ("connection", "upgrade"),
            ],
            None,
        ),
    ];
    for (fields, wanted) in cases {
        assert_eq!(
            upgrade_of(&map(fields)).map(|upgrade| upgrade.websocket),
            wanted,
            "{fields:?}"
        );
        let headers = Case::new().run(fields);
        assert_eq!(
            all(&headers, "connection"),
            if wanted.is_some() { "Upgrade" } else { "-" },
            "{fields:?}"
        );
        assert_eq!(
            headers.contains_key("upgrade"),
            wanted.is_some(),
            "{fields:?}"
        );
    }
}

#[test]
fn hosts() {
    let h2 = Version::HTTP_2;
    let h1 = Version::HTTP_11;
    let cases: [(&str, &[(&str, &str)], Version, Result<Option<&str>, ()>); 11] = [
        ("/", &[("host", "a")], h1, Ok(Some("a"))),
        ("/", &[], h1, Ok(None)),
        ("/", &[("host", "a"), ("host", "a")], h1, Err(())),
        ("/", &[("host", "a/b")], h1, Err(())),
        ("/", &[("host", "a@b")], h1, Err(())),
        ("http://a:1/", &[], h2, Ok(Some("a:1"))),
        ("http://a/", &[("host", "A")], h2, Ok(Some("A"))),
        ("http://a/", &[("host", "b")], h2, Err(())),
        ("http://a/", &[("host", "b")], h1, Ok(Some("a"))),
        ("http://u@a/", &[], h2, Err(())),
        ("http://[::1]:8/", &[], h2, Ok(Some("[::1]:8"))),
    ];
    for (uri, fields, version, wanted) in cases {
        let found = received_host(&uri.parse().unwrap(), &map(fields), version);
        let found = found
            .map(|host| host.map(|host| host.to_str().unwrap().to_owned()))
            .map_err(|_| ());
        assert_eq!(
            found,
            wanted.map(|host| host.map(str::to_owned)),
            "{uri} {fields:?}"
        );
    }
}

#[test]
fn answers() {
    let mut case = Case::tls();
    case.rules.strict_transport_security = Some(HeaderValue::from_static("max-age=5"));
    let fields = [
        ("connection", "x-hop, upgrade"),
        ("x-hop", "1"),
        ("upgrade", "websocket"),
        ("keep-alive", "5"),
        ("content-length", "3"),
        ("set-cookie", "a"),
        ("set-cookie", "b"),
        ("trailer", "x-sum"),
    ];
    let mut headers = map(&fields);
    prepare_response(&mut headers, &case.client, &case.rules, false);
    for (name, wanted) in [
        ("connection", "-"),
        ("x-hop", "-"),
        ("upgrade", "-"),
        ("keep-alive", "-"),
        ("content-length", "3"),
        ("set-cookie", "a|b"),
        ("trailer", "x-sum"),
        ("strict-transport-security", "max-age=5"),
        ("server", "-"),
        ("via", "-"),
    ] {
        assert_eq!(all(&headers, name), wanted, "{name}");
    }
    let mut headers = map(&fields);
    prepare_response(&mut headers, &Case::new().client, &case.rules, true);
    for (name, wanted) in [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("x-hop", "-"),
        ("strict-transport-security", "-"),
    ] {
        assert_eq!(all(&headers, name), wanted, "{name}");
    }
}

#[test]
fn strict_transport_security_texts() {
    let text = |age, subdomains, preload| {
        strict_transport_security(age, subdomains, preload)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(text(0, true, true), None);
    assert_eq!(text(60, false, false).as_deref(), Some("max-age=60"));
    assert_eq!(
        text(60, true, true).as_deref(),
        Some("max-age=60; includeSubdomains; preload")
    );
}

#[test]
fn every_name_that_is_written_has_lookalikes_that_are_known() {
    for name in FIXED.iter().chain(&["transfer-encoding"]) {
        assert!(!resembles_ours(name.as_bytes()), "{name}");
        for punctuation in ["_", ".", "~"] {
            let other = name.replace('-', punctuation);
            assert_eq!(
                resembles_ours(other.as_bytes()),
                name.contains('-'),
                "{other}"
            );
        }
    }
    assert!(!resembles_ours(b"x_forwarded_user") && !resembles_ours(b"accept_encoding"));
}
