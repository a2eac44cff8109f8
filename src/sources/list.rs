//! The list of all sources, and what concerns all of them.

use std::path::PathBuf;
use std::sync::Arc;

use super::consul::{Connection, ConsulCatalog, ConsulCommands};
use super::context::Context;
use super::nomad::NomadServices;
use super::routes_file::RoutesFile;
use super::routes_http::RoutesHttp;
use super::source::{RunningSource, Source, SourceError};
use super::static_routes::StaticRoutes;
use crate::catalog::source::SourceName;
use crate::config::Config;

/// Every source there is, in the order in which they are started, waited for and checked. The order
/// in which their route commands act is [`order`](crate::catalog::source::order).
#[must_use]
pub fn list() -> Vec<Box<dyn Source>> {
    let consul = Connection::default();
    vec![
        Box::new(ConsulCatalog::over(consul.clone())),
        Box::new(ConsulCommands::over(consul)),
        Box::new(NomadServices),
        Box::new(StaticRoutes),
        Box::new(RoutesFile),
        Box::new(RoutesHttp),
    ]
}

/// The names of those that `config` has.
#[must_use]
pub fn names(sources: &[Box<dyn Source>], config: &Config) -> Vec<SourceName> {
    let on = sources.iter().filter(|source| source.is_on(config));
    on.map(|source| source.name()).collect()
}

/// Starts those that `config` has.
///
/// # Errors
/// Those of the first one that cannot be started; none of them runs then.
pub fn start(
    sources: &[Box<dyn Source>],
    config: &Config,
    context: &Context,
) -> Result<Vec<Arc<dyn RunningSource>>, SourceError> {
    let on = sources.iter().filter(|source| source.is_on(config));
    on.map(|source| Ok(source.start(config, context)?.into()))
        .collect()
}

/// Keys of sources that differ and take effect only after a restart.
#[must_use]
pub fn restart_keys(present: &Config, next: &Config) -> Vec<&'static str> {
    let sources = list();
    let keys = sources
        .iter()
        .flat_map(|source| source.restart_keys(present, next));
    keys.collect()
}

/// Whether `next` takes something away from a source.
#[must_use]
pub fn takes_away(present: &Config, next: &Config) -> bool {
    list().iter().any(|source| source.takes_away(present, next))
}

/// The files of sources whose changes are a reason to reload.
#[must_use]
pub fn files(config: &Config) -> Vec<PathBuf> {
    list()
        .iter()
        .filter(|source| source.is_on(config))
        .flat_map(|source| source.files(config))
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::catalog::source::order;
    use crate::config::{Inputs, load};
    use crate::metrics::Metrics;

    const ROUTE: &str =
        "[[static.route]]\nservice = \"a\"\nsource = \"/\"\ntargets = [\"http://h:1\"]\n";

    fn config(text: &str) -> Config {
        let inputs = Inputs {
            file: Some(("lb.toml".into(), text.to_owned())),
            ..Inputs::default()
        };
        load(&inputs)
            .unwrap_or_else(|mistakes| panic!("{text}: {mistakes}"))
            .config
    }

    fn on(text: &str) -> Vec<SourceName> {
        names(&list(), &config(text))
    }

    #[test]
    fn a_configuration_turns_on_what_it_names() {
        let cases: [(&str, &[&str]); 10] = [
            ("", &["consul"]),
            ("[consul]\n", &["consul"]),
            ("[consul]\nkv_path = \"lb/\"\n", &["consul", "consul_kv"]),
            ("[nomad]\n", &["nomad"]),
            ("[nomad]\n[consul]\n", &["consul", "nomad"]),
            (ROUTE, &["static"]),
            ("routes = \"route add a / http://h:1\"\n", &["static"]),
            ("routes_file = \"r\"\n", &["routes_file"]),
            ("[routes_http]\nurl = \"http://h/\"\n", &["routes_http"]),
            ("[routes_http]\nrefresh = \"3s\"\n", &["consul"]),
        ];
        for (text, expected) in cases {
            assert_eq!(on(text), expected, "{text}");
        }
        let all = format!(
            "routes_file = \"r\"\n[routes_http]\nurl = \"http://h/\"\n[consul]\nkv_path = \"lb/\"\n[nomad]\n{ROUTE}"
        );
        assert_eq!(
            on(&all),
            [
                "consul",
                "consul_kv",
                "nomad",
                "static",
                "routes_file",
                "routes_http"
            ]
        );
        assert_eq!(
            on(&all).len(),
            list().len(),
            "a source that nothing turns on"
        );
    }

    #[test]
    fn commands_act_by_name_and_those_of_the_kv_store_last() {
        let mut names: Vec<SourceName> = list().iter().map(|source| source.name()).collect();
        names.sort_by_key(|name| order(name));
        assert_eq!(
            names,
            [
                "consul",
                "nomad",
                "routes_file",
                "routes_http",
                "static",
                "consul_kv"
            ]
        );
        names.dedup();
        assert_eq!(names.len(), list().len(), "each name is one source's");
    }

    #[test]
    fn a_source_that_comes_or_goes_needs_a_restart() {
        let cases: [(&str, &str, &[&str]); 9] = [
            ("", "", &[]),
            (
                "routes_file = \"r\"\n",
                "[consul]\nroutes_file = \"r\"\n",
                &["consul"],
            ),
            (
                "[consul]\n",
                "[consul]\nkv_path = \"a\"\n",
                &["consul.kv_path"],
            ),
            (
                "[consul]\nkv_path = \"a\"\n",
                ROUTE,
                &["consul", "static.route"],
            ),
            (
                "[consul]\n",
                "[consul]\nmax_connections = 7\nno_route_kv_path = \"p\"\n",
                &["consul.max_connections", "consul.no_route_kv_path"],
            ),
            (
                "[consul]\n",
                "routes_file = \"r\"\n[consul]\n",
                &["routes_file"],
            ),
            (
                "routes_file = \"r\"\n",
                "routes_file = \"s\"\n",
                &["routes_file"],
            ),
            (
                "[routes_http]\nurl = \"http://h/\"\n",
                "[routes_http]\nurl = \"http://h/\"\nrefresh = \"3s\"\n",
                &["routes_http"],
            ),
            (ROUTE, "routes = \"route add a / http://h:1\"\n", &[]),
        ];
        for (one, other, expected) in cases {
            let (one, other) = (config(one), config(other));
            assert_eq!(restart_keys(&one, &other), expected);
            let mut back = restart_keys(&other, &one);
            back.sort_unstable();
            let mut expected = expected.to_vec();
            expected.sort_unstable();
            assert_eq!(back, expected, "the way back");
        }
    }

    #[tokio::test]
    async fn a_reload_reaches_each_source_that_runs() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("routes.txt");
        std::fs::write(&file, "route add b /b http://10.0.0.1:1\n").unwrap();
        let text = |file: &str, port: u16| {
            let endpoint = format!("[routes_http]\nurl = \"http://127.0.0.1:{port}/\"\n");
            config(&format!("routes_file = {file:?}\n{endpoint}{ROUTE}"))
        };
        let present = text(file.to_str().unwrap(), 1);
        let (updates, _received) = mpsc::channel(8);
        let context = Context::telling(updates, Metrics::default());
        let running = start(&list(), &present, &context).unwrap();
        assert_eq!(running.len(), 3);
        let prepare = |next: &Config| -> Vec<String> {
            let prepared = running.iter().map(|source| source.prepare(next));
            prepared.map(|it| format!("{:?}", it.unwrap())).collect()
        };
        assert_eq!(prepare(&present), ["Unchanged"; 3]);
        // Another file and another endpoint are for the next start.
        let next = text("/elsewhere", 2);
        assert_eq!(prepare(&next), ["Unchanged"; 3]);
        assert_eq!(
            restart_keys(&present, &next),
            ["routes_file", "routes_http"]
        );
        let next = config(&ROUTE.replace("h:1", "h:2"));
        assert_eq!(prepare(&next), ["Apply", "Unchanged", "Unchanged"]);
    }

    #[tokio::test]
    async fn one_that_cannot_start_is_named() {
        let broken = Config {
            static_routes: vec![crate::catalog::static_route::StaticRoute {
                service: "a".to_owned(),
                source: "/".to_owned(),
                targets: vec!["nonsense".to_owned()],
                options: String::new(),
            }],
            ..config(ROUTE)
        };
        let (updates, _received) = mpsc::channel(8);
        let context = Context::telling(updates, Metrics::default());
        let error = start(&list(), &broken, &context).err().unwrap().to_string();
        assert!(error.starts_with("static.route: `"), "{error}");
    }

    #[test]
    fn a_source_or_a_route_that_is_gone_is_taken_away() {
        let takes = |one: &str, other: &str| takes_away(&config(one), &config(other));
        for text in [
            "[consul]\n",
            "routes_file = \"r\"\n",
            "[routes_http]\nurl = \"http://h/\"\n",
            ROUTE,
            "routes = \"route add a / http://h:1\"\n",
        ] {
            let other = if text == ROUTE {
                "routes_file = \"x\"\n"
            } else {
                ROUTE
            };
            assert!(takes(text, other), "{text}");
            assert!(!takes(text, text), "{text}");
        }
        let beside = format!("routes = \"route add b /b http://h:1\"\n{ROUTE}");
        assert!(takes(&beside, ROUTE), "one text of two");
        assert!(takes(&beside, "routes = \"route add b /b http://h:1\"\n"));
        assert!(!takes(ROUTE, &beside));
        assert!(
            !takes(ROUTE, &ROUTE.replace("h:1", "h:2")),
            "another target"
        );
    }

    #[test]
    fn files_that_a_reload_reads_are_those_of_sources_that_are_on() {
        let text = "[consul]\nca_file = \"/ca\"\ntoken_file = \"/t\"\n";
        let found = files(&config(text));
        assert_eq!(found, ["/ca", "/t"].map(PathBuf::from));
        assert!(files(&config("routes_file = \"/r\"\n")).is_empty());
    }
}
