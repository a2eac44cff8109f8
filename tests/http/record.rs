//! What is left of a request: its line in the access log and its series in the metrics.

use crate::harness::{OK, Refusing, Scripted, router, wait_quiet};
use crate::support::client::exchange;

const REQUEST: &str =
    "GET /a?b=c HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: t/1 \"q\"\r\nReferer: http://r/\r\n\r\n";

#[test]
fn the_access_log_has_the_form_that_is_asked_for() {
    let upstream = Scripted::replying(OK);
    for form in ["common", "combined"] {
        let lb = router(
            &[("/", &[upstream.address], "")],
            &format!("[log]\naccess = \"{form}\"\n"),
        );
        assert_eq!(exchange(lb.address("http"), REQUEST).unwrap().status, 200);
        let line = lb.wait_stdout("record", |line| line.contains("/a?b=c"));
        let (start, end) = line.split_once(" [").unwrap();
        assert_eq!(start, "127.0.0.1 - -", "{line}");
        let tail = end.split_once("] ").unwrap().1;
        let common = "\"GET /a?b=c HTTP/1.1\" 200 2";
        let combined = format!("{common} \"http://r/\" \"t/1 \\\"q\\\"\"");
        assert_eq!(
            tail,
            if form == "common" { common } else { &combined },
            "{line}"
        );
    }
}

#[test]
fn the_json_record_says_who_answered_and_how_often_was_asked() {
    let upstream = Scripted::replying(OK);
    let refusing = Refusing::new();
    let lb = router(
        &[
            ("/", &[upstream.address], ""),
            ("/down", &[refusing.address], ""),
        ],
        "[proxy]\nrequest_id_header = \"X-Request-Id\"\n[log]\naccess = \"json\"\n",
    );
    assert_eq!(exchange(lb.address("http"), REQUEST).unwrap().status, 200);
    let line = lb.wait_stdout("record", |line| line.contains("/a?b=c"));
    let seen: serde_json::Value = serde_json::from_str(&line).unwrap();
    let upstream_address = upstream.address.to_string();
    let table = [
        ("method", "GET"),
        ("host", "shop.test"),
        ("uri", "/a?b=c"),
        ("proto", "HTTP/1.1"),
        ("service", "s0"),
        ("upstream", upstream_address.as_str()),
        ("route", "/"),
        ("user_agent", "t/1 \"q\""),
        ("referer", "http://r/"),
        ("remote", "127.0.0.1"),
    ];
    for (key, value) in table {
        assert_eq!(seen[key], value, "{key} in {line}");
    }
    assert_eq!(
        (&seen["status"], &seen["bytes_out"], &seen["attempts"]),
        (&200.into(), &2.into(), &1.into()),
        "{line}"
    );
    assert!(
        seen["upstream_ms"].as_f64().unwrap() <= seen["duration_ms"].as_f64().unwrap(),
        "{line}"
    );
    assert!(seen.get("error").is_none(), "{line}");
    let id = seen["request_id"].as_str().unwrap();
    assert!(
        upstream
            .received()
            .to_ascii_lowercase()
            .contains(&format!("x-request-id: {id}\r\n")),
        "{line}"
    );

    for (path, status, error) in [("/down", 502, "connect"), ("/%zz", 400, "bad_request")] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(
            exchange(lb.address("http"), request).unwrap().status,
            status
        );
        let line = lb.wait_stdout("record", |line| {
            line.contains(&format!("\"uri\":\"{path}\""))
        });
        let seen: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&seen["status"], &seen["error"]),
            (&status.into(), &error.into()),
            "{line}"
        );
    }
}

#[test]
fn the_metrics_count_by_service_method_and_code() {
    let upstream = Scripted::start(|visit| {
        while let Some(request) = visit.request() {
            visit.send(if request.contains("/teapot") {
                "HTTP/1.1 418 T\r\nContent-Length: 0\r\n\r\n"
            } else {
                OK
            });
        }
    });
    let lb = router(&[("/", &[upstream.address], "")], "");
    let requests = [
        "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /teapot HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
        "BREW / HTTP/1.1\r\nHost: h\r\n\r\n",
    ];
    for request in requests {
        exchange(lb.address("http"), request).unwrap();
    }
    wait_quiet(&lb, "s0");
    let table = [
        (
            "lb_http_requests_total{service=\"s0\",method=\"GET\",code=\"200\"}",
            2.0,
        ),
        (
            "lb_http_requests_total{service=\"s0\",method=\"GET\",code=\"418\"}",
            1.0,
        ),
        (
            "lb_http_requests_total{service=\"s0\",method=\"POST\",code=\"200\"}",
            1.0,
        ),
        (
            "lb_http_requests_total{service=\"s0\",method=\"OTHER\",code=\"200\"}",
            1.0,
        ),
        (
            "lb_http_request_duration_seconds_count{service=\"s0\"}",
            5.0,
        ),
        ("lb_bytes_total{service=\"s0\",direction=\"in\"}", 3.0),
        ("lb_bytes_total{service=\"s0\",direction=\"out\"}", 8.0),
    ];
    for (sample, value) in table {
        assert_eq!(
            lb.metric(sample),
            Some(value),
            "{sample}\n{}",
            lb.admin("/metrics").1
        );
    }
    let connects = lb
        .metric("lb_upstream_connects_total{service=\"s0\",result=\"ok\"}")
        .unwrap();
    assert!((1.0..=5.0).contains(&connects), "{connects}");
}

#[test]
fn a_form_of_ones_own_tells_what_it_names() {
    let upstream = Scripted::replying(OK);
    let form = "$request_method $request_url $request_args>$upstream_service $upstream_request_url \
                h=$request_host s=$response_status b=$response_body_size \
                <$header.User-Agent|$header.X-Forwarded-Prefix|$header.X-Id|$header.None>";
    let more = format!("[proxy]\nrequest_id_header = \"X-Id\"\n[log]\naccess = '{form}'\n");
    let routes: &[(&str, &[std::net::SocketAddr], &str)] = &[
        (
            "/a",
            &[upstream.address],
            "strip=/a prepend=/v1 host=in.test",
        ),
        ("/gone", &[Refusing::new().address], ""),
        (
            "/moved",
            &[upstream.address],
            "redirect=301,https://h.test/",
        ),
        ("/mine", &[upstream.address], "deny=ip:127.0.0.1"),
    ];
    let lb = router(routes, &more);
    let ask = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: t/1\r\n\r\n");
        exchange(lb.address("http"), request).unwrap();
        lb.wait_stdout("record", |line| {
            line.contains(&format!(" http://shop.test{path} "))
        })
    };
    let line = ask("/a/b?c=d");
    let id = upstream
        .received()
        .lines()
        .find_map(|line| line.strip_prefix("x-id: ").map(str::to_owned))
        .unwrap();
    let target = upstream.address;
    let wanted = format!(
        "GET http://shop.test/a/b?c=d c=d>s0 http://{target}/v1/b?c=d h=in.test s=200 b=2 <t/1|/a|{id}|>"
    );
    assert_eq!(line, wanted);
    // What never reached an instance, or got its response here, has its line as well.
    assert!(ask("/gone").contains(" >s1 http://127.0.0.1:"));
    for (path, status) in [("/moved", 301), ("/mine", 403), ("/nobody", 404)] {
        let line = ask(path);
        assert!(line.contains(&format!("h=shop.test s={status} ")), "{line}");
        let service = match path {
            "/moved" => ">s2  h=",
            "/mine" => ">s3  h=",
            _ => ">  h=",
        };
        assert!(
            line.contains(service) && line.contains("<t/1||") && line.ends_with("|>"),
            "{line}"
        );
    }
}
