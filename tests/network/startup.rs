//! Files that are bad when the process starts: they cost what depends on them, and nothing else,
//! until they are mended.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use lb::trust::AcceptAny;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, SignatureScheme};

use super::support::certs::{Ca, Pair};
use super::support::client;
use super::support::lb::Lb;
use super::support::upstream::Upstream;
use super::tls::{Trust, shown};
use super::wire::*;
use crate::support::wait::wait_until;

const ECDSA: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
const RSA: [SignatureScheme; 2] = [
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
];

/// What a client is shown for `name` that takes any certificate, and signatures of these kinds
/// alone; none: there is no handshake.
fn shown_to_blind(
    lb: &Lb,
    name: &str,
    schemes: &[SignatureScheme],
    version: &'static rustls::SupportedProtocolVersion,
) -> Option<CertificateDer<'static>> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let algorithms = &mut provider.signature_verification_algorithms;
    let taken = algorithms
        .mapping
        .iter()
        .filter(|(scheme, _)| schemes.contains(scheme));
    algorithms.mapping = taken.copied().collect::<Vec<_>>().leak();
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap();
    let verifier = Arc::new(AcceptAny::new(provider));
    let config = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let (address, name) = (
        lb.address("https"),
        ServerName::try_from(name.to_owned()).unwrap(),
    );
    block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector
            .connect(name, stream)
            .await
            .ok()
            .map(|stream| shown(&stream))
    })
}

fn certificate(pair: &Pair) -> Option<CertificateDer<'static>> {
    Some(CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()).unwrap())
}

fn write(folder: &Path, name: &str, pair: &Pair) {
    std::fs::write(folder.join(format!("{name}-cert.pem")), &pair.cert_pem).unwrap();
    std::fs::write(folder.join(format!("{name}-key.pem")), &pair.key_pem).unwrap();
}

fn path_source(folder: &Path) -> String {
    format!("[certificates.main]\nsource = \"path\"\npath = {folder:?}\n")
}

/// Plain HTTP beside HTTPS with `[certificates.main]`.
fn both(upstream: &Upstream, source: &str) -> String {
    config(
        &(listener("http", "")
            + &listener("https", "certificates = \"main\"")
            + source
            + &route("web", "/", &[url("http", upstream.address)], "")),
    )
}

/// `lb check` fails, and says so with this.
fn check_fails(text: &str, words: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.toml");
    std::fs::write(&path, text).unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_lb"));
    let output = check
        .arg("check")
        .arg("--config")
        .arg(path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(words), "{said}");
}

const ERRORS: &str = "lb_certificate_errors{source=\"certificates.main\"}";

#[test]
fn a_bad_pair_of_a_folder_costs_itself() {
    let (ca, upstream) = (Ca::new("ca"), Upstream::start("u"));
    let (good, other) = (ca.pair(&["good.test"]), ca.pair(&["bad.test"]));
    let garbage = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    type Make<'a> = Box<dyn Fn(&Path) + 'a>;
    // What is bad, and the words of `lb check` about it; a bad one may come before the good one.
    let cases: Vec<(&str, &str, Make<'_>)> = vec![
        (
            "expired",
            "ended",
            Box::new(|dir| write(dir, "a", &ca.pair_valid(&["bad.test"], (2020, 2021)))),
        ),
        (
            "early",
            "is not valid yet",
            Box::new(|dir| write(dir, "a", &ca.pair_valid(&["bad.test"], (2090, 2091)))),
        ),
        (
            "garbage",
            "holds no certificate",
            Box::new(|dir| {
                write(
                    dir,
                    "a",
                    &Pair {
                        cert_pem: garbage.to_owned(),
                        key_pem: other.key_pem.clone(),
                    },
                );
            }),
        ),
        (
            "another's key",
            "is not the key of",
            Box::new(|dir| {
                write(
                    dir,
                    "z",
                    &Pair {
                        cert_pem: other.cert_pem.clone(),
                        key_pem: good.key_pem.clone(),
                    },
                );
            }),
        ),
        (
            "empty",
            "holds no certificate",
            Box::new(|dir| {
                write(
                    dir,
                    "a",
                    &Pair {
                        cert_pem: String::new(),
                        key_pem: other.key_pem.clone(),
                    },
                );
            }),
        ),
        (
            "no key",
            "cannot be read",
            Box::new(|dir| {
                std::fs::write(dir.join("a-cert.pem"), &other.cert_pem).unwrap();
            }),
        ),
        (
            "DER",
            "holds no certificate",
            Box::new(|dir| {
                std::fs::write(dir.join("a-cert.pem"), certificate(&other).unwrap()).unwrap();
                std::fs::write(dir.join("a-key.pem"), &other.key_pem).unwrap();
            }),
        ),
        (
            "a folder as key",
            "cannot be read",
            Box::new(|dir| {
                std::fs::write(dir.join("a-cert.pem"), &other.cert_pem).unwrap();
                std::fs::create_dir(dir.join("a-key.pem")).unwrap();
            }),
        ),
    ];
    for (what, words, make) in cases {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "m", &good);
        make(folder.path());
        std::os::unix::fs::symlink("nowhere", folder.path().join("b-cert.pem")).unwrap();
        let text = both(&upstream, &path_source(folder.path()));
        check_fails(&text, words);
        let lb = Lb::start(&text);
        let answer =
            block_on(async { Trust::new(&ca).get(lb.address("https"), "good.test").await });
        assert!(answer.unwrap().starts_with("HTTP/1.1 200 "), "{what}");
        assert_eq!(
            client::get(lb.address("http"), "web", "/").status,
            200,
            "{what}"
        );
        assert_eq!(lb.metric(ERRORS), Some(1.0), "{what}\n{}", lb.stderr());
        lb.wait_for_line(what, |line| {
            line.contains("WARN") && line.contains("certificates")
        });
        // Mended: noticed without a restart.
        write(
            folder.path(),
            if what == "another's key" { "z" } else { "n" },
            &other,
        );
        for name in ["a-cert.pem", "a-key.pem"] {
            let path = folder.path().join(name);
            let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path));
        }
        wait_until("the mended pair", || {
            let answer =
                block_on(async { Trust::new(&ca).get(lb.address("https"), "bad.test").await });
            answer.is_ok() && lb.metric(ERRORS) == Some(0.0)
        });
    }
}

/// Expired ones are served where there is nothing better: a port that is closed is worse than a
/// warning of browsers.
#[test]
fn an_expired_pair_is_shown_as_long_as_there_is_no_valid_one() {
    let (ca, upstream) = (Ca::new("ca"), Upstream::start("u"));
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (
        ca.pair_valid(&["a.test"], (2020, 2021)),
        ca.pair(&["a.test"]),
    );
    write(folder.path(), "1", &old);
    let lb = Lb::start(&both(&upstream, &path_source(folder.path())));
    lb.wait_for_line("a warning", |line| {
        line.contains("WARN") && line.contains("outside their validity period")
    });
    let show = || shown_to_blind(&lb, "a.test", &[ECDSA], &rustls::version::TLS13);
    assert_eq!(show(), certificate(&old));
    write(folder.path(), "2", &new);
    wait_until("the valid one", || show() == certificate(&new));
}

#[test]
fn the_pair_that_a_client_takes_is_shown() {
    let (ca, upstream) = (Ca::new("ca"), Upstream::start("u"));
    for name in ["a.test", "*.test"] {
        let folder = tempfile::tempdir().unwrap();
        let (ecdsa, rsa) = (ca.pair(&[name]), ca.pair_rsa(&[name]));
        write(folder.path(), "1", &ecdsa);
        write(folder.path(), "2", &rsa);
        let lb = Lb::start(&both(&upstream, &path_source(folder.path())));
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            // By its name, and as the default for a name that nothing is for.
            for asked in ["a.test", "nothing.example"] {
                let show =
                    |schemes: &[SignatureScheme]| shown_to_blind(&lb, asked, schemes, version);
                assert_eq!(show(&[ECDSA]), certificate(&ecdsa), "{name} {asked}");
                assert_eq!(show(&RSA), certificate(&rsa), "{name} {asked}");
                assert_eq!(
                    show(&[&[ECDSA][..], &RSA].concat()),
                    certificate(&ecdsa),
                    "{name} {asked}: the first"
                );
            }
        }
    }
}

#[test]
fn a_listener_without_a_usable_pair_opens_when_it_has_one() {
    let (ca, upstream) = (Ca::new("ca"), Upstream::start("u"));
    let pair = ca.pair(&["a.test"]);
    let der = certificate(&pair).unwrap();
    type Make<'a> = Box<dyn Fn(&Path) + 'a>;
    let cases: Vec<(&str, Make<'_>)> = vec![
        ("missing", Box::new(|_| {})),
        ("empty", Box::new(|cert| std::fs::write(cert, "").unwrap())),
        (
            "garbage",
            Box::new(|cert| std::fs::write(cert, "garbage").unwrap()),
        ),
        ("DER", Box::new(|cert| std::fs::write(cert, &der).unwrap())),
        (
            "folder",
            Box::new(|cert| std::fs::create_dir(cert).unwrap()),
        ),
        (
            "dangling",
            Box::new(|cert| std::os::unix::fs::symlink("nowhere", cert).unwrap()),
        ),
        (
            "another's",
            Box::new(|cert| std::fs::write(cert, ca.pair(&["b.test"]).cert_pem).unwrap()),
        ),
    ];
    for (what, make) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (
            folder.path().join("cert.pem"),
            folder.path().join("key.pem"),
        );
        std::fs::write(&key, &pair.key_pem).unwrap();
        make(&cert);
        let source = format!(
            "[certificates.main]\nsource = \"file\"\ncert_file = {cert:?}\nkey_file = {key:?}\n"
        );
        let text = both(&upstream, &source);
        check_fails(&text, "certificates.main");
        let lb = Lb::start(&text);
        assert_eq!(
            client::get(lb.address("http"), "web", "/").status,
            200,
            "{what}"
        );
        lb.wait_for_line("what is closed", |line| {
            line.contains("ERROR") && line.contains("listener not opened")
        });
        assert!(
            !lb.stderr()
                .contains("\"listener\":\"https\",\"message\":\"listening\""),
            "{what}"
        );
        assert_eq!(lb.metric(ERRORS), Some(1.0), "{what}");
        let _ = std::fs::remove_file(&cert).or_else(|_| std::fs::remove_dir(&cert));
        std::fs::write(&cert, &pair.cert_pem).unwrap();
        let answer = block_on(async { Trust::new(&ca).get(lb.address("https"), "a.test").await });
        assert!(answer.unwrap().starts_with("HTTP/1.1 200 "), "{what}");
        assert_eq!(lb.metric(ERRORS), Some(0.0), "{what}");
    }
}

/// Never without verification: not open, until there is a CA to verify with.
#[test]
fn a_listener_that_cannot_verify_its_clients_stays_closed() {
    let (ca, upstream) = (Ca::new("ca"), Upstream::start("u"));
    let pair = ca.pair(&["a.test"]);
    for content in [
        None,
        Some(""),
        Some("garbage"),
        Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let files = pair.write(folder.path(), "site");
        let cas = folder.path().join("clients.pem");
        if let Some(content) = content {
            std::fs::write(&cas, content).unwrap();
        }
        let source = format!(
            "[certificates.main]\nsource = \"file\"\ncert_file = {:?}\nkey_file = {:?}\nclient_ca_file = {cas:?}\n",
            files.cert, files.key
        );
        let lb = Lb::start(&both(&upstream, &source));
        assert_eq!(client::get(lb.address("http"), "web", "/").status, 200);
        lb.wait_for_line("what is closed", |line| {
            line.contains("listener not opened") && line.contains("client CAs")
        });
        assert!(
            !lb.stderr()
                .contains("\"listener\":\"https\",\"message\":\"listening\"")
        );
        std::fs::write(&cas, &ca.pem).unwrap();
        let address = lb.address("https");
        block_on(async {
            assert!(
                Trust::new(&ca).get(address, "a.test").await.is_err(),
                "no certificate, no response"
            );
            let known = Trust::with_identity(&ca, Some(&ca.pair(&["client"])));
            assert!(
                known
                    .get(address, "a.test")
                    .await
                    .unwrap()
                    .starts_with("HTTP/1.1 200 ")
            );
        });
    }
}

#[test]
fn bad_cas_cost_themselves() {
    let (ca, upstream) = (Ca::new("ca"), Upstream::start("u"));
    let old = Ca::valid("old", Some((2020, 2021)));
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for bad in [&*old.pem, garbage] {
        let folder = tempfile::tempdir().unwrap();
        let files = ca.pair(&["a.test"]).write(folder.path(), "site");
        let cas = folder.path().join("cas.pem");
        std::fs::write(&cas, format!("{bad}{}", ca.pem)).unwrap();
        let source = format!(
            "[certificates.main]\nsource = \"file\"\ncert_file = {:?}\nkey_file = {:?}\nclient_ca_file = {cas:?}\n\
             [proxy]\nupstream_ca_file = {cas:?}\n[consul]\naddress = \"https://127.0.0.1:1\"\nca_file = {cas:?}\n",
            files.cert, files.key
        );
        let lb = Lb::start(&both(&upstream, &source));
        for source in ["certificates.main", "proxy.upstream_ca_file", "consul"] {
            let errors = lb.metric(&format!("lb_certificate_errors{{source=\"{source}\"}}"));
            assert_eq!(errors, Some(1.0), "{source} {}", lb.stderr());
        }
        // Consul is away, so that it is waited for first.
        lb.wait_for_line("the listener", |line| {
            line.contains("\"listener\":\"https\"")
        });
        block_on(async {
            let known = Trust::with_identity(&ca, Some(&ca.pair(&["client"])));
            assert!(
                known
                    .get(lb.address("https"), "a.test")
                    .await
                    .unwrap()
                    .starts_with("HTTP/1.1 200 ")
            );
            assert!(
                Trust::new(&ca)
                    .get(lb.address("https"), "a.test")
                    .await
                    .is_err()
            );
        });
    }
}

/// Consul's files, the CAs of instances, users, and the page: each costs its own, and is read when
/// it is mended.
#[test]
fn other_bad_files_cost_what_depends_on_them() {
    let (ca, upstream) = (Ca::new("ca"), Upstream::start("u"));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let text = config(
        &(listener("http", "")
            + &format!(
                "[consul]\naddress = \"https://127.0.0.1:1\"\nca_file = {:?}\ncert_file = {:?}\nkey_file = {:?}\n\
                 [proxy]\nupstream_ca_file = {:?}\nno_route_page = {:?}\n\
                 [auth.staff]\ntype = \"basic\"\nfile = {:?}\n",
                file("ca.pem"),
                file("client.pem"),
                file("client-key.pem"),
                file("upstreams.pem"),
                file("page.html"),
                file("users"),
            )
            + &route("web", "web/", &[url("http", upstream.address)], "")
            + &route(
                "staff",
                "staff/",
                &[url("http", upstream.address)],
                "auth=staff",
            )),
    );
    check_fails(&text, "consul.ca_file");
    let lb = Lb::start(&text);
    lb.wait_for_line("Consul", |line| {
        line.contains("ERROR") && line.contains("consul.ca_file")
    });
    lb.wait_for_line("the listener", |line| {
        line.contains("\"listener\":\"http\"")
    });
    let address = lb.address("http");
    let with_user = "GET / HTTP/1.1\r\nHost: staff\r\nAuthorization: Basic YW5uOnNlY3JldA==\r\nConnection: close\r\n\r\n";
    let status = |request: &str| client::exchange(address, request).unwrap().status;
    assert_eq!(client::get(address, "web", "/").status, 200);
    assert_eq!(status(with_user), 401, "no user is let in");
    let errors = |source: &str| lb.metric(&format!("lb_certificate_errors{{source=\"{source}\"}}"));
    assert_eq!(
        (errors("consul"), errors("proxy.upstream_ca_file")),
        (Some(1.0), Some(1.0))
    );
    std::fs::write(file("users"), "ann:secret\n").unwrap();
    wait_until("the user", || status(with_user) == 200);
    std::fs::write(file("page.html"), "nothing here").unwrap();
    std::fs::write(file("upstreams.pem"), &ca.pem).unwrap();
    std::fs::write(file("ca.pem"), &ca.pem).unwrap();
    ca.pair(&["client"]).write(folder.path(), "client");
    wait_until("the CAs", || {
        errors("consul") == Some(0.0) && errors("proxy.upstream_ca_file") == Some(0.0)
    });
    assert_eq!(client::get(address, "nowhere", "/").text(), "nothing here");
}

#[test]
fn plain_http_on_a_port_of_tls_is_told_so() {
    let (ca, upstream) = (Ca::new("ca"), Upstream::start("u"));
    let folder = tempfile::tempdir().unwrap();
    let files = ca.pair(&["a.test"]).write(folder.path(), "site");
    let source = format!(
        "[certificates.main]\nsource = \"file\"\ncert_file = {:?}\nkey_file = {:?}\n",
        files.cert, files.key
    );
    for protocol in ["https", "grpcs", "https+tcp+sni"] {
        let text = listener(protocol, "certificates = \"main\"\nproxy_protocol = true")
            + &source
            + "[log]\naccess = \"json\"\n"
            + &route("web", "/", &[url("http", upstream.address)], "");
        let lb = Lb::start(&config(&text));
        let address = lb.address(protocol);
        let requests = [
            "GET / HTTP/1.1\r\nHost: a.test:8443\r\n\r\n",
            "POST /x HTTP/1.1\r\nhost: a.test:8443\r\ncontent-length: 3\r\n\r\nabc",
            "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HTTP/1.1\r\nHost: a.test:8443\r\n\r\n",
        ];
        for request in requests {
            let answer = client::exchange(address, request).unwrap();
            assert_eq!(
                (answer.status, answer.header("connection")),
                (400, Some("close")),
                "{protocol} {request}"
            );
            assert!(
                answer.text().contains("use https://a.test:8443/"),
                "{protocol}: {}",
                answer.text()
            );
        }
        let preface = client::exchange(address, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        assert_eq!(preface.status, 400, "{protocol}");
        let faults = format!("lb_client_faults_total{{listener=\"{address}\",fault=\"tls\"}}");
        wait_until("the count", || lb.metric(&faults) == Some(4.0));
        lb.wait_stdout("a line of the access log", |line| {
            line.contains("\"status\":400") && line.contains("\"tls\"")
        });
        // TLS is served all the same.
        let stream = std::net::TcpStream::connect(address).unwrap();
        drop(stream);
        let answer = block_on(async {
            Trust::new(&ca)
                .with_alpn(&["http/1.1"])
                .get(address, "a.test")
                .await
        });
        assert!(answer.unwrap().starts_with("HTTP/1.1 "), "{protocol}");
    }
}
