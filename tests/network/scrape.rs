//! The listener for scrapers: what it serves, to which clients, and what a reload does.

use super::support::certs::{Ca, Pair};
use super::support::client;
use super::support::lb::Lb;
use super::tls::{Trust, file_source, shown};
use super::wire::*;
use crate::support::wait::{wait_until, wait_until_async};

/// A configuration with a listener for scrapers, and one route that has nothing to do with it.
fn with_metrics(keys: &str, more: &str) -> String {
    config(&format!(
        "{}[metrics]\naddress = \"127.0.0.1:0\"\n{keys}\n{more}{}",
        listener("http", ""),
        nowhere()
    ))
}

fn nowhere() -> String {
    route("web", "/", &["http://127.0.0.1:1".to_owned()], "")
}

#[test]
fn it_serves_metrics_and_nothing_else() {
    let lb = Lb::start(&with_metrics("", ""));
    let address = lb.address("metrics");
    let own = lb.admin("/metrics").1;
    assert!(own.contains("lb_build_info"));
    for (method, path, status) in [
        ("GET", "/metrics", 200),
        ("GET", "/metrics?x=1", 200),
        ("HEAD", "/metrics", 200),
        ("POST", "/metrics", 405),
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/health", 404),
        ("GET", "/ready", 404),
        ("GET", "/routes", 404),
        ("GET", "/api/config", 404),
        ("GET", "/api/routes", 404),
        ("PUT", "/api/manual", 404),
    ] {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: any.name\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        let mut connection = client::RawClient::connect(address);
        let head = String::from_utf8(connection.send(&request).rest()).unwrap();
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{method} {path}: {head}"
        );
        let is_metrics = head.contains("lb_build_info");
        assert_eq!(is_metrics, status == 200 && method == "GET", "{head}");
    }
    // What a browser sends for a page of another site.
    let request = "GET /metrics HTTP/1.1\r\nHost: any.name\r\nOrigin: http://any.name\r\n\
                   Connection: close\r\n\r\n";
    let answer = client::exchange(address, request).unwrap();
    assert_eq!(answer.status, 421);
    // Without an address there is none.
    let lb = Lb::start(&config(&(listener("http", "") + &nowhere())));
    lb.wait_ready();
    assert!(!lb.stderr().contains("\"listener\":\"metrics\""));
}

#[test]
fn its_clients_are_those_of_its_own_cas() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, scrapers, others) = (Ca::new("ca"), Ca::new("scrapers"), Ca::new("others"));
    let files = ca.pair(&["a.test"]).write(folder.path(), "site");
    let scraper_ca = scrapers.write(folder.path(), "scrapers");
    let other_ca = others.write(folder.path(), "others");
    let (scraper, other) = (scrapers.pair(&["client"]), others.pair(&["client"]));
    let own = format!("certificates = \"main\"\nclient_ca_file = {scraper_ca:?}");
    let of_source = format!("client_ca_file = {other_ca:?}");
    // Keys of the listener, keys of the certificates, and which are let in: without a certificate,
    // the scraper, the other one.
    for (keys, source, let_in) in [
        ("certificates = \"main\"", "", [true, true, true]),
        (own.as_str(), "", [false, true, false]),
        // Its own CAs go before those of the certificates.
        (&own, &of_source, [false, true, false]),
        ("certificates = \"main\"", &of_source, [false, false, true]),
    ] {
        let lb = Lb::start(&with_metrics(keys, &file_source(&files, source)));
        let address = lb.address("metrics");
        block_on(async {
            for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
                for (identity, wanted) in [None, Some(&scraper), Some(&other)].iter().zip(let_in) {
                    let answer = Trust::with(&ca, *identity, versions)
                        .get_path(address, "a.test", "/metrics")
                        .await;
                    let got = answer.is_ok_and(|text| text.starts_with("HTTP/1.1 200"));
                    assert_eq!(got, wanted, "{keys} {source}");
                }
            }
        });
        let plain = client::exchange(
            address,
            "GET /metrics HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
        );
        assert!(plain.is_none(), "over plain HTTP");
    }
}

#[test]
fn certificates_and_cas_are_taken_over_and_bad_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, first, second) = (Ca::new("ca"), Ca::new("first"), Ca::new("second"));
    let pairs = [ca.pair(&["a.test"]), ca.pair(&["a.test"])];
    let files = pairs[0].write(folder.path(), "site");
    let client_ca = first.write(folder.path(), "clients");
    let (old, new) = (first.pair(&["client"]), second.pair(&["client"]));
    let keys = format!("certificates = \"main\"\nclient_ca_file = {client_ca:?}");
    let lb = Lb::start(&with_metrics(&keys, &file_source(&files, "")));
    let address = lb.address("metrics");
    let lets_in = async |identity: &Pair| {
        let answer = Trust::with_identity(&ca, Some(identity))
            .get_path(address, "a.test", "/metrics")
            .await;
        answer.is_ok_and(|text| text.starts_with("HTTP/1.1 200"))
    };
    block_on(async { assert!(lets_in(&old).await && !lets_in(&new).await) });
    pairs[1].write(folder.path(), "site");
    second.write(folder.path(), "clients");
    block_on(async {
        wait_until_async("the new CA", async || match lets_in(&new).await {
            true => Ok(()),
            false => Err("refused"),
        })
        .await;
        assert!(!lets_in(&old).await, "of the CA of before");
        let stream = Trust::with_identity(&ca, Some(&new))
            .connect(address, "a.test")
            .await
            .unwrap();
        let der = shown(&stream);
        let wanted = pem_of(&pairs[1]);
        assert_eq!(der.as_ref(), wanted.as_slice());
    });
    // A file that turns bad costs nothing.
    std::fs::write(folder.path().join("clients.pem"), "nonsense").unwrap();
    lb.sighup();
    wait_until("the bad file in the metrics", || {
        let text = lb.admin("/metrics").1;
        let name = "lb_certificate_errors{source=\"metrics.client_ca_file\"} 1";
        text.contains(name).then_some(()).ok_or(text)
    });
    block_on(async { assert!(lets_in(&new).await && !lets_in(&old).await) });
}

#[test]
fn without_readable_cas_no_client_is_let_in_until_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, clients) = (Ca::new("ca"), Ca::new("clients"));
    let files = ca.pair(&["a.test"]).write(folder.path(), "site");
    let identity = clients.pair(&["client"]);
    let missing = folder.path().join("clients.pem");
    let keys = format!("certificates = \"main\"\nclient_ca_file = {missing:?}");
    let lb = Lb::start(&with_metrics(&keys, &file_source(&files, "")));
    let address = lb.address("metrics");
    let trust = Trust::with_identity(&ca, Some(&identity));
    block_on(async { assert!(trust.get_path(address, "a.test", "/metrics").await.is_err()) });
    clients.write(folder.path(), "clients");
    block_on(async {
        wait_until_async("the CA", async || {
            trust.get_path(address, "a.test", "/metrics").await
        })
        .await;
    });
}

fn pem_of(pair: &Pair) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::CertificateDer::from_pem_slice(pair.cert_pem.as_bytes())
        .unwrap()
        .to_vec()
}
