//! A line of the access log in a custom format.
//!
//! Fields and their texts are those of Fabio's `log.access.format`; what is not known is empty
//! there, too. Values are escaped as in the other forms, so that none of them can end a line.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;

use super::escape::push_quoted;
use super::record::{AccessRecord, target_of, version_text};
use super::time::TimeCache;
use crate::config::{AccessField, AccessFormat, AccessItem};

/// Appends the line, without its end. Writing to a Vec cannot fail, here and below.
pub(super) fn push(
    line: &mut Vec<u8>,
    format: &AccessFormat,
    record: &AccessRecord<'_>,
    time: &mut TimeCache,
) {
    for item in format.items() {
        match item {
            AccessItem::Text(text) => line.extend_from_slice(text.as_bytes()),
            AccessItem::Header(at) => {
                let value = record
                    .more
                    .as_ref()
                    .and_then(|more| more.headers.get(*at)?.as_ref());
                push_quoted(line, value.map_or(b"", HeaderValue::as_bytes));
            }
            AccessItem::Field(field) => push_field(line, *field, record, time),
        }
    }
}

fn push_field(
    line: &mut Vec<u8>,
    field: AccessField,
    record: &AccessRecord<'_>,
    time: &mut TimeCache,
) {
    use AccessField as F;
    match field {
        F::RemoteAddr
        | F::RemoteHost
        | F::RemotePort
        | F::UpstreamAddr
        | F::UpstreamHost
        | F::UpstreamPort => {
            push_address(line, field, record);
        }
        F::Request
        | F::RequestArgs
        | F::RequestHost
        | F::RequestMethod
        | F::RequestProto
        | F::RequestScheme
        | F::RequestUri
        | F::RequestUrl => push_request(line, field, record),
        F::UpstreamRequestScheme
        | F::UpstreamRequestUri
        | F::UpstreamRequestUrl
        | F::UpstreamService => {
            push_upstream(line, field, record);
        }
        F::ListenerAddr | F::RequestBodySize | F::ConnectionEnd => {
            push_connection(line, field, record)
        }
        F::GrpcStatus => record
            .grpc_status
            .into_iter()
            .for_each(|status| push_display(line, status)),
        F::ResponseBodySize => push_display(line, record.bytes_out),
        F::ResponseStatus => push_display(line, record.status),
        F::ResponseTimeMs => push_seconds(line, record.duration, 3),
        F::ResponseTimeUs => push_seconds(line, record.duration, 6),
        F::ResponseTimeNs => push_seconds(line, record.duration, 9),
        F::TimeCommon => time.push_common(line, record.time),
        F::TimeRfc3339 => time.push_rfc3339_with(line, record.time, 0),
        F::TimeRfc3339Ms => time.push_rfc3339_with(line, record.time, 3),
        F::TimeRfc3339Us => time.push_rfc3339_with(line, record.time, 6),
        F::TimeRfc3339Ns => time.push_rfc3339_with(line, record.time, 9),
        F::TimeUnixMs => push_display(line, since_1970(record).as_millis()),
        F::TimeUnixUs => push_display(line, since_1970(record).as_micros()),
        F::TimeUnixNs => push_display(line, since_1970(record).as_nanos()),
    }
}

/// Empty for a request.
fn push_connection(line: &mut Vec<u8>, field: AccessField, record: &AccessRecord<'_>) {
    let Some(connection) = &record.tcp else {
        return;
    };
    match field {
        AccessField::ListenerAddr => push_display(line, connection.listener),
        AccessField::RequestBodySize => push_display(line, connection.bytes_in),
        _ => push_display(line, connection.end),
    }
}

/// Addresses of IPv6 stand in brackets, also without a port.
fn push_address(line: &mut Vec<u8>, field: AccessField, record: &AccessRecord<'_>) {
    use AccessField as F;
    let remote = SocketAddr::new(
        record.remote,
        record.more.map_or(0, |more| more.remote_port),
    );
    let of_client = matches!(field, F::RemoteAddr | F::RemoteHost | F::RemotePort);
    let Some(address) = (if of_client {
        Some(remote)
    } else {
        record.upstream
    }) else {
        return;
    };
    match (field, address.ip()) {
        (F::RemoteAddr | F::UpstreamAddr, _) => push_display(line, address),
        (F::RemotePort | F::UpstreamPort, _) => push_display(line, address.port()),
        (_, IpAddr::V4(ip)) => push_display(line, ip),
        (_, IpAddr::V6(ip)) => push_display(line, format_args!("[{ip}]")),
    }
}

fn push_request(line: &mut Vec<u8>, field: AccessField, record: &AccessRecord<'_>) {
    use AccessField as F;
    let uri = target_of(record);
    let scheme = record.more.map_or("", |more| more.scheme);
    match field {
        F::Request => {
            push_quoted(line, record.method.as_bytes());
            line.push(b' ');
            push_quoted(line, uri.as_bytes());
            line.push(b' ');
            line.extend_from_slice(proto(record));
        }
        F::RequestArgs => push_quoted(line, uri.split_once('?').unwrap_or_default().1.as_bytes()),
        F::RequestHost => {
            let sent = record
                .more
                .map(|more| more.host_sent)
                .filter(|host| !host.is_empty());
            push_quoted(line, sent.unwrap_or(record.host).as_bytes());
        }
        F::RequestMethod => push_quoted(line, record.method.as_bytes()),
        F::RequestProto => line.extend_from_slice(proto(record)),
        F::RequestScheme => push_quoted(line, scheme.as_bytes()),
        F::RequestUri => push_quoted(line, uri.as_bytes()),
        _ if record.tcp.is_some() => push_url(line, scheme, "", uri),
        _ => push_url(line, scheme, record.host, uri),
    }
}

fn proto(record: &AccessRecord<'_>) -> &'static [u8] {
    if record.tcp.is_some() {
        b"TCP"
    } else {
        version_text(record.version)
    }
}

fn push_upstream(line: &mut Vec<u8>, field: AccessField, record: &AccessRecord<'_>) {
    use AccessField as F;
    let (scheme, uri) = record
        .more
        .map(|more| (more.upstream_scheme, more.upstream_uri))
        .unwrap_or_default();
    match (field, record.upstream) {
        (F::UpstreamService, _) => push_quoted(line, record.service.unwrap_or_default().as_bytes()),
        (_, None) => {}
        (F::UpstreamRequestScheme, _) => push_quoted(line, scheme.as_bytes()),
        (F::UpstreamRequestUri, _) => push_quoted(line, uri.as_bytes()),
        (_, Some(address)) => push_url(line, scheme, &address.to_string(), uri),
    }
}

fn push_url(line: &mut Vec<u8>, scheme: &str, host: &str, uri: &str) {
    push_quoted(line, scheme.as_bytes());
    line.extend_from_slice(b"://");
    push_quoted(line, host.as_bytes());
    push_quoted(line, uri.as_bytes());
}

/// Seconds with this many decimals; what does not fit is cut off.
fn push_seconds(line: &mut Vec<u8>, duration: Duration, decimals: usize) {
    let nanoseconds = format!("{:09}", duration.subsec_nanos());
    push_display(
        line,
        format_args!("{}.{}", duration.as_secs(), &nanoseconds[..decimals]),
    );
}

fn since_1970(record: &AccessRecord<'_>) -> Duration {
    record.time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn push_display(line: &mut Vec<u8>, value: impl std::fmt::Display) {
    let _ = write!(line, "{value}");
}

#[cfg(test)]
mod tests {
    use super::super::record::{Connection, More};
    use super::*;
    use crate::config::ACCESS_FIELDS;

    fn record<'a>(headers: &'a [Option<HeaderValue>]) -> AccessRecord<'a> {
        AccessRecord {
            time: UNIX_EPOCH + Duration::new(1_795_377_816, 42_007_009),
            remote: "::1".parse().unwrap(),
            method: "GET",
            host: "shop.example",
            uri: "/a?b=c",
            version: http::Version::HTTP_11,
            status: 200,
            bytes_out: 512,
            duration: Duration::new(1, 2_003_004),
            service: Some("web"),
            instance: None,
            upstream: Some("[::2]:80".parse().unwrap()),
            attempts: 1,
            upstream_duration: None,
            route: None,
            error: None,
            request_id: None,
            user_agent: None,
            referer: None,
            tls: None,
            grpc_status: Some(14),
            tcp: None,
            more: Some(More {
                remote_port: 99,
                headers,
                scheme: "https",
                host_sent: "other.example",
                upstream_scheme: "http",
                upstream_uri: "/v1/a?b=c",
            }),
        }
    }

    fn line(text: &str, record: &AccessRecord<'_>) -> String {
        let mut line = Vec::new();
        push(
            &mut line,
            &AccessFormat::parse(text).unwrap(),
            record,
            &mut TimeCache::default(),
        );
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn every_field_has_its_text() {
        let wanted = [
            ("remote_addr", "[::1]:99"),
            ("remote_host", "[::1]"),
            ("remote_port", "99"),
            ("request", "GET /a?b=c HTTP/1.1"),
            ("request_args", "b=c"),
            ("request_host", "other.example"),
            ("request_method", "GET"),
            ("request_proto", "HTTP/1.1"),
            ("request_scheme", "https"),
            ("request_uri", "/a?b=c"),
            ("request_url", "https://shop.example/a?b=c"),
            ("response_body_size", "512"),
            ("response_status", "200"),
            ("response_time_ms", "1.002"),
            ("response_time_us", "1.002003"),
            ("response_time_ns", "1.002003004"),
            ("time_common", "22/Nov/2026:20:03:36 +0000"),
            ("time_rfc3339", "2026-11-22T20:03:36Z"),
            ("time_rfc3339_ms", "2026-11-22T20:03:36.042Z"),
            ("time_rfc3339_us", "2026-11-22T20:03:36.042007Z"),
            ("time_rfc3339_ns", "2026-11-22T20:03:36.042007009Z"),
            ("time_unix_ms", "1795377816042"),
            ("time_unix_us", "1795377816042007"),
            ("time_unix_ns", "1795377816042007009"),
            ("upstream_addr", "[::2]:80"),
            ("upstream_host", "[::2]"),
            ("upstream_port", "80"),
            ("upstream_request_scheme", "http"),
            ("upstream_request_uri", "/v1/a?b=c"),
            ("upstream_request_url", "http://[::2]:80/v1/a?b=c"),
            ("upstream_service", "web"),
            ("grpc_status", "14"),
            ("listener_addr", ""),
            ("request_body_size", ""),
            ("connection_end", ""),
        ];
        assert_eq!(
            wanted.map(|(name, _)| name).as_slice(),
            ACCESS_FIELDS.iter().map(|it| it.0).collect::<Vec<_>>()
        );
        for (name, text) in wanted {
            assert_eq!(line(&format!("${name}"), &record(&[])), text, "{name}");
        }
    }

    #[test]
    fn a_connection_is_told_in_the_fields_of_requests_and_its_own() {
        let tcp = Some(Connection {
            listener: "127.0.0.1:5432".parse().unwrap(),
            bytes_in: 10,
            end: "idle_timeout",
        });
        let more = More {
            remote_port: 99,
            headers: &[],
            scheme: "tcp",
            host_sent: "",
            upstream_scheme: "tcp",
            upstream_uri: "",
        };
        let record = AccessRecord {
            method: "TCP",
            host: "db.test",
            uri: "127.0.0.1:5432",
            grpc_status: None,
            tcp,
            more: Some(more),
            ..record(&[])
        };
        for (text, wanted) in [
            ("$request", "TCP 127.0.0.1:5432 TCP"),
            ("$request_url", "tcp://127.0.0.1:5432"),
            ("$request_host", "db.test"),
            (
                "$listener_addr $request_body_size $response_body_size",
                "127.0.0.1:5432 10 512",
            ),
            ("$connection_end$grpc_status$header.x", "idle_timeout"),
            ("$upstream_request_url", "tcp://[::2]:80"),
        ] {
            assert_eq!(line(text, &record), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_empty() {
        let unknown = AccessRecord {
            service: None,
            upstream: None,
            more: None,
            ..record(&[])
        };
        let text = "$upstream_addr$upstream_host$upstream_port$upstream_request_url$upstream_service$header.x";
        assert_eq!(line(text, &unknown), "");
        assert_eq!(line("$request_host", &unknown), "shop.example");
    }

    #[test]
    fn headers_are_told_and_can_forge_nothing() {
        let headers = [Some(HeaderValue::from_bytes(b"a\"\\\xff\t").unwrap()), None];
        let told = line("<$header.a><$header.b><$header.A>", &record(&headers));
        assert_eq!(told, "<a\\\"\\\\\\xff\\t><><a\\\"\\\\\\xff\\t>");
    }
}
