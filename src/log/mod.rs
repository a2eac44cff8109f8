//! The program's own log (standard error), and the access log (standard output, in [`access`]).
//!
//! [`init`] is called once by a command that serves, before it logs anything; the handle it returns
//! changes the level later, without a restart. Neither log ever holds up the thread that logs: each
//! has a thread of its own that waits for the reader.

pub mod access;
mod custom;
mod escape;
mod format;
mod program;
mod queue;
mod record;
mod sink;
mod thread;
mod time;
mod writer;

use std::io::IsTerminal as _;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, reload};

pub use access::{AccessLogger, AccessLoggers};
pub use program::{FlushAtEnd, dropped, flush, init, say};
pub use record::{AccessRecord, Connection, More};
pub use writer::AccessLogWriter;

use crate::config::{LogConfig, LogFormat};

/// Libraries that warn of what a stranger sends: any client could fill the log. Named in
/// `log.level` (`h2=debug`), they say what they have to say.
const QUIET: [&str; 2] = ["h2", "rustls"];

/// Why the log could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error(
        "log.level `{level}`: {source}; write a level (`info`) or directives (`info,lb::sources=debug`)"
    )]
    Level {
        /// The filter as given.
        level: String,
        /// What the parser says.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Another subscriber is in place already.
    #[error("the log is set up already: {0}")]
    AlreadySet(#[from] tracing_subscriber::util::TryInitError),
    /// Its thread or its descriptor cannot be had.
    #[error("cannot start the log: {0}")]
    Start(#[from] std::io::Error),
    /// The subscriber is gone.
    #[error("the log level cannot be changed any more: {0}")]
    Gone(#[from] reload::Error),
}

/// Changes the level of a running log.
#[derive(Clone, Debug)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogHandle {
    /// Replaces the filter; the old one stays in force when `level` is not one.
    ///
    /// # Errors
    /// When `level` is not a filter, or the subscriber is gone.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        Ok(self.filter.reload(filter(level)?)?)
    }
}

fn subscriber<W>(
    config: &LogConfig,
    writer: W,
    colour: bool,
) -> Result<(impl Subscriber, LogHandle), LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(&config.level)?);
    // The library would report its own errors to standard error, and wait for its reader.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .log_internal_errors(false);
    let lines = match config.format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .boxed(),
        LogFormat::Text => lines.with_ansi(colour).boxed(),
    };
    Ok((
        tracing_subscriber::registry().with(lines.with_filter(filter)),
        LogHandle { filter: handle },
    ))
}

/// Whether a level would be accepted: for `lb check`.
///
/// # Errors
/// When it would not.
pub fn check_level(level: &str) -> Result<(), LogError> {
    filter(level).map(drop)
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    // What the module was called: filters that name it go on working.
    let present = level.replace("lb::registry", "lb::sources");
    let mut filter = EnvFilter::builder()
        .parse(present)
        .map_err(|source| LogError::Level {
            level: level.to_owned(),
            source,
        })?;
    for library in QUIET {
        if !level.contains(library) {
            let directive = format!("{library}=error");
            filter = filter.add_directive(directive.parse().map_err(|source| LogError::Level {
                level: directive.clone(),
                source,
            })?);
        }
    }
    Ok(filter)
}

/// Colour only for people (<https://no-color.org>: set and not empty means none).
fn colour_wanted() -> bool {
    std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::config::AccessLog;

    #[derive(Clone, Default)]
    struct SharedBuffer(Arc<Mutex<Vec<u8>>>);

    impl Write for SharedBuffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is written while `log` runs.
    fn written(format: LogFormat, log: impl FnOnce(&LogHandle)) -> String {
        let config = LogConfig {
            level: "info".to_owned(),
            format,
            access: AccessLog::Off,
            ..LogConfig::default()
        };
        let sink = SharedBuffer::default();
        let to_sink = sink.clone();
        let (subscriber, handle) = subscriber(&config, move || to_sink.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, || log(&handle));
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_are_flat_and_whole_whatever_they_hold() {
        let text = written(LogFormat::Json, |_| {
            tracing::warn!(service = "a\"b\n{", "not\nthere")
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&line["level"], &line["message"]),
            (&"WARN".into(), &"not\nthere".into())
        );
        assert_eq!(line["service"], "a\"b\n{");
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn text_lines_have_no_colour_unless_wanted() {
        let text = written(LogFormat::Text, |_| tracing::info!(port = 1, "listening"));
        assert!(
            text.contains("INFO") && text.contains("listening port=1") && !text.contains('\u{1b}'),
            "{text}"
        );
    }

    #[test]
    fn the_level_follows_a_reload_and_a_bad_one_changes_nothing() {
        let text = written(LogFormat::Text, |handle| {
            tracing::debug!("one");
            handle.set_level("debug").unwrap();
            tracing::debug!("two");
            handle.set_level("lb=loud").unwrap_err();
            tracing::debug!("three");
        });
        assert!(
            !text.contains("one") && text.contains("two") && text.contains("three"),
            "{text}"
        );
    }

    #[test]
    fn strangers_cannot_make_libraries_fill_the_log_unless_it_is_configured() {
        let chatter = || tracing::warn!(target: "h2::proto", "recv PING ack that we never sent");
        for (level, heard) in [("info", false), ("debug", false), ("info,h2=warn", true)] {
            let text = written(LogFormat::Text, |handle| {
                handle.set_level(level).unwrap();
                chatter();
            });
            assert_eq!(text.contains("PING"), heard, "{level}");
        }
    }

    #[test]
    fn levels_and_directives_are_accepted_and_nonsense_is_named() {
        for level in ["info", "warn", "info,lb::sources=debug", "off"] {
            check_level(level).unwrap();
        }
        let error = check_level("info,lb=loud").unwrap_err().to_string();
        assert_eq!(
            filter("warn,lb::registry::consul=debug")
                .unwrap()
                .to_string(),
            filter("warn,lb::sources::consul=debug")
                .unwrap()
                .to_string(),
            "under its name of old"
        );
        assert!(
            error.contains("`info,lb=loud`") && error.contains("log.level"),
            "{error}"
        );
    }
}
