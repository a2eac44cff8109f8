//! The lines of the access log: Apache's common and combined formats, and JSON.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::custom;
use super::escape::{push_json, push_json_inner, push_quoted};
use super::record::{AccessRecord, Connection, target_of, version_text};
use super::time::{TimeCache, push_three};
use crate::config::{AccessFormat, AccessLog};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Common,
    Combined,
    Json,
    Custom(Arc<AccessFormat>),
}

impl Form {
    pub(super) fn of(format: AccessLog) -> Option<Self> {
        match format {
            AccessLog::Off => None,
            AccessLog::Common => Some(Self::Common),
            AccessLog::Combined => Some(Self::Combined),
            AccessLog::Json => Some(Self::Json),
            AccessLog::Custom(format) => Some(Self::Custom(format)),
        }
    }

    /// The custom format, if it is one.
    pub(super) fn custom(&self) -> Option<&AccessFormat> {
        if let Self::Custom(format) = self {
            Some(format)
        } else {
            None
        }
    }

    /// Appends one line with its line feed.
    pub(super) fn push(&self, line: &mut Vec<u8>, record: &AccessRecord<'_>, time: &mut TimeCache) {
        match self {
            Self::Common => push_common(line, record, time),
            Self::Combined => {
                push_common(line, record, time);
                push_optional_quoted(line, record.referer);
                push_optional_quoted(line, record.user_agent);
            }
            Self::Json => push_json_line(line, record, time),
            Self::Custom(format) => custom::push(line, format, record, time),
        }
        line.push(b'\n');
    }
}

/// `REMOTE - - [TIME] "METHOD URI PROTO" STATUS BYTES`.
fn push_common(line: &mut Vec<u8>, record: &AccessRecord<'_>, time: &mut TimeCache) {
    push_ip(line, record.remote);
    line.extend_from_slice(b" - - [");
    time.push_common(line, record.time);
    line.extend_from_slice(b"] \"");
    push_quoted(line, record.method.as_bytes());
    line.push(b' ');
    push_quoted(line, target_of(record).as_bytes());
    match &record.tcp {
        Some(connection) => push_connection(line, record, connection),
        None => {
            line.push(b' ');
            line.extend_from_slice(version_text(record.version));
        }
    }
    line.extend_from_slice(b"\" ");
    push_number(line, u64::from(record.status));
    line.push(b' ');
    push_number(line, record.bytes_out);
}

/// What else there is to tell of a connection, as words inside the quotes of the request: readers
/// of these forms expect a status and a size behind them, and no more.
fn push_connection(line: &mut Vec<u8>, record: &AccessRecord<'_>, connection: &Connection) {
    let mut word = |name: &[u8], text: Option<&[u8]>| {
        line.extend_from_slice(name);
        push_quoted(line, text.unwrap_or(b"-"));
    };
    word(
        b" sni=",
        Some(record.host.as_bytes()).filter(|name| !name.is_empty()),
    );
    word(b" service=", record.service.map(str::as_bytes));
    word(
        b" instance=",
        record
            .instance
            .map(|instance| instance.to_string())
            .as_deref()
            .map(str::as_bytes),
    );
    match record.upstream {
        Some(upstream) => {
            line.extend_from_slice(b" upstream=");
            push_address(line, upstream);
        }
        None => line.extend_from_slice(b" upstream=-"),
    }
    line.extend_from_slice(b" in=");
    push_number(line, connection.bytes_in);
    push_milliseconds(line, b" ms=", Some(record.duration));
    line.extend_from_slice(b" end=");
    line.extend_from_slice(connection.end.as_bytes());
}

fn push_optional_quoted(line: &mut Vec<u8>, text: Option<&[u8]>) {
    line.extend_from_slice(b" \"");
    push_quoted(line, text.unwrap_or(b"-"));
    line.push(b'"');
}

/// One flat object; what is unknown is left out, so that a reader can tell it from empty.
fn push_json_line(line: &mut Vec<u8>, record: &AccessRecord<'_>, time: &mut TimeCache) {
    line.extend_from_slice(b"{\"time\":\"");
    time.push_rfc3339(line, record.time);
    line.extend_from_slice(b"\",\"remote\":\"");
    push_ip(line, record.remote);
    line.push(b'"');
    match &record.tcp {
        Some(connection) => {
            line.extend_from_slice(b",\"proto\":\"TCP\",\"listener\":\"");
            push_address(line, connection.listener);
            line.push(b'"');
            push_text(
                line,
                b",\"server_name\":",
                Some(record.host.as_bytes()).filter(|name| !name.is_empty()),
            );
        }
        None => {
            push_text(line, b",\"method\":", Some(record.method.as_bytes()));
            push_text(line, b",\"host\":", Some(record.host.as_bytes()));
            push_text(line, b",\"uri\":", Some(target_of(record).as_bytes()));
            push_text(line, b",\"proto\":", Some(version_text(record.version)));
        }
    }
    line.extend_from_slice(b",\"status\":");
    push_number(line, u64::from(record.status));
    if let Some(status) = record.grpc_status {
        line.extend_from_slice(b",\"grpc_status\":");
        push_number(line, u64::from(status));
    }
    if let Some(connection) = &record.tcp {
        line.extend_from_slice(b",\"end\":\"");
        line.extend_from_slice(connection.end.as_bytes());
        line.extend_from_slice(b"\",\"bytes_in\":");
        push_number(line, connection.bytes_in);
    }
    line.extend_from_slice(b",\"bytes_out\":");
    push_number(line, record.bytes_out);
    push_milliseconds(line, b",\"duration_ms\":", Some(record.duration));
    push_text(line, b",\"service\":", record.service.map(str::as_bytes));
    if let Some(instance) = record.instance {
        push_parts(
            line,
            b",\"instance\":",
            &[&instance.node, "/", &instance.id],
        );
    }
    if let Some(upstream) = record.upstream {
        line.extend_from_slice(b",\"upstream\":\"");
        push_address(line, upstream);
        line.push(b'"');
    }
    line.extend_from_slice(b",\"attempts\":");
    push_number(line, u64::from(record.attempts));
    push_milliseconds(line, b",\"upstream_ms\":", record.upstream_duration);
    if let Some(route) = record.route {
        push_parts(line, b",\"route\":", &[&route.host, &route.path]);
    }
    push_text(line, b",\"error\":", record.error.map(str::as_bytes));
    push_text(
        line,
        b",\"request_id\":",
        record.request_id.map(str::as_bytes),
    );
    push_text(line, b",\"user_agent\":", record.user_agent);
    push_text(line, b",\"referer\":", record.referer);
    push_text(line, b",\"tls\":", record.tls.map(str::as_bytes));
    line.push(b'}');
}

/// `key` brings its quotes, and what stands around it.
fn push_text(line: &mut Vec<u8>, key: &[u8], text: Option<&[u8]>) {
    if let Some(text) = text {
        line.extend_from_slice(key);
        push_json(line, text);
    }
}

/// One string of several parts, without joining them first.
fn push_parts(line: &mut Vec<u8>, key: &[u8], parts: &[&str]) {
    line.extend_from_slice(key);
    line.push(b'"');
    for part in parts {
        push_json_inner(line, part.as_bytes());
    }
    line.push(b'"');
}

/// Milliseconds with three decimals.
fn push_milliseconds(line: &mut Vec<u8>, key: &[u8], duration: Option<Duration>) {
    if let Some(duration) = duration {
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        line.extend_from_slice(key);
        push_number(line, microseconds / 1000);
        line.push(b'.');
        push_three(line, microseconds % 1000);
    }
}

fn push_number(line: &mut Vec<u8>, number: u64) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// As [`IpAddr`] shows itself. Most are of version 4, for which the general way of formatting is a
/// detour.
fn push_ip(line: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            let [first, rest @ ..] = ip.octets();
            push_number(line, u64::from(first));
            for octet in rest {
                line.push(b'.');
                push_number(line, u64::from(octet));
            }
        }
        // Writing to a Vec cannot fail.
        IpAddr::V6(ip) => drop(write!(line, "{ip}")),
    }
}

/// As [`SocketAddr`] shows itself.
fn push_address(line: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(address) => {
            push_ip(line, IpAddr::V4(*address.ip()));
            line.push(b':');
            push_number(line, u64::from(address.port()));
        }
        SocketAddr::V6(address) => drop(write!(line, "{address}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Version;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::catalog::InstanceId;
    use crate::catalog::tag::RouteKey;

    fn record<'a>() -> AccessRecord<'a> {
        AccessRecord {
            time: UNIX_EPOCH + Duration::from_millis(1_795_377_816_042),
            remote: IpAddr::from([192, 0, 2, 7]),
            method: "GET",
            host: "shop.example",
            uri: "/a?b=c",
            version: http::Version::HTTP_11,
            status: 200,
            bytes_out: 512,
            duration: Duration::from_micros(12_345),
            service: None,
            instance: None,
            upstream: None,
            attempts: 0,
            upstream_duration: None,
            route: None,
            error: None,
            request_id: None,
            user_agent: None,
            referer: None,
            tls: None,
            grpc_status: None,
            tcp: None,
            more: None,
        }
    }

    fn line(form: Form, record: &AccessRecord<'_>) -> String {
        let mut line = Vec::new();
        form.push(&mut line, record, &mut TimeCache::default());
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn common_and_combined_read_as_apache_writes_them() {
        let common = r#"192.0.2.7 - - [22/Nov/2026:20:03:36 +0000] "GET /a?b=c HTTP/1.1" 200 512"#;
        assert_eq!(line(Form::Common, &record()), format!("{common}\n"));
        assert_eq!(
            line(Form::Combined, &record()),
            format!("{common} \"-\" \"-\"\n")
        );
        let named = AccessRecord {
            user_agent: Some(b"curl/8"),
            referer: Some(b"http://x/"),
            ..record()
        };
        assert_eq!(
            line(Form::Combined, &named),
            format!("{common} \"http://x/\" \"curl/8\"\n")
        );
    }

    #[test]
    fn json_holds_every_field_that_is_known() {
        let instance = InstanceId {
            node: Arc::from("n1"),
            id: Arc::from("web-1"),
        };
        let route = RouteKey {
            host: "shop.example".to_owned(),
            path: "/a".to_owned(),
        };
        let full = AccessRecord {
            version: http::Version::HTTP_2,
            service: Some("web"),
            instance: Some(&instance),
            upstream: Some("[::1]:80".parse().unwrap()),
            attempts: 2,
            upstream_duration: Some(Duration::from_micros(1)),
            route: Some(&route),
            error: Some("timeout"),
            request_id: Some("id"),
            user_agent: Some(b"curl"),
            referer: Some(b"ref"),
            tls: Some("TLSv1.3"),
            grpc_status: Some(14),
            ..record()
        };
        let parsed: serde_json::Value = serde_json::from_str(&line(Form::Json, &full)).unwrap();
        let expected = serde_json::json!({
            "time": "2026-11-22T20:03:36.042Z", "remote": "192.0.2.7", "method": "GET", "host": "shop.example",
            "uri": "/a?b=c", "proto": "HTTP/2.0", "status": 200, "grpc_status": 14, "bytes_out": 512, "duration_ms": 12.345,
            "service": "web", "instance": "n1/web-1", "upstream": "[::1]:80", "attempts": 2, "upstream_ms": 0.001,
            "route": "shop.example/a", "error": "timeout", "request_id": "id", "user_agent": "curl",
            "referer": "ref", "tls": "TLSv1.3",
        });
        assert_eq!(parsed, expected);
    }

    #[test]
    fn a_connection_has_its_line_in_every_form() {
        let instance = InstanceId {
            node: Arc::from("n1"),
            id: Arc::from("db-1"),
        };
        let connection = Connection {
            listener: "127.0.0.1:5432".parse().unwrap(),
            bytes_in: 10,
            end: "client_closed",
        };
        let ended = AccessRecord {
            method: "TCP",
            host: "db.test",
            uri: "127.0.0.1:5432",
            service: Some("db"),
            instance: Some(&instance),
            upstream: Some("10.0.0.1:1".parse().unwrap()),
            attempts: 1,
            tcp: Some(connection),
            ..record()
        };
        let wanted = "192.0.2.7 - - [22/Nov/2026:20:03:36 +0000] \"TCP 127.0.0.1:5432 sni=db.test service=db \
                      instance=n1/db-1 upstream=10.0.0.1:1 in=10 ms=12.345 end=client_closed\" 200 512";
        assert_eq!(line(Form::Common, &ended), format!("{wanted}\n"));
        assert_eq!(
            line(Form::Combined, &ended),
            format!("{wanted} \"-\" \"-\"\n")
        );
        let parsed: serde_json::Value = serde_json::from_str(&line(Form::Json, &ended)).unwrap();
        let expected = serde_json::json!({
            "time": "2026-11-22T20:03:36.042Z", "remote": "192.0.2.7", "proto": "TCP", "listener": "127.0.0.1:5432",
            "server_name": "db.test", "status": 200, "end": "client_closed", "bytes_in": 10, "bytes_out": 512,
            "duration_ms": 12.345, "service": "db", "instance": "n1/db-1", "upstream": "10.0.0.1:1", "attempts": 1,
        });
        assert_eq!(parsed, expected);
        let nowhere = AccessRecord {
            host: "",
            service: None,
            instance: None,
            upstream: None,
            ..ended
        };
        let text = line(Form::Common, &nowhere);
        assert!(
            text.contains(" sni=- service=- instance=- upstream=- in=10 "),
            "{text}"
        );
    }

    #[test]
    fn numbers_and_addresses_read_as_ever() {
        let mut line = Vec::new();
        for address in [
            "0.0.0.0:0",
            "10.255.100.9:65535",
            "[2001:db8::1]:80",
            "[fe80::1%3]:1",
        ] {
            line.clear();
            let address: SocketAddr = address.parse().unwrap();
            push_address(&mut line, address);
            push_ip(&mut line, address.ip());
            assert_eq!(
                String::from_utf8_lossy(&line),
                format!("{address}{}", address.ip())
            );
        }
        for (microseconds, text) in [
            (0, "0.000"),
            (7, "0.007"),
            (42_000, "42.000"),
            (1_234_567, "1234.567"),
        ] {
            line.clear();
            push_milliseconds(&mut line, b"", Some(Duration::from_micros(microseconds)));
            assert_eq!(String::from_utf8_lossy(&line), text);
        }
        for version in [
            Version::HTTP_09,
            Version::HTTP_10,
            Version::HTTP_11,
            Version::HTTP_2,
            Version::HTTP_3,
        ] {
            assert_eq!(
                String::from_utf8_lossy(version_text(version)),
                format!("{version:?}")
            );
        }
    }

    #[test]
    fn the_target_of_connect_is_the_host() {
        let connect = AccessRecord {
            method: "CONNECT",
            host: "db.example:443",
            uri: "",
            ..record()
        };
        assert!(line(Form::Common, &connect).contains("\"CONNECT db.example:443 HTTP/1.1\""));
        let parsed: serde_json::Value = serde_json::from_str(&line(Form::Json, &connect)).unwrap();
        assert_eq!(parsed["uri"], "db.example:443");
    }

    #[test]
    fn what_is_unknown_is_left_out_of_json() {
        let parsed: serde_json::Value = serde_json::from_str(&line(Form::Json, &record())).unwrap();
        for key in [
            "service",
            "instance",
            "upstream",
            "upstream_ms",
            "route",
            "error",
            "request_id",
            "tls",
        ] {
            assert!(parsed.get(key).is_none(), "{key}");
        }
    }

    #[test]
    fn a_client_cannot_forge_a_line_or_a_field() {
        let attack = "x\" 200 0\n10.0.0.1 - - [now] \"GET /admin HTTP/1.1";
        let json_attack = "\",\"status\":999,\"x\":\"\n{";
        let instance = InstanceId {
            node: Arc::from("n\"1"),
            id: Arc::from("\n"),
        };
        let record = AccessRecord {
            uri: attack,
            host: json_attack,
            user_agent: Some(attack.as_bytes()),
            referer: Some(b"\xff\"\r\n"),
            instance: Some(&instance),
            ..record()
        };
        for form in [Form::Common, Form::Combined, Form::Json] {
            let line = line(form, &record);
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert!(line.ends_with('\n'));
        }
        assert_eq!(
            line(Form::Common, &record)
                .replace("\\\"", "")
                .matches('"')
                .count(),
            2
        );
        let parsed: serde_json::Value = serde_json::from_str(&line(Form::Json, &record)).unwrap();
        assert_eq!(parsed["status"], 200);
        assert_eq!(parsed["host"], json_attack);
        assert_eq!(parsed["user_agent"], attack);
        assert_eq!(parsed["instance"], "n\"1/\n");
    }
}
