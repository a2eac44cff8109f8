//! The configuration of `lb`: the plain one, and what a case changes in it.

use std::fmt::Write as _;
use std::process::Command;

use crate::cases::{Kind, Setting};
use crate::proxies::Proxy;
use crate::requests::{self, Request};
use crate::routes::routes;
use crate::stand::Stand;

/// A form of the access log that tells about as much as the JSON one.
const LOG_FORM: &str = r#"$remote_host $time_rfc3339_ms "$request" $request_host $response_status $response_body_size $response_time_us $upstream_service $upstream_addr $header.User-Agent"#;

/// Writes the files into the folder of the stand, and completes the command.
pub(crate) fn write(proxy: Proxy, stand: &Stand<'_>, command: &mut Command) {
    let setting = match stand.kind {
        Kind::Set(setting) if proxy == Proxy::LbVaried => Some(setting),
        _ => None,
    };
    let other = match stand.kind {
        Kind::Mixed { other, .. } => Some(other),
        _ => None,
    };
    let listed = stand.file("routes.txt", &all_routes(stand, setting, other));
    let mut text = format!("routes_file = \"{listed}\"\n{}", listeners(stand));
    if setting == Some(Setting::AuthElsewhere) || other == Some(Request::Challenged) {
        let users = stand.file("users.htpasswd", "somebody:secret\n");
        writeln!(text, "[auth.bench]\ntype = \"basic\"\nfile = \"{users}\"").unwrap();
    }
    let workers = if proxy == Proxy::LbTwo { 2 } else { 1 };
    let more = match setting {
        Some(Setting::RequestTimeout) => "request_timeout = \"30s\"\n",
        Some(Setting::Compression) => {
            "[proxy.compression]\ncontent_types = \"^application/json\"\n"
        }
        _ => "",
    };
    let access = match (proxy, setting) {
        (Proxy::LbLog, _) => "json",
        (_, Some(Setting::LogForm)) => LOG_FORM,
        _ => "off",
    };
    writeln!(
        text,
        "[proxy]\nworkers = {workers}\n{more}[admin]\naddress = \"127.0.0.1:{}\"\n[log]\nlevel = \"error\"\naccess = '{access}'",
        stand.doors.admin
    )
    .unwrap();
    command.args(["run", "--config", &stand.file("lb.toml", &text)]);
}

/// The doors, with their certificates.
fn listeners(stand: &Stand<'_>) -> String {
    let (doors, certificates) = (stand.doors, stand.certificates);
    let mut text = String::new();
    for (port, rest) in [
        (doors.http, "protocol = \"http\""),
        (
            doors.ecdsa,
            "protocol = \"https\"\ncertificates = \"ecdsa\"",
        ),
        (doors.rsa, "protocol = \"https\"\ncertificates = \"rsa\""),
        (doors.grpc, "protocol = \"grpc\""),
        (doors.tcp, "protocol = \"tcp\""),
    ] {
        writeln!(text, "[[listener]]\naddress = \"127.0.0.1:{port}\"\n{rest}").unwrap();
    }
    for (name, pair) in [("ecdsa", &certificates.ecdsa), ("rsa", &certificates.rsa)] {
        let (cert, key) = (pair.cert.display(), pair.key.display());
        writeln!(
            text,
            "[certificates.{name}]\nsource = \"file\"\ncert_file = \"{cert}\"\nkey_file = \"{key}\""
        )
        .unwrap();
    }
    text
}

/// The usual routes, and those that this setting or request is about. Both forms of `lb` have the
/// ones of a request.
fn all_routes(stand: &Stand<'_>, setting: Option<Setting>, other: Option<Request>) -> String {
    // With a route for every host there is no request without one.
    let source = if other == Some(Request::NoRoute) {
        "localhost/"
    } else {
        "/"
    };
    let options = if setting == Some(Setting::Allow) {
        " opts \"allow=ip:127.0.0.0/8\""
    } else {
        ""
    };
    let mut text = routes(stand, source, options);
    if setting == Some(Setting::AuthElsewhere) || other == Some(Request::Challenged) {
        let (path, to) = (requests::LOCKED, stand.backends.http);
        writeln!(
            text,
            "route add locked {path} http://127.0.0.1:{to}/ opts \"auth=bench\""
        )
        .unwrap();
    }
    if other == Some(Request::Redirected) {
        let path = requests::MOVED;
        writeln!(text, "route add moved {path} https://elsewhere.test/ opts \"redirect=302,https://elsewhere.test/\"")
            .unwrap();
    }
    text
}
