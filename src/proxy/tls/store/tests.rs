//! Handshakes on real sockets, with certificates made on the spot.

use std::path::Path;

use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::config::ClientAuth;
use crate::proxy::tls::upstream::Inside;
use crate::proxy::tls::{UpstreamTls, details};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn ca(name: &str) -> Issuer {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key, PEM.
fn pair(issuer: &Issuer, common_name: &str, names: &[&str]) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params =
        CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_after = rcgen::date_time_ymd(2090, 1, 2);
    let certificate = params.signed_by(&key, issuer).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn write_pair(dir: &Path, name: &str, (cert, key): &(String, String)) {
    fs::write(dir.join(format!("{name}-cert.pem")), cert).unwrap();
    fs::write(dir.join(format!("{name}-key.pem")), key).unwrap();
}

fn directory(path: &Path) -> CertificateConfig {
    let source = CertificateSource::Path {
        path: path.to_owned(),
    };
    CertificateConfig {
        source,
        ..CertificateConfig::default()
    }
}

fn write_ca(dir: &Path, name: &str, issuer: &Issuer) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, issuer.pem()).unwrap();
    path
}

/// Which common name the server shows for `name`; the error of either side otherwise.
async fn shown(
    server: Arc<ServerConfig>,
    client: Arc<rustls::ClientConfig>,
    name: &str,
) -> Result<(String, Option<Vec<u8>>), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accept = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(server)
            .accept(stream)
            .await
            .map_err(|error| error.to_string())?;
        let details = details(stream.get_ref().1);
        assert_eq!((details.version, details.cipher >> 8), ("tls13", 0x13));
        stream
            .write_all(b"x")
            .await
            .map_err(|error| error.to_string())?;
        stream.shutdown().await.ok();
        Ok::<_, String>(())
    };
    let connect = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut stream = TlsConnector::from(client)
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())?;
        // In TLS 1.3 the server's verdict on the client's certificate comes after the client's
        // handshake.
        let mut answer = Vec::new();
        stream
            .read_to_end(&mut answer)
            .await
            .map_err(|error| error.to_string())?;
        assert_eq!(answer, b"x");
        let connection = stream.get_ref().1;
        let leaf = connection.peer_certificates().unwrap()[0].clone();
        let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        let common_name = leaf
            .subject()
            .iter_common_name()
            .next()
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned();
        Ok::<_, String>((common_name, connection.alpn_protocol().map(<[u8]>::to_vec)))
    };
    let (accepted, connected) = tokio::join!(accept, connect);
    let connected = connected?;
    accepted.map(|()| connected)
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// A client that looks at no certificate, so that only the server's choice counts.
fn blind() -> Arc<rustls::ClientConfig> {
    let dir = tempfile::tempdir().unwrap();
    let path = write_ca(dir.path(), "ca", &ca("any"));
    Arc::clone(
        UpstreamTls::new(Some(&path))
            .unwrap()
            .config(true, Inside::Http2),
    )
}

fn web_use() -> ServerUse {
    ServerUse {
        http: true,
        ..ServerUse::default()
    }
}

fn strict_use() -> ServerUse {
    ServerUse {
        strict: true,
        ..web_use()
    }
}

#[test]
fn picks_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca("ca");
    write_pair(dir.path(), "a", &pair(&ca, "first", &["first.example"]));
    write_pair(
        dir.path(),
        "b",
        &pair(&ca, "exact", &["www.x.example", "Alt.x.example"]),
    );
    write_pair(dir.path(), "c", &pair(&ca, "star", &["*.x.example"]));
    write_pair(dir.path(), "d", &pair(&ca, "cn.only.example", &[]));
    let (cert, key) = pair(&ca, "both", &["both.example"]);
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/both.pem"), cert + &key).unwrap();
    fs::write(dir.path().join(".hidden.pem"), "not a certificate").unwrap();
    let (store, reload) = CertStore::load(directory(dir.path())).unwrap();
    assert!(reload.errors.is_empty(), "{reload:?}");
    // server name, what is shown, what is shown when strict
    let cases = [
        ("first.example", "first", Some("first")),
        ("www.x.example", "exact", Some("exact")),
        ("ALT.X.example", "exact", Some("exact")),
        ("else.x.example", "star", Some("star")),
        ("x.example", "first", None),
        ("a.b.x.example", "first", None),
        (
            "cn.only.example",
            "cn.only.example",
            Some("cn.only.example"),
        ),
        ("both.example", "both", Some("both")),
        ("other.example", "first", None),
        ("127.0.0.1", "first", None),
    ];
    run(async {
        for (name, wanted, strict) in cases {
            let (common_name, alpn) =
                shown(store.server_config(&web_use()).unwrap(), blind(), name)
                    .await
                    .unwrap();
            assert_eq!(
                (&*common_name, alpn.as_deref()),
                (wanted, Some(&b"h2"[..])),
                "{name}"
            );
            let common_name = shown(store.server_config(&strict_use()).unwrap(), blind(), name)
                .await
                .ok()
                .map(|shown| shown.0);
            assert_eq!(common_name.as_deref(), strict, "strict {name}");
        }
        let bytes = ServerUse::default();
        assert_eq!(
            shown(
                store.server_config(&bytes).unwrap(),
                blind(),
                "first.example"
            )
            .await
            .unwrap()
            .1,
            None,
            "no ALPN"
        );
    });
    assert!(
        store
            .expiries()
            .iter()
            .all(|(_, end)| *end == 3_786_998_400),
        "{:?}",
        store.expiries()
    );
}

#[test]
fn stars_replace_leading_labels_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    write_pair(
        dir.path(),
        "a",
        &pair(&ca("ca"), "deep", &["*.*.x.example"]),
    );
    let (store, _) = CertStore::load(directory(dir.path())).unwrap();
    run(async {
        assert_eq!(
            shown(
                store.server_config(&strict_use()).unwrap(),
                blind(),
                "a.b.x.example"
            )
            .await
            .unwrap()
            .0,
            "deep"
        );
        assert!(
            shown(
                store.server_config(&strict_use()).unwrap(),
                blind(),
                "b.x.example"
            )
            .await
            .is_err()
        );
    });
}

#[test]
fn reload_takes_good_pairs_and_keeps_the_previous_form_of_bad_ones() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca("ca");
    write_pair(dir.path(), "a", &pair(&ca, "a1", &["a.example"]));
    write_pair(dir.path(), "b", &pair(&ca, "b1", &["b.example"]));
    let (store, _) = CertStore::load(directory(dir.path())).unwrap();
    let names = || {
        let shown = async |name| {
            shown(store.server_config(&strict_use()).unwrap(), blind(), name)
                .await
                .map(|shown| shown.0)
        };
        run(async {
            [
                shown("a.example").await.ok(),
                shown("b.example").await.ok(),
                shown("c.example").await.ok(),
            ]
        })
    };
    let wanted = |names: [Option<&str>; 3]| names.map(|name| name.map(str::to_owned));
    assert!(!store.changed());

    // One pair new, one with a key that is not its own, one more.
    write_pair(dir.path(), "a", &pair(&ca, "a2", &["a.example"]));
    fs::write(
        dir.path().join("b-cert.pem"),
        pair(&ca, "b2", &["b.example"]).0,
    )
    .unwrap();
    write_pair(dir.path(), "c", &pair(&ca, "c1", &["c.example"]));
    assert!(store.changed());
    let reload = store.reload();
    assert!(
        matches!(&reload.errors[..], [TlsError::Pair { path, .. }] if path.ends_with("b-cert.pem")),
        "{reload:?}"
    );
    assert_eq!(names(), wanted([Some("a2"), Some("b1"), Some("c1")]));
    assert!(!store.changed(), "a bad pair is not read again and again");

    // Gone, cut short, healed.
    fs::remove_file(dir.path().join("c-cert.pem")).unwrap();
    fs::write(
        dir.path().join("a-cert.pem"),
        "-----BEGIN CERTIFICATE-----\nAAAA",
    )
    .unwrap();
    write_pair(dir.path(), "b", &pair(&ca, "b3", &["b.example"]));
    assert_eq!(store.reload().errors.len(), 1);
    assert_eq!(names(), wanted([Some("a2"), Some("b3"), None]));

    // An empty or vanished directory takes nothing away.
    for file in ["a-cert.pem", "a-key.pem", "b-cert.pem", "b-key.pem"] {
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    assert!(matches!(
        store.reload().errors[..],
        [TlsError::Directory { .. }]
    ));
    assert_eq!(names(), wanted([Some("a2"), Some("b3"), None]));
}

#[test]
fn open_connections_survive_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca("ca");
    write_pair(dir.path(), "a", &pair(&ca, "a1", &["a.example"]));
    let (store, _) = CertStore::load(directory(dir.path())).unwrap();
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = async {
            let stream = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            TlsConnector::from(blind())
                .connect("a.example".try_into().unwrap(), stream)
                .await
                .unwrap()
        };
        let accept = async {
            let (stream, _) = listener.accept().await.unwrap();
            TlsAcceptor::from(store.server_config(&web_use()).unwrap())
                .accept(stream)
                .await
                .unwrap()
        };
        let (mut client, mut server) = tokio::join!(connect, accept);
        write_pair(dir.path(), "a", &pair(&ca, "a2", &["a.example"]));
        assert!(store.reload().errors.is_empty());
        client.write_all(b"still").await.unwrap();
        client.flush().await.unwrap();
        let mut heard = [0; 5];
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"still");
    });
}

#[test]
fn start_needs_one_good_pair() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        CertStore::load(directory(dir.path())).unwrap_err()[..],
        [TlsError::Directory { .. }]
    ));
    assert!(matches!(
        CertStore::load(directory(&dir.path().join("absent"))).unwrap_err()[..],
        [TlsError::Read { .. }]
    ));
    let ca = ca("ca");
    let good = pair(&ca, "a", &["a.example"]);
    fs::write(dir.path().join("a-cert.pem"), &good.0).unwrap();
    fs::write(dir.path().join("a-key.pem"), &good.0).unwrap();
    assert!(matches!(
        CertStore::load(directory(dir.path())).unwrap_err()[..],
        [TlsError::Missing {
            what: "private key",
            ..
        }]
    ));
    write_pair(dir.path(), "b", &good);
    let (store, reload) = CertStore::load(directory(dir.path())).unwrap();
    assert_eq!((store.pairs().len(), reload.errors.len()), (1, 1));
    let config = CertificateConfig {
        client_ca_file: Some(dir.path().join("none")),
        ..directory(dir.path())
    };
    assert!(
        CertStore::load(config).is_err(),
        "configured client CAs must be there"
    );
}

#[test]
fn client_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let (good, other) = (ca("good"), ca("other"));
    write_pair(dir.path(), "a", &pair(&good, "a", &["a.example"]));
    let cas = tempfile::tempdir().unwrap();
    let good_file = write_ca(cas.path(), "good", &good);
    let asked_file = write_ca(cas.path(), "asked", &good);
    let upstream = UpstreamTls::new(Some(&good_file)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(good.der().clone()).unwrap();
    let with = |issuer: &Issuer| {
        let (cert, key) = pair(issuer, "client", &["client"]);
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions();
        Arc::new(
            builder
                .unwrap()
                .with_root_certificates(roots.clone())
                .with_client_auth_cert(chain, key)
                .unwrap(),
        )
    };
    let (with_good, with_other) = (with(&good), with(&other));
    let without = Arc::clone(upstream.config(false, Inside::Http1));
    let load = |optional| {
        let config = CertificateConfig {
            client_ca_file: Some(asked_file.clone()),
            client_auth: if optional {
                ClientAuth::Optional
            } else {
                ClientAuth::Required
            },
            ..directory(dir.path())
        };
        CertStore::load(config).unwrap().0
    };
    let verdicts = |store: &CertStore| {
        let ok = async |client: &Arc<_>| {
            shown(
                store.server_config(&web_use()).unwrap(),
                Arc::clone(client),
                "a.example",
            )
            .await
            .is_ok()
        };
        run(async {
            [
                ok(&without).await,
                ok(&with_good).await,
                ok(&with_other).await,
            ]
        })
    };
    let required = load(false);
    assert_eq!(verdicts(&required), [false, true, false]);
    assert_eq!(verdicts(&load(true)), [true, true, false]);

    // Bad CAs keep the previous ones; good ones count from the next handshake, for resumed sessions
    // too.
    fs::write(&asked_file, "nothing").unwrap();
    assert_eq!(required.reload().errors.len(), 1);
    assert_eq!(verdicts(&required), [false, true, false]);
    write_ca(cas.path(), "asked", &other);
    assert!(required.reload().errors.is_empty());
    assert_eq!(verdicts(&required), [false, false, true]);
}

#[test]
fn upstream_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let (good, other) = (ca("good"), ca("other"));
    write_pair(
        dir.path(),
        "a",
        &pair(&good, "a", &["a.example", "127.0.0.1"]),
    );
    let (store, _) = CertStore::load(directory(dir.path())).unwrap();
    let files = tempfile::tempdir().unwrap();
    let trusting = UpstreamTls::new(Some(&write_ca(files.path(), "good", &good))).unwrap();
    let doubting = UpstreamTls::new(Some(&write_ca(files.path(), "other", &other))).unwrap();
    let cases = [
        (&trusting, false, "a.example", true),
        (&trusting, false, "127.0.0.1", true),
        (&trusting, false, "b.example", false),
        (&doubting, false, "a.example", false),
        (&doubting, true, "b.example", true),
    ];
    run(async {
        for (upstream, skip, name, wanted) in cases {
            for (inside, alpn) in [
                (Inside::Http1, Some(&b"http/1.1"[..])),
                (Inside::Http2, Some(b"h2")),
                (Inside::Bytes, None),
            ] {
                let config = Arc::clone(upstream.config(skip, inside));
                let shown = shown(store.server_config(&web_use()).unwrap(), config, name).await;
                assert_eq!(shown.is_ok(), wanted, "{name} {inside:?} {shown:?}");
                if let Ok((_, got)) = shown {
                    assert_eq!(got.as_deref(), alpn);
                }
            }
        }
    });
    assert!(UpstreamTls::new(Some(&files.path().join("none"))).is_err());
}

#[test]
fn limits_of_a_listener_hold_for_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), "a", &pair(&ca("ca"), "a", &["a.example"]));
    let (store, _) = CertStore::load(directory(dir.path())).unwrap();
    let limited = |min, max, ciphers: &[u16]| {
        let limits = TlsLimits {
            min,
            max,
            ciphers: ciphers.into(),
        };
        store.server_config(&ServerUse {
            limits,
            ..web_use()
        })
    };
    let one = limited(TlsVersion::V1_3, TlsVersion::V1_3, &[0x1301]).unwrap();
    assert!(
        Arc::ptr_eq(
            &one,
            &limited(TlsVersion::V1_3, TlsVersion::V1_3, &[0x1301]).unwrap()
        ),
        "made once"
    );
    assert_eq!(one.crypto_provider().cipher_suites.len(), 1);
    assert!(
        store
            .server_config(&web_use())
            .unwrap()
            .crypto_provider()
            .cipher_suites
            .len()
            > 1
    );
    assert!(
        limited(TlsVersion::V1_2, TlsVersion::V1_2, &[0x1301]).is_err(),
        "a suite of another version"
    );
    run(async {
        let (common_name, alpn) = shown(one, blind(), "a.example").await.unwrap();
        assert_eq!((&*common_name, alpn.as_deref()), ("a", Some(&b"h2"[..])));
    });
}
