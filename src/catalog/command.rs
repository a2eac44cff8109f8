//! The route command language: `route add`, `route del`, `route weight`.
//!
//! One command a line, read from the routes file and from `[[static.route]]`. A line that cannot be
//! understood is skipped and reported; the others are kept. What commands do to the table is
//! decided by `table`.

use std::fmt;
use std::sync::Arc;

use super::command_line::{self, Line};
use super::destination::Destination;
use super::option_text::{self, Context, ParsedOptions};
use super::options::Proto;
use super::static_route::StaticRoute;
use super::tag::{RouteKey, RouteSpec};
use super::{Endpoint, ServiceName};

/// A command of the language, parsed.
#[expect(
    clippy::large_enum_variant,
    reason = "lists of commands are nearly all additions"
)]
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Adds a target.
    Add(AddRoute),
    /// Removes targets; every part that is given must match.
    Del {
        /// Of this service.
        service: Option<ServiceName>,
        /// On this route only.
        key: Option<RouteKey>,
        /// With this URL only, compared as text after parsing.
        url: Option<Arc<str>>,
        /// That carry all these tags.
        tags: Vec<Arc<str>>,
    },
    /// Splits a fixed share evenly over the targets that match.
    Weight {
        /// Of this service, or of all.
        service: Option<ServiceName>,
        /// On this route.
        key: RouteKey,
        /// Share to split; 0: the targets have no fixed share any more.
        weight: f64,
        /// That carry all these tags.
        tags: Vec<Arc<str>>,
    },
}

/// `route add SERVICE SRC URL …`, or one `[[static.route]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AddRoute {
    /// Service the target counts for.
    pub service: ServiceName,
    /// Place and options.
    pub spec: RouteSpec,
    /// Destination as written.
    pub url: Arc<str>,
    /// Where the target listens (never resolved yet when the URL holds a name). A redirect has no
    /// target: its endpoint is `0.0.0.0:0`, never dialled.
    pub endpoint: Endpoint,
    /// Query of the URL, put before the request's own.
    pub query: Option<Arc<str>>,
    /// The endpoint's name is an SRV name (`srv+http://NAME`): DNS gives address, port and weight;
    /// its port is 0.
    pub srv: bool,
    /// Plain tags.
    pub tags: Vec<Arc<str>>,
}

/// A line that could not be understood, wholly or in part; the others are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandError {
    /// Which part of a source that has several: a key of the KV store, an entry of a list.
    pub part: Option<Arc<str>>,
    /// Line number, from 1; 0 where there are no lines. For a static route: number of the target
    /// URL, 0 for what concerns all of them.
    pub line: usize,
    /// The line as written.
    pub text: String,
    /// Why, and what would be right.
    pub reason: String,
}

/// How the reason ends where the line's command counts all the same.
const LINE_KEPT: &str = " (line kept)";

impl CommandError {
    /// Whether it is about a part of a line whose command counts all the same.
    #[must_use]
    pub fn is_remark(&self) -> bool {
        self.reason.ends_with(LINE_KEPT)
    }

    /// An error in a line of a text that is one whole.
    pub(super) fn at(line: usize, text: String, reason: String) -> Self {
        Self {
            part: None,
            line,
            text,
            reason,
        }
    }

    /// Where it stands, in words: `line 3`, or with the part before it.
    #[must_use]
    pub fn place(&self) -> String {
        match (&self.part, self.line) {
            (None, line) => format!("line {line}"),
            (Some(part), 0) => part.to_string(),
            (Some(part), line) => format!("{part}, line {line}"),
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} in `{}`", self.place(), self.reason, self.text)
    }
}

/// Parses commands, one a line. Blank lines and lines that start with `#` or `//` are ignored.
///
/// An error whose reason ends in `(line kept)` is about a part of a line that has no effect, or
/// about an access rule that refuses every client because it cannot be read; the line's command is
/// among the commands all the same.
#[must_use]
pub fn parse_commands(text: &str) -> (Vec<Command>, Vec<CommandError>) {
    let (mut commands, mut errors) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().map(str::trim).enumerate() {
        let (parsed, reasons) = parse_line(line);
        commands.extend(parsed);
        errors.extend(
            reasons
                .into_iter()
                .map(|reason| CommandError::at(index + 1, line.to_owned(), reason)),
        );
    }
    (commands, errors)
}

/// What one trimmed line says: commands, and why it makes none or what of it has no effect. Most
/// lines make one command; comments and blank lines make neither.
pub(super) fn parse_line(line: &str) -> (Vec<Command>, Vec<String>) {
    if line.is_empty() || line.starts_with('#') || line.starts_with("//") {
        return (Vec::new(), Vec::new());
    }
    match command_line::parse(line).and_then(interpret) {
        Ok((commands, remarks)) => (
            commands,
            remarks
                .into_iter()
                .map(|remark| format!("{remark}{LINE_KEPT}"))
                .collect(),
        ),
        Err(reason) => (Vec::new(), vec![reason]),
    }
}

/// The commands of one `[[static.route]]`: one per target URL.
///
/// # Errors
/// Everything that is wrong with it, unknown options and unreadable access rules included: a static
/// route is configuration, and there every mistake is refused.
pub fn from_static(route: &StaticRoute) -> Result<Vec<Command>, Vec<CommandError>> {
    let (mut commands, mut errors) = (Vec::new(), Vec::new());
    let mut report = |line, text: &str, reason| {
        errors.push(CommandError {
            part: None,
            line,
            text: text.to_owned(),
            reason,
        })
    };
    if !is_service_name(&route.service) {
        report(
            0,
            &route.service,
            "service name is empty or holds a blank or quote".to_owned(),
        );
    }
    if route.targets.is_empty() {
        report(0, &route.source, "no target URL is given".to_owned());
    }
    for (index, url) in route.targets.iter().enumerate() {
        match add(
            &route.service,
            &route.source,
            url,
            None,
            Vec::new(),
            &route.options,
        ) {
            Ok((command, remarks)) => {
                commands.push(Command::Add(command));
                // The same options go with every target: once is enough.
                if index == 0 {
                    remarks
                        .into_iter()
                        .for_each(|remark| report(0, &route.options, remark));
                }
            }
            Err(reason) => report(index + 1, url, reason),
        }
    }
    if errors.is_empty() {
        Ok(commands)
    } else {
        Err(errors)
    }
}

/// Whether a command may name such a service.
pub(super) fn is_service_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '"')
}

/// Gives a well-formed line its meaning; also returns remarks on parts without effect.
pub(super) fn interpret(line: Line<'_>) -> Result<(Vec<Command>, Vec<String>), String> {
    match line {
        Line::Add {
            service,
            source,
            url,
            weight,
            tags,
            opts,
        } => {
            let (command, remarks) = add(service, source, url, weight, split_tags(tags), opts)?;
            Ok((vec![Command::Add(command)], remarks))
        }
        Line::Del {
            service,
            source,
            url,
            tags,
        } => {
            let url = url
                .map(Destination::parse)
                .transpose()?
                .map(|destination| destination.text);
            let del = |key| Command::Del {
                service: service.map(Into::into),
                key,
                url: url.clone(),
                tags: split_tags(tags),
            };
            let Some(source) = source else {
                return Ok((vec![del(None)], Vec::new()));
            };
            Ok((
                keys(source)?
                    .into_iter()
                    .map(|key| del(Some(key)))
                    .collect(),
                Vec::new(),
            ))
        }
        Line::Weight {
            service,
            source,
            weight,
            tags,
        } => {
            let weight = option_text::weight(weight)
                .map_err(|error| error.to_string())?
                .unwrap_or(0.0);
            let set = |key| Command::Weight {
                service: service.map(Into::into),
                key,
                weight,
                tags: split_tags(tags),
            };
            Ok((keys(source)?.into_iter().map(set).collect(), Vec::new()))
        }
    }
}

/// The places that `source` may mean where no protocol is named: `10.0.0.1:80` is a TCP place and
/// an HTTP host.
fn keys(source: &str) -> Result<Vec<RouteKey>, String> {
    let plain = RouteKey::parse(source, false).map_err(|error| error.to_string())?;
    let tcp = RouteKey::parse(source, true).map_err(|error| error.to_string())?;
    Ok(if plain == tcp {
        vec![plain]
    } else {
        vec![plain, tcp]
    })
}

fn add(
    service: &str,
    source: &str,
    url: &str,
    weight: Option<&str>,
    tags: Vec<Arc<str>>,
    opts: &str,
) -> Result<(AddRoute, Vec<String>), String> {
    let parsed = option_text::parse_options(opts, Context::Command { url })
        .map_err(|error| error.to_string())?;
    let ParsedOptions {
        mut options,
        unknown,
        warnings,
    } = parsed;
    if let Some(weight) = weight {
        options.weight = option_text::weight(weight).map_err(|error| error.to_string())?;
    }
    let destination = match &options.redirect {
        Some(redirect) => Destination::redirect(&redirect.url),
        None => Destination::parse(url)?,
    };
    // The scheme names the protocol, unless an option does: `http://…` with `proto=h2c`. A redirect
    // speaks none.
    let named = options.redirect.is_none()
        && options
            .raw
            .iter()
            .any(|(key, value)| &**key == "proto" && option_text::proto(value).is_some());
    if !named {
        options.proto = destination.proto;
    }
    let endpoint = destination.endpoint(options.proto)?;
    let key =
        RouteKey::parse(source, options.proto == Proto::Tcp).map_err(|error| error.to_string())?;
    let is_tcp = key.is_tcp() || options.proto == Proto::Tcp;
    let idle = is_tcp.then(|| options.idle_on_tcp()).flatten();
    let route = AddRoute {
        service: service.into(),
        spec: RouteSpec::new(key, options).map_err(|error| error.to_string())?,
        url: destination.text,
        endpoint,
        query: destination.query,
        srv: destination.srv,
        tags,
    };
    let remarks = warnings.into_iter().chain(unknown).chain(idle);
    Ok((route, remarks.collect()))
}

fn split_tags(tags: &str) -> Vec<Arc<str>> {
    tags.split(',')
        .map(str::trim)
        .filter(|tag| !tag.is_empty())
        .map(Into::into)
        .collect()
}

/// The command as Fabio would write it, on one line. The protocol is shown as the scheme of the
/// destination. A `"` (only possible in what came from tags: the language has no escape for it) is
/// shown as `'`.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(add) => add.fmt(f),
            Self::Del {
                service,
                key,
                url,
                tags,
            } => {
                f.write_str("route del")?;
                if let Some(service) = service {
                    write!(f, " {service}")?;
                }
                if let Some(key) = key {
                    write!(f, " {key}")?;
                }
                if let Some(url) = url {
                    write!(f, " {url}")?;
                }
                write_quoted(f, "tags", &tags.join(","))
            }
            Self::Weight {
                service,
                key,
                weight,
                tags,
            } => {
                f.write_str("route weight")?;
                if let Some(service) = service {
                    write!(f, " {service}")?;
                }
                write!(f, " {key} weight {weight}")?;
                write_quoted(f, "tags", &tags.join(","))
            }
        }
    }
}

impl fmt::Display for AddRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.spec.options;
        write!(f, "route add {} {} ", self.service, self.spec.key)?;
        match (&options.redirect, self.url.split_once("://")) {
            (None, Some((_, rest))) => {
                let srv = if self.srv { "srv+" } else { "" };
                write!(f, "{srv}{}://{rest}", options.proto.scheme())?;
            }
            _ => f.write_str(&self.url)?,
        }
        if let Some(weight) = options.weight {
            write!(f, " weight {weight}")?;
        }
        write_quoted(f, "tags", &self.tags.join(","))?;
        write_quoted(f, "opts", &options.fabio_opts())
    }
}

fn write_quoted(f: &mut fmt::Formatter<'_>, clause: &str, text: &str) -> fmt::Result {
    if text.is_empty() {
        Ok(())
    } else {
        write!(f, " {clause} \"{}\"", text.replace('"', "'"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::options::{Access, Redirect};

    fn one(line: &str) -> Command {
        let (mut commands, errors) = parse_commands(line);
        assert!(errors.is_empty(), "{line}: {errors:?}");
        assert_eq!(commands.len(), 1, "{line}");
        commands.remove(0)
    }

    fn add(line: &str) -> AddRoute {
        match one(line) {
            Command::Add(add) => add,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn http(host: &str, path: &str) -> RouteKey {
        RouteKey {
            host: host.to_owned(),
            path: path.to_owned(),
        }
    }

    #[test]
    fn additions() {
        let route = add(
            r#"route add svc Host/Path http://10.0.0.1:8080/x?a=b weight 0.5 tags "a, b"  opts "strip=/x""#,
        );
        assert_eq!(&*route.service, "svc");
        assert_eq!(route.spec.key, http("host", "/Path"));
        assert_eq!(
            route.endpoint,
            Endpoint::Addr("10.0.0.1:8080".parse().expect("an address"))
        );
        assert_eq!(route.query.as_deref(), Some("a=b"));
        assert_eq!(route.spec.options.weight, Some(0.5));
        assert_eq!(route.spec.options.strip.as_deref(), Some("/x"));
        assert_eq!(route.tags, [Arc::from("a"), Arc::from("b")]);
        assert!(!route.srv);
    }

    #[test]
    fn endpoints_by_scheme_and_protocol() {
        let name = |host: &str, port| Endpoint::Name {
            host: host.into(),
            port,
        };
        let addr = |text: &str| Endpoint::Addr(text.parse().expect("an address"));
        for (line, proto, endpoint) in [
            ("route add s / http://Web", Proto::Http, name("web", 80)),
            ("route add s / HTTPS://web/", Proto::Https, name("web", 443)),
            (
                "route add s / http://web opts \"proto=https\"",
                Proto::Https,
                name("web", 443),
            ),
            (
                "route add s / http://web:81 opts \"proto=h2c\"",
                Proto::H2c,
                name("web", 81),
            ),
            (
                "route add s / http://web opts \"proto=ftp2\"",
                Proto::Http,
                name("web", 80),
            ),
            (
                "route add s / grpcs://web_1.example.",
                Proto::Grpcs,
                name("web_1.example.", 443),
            ),
            ("route add s / http://[::1]", Proto::Http, addr("[::1]:80")),
            (
                "route add s / http://[::1]:82?x",
                Proto::Http,
                addr("[::1]:82"),
            ),
            (
                "route add s :99 tcp://1.2.3.4:5",
                Proto::Tcp,
                addr("1.2.3.4:5"),
            ),
            (
                "route add s / http://1.2.3.4:#x",
                Proto::Http,
                addr("1.2.3.4:80"),
            ),
            (
                "route add s / srv+https://web.service.consul",
                Proto::Https,
                name("web.service.consul", 0),
            ),
        ] {
            let (commands, _) = parse_commands(line);
            let [Command::Add(route)] = &*commands else {
                panic!("{line}: {commands:?}")
            };
            assert_eq!(
                (route.spec.options.proto, &route.endpoint),
                (proto, &endpoint),
                "{line}"
            );
            assert_eq!(route.srv, line.contains("srv+"));
        }
        assert_eq!(
            add("route add s 1.2.3.4:80 tcp://1.2.3.4:5").spec.key,
            http("1.2.3.4:80", "")
        );
        assert_eq!(
            add("route add s 1.2.3.4:80 http://1.2.3.4:5").spec.key,
            http("1.2.3.4:80", "/")
        );
    }

    #[test]
    fn a_redirect_has_nothing_to_connect_to() {
        let route = add(r#"route add s a/ https://$host$path opts "redirect=301 proto=tcp""#);
        assert_eq!(route.spec.options.proto, Proto::Http);
        assert_eq!(
            route.spec.options.redirect,
            Some(Redirect {
                code: 301,
                url: "https://$host$path".into()
            })
        );
        assert_eq!(
            route.endpoint,
            Endpoint::Addr("0.0.0.0:0".parse().expect("an address"))
        );
    }

    #[test]
    fn deletions_and_weights() {
        let del = |service: Option<&str>, key, url: Option<&str>, tags: &[&str]| Command::Del {
            service: service.map(Into::into),
            key,
            url: url.map(Into::into),
            tags: tags.iter().map(|&tag| tag.into()).collect(),
        };
        let root = Some(http("a", "/"));
        assert_eq!(one("route del s"), del(Some("s"), None, None, &[]));
        assert_eq!(
            one("route del s A"),
            del(Some("s"), root.clone(), None, &[])
        );
        assert_eq!(
            one("route del s a/ HTTP://x:1/"),
            del(Some("s"), root, Some("http://x:1/"), &[])
        );
        assert_eq!(
            one(r#"route del s tags "a,b""#),
            del(Some("s"), None, None, &["a", "b"])
        );
        assert_eq!(
            one(r#"route del tags " a ,b""#),
            del(None, None, None, &["a", "b"])
        );
        assert_eq!(one("route del tags"), del(Some("tags"), None, None, &[]));
        let weight = |service: Option<&str>, weight, tags: &[&str]| Command::Weight {
            service: service.map(Into::into),
            key: http("", "/x"),
            weight,
            tags: tags.iter().map(|&tag| tag.into()).collect(),
        };
        assert_eq!(
            one("route weight s /x weight 0.2"),
            weight(Some("s"), 0.2, &[])
        );
        assert_eq!(
            one(r#"route weight s /x weight 2 tags "a""#),
            weight(Some("s"), 2.0, &["a"])
        );
        assert_eq!(
            one(r#"route weight /x weight -1 tags "a""#),
            weight(None, 0.0, &["a"])
        );
    }

    #[test]
    fn an_address_without_protocol_means_both_places() {
        let (commands, errors) = parse_commands("route del s 10.0.0.1:80");
        assert_eq!((commands.len(), errors.len()), (2, 0));
    }

    #[test]
    fn bad_lines_are_skipped_and_reported() {
        let text = "# comment\n// comment\n\nroute add a / http://1.1.1.1/\n bad line \nroute add b / http://2.2.2.2/";
        let (commands, errors) = parse_commands(text);
        assert_eq!(commands.len(), 2);
        assert_eq!(errors.len(), 1);
        assert_eq!((errors[0].line, &*errors[0].text), (5, "bad line"));
        for line in [
            "route",
            "route drop s",
            "router add s / http://x/",
            "route add s /",
            "route add s / http://x/ y",
            "route add s / http://x/ weight",
            "route add s / http://x/ weight x",
            "route add s / http://x/ weight 1 weight 2",
            "route add s / http://x/ tags a",
            "route add s / http://x/ tags \"a",
            "route add s / http://x/ tags \"a\"b",
            "route add s / http://x/ opts \"weight=x\"",
            "route add s / x:80",
            "route add s / ftp://x/",
            "route add s / http:///",
            "route add s / http://x:0/",
            "route add s / http://x:99999/",
            "route add s / http://u:p@x/",
            "route add s / http://a..b/",
            "route add s / http://[1.2.3.4]/",
            "route add s / http://::1/",
            "route add s / tcp://x",
            "route add s / srv+http://x:80",
            "route add s / srv+http://1.2.3.4",
            "route add s :x http://x/",
            "route del",
            "route del tags \",\"",
            "route del s / http://x/ y",
            "route del s weight 1",
            "route del s / x",
            "route weight s /x",
            "route weight /x weight 1",
            "route weight s /x weight NaN",
        ] {
            let (commands, errors) = parse_commands(line);
            assert_eq!(
                (commands.len(), errors.len()),
                (0, 1),
                "{line}: {commands:?} {errors:?}"
            );
        }
    }

    #[test]
    fn remarks_do_not_cost_the_line() {
        let (commands, errors) =
            parse_commands("route add s / http://x/ opts \"allow=x colour=red\"");
        let [Command::Add(route)] = &*commands else {
            panic!("{commands:?}")
        };
        assert_eq!(route.spec.options.access, Access::Closed);
        assert_eq!(errors.len(), 2);
        assert!(
            errors
                .iter()
                .all(|error| error.reason.ends_with("(line kept)")),
            "{errors:?}"
        );
    }

    #[test]
    fn static_routes() {
        let route = |targets: &[&str], options: &str| StaticRoute {
            service: "web".to_owned(),
            source: "example.com/x".to_owned(),
            targets: targets.iter().map(|&target| target.to_owned()).collect(),
            options: options.to_owned(),
        };
        let commands = from_static(&route(
            &["http://10.0.0.1:1/", "srv+http://web.consul"],
            "strip=/x",
        ))
        .expect("valid");
        assert_eq!(commands.len(), 2);
        assert_eq!(
            commands[0].to_string(),
            r#"route add web example.com/x http://10.0.0.1:1/ opts "strip=/x""#
        );
        let errors = from_static(&route(&["http://10.0.0.1:1/", "x"], "stripp=/x allow=z"))
            .expect_err("three faults");
        assert_eq!(
            errors.iter().map(|error| error.line).collect::<Vec<_>>(),
            [0, 0, 2]
        );
        assert_eq!(
            from_static(&route(&[], "")).expect_err("no targets").len(),
            1
        );
        let nameless = StaticRoute {
            service: "a b".to_owned(),
            ..route(&["http://x/"], "")
        };
        assert_eq!(from_static(&nameless).expect_err("blank in name").len(), 1);
    }

    #[test]
    fn protocols_are_shown_as_schemes() {
        let line = r#"route add s / http://x:1/ opts "proto=h2c strip=/a""#;
        assert_eq!(
            one(line).to_string(),
            r#"route add s / h2c://x:1/ opts "proto=h2c strip=/a""#
        );
    }

    /// Raw options and the scheme may differ after printing; all that has an effect may not.
    fn effects(mut command: Command) -> Command {
        if let Command::Add(add) = &mut command {
            add.spec.options.raw.clear();
            add.url = "".into();
        }
        command
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in any::<String>(), line in r#"route (add|del|weight)( [a-z/:.\[\]"$0-9+]{0,9}){0,8}"#) {
            let _ = parse_commands(&text);
            let _ = parse_commands(&line);
        }

        #[test]
        fn printing_and_parsing_again_gives_the_same(
            line in r#"route (add s [a-z*.]{0,5}(/[a-z]{0,3}|:80) (srv\+)?(http|h2|tcp|https)://([a-z]{1,4}|1\.2\.3\.4|\[::1\])(:8[0-9])?(/p)?(\?a=b)?( weight [0-9.]{1,4})?( tags "[a-z, ]{0,5}")?( opts "(strip=/a|proto=(tcp|h2c)|redirect=30[12]|host=dst|f|weight=0\.[0-9]| ){0,4}")?|del s( /x( http://x/)?)?( tags "a,b")?|weight (s )?/x weight 0\.[0-9] tags "a, b")"#
        ) {
            for command in parse_commands(&line).0 {
                let printed = command.to_string();
                let (again, _) = parse_commands(&printed);
                prop_assert_eq!(again.len(), 1, "{}", printed);
                prop_assert_eq!(again[0].to_string(), printed);
                prop_assert_eq!(effects(again[0].clone()), effects(command));
            }
        }
    }
}
