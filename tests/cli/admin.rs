//! The admin listener on real sockets: every path, every refusal, and the client commands against
//! it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures_util::future::LocalBoxFuture;
use lb::admin::client::{self, Access, AdminClientError, Question, RoutesFormat};
use lb::admin::{AdminState, ControlView, DataPath, serve};
use lb::catalog::InstanceId;
use lb::catalog::command::parse_commands;
use lb::catalog::options::Strategy;
use lb::config::{AdminConfig, AdminHome};
use lb::control::{InstanceStatus, Readiness, RejectedPlace, ServiceStatus};
use lb::metrics::{Metrics, collectors};
use lb::table::build::TableBuilder;
use lb::table::clock::Clock;
use lb::table::explain::{Asked, Decision, ExplainedRequest, Fate, Refusal};
use lb::table::{Matcher, Scheme, SharedTable};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const ATTACK: &str = "<script>alert(1)</script>";

#[derive(Default)]
struct FakeControl {
    services: RefCell<Vec<ServiceStatus>>,
    readiness: RefCell<Readiness>,
    refreshed: Cell<u32>,
}

impl ControlView for FakeControl {
    fn services(&self) -> LocalBoxFuture<'_, Vec<ServiceStatus>> {
        Box::pin(async { self.services.borrow().clone() })
    }
    fn rejected(&self, _: Asked) -> LocalBoxFuture<'_, Vec<RejectedPlace>> {
        Box::pin(async { Vec::new() })
    }
    fn refresh(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async { self.refreshed.set(self.refreshed.get() + 1) })
    }
    fn readiness(&self) -> Readiness {
        self.readiness.borrow().clone()
    }
}

/// Looks the route up, and nothing else: what the real one decides is compared with real responses
/// in tests/http.
struct FakeDataPath(SharedTable);

impl DataPath for FakeDataPath {
    fn decide<'a>(&'a self, asked: &'a ExplainedRequest) -> LocalBoxFuture<'a, Decision> {
        let host = asked.headers["host"].to_str().unwrap().to_owned();
        let path = asked.target.split('?').next().unwrap().to_owned();
        if path.contains("%00") {
            let refused = Some(Refusal {
                status: 400,
                why: "the path cannot be decoded: NUL".to_owned(),
            });
            return Box::pin(async move {
                Decision {
                    host,
                    refused,
                    ..Decision::default()
                }
            });
        }
        let route = self
            .0
            .load()
            .lookup(Scheme::Http, &host, &path, |_| true)
            .cloned();
        let refused = route.is_none().then(|| Refusal {
            status: 404,
            why: "no route".to_owned(),
        });
        let fates = route
            .iter()
            .flat_map(|route| route.targets.iter().map(|_| Fate::default()))
            .collect();
        Box::pin(async move {
            Decision {
                host,
                path,
                refused,
                route,
                fates,
                ..Decision::default()
            }
        })
    }
    fn decide_connection(&self, _: SocketAddr, _: Option<&str>, _: SocketAddr) -> Decision {
        Decision::default()
    }
}

fn id(service: &str) -> InstanceId {
    InstanceId {
        node: Arc::from("n1"),
        id: Arc::from(format!("{service}-1")),
    }
}

fn table() -> SharedTable {
    let (commands, errors) = parse_commands("route add web shop.example/ http://10.0.0.1:80/");
    assert!(errors.is_empty(), "{errors:?}");
    let mut builder = TableBuilder::new(Matcher::Prefix, Strategy::P2c, Metrics::default());
    builder.apply_commands("static", commands.into(), 0);
    let table = SharedTable::default();
    table.publish(builder.build());
    table
}

fn service(name: &str) -> ServiceStatus {
    let instance = InstanceStatus {
        id: id(name),
        address: "10.0.0.1:80".to_owned(),
        state: "excluded",
        reason: Some(format!("check {ATTACK} is critical")),
        tags: vec![format!("urlprefix-{ATTACK}/")],
        in_flight: 0,
        failures: 0,
    };
    ServiceStatus {
        name: Arc::from(name),
        source: "consul",
        last_success: Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
        instances: vec![instance],
        rejected: vec![(format!("urlprefix-{ATTACK}"), "no path".to_owned())],
        unknown_options: vec![],
        held: None,
    }
}

/// A running listener with one service and one route.
struct Admin {
    address: SocketAddr,
    control: Rc<FakeControl>,
    metrics: Metrics,
    table: SharedTable,
    config: watch::Sender<Arc<str>>,
    settings: watch::Sender<Arc<AdminConfig>>,
}

/// Runs `test` against a fresh listener, in the way the control thread runs it.
fn with_admin<F: Future<Output = ()>>(test: impl FnOnce(Rc<Admin>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let control = Rc::new(FakeControl::default());
        control.services.borrow_mut().push(service(ATTACK));
        let (config, config_json) = watch::channel(Arc::from(r#"{"consul":{"token":"***"}}"#));
        let settings = watch::Sender::new(Arc::new(AdminConfig::default()));
        let metrics = Metrics::default();
        let shared = table();
        let state = AdminState {
            table: shared.clone(),
            clock: Clock::start(),
            registry: collectors::registry(&metrics).unwrap(),
            metrics: metrics.clone(),
            control: Rc::clone(&control) as Rc<dyn ControlView>,
            config_json,
            settings: settings.subscribe(),
            tls: Arc::new(|_| Ok(None)),
            certificates: Arc::new(Vec::new),
            overrides: None,
            data_path: Rc::new(FakeDataPath(shared.clone())),
        };
        let task = serve(listener, state);
        let admin = Rc::new(Admin {
            address,
            control,
            metrics,
            table: shared,
            config,
            settings,
        });
        tokio::time::timeout(Duration::from_secs(30), test(admin))
            .await
            .expect("the test hangs");
        task.abort();
    });
}

fn access(url: &str) -> Access {
    Access {
        url: url.to_owned(),
        ..Access::default()
    }
}

fn question<'a>(url: &'a str, headers: &'a [String]) -> Question<'a> {
    Question {
        url,
        method: "GET",
        headers,
        from: None,
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.body))
    }
}

impl Admin {
    /// Sends bytes, reads until the server closes.
    async fn raw(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer {
            status,
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    /// The same for a body that is not text: the head in lower case, and the body.
    async fn bytes(&self, request: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        let end = all
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap();
        (
            String::from_utf8_lossy(&all[..end]).to_ascii_lowercase(),
            all.split_off(end + 4),
        )
    }

    async fn send(&self, method: &str, path: &str) -> Answer {
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
        ))
        .await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path).await
    }

    fn url(&self) -> Access {
        access(&format!("http://{}", self.address))
    }
}

#[test]
fn health_version_and_config() {
    with_admin(|admin| async move {
        let health = admin.get("/health").await;
        assert_eq!((health.status, health.body.as_str()), (200, "OK\n"));
        assert_eq!(
            admin.get("/api/version").await.body.trim(),
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(
            admin.get("/api/config").await.json()["consul"]["token"],
            "***"
        );
        assert!(
            admin
                .get("/api/config?pretty")
                .await
                .body
                .contains("\n    \"consul\": {\n        \"token\"")
        );
        admin.config.send_replace(Arc::from(r#"{"reloaded":true}"#));
        assert_eq!(admin.get("/api/config").await.json()["reloaded"], true);
    });
}

#[test]
fn readiness_follows_and_says_why() {
    with_admin(|admin| async move {
        let ready = admin.get("/ready").await;
        assert_eq!((ready.status, &ready.json()["ready"]), (200, &true.into()));
        *admin.control.readiness.borrow_mut() = Readiness {
            waiting_for: vec!["consul: service web".to_owned()],
            draining: false,
        };
        let waiting = admin.get("/ready").await;
        assert_eq!(waiting.status, 503);
        assert_eq!(waiting.json()["waiting_for"][0], "consul: service web");
        assert!(
            waiting.json()["reason"]
                .as_str()
                .unwrap()
                .contains("consul: service web")
        );
        *admin.control.readiness.borrow_mut() = Readiness {
            waiting_for: vec![],
            draining: true,
        };
        let draining = admin.get("/ready").await;
        assert_eq!(
            (draining.status, &draining.json()["draining"]),
            (503, &true.into())
        );
    });
}

#[test]
fn metrics_are_served_in_their_format() {
    with_admin(|admin| async move {
        admin.metrics.service(&Arc::from("web")).record_request(
            &http::Method::GET,
            200,
            Duration::from_millis(1),
        );
        let answer = admin.get("/metrics").await;
        assert_eq!(answer.status, 200);
        assert!(
            answer
                .head
                .contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
            "{}",
            answer.head
        );
        assert!(
            answer
                .body
                .contains(r#"lb_http_requests_total{service="web",method="GET",code="200"} 1"#)
        );
        assert!(answer.body.contains("lb_build_info{version="));
        assert_eq!(
            admin.control.refreshed.get(),
            1,
            "states of targets are counted anew for each scrape"
        );
    });
}

#[test]
fn metrics_are_compressed_for_a_scraper_that_accepts_it() {
    with_admin(|admin| async move {
        for n in 0..50 {
            admin
                .metrics
                .service(&Arc::from(format!("service-{n}")))
                .record_request(&http::Method::GET, 200, Duration::from_millis(1));
        }
        let get = async |more: &str| {
            let request = format!(
                "GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{more}\r\n"
            );
            admin.bytes(&request).await
        };
        let (head, plain) = get("").await;
        assert!(head.contains("vary: accept-encoding"), "{head}");
        assert!(!head.contains("content-encoding"), "{head}");
        let (head, packed) = get("accept-encoding: gzip\r\n").await;
        assert!(head.contains("content-encoding: gzip"), "{head}");
        assert!(head.contains("vary: accept-encoding"), "{head}");
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*packed), &mut text)
            .unwrap();
        assert!(
            packed.len() * 5 < plain.len(),
            "{} {}",
            packed.len(),
            plain.len()
        );
        assert_eq!(text.into_bytes(), plain);
        let (head, refused) = get("accept-encoding: gzip;q=0\r\n").await;
        assert!(!head.contains("content-encoding"), "{head}");
        assert_eq!(refused, plain);
    });
}

#[test]
fn routes_and_services() {
    with_admin(|admin| async move {
        let routes = admin.get("/api/routes").await;
        assert!(
            routes
                .head
                .contains("content-type: application/json; charset=utf-8")
        );
        assert_eq!(routes.json()[0]["src"], "shop.example/");
        assert_eq!(routes.json()[0]["dst"], "http://10.0.0.1:80/");
        let raw = admin.get("/api/routes?raw").await;
        assert!(raw.head.contains("content-type: text/plain"));
        assert_eq!(
            raw.body,
            "route add web shop.example/ http://10.0.0.1:80/\n"
        );
        assert!(
            admin
                .get("/api/routes?pretty")
                .await
                .body
                .starts_with("[\n    {\n        \"service\"")
        );
        let services = admin.get("/api/services").await.json();
        assert_eq!(services[0]["instances"][0]["state"], "excluded");
        assert_eq!(services[0]["rejected"][0]["reason"], "no path");
        assert!(services[0]["age_seconds"].as_f64().unwrap() > 0.0);
    });
}

#[test]
fn explain_answers_and_refuses() {
    with_admin(|admin| async move {
        let told = admin
            .get("/api/explain?url=http%3A%2F%2Fshop.example%2Fcart&method=POST")
            .await
            .json();
        assert_eq!(
            (&told["route"]["host"], &told["method"]),
            (&"shop.example".into(), &"POST".into())
        );
        assert_eq!(
            told["route"]["targets"][0]["destination"],
            "http://10.0.0.1:80/"
        );
        let by_header = admin
            .get("/api/explain?url=http://127.0.0.1/&header=Host:%20shop.example")
            .await
            .json();
        assert_eq!(by_header["route"]["host"], "shop.example");
        assert_eq!(
            admin.get("/api/explain?url=http://other/").await.json()["route"],
            serde_json::Value::Null
        );
        let refused = admin.get("/api/explain?url=http://x/%2500").await.json();
        assert_eq!(
            refused["status"], 400,
            "a request that is refused is explained, too"
        );
        for bad in [
            "/api/explain",
            "/api/explain?url=ftp://x/",
            "/api/explain?url=http://x/&from=x",
        ] {
            let refused = admin.get(bad).await;
            assert_eq!(refused.status, 400, "{bad}");
            assert!(refused.json()["error"].is_string(), "{bad}");
        }
    });
}

#[test]
fn the_page_shows_strangers_text_as_text() {
    with_admin(|admin| async move {
        let page = admin.get("/").await;
        assert_eq!(page.status, 200);
        assert!(
            !page.body.contains(ATTACK),
            "markup of a service name got through"
        );
        assert!(
            page.body
                .contains("<h3>&lt;script&gt;alert(1)&lt;/script&gt;</h3>")
        );
        let policy = page
            .head
            .lines()
            .find_map(|line| line.strip_prefix("content-security-policy: "))
            .unwrap();
        let nonce = policy
            .split("script-src 'nonce-")
            .nth(1)
            .unwrap()
            .split('\'')
            .next()
            .unwrap();
        assert_eq!(nonce.len(), 32);
        assert_eq!(
            page.body
                .matches(&format!("<script nonce=\"{nonce}\">"))
                .count(),
            1
        );
        assert_eq!(
            page.body.matches("<script").count(),
            1,
            "a script without the nonce"
        );
        assert!(!policy.contains("unsafe") && policy.contains("default-src 'none'"));
        assert!(
            !admin.get("/").await.body.contains(nonce),
            "a nonce is used once"
        );
    });
}

#[test]
fn the_routes_page_is_found_where_fabios_users_look() {
    with_admin(|admin| async move {
        let page = admin.get("/routes").await;
        assert_eq!(page.status, 200);
        assert!(
            page.head.contains("content-type: text/html; charset=utf-8"),
            "{}",
            page.head
        );
        assert!(
            page.body.contains("<td class=\"mono\">shop.example/</td>"),
            "{}",
            page.body
        );
        let policy = page
            .head
            .lines()
            .find_map(|line| line.strip_prefix("content-security-policy: "))
            .unwrap();
        let nonce = policy
            .split("script-src 'nonce-")
            .nth(1)
            .unwrap()
            .split('\'')
            .next()
            .unwrap();
        assert_eq!(
            page.body.matches("<script").count(),
            page.body
                .matches(&format!("<script nonce=\"{nonce}\">"))
                .count()
        );

        let fabios = AdminConfig {
            home: AdminHome::Routes,
            path: "/lb".to_owned(),
            ..AdminConfig::default()
        };
        admin.settings.send_replace(Arc::new(fabios));
        for path in ["/lb", "/lb/", "/lb/assets/logo.svg"] {
            let moved = admin.get(path).await;
            assert_eq!(moved.status, 303, "{path}");
            assert!(
                moved
                    .head
                    .lines()
                    .any(|line| line == "location: /lb/routes"),
                "{}",
                moved.head
            );
        }
        assert_eq!(admin.get("/lb/routes").await.status, 200);
        assert_eq!(
            admin.get("/health").await.status,
            200,
            "checks in Consul are told no prefix"
        );
        let outside = admin.get("/routes").await;
        assert!(
            outside.status == 404
                && outside.json()["error"]
                    .as_str()
                    .unwrap()
                    .contains("below /lb")
        );
        let table = client::routes(
            &access(&format!("{}/lb", admin.address)),
            RoutesFormat::Table,
        )
        .await
        .unwrap();
        assert!(table.contains("shop.example/"), "{table}");
    });
}

#[test]
fn only_get_and_head_are_taken_and_unknown_paths_are_told_in_json() {
    with_admin(|admin| async move {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
            let refused = admin.send(method, "/api/routes").await;
            assert_eq!(refused.status, 405, "{method}");
            assert!(refused.head.contains("allow: get, head"), "{method}");
        }
        let head = admin.send("HEAD", "/metrics").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        assert!(head.head.contains("content-length: "));
        let unknown = admin.get("/secret?x=%00").await;
        assert_eq!(unknown.status, 404);
        assert!(
            unknown.json()["error"]
                .as_str()
                .unwrap()
                .contains("/secret")
        );
        for answer in [admin.get("/").await, unknown] {
            assert!(answer.head.contains("x-content-type-options: nosniff"));
            assert!(answer.head.contains("cache-control: no-store"));
        }
    });
}

/// A listener whose table has this many routes, each of a service of its own.
fn with_many(count: usize, test: impl AsyncFnOnce(Rc<Admin>)) {
    with_admin(|admin| async move {
        let text: String = (0..count)
            .map(|n| {
                format!(
                    "route add svc-{n:05} h{n}.test/ http://10.0.{}.{}:80/\n",
                    n / 250,
                    n % 250
                )
            })
            .collect();
        let (commands, errors) = parse_commands(&text);
        assert!(errors.is_empty());
        let mut builder = TableBuilder::new(Matcher::Prefix, Strategy::P2c, Metrics::default());
        builder.apply_commands("static", commands.into(), 0);
        admin.table.publish(builder.build());
        admin.metrics.control().table_builds += 1;
        test(admin).await;
    });
}

#[test]
fn any_of_ten_thousand_routes_is_found_and_the_list_is_sent_in_parts() {
    with_many(10_000, async |admin| {
        let page = admin.get("/routes?filter=svc-09999").await;
        assert!(
            page.body.contains("<td>svc-09999</td>") && page.body.matches("<tr><td>").count() == 1
        );
        let page = admin.get("/routes").await;
        assert!(
            page.body.len() < 300_000 && page.body.contains("1 to 500 of 10000"),
            "{}",
            page.body.len()
        );
        let found = admin
            .get("/api/routes?filter=SVC-0999&limit=3&offset=1")
            .await;
        assert!(found.head.contains("x-total-count: 10"), "{}", found.head);
        let found = found.json();
        assert_eq!(found.as_array().unwrap().len(), 3);
        assert!(
            found
                .as_array()
                .unwrap()
                .iter()
                .all(|row| row["service"].as_str().unwrap().starts_with("svc-0999"))
        );
        assert_eq!(
            admin
                .get("/api/routes")
                .await
                .json()
                .as_array()
                .unwrap()
                .len(),
            10_000
        );
    });
}

#[test]
fn answers_are_compressed_for_those_who_take_that_and_sent_only_when_they_changed() {
    with_many(1_000, async |admin| {
        let ask = async |path: &str, more: &str| {
            let request = format!(
                "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{more}\r\n"
            );
            admin.bytes(&request).await
        };
        let plain = ask("/api/routes", "").await;
        assert!(!plain.0.contains("content-encoding"), "{}", plain.0);
        for path in ["/api/routes", "/api/services", "/", "/routes"] {
            let (head, body) = ask(path, "accept-encoding: br, gzip\r\n").await;
            let (_, identity) = ask(path, "").await;
            if identity.len() < 1024 {
                continue;
            }
            assert!(
                head.contains("content-encoding: gzip") && head.contains("vary: accept-encoding"),
                "{path}: {head}"
            );
            assert!(
                body.len() * 2 < identity.len(),
                "{path}: {} of {}",
                body.len(),
                identity.len()
            );
            assert_eq!(body[..2], [0x1f, 0x8b], "{path}");
        }
        let tag = plain
            .0
            .lines()
            .find_map(|line| line.strip_prefix("etag: "))
            .unwrap()
            .to_owned();
        let has = format!("if-none-match: {}\r\n", tag.replace("w/", "W/"));
        let (head, body) = ask("/api/routes", &has).await;
        assert!(
            head.starts_with("http/1.1 304") && body.is_empty(),
            "{head}"
        );
        assert!(
            ask("/api/routes?filter=x", &has)
                .await
                .0
                .starts_with("http/1.1 200"),
            "another question"
        );
        admin.table.publish(table().load().as_ref().clone());
        admin.metrics.control().table_builds += 1;
        assert!(
            ask("/api/routes", &has).await.0.starts_with("http/1.1 200"),
            "another table"
        );

        // What an open page requests each second is small, whatever the table's size.
        let (_, summary) = ask("/api/summary", "").await;
        assert!(summary.len() < 1_000, "{}", summary.len());
    });
}

#[test]
fn only_names_of_this_machine_may_be_asked() {
    with_admin(|admin| async move {
        let ask = async |path: &str, host: &str| {
            admin
                .raw(&format!(
                    "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
                ))
                .await
                .status
        };
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap()
            .trim()
            .to_owned();
        for path in [
            "/",
            "/routes",
            "/api/routes",
            "/api/services",
            "/api/config",
            "/api/events",
            "/api/sources",
        ] {
            for good in ["127.0.0.1", "[::1]:9998", "LOCALHOST.", &machine] {
                assert_eq!(ask(path, good).await, 200, "{path} {good}");
            }
            assert_eq!(ask(path, "evil.example:9998").await, 421, "{path}");
        }
        for path in ["/health", "/ready", "/metrics"] {
            assert_eq!(ask(path, "lb.service.consul:9998").await, 200, "{path}");
        }
        let named = AdminConfig {
            hosts: vec!["lb.service.consul".to_owned()],
            ..AdminConfig::default()
        };
        admin.settings.send_replace(Arc::new(named));
        assert_eq!(
            ask("/api/routes", "LB.service.consul:9998").await,
            200,
            "a configured name"
        );
        let old = admin.raw("GET /api/version HTTP/1.0\r\n\r\n").await;
        assert_eq!(old.status, 200, "programs of old name no host");
        let absolute = "GET http://evil.example/api/version HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        assert_eq!(admin.raw(absolute).await.status, 421);
        let two = "GET /api/version HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        assert_eq!(admin.raw(two).await.status, 400);
    });
}

#[test]
fn a_connection_is_kept_for_the_next_request() {
    with_admin(|admin| async move {
        let two = "GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\nGET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";
        let answer = admin.raw(two).await;
        assert_eq!(
            answer.body.matches("HTTP/1.1 200").count(),
            1,
            "the second response follows the first"
        );
    });
}

#[test]
fn oversized_and_broken_requests_are_refused_and_harm_nobody() {
    with_admin(|admin| async move {
        let many: String = (0..200).map(|index| format!("h{index}: x\r\n")).collect();
        assert_eq!(
            admin
                .raw(&format!("GET / HTTP/1.1\r\n{many}\r\n"))
                .await
                .status,
            431
        );
        let long = "a".repeat(100_000);
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        // The server may close before it has read all.
        let _ = stream
            .write_all(format!("GET /{long} HTTP/1.1\r\n\r\n").as_bytes())
            .await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
        assert_eq!(admin.raw("NONSENSE\r\n\r\n").await.status, 400);
        assert_eq!(admin.get("/health").await.status, 200);
    });
}

/// A client that takes little at a time.
fn narrow(address: SocketAddr) -> std::net::TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}

/// Opens connections that each say `first`, and then what `next` says whenever there is time, and
/// never read.
async fn crowd(
    admin: &Admin,
    count: usize,
    first: &str,
    next: &'static [u8],
) -> Vec<tokio::task::JoinHandle<()>> {
    let mut crowd = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::from_std(narrow(admin.address)).unwrap();
        // It may have had to give way already.
        let _ = stream.write_all(first.as_bytes()).await;
        crowd.push(tokio::task::spawn_local(async move {
            for byte in next.iter().cycle() {
                if stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            std::future::pending::<()>().await;
        }));
        tokio::task::yield_now().await;
    }
    crowd
}

#[test]
fn clients_that_hold_connections_keep_out_nobody() {
    let kinds: [(&str, &str, &'static [u8]); 5] = [
        ("silence", "", b""),
        (
            "a head that does not end",
            "GET /health HTTP/1.1\r\nx: ",
            b"",
        ),
        ("a head, byte by byte", "GET /health HTTP/1.1\r\nx: ", b"a"),
        (
            "idle after an answer",
            "GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
            b"",
        ),
        (
            "an answer that is not read",
            "GET /api/routes HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
            b"",
        ),
    ];
    for (name, first, next) in kinds {
        with_admin(|admin| async move {
            let text: String = (0..4000)
                .map(|at| format!("route add web shop{at}.example/path http://10.0.0.1:80/\n"))
                .collect();
            let mut builder = TableBuilder::new(Matcher::Prefix, Strategy::P2c, Metrics::default());
            builder.apply_commands("static", parse_commands(&text).0.into(), 0);
            admin.table.publish(builder.build());
            let crowd = crowd(&admin, 100, first, next).await;
            for path in ["/health", "/ready", "/metrics", "/api/version"] {
                let begun = std::time::Instant::now();
                let answer = admin.get(path).await;
                let crowded = answer.status == 503 && path == "/api/version";
                assert!(
                    answer.status == 200 || crowded,
                    "{name}: {path}: {}",
                    answer.status
                );
                assert!(
                    begun.elapsed() < Duration::from_secs(10),
                    "{name}: {path}: {:?}",
                    begun.elapsed()
                );
            }
            crowd.iter().for_each(tokio::task::JoinHandle::abort);
        });
    }
}

#[test]
fn the_one_that_waited_the_longest_gives_way() {
    with_admin(|admin| async move {
        let mut clients = Vec::new();
        for _ in 0..65 {
            let mut stream = TcpStream::connect(admin.address).await.unwrap();
            stream
                .write_all(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
                .await
                .unwrap();
            let mut answer = vec![0; 1024];
            let length = stream.read(&mut answer).await.unwrap();
            assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
            clients.push(stream);
        }
        let mut first = clients.remove(0);
        assert_eq!(first.read(&mut [0]).await.unwrap_or(0), 0, "it gave way");
        for stream in &mut clients {
            stream
                .write_all(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
                .await
                .unwrap();
            assert_ne!(
                stream.read(&mut [0; 1024]).await.unwrap(),
                0,
                "it is served on"
            );
        }
    });
}

#[test]
fn client_commands() {
    with_admin(|admin| async move {
        let table = client::routes(&admin.url(), RoutesFormat::Table)
            .await
            .unwrap();
        assert!(table.starts_with("ROUTE "), "{table}");
        assert!(
            table.contains("shop.example/  web      http://10.0.0.1:80/  100.0%"),
            "{table}"
        );
        assert!(
            table.contains("INSTANCE OUT") && table.contains("REJECTED TAG"),
            "{table}"
        );
        let json = client::routes(&admin.url(), RoutesFormat::Json)
            .await
            .unwrap();
        assert!(
            serde_json::from_str::<serde_json::Value>(&json)
                .unwrap()
                .is_array()
        );
        let commands = client::routes(&admin.url(), RoutesFormat::Fabio)
            .await
            .unwrap();
        assert_eq!(
            commands,
            "route add web shop.example/ http://10.0.0.1:80/\n"
        );
        let headers = ["Host: shop.example".to_owned(), "X: a&b+c".to_owned()];
        let told = client::explain(&admin.url(), &question("http://x/a?b=c&d", &headers), false)
            .await
            .unwrap();
        assert!(
            told.contains("route     shop.example/ (strategy p2c)"),
            "{told}"
        );
        let json = client::explain(&admin.url(), &question("http://shop.example/", &[]), true)
            .await
            .unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["outcome"].is_string());
    });
}

#[test]
fn client_errors_say_what_to_do() {
    with_admin(|admin| async move {
        let told = client::explain(&admin.url(), &question("ftp://x/", &[]), false)
            .await
            .unwrap_err();
        assert!(matches!(told, AdminClientError::Response { .. }), "{told}");
        assert!(
            told.to_string()
                .contains("`ftp://x/` is not an absolute URL like"),
            "{told}"
        );

        let unused = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let nobody = unused.local_addr().unwrap();
        drop(unused);
        let refused = client::routes(&access(&format!("http://{nobody}")), RoutesFormat::Table)
            .await
            .unwrap_err();
        assert!(
            refused
                .to_string()
                .starts_with(&format!("nothing listens on {nobody}: is lb running?")),
            "{refused}"
        );

        // Something else listens there: it closes, or talks of other things.
        let other = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = other.local_addr().unwrap();
        let stranger = tokio::task::spawn_local(async move {
            for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"] {
                let (mut stream, _) = other.accept().await.unwrap();
                let mut head = [0; 512];
                let _ = stream.read(&mut head).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        for _ in 0..2 {
            let error = client::routes(&access(&format!("http://{address}")), RoutesFormat::Table)
                .await
                .unwrap_err();
            assert!(
                matches!(error, AdminClientError::Exchange { .. }),
                "{error}"
            );
        }
        stranger.await.unwrap();
    });
}
