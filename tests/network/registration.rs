//! `lb` as a service in a real Consul: registered, put back, handed over to a successor, removed
//! before the grace.

use serde_json::Value;

use super::support::certs::Ca;
use super::support::client;
use super::support::consul::{ConsulAgent, Registration};
use super::support::lb::Lb;
use super::support::upstream::Upstream;
use super::wire::*;
use crate::support::wait::wait_until;

/// What the agent says of a registration; none when it has no such.
fn registered(agent: &ConsulAgent, id: &str) -> Option<Value> {
    match agent.try_api("GET", &format!("/v1/agent/service/{id}"), None) {
        Ok((200, text)) => serde_json::from_str(&text).ok(),
        _ => None,
    }
}

/// Ids of the healthy instances of a service.
fn healthy(agent: &ConsulAgent, service: &str) -> Vec<String> {
    let found: Vec<Value> = serde_json::from_str(&agent.api(
        "GET",
        &format!("/v1/health/service/{service}?passing"),
        None,
    ))
    .unwrap();
    found
        .iter()
        .map(|entry| entry["Service"]["ID"].as_str().unwrap().to_owned())
        .collect()
}

fn fabio(agent: &ConsulAgent, ui: &str, more: &[&str]) -> Lb {
    let address = agent.address();
    let own = [
        "-proxy.addr=127.0.0.1:0",
        "-ui.addr",
        ui,
        "-registry.consul.addr",
        &address,
    ];
    // Where two have the same address, the second one relieves the first.
    let environment = [("LB_TAKE_OVER", "1")];
    let lb = Lb::start_fabio(
        tempfile::tempdir().unwrap(),
        &[&own[..], more].concat(),
        &environment,
    );
    lb.wait_ready();
    lb
}

#[test]
fn it_is_registered_put_back_and_removed_before_the_grace() {
    let agent = ConsulAgent::start_plain();
    let upstream = Upstream::start("web");
    let tags = ["urlprefix-/web register=shop"];
    let web = Registration {
        service: "web",
        id: "web-1",
        port: upstream.address.port(),
        tags: &tags,
    };
    agent.register(&web);
    let more = [
        "-registry.consul.register.tags=edge,blue",
        "-proxy.deregistergraceperiod=3s",
    ];
    let mut lb = fabio(&agent, "127.0.0.1:0", &more);
    let admin = lb.address("admin");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap()
        .trim()
        .to_owned();
    let [own, alias] = ["fabio", "shop"].map(|name| format!("{name}-{host}-{}", admin.port()));

    wait_until("a healthy registration", || {
        healthy(&agent, "fabio") == [own.clone()]
    });
    wait_until("the gauge", || lb.metric("lb_registered") == Some(1.0));
    let found = registered(&agent, &own).unwrap();
    assert_eq!(
        (&found["Address"], &found["Port"]),
        (&"127.0.0.1".into(), &admin.port().into()),
        "{found}"
    );
    assert_eq!(found["Tags"], serde_json::json!(["edge", "blue"]));
    wait_until("the name that the route asks for", || {
        healthy(&agent, "shop") == [alias.clone()]
    });

    agent.deregister(&own);
    wait_until("the registration again", || {
        healthy(&agent, "fabio") == [own.clone()]
    });

    agent.deregister("web-1");
    wait_until("the end of the name with its route", || {
        registered(&agent, &alias).is_none()
    });
    agent.register(&web);
    wait_until("the name again", || {
        healthy(&agent, "shop") == [alias.clone()]
    });

    lb.sigterm();
    wait_until("the gauge to fall", || {
        lb.metric("lb_registered") == Some(0.0)
    });
    wait_until("the removal", || {
        registered(&agent, &own).is_none() && registered(&agent, &alias).is_none()
    });
    assert_eq!(
        client::get(lb.address("http"), "any.test", "/web").status,
        200,
        "traffic is still served"
    );
    assert_eq!(lb.exit_code(), Some(0));
    assert!(registered(&agent, &own).is_none());
}

#[test]
fn a_successor_keeps_the_registration_that_it_took_over() {
    let agent = ConsulAgent::start_plain();
    let mark = |id: &str| {
        registered(&agent, id).map(|found| found["Meta"]["lb-process"].as_str().unwrap().to_owned())
    };
    let mut old = fabio(&agent, "127.0.0.1:0", &[]);
    let ui = old.address("admin").to_string();
    wait_until("the first registration", || {
        !healthy(&agent, "fabio").is_empty()
    });
    let id = healthy(&agent, "fabio").remove(0);
    let first = mark(&id);

    let mut new = fabio(&agent, &ui, &[]);
    wait_until("the second process's mark", || mark(&id) != first);
    let second = mark(&id);
    old.wait_for_line("the loss", |line| {
        line.contains("took the registration over")
    });
    old.sigterm();
    assert_eq!(old.exit_code(), Some(0));
    assert_eq!(
        mark(&id),
        second,
        "the one that ended removed another's registration"
    );
    new.sigterm();
    assert_eq!(new.exit_code(), Some(0));
    assert_eq!(mark(&id), None);
}

#[test]
fn without_being_told_nothing_is_registered() {
    let agent = ConsulAgent::start_plain();
    let upstream = Upstream::start("web");
    let tags = ["urlprefix-/web register=shop"];
    agent.register(&Registration {
        service: "web",
        id: "web-1",
        port: upstream.address.port(),
        tags: &tags,
    });
    let consul = format!("[consul]\naddress = \"{}\"\n", agent.address());
    let lb = Lb::start(&config(&(consul.clone() + &listener("http", ""))));
    lb.wait_ready();
    assert_eq!(
        lb.metric("lb_registered"),
        None,
        "no registration is configured"
    );
    std::fs::write(
        lb.folder().join("lb.toml"),
        config(&(consul + "[consul.register]\naliases = true\n" + &listener("http", ""))),
    )
    .unwrap();
    lb.sighup();
    // What comes now shows that nothing came before.
    wait_until("the name", || !healthy(&agent, "shop").is_empty());
    wait_until("the gauge", || lb.metric("lb_registered") == Some(1.0));
    assert!(
        !lb.stderr()
            .split("reloading")
            .next()
            .unwrap()
            .contains("registered in Consul"),
        "{}",
        lb.stderr()
    );
    let services = agent.api("GET", "/v1/agent/services", None);
    let services: Value = serde_json::from_str(&services).unwrap();
    assert_eq!(
        services.as_object().unwrap().len(),
        2,
        "web and shop: {services}"
    );
}

#[test]
fn an_admin_listener_with_tls_is_checked_by_tls() {
    let agent = ConsulAgent::start_plain();
    let folder = tempfile::tempdir().unwrap();
    let files = Ca::new("ca")
        .pair(&["lb.test"])
        .write(folder.path(), "site");
    let source = format!(
        "-proxy.cs=cs=own;type=file;cert={};key={}",
        files.cert.display(),
        files.key.display()
    );
    let address = agent.address();
    let own = [
        "-proxy.addr=127.0.0.1:0",
        "-ui.addr=127.0.0.1:0;cs=own",
        "-registry.consul.addr",
        &address,
    ];
    let more = [&source, "-registry.consul.register.checkTLSSkipVerify"];
    let mut lb = Lb::start_fabio(
        tempfile::tempdir().unwrap(),
        &[&own[..], &more].concat(),
        &[],
    );
    wait_until("a healthy registration", || {
        !healthy(&agent, "fabio").is_empty()
    });
    let checks: Value = serde_json::from_str(&agent.api("GET", "/v1/agent/checks", None)).unwrap();
    let http = checks
        .as_object()
        .unwrap()
        .values()
        .find(|check| check["Type"] == "http")
        .unwrap();
    assert!(
        http["Definition"]["HTTP"]
            .as_str()
            .is_none_or(|url| url.starts_with("https://")),
        "{http}"
    );
    assert!(
        http["Output"].as_str().unwrap().contains("https://"),
        "{http}"
    );
    lb.sigterm();
    assert_eq!(lb.exit_code(), Some(0));
}

/// One request to the admin listener with these header lines more, and its response.
fn ask(lb: &Lb, method: &str, path: &str, more: &str, body: &str) -> (u16, String) {
    let mut client = client::RawClient::connect(lb.address("admin"));
    let length = body.len();
    client.send(format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{more}content-length: {length}\r\n\r\n{body}"));
    let answer = client.response().unwrap();
    (answer.status, String::from_utf8(answer.body).unwrap())
}

#[test]
fn route_commands_are_changed_by_those_who_name_their_version() {
    let agent = ConsulAgent::start_plain();
    let upstream = Upstream::start("web");
    let target = format!("http://{}/", upstream.address);
    let command = |place: &str| format!("route add web {place} {target}");
    let body = |value: &str, version: &str| {
        serde_json::json!({ "value": value, "version": version }).to_string()
    };
    let lb = fabio(
        &agent,
        "127.0.0.1:0",
        &["-ui.access=rw", "-registry.consul.register.enabled=false"],
    );
    let put = |path: &str, body: &str| ask(&lb, "PUT", path, "", body);
    let get = |path: &str| ask(&lb, "GET", path, "", "").1;
    let read = |path: &str| serde_json::from_str::<Value>(&get(path)).unwrap();
    let version = |path: &str| read(path)["version"].as_str().unwrap().to_owned();

    assert_eq!(get("/api/paths").trim_end(), "null");
    assert_eq!(read("/api/manual")["value"], "");
    assert_eq!(
        put(
            "/api/manual",
            &body(&command("/one"), &version("/api/manual"))
        ),
        (200, String::new())
    );
    wait_until("the route", || {
        client::get(lb.address("http"), "any.test", "/one").status == 200
    });
    let first = version("/api/manual");
    assert_eq!(
        read("/api/manual"),
        serde_json::json!({ "value": command("/one"), "version": first })
    );

    for wrong in ["0", "1", &u64::MAX.to_string()] {
        let refused = put("/api/manual", &body("route del web", wrong));
        assert_eq!(refused, (409, "version mismatch\n".to_owned()), "{wrong}");
    }
    assert_eq!(
        version("/api/manual"),
        first,
        "a refused change changed something"
    );
    assert_eq!(put("/api/manual", &body(&command("/two"), &first)).0, 200);
    assert_eq!(
        put("/api/manual", &body(&command("/one"), &first)).0,
        409,
        "a version is good once"
    );
    wait_until("the change", || {
        client::get(lb.address("http"), "any.test", "/one").status == 404
    });
    assert_eq!(
        client::get(lb.address("http"), "any.test", "/two").status,
        200
    );

    assert_eq!(put("/api/manual/sub/a%20b", &body("# <b>", "0")).0, 200);
    assert_eq!(read("/api/paths"), serde_json::json!(["", "/sub/a b"]));
    assert_eq!(read("/api/manual/sub/a%20b")["value"], "# <b>");
    assert_eq!(
        agent.api("GET", "/v1/kv/fabio/config/sub/a%20b?raw", None),
        "# <b>"
    );
    let page = get("/manual/sub/a%20b");
    assert!(
        page.contains("data-api=\"/api/manual/sub/a%20b\"")
            && page.contains("href=\"/manual/sub/a%20b\""),
        "{page}"
    );

    // What makes no command is saved, and said; a dry run writes nothing.
    let text = format!(
        "{}\nrout add x /y http://h/\n{}",
        command("/two"),
        command("/three")
    );
    let before = version("/api/manual");
    let told = put("/api/manual?dry_run=true", &body(&text, &before));
    let told: Value = serde_json::from_str(&told.1).unwrap();
    assert_eq!(
        (&told["dry_run"], &told["added"], &told["removed"]),
        (&true.into(), &1.into(), &0.into()),
        "{told}"
    );
    assert!(
        told["summary"]
            .as_str()
            .unwrap()
            .starts_with("would add 1, remove 0"),
        "{told}"
    );
    assert_eq!(
        version("/api/manual"),
        before,
        "a dry run changed something"
    );
    let (status, told) = put("/api/manual", &body(&text, &before));
    let told: Value = serde_json::from_str(&told).unwrap();
    let rejected = &told["rejected"][0];
    assert_eq!(
        (status, &rejected["line"], &told["rejected"][1]),
        (200, &2.into(), &Value::Null),
        "{told}"
    );
    assert!(
        rejected["text"] == "rout add x /y http://h/"
            && !rejected["reason"].as_str().unwrap().is_empty(),
        "{told}"
    );
    wait_until("the good lines", || {
        client::get(lb.address("http"), "any.test", "/three").status == 200
    });

    // Under another name than that of an address or of this machine nothing is told, read or
    // written.
    for (method, path) in [
        ("PUT", "/api/manual"),
        ("GET", "/api/manual"),
        ("GET", "/manual"),
        ("GET", "/"),
        ("GET", "/api/config"),
    ] {
        let mut stranger = client::RawClient::connect(lb.address("admin"));
        let (text, host) = (body("", &version("/api/manual")), "evil.example:9998");
        let length = text.len();
        stranger.send(format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\norigin: http://{host}\r\nsec-fetch-site: same-origin\r\n\
             content-length: {length}\r\n\r\n{text}"
        ));
        let answer = stranger.response().unwrap();
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(
            answer.status == 421 && said.contains("admin.hosts"),
            "{method} {path}: {} {said}",
            answer.status
        );
    }

    let present = version("/api/manual");
    for (expected, method, path, more, text) in [
        (400, "PUT", "/api/manual", "", "no JSON".to_owned()),
        (400, "PUT", "/api/manual/../x", "", body("", "0")),
        (
            403,
            "PUT",
            "/api/manual",
            "origin: http://evil.test\r\n",
            body("", &present),
        ),
        (
            403,
            "PUT",
            "/api/manual",
            "sec-fetch-site: cross-site\r\n",
            body("", &present),
        ),
        (405, "POST", "/api/manual", "", body("", &present)),
        (405, "PUT", "/api/paths", "", body("", &present)),
        (405, "PUT", "/manual", "", body("", &present)),
        (
            413,
            "PUT",
            "/api/manual",
            "",
            body(&"#".repeat((512 << 10) + 1), &present),
        ),
    ] {
        let (status, said) = ask(&lb, method, path, more, &text);
        assert_eq!(status, expected, "{method} {path}: {said}");
    }
    assert_eq!(version("/api/manual"), present);

    let lb = fabio(
        &agent,
        "127.0.0.1:0",
        &["-registry.consul.register.enabled=false"],
    );
    for (method, path) in [
        ("GET", "/api/manual"),
        ("PUT", "/api/manual"),
        ("GET", "/api/paths"),
        ("GET", "/manual"),
    ] {
        let (status, said) = ask(&lb, method, path, "", &body("", &present));
        assert!(
            status == 403 && said.contains("admin.writable is false"),
            "{method} {path}: {status} {said}"
        );
    }
}
