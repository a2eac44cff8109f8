//! Certificates that are not files: from a web server, from Consul, from Vault.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;

use super::support::certs::{Ca, Pair};
use super::support::consul::ConsulAgent;
use super::support::lb::Lb;
use super::support::vault::{self, ROOT, Vault};
use super::support::web::WebServer;
use super::tls::{Trust, shown};
use super::wire::*;
use crate::support::wait::wait_until;

/// The certificate that a client that names `name` is shown; none when there is no handshake.
fn shown_to(trust: &Trust, address: SocketAddr, name: &str) -> Option<CertificateDer<'static>> {
    block_on(async {
        trust
            .connect(address, name)
            .await
            .ok()
            .map(|stream| shown(&stream))
    })
}

fn certificate(pair: &Pair) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()).unwrap()
}

fn shows(trust: &Trust, address: SocketAddr, name: &str, pair: &Pair) -> bool {
    shown_to(trust, address, name) == Some(certificate(pair))
}

fn both(pair: &Pair) -> Vec<u8> {
    format!("{}{}", pair.cert_pem, pair.key_pem).into_bytes()
}

/// A route, so that clients are served at once; none of them needs more than a handshake.
fn anywhere() -> String {
    route("web", "/", &["http://127.0.0.1:9".to_owned()], "")
}

/// A balancer with an HTTPS listener that has `[certificates.main]` with this in it.
fn balancer(source: &str, environment: &[(&str, &str)]) -> Lb {
    let text = listener("https", "certificates = \"main\"")
        + &format!("[certificates.main]\n{source}\n")
        + &anywhere();
    Lb::start_with(&config(&text), &[], environment)
}

/// Nothing of these may be seen anywhere.
fn keeps_to_itself(lb: &Lb, secrets: &[&str]) {
    let (_, config) = lb.admin("/api/config");
    let log = lb.stderr();
    for secret in secrets.iter().chain(&["PRIVATE KEY"]) {
        assert!(
            !config.contains(secret),
            "/api/config shows {secret}: {config}"
        );
        assert!(!log.contains(secret), "the log shows {secret}: {log}");
    }
}

type Files = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// A web server with these files, which the test may change. What is not there is not found.
fn files(tls: Option<&Pair>) -> (WebServer, Files) {
    let files = Files::default();
    let kept = Arc::clone(&files);
    let handler = move |asked: &super::support::web::Asked| {
        let path = asked.target.split('?').next().unwrap_or_default();
        kept.lock()
            .unwrap()
            .get(path)
            .map_or((404, Vec::new()), |file| (200, file.clone()))
    };
    let server = match tls {
        Some(pair) => WebServer::start_tls(pair, handler),
        None => WebServer::start(handler),
    };
    (server, files)
}

#[test]
fn a_web_server_lists_its_certificates() {
    let ca = Ca::new("ca");
    let (first, wild) = (ca.pair(&["a.test"]), ca.pair(&["*.w.test"]));
    let (server, files) = files(None);
    let put = |name: &str, text: Vec<u8>| files.lock().unwrap().insert(name.to_owned(), text);
    put("/certs/list", b"1.pem\n2-cert.pem\n2-key.pem\n".to_vec());
    put("/certs/1.pem", both(&first));
    put("/certs/2-cert.pem", wild.cert_pem.clone().into_bytes());
    put("/certs/2-key.pem", wild.key_pem.clone().into_bytes());
    let source = format!(
        "source = \"http\"\nurl = \"http://user:hush-1@{}/certs/list?key=hush-2\"\nrefresh = \"500ms\"\n\
         headers = [\"X-Token: hush-3\"]",
        server.address
    );
    let lb = balancer(&source, &[]);
    let (trust, address) = (Trust::new(&ca), lb.address("https"));
    wait_until("the first certificates", || {
        shows(&trust, address, "a.test", &first)
    });
    assert!(shows(&trust, address, "x.w.test", &wild));
    let seen = server.seen();
    assert!(
        seen.iter()
            .all(|asked| asked.header("x-token") == Some("hush-3")
                && asked.target.ends_with("?key=hush-2"))
    );
    assert!(seen.iter().all(|asked| {
        asked
            .header("authorization")
            .is_some_and(|it| it.starts_with("Basic "))
    }));

    // One bad pair: it stays as it was, and a new one beside it is taken.
    let renewed = ca.pair(&["*.w.test"]);
    put("/certs/1.pem", b"no certificate".to_vec());
    put("/certs/2-cert.pem", renewed.cert_pem.clone().into_bytes());
    put("/certs/2-key.pem", renewed.key_pem.clone().into_bytes());
    wait_until("the new pair", || {
        shows(&trust, address, "x.w.test", &renewed)
    });
    assert!(shows(&trust, address, "a.test", &first));
    let line = lb.wait_for_line("what is wrong", |line| {
        line.contains("certificates not taken over")
    });
    assert!(line.contains("1.pem"), "{line}");

    // The server is down: nothing changes, and it is told where that was.
    files.lock().unwrap().clear();
    let line = lb.wait_for_line("what failed", |line| {
        line.contains("certificates cannot be read")
    });
    assert!(
        line.contains(&format!(
            "http://{}/certs/list: the server responded 404",
            server.address
        )),
        "{line}"
    );
    assert!(shows(&trust, address, "a.test", &first));
    let end = lb.metric("lb_certificate_expiry_timestamp_seconds{source=\"main\",name=\"1.pem\"}");
    assert!(end.is_some_and(|end| end > 0.0), "{end:?}");
    keeps_to_itself(&lb, &["hush-"]);
}

#[test]
fn a_web_server_that_nobody_vouches_for_is_not_asked() {
    let ca = Ca::new("ca");
    let (server, files) = files(Some(&ca.pair(&["127.0.0.1"])));
    files
        .lock()
        .unwrap()
        .insert("/list".to_owned(), b"1.pem".to_vec());
    let lb = balancer(
        &format!(
            "source = \"http\"\nurl = \"https://{}/list\"",
            server.address
        ),
        &[],
    );
    lb.wait_for_line("the refusal", |line| {
        line.contains("certificates cannot be read") && line.contains("TLS handshake failed")
    });
    assert_eq!(
        shown_to(&Trust::new(&ca), lb.address("https"), "a.test"),
        None,
        "there is nothing to show"
    );
    assert!(server.seen().is_empty());
}

#[test]
fn client_cas_come_from_there_too() {
    let (ca, clients) = (Ca::new("ca"), Ca::new("clients"));
    let pair = ca.pair(&["a.test"]);
    let (server, files) = files(None);
    let put = |name: &str, text: Vec<u8>| files.lock().unwrap().insert(name.to_owned(), text);
    put("/certs", b"1.pem".to_vec());
    put("/1.pem", both(&pair));
    let at = server.address;
    let source = format!(
        "source = \"http\"\nurl = \"http://{at}/certs\"\nclient_ca_url = \"http://{at}/cas\"\nrefresh = \"500ms\""
    );
    let lb = balancer(&source, &[]);
    let address = lb.address("https");
    let versions: &[&'static _] = &[&rustls::version::TLS12];
    let (known, nobody) = (
        clients.pair(&["client"]),
        Ca::new("others").pair(&["client"]),
    );
    let known = Trust::with(&ca, Some(&known), versions);
    lb.wait_for_line("what is missing", |line| {
        line.contains("/cas: the server responded 404")
    });
    assert_eq!(
        shown_to(&known, address, "a.test"),
        None,
        "no client is let in before it is known which may"
    );
    put("/cas", b"ca.crt".to_vec());
    put("/ca.crt", clients.pem.clone().into_bytes());
    wait_until("a client that is let in", || {
        shows(&known, address, "a.test", &pair)
    });
    assert_eq!(
        shown_to(
            &Trust::with(&ca, Some(&nobody), versions),
            address,
            "a.test"
        ),
        None
    );
    assert_eq!(
        shown_to(&Trust::with(&ca, None, versions), address, "a.test"),
        None
    );
}

/// Writes a key of the KV store.
fn put_key(agent: &ConsulAgent, key: &str, text: &[u8]) {
    let (server, path) = (agent.address(), format!("/v1/kv/{key}"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let mut curl = std::process::Command::new("curl");
    curl.args([
        "-sSf",
        "--max-time",
        "10",
        "-X",
        "PUT",
        "--data-binary",
        &format!("@{}", file.path().display()),
    ]);
    assert!(
        curl.arg(format!("{server}{path}"))
            .output()
            .unwrap()
            .status
            .success(),
        "PUT {path}"
    );
}

#[test]
fn keys_of_consul_are_watched() {
    let agent = ConsulAgent::start_plain();
    let ca = Ca::new("ca");
    let (first, second) = (ca.pair(&["a.test"]), ca.pair(&["b.test"]));
    // As Fabio has it, with a URL.
    let cs = format!(
        "cs=main;type=consul;cert=\"{}/v1/kv/lb/certs?token=hush-1\"",
        agent.address()
    );
    let own = agent.address();
    let arguments = [
        "-proxy.cs",
        &cs,
        "-proxy.addr=127.0.0.1:0;cs=main",
        "-ui.addr=127.0.0.1:0",
    ];
    let consul = [
        "-registry.consul.addr",
        &own,
        "-registry.consul.register.enabled=false",
    ];
    let lb = Lb::start_fabio(
        tempfile::tempdir().unwrap(),
        &[&arguments[..], &consul].concat(),
        &[],
    );
    lb.wait_ready();
    let (trust, address) = (Trust::new(&ca), lb.address("https"));
    assert_eq!(
        shown_to(&trust, address, "a.test"),
        None,
        "there is nothing to show"
    );
    put_key(&agent, "lb/certs/1.pem", &both(&first));
    wait_until("the first certificate", || {
        shows(&trust, address, "a.test", &first)
    });
    put_key(&agent, "lb/certs/2.pem", &both(&second));
    wait_until("the second one", || {
        shows(&trust, address, "b.test", &second)
    });
    put_key(&agent, "lb/certs/2.pem", b"-----BEGIN PRIVATE KEY-----");
    lb.wait_for_line("what is wrong", |line| {
        line.contains("certificates not taken over") && line.contains("2.pem")
    });
    assert!(shows(&trust, address, "b.test", &second));
    assert!(
        lb.metric("lb_certificate_expiry_timestamp_seconds{source=\"main\",name=\"2.pem\"}")
            .is_some()
    );
    keeps_to_itself(&lb, &["hush-"]);
}

/// What any Vault has to do, stand-in or not.
fn entries_of_both_engines(vault: &Vault) {
    let ca = Ca::new("ca");
    let (second, first) = (ca.pair(&["v2.test"]), ca.pair(&["v1.test"]));
    let entry = |pair: &Pair| json!({ "cert": pair.cert_pem, "key": pair.key_pem });
    vault.write("secret/data/lb/site", &json!({ "data": entry(&second) }));
    vault.write("kv/lb/site", &entry(&first));
    let text = listener("https", "certificates = \"second\"")
        + &listener("https", "certificates = \"first\"")
        + "[certificates.second]\nsource = \"vault\"\nkv_path = \"secret/lb\"\nrefresh = \"500ms\"\n\
           [certificates.first]\nsource = \"vault\"\nkv_path = \"kv/lb\"\nrefresh = \"500ms\"\n"
        + &anywhere();
    let environment = [("VAULT_ADDR", &*vault.url), ("VAULT_TOKEN", ROOT)];
    let lb = Lb::start_with(&config(&text), &[], &environment);
    let (trust, addresses) = (Trust::new(&ca), lb.addresses("https", 2));
    wait_until("the entry of version 2", || {
        shows(&trust, addresses[0], "v2.test", &second)
    });
    wait_until("the entry of version 1", || {
        shows(&trust, addresses[1], "v1.test", &first)
    });
    let renewed = ca.pair(&["v2.test"]);
    vault.write("secret/data/lb/site", &json!({ "data": entry(&renewed) }));
    wait_until("the new one", || {
        shows(&trust, addresses[0], "v2.test", &renewed)
    });
    keeps_to_itself(&lb, &[ROOT]);
}

/// What any Vault has to do, stand-in or not.
fn issued_for_each_name(vault: &Vault) {
    let source = "source = \"vault-pki\"\nissue_path = \"pki/issue/lb\"\nnames = [\"*.test\", \"refused.example\"]";
    let lb = balancer(
        source,
        &[("VAULT_ADDR", &*vault.url), ("VAULT_TOKEN", ROOT)],
    );
    let (trust, address) = (Trust::with_pem(&vault.ca_pem()), lb.address("https"));
    let first =
        shown_to(&trust, address, "a.test").expect("a certificate, issued while the client waits");
    let other = shown_to(&trust, address, "b.test").expect("another");
    assert_ne!(first, other);
    assert_eq!(
        shown_to(&trust, address, "a.test"),
        Some(first),
        "it is kept"
    );
    assert_eq!(
        shown_to(&trust, address, "x.example"),
        None,
        "a name that is not configured"
    );
    assert_eq!(shown_to(&trust, address, "refused.example"), None);
    lb.wait_for_line("the refusal", |line| {
        line.contains("no certificate for refused.example")
    });
    keeps_to_itself(&lb, &[ROOT]);
}

#[test]
fn entries_of_the_stand_in() {
    let vault = Vault::stand_in();
    entries_of_both_engines(&vault);
    let asked = vault.seen();
    let mut of_lb = asked
        .iter()
        .filter(|asked| asked.header("user-agent") == Some("lb"))
        .peekable();
    assert!(
        of_lb.peek().is_some()
            && of_lb.all(|asked| asked.header("x-vault-request") == Some("true"))
    );
}

#[test]
fn names_that_the_stand_in_issues_for() {
    let vault = Vault::stand_in();
    issued_for_each_name(&vault);
    let issued = |name: &str| {
        let body = |asked: &super::support::web::Asked| {
            String::from_utf8_lossy(&asked.body).contains(name)
        };
        vault
            .seen()
            .iter()
            .filter(|asked| asked.target.ends_with("pki/issue/lb") && body(asked))
            .count()
    };
    assert_eq!(
        (
            issued("a.test"),
            issued("x.example"),
            issued("refused.example")
        ),
        (1, 0, 1)
    );
}

#[test]
fn a_real_vault_does_the_same() {
    let Some(binary) = vault::find("a_real_vault_does_the_same") else {
        return;
    };
    let vault = Vault::real(binary);
    entries_of_both_engines(&vault);
    issued_for_each_name(&vault);
}

#[test]
fn a_wrapped_token_serves_once_and_is_renewed() {
    let vault = Vault::stand_in();
    let inside = vault.inside();
    inside.wrap("hush-wrapping", "hush-inside");
    let ca = Ca::new("ca");
    let pair = ca.pair(&["a.test"]);
    vault.write(
        "secret/data/lb/site",
        &json!({ "data": { "cert": pair.cert_pem, "key": pair.key_pem } }),
    );
    // As Fabio has it: the token in a file.
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "hush-wrapping\n").unwrap();
    let cs = format!(
        "cs=main;type=vault;cert=secret/lb;refresh=1s;vaultfetchtoken=\"file:{}\"",
        token.display()
    );
    std::fs::write(folder.path().join("routes"), "").unwrap();
    let arguments = [
        "-proxy.cs",
        &cs,
        "-proxy.addr=127.0.0.1:0;cs=main",
        "-ui.addr=127.0.0.1:0",
    ];
    let registry = ["-registry.backend=file", "-registry.file.path=routes"];
    let lb = Lb::start_fabio(
        folder,
        &[&arguments[..], &registry].concat(),
        &[("VAULT_ADDR", &vault.url)],
    );
    let (trust, address) = (Trust::new(&ca), lb.address("https"));
    wait_until("the certificate", || {
        shows(&trust, address, "a.test", &pair)
    });
    wait_until("two renewals", || inside.renewals() >= 2);
    let unwrapped = vault
        .seen()
        .iter()
        .filter(|asked| asked.target.ends_with("sys/wrapping/unwrap"))
        .count();
    assert_eq!(unwrapped, 1);

    // Sealed: told, and nothing is lost.
    inside.seal(true);
    let line = lb.wait_for_line("what failed", |line| {
        line.contains("certificates cannot be read")
    });
    assert!(
        line.contains("sealed") && line.contains("secret/"),
        "{line}"
    );
    assert!(shows(&trust, address, "a.test", &pair));

    // Another token in the file is taken.
    inside.seal(false);
    std::fs::write(&token, ROOT).unwrap();
    wait_until("a request with the new token", || {
        vault
            .seen()
            .iter()
            .any(|it| it.target.contains("/data/") && it.header("x-vault-token") == Some(ROOT))
    });
    keeps_to_itself(&lb, &["hush-", ROOT]);
}
