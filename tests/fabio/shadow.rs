//! `lb fabio -shadow`: our table beside that of a Fabio.

use std::process::{Command, Stdio};

use super::{Shown, fabio};
use crate::support::client;
use crate::support::consul::{ConsulAgent, Registration};
use crate::support::loopback::free_address;
use crate::support::wait::wait_until;
use crate::support::web::WebServer;

/// The table that these routes are, as Fabio tells it.
const TABLE: &str = r#"[
  {"service":"web","host":"www.a.com","path":"/","src":"www.a.com/","dst":"http://127.0.0.1:1/","opts":"prepend=/p strip=/s",
   "weight":0.25,"tags":["v1"],"cmd":"route add","rate1":0,"pct99":0},
  {"service":"web","host":"www.a.com","path":"/","src":"www.a.com/","dst":"http://127.0.0.1:2/","opts":"",
   "weight":0.75,"cmd":"route add","rate1":0,"pct99":0}
]"#;
const ROUTES: &str = r#"
route add web www.a.com/ http://127.0.0.1:1/ weight 0.25 tags "v1" opts "strip=/s prepend=/p"
route add web www.a.com/ http://127.0.0.1:2/
"#;

/// A stand-in that responds with this table to each request.
fn stand_in(table: &'static str) -> WebServer {
    WebServer::start(move |asked| match asked.target.as_str() {
        "/api/routes" => (200, table.as_bytes().to_vec()),
        _ => (404, Vec::new()),
    })
}

fn beside(address: &str, routes: &str) -> Shown {
    fabio(&[
        "-registry.backend=static",
        "-registry.static.routes",
        routes,
        "-shadow",
        address,
    ])
}

#[test]
fn equal_tables_end_with_0() {
    let server = stand_in(TABLE);
    for address in [
        server.address.to_string(),
        format!("http://{}", server.address),
    ] {
        let shown = beside(&address, ROUTES);
        assert_eq!(
            (shown.code, shown.out.as_str()),
            (Some(0), ""),
            "{}",
            shown.err
        );
        assert_eq!(
            shown.err.lines().last(),
            Some("2 targets in both tables, 0 differences"),
            "{}",
            shown.err
        );
    }
    // An empty table is `null` with Fabio.
    let shown = beside(&stand_in("null").address.to_string(), "");
    assert_eq!(
        (shown.code, shown.out.as_str()),
        (Some(0), ""),
        "{}",
        shown.err
    );
}

#[test]
fn each_difference_is_a_line_and_ends_with_3() {
    let server = stand_in(TABLE);
    let routes =
        "route add web www.a.com/ http://127.0.0.1:2/\nroute add api /api http://127.0.0.1:3/";
    let shown = beside(&server.address.to_string(), routes);
    let expected = "only in lb: route add api /api http://127.0.0.1:3/\n\
         only in Fabio: route add web www.a.com/ http://127.0.0.1:1/ tags \"v1\" opts \"prepend=/p strip=/s\"\n\
         share 0.7500 in Fabio, 1.0000 in lb: route add web www.a.com/ http://127.0.0.1:2/\n";
    assert_eq!(
        (shown.code, shown.out.as_str()),
        (Some(3), expected),
        "{}",
        shown.err
    );
    assert_eq!(
        shown.err.lines().last(),
        Some("0 targets in both tables, 3 differences"),
        "{}",
        shown.err
    );
}

/// A sidecar proxy has its service's tags. Fabio routes to it, and its shares are others than ours.
#[test]
fn what_fabio_is_wrong_to_route_to_is_said_with_the_reason() {
    let agent = ConsulAgent::start_plain();
    let body = serde_json::json!({"Name": "web", "ID": "web-1", "Address": "127.0.0.1", "Port": 1001,
        "Tags": ["urlprefix-www.a.com/", "urlprefix-:7777 proto=tcp"],
        "Check": {"CheckID": "check:web-1", "TTL": "30m", "Status": "passing"},
        "Connect": {"SidecarService": {"Address": "127.0.0.1", "Port": 2001,
            "Check": {"CheckID": "check:proxy", "TTL": "30m", "Status": "passing"}}}});
    agent.api("PUT", "/v1/agent/service/register", Some(&body));
    let row = |service: &str, src: &str, dst: &str| serde_json::json!({"service": service, "src": src, "dst": dst, "opts": "", "weight": 0.5, "cmd": "route add"});
    let table = serde_json::json!([
        row("web", "www.a.com/", "http://127.0.0.1:1001/"),
        row("web-sidecar-proxy", "www.a.com/", "http://127.0.0.1:2001/"),
        row("web", ":7777", "tcp://127.0.0.1:1001"),
        row("web-sidecar-proxy", ":7777", "tcp://127.0.0.1:2001"),
    ]);
    let table = table.to_string();
    let server = WebServer::start(move |_| (200, table.as_bytes().to_vec()));
    let consul = agent.address();
    let consul = consul.trim_start_matches("http://");
    let shown = fabio(&[
        "-registry.consul.addr",
        consul,
        "-shadow",
        &server.address.to_string(),
    ]);
    let why =
        "(lb is right: Connect proxy (sidecar): it takes only mutual TLS of the service mesh)";
    let shares = "(lb is right: some of Fabio's targets here cannot serve)";
    let expected = format!(
        "share 0.5000 in Fabio, 1.0000 in lb: route add web :7777 tcp://127.0.0.1:1001 {shares}\n\
         only in Fabio: route add web-sidecar-proxy :7777 tcp://127.0.0.1:2001 {why}\n\
         share 0.5000 in Fabio, 1.0000 in lb: route add web www.a.com/ http://127.0.0.1:1001/ {shares}\n\
         only in Fabio: route add web-sidecar-proxy www.a.com/ http://127.0.0.1:2001/ {why}\n"
    );
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(
        (shown.code, sorted(&shown.out)),
        (Some(3), sorted(&expected)),
        "{}",
        shown.err
    );
}

#[test]
fn a_server_that_is_not_fabio_is_an_error() {
    for (server, part) in [
        (stand_in("<html>"), "does not respond as Fabio does"),
        (stand_in("{}"), "does not respond"),
    ] {
        let shown = beside(&server.address.to_string(), ROUTES);
        assert_eq!(
            (shown.code, shown.out.as_str()),
            (Some(1), ""),
            "{}",
            shown.err
        );
        assert!(shown.err.contains(part), "{}", shown.err);
    }
    let refusing = WebServer::start(|_| (503, b"later".to_vec()));
    let shown = beside(&refusing.address.to_string(), ROUTES);
    assert_eq!(shown.code, Some(1));
    assert!(shown.err.contains("responded 503"), "{}", shown.err);
    let nobody = format!("{}:1", free_address());
    let shown = beside(&nobody, ROUTES);
    assert_eq!(shown.code, Some(1));
    assert!(
        shown.err.contains("is Fabio's ui.addr there?"),
        "{}",
        shown.err
    );
    assert_eq!(fabio(&["-shadow"]).code, Some(2));
}

/// Beside the real one, on the same Consul: equal, and different once only one of them is told of a
/// route.
#[test]
fn beside_the_real_one() {
    let Some(program) = std::env::var_os("FABIO_BIN").filter(|path| !path.is_empty()) else {
        eprintln!("SKIPPED: no FABIO_BIN");
        return;
    };
    let agent = ConsulAgent::start_plain();
    let tags = [
        "urlprefix-www.a.com/ strip=/x",
        "urlprefix-/any weight=0.3",
        "urlprefix-:7777 proto=tcp",
        "v1",
    ];
    for (id, port) in [("web-1", 1001), ("web-2", 1002)] {
        agent.register(&Registration {
            service: "web",
            id,
            port,
            tags: &tags,
        });
    }
    agent.put_key(
        "fabio/config",
        "route add kv kv.a.com/ https://127.0.0.1:1003/ opts \"tlsskipverify=true\"",
    );
    let ip = free_address();
    let consul = agent.address();
    let consul = [
        "-registry.consul.addr",
        consul.trim_start_matches("http://"),
    ];
    let (proxy, admin) = (format!("-proxy.addr={ip}:9999"), format!("{ip}:9998"));
    let mut child = Command::new(program)
        .args(consul)
        .args([
            &proxy,
            "-insecure",
            "-registry.consul.register.enabled=false",
            "-ui.addr",
            &admin,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It serves once it has read its first table; the KV store may be a moment later.
    wait_until("a table of the real Fabio", || {
        std::net::TcpStream::connect((ip.as_str(), 9999)).is_ok()
            && client::get(admin.parse().unwrap(), "localhost", "/api/routes")
                .text()
                .contains("kv.a.com")
    });
    let equal = fabio(&[&consul[..], &["-shadow", &admin]].concat());
    let other = fabio(
        &[
            &consul[..],
            &["-registry.consul.kvpath=/nothing", "-shadow", &admin],
        ]
        .concat(),
    );
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(
        (equal.code, equal.out.as_str()),
        (Some(0), ""),
        "{}",
        equal.err
    );
    assert_eq!(other.code, Some(3), "{}", other.err);
    assert_eq!(
        other.out,
        "only in Fabio: route add kv kv.a.com/ https://127.0.0.1:1003/ opts \"tlsskipverify=true\"\n"
    );
}
