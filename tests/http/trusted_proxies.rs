//! Which senders are believed about the client of a request, in all that looks at it, over both
//! versions of HTTP.

use std::net::SocketAddr;

use crate::decisions::{Way, last_fields, values};
use crate::harness::{OK, Scripted, router};
use crate::support::lb::Lb;
use crate::support::wait::wait_until;

const WAYS: [Way; 2] = [Way::Plain, Way::H2];

/// Fields that name a client.
type Naming = fn(&str) -> Vec<(&'static str, String)>;

/// Forms of telling of a client, with what stands left and right of it in a chain; whether they name
/// its address; the scheme that they name.
const FORMS: [(&str, Naming, bool, Option<&str>); 7] = [
    (
        "one address",
        |client| vec![("x-forwarded-for", client.to_owned())],
        true,
        None,
    ),
    (
        "a chain of trusted proxies, and what the client forged",
        |client| {
            vec![(
                "x-forwarded-for",
                format!("198.51.100.66, {client}, 10.0.0.7, 10.0.0.8"),
            )]
        },
        true,
        None,
    ),
    (
        "several fields",
        |client| {
            vec![
                ("x-forwarded-for", "unknown, 198.51.100.66".to_owned()),
                ("x-forwarded-for", client.to_owned()),
                ("forwarded", "for=198.51.100.67".to_owned()),
                ("x-real-ip", "198.51.100.68".to_owned()),
            ]
        },
        true,
        None,
    ),
    (
        "Forwarded",
        |client| {
            vec![(
                "forwarded",
                format!("for=198.51.100.66, for={client};proto=https, for=\"10.0.0.7:80\""),
            )]
        },
        true,
        Some("https"),
    ),
    (
        "X-Real-Ip",
        |client| vec![("x-real-ip", client.to_owned())],
        true,
        None,
    ),
    (
        "X-Forwarded-Proto",
        |_| vec![("x-forwarded-proto", "https".to_owned())],
        false,
        Some("https"),
    ),
    (
        "an address that cannot be read",
        |client| vec![("x-forwarded-for", format!("{client}, unknown"))],
        false,
        None,
    ),
];

const UNREADABLE: usize = 6;
const CLIENT: &str = "203.0.113.9";

struct Stand {
    lb: Lb,
    /// Gets what no other route takes, and the first half of `/hash`.
    upstream: Scripted,
    other: Scripted,
}

fn start(trusted: &str) -> Stand {
    let (upstream, other) = (Scripted::replying(OK), Scripted::replying(OK));
    let one = [upstream.address];
    let both = [upstream.address, other.address];
    let rates: Vec<String> = (0..FORMS.len())
        .flat_map(|form| WAYS.map(|way| format!("/rate{form}{way:?}/")))
        .collect();
    let mut routes: Vec<(&str, &[SocketAddr], &str)> = vec![
        ("/", &one, ""),
        ("/allow", &one, "allow=ip:203.0.113.0/24"),
        ("/deny", &one, "deny=ip:203.0.113.0/24"),
        ("/hash", &both, "strategy=hash:ip"),
        ("/moved", &one, "redirect=301,https://$host$path"),
    ];
    for place in &rates {
        routes.push((place, &one, "rate=1/h by=ip"));
    }
    let more = format!(
        "[proxy]\ntrusted_proxies = [{trusted}]\n[log]\naccess = '$remote_host $request_uri'\n"
    );
    let lb = router(&routes, &more);
    Stand {
        lb,
        upstream,
        other,
    }
}

impl Stand {
    fn status(&self, way: Way, path: &str, fields: &[(&'static str, String)]) -> u16 {
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        way.ask(self.lb.address("http"), "h", path, &fields).0
    }
}

#[test]
fn only_trusted_senders_are_believed_by_all_that_looks_at_the_client() {
    for (trusted, believed) in [
        ("\"127.0.0.0/8\", \"10.0.0.0/8\"", true),
        ("\"10.0.0.0/8\"", false),
        ("", false),
    ] {
        let stand = start(trusted);
        for (number, (form, naming, names_client, scheme)) in FORMS.iter().enumerate() {
            for way in WAYS {
                let about = format!("trusted [{trusted}], {form}, {way:?}");
                let fields = naming(CLIENT);
                let (known, unreadable) =
                    (believed && *names_client, believed && number == UNREADABLE);
                // Access: what cannot be read may be the one that is meant.
                let expected = |passes: bool| if passes { 200 } else { 403 };
                assert_eq!(
                    stand.status(way, "/allow", &fields),
                    expected(known),
                    "{about}"
                );
                assert_eq!(
                    stand.status(way, "/deny", &fields),
                    expected(!known && !unreadable),
                    "{about}"
                );
                // Rate: clients that are believed to be others have tokens of their own.
                let place = format!("/rate{number}{way:?}/");
                let second = if known { 200 } else { 429 };
                assert_eq!(stand.status(way, &place, &fields), 200, "{about}");
                assert_eq!(
                    stand.status(way, &place, &naming("203.0.113.10")),
                    second,
                    "{about}"
                );
                assert_eq!(stand.status(way, &place, &fields), 429, "{about}");
                // Hash: only known clients are spread.
                let before = [stand.upstream.requests(), stand.other.requests()];
                for client in 1..=24 {
                    let fields = naming(&format!("192.0.2.{client}"));
                    assert_eq!(stand.status(way, "/hash", &fields), 200, "{about}");
                }
                let got = [
                    stand.upstream.requests() - before[0],
                    stand.other.requests() - before[1],
                ];
                assert_eq!(got.iter().all(|got| *got > 0), known, "{about}: {got:?}");
                // Scheme: a redirect to where the client is already is none.
                let moved = if believed && scheme.is_some() {
                    404
                } else {
                    301
                };
                assert_eq!(stand.status(way, "/moved", &fields), moved, "{about}");
                // Log.
                let path = format!("/log/{number}/{way:?}");
                assert_eq!(stand.status(way, &path, &fields), 200, "{about}");
                let line = stand
                    .lb
                    .wait_stdout("record", |line| line.ends_with(&format!(" {path}")));
                let remote = if known { CLIENT } else { "127.0.0.1" };
                // The last trusted one before what cannot be read is the sender here.
                assert_eq!(line, format!("{remote} {path}"), "{about}");
                arrives(&stand, way, &fields, believed, *scheme, &about);
            }
        }
    }
}

/// What an instance gets of these fields: believed ones extended, others replaced.
fn arrives(
    stand: &Stand,
    way: Way,
    fields: &[(&'static str, String)],
    believed: bool,
    scheme: Option<&str>,
    about: &str,
) {
    let more = [
        ("x-forwarded-host", "public.test"),
        ("x-forwarded-port", "8443"),
        ("x-forwarded-prefix", "/p"),
        ("x-forwarded-user", "root"),
        ("x_forwarded_groups", "wheel"),
    ];
    let mut sent = fields.to_vec();
    sent.extend(more.map(|(name, value)| (name, value.to_owned())));
    assert_eq!(stand.status(way, "/arrives", &sent), 200, "{about}");
    let seen = last_fields(&stand.upstream);
    let of = |name: &str| -> Vec<&str> {
        fields
            .iter()
            .filter(|(known, _)| *known == name)
            .map(|(_, value)| &**value)
            .collect()
    };
    let one = |name: &str| -> String {
        let found = values(&seen, name);
        assert!(found.len() <= 1, "{about}: {name} {found:?}");
        found.join("")
    };
    let chain = [of("x-forwarded-for"), vec!["127.0.0.1"]]
        .concat()
        .join(", ");
    let real_ip = of("x-real-ip").first().copied().unwrap_or("127.0.0.1");
    let version = if way == Way::H2 { "2.0" } else { "1.1" };
    let fresh = format!("for=127.0.0.1; proto=http; httpproto=http/{version}");
    if believed {
        assert_eq!(one("x-forwarded-for"), chain, "{about}");
        assert_eq!(one("x-real-ip"), real_ip, "{about}");
        assert_eq!(
            one("x-forwarded-proto"),
            scheme.unwrap_or("http"),
            "{about}"
        );
        match of("forwarded")[..] {
            [value] => assert!(one("forwarded").starts_with(value), "{about}: {seen:?}"),
            _ => assert!(one("forwarded").starts_with("for=127.0.0.1"), "{about}"),
        }
        for (name, value) in more {
            assert_eq!(one(name), value, "{about}: {name}");
        }
    } else {
        assert_eq!(one("x-forwarded-for"), "127.0.0.1", "{about}");
        assert_eq!(one("x-real-ip"), "127.0.0.1", "{about}");
        assert_eq!(one("x-forwarded-proto"), "http", "{about}");
        assert_eq!(one("forwarded"), fresh, "{about}");
        assert_eq!(one("x-forwarded-host"), "h", "{about}");
        assert_eq!(one("x-forwarded-port"), "80", "{about}");
        for name in [
            "x-forwarded-prefix",
            "x-forwarded-user",
            "x_forwarded_groups",
        ] {
            assert_eq!(one(name), "", "{about}: {name}");
        }
    }
}

/// The text that tells of it once.
const TOLD: &str = "proxy.trusted_proxies";

#[test]
fn the_first_field_that_is_not_believed_is_told_once_with_the_key_to_set() {
    let stand = start("\"10.0.0.0/8\"");
    let told = || stand.lb.stderr().matches(TOLD).count();
    assert_eq!(stand.status(Way::Plain, "/", &[]), 200);
    assert_eq!(told(), 0, "{}", stand.lb.stderr());
    for way in WAYS {
        for _ in 0..3 {
            let fields = [("x-forwarded-proto", "https".to_owned())];
            assert_eq!(stand.status(way, "/", &fields), 200);
        }
    }
    wait_until("the line", || told() > 0);
    assert_eq!(told(), 1, "{}", stand.lb.stderr());
    // Those that are believed cause none, and nothing is wrong with them.
    let stand = start("\"127.0.0.1\"");
    assert_eq!(stand.status(Way::Plain, "/", &FORMS[0].1(CLIENT)), 200);
    assert!(!stand.lb.stderr().contains(TOLD), "{}", stand.lb.stderr());
}

#[test]
fn explain_believes_whom_requests_are_believed_from() {
    let stand = start("\"10.0.0.0/8\"");
    let told = |from: &str, path: &str, field: &str| {
        let field: String = field.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let (status, body) = stand.lb.admin(&format!(
            "/api/explain?url=http://h{path}&from={from}&header={field}"
        ));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<serde_json::Value>(&body).unwrap()
    };
    let named = "X-Forwarded-For: 198.51.100.1, 203.0.113.9, 10.0.0.7";
    let hidden = "X-Forwarded-For: 203.0.113.9, unknown";
    for (from, path, field, status, client) in [
        ("10.0.0.1", "/allow", named, None, Some(CLIENT)),
        ("10.0.0.1", "/deny", named, Some(403), Some(CLIENT)),
        ("192.0.2.1", "/allow", named, Some(403), Some("192.0.2.1")),
        ("192.0.2.1", "/deny", named, None, Some("192.0.2.1")),
        ("10.0.0.1", "/allow", hidden, Some(403), Some("10.0.0.1")),
        ("10.0.0.1", "/deny", hidden, Some(403), Some("10.0.0.1")),
        ("203.0.113.1", "/allow", "X-A: 1", None, None),
        (
            "10.0.0.1",
            "/moved",
            "X-Forwarded-Proto: http",
            Some(301),
            None,
        ),
        (
            "192.0.2.1",
            "/moved",
            "X-Forwarded-Proto: https",
            Some(301),
            Some("192.0.2.1"),
        ),
        (
            "10.0.0.1",
            "/moved",
            "X-Forwarded-Proto: https",
            Some(404),
            None,
        ),
    ] {
        let answer = told(from, path, field);
        let about = format!("{from} {path} {field}: {}", answer["text"]);
        assert_eq!(answer["status"].as_u64(), status, "{about}");
        assert_eq!(answer["client"].as_str(), client, "{about}");
        if from == "192.0.2.1" {
            assert!(answer["text"].as_str().unwrap().contains(TOLD), "{about}");
        }
    }
}
