//! `[log]`: the log of the program, and the access log.

use std::sync::Arc;

use serde_json::{Value, json};

use super::access_format::AccessFormat;
use super::declare::{Checked, section};
use super::error::nearest;
use super::key::Kind;
use super::level;
use super::reader::Reader;
use super::typed::Typed;
use super::value::{Problem, SettingValue};
use super::words::words;

section! {
    /// The program's log goes to standard error, the access log to standard output.
    pub struct LogConfig is Once "log" {
        /// error, warn, info, debug or trace; per module as in "info,lb::sources=debug".
        level: String = "info";

        /// json: one object a line. text: for people. auto: text when standard error is a terminal.
        wanted_format as "format": WantedFormat = "auto" [restart];

        /// Form of the access log: off, common, combined, json, or a text with fields:
        /// $remote_addr, $remote_host, $remote_port, $request, $request_args, $request_host,
        /// $request_method, $request_proto, $request_scheme, $request_uri, $request_url,
        /// $response_body_size, $response_status, $response_time_ms, $response_time_us,
        /// $response_time_ns (seconds with 3, 6 or 9 decimals), $time_common, $time_rfc3339,
        /// $time_rfc3339_ms, $time_rfc3339_us, $time_rfc3339_ns, $time_unix_ms, $time_unix_us,
        /// $time_unix_ns, $upstream_addr, $upstream_host, $upstream_port, $upstream_request_scheme,
        /// $upstream_request_uri, $upstream_request_url, $upstream_service, $grpc_status, of TCP
        /// connections $listener_addr, $request_body_size, $connection_end, and $header.NAME for a
        /// header field of the request, as the instance got it (X-Forwarded-For: as it came in).
        access: AccessLog = "off" [restart];

        /// Whether TCP connections have a line there too, when they end: client, listener, service,
        /// instance, bytes, duration, and how it ended.
        access_tcp: bool = "true" [restart];
    } and {
        /// The form, settled.
        format: LogFormat;
    }
}

words! {
    /// Form of the program log, as written.
    pub enum WantedFormat {
        /// Text on a terminal, else JSON.
        Auto = "auto",
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

/// Form of the program log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people, on a terminal.
    Text,
    /// One JSON object a line.
    #[default]
    Json,
}

/// Access log format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    #[default]
    Off,
    /// Apache's common format.
    Common,
    /// Apache's combined format.
    Combined,
    /// One JSON object a line.
    Json,
    /// A form of one's own.
    Custom(Arc<AccessFormat>),
}

/// Those that have a name.
const ACCESS_LOGS: [(&str, AccessLog); 4] = [
    ("off", AccessLog::Off),
    ("common", AccessLog::Common),
    ("combined", AccessLog::Combined),
    ("json", AccessLog::Json),
];

impl SettingValue for AccessLog {
    const KIND: Kind = Kind::Text;

    fn from_typed(value: Typed) -> Result<Self, Problem> {
        let Typed::Text(text) = value else {
            return Ok(Self::Off);
        };
        if let Some((_, log)) = ACCESS_LOGS.into_iter().find(|(name, _)| *name == text) {
            return Ok(log);
        }
        match AccessFormat::parse(&text) {
            Ok(format) => Ok(Self::Custom(format.into())),
            Err(error) => {
                let near = nearest(&text, ACCESS_LOGS.map(|(name, _)| name));
                Err(Problem {
                    problem: error.to_string(),
                    advice: near
                        .map_or_else(|| error.advice(), |near| format!("did you mean {near}?")),
                })
            }
        }
    }

    fn unset() -> Self {
        Self::Off
    }

    fn show(&self) -> Value {
        let named = ACCESS_LOGS.into_iter().find(|(_, log)| log == self);
        match (self, named) {
            (Self::Custom(format), _) => json!(format.as_str()),
            (_, named) => json!(named.map(|(name, _)| name)),
        }
    }
}

impl Checked for LogConfig {
    fn check(&mut self, reader: &mut Reader<'_>) {
        if self.level.is_empty() {
            self.level = "info".to_owned();
        }
        if let Some((problem, advice)) = level::problem(&self.level) {
            reader.wrong("level", &problem, &advice);
        }
        (self.format, self.wanted_format) = match self.wanted_format {
            WantedFormat::Auto if reader.context.terminal => (LogFormat::Text, WantedFormat::Text),
            WantedFormat::Text => (LogFormat::Text, WantedFormat::Text),
            WantedFormat::Auto | WantedFormat::Json => (LogFormat::Json, WantedFormat::Json),
        };
    }
}
