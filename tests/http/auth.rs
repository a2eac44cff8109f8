//! Routes with `auth=`: which clients get in, which are challenged, and what a changed file of
//! users does.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::harness::{OK, Scripted, router};
use crate::support::client::{RawResponse, exchange};
use crate::support::lb::Lb;
use crate::support::wait::wait_until;

fn get(lb: &Lb, path: &str, more: &str) -> RawResponse {
    exchange(
        lb.address("http"),
        format!("GET {path} HTTP/1.1\r\nHost: h\r\n{more}\r\n"),
    )
    .unwrap()
}

fn credentials(pair: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(pair))
}

#[test]
fn a_route_with_a_scheme_lets_in_who_is_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    fs::write(
        &file,
        format!(
            "# staff\nann:{}\nbob:plain\n",
            bcrypt::hash("secret", 5).unwrap()
        ),
    )
    .unwrap();
    let upstream = Scripted::replying(OK);
    let to = &[upstream.address][..];
    let routes = [
        ("/open", to, ""),
        ("/shop", to, "auth=main"),
        ("/typo", to, "auth=mian"),
        ("/away", to, "auth=main redirect=302,http://else.where/"),
        ("/shut", to, "auth=main allow=ip:192.0.2.0/24"),
    ];
    let more = format!(
        "[auth.main]\nfile = {:?}\nrealm = \"the shop\"\n[log]\naccess = \"json\"\n",
        file.to_str().unwrap()
    );
    let lb = router(&routes, &more);

    assert_eq!(get(&lb, "/open", "").status, 200);
    let ann = credentials("ann:secret");
    for (path, more, status) in [
        ("/shop", &*ann, 200),
        ("/shop", &*ann, 200),
        ("/shop", &*credentials("bob:plain"), 200),
        ("/away", &*ann, 302),
        ("/shut", &*ann, 403),
        // Access rules come first, so no client is challenged for what would not help.
        ("/shut", "", 403),
    ] {
        let response = get(&lb, path, more);
        assert_eq!(response.status, status, "{path} {more}");
        assert_eq!(response.header("www-authenticate"), None, "{path} {more}");
    }
    for more in [
        "",
        &credentials("ann:Secret"),
        &credentials("eve:secret"),
        "Authorization: Bearer x\r\n",
    ] {
        for path in ["/shop", "/away"] {
            let response = get(&lb, path, more);
            assert_eq!(response.status, 401, "{path} {more}");
            assert_eq!(
                response.header("www-authenticate"),
                Some("Basic realm=\"the shop\""),
                "{more}"
            );
            assert_eq!(response.text(), "authorization failed\n");
        }
    }
    // A scheme that is not there refuses every request, which the log (once), the API, the page and
    // the command line report.
    for more in [&*ann, ""] {
        let response = get(&lb, "/typo", more);
        assert_eq!(
            (response.status, response.text().as_str()),
            (503, "authorization is not configured\n")
        );
        assert_eq!(response.header("www-authenticate"), None);
    }
    let warning =
        |line: &str| line.contains("\"WARN\"") && line.contains("there is no [auth.mian]");
    lb.wait_for_line("a warning", warning);
    let services = lb.wait_admin("/api/services", "a remark", |text| {
        text.contains("there is no [auth.mian]")
    });
    assert!(services.contains("/typo: auth=mian"), "{services}");
    assert!(lb.admin("/").1.contains("there is no [auth.mian]"));
    let admin = format!("http://{}", lb.address("admin"));
    let routes = std::process::Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(["routes", "--admin", &admin])
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&routes.stdout).contains("there is no [auth.mian]"),
        "{routes:?}"
    );
    assert_eq!(
        lb.metric("lb_proxy_errors_total{service=\"s2\",reason=\"auth_unknown\"}"),
        Some(2.0)
    );
    lb.sighup();
    lb.wait_for_line("a reload", |line| line.contains("reload"));
    assert_eq!(
        lb.stderr().lines().filter(|line| warning(line)).count(),
        1,
        "{}",
        lb.stderr()
    );

    // Four requests were let through, and the instance gets what the client said.
    assert_eq!(upstream.requests(), 4);
    assert!(
        upstream
            .received()
            .to_ascii_lowercase()
            .contains(&ann.to_ascii_lowercase())
    );
    lb.wait_stdout("record of a refusal", |line| {
        line.contains("\"status\":401") && line.contains("unauthorized")
    });

    fs::write(&file, "ann:changed\n").unwrap();
    wait_until("new users", || {
        get(&lb, "/shop", &credentials("ann:changed")).status == 200
    });
    assert_eq!(get(&lb, "/shop", &ann).status, 401);
    fs::remove_file(&file).unwrap();
    wait_until("end of all users", || {
        get(&lb, "/shop", &credentials("ann:changed")).status == 401
    });
}

#[test]
fn a_call_of_grpc_is_refused_in_its_own_terms() {
    let upstream = Scripted::replying(OK);
    let lb = router(&[("/", &[upstream.address], "auth=none")], "");
    let response = get(
        &lb,
        "/pkg.Service/Call",
        "Content-Type: application/grpc\r\n",
    );
    assert_eq!(
        (response.status, response.header("grpc-status")),
        (200, Some("14"))
    );
    assert_eq!(upstream.requests(), 0);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    fs::write(&file, "ann:secret\n").unwrap();
    let lb = router(
        &[("/", &[upstream.address], "auth=main")],
        &format!("[auth.main]\nfile = {file:?}\n"),
    );
    let response = get(
        &lb,
        "/pkg.Service/Call",
        "Content-Type: application/grpc\r\n",
    );
    assert_eq!(
        (response.status, response.header("grpc-status")),
        (200, Some("16"))
    );
    assert!(response.header("www-authenticate").is_some());
}

/// A service that decides by the path it gets, and says what the request was.
fn decider() -> Scripted {
    Scripted::start(|visit| {
        while let Some(request) = visit.request() {
            let lower = request.to_ascii_lowercase();
            let path = lower
                .lines()
                .find_map(|line| line.strip_prefix("x-forwarded-uri: "))
                .unwrap_or("")
                .to_owned();
            match &*path {
                "/app/login" => visit.send(
                    "HTTP/1.1 302 Found\r\nLocation: /sign-in\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
                     Connection: x-hop\r\nX-Hop: 1\r\nContent-Length: 5\r\n\r\nlogin",
                ),
                "/app/shut" => visit.send(
                    "HTTP/1.1 403 Forbidden\r\nWWW-Authenticate: Bearer\r\nTransfer-Encoding: chunked\r\n\r\n\
                     4\r\nshut\r\n0\r\n\r\n",
                ),
                "/app/bare" => visit.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"),
                "/app/hang" => visit.until_closed(),
                "/app/die" => return visit.reset(),
                _ => visit.send(
                    "HTTP/1.1 202 Accepted\r\nX-User: ann\r\nX-Group: a\r\nX-Group: b\r\nX-Other: no\r\n\
                     Content-Length: 2\r\n\r\nok",
                ),
            }
        }
    })
}

#[test]
fn a_service_decides_and_tells_who_it_is() {
    let upstream = Scripted::replying(OK);
    let decider = decider();
    let more = format!(
        "[auth.sso]\ntype = \"external\"\nendpoint = \"http://{}/check?fixed=1\"\nset_headers = [\"X-User\", \"X-Gone\"]\n\
         append_headers = [\"X-Group\"]\ntimeout = \"500ms\"\n[log]\naccess = \"json\"\n",
        decider.address
    );
    let lb = router(
        &[("/app", &[upstream.address], "auth=sso strip=/app")],
        &more,
    );
    // A client that names a field in Connection, or sends it, changes nothing.
    let request = "POST /app/in?x=1 HTTP/1.1\r\nHost: shop.test\r\nCookie: session=1\r\nX-User: forged\r\n\
                   X-Gone: forged\r\nIf-None-Match: \"1\"\r\nX-Group: own\r\nX-Forwarded-Uri: /forged\r\nX-Forwarded-Method: FORGED\r\n\
                   Connection: X-User, X-Forwarded-Uri\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody";
    let mut client = crate::support::client::RawClient::connect(lb.address("http"));
    client.send(request);
    let mut answer = client.response().unwrap();
    if answer.status == 100 {
        answer = client.response().unwrap();
    }
    assert_eq!(answer.status, 200);

    let asked = decider.received().to_ascii_lowercase();
    assert!(
        asked.starts_with("get /check?fixed=1 http/1.1\r\n"),
        "{asked}"
    );
    for line in [
        &*format!("host: {}", decider.address),
        "cookie: session=1",
        "x-forwarded-method: post",
        "x-forwarded-uri: /app/in?x=1",
        "x-forwarded-host: shop.test",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
    ] {
        assert!(
            asked.contains(&format!("\r\n{line}\r\n")),
            "{line}: {asked}"
        );
    }
    assert!(
        !asked.contains("body") && !asked.contains("content-length"),
        "{asked}"
    );
    assert!(
        !asked.contains("x-forwarded-method: forged")
            && !asked.contains("x-forwarded-uri: /forged"),
        "{asked}"
    );
    assert!(
        !asked.contains("\r\nexpect:")
            && !asked.contains("\r\nif-")
            && asked.matches("x-forwarded-uri").count() == 1,
        "{asked}"
    );

    let sent = upstream.received().to_ascii_lowercase();
    let fields: Vec<&str> = sent
        .lines()
        .filter(|line| line.starts_with("x-user") || line.starts_with("x-g"))
        .collect();
    assert_eq!(
        fields,
        ["x-user: ann", "x-group: own", "x-group: a", "x-group: b"],
        "{sent}"
    );
    assert!(
        sent.starts_with("post /in?x=1 ") && sent.ends_with("body") && !sent.contains("x-other"),
        "{sent}"
    );

    // Its refusals are the client's response, whole, and no instance gets a request.
    let login = get(&lb, "/app/login", "");
    assert_eq!(
        (
            login.status,
            login.text().as_str(),
            login.header("location")
        ),
        (302, "login", Some("/sign-in"))
    );
    assert_eq!(
        login
            .headers
            .iter()
            .filter(|(name, _)| name == "set-cookie")
            .count(),
        2
    );
    assert_eq!(
        (login.header("x-hop"), login.header("content-length")),
        (None, Some("5"))
    );
    let shut = get(&lb, "/app/shut", "");
    assert_eq!(
        (
            shut.status,
            shut.text().as_str(),
            shut.header("www-authenticate")
        ),
        (403, "shut", Some("Bearer"))
    );

    // No 401 is without a challenge (RFC 9110 section 15.5.2), and no browser prompts for a
    // password because of ours.
    let bare = get(&lb, "/app/bare", "");
    assert_eq!(
        (bare.status, bare.header("www-authenticate")),
        (401, Some("External"))
    );

    // Without a response no client gets in.
    for path in ["/app/hang", "/app/die"] {
        assert_eq!(get(&lb, path, "").status, 502, "{path}");
        lb.wait_stdout("record", |line| {
            line.contains(path) && line.contains("\"error\":\"auth_unavailable\"")
        });
    }
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn a_service_that_is_not_there_lets_nobody_in() {
    let upstream = Scripted::replying(OK);
    let more = format!(
        "[auth.sso]\ntype = \"external\"\nendpoint = \"http://{}/\"\n",
        crate::harness::Refusing::new().address
    );
    let lb = router(&[("/", &[upstream.address], "auth=sso")], &more);
    let answer = get(&lb, "/", "");
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (502, "authorization is not available\n")
    );
    assert_eq!(get(&lb, "/", "").status, 502);
    let warning = |line: &str| line.contains("\"WARN\"") && line.contains("does not respond");
    lb.wait_for_line("a warning", warning);
    assert_eq!(
        lb.stderr().lines().filter(|line| warning(line)).count(),
        1,
        "{}",
        lb.stderr()
    );
    assert_eq!(upstream.requests(), 0);
}
