//! A part that has to run panics: the process says so at once, is not ready any more, and ends in
//! order.

use std::time::{Duration, Instant};

use super::support::client::{self, RawClient};
use super::support::lb::Lb;
use super::support::upstream::Upstream;
use super::wire::*;
use crate::support::wait::wait_until;

fn start(part: &str, more: &str, upstream: &Upstream) -> (Lb, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let spring = folder.path().join("spring").display().to_string();
    let text = config(
        &(listener("http", "")
            + &route("web", "/", &[url("http", upstream.address)], "")
            + "[proxy]\nworkers = 2\n"
            + more),
    );
    let lb = Lb::start_with(
        &text,
        &[],
        &[("LB_TEST_PANIC", part), ("LB_TEST_PANIC_WHEN", &spring)],
    );
    lb.wait_ready();
    assert_eq!(client::get(lb.address("http"), "h", "/").status, 200);
    (lb, folder)
}

fn spring(folder: &tempfile::TempDir) {
    std::fs::write(folder.path().join("spring"), "").unwrap();
}

#[test]
fn whatever_has_to_run_and_fails_ends_the_process_and_says_so() {
    let upstream = Upstream::start("u");
    for part in [
        "a worker",
        "an accept loop",
        "the clock of a worker",
        "the drain of a worker",
        "the control thread",
        "the control loop",
        "the admin listener",
        "a source of routes",
    ] {
        let (mut lb, folder) = start(part, "", &upstream);
        spring(&folder);
        lb.wait_for_line("the panic", |line| {
            line.contains("ERROR") && line.contains("a test wants")
        });
        lb.wait_for_line("what it means", |line| {
            line.contains("ERROR") && line.contains(&format!("\"part\":\"{part}\""))
        });
        assert_eq!(lb.exit_code(), Some(1), "{part}");
        assert!(
            lb.stderr().contains(&format!("{part} has failed")),
            "{part}: {}",
            lb.stderr()
        );
    }
}

/// What the other worker does is finished.
#[test]
fn the_end_after_a_panic_is_a_drain() {
    let upstream = Upstream::start("u");
    let (mut lb, folder) = start(
        "the clock of a worker",
        "[drain]\ngrace = \"2s\"\n",
        &upstream,
    );
    upstream.set_delay(Duration::from_secs(1));
    let mut running = RawClient::connect(lb.address("http"));
    running.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let begun = Instant::now();
    spring(&folder);
    wait_until("not ready", || lb.admin("/ready").0 == 503);
    assert_eq!(lb.admin("/health").0, 200);
    assert_eq!(running.response().expect("a response").status, 200);
    assert_eq!(lb.exit_code(), Some(1));
    assert!(begun.elapsed() >= Duration::from_secs(2));
}

/// One service or certificate of many costs no other.
#[test]
fn a_certificate_source_that_fails_begins_anew() {
    use super::support::certs::Ca;
    let folder = tempfile::tempdir().unwrap();
    let pair = Ca::new("ca")
        .pair(&["site.test"])
        .write(folder.path(), "site");
    let both =
        std::fs::read_to_string(&pair.cert).unwrap() + &std::fs::read_to_string(&pair.key).unwrap();
    let server = client_of(both);
    let upstream = Upstream::start("u");
    let more = format!(
        "[certificates.main]\nsource = \"http\"\nurl = \"http://{server}/pairs\"\nrefresh = \"1s\"\n"
    );
    let (mut lb, spring_folder) = start("a source of certificates", &more, &upstream);
    spring(&spring_folder);
    lb.wait_for_line("the panic", |line| {
        line.contains("ERROR") && line.contains("begins anew")
    });
    assert_eq!(client::get(lb.address("http"), "h", "/").status, 200);
    assert_eq!(lb.admin("/ready").0, 200);
    assert!(lb.is_running());
}

/// A server that responds to anything with this text.
fn client_of(text: String) -> std::net::SocketAddr {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let _ = socket.read(&mut [0; 4096]);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                text.len()
            );
            let _ = socket.write_all((head + &text).as_bytes());
        }
    });
    address
}
