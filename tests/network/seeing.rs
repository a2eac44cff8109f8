//! What the process says about what happened, and about how fresh its knowledge is: log, events,
//! sources.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::support::client;
use super::support::consul::{ConsulAgent, Registration};
use super::support::lb::Lb;
use super::support::upstream::Upstream;
use crate::support::loopback::free_port;
use crate::support::wait::{PATIENCE, wait_until};

fn config(agent: &ConsulAgent, more: &str) -> String {
    format!(
        "[consul]\naddress = \"{}\"\ncritical_hold = \"0s\"\n[[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \
         \"http\"\n[admin]\naddress = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n{more}",
        agent.address()
    )
}

fn json_of(lb: &Lb, path: &str) -> Value {
    let (_, body) = lb.admin(path);
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

/// Waits for an event that has these fields, and returns it.
fn wait_event(lb: &Lb, wanted: &[(&str, &str)]) -> Value {
    wait_until(format!("an event {wanted:?}"), || {
        let events = json_of(lb, "/api/events");
        let is = |event: &&Value| {
            wanted
                .iter()
                .all(|(name, value)| event[*name].as_str() == Some(value))
        };
        events.as_array().unwrap().iter().rfind(is).cloned()
    })
}

/// The line of the log about a change of an instance.
fn wait_line(lb: &Lb, message: &str, parts: &[&str]) -> String {
    lb.wait_for_line(message, |line| {
        line.contains(message) && parts.iter().all(|part| line.contains(part))
    })
}

#[test]
fn each_change_of_an_instance_has_a_line_and_an_event_with_what_consul_says() {
    let agent = ConsulAgent::start_plain();
    let upstreams = [Upstream::start("a"), Upstream::start("b")];
    let register = |id: &str, upstream: &Upstream| {
        let tags = ["urlprefix-web.test/"];
        agent.register(&Registration {
            service: "web",
            id,
            port: upstream.address.port(),
            tags: &tags,
        });
    };
    register("web-1", &upstreams[0]);
    register("web-2", &upstreams[1]);
    let lb = Lb::start(&config(&agent, ""));
    lb.wait_ready();
    let check = |id: &str, status: &str, output: &str| {
        let body = json!({"Status": status, "Output": output});
        agent.api(
            "PUT",
            &format!("/v1/agent/check/update/check:{id}"),
            Some(&body),
        );
    };

    // A check that fails, with an output that would like to write a line of its own.
    check(
        "web-1",
        "critical",
        "dial tcp: connection refused\n\u{1b}[2JERROR fake <script>",
    );
    let address = upstreams[0].address.to_string();
    let out = wait_event(
        &lb,
        &[("kind", "instance"), ("service", "web"), ("to", "excluded")],
    );
    assert!(
        out["instance"].as_str().unwrap().ends_with("/web-1"),
        "{out}"
    );
    assert_eq!(
        (out["from"].as_str(), out["address"].as_str()),
        (Some("healthy"), Some(&*address))
    );
    let reason = out["reason"].as_str().unwrap();
    assert!(
        reason.contains("check:web-1 is critical") && reason.contains("connection refused"),
        "{reason}"
    );
    assert!(!reason.contains(['\n', '\u{1b}']), "{reason}");
    let line = wait_line(
        &lb,
        "instance changed its state",
        &["web-1", "excluded", &address],
    );
    assert!(
        line.contains("connection refused") && line.contains("\"from\":\"healthy\""),
        "{line}"
    );

    // Another output makes no other table, and is shown all the same. (An agent holds such news
    // back for minutes, so the node is one without.)
    let outside = |output: &str| {
        let check = json!({"CheckID": "x", "Name": "x", "ServiceID": "ext-1", "Status": "critical", "Output": output});
        let service =
            json!({"ID": "ext-1", "Service": "ext", "Port": 9, "Tags": ["urlprefix-ext.test/"]});
        let body =
            json!({"Node": "outside", "Address": "127.0.0.1", "Service": service, "Check": check});
        agent.api("PUT", "/v1/catalog/register", Some(&body));
    };
    outside("connect: no route to host");
    lb.wait_admin("/api/services", "the output", |body| {
        body.contains("no route to host")
    });
    let builds = lb.metric("lb_table_builds_total");
    outside("HTTP 503 Service Unavailable");
    lb.wait_admin("/api/services", "the new output", |body| {
        body.contains("503 Service Unavailable")
    });
    assert_eq!(lb.metric("lb_table_builds_total"), builds);
    let told = json_of(&lb, "/api/explain?url=http://ext.test/");
    assert!(
        told["route"]["excluded"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("503 Service Unavailable"),
        "{told}"
    );

    // Maintenance, with its reason; the last usable instance.
    agent.api(
        "PUT",
        "/v1/agent/service/maintenance/web-2?enable=true&reason=new%20disk",
        None,
    );
    let out = wait_event(
        &lb,
        &[
            ("kind", "instance"),
            ("to", "excluded"),
            ("from", "healthy"),
            ("address", &upstreams[1].address.to_string()),
        ],
    );
    assert!(
        out["instance"].as_str().unwrap().ends_with("/web-2")
            && out["reason"].as_str().unwrap().contains("new disk"),
        "{out}"
    );
    let down = wait_event(
        &lb,
        &[("kind", "service"), ("service", "web"), ("to", "down")],
    );
    let line = wait_line(&lb, "service has no usable instance", &["web"]);
    assert!(line.contains("WARN"), "{line}");
    let page = lb.wait_admin("/", "the reason", |body| body.contains("new disk"));
    assert!(!page.contains("<script>alert") && page.contains("503 Service Unavailable"));

    // And back.
    check("web-1", "passing", "fine");
    wait_event(
        &lb,
        &[
            ("kind", "instance"),
            ("from", "excluded"),
            ("to", "healthy"),
        ],
    );
    wait_event(
        &lb,
        &[("kind", "service"), ("service", "web"), ("to", "up")],
    );
    let line = wait_line(&lb, "service has usable instances", &["web"]);
    assert!(line.contains("INFO"), "{line}");

    // Gone, and a tag that makes no route.
    agent.deregister("web-1");
    wait_event(
        &lb,
        &[("kind", "instance"), ("from", "healthy"), ("to", "gone")],
    );
    let bad = Registration {
        service: "bad",
        id: "bad-1",
        port: 1,
        tags: &["urlprefix-/x weight=much"],
    };
    agent.register(&bad);
    let rejected = wait_event(
        &lb,
        &[("kind", "tag"), ("service", "bad"), ("to", "rejected")],
    );
    assert!(
        rejected["reason"]
            .as_str()
            .unwrap()
            .contains("urlprefix-/x weight=much"),
        "{rejected}"
    );

    // Only what is newer is told.
    let id = down["id"].as_u64().unwrap();
    let later = json_of(&lb, &format!("/api/events?since={id}"));
    assert!(
        later
            .as_array()
            .unwrap()
            .iter()
            .all(|event| event["id"].as_u64().unwrap() > id),
        "{later}"
    );
    assert!(!later.as_array().unwrap().is_empty());
    assert_eq!(lb.admin("/api/events?since=tomorrow").0, 400);
    let mut lb = lb;
    lb.sigterm();
    assert_eq!(lb.exit_code(), Some(0));
}

#[test]
fn an_ejection_and_its_end_are_events_and_a_stream_follows() {
    let agent = ConsulAgent::start_plain();
    let good = Upstream::start("good");
    let port = free_port();
    let tags = ["urlprefix-web.test/"];
    agent.register(&Registration {
        service: "web",
        id: "good",
        port: good.address.port(),
        tags: &tags,
    });
    agent.register(&Registration {
        service: "web",
        id: "dead",
        port,
        tags: &tags,
    });
    let lb = Lb::start(&config(
        &agent,
        "[health]\neject_after = 2\neject_base = \"1s\"\n",
    ));
    lb.wait_ready();

    let mut stream = TcpStream::connect(lb.address("admin")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let ask =
        "GET /api/events?since=0 HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n";
    stream.write_all(ask.as_bytes()).unwrap();

    for _ in 0..20 {
        client::get(lb.address("http"), "web.test", "/");
    }
    let out = wait_event(
        &lb,
        &[("kind", "instance"), ("from", "healthy"), ("to", "ejected")],
    );
    assert!(
        out["instance"].as_str().unwrap().ends_with("/dead"),
        "{out}"
    );
    assert!(
        out["reason"]
            .as_str()
            .unwrap()
            .contains("failures in a row"),
        "{out}"
    );
    wait_line(&lb, "instance changed its state", &["ejected", "dead"]);
    wait_event(
        &lb,
        &[
            ("kind", "instance"),
            ("from", "ejected"),
            ("to", "probation"),
        ],
    );

    let mut read = String::new();
    wait_until("the ejection in the stream", || {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).unwrap();
        read.push_str(&String::from_utf8_lossy(&buffer[..count]));
        read.contains("\"to\":\"probation\"")
    });
    assert!(
        read.to_ascii_lowercase()
            .contains("content-type: text/event-stream"),
        "{read}"
    );
    let data: Vec<&str> = read
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect();
    let first: Value = serde_json::from_str(data[0]).unwrap();
    assert_eq!(
        (first["id"].as_u64(), first["kind"].as_str()),
        (Some(1), Some("process"))
    );
}

#[test]
fn a_dead_consul_is_said_everywhere_and_its_return_too() {
    let mut agent = ConsulAgent::start_plain();
    let upstream = Upstream::start("web");
    let tags = ["urlprefix-web.test/"];
    agent.register(&Registration {
        service: "web",
        id: "web-1",
        port: upstream.address.port(),
        tags: &tags,
    });
    let lb = Lb::start(&config(&agent, ""));
    lb.wait_ready();
    let source = |lb: &Lb| {
        let sources = json_of(lb, "/api/sources");
        sources
            .as_array()
            .unwrap()
            .iter()
            .find(|source| source["name"] == "consul")
            .cloned()
            .unwrap()
    };
    let well = source(&lb);
    assert_eq!(
        (well["state"].as_str(), well["synced"].as_bool()),
        (Some("ok"), Some(true))
    );
    assert!(
        well["watches"].as_u64().unwrap() >= 2
            && well["transport"].as_str().unwrap().starts_with("http://")
    );
    assert!(
        well["last_error"].is_null() && !well["last_success"].is_null(),
        "{well}"
    );

    agent.kill();
    wait_until("the failing source", || {
        let source = source(&lb);
        source["state"] == "failing"
            && source["last_error"]
                .as_str()
                .is_some_and(|error| error.contains("refused"))
    });
    // A watch whose connection was cut may be the last to say something, before it dials anew.
    wait_until("the reason", || {
        let (status, ready) = lb.admin("/ready");
        assert_eq!(status, 200, "the table of then is served");
        let tells = ready.contains("refused") && ready.contains("failing since");
        if tells { Ok(()) } else { Err(ready) }
    });
    assert!(lb.admin("/").1.contains("failing since"), "a banner");
    wait_event(
        &lb,
        &[("kind", "source"), ("service", "consul"), ("to", "failing")],
    );
    let admin = format!("http://{}", lb.address("admin"));
    let run = |words: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_lb"))
            .args(words)
            .args(["--admin", &admin])
            .env_remove("LB_ADMIN_URL")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for words in [
        &["routes"][..],
        &["explain", "http://web.test/"],
        &["services"],
    ] {
        wait_until(format!("the reason in {words:?}"), || {
            let text = run(words);
            let tells = ["web", "consul", "refused"]
                .iter()
                .all(|part| text.contains(part));
            if tells { Ok(()) } else { Err(text) }
        });
    }
    assert!(
        run(&["events"]).contains("failing"),
        "the event in the terminal"
    );

    agent.restart();
    wait_until("the recovered source", || source(&lb)["state"] == "ok");
    wait_event(
        &lb,
        &[
            ("kind", "source"),
            ("service", "consul"),
            ("from", "failing"),
            ("to", "ok"),
        ],
    );
    assert!(
        !lb.admin("/").1.contains("failing since"),
        "no banner any more"
    );
    assert!(!run(&["routes"]).contains("refused"));
}

#[test]
fn before_the_first_answer_readiness_names_the_cause() {
    let (consul, endpoint) = (
        format!("127.0.0.1:{}", free_port()),
        format!("127.0.0.1:{}", free_port()),
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routes.txt");
    std::fs::write(&file, "").unwrap();
    let text = format!(
        "routes_file = \"{}\"\n[consul]\naddress = \"http://{consul}\"\n[routes_http]\nurl = \"http://{endpoint}/r\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n[admin]\naddress = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n",
        file.display()
    );
    let lb = Lb::start(&text);
    let reason = |lb: &Lb| {
        json_of(lb, "/ready")["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    wait_until("both causes", || {
        let reason = reason(&lb);
        reason.contains("refused")
            && [&consul, &endpoint]
                .iter()
                .all(|cause| reason.contains(*cause))
    });
    assert_eq!(lb.admin("/ready").0, 503);
    assert_eq!(lb.metric("lb_ready"), Some(0.0));
    let states = json_of(&lb, "/api/sources");
    for name in ["consul", "routes_http"] {
        let source = states
            .as_array()
            .unwrap()
            .iter()
            .find(|source| source["name"] == name)
            .unwrap();
        assert_eq!(
            (source["state"].as_str(), source["synced"].as_bool()),
            (Some("failing"), Some(false)),
            "{source}"
        );
        assert!(
            !source["since"].is_null() && !source["last_error"].is_null(),
            "{source}"
        );
    }

    // A file that was there, and is not any more.
    let of_file = |lb: &Lb| {
        let sources = json_of(lb, "/api/sources");
        sources
            .as_array()
            .unwrap()
            .iter()
            .find(|source| source["name"] == "routes_file")
            .cloned()
            .unwrap()
    };
    wait_until("the file", || of_file(&lb)["state"] == "ok");
    std::fs::remove_file(&file).unwrap();
    wait_until("the lost file", || of_file(&lb)["state"] == "failing");
    assert!(
        of_file(&lb)["last_error"]
            .as_str()
            .unwrap()
            .contains("routes.txt: No such file"),
        "{}",
        of_file(&lb)
    );
}

#[test]
fn reloads_and_draining_are_events() {
    let text = |routes: &str| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [drain]\ngrace = \"3s\"\n[log]\nformat = \"json\"\n{routes}"
        )
    };
    let route = "[[static.route]]\nservice = \"s\"\nsource = \"s.test/\"\ntargets = [\"http://127.0.0.1:1\"]\n";
    let mut lb = Lb::start(&text(route));
    lb.wait_ready();
    std::fs::write(lb.folder().join("lb.toml"), text("[nonsense]\n")).unwrap();
    lb.sighup();
    let refused = wait_event(&lb, &[("kind", "config"), ("to", "refused")]);
    assert!(
        refused["reason"].as_str().unwrap().contains("nonsense"),
        "{refused}"
    );
    std::fs::write(lb.folder().join("lb.toml"), text(route)).unwrap();
    lb.sighup();
    wait_event(&lb, &[("kind", "config"), ("to", "reloaded")]);
    assert_eq!(
        (lb.metric("lb_ready"), lb.metric("lb_draining")),
        (Some(1.0), Some(0.0))
    );
    lb.sigterm();
    wait_event(&lb, &[("kind", "process"), ("to", "draining")]);
    assert_eq!(
        (lb.metric("lb_ready"), lb.metric("lb_draining")),
        (Some(0.0), Some(1.0))
    );
    assert_eq!(lb.exit_code(), Some(0));
}
