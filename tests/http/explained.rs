//! `/api/explain` beside real responses: for every route and request of a table it has to say what
//! then happens.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::harness::{Refusing, router};
use crate::support::client::{RawResponse, exchange};
use crate::support::lb::Lb;
use crate::support::upstream::Upstream;

fn real(lb: &Lb, method: &str, host: &str, target: &str, fields: &[String]) -> RawResponse {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let request =
        format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n");
    exchange(lb.address("http"), request).expect("a response")
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn explained(
    lb: &Lb,
    method: &str,
    host: &str,
    target: &str,
    fields: &[String],
    more: &str,
) -> Value {
    let mut path = format!(
        "/api/explain?method={method}&url={}{more}",
        encoded(&format!("http://{host}{target}"))
    );
    for field in fields {
        path += &format!("&header={}", encoded(field));
    }
    let (status, body) = lb.admin(&path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn what_is_explained_is_what_happens() {
    let (one, two) = (Upstream::start("one"), Upstream::start("two"));
    let (a, both) = ([one.address], [one.address, two.address]);
    let names = [(one.address, "one"), (two.address, "two")];
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    std::fs::write(&users, "ann:secret\n").unwrap();
    let routes: Vec<(&str, &[SocketAddr], &str)> = vec![
        ("/", &a, ""),
        ("shop.test/", &a, ""),
        ("shop.test/strip/", &a, "strip=/strip"),
        ("shop.test/pre", &a, "prepend=/v1"),
        ("shop.test/both", &a, "strip=/both prepend=/v2 host=dst"),
        ("shop.test/other", &a, "host=inside.test"),
        ("shop.test/in", &a, "allow=ip:127.0.0.0/8"),
        ("shop.test/out", &a, "allow=ip:192.0.2.0/24"),
        ("shop.test/deny", &a, "deny=ip:127.0.0.1/32"),
        ("shop.test/deny2", &a, "deny=ip:203.0.113.0/24"),
        ("shop.test/login", &a, "auth=main"),
        ("shop.test/typo", &a, "auth=mian"),
        ("shop.test/away", &a, "redirect=301,https://new.test$path"),
        (
            "shop.test/moved",
            &a,
            "redirect=302,https://$host/there strip=/moved",
        ),
        ("shop.test/self", &a, "redirect=302,http://shop.test/self"),
        (
            "shop.test/guard",
            &a,
            "auth=main redirect=302,http://else.test/ allow=ip:127.0.0.1/32",
        ),
        ("*.glob.test/", &a, "strip=/x"),
        ("shop.test/hash", &both, "strategy=hash:path"),
        ("shop.test/hip", &both, "strategy=hash:ip"),
        ("shop.test/hhead", &both, "strategy=hash:header:X-User"),
        ("shop.test/hcook", &both, "strategy=hash:cookie:id"),
    ];
    let more = format!(
        "[auth.main]\nfile = {:?}\n[proxy]\nno_route_status = 404\ntrusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]\n",
        users.to_str().unwrap()
    );
    let lb = router(&routes, &more);
    let ann = format!("Authorization: Basic {}", STANDARD.encode("ann:secret"));
    let eve = format!("Authorization: Basic {}", STANDARD.encode("eve:secret"));
    let fields: [Vec<String>; 6] = [
        vec![],
        vec![ann],
        vec![eve, "X-User: ann".to_owned()],
        vec![
            "X-Forwarded-For: 203.0.113.9, 10.0.0.1".to_owned(),
            "Cookie: a=b; id=7".to_owned(),
        ],
        vec![
            "X-Forwarded-Proto: https".to_owned(),
            "X-User: bob".to_owned(),
        ],
        vec!["Cookie: id=8".to_owned()],
    ];
    let hosts = [
        "shop.test",
        "SHOP.test",
        "shop.test:80",
        "shop.test:81",
        "shop.test.",
        "a.glob.test",
        "x.y",
        "127.0.0.1:9",
    ];
    let targets = [
        "/",
        "/?q=1",
        "/strip/a%2Fb?x=%20y",
        "/strip",
        "/stripe",
        "/pre/x",
        "/both/x/../y",
        "/both",
        "/other//x",
        "/other/%2F/x",
        "/strip//%2F/./x",
        "/both/x%2F../y",
        "/in",
        "/out",
        "/out/../in",
        "/deny",
        "/deny2/x",
        "/login",
        "/typo",
        "/away/a%20b?c=d",
        "/moved/x?y",
        "/self",
        "/guard",
        "/x/y",
        "/%2e%2e/in",
        "/%zz",
        "/a%00b",
        "/hash/1",
        "/hash/2",
        "/hash/3",
        "/hip",
        "/hhead",
        "/hcook",
    ];
    let mut compared = 0;
    for host in hosts {
        for target in targets {
            for fields in &fields {
                compare(&lb, &names, "GET", host, target, fields);
                compared += 1;
            }
        }
    }
    assert_eq!(compared, hosts.len() * targets.len() * fields.len());
    for (method, target) in [
        ("POST", "/login"),
        ("DELETE", "/away"),
        ("OPTIONS", "/in"),
        ("CONNECT", "/in"),
    ] {
        // To CONNECT, a target in the form of a path is not a real request.
        if method != "CONNECT" {
            compare(
                &lb,
                &names,
                method,
                "shop.test",
                target,
                &["Content-Length: 0".to_owned()],
            );
        }
    }
}

#[test]
fn what_credentials_lead_to_is_explained_as_it_happens() {
    let upstream = Upstream::start("one");
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    std::fs::write(&users, "ann:secret\n").unwrap();
    let auth = format!("[auth.main]\ntype = \"basic\"\nfile = {users:?}\n");
    let good = format!("Authorization: Basic {}", STANDARD.encode("ann:secret"));
    let bad = format!("Authorization: Basic {}", STANDARD.encode("ann:wrong"));
    for errors in ["told", "bare"] {
        let routes = [
            ("a.test/known", &[upstream.address][..], "auth=main"),
            ("a.test/typo", &[upstream.address], "auth=x"),
        ];
        let lb = router(
            &routes,
            &format!("[proxy]\nupstream_errors = \"{errors}\"\n{auth}"),
        );
        let names = [(upstream.address, "one")];
        for fields in [
            vec![],
            vec![good.clone()],
            vec![bad.clone()],
            vec![good.clone(), good.clone()],
        ] {
            for target in ["/known", "/typo"] {
                compare(&lb, &names, "GET", "a.test", target, &fields);
            }
        }
    }
}

fn compare(
    lb: &Lb,
    names: &[(SocketAddr, &str)],
    method: &str,
    host: &str,
    target: &str,
    fields: &[String],
) {
    let told = explained(lb, method, host, target, fields, "");
    let happened = real(lb, method, host, target, fields);
    let about = format!(
        "{method} {host}{target} {fields:?}: {} {}\n{}",
        happened.status,
        happened.text(),
        told["text"]
    );
    match told["status"].as_u64() {
        Some(status) => {
            assert_eq!(status, u64::from(happened.status), "{about}");
            assert_eq!(
                told["location"].as_str(),
                happened.header("location"),
                "{about}"
            );
        }
        None => {
            assert_eq!(happened.status, 200, "{about}");
            let arrived: Value = serde_json::from_slice(&happened.body).unwrap();
            assert_eq!(told["upstream_path"], arrived["path"], "{about}");
            let host = arrived["headers"]
                .as_array()
                .unwrap()
                .iter()
                .find(|field| field[0] == "host")
                .unwrap();
            assert_eq!(told["upstream_host"], host[1], "{about}");
            // Which instance it is, where explain names one: by its address among the targets.
            if let Some(instance) = told["instance"].as_str() {
                let targets = told["route"]["targets"].as_array().unwrap();
                let picked = targets
                    .iter()
                    .find(|target| target["instance"] == instance)
                    .unwrap();
                let answered = happened.header("x-instance").unwrap();
                let address = names
                    .iter()
                    .find(|(_, name)| *name == answered)
                    .unwrap()
                    .0
                    .to_string();
                assert!(
                    picked["destination"].as_str().unwrap().contains(&address),
                    "{about}: {answered}"
                );
            } else {
                panic!("no instance is named: {about}");
            }
        }
    }
}

#[test]
fn rules_are_explained_for_the_address_that_is_named() {
    let upstream = Upstream::start("one");
    let routes = [
        ("a.test/adm", &[upstream.address][..], "allow=ip:10.0.0.0/8"),
        (
            "a.test/not",
            &[upstream.address],
            "deny=ip:10.0.0.0/8,ip:fd00::/8",
        ),
        ("a.test/auth", &[upstream.address], "auth=main"),
    ];
    let lb = router(&routes, "");
    let outcome = |path: &str, from: &str| {
        let told = explained(&lb, "GET", "a.test", path, &[], from);
        (
            told["status"].as_u64(),
            told["outcome"].as_str().unwrap().to_owned(),
        )
    };
    let (status, said) = outcome("/adm", "");
    assert_eq!(status, Some(403));
    assert!(
        said.contains("127.0.0.1") && said.contains("allow=ip:10.0.0.0/8"),
        "{said}"
    );
    for (path, from, refused) in [
        ("/adm", "&from=10.1.2.3", false),
        ("/adm", "&from=::ffff:10.1.2.3", false),
        ("/adm", "&from=192.0.2.1", true),
        ("/not", "", false),
        ("/not", "&from=10.1.2.3", true),
        ("/not", "&from=fd00::1", true),
        ("/not", "&from=fe80::1", false),
    ] {
        assert_eq!(
            outcome(path, from).0,
            refused.then_some(403),
            "{path} {from}"
        );
    }
    let (status, said) = outcome("/auth", "");
    assert_eq!(
        status,
        Some(u64::from(real(&lb, "GET", "a.test", "/auth", &[]).status))
    );
    assert!(said.contains("for everybody: no [auth.main]"), "{said}");
    assert_eq!(
        lb.admin("/api/explain?url=http://a.test/&from=nobody").0,
        400
    );
}

#[test]
fn tcp_routes_and_instances_that_are_out_are_explained() {
    let refusing = Refusing::new();
    let lb = router(
        &[("a.test/", &[refusing.address], "")],
        "routes = '''\nroute add db :5432 tcp://127.0.0.1:1 opts \"proto=tcp deny=ip:10.0.0.0/8\"\n\
         route add x /rej http://127.0.0.1:1/ opts \"redirect=abc\"\n'''\n",
    );
    let of = |url: &str| {
        let (_, body) = lb.admin(&format!("/api/explain?url={url}"));
        serde_json::from_str::<Value>(&body).unwrap()
    };
    let told = of("tcp://:5432");
    assert!(
        told["outcome"].as_str().unwrap().starts_with("sent to"),
        "{told}"
    );
    let told = of("tcp://:5432&from=10.9.9.9");
    assert!(
        told["outcome"]
            .as_str()
            .unwrap()
            .starts_with("closed at once: 10.9.9.9"),
        "{told}"
    );
    assert!(
        of("tcp://:5433")["outcome"]
            .as_str()
            .unwrap()
            .contains("closed at once")
    );
    // A line that makes no route, and would have matched.
    let told = of("http://b.test/rej");
    assert_eq!(told["status"], 404);
    assert!(
        told["outcome"].as_str().unwrap().contains("redirect=abc"),
        "{told}"
    );
    assert_eq!(told["rejected"][0]["place"], "/rej", "{told}");
    assert!(
        told["text"].as_str().unwrap().contains("rejected  "),
        "{told}"
    );
}
