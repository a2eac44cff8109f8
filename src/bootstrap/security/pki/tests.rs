//! Certificates as this crate reads them, and as OpenSSL does.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::bootstrap::topology::{BinarySource, Cluster, Node, ReleaseKey, Role, Target};

/// Three nodes, one of each role.
pub(crate) fn cluster(state: PathBuf) -> Cluster {
    let node = |name: &str, role, last| Node {
        name: name.to_owned(),
        role,
        address: IpAddr::V4(Ipv4Addr::new(127, 0, 32, last)),
        ssh: None,
        dynamic_ports: None,
    };
    Cluster {
        name: "test".to_owned(),
        datacenter: "dc1".to_owned(),
        region: "global".to_owned(),
        domain: "consul".to_owned(),
        target: Target::Local,
        nodes: vec![
            node("consul-0", Role::ConsulServer, 11),
            node("nomad-server-0", Role::NomadServer, 14),
            node("nomad-client-0", Role::NomadClient, 17),
        ],
        acl: false,
        raw_exec: true,
        features: crate::bootstrap::topology::Features::default(),
        ca: None,
        consul: BinarySource::File("/bin/consul".into()),
        nomad: None,
        telemetry: true,
        extra: crate::bootstrap::topology::Extras::default(),
        network_interface: None,
        certificate_days: 365,
        release_url: String::new(),
        release_key: ReleaseKey {
            fingerprint: String::new(),
            file: None,
            url: String::new(),
        },
        state,
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

const DAY: u64 = 86_400;

#[test]
fn names_are_the_role() {
    let cluster = cluster("/s".into());
    let rest = |node: &str, last: u32| format!("{node} localhost 127.0.0.1 ::1 127.0.32.{last}");
    let [server, nomad_server, nomad_client] = &cluster.nodes[..] else {
        panic!()
    };
    let cases = [
        (
            Subject::consul(&cluster, server),
            "server.dc1.consul consul-0.node.dc1.consul",
            rest("consul-0", 11),
        ),
        (
            Subject::consul(&cluster, nomad_server),
            "client.dc1.consul nomad-server-0.node.dc1.consul",
            rest("nomad-server-0", 14),
        ),
        (
            Subject::nomad(&cluster, nomad_server),
            "server.global.nomad nomad-server-0.global.nomad",
            rest("nomad-server-0", 14),
        ),
        (
            Subject::nomad(&cluster, nomad_client),
            "client.global.nomad nomad-client-0.global.nomad",
            rest("nomad-client-0", 17),
        ),
    ];
    for (subject, own, rest) in cases {
        assert_eq!(subject.names().join(" "), format!("{own} {rest}"));
        assert!(subject.server);
    }
    assert_eq!(
        (Subject::operator().names(), Subject::operator().server),
        (&["operator".to_owned()][..], false)
    );
    assert_eq!(
        (Subject::lb().names(), Subject::lb().server),
        (&["lb".to_owned()][..], false)
    );
}

#[test]
fn what_is_issued_says_what_was_asked_for() {
    let now = at(1_900_000_000);
    let authority = Authority::create(now).unwrap();
    let ca = describe(authority.cert_pem()).unwrap();
    assert_eq!(
        (ca.subject.as_str(), ca.is_ca, ca.not_before),
        (CA_NAME, true, 1_900_000_000 - 300)
    );
    let cluster = cluster("/s".into());
    let subject = Subject::consul(&cluster, &cluster.nodes[0]);
    let (pair, other) = (
        authority.issue(&subject, 365, now).unwrap(),
        authority.issue(&subject, 365, now).unwrap(),
    );
    let info = describe(&pair.cert).unwrap();
    assert_eq!(info.names, subject.names());
    assert_eq!(info.subject, "server.dc1.consul");
    assert_eq!((info.is_ca, info.server), (false, true));
    assert_eq!(info.issuer_key_id, ca.key_id);
    assert_eq!(info.not_after, 1_900_000_000 + 365 * 86_400);
    assert_eq!((info.days_left(now), info.serial.len()), (365, 32));
    assert!(
        belongs(&pair)
            && pair.key != other.key
            && describe(&other.cert).unwrap().serial != info.serial
    );
    assert!(!belongs(&Pair {
        key: other.key,
        cert: pair.cert
    }));
    // A leaf does not outlive its CA.
    let late = now + Duration::from_secs(3600 * DAY);
    let short = describe(&authority.issue(&subject, 365, late).unwrap().cert).unwrap();
    assert_eq!(short.not_after, ca.not_after);
    assert!(
        authority
            .issue(&subject, 1, now + Duration::from_secs(3700 * DAY))
            .is_err()
    );
}

#[test]
fn an_authority_is_taken_up_again_and_a_wrong_key_is_refused() {
    let now = at(1_900_000_000);
    let (one, two) = (
        Authority::create(now).unwrap(),
        Authority::create(now).unwrap(),
    );
    let again = Authority::load(one.cert_pem(), one.key_pem().reveal()).unwrap();
    let pair = again.issue(&Subject::lb(), 365, now).unwrap();
    assert_eq!(
        needs_renewal(&pair.cert, one.cert_pem(), &Subject::lb(), now),
        None
    );
    let error = Authority::load(one.cert_pem(), two.key_pem().reveal()).unwrap_err();
    assert!(error.to_string().contains("does not belong"), "{error}");
    assert!(
        Authority::load(&pair.cert, pair.key.reveal())
            .unwrap_err()
            .to_string()
            .contains("not a CA")
    );
    assert!(
        Authority::load("x", one.key_pem().reveal()).is_err()
            && Authority::load(one.cert_pem(), "x").is_err()
    );
    assert!(!format!("{one:?}").contains("PRIVATE"));
}

#[test]
fn renewal_has_a_reason() {
    let now = at(1_900_000_000);
    let later = |days: u64| now + Duration::from_secs(days * DAY);
    let (ca, other) = (
        Authority::create(now).unwrap(),
        Authority::create(now).unwrap(),
    );
    let (year, week) = (
        ca.issue(&Subject::lb(), 365, now).unwrap(),
        ca.issue(&Subject::lb(), 7, now).unwrap(),
    );
    let cases = [
        (&year, &ca, Subject::lb(), 0, ""),
        (&year, &ca, Subject::lb(), 334, ""),
        (&year, &ca, Subject::lb(), 336, "expires in 29 days"),
        (&year, &ca, Subject::lb(), 365, "expired"),
        (&year, &ca, Subject::operator(), 0, "names changed"),
        (&year, &other, Subject::lb(), 0, "signed by another CA"),
        // A short life is not one of constant renewal.
        (&week, &ca, Subject::lb(), 4, ""),
        (&week, &ca, Subject::lb(), 5, "expires in 2 days"),
    ];
    for (number, (pair, ca, subject, days, expected)) in cases.into_iter().enumerate() {
        let reason =
            needs_renewal(&pair.cert, ca.cert_pem(), &subject, later(days)).unwrap_or_default();
        assert_eq!(reason, expected, "case {number}");
    }
    let before = needs_renewal(&year.cert, ca.cert_pem(), &Subject::lb(), at(1_800_000_000));
    assert!(before.is_some_and(|reason| reason.starts_with("not yet valid")));
    assert!(
        needs_renewal("x", ca.cert_pem(), &Subject::lb(), now)
            .is_some_and(|it| it.starts_with("cannot be read"))
    );
}

#[test]
fn bundles_are_split() {
    let now = at(1_900_000_000);
    let (one, two) = (
        Authority::create(now).unwrap(),
        Authority::create(now).unwrap(),
    );
    let bundle = format!("# old\n{}\n{}", one.cert_pem(), two.cert_pem());
    let parts = split(&bundle);
    assert_eq!(parts.len(), 2);
    for (part, authority) in parts.iter().zip([one, two]) {
        assert_eq!(
            describe(part).unwrap(),
            describe(authority.cert_pem()).unwrap()
        );
    }
    assert!(split("").is_empty() && split("-----BEGIN CERTIFICATE-----\nx").is_empty());
}

#[test]
fn openssl_agrees() {
    let now = SystemTime::now();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::create(now).unwrap();
    let cluster = cluster("/s".into());
    let [consul, nomad] = Product::ALL.map(|product| authority.intermediate(product, now).unwrap());
    let server = consul
        .issue(&Subject::consul(&cluster, &cluster.nodes[0]), 365, now)
        .unwrap();
    let lb = consul.issue(&Subject::lb(), 365, now).unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    // Another CA of the same name stands first in the bundle: the key identifiers tell them apart.
    let bundle = format!(
        "{}{}",
        Authority::create(now).unwrap().cert_pem(),
        authority.cert_pem()
    );
    let ca = write("ca.pem", &bundle);
    let consul_ca = write("consul-ca.pem", consul.cert_pem());
    let nomad_ca = write("nomad-ca.pem", nomad.cert_pem());
    let (server, lb) = (write("server.pem", &server.cert), write("lb.pem", &lb.cert));
    // A file holds leaf and intermediate, and agents show both.
    let verify = |purpose: &str, trusted: &[&PathBuf], file: &PathBuf| {
        let mut command = Command::new("openssl");
        command.args([
            "verify",
            "-x509_strict",
            "-partial_chain",
            "-purpose",
            purpose,
        ]);
        for ca in trusted {
            command.arg("-trusted").arg(ca);
        }
        let command = command.arg("-untrusted").arg(file).arg(file);
        let output = command.output().expect("openssl is installed");
        output.status.success()
    };
    for trusted in [&ca, &consul_ca] {
        assert!(
            verify("sslserver", &[trusted], &server)
                && verify("sslclient", &[trusted], &server)
                && verify("sslclient", &[trusted], &lb)
        );
    }
    assert!(
        !verify("sslserver", &[&ca], &lb),
        "lb must not be able to act as a server"
    );
    assert!(
        !verify("sslclient", &[&nomad_ca], &lb),
        "lb's certificate must mean nothing to Nomad"
    );
    let text = |file: &PathBuf| {
        let output = Command::new("openssl")
            .args(["x509", "-noout", "-text", "-in"])
            .arg(file)
            .output()
            .unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let leaf = text(&server);
    for expected in [
        "X509v3 Key Usage: critical Digital Signature X509v3",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "X509v3 Basic Constraints: critical CA:FALSE",
        "DNS:server.dc1.consul, DNS:consul-0.node.dc1.consul, DNS:consul-0, DNS:localhost, IP Address:127.0.0.1",
        "IP Address:127.0.32.11",
        "X509v3 Subject Key Identifier",
        "X509v3 Authority Key Identifier",
        "NIST CURVE: P-256",
        "Issuer: CN = lb cluster Consul CA",
    ] {
        let squeezed = |text: &str| text.replace(' ', "");
        assert!(
            squeezed(&leaf).contains(&squeezed(expected)),
            "{expected} not in {leaf}"
        );
    }
    for (authority, below) in [(&authority, 1), (&consul, 0)] {
        let own = text(&write("own.pem", authority.cert_pem()));
        assert!(
            own.contains(&format!("critical CA:TRUE, pathlen:{below}"))
                && own.contains("critical Certificate Sign, CRL Sign"),
            "{own}"
        );
    }
}
