//! Cookies that keep clients with instances (`sticky=`), whatever protocol the client and the
//! instance speak.

use std::net::SocketAddr;

use http::HeaderMap;
use http::header::SET_COOKIE;

use crate::harness::{Refusing, router};
use crate::support::client::RawClient;
use crate::support::lb::Lb;
use crate::support::upstream::Upstream;
use crate::support::wait::wait_until;
use crate::ways::{Got, WAYS, Way};

const NAME: &str = "SESSION";

/// The cookies that a response sets, `NAME=VALUE; …`.
fn set_cookies(fields: &HeaderMap) -> Vec<String> {
    let all = fields.get_all(SET_COOKIE).iter();
    all.map(|value| value.to_str().unwrap().to_owned())
        .collect()
}

/// The one cookie that it sets, as a client sends it back.
fn cookie(got: &Got) -> String {
    let set = set_cookies(&got.fields);
    assert_eq!(set.len(), 1, "{set:?}");
    set[0].split(';').next().unwrap().to_owned()
}

fn ask(way: Way, lb: &Lb, path: &str, cookie: &str) -> Got {
    let fields = [("cookie", cookie)];
    let fields = if cookie.is_empty() { &[] } else { &fields[..] };
    way.ask(lb.address("http"), "h", path, fields, "")
}

fn addresses(upstreams: &[Upstream]) -> Vec<SocketAddr> {
    upstreams.iter().map(|upstream| upstream.address).collect()
}

fn fleet() -> Vec<Upstream> {
    ["a", "b", "c", "d"].map(Upstream::start).into()
}

#[test]
fn a_client_stays_with_its_instance_in_every_protocol() {
    let upstreams = fleet();
    let all = addresses(&upstreams);
    for way in WAYS {
        let options = format!("sticky={NAME} proto={}", way.proto());
        let lb = router(&[("/", &all, &options)], "[proxy]\nworkers = 2\n");
        let first = ask(way, &lb, "/", "");
        assert_eq!(first.status, 200, "{way:?}");
        let set = set_cookies(&first.fields);
        let value = set[0]
            .strip_prefix("SESSION=")
            .and_then(|rest| rest.strip_suffix("; Path=/; HttpOnly; SameSite=Lax"))
            .unwrap_or_else(|| panic!("{way:?}: {set:?}"));
        assert!(value.len() == 32 && !value.contains("127.0.0.1"), "{value}");
        let cookie = cookie(&first);
        for turn in 0..20 {
            let sent = format!("theme=dark; {cookie}; x=y");
            let got = ask(way, &lb, "/", &sent);
            assert_eq!(got.instance(), first.instance(), "{way:?}, request {turn}");
            let set = set_cookies(&got.fields);
            assert!(set.is_empty(), "{way:?}: {set:?}");
            assert!(got.text().contains(&sent), "the instance sees it too");
        }
        let others: Vec<Got> = (0..20).map(|_| ask(way, &lb, "/", "")).collect();
        assert!(
            others.iter().any(|got| got.instance() != first.instance()),
            "{way:?}: those without a cookie go anywhere"
        );
        assert!(others.iter().all(|got| set_cookies(&got.fields).len() == 1));
    }
}

#[test]
fn what_is_no_cookie_of_the_route_is_ignored_and_replaced() {
    let upstreams = fleet();
    let all = addresses(&upstreams);
    let lb = router(
        &[
            ("/", &all[..2], "sticky=true"),
            ("/other", &all[2..], "sticky=SESSION"),
        ],
        "",
    );
    for way in [Way::HTTP1, Way::HTTP2] {
        let good = cookie(&ask(way, &lb, "/", ""));
        let (name, value) = good.split_once('=').unwrap();
        assert!(
            name.starts_with("lb_instance_") && name.len() == 20,
            "{name}"
        );
        let others = cookie(&ask(way, &lb, "/other", ""));
        let of_other_service = format!("{name}={}", others.split_once('=').unwrap().1);
        for bad in [
            format!("{name}={}", "0".repeat(32)),
            format!("{name}={}", &value[..31]),
            format!("{name}={value}0"),
            format!(
                "{name}={}",
                value.to_uppercase().replace(char::is_numeric, "F")
            ),
            format!("{name}="),
            format!("{name}=127.0.0.1:80"),
            format!("{name}=\u{e4}\u{e4}"),
            of_other_service,
            others,
            ";;; =;=;".to_owned(),
        ] {
            let got = ask(way, &lb, "/", &bad);
            assert_eq!(
                (got.status, set_cookies(&got.fields).len()),
                (200, 1),
                "{bad}"
            );
            let again = ask(way, &lb, "/", &format!("{bad}; {}", cookie(&got)));
            assert_eq!(again.instance(), got.instance(), "{bad}");
            assert!(set_cookies(&again.fields).is_empty(), "{bad}");
        }
    }
}

#[test]
fn an_instance_that_cannot_be_reached_gives_its_clients_to_another() {
    for way in WAYS {
        let mut upstreams = fleet();
        let all = addresses(&upstreams);
        let options = format!("sticky=true proto={}", way.proto());
        let lb = router(&[("/", &all, &options)], "");
        let first = ask(way, &lb, "/", "");
        let name = first.instance().to_owned();
        let gone = upstreams.iter().position(|it| it.name() == name).unwrap();
        upstreams.remove(gone).kill();
        let cookie_of_gone = cookie(&first);
        let moved = ask(way, &lb, "/", &cookie_of_gone);
        assert_eq!(moved.status, 200, "{way:?}");
        assert_ne!(moved.instance(), name);
        let new = cookie(&moved);
        assert_ne!(new, cookie_of_gone);
        for _ in 0..10 {
            let got = ask(way, &lb, "/", &new);
            assert_eq!((got.status, got.instance()), (200, moved.instance()));
            assert!(set_cookies(&got.fields).is_empty(), "one new cookie, once");
        }
    }
}

#[test]
fn weights_are_for_clients_without_a_cookie() {
    let (most, canary) = (Upstream::start("most"), Upstream::start("canary"));
    let folder = tempfile::tempdir().unwrap();
    let routes = folder.path().join("routes");
    let line = |upstream: &Upstream, weight| {
        let address = upstream.address;
        format!("route add s / http://{address} weight {weight} opts \"sticky=SESSION\"\n")
    };
    std::fs::write(&routes, line(&most, 0.9) + &line(&canary, 0.1)).unwrap();
    let lb = router(&[], &format!("routes_file = {routes:?}\n"));
    let first: Vec<Got> = (0..300).map(|_| ask(Way::HTTP1, &lb, "/", "")).collect();
    let of_canary: Vec<&Got> = first
        .iter()
        .filter(|got| got.instance() == "canary")
        .collect();
    assert!((5..=90).contains(&of_canary.len()), "{}", of_canary.len());
    let cookie = cookie(of_canary[0]);
    for _ in 0..30 {
        let got = ask(Way::HTTP2, &lb, "/", &cookie);
        assert_eq!(
            (got.instance(), set_cookies(&got.fields).len()),
            ("canary", 0)
        );
    }
}

#[test]
fn a_retry_sends_the_cookie_of_the_instance_that_answered() {
    let (dead, alive) = (Refusing::new(), Upstream::start("alive"));
    let lb = router(
        &[(
            "/",
            &[dead.address, alive.address],
            "sticky=SESSION strategy=rr",
        )],
        "[health]\neject_after = 0\n",
    );
    let mut cookies: Vec<String> = (0..8)
        .map(|_| {
            let got = ask(Way::HTTP1, &lb, "/", "");
            assert_eq!(got.instance(), "alive");
            cookie(&got)
        })
        .collect();
    cookies.dedup();
    assert_eq!(cookies.len(), 1, "{cookies:?}");
}

#[test]
fn a_websocket_stays_with_its_instance() {
    let upstreams = fleet();
    let lb = router(&[("/", &addresses(&upstreams), "sticky=SESSION")], "");
    let open = |cookie: &str| {
        let mut client = RawClient::connect(lb.address("http"));
        client.send(format!(
            "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nCookie: {cookie}\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ));
        let head = String::from_utf8(client.until(b"\r\n\r\n")).unwrap();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let set = head
            .lines()
            .find(|line| line.to_ascii_lowercase().starts_with("set-cookie"));
        set.map(|line| line.split_once(": ").unwrap().1.to_owned())
    };
    let set = open("none=1").expect("a cookie");
    let cookie = set.split(';').next().unwrap();
    assert_eq!(open(cookie), None);
    assert_eq!(
        set_cookies(&ask(Way::HTTP1, &lb, "/", cookie).fields).len(),
        0
    );
}

#[test]
fn it_is_secure_where_the_client_speaks_tls() {
    let upstream = Upstream::start("u");
    let lb = router(
        &[("/", &[upstream.address], "sticky=SESSION")],
        "[proxy]\ntrusted_proxies = [\"127.0.0.0/8\"]\n",
    );
    for way in [Way::HTTP1, Way::HTTP2] {
        for (field, secure) in [
            (("x-forwarded-proto", "https"), true),
            (("forwarded", "for=1.2.3.4;proto=https"), true),
            (("x-forwarded-proto", "http"), false),
            (("x-other", "https"), false),
        ] {
            let got = way.ask(lb.address("http"), "h", "/", &[field], "");
            let set = set_cookies(&got.fields);
            assert_eq!(set[0].ends_with("; Secure"), secure, "{field:?}: {set:?}");
        }
    }
}

#[test]
fn cookies_outlive_changes_of_the_table_and_the_process() {
    let upstreams = fleet();
    let folder = tempfile::tempdir().unwrap();
    let (routes, key) = (folder.path().join("routes"), folder.path().join("key"));
    std::fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
    let write = |upstreams: &[Upstream], options: &str| {
        let line = |upstream: &Upstream| {
            let address = upstream.address;
            format!("route add s / http://{address} opts \"sticky=SESSION {options}\"\n")
        };
        let text: String = upstreams.iter().map(line).collect();
        std::fs::write(&routes, text).unwrap();
    };
    write(&upstreams[..3], "");
    let start = || {
        router(
            &[],
            &format!("routes_file = {routes:?}\n[proxy]\nsticky_key_file = {key:?}\n"),
        )
    };
    let lb = start();
    let first = ask(Way::HTTP1, &lb, "/", "");
    let cookie = cookie(&first);
    let stays = |lb: &Lb, about: &str| {
        let got = ask(Way::HTTP1, lb, "/", &cookie);
        assert_eq!(got.instance(), first.instance(), "{about}");
        assert!(set_cookies(&got.fields).is_empty(), "{about}");
    };
    write(&upstreams, "strip=/x");
    lb.wait_admin("/api/routes", "the change", |body| {
        body.contains("strip=/x")
    });
    stays(&lb, "another instance, other options");
    stays(&start(), "another process with the same key");
    // A key that changes makes new cookies, and breaks nothing.
    std::fs::write(&key, "another secret of thirty-two bytes or more").unwrap();
    wait_until("the new key", || {
        let got = ask(Way::HTTP1, &lb, "/", &cookie);
        assert_eq!(got.status, 200);
        !set_cookies(&got.fields).is_empty()
    });
}
