//! Two processes on one address: an error, unless one of them runs with `--take-over`.

use std::net::SocketAddr;

use super::support::client;
use super::support::lb::Lb;
use super::support::upstream::{TcpEcho, Upstream};
use super::wire::*;
use crate::support::loopback::free_port;
use crate::support::wait::wait_until;

fn at(ip: &str, port: u16) -> SocketAddr {
    format!("{ip}:{port}").parse().unwrap()
}

fn web(address: SocketAddr, upstream: &Upstream, admin: SocketAddr) -> String {
    format!(
        "[[listener]]\naddress = \"{address}\"\nprotocol = \"http\"\n[proxy]\nworkers = 2\n[admin]\naddress = \"{admin}\"\n"
    ) + &route("web", "web/", &[url("http", upstream.address)], "")
}

const ANY: &str = "127.0.0.1:0";

fn any() -> SocketAddr {
    ANY.parse().unwrap()
}

#[test]
fn an_address_in_use_is_an_error_that_names_the_process() {
    let (one, two) = (Upstream::start("one"), Upstream::start("two"));
    let (port, admin) = (free_port(), free_port());
    let first = Lb::start(&web(at("127.0.0.1", port), &one, at("127.0.0.1", admin)));
    let address = first.address("http");
    let metrics = format!(
        "protocol = \"http\"\n[[listener]]\naddress = \"127.0.0.1:{port}\"\nprotocol = \"prometheus\""
    );
    let cases = [
        // The same address, one that covers it, the admin listener alone, the other one's listener
        // as admin listener.
        web(at("127.0.0.1", port), &two, any()),
        web(at("0.0.0.0", port), &two, any()),
        web(any(), &two, at("127.0.0.1", admin)),
        web(any(), &two, at("127.0.0.1", port)),
        web(any(), &two, any()).replacen("protocol = \"http\"", &metrics, 1),
    ];
    for text in cases {
        let mut second = Lb::spawn(&text, &[], &[]);
        assert_eq!(second.exit_code(), Some(1), "{text}\n{}", second.stderr());
        let wanted = format!("address in use by pid {} (lb)", first.pid());
        second.wait_for_line(&wanted, |line| line.contains(&wanted));
        for _ in 0..8 {
            assert_eq!(
                client::get(address, "web", "/").header("x-instance"),
                Some("one")
            );
        }
    }
    // Of another program.
    let other = std::net::TcpListener::bind(ANY).unwrap();
    let mut third = Lb::spawn(
        &web(other.local_addr().unwrap(), &two, any()),
        &["--take-over"],
        &[],
    );
    assert_eq!(third.exit_code(), Some(1), "{}", third.stderr());
    let wanted = format!("address in use by pid {} (", std::process::id());
    third.wait_for_line(&wanted, |line| line.contains(&wanted));
}

#[test]
fn of_two_that_start_at_the_same_instant_one_ends() {
    let upstream = Upstream::start("u");
    for _ in 0..4 {
        let address = at("127.0.0.1", free_port());
        let mut both = [0, 1].map(|_| Lb::spawn(&web(address, &upstream, any()), &[], &[]));
        wait_until("the end of one", || {
            both.iter_mut().any(|lb| !lb.is_running())
        });
        let at = both.iter_mut().position(|lb| !lb.is_running()).unwrap();
        let [one, two] = &mut both;
        let (ended, stays) = if at == 0 { (one, two) } else { (two, one) };
        assert_eq!(ended.exit_code(), Some(1), "{}", ended.stderr());
        ended.wait_for_line("the reason", |line| line.contains("address in use by "));
        assert_eq!(stays.address("http"), address);
        stays.wait_ready();
        assert_eq!(client::get(address, "web", "/").status, 200);
        assert!(stays.is_running());
    }
}

#[test]
fn taking_over_is_asked_for_and_both_say_so() {
    let (one, two) = (Upstream::start("one"), Upstream::start("two"));
    type Asked<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
    let asked: [Asked<'_>; 3] = [
        (&["--take-over"], &[], ""),
        (&[], &[("LB_TAKE_OVER", "1")], ""),
        (&[], &[], "take_over = true\n"),
    ];
    for (arguments, environment, top) in asked {
        let (address, admin) = (at("127.0.0.1", free_port()), at("127.0.0.1", free_port()));
        let mut first = Lb::start(&web(address, &one, admin));
        assert_eq!(first.address("http"), address);
        let shared = format!("lb_listener_shared{{listener=\"{address}\"}}");
        wait_until("the gauge", || first.metric(&shared) == Some(0.0));
        let second = Lb::start_with(
            &(top.to_owned() + &web(address, &two, any())),
            arguments,
            environment,
        );
        second.wait_ready();
        wait_until("the gauge of both", || {
            first.metric(&shared) == Some(1.0) && second.metric(&shared) == Some(1.0)
        });
        for (lb, other) in [(&first, &second), (&second, &first)] {
            let by = format!("pid {} (lb)", other.pid());
            lb.wait_for_line("a warning", |line| {
                line.contains("WARN")
                    && line.contains("listens on the same address")
                    && line.contains(&by)
            });
        }
        let mut seen = std::collections::BTreeSet::new();
        wait_until("answers of both", || {
            seen.insert(
                client::get(address, "web", "/")
                    .header("x-instance")
                    .map(str::to_owned),
            );
            seen.len() == 2
        });
        first.sigterm();
        assert_eq!(first.exit_code(), Some(0));
        wait_until("the gauge to fall", || second.metric(&shared) == Some(0.0));
        second.wait_for_line("an end", |line| line.contains("no other process listens"));
        assert_eq!(
            client::get(address, "web", "/").header("x-instance"),
            Some("two")
        );
    }
}

/// Addresses of one process may cover one another, the admin listener's too, in any order.
#[test]
fn addresses_of_one_process_are_shared_among_themselves() {
    let upstream = Upstream::start("u");
    for order in [["127.0.0.1", "0.0.0.0"], ["0.0.0.0", "127.0.0.1"]] {
        let port = free_port();
        let [one, two] = order.map(|ip| at(ip, port));
        let second =
            format!("protocol = \"http\"\n[[listener]]\naddress = \"{two}\"\nprotocol = \"http\"");
        let listeners = web(one, &upstream, any()).replacen("protocol = \"http\"", &second, 1);
        let admin = web(at("0.0.0.0", port), &upstream, at("127.0.0.1", port));
        for text in [listeners, admin] {
            let lb = Lb::start(&text);
            lb.wait_ready();
            let shared = format!("lb_listener_shared{{listener=\"0.0.0.0:{port}\"}}");
            wait_until("the gauge", || lb.metric(&shared) == Some(0.0));
            assert!(!lb.stderr().contains("WARN"), "{}", lb.stderr());
        }
    }
}

#[test]
fn a_dynamic_port_of_another_process_is_left_to_it() {
    let (one, two) = (TcpEcho::start("1", ""), TcpEcho::start("2", ""));
    let port = free_port();
    let text = |echo: &TcpEcho| {
        let dynamic = listener(
            "tcp-dynamic",
            &format!("ports = \"{port}\"\nrefresh = \"50ms\""),
        );
        config(&(dynamic + &route("db", &format!(":{port}"), &[url("tcp", echo.address)], "")))
    };
    let mut first = Lb::start(&text(&one));
    let greeting = || client::RawClient::connect(at("127.0.0.1", port)).bytes(1);
    wait_until("the port", || {
        std::net::TcpStream::connect(at("127.0.0.1", port)).is_ok()
    });
    let second = Lb::start(&text(&two));
    let by = format!("address in use by pid {} (lb)", first.pid());
    second.wait_for_line("who has it", |line| {
        line.contains("cannot be opened") && line.contains(&by)
    });
    for _ in 0..8 {
        assert_eq!(greeting(), b"1");
    }
    first.sigterm();
    assert_eq!(first.exit_code(), Some(0));
    wait_until("the port of the other", || {
        std::net::TcpStream::connect(at("127.0.0.1", port)).is_ok_and(|_| greeting() == b"2")
    });
}

#[test]
fn a_successor_starts_at_once_after_a_predecessor_with_connections() {
    let upstream = Upstream::start("u");
    let address = at("127.0.0.1", free_port());
    let mut first = Lb::start(&web(address, &upstream, any()));
    first.wait_ready();
    let request = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
    let mut clients: Vec<_> = (0..4)
        .map(|_| client::RawClient::connect(address))
        .collect();
    for client in &mut clients {
        assert_eq!(client.send(request).response().unwrap().status, 200);
    }
    first.signal("KILL");
    assert_eq!(first.exit_code(), None);
    let second = Lb::start(&web(address, &upstream, any()));
    second.wait_ready();
    assert_eq!(client::get(address, "web", "/").status, 200);
}
