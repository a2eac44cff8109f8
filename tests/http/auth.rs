//! Routes with `auth=`: who gets in, who is asked, and what a changed file of users does.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::stand::{OK, Scripted, router, wait_until};
use crate::support::client::{RawResponse, exchange};
use crate::support::lb::Lb;

fn get(lb: &Lb, path: &str, more: &str) -> RawResponse {
    exchange(lb.address("http"), format!("GET {path} HTTP/1.1\r\nHost: h\r\n{more}\r\n")).unwrap()
}

fn credentials(pair: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(pair))
}

#[test]
fn a_route_with_a_scheme_lets_in_who_is_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    fs::write(&file, format!("# staff\nann:{}\nbob:plain\n", bcrypt::hash("secret", 5).unwrap())).unwrap();
    let upstream = Scripted::replying(OK);
    let to = &[upstream.address][..];
    let routes = [
        ("/open", to, ""),
        ("/shop", to, "auth=main"),
        ("/typo", to, "auth=mian"),
        ("/away", to, "auth=main redirect=302,http://else.where/"),
        ("/shut", to, "auth=main allow=ip:192.0.2.0/24"),
    ];
    let more =
        format!("[auth.main]\nfile = {:?}\nrealm = \"the shop\"\n[log]\naccess = \"json\"\n", file.to_str().unwrap());
    let lb = router(&routes, &more);

    assert_eq!(get(&lb, "/open", "").status, 200);
    let ann = credentials("ann:secret");
    for (path, more, status) in [
        ("/shop", &*ann, 200),
        ("/shop", &*ann, 200),
        ("/shop", &*credentials("bob:plain"), 200),
        ("/away", &*ann, 302),
        ("/typo", &*ann, 401),
        ("/shut", &*ann, 403),
        // Access rules come first, so nobody is asked for what would not help.
        ("/shut", "", 403),
    ] {
        let response = get(&lb, path, more);
        assert_eq!(response.status, status, "{path} {more}");
        assert_eq!(response.header("www-authenticate"), None, "{path} {more}");
    }
    for more in ["", &credentials("ann:Secret"), &credentials("eve:secret"), "Authorization: Bearer x\r\n"] {
        for path in ["/shop", "/away"] {
            let response = get(&lb, path, more);
            assert_eq!(response.status, 401, "{path} {more}");
            assert_eq!(response.header("www-authenticate"), Some("Basic realm=\"the shop\""), "{more}");
            assert_eq!(response.text(), "authorization failed\n");
        }
    }
    // Four requests were let through, and the instance gets what the client said.
    assert_eq!(upstream.requests(), 4);
    assert!(upstream.received().to_ascii_lowercase().contains(&ann.to_ascii_lowercase()));
    lb.wait_stdout("record of a refusal", |line| line.contains("\"status\":401") && line.contains("unauthorized"));

    fs::write(&file, "ann:changed\n").unwrap();
    wait_until("new users", || get(&lb, "/shop", &credentials("ann:changed")).status == 200);
    assert_eq!(get(&lb, "/shop", &ann).status, 401);
    fs::remove_file(&file).unwrap();
    wait_until("end of all users", || get(&lb, "/shop", &credentials("ann:changed")).status == 401);
}

#[test]
fn a_call_of_grpc_is_refused_in_its_own_terms() {
    let upstream = Scripted::replying(OK);
    let lb = router(&[("/", &[upstream.address], "auth=none")], "");
    let response = get(&lb, "/pkg.Service/Call", "Content-Type: application/grpc\r\n");
    assert_eq!((response.status, response.header("grpc-status")), (200, Some("16")));
    assert_eq!(upstream.requests(), 0);
}
