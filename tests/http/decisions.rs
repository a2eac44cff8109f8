//! What a decision is made from is not the client's word: fields that it forges, spells otherwise,
//! repeats, or writes in forms that are hard to read.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::{OK, Scripted, router, runtime};
use crate::support::client::exchange;

/// Ways into the router: HTTP/1.1, the same with a limit for requests, and HTTP/2.
const WAYS: [Way; 3] = [Way::Plain, Way::Limited, Way::H2];

/// Header fields of a request.
pub type Fields<'a> = &'a [(&'a str, &'a str)];

/// How a request comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// HTTP/1.1.
    Plain,
    /// The same, with a limit for each request.
    Limited,
    /// HTTP/2.
    H2,
}

impl Way {
    /// The configuration that this way needs.
    fn settings(self) -> String {
        self.settings_with("")
    }

    /// The same, with these further keys of `[proxy]`.
    pub fn settings_with(self, proxy: &str) -> String {
        let limit = if self == Self::Limited { 60 } else { 0 };
        format!("[proxy]\nrequest_timeout = \"{limit}s\"\n{proxy}")
    }

    /// Status, and `grpc-status` if there is one, of a request with these fields.
    pub fn ask(
        self,
        address: SocketAddr,
        host: &str,
        path: &str,
        fields: &[(&str, &str)],
    ) -> (u16, Option<String>) {
        if self == Self::H2 {
            return runtime().block_on(ask_h2(address, host, path, fields));
        }
        let fields: String = fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let answer = exchange(
            address,
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"),
        )
        .unwrap();
        (
            answer.status,
            answer.header("grpc-status").map(str::to_owned),
        )
    }
}

async fn ask_h2(
    address: SocketAddr,
    host: &str,
    path: &str,
    fields: &[(&str, &str)],
) -> (u16, Option<String>) {
    let io = TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://{host}{path}"));
    let request = fields.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    client.ready().await.unwrap();
    let answer = client
        .send_request(request.body(Empty::<Bytes>::new()).unwrap())
        .await
        .unwrap();
    let grpc = answer
        .headers()
        .get("grpc-status")
        .map(|status| status.to_str().unwrap().to_owned());
    (answer.status().as_u16(), grpc)
}

/// The fields of the last request that came, names in lower case.
pub fn last_fields(upstream: &Scripted) -> Vec<(String, String)> {
    let received = upstream.received();
    let start = received.rfind(" HTTP/1.1\r\n").expect("a request");
    let head = received[start..].split("\r\n\r\n").next().unwrap();
    let field = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    };
    head.lines().skip(1).map(field).collect()
}

/// The values of the fields of this name.
pub fn values<'f>(fields: &'f [(String, String)], name: &str) -> Vec<&'f str> {
    fields
        .iter()
        .filter(|(known, _)| known == name)
        .map(|(_, value)| &**value)
        .collect()
}

#[test]
fn a_service_that_decides_is_told_what_was_seen_and_not_what_the_client_says() {
    for way in WAYS {
        let (upstream, decider) = (Scripted::replying(OK), Scripted::replying(OK));
        let more = format!(
            "{}[auth.sso]\ntype = \"external\"\nendpoint = \"http://{}/check\"\n",
            way.settings(),
            decider.address
        );
        let lb = router(
            &[(
                "protected.test/",
                &[upstream.address],
                "auth=sso strip=/app",
            )],
            &more,
        );
        let forged = [
            ("x-forwarded-host", "public.test"),
            ("x-forwarded-host", "public2.test"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-method", "OPTIONS"),
            ("x-forwarded-uri", "/public"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-prefix", "/public"),
            ("x-forwarded-server", "public.test"),
            ("x-forwarded-path", "/public"),
            ("x-real-ip", "10.0.0.1"),
            ("x-original-url", "/public"),
            ("x-original-uri", "/public"),
            ("x-original-method", "OPTIONS"),
            ("x-original-host", "public.test"),
            ("x-rewrite-url", "/public"),
            ("x-http-method-override", "OPTIONS"),
            ("forwarded", "for=10.0.0.1;host=public.test;proto=https"),
            ("x_forwarded_host", "public.test"),
            ("x.forwarded.uri", "/public"),
            ("x_original_url", "/public"),
            ("x_real_ip", "10.0.0.1"),
            ("cookie", "session=1"),
        ];
        let forged: Vec<_> = match way {
            Way::H2 => forged.to_vec(),
            // A client cannot take away what is written here, either.
            _ => [
                &forged[..],
                &[(
                    "connection",
                    "x-forwarded-host, x-forwarded-uri, x-forwarded-method, x-real-ip",
                )],
            ]
            .concat(),
        };
        assert_eq!(
            way.ask(
                lb.address("http"),
                "protected.test",
                "/public/../app/in?x=1",
                &forged
            )
            .0,
            200,
            "{way:?}"
        );
        let seen = last_fields(&decider);
        let version = if way == Way::H2 { "2.0" } else { "1.1" };
        for (name, wanted) in [
            ("x-forwarded-host", "protected.test"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-method", "GET"),
            // What is routed and sent on, not what the client wrote.
            ("x-forwarded-uri", "/app/in?x=1"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-port", "80"),
            ("x-forwarded-prefix", "/app"),
            ("x-real-ip", "127.0.0.1"),
            (
                "forwarded",
                &format!("for=127.0.0.1; proto=http; httpproto=http/{version}"),
            ),
            ("cookie", "session=1"),
        ] {
            assert_eq!(values(&seen, name), [wanted], "{way:?} {name}: {seen:?}");
        }
        for (name, value) in &seen {
            assert!(
                !value.contains("public") && !value.contains("10.0.0.1") && value != "OPTIONS",
                "{way:?} {name}: {value}"
            );
        }
        assert!(
            upstream.received().starts_with("GET /in?x=1 "),
            "{way:?}: {}",
            upstream.received()
        );
        // The same host in another spelling is the same for the service, too.
        assert_eq!(
            way.ask(lb.address("http"), "PROTECTED.Test.:80", "/app/", &[])
                .0,
            200,
            "{way:?}"
        );
        let seen = last_fields(&decider);
        assert_eq!(
            values(&seen, "x-forwarded-host"),
            ["protected.test:80"],
            "{way:?}"
        );
    }
}

/// Cookies come split in HTTP/2, and stay so for an instance that speaks it; the service that
/// decides gets its request in HTTP/1.1.
#[test]
fn a_service_that_decides_gets_all_cookies_in_one_field() {
    let (upstream, decider) = (Scripted::replying(OK), Scripted::replying(OK));
    let more = format!(
        "[auth.sso]\ntype = \"external\"\nendpoint = \"http://{}/check\"\n",
        decider.address
    );
    let to = &[upstream.address][..];
    let lb = router(
        &[
            ("one.test/", to, "auth=sso"),
            ("two.test/", to, "auth=sso proto=h2c"),
        ],
        &more,
    );
    for host in ["one.test", "two.test"] {
        Way::H2.ask(
            lb.address("http"),
            host,
            "/",
            &[("cookie", "a=1"), ("cookie", "b=2")],
        );
        assert_eq!(
            values(&last_fields(&decider), "cookie"),
            ["a=1; b=2"],
            "{host}"
        );
    }
}

#[test]
fn rules_for_addresses_read_every_form_of_a_hop_and_refuse_what_they_cannot_read() {
    // Fields; may pass deny=ip:203.0.113.0/24,ip:2001:db8::/32; may pass
    // allow=ip:127.0.0.0/8,ip:192.0.2.0/24.
    let table: &[(Fields<'_>, bool, bool)] = &[
        (&[], true, true),
        (&[("x-forwarded-for", "192.0.2.1")], true, true),
        (&[("x-forwarded-for", "192.0.2.1:4711")], true, true),
        (&[("x-forwarded-for", "\"192.0.2.1\"")], true, true),
        (
            &[("x-forwarded-for", ""), ("x-forwarded-for", ", 192.0.2.1,")],
            true,
            true,
        ),
        (&[("x-forwarded-for", "::ffff:192.0.2.1")], true, true),
        (&[("x-forwarded-for", "198.51.100.1")], true, false),
        (&[("x-forwarded-for", "203.0.113.9")], false, false),
        (&[("x-forwarded-for", "203.0.113.9:4711")], false, false),
        (&[("x-forwarded-for", "\"203.0.113.9:4711\"")], false, false),
        (
            &[("x-forwarded-for", "192.0.2.1, 203.0.113.9:1, 192.0.2.2")],
            false,
            false,
        ),
        (
            &[
                ("x-forwarded-for", "192.0.2.1"),
                ("x-forwarded-for", "203.0.113.9:1"),
            ],
            false,
            false,
        ),
        (&[("x-forwarded-for", "::ffff:203.0.113.9")], false, false),
        (
            &[("x-forwarded-for", "[::ffff:203.0.113.9]:80")],
            false,
            false,
        ),
        (&[("x-forwarded-for", "[2001:db8::1]:443")], false, false),
        (
            &[("x-forwarded-for", "\"[2001:db8::1]:443\"")],
            false,
            false,
        ),
        (&[("x-forwarded-for", "[2001:db8::1]")], false, false),
        (&[("x-forwarded-for", "2001:db8::1%eth0")], false, false),
        (&[("x-forwarded-for", "unknown")], false, false),
        (&[("x-forwarded-for", "192.0.2.1, unknown")], false, false),
        (&[("x-forwarded-for", "_hidden")], false, false),
        (&[("x-forwarded-for", "203.0.113.009")], false, false),
        (&[("forwarded", "for=192.0.2.1;proto=http")], true, true),
        (&[("forwarded", "proto=https")], true, true),
        (
            &[("forwarded", "for=\"192.0.2.1:80\", for=203.0.113.9")],
            false,
            false,
        ),
        (&[("forwarded", "For=\"203.0.113.9:4711\"")], false, false),
        (
            &[("forwarded", "proto=http; for=\"[2001:db8::1]:443\"")],
            false,
            false,
        ),
        (&[("forwarded", "for=unknown")], false, false),
        (&[("forwarded", "for=\"192.0.2.1")], false, false),
        // Neither field hides what the other says.
        (
            &[
                ("x-forwarded-for", "192.0.2.1"),
                ("forwarded", "for=203.0.113.9"),
            ],
            false,
            false,
        ),
    ];
    let upstream = Scripted::replying(OK);
    let to = &[upstream.address][..];
    let routes = [
        ("deny.test/", to, "deny=ip:203.0.113.0/24,ip:2001:db8::/32"),
        ("allow.test/", to, "allow=ip:127.0.0.0/8,ip:192.0.2.0/24"),
        ("open.test/", to, ""),
    ];
    for way in WAYS {
        // As in Fabio: all that a trusted sender names is looked at.
        let lb = router(
            &routes,
            &way.settings_with("trusted_proxies = [\"127.0.0.1\"]\nclient_address = \"peer\"\n"),
        );
        for (fields, deny, allow) in table {
            for (host, passes) in [
                ("deny.test", *deny),
                ("allow.test", *allow),
                ("open.test", true),
            ] {
                let (status, _) = way.ask(lb.address("http"), host, "/", fields);
                assert_eq!(
                    status,
                    if passes { 200 } else { 403 },
                    "{way:?} {host} {fields:?}"
                );
            }
        }
    }
}

#[test]
fn names_that_could_be_taken_for_ours_do_not_arrive() {
    for way in WAYS {
        let upstream = Scripted::replying(OK);
        let decider = Scripted::replying(
            "HTTP/1.1 200 OK\r\nX-Auth-User: ann\r\nX-Auth-Groups: staff\r\nContent-Length: 0\r\n\r\n",
        );
        let more = format!(
            "[proxy]\nrequest_timeout = \"{}\"\nclient_ip_header = \"X-Client\"\ntls_header = \"X-Is-Tls\"\n\
             request_id_header = \"X_Request_Id\"\n\
             [auth.sso]\ntype = \"external\"\nendpoint = \"http://{}/\"\nset_headers = [\"X-Auth-User\", \"X-Auth-Role\"]\n\
             append_headers = [\"X-Auth-Groups\"]\n",
            if way == Way::Limited { "60s" } else { "0s" },
            decider.address
        );
        let to = &[upstream.address][..];
        let lb = router(
            &[
                ("open.test/", to, "strip=/s"),
                ("auth.test/", to, "auth=sso strip=/s"),
            ],
            &more,
        );
        let forged = [
            "x_forwarded_for",
            "x.forwarded.for",
            "x-forwarded_host",
            "X_Forwarded_Proto",
            "x_forwarded_port",
            "x_forwarded_prefix",
            "x_real_ip",
            "content_length",
            "transfer_encoding",
            "x_client",
            "x.client",
            "x_is_tls",
            "x-is.tls",
            "x-request-id",
            "x.request.id",
        ];
        let of_auth = [
            "x_auth_user",
            "x.auth.user",
            "x-auth_user",
            "x-auth-user",
            "x_auth_role",
            "x_auth_groups",
        ];
        let mut fields: Vec<(&str, &str)> = forged
            .iter()
            .chain(&of_auth)
            .map(|name| (*name, "forged"))
            .collect();
        let lower: Vec<String> = fields
            .iter()
            .map(|(name, _)| name.to_ascii_lowercase())
            .collect();
        if way == Way::H2 {
            for (field, name) in fields.iter_mut().zip(&lower) {
                field.0 = name;
            }
        }
        fields.push(("x_harmless", "kept"));
        for (host, of_auth_pass) in [("open.test", true), ("auth.test", false)] {
            assert_eq!(
                way.ask(lb.address("http"), host, "/s/x", &fields).0,
                200,
                "{way:?} {host}"
            );
            let seen = last_fields(&upstream);
            let mut came: Vec<&str> = seen
                .iter()
                .filter(|(_, value)| value == "forged")
                .map(|(name, _)| &**name)
                .collect();
            came.sort_unstable();
            if of_auth_pass {
                // They are written on the other route alone, so here they are the client's own
                // business.
                let mut wanted = of_auth.to_vec();
                wanted.sort_unstable();
                assert_eq!(came, wanted, "{way:?} {host}");
            } else {
                assert_eq!(came, [""; 0], "{way:?} {host}: {seen:?}");
                assert_eq!(values(&seen, "x-auth-user"), ["ann"]);
                assert_eq!(values(&seen, "x-auth-groups"), ["staff"]);
            }
            assert_eq!(values(&seen, "x_harmless"), ["kept"], "{way:?} {host}");
            assert_eq!(values(&seen, "x-client"), ["127.0.0.1"], "{way:?} {host}");
            assert_eq!(values(&seen, "x_request_id").len(), 1, "{way:?} {host}");
        }
    }
}

/// Without any configured name the usual way is taken, which writes lines as they came.
#[test]
fn forwarding_fields_have_one_spelling_without_further_configuration() {
    for way in WAYS {
        let upstream = Scripted::replying(OK);
        let lb = router(&[("h/", &[upstream.address], "")], &way.settings());
        let fields = [
            ("x_forwarded_for", "10.0.0.1"),
            ("x_real_ip", "10.0.0.1"),
            ("x_other", "10.0.0.1"),
        ];
        assert_eq!(way.ask(lb.address("http"), "h", "/", &fields).0, 200);
        let seen = last_fields(&upstream);
        let came: Vec<&str> = seen
            .iter()
            .filter(|(_, value)| value == "10.0.0.1")
            .map(|(name, _)| &**name)
            .collect();
        assert_eq!(came, ["x_other"], "{way:?}");
        assert_eq!(values(&seen, "x-forwarded-for"), ["127.0.0.1"], "{way:?}");
    }
}

#[test]
fn a_field_that_decides_is_refused_when_it_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    std::fs::write(&file, "ann:secret\n").unwrap();
    let ann = format!("Basic {}", STANDARD.encode("ann:secret"));
    let eve = format!("Basic {}", STANDARD.encode("eve:x"));
    for way in WAYS {
        let (upstream, decider) = (Scripted::replying(OK), Scripted::replying(OK));
        let more = format!(
            "{}[auth.main]\nfile = {:?}\n[auth.sso]\ntype = \"external\"\nendpoint = \"http://{}/\"\n",
            way.settings_with("trusted_proxies = [\"127.0.0.1\"]\n"),
            file.to_str().unwrap(),
            decider.address
        );
        let to = &[upstream.address][..];
        let routes = [
            ("open.test/", to, ""),
            ("basic.test/", to, "auth=main"),
            ("sso.test/", to, "auth=sso"),
            ("moved.test/", to, "redirect=301,https://$host$path"),
        ];
        let lb = router(&routes, &more);
        let grpc = "application/grpc";
        let table: &[(&str, Fields<'_>, u16, Option<&str>)] = &[
            ("basic.test", &[("authorization", &ann)], 200, None),
            (
                "basic.test",
                &[("authorization", &ann), ("authorization", &eve)],
                400,
                None,
            ),
            (
                "basic.test",
                &[("authorization", &eve), ("authorization", &ann)],
                400,
                None,
            ),
            (
                "basic.test",
                &[("authorization", &ann), ("authorization", &ann)],
                400,
                None,
            ),
            (
                "sso.test",
                &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
                400,
                None,
            ),
            (
                "basic.test",
                &[
                    ("content-type", grpc),
                    ("authorization", &ann),
                    ("authorization", &eve),
                ],
                200,
                Some("3"),
            ),
            // Where it decides nothing it passes, as ever.
            (
                "open.test",
                &[("authorization", &ann), ("authorization", &eve)],
                200,
                None,
            ),
            (
                "open.test",
                &[("content-type", "a/b"), ("content-type", "c/d")],
                200,
                None,
            ),
            (
                "open.test",
                &[
                    ("accept", "a/b"),
                    ("accept", "c/d"),
                    ("x-forwarded-proto", "https"),
                ],
                200,
                None,
            ),
            (
                "open.test",
                &[
                    ("x-forwarded-proto", "http"),
                    ("x-forwarded-proto", "https"),
                ],
                200,
                None,
            ),
            (
                "open.test",
                &[("content-type", "text/plain"), ("content-type", grpc)],
                400,
                None,
            ),
            (
                "open.test",
                &[("content-type", grpc), ("content-type", "text/plain")],
                200,
                Some("3"),
            ),
            ("moved.test", &[("x-forwarded-proto", "http")], 301, None),
            (
                "moved.test",
                &[
                    ("x-forwarded-proto", "https"),
                    ("x-forwarded-proto", "http"),
                ],
                400,
                None,
            ),
        ];
        for (host, fields, status, grpc) in table {
            let before = (upstream.requests(), decider.requests());
            let got = way.ask(lb.address("http"), host, "/", fields);
            assert_eq!(
                (got.0, got.1.as_deref()),
                (*status, *grpc),
                "{way:?} {host} {fields:?}"
            );
            let asked = (upstream.requests(), decider.requests()) != before;
            assert_eq!(
                asked,
                *status == 200 && grpc.is_none(),
                "{way:?} {host} {fields:?}"
            );
        }
        for fields in [
            &[("content-length", "0"), ("content-length", "0")],
            &[("content-length", "0"), ("content-length", "1")],
        ] {
            if way != Way::H2 {
                assert_eq!(
                    way.ask(lb.address("http"), "open.test", "/", fields).0,
                    400,
                    "{way:?} {fields:?}"
                );
            }
        }
    }
}

#[test]
fn a_redirect_with_nothing_left_of_the_path_adds_no_slash() {
    let upstream = Scripted::replying(OK);
    let to = &[upstream.address][..];
    let routes = [
        (
            "a.test/stripme",
            to,
            "redirect=302,http://to.test/bbb$path strip=/stripme",
        ),
        (
            "b.test/stripme",
            to,
            "redirect=302,http://to.test$path strip=/stripme",
        ),
        (
            "c.test/stripme",
            to,
            "redirect=302,http://to.test/$path strip=/stripme prepend=/x",
        ),
        ("d.test/", to, "redirect=302,http://to.test$path prepend=/x"),
        ("e.test/s", to, "strip=/s"),
        ("f.test/s", to, "strip=/s prepend=/x"),
        ("g.test/", to, "prepend=/x"),
    ];
    for way in [Way::Plain, Way::Limited] {
        let lb = router(&routes, &way.settings());
        for (host, path, wanted) in [
            ("a.test", "/stripme", "http://to.test/bbb"),
            ("a.test", "/stripme?q=1", "http://to.test/bbb?q=1"),
            ("a.test", "/stripme/", "http://to.test/bbb/"),
            ("a.test", "/stripme/abc?q=1", "http://to.test/bbb/abc?q=1"),
            ("b.test", "/stripme", "http://to.test/"),
            ("b.test", "/stripme?q=1", "http://to.test/?q=1"),
            ("c.test", "/stripme", "http://to.test/x"),
            ("c.test", "/stripme/", "http://to.test/x/"),
            ("d.test", "/", "http://to.test/x/"),
        ] {
            let answer = crate::support::client::get(lb.address("http"), host, path);
            assert_eq!(
                (answer.status, answer.header("location")),
                (302, Some(wanted)),
                "{way:?} {host}{path}"
            );
        }
        // A request to an instance always has a path.
        for (host, path, wanted) in [
            ("e.test", "/s", "/"),
            ("e.test", "/s?q", "/?q"),
            ("f.test", "/s", "/x/"),
            ("g.test", "/", "/x/"),
        ] {
            assert_eq!(way.ask(lb.address("http"), host, path, &[]).0, 200);
            let received = upstream.received();
            let line = received
                .lines()
                .rfind(|line| line.ends_with(" HTTP/1.1"))
                .unwrap();
            assert_eq!(
                line,
                format!("GET {wanted} HTTP/1.1"),
                "{way:?} {host}{path}"
            );
        }
    }
}
