//! What `openssl` says about the cluster's certificates.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::cluster::{Cluster, Ran};

/// The certificate that a node serves, PEM. The operator's pair is shown; the chain has to verify
/// for servers.
pub(crate) fn served(cluster: &Cluster, address: Ipv4Addr) -> String {
    let mut client = Command::new("openssl");
    client.args([
        "s_client",
        "-verify_return_error",
        "-purpose",
        "sslserver",
        "-connect",
        &format!("{address}:8501"),
    ]);
    client
        .args(["-verify_ip", &address.to_string()])
        .arg("-CAfile")
        .arg(cluster.state("ca.pem"));
    client.arg("-cert").arg(cluster.state("certs/operator.pem"));
    client
        .arg("-key")
        .arg(cluster.state("certs/operator-key.pem"));
    let ran = Ran::of(client.stdin(Stdio::null()));
    assert!(
        ran.stdout.contains("Verify return code: 0 (ok)"),
        "{address}: {}{}",
        ran.stdout,
        ran.stderr
    );
    let (from, to) = (
        ran.stdout.find("-----BEGIN").unwrap(),
        ran.stdout.find("-----END CERTIFICATE-----").unwrap(),
    );
    format!("{}-----END CERTIFICATE-----\n", &ran.stdout[from..to])
}

/// The certificate at the beginning of a file; behind it stands the CA that signed it.
pub(crate) fn leaf(file: &Path) -> String {
    const END: &str = "-----END CERTIFICATE-----\n";
    let text = std::fs::read_to_string(file).unwrap();
    let end = text.find(END).unwrap() + END.len();
    text[..end].to_owned()
}

/// What a certificate says: names, uses, end.
pub(crate) fn text(file: &Path) -> String {
    let wanted = "subjectAltName,keyUsage,extendedKeyUsage,basicConstraints";
    let mut x509 = Command::new("openssl");
    x509.args(["x509", "-noout", "-subject", "-ext", wanted, "-in"])
        .arg(file);
    Ran::of(&mut x509).good().stdout
}

/// Whether a certificate is good for this, with what its file holds and trust in this CA.
pub(crate) fn verifies(ca: &Path, purpose: &str, file: &Path) -> bool {
    let mut verify = Command::new("openssl");
    verify
        .args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"])
        .arg(ca)
        .arg("-untrusted")
        .args([file, file]);
    Ran::of(&mut verify).code == Some(0)
}

/// Makes a certificate anew, signed by Consul's CA, of the same key and the same extensions, that
/// ended long ago.
pub(crate) fn expire(cluster: &Cluster, cert: &Path, key: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("index"), "").unwrap();
    let config = format!(
        "[ca]\ndefault_ca = own\n[own]\ndatabase = {0}/index\nnew_certs_dir = {0}\ndefault_md = sha256\nrand_serial = yes\n\
         policy = any\ncopy_extensions = copy\n[any]\ncommonName = supplied\n",
        folder.path().display()
    );
    std::fs::write(path("config"), config).unwrap();
    let mut request = Command::new("openssl");
    request
        .args(["x509", "-x509toreq", "-copy_extensions", "copyall", "-in"])
        .arg(cert)
        .arg("-signkey")
        .arg(key);
    Ran::of(request.arg("-out").arg(path("request"))).good();
    let mut ca = Command::new("openssl");
    ca.args([
        "ca",
        "-batch",
        "-notext",
        "-startdate",
        "20240101000000Z",
        "-enddate",
        "20250101000000Z",
    ]);
    ca.arg("-config")
        .arg(path("config"))
        .arg("-cert")
        .arg(cluster.state("consul-ca.pem"));
    ca.arg("-keyfile")
        .arg(cluster.state("consul-ca-key.pem"))
        .arg("-in")
        .arg(path("request"))
        .arg("-out")
        .arg(path("cert"));
    Ran::of(&mut ca).good();
    let made = std::fs::read_to_string(path("cert")).unwrap();
    std::fs::write(cert, made + &cluster.read("consul-ca.pem")).unwrap();
}
