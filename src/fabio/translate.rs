//! From Fabio's settings to a configuration of `lb`.
//!
//! The result is TOML text that gives the same behaviour under `lb run`: what the user set, and
//! every default of Fabio that is not ours. Where Fabio's own behaviour is listed as a weakness and
//! the settings do not demand it (no limit for a slow request head, no retries), ours stays.

mod admin;
mod auth;
mod certificates;
mod consul;
mod data_path;
mod listeners;
mod metrics;
mod unsupported;

use std::time::Duration;

use super::document::{Document, Value, bounds};
use super::keys;
use super::machine::Machine;
use super::settings::{Settings, Warning};
use crate::config::{self, ConfigError, ConfigErrors, Inputs, Loaded, Location, format_duration};

/// A configuration of `lb`.
#[derive(Clone, Debug)]
pub struct Translation {
    pub toml: String,
    /// What is not carried out, or perhaps not as expected; each once.
    pub warnings: Vec<Warning>,
}

/// Translates.
///
/// # Errors
/// Everything that Fabio refuses too, and what would be unsafe to leave out; each as a warning
/// would be.
pub(crate) fn translate(
    settings: &Settings,
    machine: &Machine,
) -> Result<Translation, Vec<Warning>> {
    let mut translator = Translator {
        settings,
        machine,
        document: Document::default(),
        warnings: Vec::new(),
        refusals: Vec::new(),
    };
    translator.document.note(
        "What Fabio's settings are in lb's own configuration: for `lb run --config FILE`.\n\
         Behind each line stands the key of Fabio that it comes from.",
    );
    translator.unsupported();
    translator.registry();
    translator.listeners();
    translator.authentication();
    translator.data_path();
    translator.metrics();
    if !translator.refusals.is_empty() {
        return Err(translator.refusals);
    }
    translator.notes();
    let toml = translator.document.render();
    match load(&toml, machine) {
        Ok(_) => Ok(Translation {
            toml,
            warnings: translator.warnings,
        }),
        Err(mistakes) => Err(mistakes
            .0
            .iter()
            .map(|mistake| in_fabios_words(mistake, &toml, settings))
            .collect()),
    }
}

/// The configuration that the text is.
fn load(toml: &str, machine: &Machine) -> Result<Loaded, ConfigErrors> {
    let file = Some((machine.folder.join("fabio.toml"), toml.to_owned()));
    config::load(&Inputs {
        file,
        ..Inputs::default()
    })
}

/// What our configuration does not take, said of the key of Fabio that stands behind the line.
fn in_fabios_words(mistake: &ConfigError, toml: &str, settings: &Settings) -> Warning {
    let line = match &mistake.place {
        Location::File(_, line) => toml.lines().nth(line.saturating_sub(1)).unwrap_or_default(),
        _ => "",
    };
    let comment = line.rsplit_once(" # ").map_or("", |(_, comment)| comment);
    let key = comment.split([',', ':']).next().unwrap_or_default();
    let (key, origin) = match keys::find(key) {
        Some(key) => (key.name, settings.origin(key.name).cloned()),
        None => (&*mistake.key, None),
    };
    let text = format!(
        "lb's {} {}; {}",
        mistake.key, mistake.problem, mistake.advice
    );
    Warning {
        key: key.to_owned(),
        origin,
        text,
    }
}

struct Translator<'a> {
    settings: &'a Settings,
    machine: &'a Machine,
    document: Document,
    warnings: Vec<Warning>,
    refusals: Vec<Warning>,
}

impl Translator<'_> {
    fn about(&self, key: &str, text: String) -> Warning {
        Warning {
            key: key.to_owned(),
            origin: self.settings.origin(key).cloned(),
            text,
        }
    }

    /// Warnings are comments too, wherever the value comes from: they hold wherever the file goes.
    fn notes(&mut self) {
        let mut notes: Vec<String> = self
            .warnings
            .iter()
            .map(|warning| format!("{}: {}", warning.key, warning.text))
            .collect();
        notes.sort_unstable();
        if !notes.is_empty() {
            self.document.note("");
            notes.iter().for_each(|note| self.document.note(note));
        }
    }

    fn warn(&mut self, key: &str, text: impl Into<String>) {
        let warning = self.about(key, text.into());
        self.warnings.push(warning);
    }

    fn refuse(&mut self, key: &str, text: impl Into<String>) {
        let refusal = self.about(key, text.into());
        self.refusals.push(refusal);
    }

    /// One of some words; another one is refused.
    fn word(&mut self, key: &str, words: &[&str]) -> String {
        let text = self.settings.text(key);
        if !words.contains(&text) {
            self.refuse(key, format!("{text:?} is not one of {}", words.join(", ")));
        }
        text.to_owned()
    }

    /// A duration, brought into the bounds of our key; what that changes becomes a warning.
    fn set_time(&mut self, ours: &str, time: Duration, key: &str) {
        let (min, max) = bounds(ours).unwrap_or((Duration::ZERO, Duration::MAX));
        let within = time.clamp(min, max);
        if within != time {
            let text = format!(
                "{} is taken as {}",
                format_duration(time),
                format_duration(within)
            );
            self.warn(key, text);
        }
        self.document.set(ours, Value::Time(within), key);
    }

    /// A duration whose zero means "no limit": the longest that our key takes.
    fn set_limit(&mut self, ours: &str, time: Duration, key: &str) {
        match (time.is_zero(), bounds(ours)) {
            (true, Some((_, max))) => {
                self.document
                    .set(ours, Value::Time(max), &format!("{key}: no limit"))
            }
            _ => self.set_time(ours, time, key),
        }
    }

    /// A text, if it is not empty.
    fn set_text(&mut self, ours: &str, key: &str) {
        let text = self.settings.text(key);
        if !text.is_empty() {
            self.document.set(ours, text, key);
        }
    }

    /// A path, if it is not empty.
    fn set_path(&mut self, ours: &str, key: &str) {
        let text = self.settings.text(key);
        if !text.is_empty() {
            self.document.set(ours, self.machine.absolute(text), key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::keys::Kind;
    use super::super::properties::Properties;
    use super::super::settings::defaults_file;
    use super::super::{compound, flags};
    use super::*;
    use crate::config::Config;

    fn settings(args: &[&str], file: &str) -> Settings {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let file = Properties::parse(file, |_| None).unwrap();
        Settings::gather(
            &flags::parse(&args).unwrap(),
            &[],
            Some(("f", &file)),
            &Machine::bare(),
        )
        .0
    }

    fn translated(args: &[&str]) -> Translation {
        translate(&settings(args, ""), &Machine::bare())
            .unwrap_or_else(|refusals| panic!("{args:?}: {refusals:?}"))
    }

    fn load(toml: &str) -> Result<Config, ConfigErrors> {
        super::load(toml, &Machine::bare()).map(|loaded| loaded.config)
    }

    fn config(args: &[&str]) -> Config {
        let toml = translated(args).toml;
        load(&toml).unwrap_or_else(|mistakes| panic!("{mistakes}\n{toml}"))
    }

    fn warnings(args: &[&str]) -> Vec<String> {
        let without = translated(&[]).warnings;
        let warnings = translated(args).warnings;
        warnings
            .iter()
            .filter(|warning| !without.contains(warning))
            .map(ToString::to_string)
            .collect()
    }

    fn refusals(args: &[&str]) -> String {
        match translate(&settings(args, ""), &Machine::bare()) {
            Ok(translation) => panic!("{args:?}\n{}", translation.toml),
            Err(refusals) => refusals
                .iter()
                .map(|refusal| format!("{refusal}\n"))
                .collect(),
        }
    }

    /// Whether `args` make no difference but for the change that is made to the configuration of
    /// none.
    fn changes(args: &[&str], change: impl Fn(&mut Config)) {
        let mut expected = config(&[]);
        change(&mut expected);
        assert_eq!(config(args), expected, "{args:?}");
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const NOTHING_SET: &str = r##"# What Fabio's settings are in lb's own configuration: for `lb run --config FILE`.
# Behind each line stands the key of Fabio that it comes from.
#
# ui.access: routes cannot be changed by /api/manual: that takes rw, and lb wants it to be set

[consul]
address = "http://localhost:8500" # registry.consul.addr
kv_path = "/fabio/config" # registry.consul.kvpath
no_route_kv_path = "/fabio/noroute.html" # registry.consul.noroutehtmlpath
stale = false # registry.consul.requireConsistent, registry.consul.allowStale

[consul.register]
enabled = true # registry.consul.register.enabled
aliases = true # Fabio registers what routes name by register=
name = "fabio" # registry.consul.register.name

[[listener]]
address = "0.0.0.0:9999" # proxy.addr

[routing]
checks_required = "one" # registry.consul.checksRequired
require_check = true # Fabio gives no traffic to an instance without a check
node_checks = "serf" # Fabio looks at serfHealth alone
weights = false # Fabio does not look at Consul's weights
critical_hold = "0s" # Fabio obeys a critical check at once

[proxy]
strategy = "rnd" # proxy.strategy
fall_through = true # Fabio knows no route without instances
merge_slashes = true # Fabio sends cleaned paths
upstream_errors = "bare" # Fabio's errors have no text
forwarded_host = "sent" # Fabio names the host after host=
trusted_proxies = ["0.0.0.0/0", "::/0"] # Fabio believes every sender
client_address = "peer" # Fabio's access rules look at the sender and at every hop
idle_timeout = "1h" # Fabio keeps idle connections
body_timeout = "1h" # Fabio waits for slow clients
max_header_bytes = 1048576 # Fabio takes request heads up to 1 MiB
max_headers = 1024 # Fabio does not count header fields
connect_timeout = "30s" # proxy.dialtimeout
response_timeout = "24h" # proxy.responseheadertimeout: no limit
response_idle_timeout = "0s" # Fabio lets quiet responses be
upstream_idle_timeout = "15s" # proxy.idleconntimeout
upstream_max_idle = 10000 # proxy.maxconn
tcp_idle_timeout = "0s" # Fabio lets quiet connections be

[health]
error_status = "off" # Fabio sends a target its share whatever it responds
frozen_after = "0s" # Fabio sends a request to one target, however slow it is

[admin]
address = "0.0.0.0:9998" # ui.addr
home = "routes" # Fabio leads there from everywhere
color = "light-green" # ui.color

[drain]
timeout = "0s" # proxy.shutdownwait

[log]
format = "text" # Fabio writes its log for people
access_tcp = false # Fabio's access log knows requests alone
"##;

    #[test]
    fn nothing_set_is_fabios_defaults() {
        assert_eq!(translated(&[]).toml, NOTHING_SET);
        config(&[]);
    }

    #[test]
    fn every_key_at_its_default_is_nothing_set() {
        let machine = Machine::bare();
        let file = Properties::parse(&defaults_file(&machine), |_| None).unwrap();
        let line = flags::CommandLine::default();
        let (all, complaints) = Settings::gather(&line, &[], Some(("f", &file)), &machine);
        assert_eq!(
            (all.given().count(), complaints),
            (keys::all().count(), vec![])
        );
        // The one default that has to be said aloud.
        let home = "home = \"routes\"";
        let mut expected: String =
            NOTHING_SET.replace(home, &format!("writable = true # ui.access\n{home}"));
        expected = expected
            .lines()
            .filter(|line| !line.starts_with("# ui.access") && *line != "#")
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(translate(&all, &machine).unwrap().toml, expected);
    }

    #[test]
    fn keys_that_are_carried_out() {
        changes(&["-proxy.strategy", "rr"], |config| {
            config.proxy.strategy = "rr".parse().unwrap()
        });
        changes(&["-proxy.matcher", "glob"], |config| {
            config.proxy.matcher = crate::table::Matcher::Glob
        });
        changes(&["-proxy.noroutestatus", "503"], |config| {
            config.proxy.no_route_status = 503
        });
        changes(&["-proxy.shutdownwait", "1m"], |config| {
            config.drain.timeout = seconds(60)
        });
        changes(&["-proxy.deregistergraceperiod", "3s"], |config| {
            config.drain.grace = seconds(3)
        });
        changes(&["-proxy.dialtimeout", "1.5s"], |config| {
            config.proxy.connect_timeout = Duration::from_millis(1500)
        });
        changes(&["-proxy.dialtimeout", "0"], |config| {
            config.proxy.connect_timeout = seconds(3600)
        });
        changes(&["-proxy.responseheadertimeout", "9s"], |config| {
            config.proxy.response_timeout = seconds(9)
        });
        changes(&["-proxy.writetimeout", "9s"], |config| {
            config.proxy.request_timeout = seconds(9)
        });
        changes(&["-proxy.idleconntimeout", "1h"], |config| {
            config.proxy.upstream_idle_timeout = seconds(3600)
        });
        changes(&["-proxy.keepalivetimeout", "7s"], |config| {
            config.proxy.keepalive = seconds(7)
        });
        changes(&["-proxy.keepalivetimeout", "-1s"], |config| {
            config.proxy.keepalive = seconds(0)
        });
        changes(&["-proxy.maxconn", "5"], |config| {
            config.proxy.upstream_max_idle = 5
        });
        changes(&["-proxy.maxconn", "0"], |config| {
            config.proxy.upstream_max_idle = 2
        });
        changes(&["-proxy.maxconn", "-1"], |config| {
            config.proxy.upstream_max_idle = 0
        });
        changes(&["-runtime.gomaxprocs", "3"], |config| {
            config.proxy.workers = 3
        });
        changes(&["-proxy.localip", "10.0.0.1"], |config| {
            config.proxy.local_ip = Some("10.0.0.1".to_owned())
        });
        changes(&["-proxy.header.clientip", "X-C"], |config| {
            config.proxy.client_ip_header = "X-C".parse().ok()
        });
        changes(&["-proxy.header.clientip", "X-Forwarded-For"], |_| {});
        changes(&["-proxy.header.requestid", "X-R"], |config| {
            config.proxy.request_id_header = "X-R".parse().ok()
        });
        changes(&["-proxy.header.tls", "X-T"], |config| {
            config.proxy.tls_header = "X-T".parse().ok();
            config.proxy.tls_header_value = String::new();
        });
        changes(&["-proxy.header.tls.value", "on"], |_| {});
        changes(
            &[
                "-proxy.header.sts.maxage",
                "60",
                "-proxy.header.sts.subdomains",
                "-proxy.header.sts.preload",
            ],
            |config| {
                config.proxy.sts_max_age = 60;
                (config.proxy.sts_subdomains, config.proxy.sts_preload) = (true, true);
            },
        );
        changes(&["-proxy.gzip.contenttype", "^text/.*(;.*)?$"], |config| {
            let compression = &mut config.compression;
            compression.content_types = config::ContentTypes::new("^text/.*(;.*)?$").ok();
            compression.algorithms = vec![config::Coding::Gzip];
            compression.min_bytes = 0;
        });
        changes(&["-log.level", "warn"], |config| {
            config.log.level = "warn".to_owned()
        });
        changes(&["-log.level", "FATAL"], |config| {
            config.log.level = "error".to_owned()
        });
        let common =
            r#"$remote_host - - [$time_common] "$request" $response_status $response_body_size"#;
        let combined = format!(r#"{common} "$header.Referer" "$header.User-Agent""#);
        for (format, ours) in [
            ("common", common),
            ("combined", &combined),
            ("$request_uri x", "$request_uri x"),
        ] {
            changes(
                &["-log.access.target", "stdout", "-log.access.format", format],
                |config| {
                    config.log.access = config::AccessLog::Custom(
                        config::AccessFormat::parse(ours).unwrap().into(),
                    );
                },
            );
        }
        changes(&["-log.access.format", "combined"], |_| {});
        changes(&["-ui.addr", "127.0.0.1:1"], |config| {
            config.admin.address = "127.0.0.1:1".parse().unwrap()
        });
        changes(&["-ui.access", "ro"], |_| {});
        changes(&["-ui.access", "rw"], |config| config.admin.writable = true);
        changes(&["-ui.path", "/lb/"], |config| {
            config.admin.path = "/lb".to_owned()
        });
        changes(&["-ui.title", "a b"], |config| {
            config.admin.title = "a b".to_owned()
        });
        changes(&["-ui.color", "blue darken-2"], |config| {
            config.admin.color = Some("blue".to_owned())
        });
        let links = [
            "-ui.routingtable.source.linkenabled",
            "-ui.routingtable.source.newtab=false",
            "-ui.routingtable.source.scheme=https",
            "-ui.routingtable.source.host=www",
            "-ui.routingtable.source.port=81",
        ];
        changes(&links, |config| {
            let admin = &mut config.admin;
            (admin.link_sources, admin.link_new_tab) = (true, false);
            admin.link_scheme = "https".to_owned();
            (admin.link_host, admin.link_port) = (Some("www".to_owned()), Some(81));
        });
        changes(&["-proxy.readtimeout", "5s"], |config| {
            config.proxy.header_timeout = seconds(5);
            config.proxy.body_timeout = seconds(5);
            config.proxy.idle_timeout = seconds(5);
        });
    }

    #[test]
    fn consul_and_files() {
        let consul = |args: &[&str]| config(args).consul.unwrap();
        let address = |text: &str| consul(&["-registry.consul.addr", text]).addresses;
        assert_eq!(address("10.0.0.1:8500"), ["http://10.0.0.1:8500"]);
        assert_eq!(address("HTTPS://h:8501/x"), ["https://h:8501"]);
        assert_eq!(
            address("unix:///run/consul.sock"),
            ["unix:///run/consul.sock"]
        );
        let tls = |address: &str| {
            let [cert, key] = [
                "-registry.consul.tls.certfile",
                "-registry.consul.tls.keyfile",
            ];
            consul(&[
                "-registry.consul.addr",
                address,
                cert,
                "c.pem",
                key,
                "/k.pem",
            ])
            .cert_file
        };
        assert_eq!(tls("https://h:1"), Some("/srv/c.pem".into()));
        assert_eq!(tls("h:1"), None);
        assert_eq!(warnings(&["-registry.consul.tls.cafile", "x"]).len(), 1);
        let args = [
            "-registry.consul.token",
            "t",
            "-registry.consul.tagprefix",
            "p-",
        ];
        assert_eq!(
            consul(&args).token.as_ref().map(config::Secret::reveal),
            Some("t")
        );
        let routing = |args: &[&str]| config(args).routing;
        assert_eq!(routing(&args).tag_prefix, "p-");
        let rules = |args: &[&str]| routing(args).rules();
        let status = "-registry.consul.service.status";
        assert_eq!(rules(&[status, "passing, warning"]).accept_status.len(), 2);
        assert_eq!(warnings(&[status, "passing,critical"]).len(), 0);
        assert_eq!(
            rules(&[status, "critical"]).accept_status,
            [crate::catalog::CheckStatus::Critical]
        );
        assert_eq!(warnings(&[status, "passing,Passing"]).len(), 1);
        assert!(refusals(&[status, "fine"]).contains("none of passing, warning and critical"));
        assert!(rules(&["-registry.consul.checksRequired", "all"]).checks_required_all);
        let stale = [
            "-registry.consul.requireConsistent=false",
            "-registry.consul.allowStale",
        ];
        assert!(consul(&stale).stale && !consul(&stale[..1]).stale);
        for backend in ["consul", "static"] {
            let args = ["-registry.backend", backend, stale[1]];
            assert!(
                refusals(&args).contains("cannot be true together"),
                "{backend}"
            );
        }

        let register = |args: &[&str]| consul(args).register;
        let address = |text: &str| {
            register(&["-registry.consul.register.addr", text])
                .address
                .map(|it| it.to_string())
        };
        let [loopback, any] = ["127.0.0.1:1", "0.0.0.0:1"].map(|text| Some(text.to_owned()));
        assert_eq!(
            (
                address("127.0.0.1:1"),
                address(":1"),
                address("name.test:1"),
                address(":9998")
            ),
            { (loopback, any.clone(), any, None) }
        );
        assert_eq!(
            register(&["-registry.consul.register.addr=", "-ui.addr=127.0.0.1:5"]).address,
            None
        );
        assert!(
            refusals(&["-registry.consul.register.addr", "9998"]).contains("is not an address")
        );
        let off = register(&[
            "-registry.consul.register.enabled=false",
            "-registry.consul.register.tags",
            "a, b",
        ]);
        assert_eq!(
            (off.enabled, off.aliases, off.tags),
            (false, true, vec!["a".to_owned(), "b".to_owned()])
        );
        let [interval, limit] = [
            "-registry.consul.register.checkInterval",
            "-registry.consul.register.checkTimeout",
        ];
        let checks = register(&[
            interval,
            "5s",
            limit,
            "2s",
            "-registry.consul.register.checkTLSSkipVerify",
        ]);
        assert_eq!(
            (checks.check_interval, checks.check_timeout),
            (seconds(5), seconds(2))
        );
        assert!(checks.check_skip_verify);

        let args = [
            "-registry.backend",
            "file",
            "-registry.file.path",
            "r",
            "-registry.file.noroutehtmlpath",
            "/p",
        ];
        let found = config(&args);
        assert_eq!(
            (found.consul, found.routes_file),
            (None, Some("/srv/r".into()))
        );
        assert_eq!(found.proxy.no_route_page, Some("/p".into()));
        assert_eq!(translated(&args).warnings, []);
        assert!(refusals(&["-registry.backend", "file"]).contains("needs a file"));
        assert!(
            !config(&["-glob.matching.disabled"]).proxy.host_patterns
                && config(&[]).proxy.host_patterns
        );
        let fixed = config(&[
            "-registry.backend",
            "static",
            "-registry.static.routes",
            "route add a / http://h:1/",
            "-registry.static.noroutehtml",
            "<p>",
        ]);
        assert_eq!(
            (fixed.consul, fixed.routes.as_str()),
            (None, "route add a / http://h:1/")
        );
        assert_eq!(fixed.proxy.no_route_html, "<p>");
        assert_eq!(config(&["-registry.backend", "static"]).consul, None);
        assert!(
            refusals(&["-registry.backend", "etcd"])
                .starts_with("registry.backend (command line): ")
        );
    }

    #[test]
    fn an_endpoint_of_routes() {
        let endpoint = |more: &[&str]| {
            let args = [
                &[
                    "-registry.backend",
                    "custom",
                    "-registry.custom.host",
                    "h:1",
                ],
                more,
            ]
            .concat();
            assert_eq!(translated(&args).warnings, []);
            let found = config(&args);
            assert_eq!(found.consul, None);
            (found.routes_http.unwrap(), found.proxy.no_route_html)
        };
        let (plain, page) = endpoint(&[]);
        assert_eq!((plain.url.reveal(), &*page), ("https://h:1/", ""));
        assert_eq!(
            (plain.refresh, plain.timeout, plain.skip_verify),
            (seconds(10), seconds(5), false)
        );
        let (found, page) = endpoint(&[
            "-registry.custom.scheme=http",
            "-registry.custom.path=api/v1/",
            "-registry.custom.queryparams=a=b&c=d",
            "-registry.custom.pollinterval=3s",
            "-registry.custom.timeout=0",
            "-registry.custom.checkTLSSkipVerify",
            "-registry.custom.noroutehtml=<p>",
        ]);
        assert_eq!(
            (found.url.reveal(), &*page),
            ("http://h:1/api/v1/?a=b&c=d", "<p>")
        );
        assert_eq!(
            (found.refresh, found.timeout, found.skip_verify),
            (seconds(3), seconds(3600), true)
        );
        // A slash too many goes out as Fabio sends it.
        assert_eq!(
            endpoint(&["-registry.custom.path=/x"]).0.url.reveal(),
            "https://h:1//x"
        );
        assert!(refusals(&["-registry.backend", "custom"]).contains("needs a host"));
        assert!(
            refusals(&[
                "-registry.backend",
                "custom",
                "-registry.custom.host",
                "a b"
            ])
            .contains("registry.custom")
        );
    }

    #[test]
    fn listeners_and_certificates() {
        let cs = "cs=a;type=file;cert=a.pem;key=a-key.pem;clientca=/ca.pem,cs=my site;type=path;cert=/certs;refresh=3s,\
                  cs=unused;type=file;cert=x";
        let addr = ":80,127.0.0.1:443;cs=a;strictmatch=true;tlsmin=tls12,:444;proto=grpcs;cs=my site,\
                    :5000;proto=tcp;pxyproto=true;pxytimeout=1s,:5001;proto=tcp;cs=a,:2;proto=prometheus";
        let args = ["-proxy.cs", cs, "-proxy.addr", addr];
        let found = config(&args);
        let shown: Vec<String> = found
            .listeners
            .iter()
            .map(|it| {
                format!(
                    "{} {:?} {:?} {}",
                    it.address, it.protocol, it.certificates, it.strict_sni
                )
            })
            .collect();
        let expected = [
            "0.0.0.0:80 Http None false",
            "127.0.0.1:443 Https Some(\"a\") true",
            "0.0.0.0:444 Grpcs Some(\"source-1\") false",
            "0.0.0.0:5000 Tcp None false",
            "0.0.0.0:5001 Tcp Some(\"a\") false",
            "0.0.0.0:2 Prometheus None false",
        ];
        assert_eq!(shown, expected);
        assert!(found.listeners[3].proxy_protocol && !found.listeners[0].proxy_protocol);
        assert_eq!(found.listeners[3].proxy_protocol_timeout, seconds(1));
        assert_eq!(
            found.certificates.keys().collect::<Vec<_>>(),
            ["a", "source-1"]
        );
        assert_eq!(
            found.certificates["a"].client_ca_file,
            Some("/ca.pem".into())
        );
        let file = config::CertificateSource::File {
            cert_file: "/srv/a.pem".into(),
            key_file: "/srv/a-key.pem".into(),
        };
        assert_eq!(found.certificates["a"].source, file);
        assert_eq!(warnings(&args), [""; 0]);
    }

    #[test]
    fn certificates_from_elsewhere() {
        let token = "vaultfetchtoken=\"env:V\"";
        let cs = format!(
            "cs=h;type=http;cert=\"https://h/list?k=v\";clientca=https://h/cas;caupgcn=CN;hdr=\"Authorization: Bearer x\",\
             cs=c;type=consul;cert=\"http://h:1/v1/kv/p?token=T\";refresh=9s,\
             cs=v;type=vault;cert=secret/x;clientca=secret/y;refresh=10ms;vaultfetchtoken=file:tok,\
             cs=p;type=vault-pki;cert=pki/issue/x;{token}"
        );
        let args = [
            "-proxy.cs",
            &cs,
            "-proxy.addr",
            ":1;cs=h,:2;cs=c,:3;cs=v,:4;cs=p",
        ];
        let found = config(&args);
        assert_eq!(warnings(&args), [""; 0]);
        let strict: Vec<bool> = found.listeners.iter().map(|it| it.strict_sni).collect();
        assert_eq!(strict, [false, false, false, true]);
        let http = &found.certificates["h"];
        assert_eq!(http.client_ca_upgrade_cn.as_deref(), Some("CN"));
        assert!(
            matches!(&http.source, config::CertificateSource::Http { url, client_ca_url: Some(_), headers, refresh }
            if url.reveal() == "https://h/list?k=v" && headers.len() == 1 && *refresh == seconds(3))
        );
        assert!(
            matches!(&found.certificates["c"].source, config::CertificateSource::Consul { keys, .. }
            if matches!(keys, config::ConsulKeys::At { address, path, token: Some(token) }
                if address == "http://h:1" && path == "p" && token.reveal() == "T"))
        );
        assert!(matches!(&found.certificates["v"].source,
            config::CertificateSource::Vault { kv_path, client_ca_kv_path: Some(_), refresh, token }
            if kv_path == "secret/x" && *refresh == seconds(1)
                && *token == config::TokenPlace::File("/srv/tok".into())));
        assert!(matches!(&found.certificates["p"].source,
            config::CertificateSource::VaultPki { issue_path, renew_before, token, .. }
            if issue_path == "pki/issue/x" && *renew_before == seconds(3600)
                && *token == config::TokenPlace::Env("V".to_owned())));
        let said = refusals(&[
            "-proxy.addr",
            ":1;cs=a",
            "-proxy.cs",
            "cs=a;type=vault;cert=x;vaultfetchtoken=hvs.X",
        ]);
        assert!(
            said.contains("neither file:PATH nor env:NAME") && !said.contains("hvs.X"),
            "{said}"
        );
        let said = refusals(&[
            "-proxy.addr",
            ":1;cs=a",
            "-proxy.cs",
            "cs=a;type=http;cert=http://h/;hdr=hvs.X",
        ]);
        assert!(
            said.contains("is not a header") && !said.contains("hvs.X"),
            "{said}"
        );
    }

    #[test]
    fn timeouts_of_listeners() {
        let timeouts = |args: &[&str]| {
            let found = config(args).proxy;
            (
                found.header_timeout.as_secs(),
                found.body_timeout.as_secs(),
                found.idle_timeout.as_secs(),
            )
        };
        assert_eq!(timeouts(&["-proxy.addr", ":1;rt=3s;it=9s"]), (3, 3, 9));
        assert_eq!(
            timeouts(&[
                "-proxy.addr",
                ":1;rt=3s,:2;rt=5s",
                "-proxy.readtimeout",
                "1s"
            ]),
            (5, 5, 5)
        );
        assert_eq!(timeouts(&["-proxy.addr", ":1;rt=3s,:2"]), (10, 3600, 3600));
        assert_eq!(
            timeouts(&["-proxy.addr", ":1;rt=3s,:2;proto=tcp"]),
            (3, 3, 3)
        );
        let own = |args: &[&str]| {
            let limits = config(args).listeners.into_iter();
            let seconds = |time: Option<Duration>| time.map(|time| time.as_secs());
            limits
                .map(|it| (seconds(it.header_timeout), seconds(it.idle_timeout)))
                .collect::<Vec<_>>()
        };
        let args = [
            "-proxy.addr",
            ":1;rt=3s,:2;rt=5s,:3;rt=5s;it=4s,:4;proto=tcp",
        ];
        assert_eq!(
            own(&args),
            [
                (Some(3), Some(3)),
                (None, None),
                (None, Some(4)),
                (None, None)
            ]
        );
        assert_eq!(warnings(&args), [""; 0]);
        let deadlines = |args: &[&str]| {
            let found = config(args);
            let own = found
                .listeners
                .iter()
                .map(|it| it.request_timeout.map(|time| time.as_secs()));
            (
                found.proxy.request_timeout.as_secs(),
                own.collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            deadlines(&["-proxy.addr", ":1;rt=3s;wt=5s,:2"]),
            (0, vec![Some(5), None])
        );
        let args = [
            "-proxy.addr",
            ":1,:2;wt=5s,:3;wt=0,:4;proto=tcp;wt=1s",
            "-proxy.writetimeout",
            "9s",
        ];
        assert_eq!(deadlines(&args), (9, vec![None, Some(5), Some(0), None]));
        let said = warnings(&args);
        assert!(
            said.len() == 1 && said[0].contains(":4: wt has no effect on TCP"),
            "{said:?}"
        );
        assert_eq!(
            warnings(&["-proxy.dialtimeout", "2h"]),
            ["proxy.dialtimeout (command line): 2h is taken as 1h"]
        );
    }

    #[test]
    fn what_fabio_refuses_is_refused() {
        let cases: &[(&[&str], &str)] = &[
            (
                &["-proxy.strategy", "p2c"],
                "proxy.strategy (command line): \"p2c\" is not one of rnd, rr",
            ),
            (
                &["-proxy.matcher", "exact"],
                "not one of prefix, iprefix, glob",
            ),
            (&["-proxy.noroutestatus", "1000"], "not between 100 and 999"),
            (&["-ui.access", "x"], "not one of rw, ro"),
            (
                &["-proxy.gzip.contenttype", "text/("],
                "is not a regular expression (unclosed group)",
            ),
            (&["-log.access.target", "file"], "log.access.target"),
            (&["-log.access.format="], "the format is empty"),
            (
                &[
                    "-log.access.target=stdout",
                    "-log.access.format=$request_methd",
                ],
                "holds $request_methd, which is not a field; did you mean $request_method?",
            ),
            (
                &["-proxy.header.requestid", "a b"],
                "not the name of a header",
            ),
            (&["-metrics.target", "statsd"], "write statsd_raw"),
            (
                &["-metrics.target", "prometheus,influx"],
                "\"influx\" is not one of",
            ),
            (
                &["-metrics.target", "statsd_raw", "-metrics.statsd.addr", "x"],
                "metrics.statsd.addr (command line): lb's",
            ),
            (
                &[
                    "-metrics.target",
                    "stdout",
                    "-metrics.prefix",
                    "{{upper .Exec}}",
                ],
                "holds {{upper .Exec}}, which is not",
            ),
            (
                &[
                    "-metrics.target=graphite",
                    "-metrics.graphite.addr=h:1",
                    "-metrics.interval=0",
                ],
                "metrics.interval (command line): 0s",
            ),
            (
                &[
                    "-metrics.target",
                    "prometheus",
                    "-metrics.prometheus.buckets",
                    "2,1",
                ],
                "is not in ascending order",
            ),
            (&["-proxy.auth", "name=a"], "scheme a has no type="),
            (
                &["-proxy.auth", "name=a;type=basic"],
                "scheme a has no file=",
            ),
            (
                &["-proxy.auth", "name=a;type=ldap"],
                "type=ldap is not known",
            ),
            (&["-proxy.addr", ":1;proto=ftp"], "unknown protocol \"ftp\""),
            (
                &["-proxy.addr", ":1;cs=x"],
                "cs=x is not a source in proxy.cs",
            ),
            (&["-proxy.addr", ":1;proto=https"], "proto=https needs cs="),
            (
                &[
                    "-proxy.addr",
                    ":1;proto=http;cs=x",
                    "-proxy.cs",
                    "cs=x;type=file;cert=x",
                ],
                "cs= needs a proto",
            ),
            (&["-proxy.addr", ":1;rt=3"], "rt=3 is not a duration"),
            (
                &["-proxy.addr", ":1;tlsmin=ssl3"],
                "tlsmin=ssl3 is not one of",
            ),
            (&["-proxy.addr", "9999"], "is not an address"),
            (&["-proxy.addr", ":1;x"], "\"x\" is not followed by"),
            (&["-proxy.addr", ""], "no listener is left"),
            (&["-proxy.cs", "type=file;cert=x"], "has no cs=NAME"),
            (&["-proxy.cs", "cs=x;type=file"], "has no cert="),
            (&["-proxy.cs", "cs=x;cert=x"], "has no type="),
            (
                &["-proxy.cs", "cs=x;cert=x;type=ftp"],
                "type=ftp is not one of",
            ),
            (&["-ui.addr", ":1,:2"], "it must be one listener"),
            (
                &["-ui.addr", ":9999"],
                "proxy.addr: lb's listener.0.address is the admin listener's too",
            ),
            (
                &["-registry.consul.tagprefix="],
                "registry.consul.tagprefix (command line): lb's routing.tag_prefix",
            ),
        ];
        for (args, part) in cases {
            let said = refusals(args);
            assert!(said.contains(part), "{args:?}: {said}");
        }
    }

    #[test]
    fn authentication_schemes() {
        let schemes = |text: &str| {
            let found = config(&["-proxy.auth", text]).auth.into_iter();
            found
                .map(|(name, scheme)| match scheme.kind {
                    config::AuthKind::External(external) => {
                        let timeout = format_duration(external.timeout);
                        let (set, append) = (external.set_headers, external.append_headers);
                        format!(
                            "{name} {} {set:?} {append:?} {timeout}",
                            external.endpoint.reveal()
                        )
                    }
                    config::AuthKind::Basic {
                        file,
                        realm,
                        refresh,
                    } => {
                        format!(
                            "{name} {} {realm} {}",
                            file.display(),
                            format_duration(refresh)
                        )
                    }
                    // Fabio has none.
                    config::AuthKind::Jwt(_) => format!("{name} jwt"),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(
            schemes("name=a;type=basic;file=p/users"),
            ["a /srv/p/users a 0s"]
        );
        let two = "name=a;type=basic;file=/u;realm=\"the shop\";refresh=30s,name=b;type=basic;file=/v;refresh=10ms";
        assert_eq!(schemes(two), ["a /u the shop 30s", "b /v b 1s"]);
        assert_eq!(
            schemes("name=a;type=basic;file=/u,name=a;type=basic;file=/v"),
            ["a /v a 0s"]
        );
        let external = "name=x;type=external;endpoint=http://h:1/auth;set-auth-headers=\"X-A, x-b\";append-auth-headers=X-C";
        assert_eq!(
            schemes(external),
            [r#"x http://h:1/auth ["x-a", "x-b"] ["x-c"] 5s"#]
        );
        assert!(refusals(&["-proxy.auth", "name=x;type=external"]).contains("has no endpoint="));
        assert!(
            refusals(&["-proxy.auth", "name=x;type=external;endpoint=h"])
                .contains("is not an http:// or https:// URL")
        );
        assert!(
            refusals(&["-proxy.auth", "name=a.b;type=basic;file=/u"]).contains("letters, digits")
        );
        assert!(
            refusals(&["-proxy.auth", "name=a;type=basic;file=/u;refresh=x"])
                .contains("not a duration")
        );
    }

    #[test]
    fn what_is_left_out_is_said_once() {
        let args = [
            "-bgp.enabled",
            "-metrics.target=circonus",
            "-metrics.circonus.apikey=x",
            "-profile.mode=",
            "-proxy.flushinterval=1000ms",
        ];
        let said = warnings(&args);
        let expected = [
            "metrics.circonus.apikey (command line): has no effect: left out on purpose",
            "bgp.enabled (command line): has no effect: left out on purpose",
            "metrics.target (command line): circonus is left out on purpose",
        ];
        assert_eq!(said.len(), expected.len(), "{said:?}");
        for part in expected {
            assert!(
                said.iter().any(|line| line.starts_with(part)),
                "{part}: {said:?}"
            );
        }
        let toml = translated(&args).toml;
        assert!(
            toml.contains("\n# bgp.enabled: has no effect: left out on purpose"),
            "{toml}"
        );
    }

    #[test]
    fn listeners_of_raw_bytes_and_of_names() {
        let cs = "cs=a;type=file;cert=a.pem";
        let addr = "127.0.0.1:0;proto=tcp-dynamic;refresh=3s,:1;proto=tcp+sni,:2;proto=https+tcp+sni;cs=a,:3;proto=https+tcp+sni,\
                    :4;cs=a;tlsmin=tls13;tlsciphers=\"0xc02f,TLS_RSA_WITH_RC4_128_SHA\"";
        let args = ["-proxy.cs", cs, "-proxy.addr", addr];
        let toml = translated(&args).toml;
        let protocols: Vec<String> = config(&args)
            .listeners
            .iter()
            .map(|it| format!("{} {:?}", it.address, it.protocol))
            .collect();
        let expected = [
            "127.0.0.1:0 TcpDynamic",
            "0.0.0.0:1 TcpSni",
            "0.0.0.0:2 HttpsTcpSni",
            "0.0.0.0:3 TcpSni",
            "0.0.0.0:4 Https",
        ];
        assert_eq!(protocols, expected);
        for line in [
            "ports = \"1-65535\"",
            "refresh = \"3s\"",
            "tls_min = \"1.3\"",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        ] {
            assert!(toml.contains(line), "{line}: {toml}");
        }
        let said = warnings(&args);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].contains("served as tcp+sni") && said[1].contains("TLS_RSA_WITH_RC4_128_SHA"),
            "{said:?}"
        );
    }

    #[test]
    fn metrics_that_cannot_be() {
        for args in [
            &["-metrics.prefix={{.Nope}}"][..],
            &["-metrics.prefix={{.Nope}}", "-metrics.target=prometheus"],
            &["-metrics.target=circonus"],
            &["-metrics.target=statsd"],
            &["-profile.mode=odd"],
        ] {
            assert!(!refusals(args).is_empty(), "{args:?}");
        }
        for target in ["statsd_raw", "dogstatsd", "graphite"] {
            assert!(
                warnings(&["-metrics.target", target])[0].contains("goes nowhere"),
                "{target}"
            );
        }
    }

    #[test]
    fn metrics_keep_their_names_and_go_where_they_went() {
        changes(
            &["-metrics.prefix", "x", "-metrics.statsd.addr", "h:1"],
            |_| {},
        );
        changes(&["-metrics.target", "prometheus"], |config| {
            config.metrics.fabio_names = true;
            config.metrics.prefix = "{{clean .Hostname}}.fabio".parse().unwrap();
        });
        let args = [
            "-metrics.target=statsd_raw, dogstatsd,graphite,stdout,label,",
            "-metrics.statsd.addr=:8125",
            "-metrics.dogstatsd.addr=dog:8125",
            "-metrics.graphite.addr=10.0.0.1:2003",
            "-metrics.prefix=edge-{{.Exec}}.{{.Hostname}}",
            "-metrics.interval=5s",
            "-metrics.prometheus.path=/m",
            "-metrics.prometheus.subsystem=sub",
            "-metrics.prometheus.buckets=.1,2",
        ];
        changes(&args, |config| {
            let metrics = &mut config.metrics;
            metrics.statsd = Some("127.0.0.1:8125".to_owned());
            metrics.dogstatsd = Some("dog:8125".to_owned());
            metrics.graphite = Some("10.0.0.1:2003".to_owned());
            metrics.stdout = config::StandardOutput::Both;
            metrics.prefix = "edge-fabio.{{.Hostname}}".parse().unwrap();
            metrics.interval = seconds(5);
            metrics.path = "/m".to_owned();
            metrics.subsystem = "sub".to_owned();
            metrics.buckets = vec![0.1, 2.0];
        });
        // Fabio does not wait before it writes to its own output.
        let at_once = &["-metrics.target=stdout", "-metrics.interval=5s"];
        assert_eq!(config(at_once).metrics.interval, Duration::from_millis(250));
    }

    /// A protocol that `lb` learns has to be added to the table of listeners.
    #[test]
    fn protocols_are_those_of_the_loader() {
        for proto in listeners::PROTOCOLS {
            let (port, ports) = if *proto == "tcp-dynamic" {
                (0, "ports = \"1-9\"\n")
            } else {
                (1, "")
            };
            let listener = format!(
                "[[listener]]\naddress = \"127.0.0.1:{port}\"\nprotocol = \"{proto}\"\n{ports}"
            );
            let tls = "certificates = \"a\"\n[certificates.a]\ncert_file = \"a\"\n";
            assert!(
                [&listener, &(listener.clone() + tls)]
                    .iter()
                    .any(|text| load(text).is_ok()),
                "{proto}"
            );
        }
    }

    proptest! {
        /// Whatever the values are: Fabio's refusal, or a file that our own loader takes.
        #[test]
        fn every_translation_loads(
            values in prop::collection::vec((0..keys::all().count(), any::<prop::sample::Index>(), ".{0,12}"), 0..8)
        ) {
            let mut file = String::new();
            for (at, choice, text) in values {
                let key = keys::all().nth(at).unwrap();
                let known: &[&str] = match key.kind {
                    Kind::Bool => &["true", "false", "1"],
                    Kind::Int | Kind::Uint => &["0", "-1", "1", "99", "404", "9223372036854775807"],
                    Kind::Span => &["0", "1ns", "1s", "-1s", "99999h", "1.5ms"],
                    Kind::Numbers => &["1,2", ""],
                    _ => &["", "rr", "file", "all", "stdout", "[::1]:1;it=1ns", ":0;proto=tcp,:1", "X-A", "\"", "a,b"],
                };
                let value = if choice.index(4) == 0 { text.as_str() } else { *choice.get(known) };
                if !value.contains("${") {
                    file.push_str(&super::super::properties::entry(key.name, value));
                }
            }
            match translate(&settings(&[], &file), &Machine::bare()) {
                Ok(translation) => prop_assert!(load(&translation.toml).is_ok()),
                // What the loader refuses is what only the user can mean.
                Err(refusals) => for refusal in refusals.iter().filter(|refusal| refusal.text.starts_with("lb's ")) {
                    let known = ["registry.consul.", "proxy.addr", "ui.addr", "ui.path", "proxy.auth", "metrics."];
                    prop_assert!(known.iter().any(|key| refusal.key.starts_with(key)), "{refusal}");
                },
            }
        }

        #[test]
        fn any_listener_is_translated_without_panic(text in "(:[0-9]{1,5}|[a-z.]{0,5}:1)(;(proto|rt|cs|tlsmin|pxyproto)=[a-z0-9+]{0,6}){0,3}") {
            prop_assume!(compound::parse(&text).is_ok());
            let _ = translate(&settings(&["-proxy.addr", &text], ""), &Machine::bare());
        }
    }
}
