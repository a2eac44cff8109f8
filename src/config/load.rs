//! Flag, then environment, then file, then default: all put together, with every mistake in one
//! report.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::build::build;
use super::error::{ConfigError, ConfigErrors, Findings, Location};
use super::reader::ReadContext;
use super::{Config, ConsulConfig, file, keys, moved, overlay};

/// Largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Everything a configuration is made from.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Path and text of the file, if there is one.
    pub file: Option<(PathBuf, String)>,
    /// The environment: names and values. Only `LB_*`, `CONSUL_*`, `VAULT_*` and
    /// `NOMAD_*` are looked at.
    pub env: Vec<(String, String)>,
    /// Flags: dotted paths and values, in their order.
    pub flags: Vec<(String, String)>,
    /// Standard error is a terminal.
    pub terminal: bool,
}

/// A configuration, and what is odd about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What works but is hardly meant.
    pub warnings: Vec<ConfigError>,
}

/// A configuration as far as it could be built: what does not fit has its default in it. For `lb
/// check`, which looks at the rest as well; only one without mistakes is fit to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// What could be built.
    pub config: Config,
    /// What is wrong, in the order file, environment, flags.
    pub mistakes: Vec<ConfigError>,
    /// What works but is hardly meant.
    pub warnings: Vec<ConfigError>,
    /// What works and goes on working, but is written otherwise by now.
    pub remarks: Vec<ConfigError>,
    /// The file was read, if there is one.
    is_read: bool,
}

impl Draft {
    /// Whether a section says what was meant: nothing in it, or in the sections below it, is wrong,
    /// and the file was read.
    #[must_use]
    pub fn is_whole(&self, section: &str) -> bool {
        // A mistake without a key is about the file as a whole.
        let spoils = |mistake: &ConfigError| {
            mistake.key.is_empty() || mistake.key.to_ascii_lowercase().starts_with(section)
        };
        self.is_read && !self.mistakes.iter().any(spoils)
    }

    /// How to reach Consul, if that is configured and nothing about it is wrong.
    #[must_use]
    pub fn consul(&self) -> Option<&ConsulConfig> {
        self.config
            .consul
            .as_ref()
            .filter(|_| self.is_whole("consul"))
    }

    /// The configuration, if nothing is wrong with it.
    ///
    /// # Errors
    /// Every mistake.
    pub fn finish(self) -> Result<Loaded, ConfigErrors> {
        match self.mistakes.is_empty() {
            true => Ok(Loaded {
                config: self.config,
                warnings: self.warnings,
            }),
            false => Err(ConfigErrors(self.mistakes)),
        }
    }
}

/// Builds the configuration. Touches nothing outside its argument.
///
/// # Errors
/// Every mistake found, in the order file, environment, flags.
pub fn load(inputs: &Inputs) -> Result<Loaded, ConfigErrors> {
    draft(inputs).finish()
}

/// As [`load`], with what could be built in spite of the mistakes.
#[must_use]
pub fn draft(inputs: &Inputs) -> Draft {
    let (mut findings, mut remarks) = (Findings::default(), Vec::new());
    let Findings { mistakes, warnings } = &mut findings;
    let mut settings = match &inputs.file {
        Some((path, text)) => {
            let path = Arc::from(path.as_path());
            file::read(&keys::SCHEMA, path, text, mistakes, warnings)
        }
        None => Default::default(),
    };
    let consul = overlay::consul(&inputs.env, &mut settings, mistakes);
    overlay::vault(&inputs.env, &mut settings);
    overlay::environment(&inputs.env, &mut settings, mistakes, warnings);
    overlay::flags(&inputs.flags, &mut settings, mistakes);
    overlay::nomad(&inputs.env, &mut settings);
    moved::take(&mut settings, mistakes, &mut remarks);
    let context = ReadContext {
        terminal: inputs.terminal,
        consul,
        ..ReadContext::default()
    };
    let config = build(&settings, context, &mut findings);
    let Findings {
        mut mistakes,
        warnings,
    } = findings;
    mistakes.sort_by_key(|mistake| match &mistake.place {
        Location::File(_, line) => (0, *line),
        Location::Env(_) => (1, 0),
        Location::Flag(_) => (2, 0),
        Location::Absent => (3, 0),
    });
    Draft {
        config,
        mistakes,
        warnings,
        remarks,
        is_read: true,
    }
}

/// Reads file and environment of this process, and loads.
///
/// # Errors
/// As [`load`]; a file that cannot be read is a mistake too.
pub fn read(path: Option<&Path>, flags: Vec<(String, String)>) -> Result<Loaded, ConfigErrors> {
    read_draft(path, flags).finish()
}

/// As [`read`], with what could be built in spite of the mistakes.
#[must_use]
pub fn read_draft(path: Option<&Path>, flags: Vec<(String, String)>) -> Draft {
    let mut unread = None;
    let file = path.and_then(|path| match read_file(path) {
        Ok(text) => Some((path.to_owned(), text)),
        Err(mistake) => {
            unread = Some(*mistake);
            None
        }
    });
    let ours = |name: &str| {
        ["LB_", "CONSUL_", "VAULT_", "NOMAD_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    // What is not UTF-8 fits no key; shown with replacement characters it becomes a mistake with a
    // place.
    let env = std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .filter(|(name, _)| ours(name))
        .collect();
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let mut draft = draft(&Inputs {
        file,
        env,
        flags,
        terminal,
    });
    if let Some(mistake) = unread {
        draft.mistakes.insert(0, mistake);
        draft.is_read = false;
    }
    draft
}

fn read_file(path: &Path) -> Result<String, Box<ConfigError>> {
    let fail = |problem: String, advice: &str| {
        Box::new(ConfigError {
            key: path.display().to_string(),
            value: None,
            place: Location::Flag("--config".to_owned()),
            problem,
            advice: advice.to_owned(),
        })
    };
    let length = std::fs::metadata(path).map(|meta| meta.len());
    if length.is_ok_and(|length| length > FILE_BYTES_MAX) {
        return Err(fail(
            "is larger than 16 MiB".to_owned(),
            "is it a configuration file?",
        ));
    }
    let bytes = std::fs::read(path)
        .map_err(|error| fail(format!("cannot be read: {error}"), "check the path"))?;
    String::from_utf8(bytes).map_err(|_| fail("is not UTF-8 text".to_owned(), "save it as UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::Path;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::*;
    use crate::catalog::CheckStatus;
    use crate::table::health::HealthConfig;

    fn inputs(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Inputs {
        let own = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(a, b)| (a.to_string(), b.to_string()))
                .collect()
        };
        let file = (!file.is_empty()).then(|| ("conf/lb.toml".into(), file.to_owned()));
        Inputs {
            file,
            env: own(env),
            flags: own(flags),
            terminal: false,
        }
    }

    fn loaded(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Config {
        load(&inputs(file, env, flags))
            .unwrap_or_else(|mistakes| panic!("{mistakes}"))
            .config
    }

    fn mistakes(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Vec<String> {
        load(&inputs(file, env, flags))
            .unwrap_err()
            .0
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn nothing_at_all_is_a_working_configuration() {
        let config = loaded("", &[], &[]);
        assert_eq!(config, Config::default());
        assert_eq!(config.listeners[0].address, address("0.0.0.0:9999"));
        assert_eq!(config.admin.address, address("127.0.0.1:9998"));
        let consul = config.consul.unwrap();
        assert_eq!(consul.addresses, ["http://127.0.0.1:8500"]);
        assert_eq!(consul.wait, Duration::from_secs(50));
        assert_eq!(
            (config.proxy.max_headers, config.proxy.retry.attempts),
            (128, 4)
        );
        assert_eq!(config.health.rules(), HealthConfig::default());
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let file = "[consul]\nwait = \"10s\"\nresync = \"1m\"\nmax_stale = \"1s\"";
        let env = [("LB_CONSUL_WAIT", "20s"), ("LB_CONSUL_RESYNC", "2m")];
        let config = loaded(file, &env, &[("consul.wait", "30s")]);
        let grace = config.routing.rules().check_grace;
        let consul = config.consul.unwrap();
        assert_eq!(consul.wait, Duration::from_secs(30));
        assert_eq!(consul.resync, Duration::from_secs(120));
        assert_eq!(consul.max_stale, Duration::from_secs(1));
        assert_eq!(grace, Duration::from_secs(2));
    }

    #[test]
    fn the_documented_example_loads() {
        let file = r#"
[consul]
address = "https://127.0.0.1:8501"
ca_file = "ca.pem"
cert_file = "client.pem"
key_file = "client-key.pem"
token_file = "token"
tag_prefix = "urlprefix-"
accept_status = ["passing"]
stale = true
max_stale = "5s"
wait = "50s"

[[listener]]
address = "0.0.0.0:9999"
protocol = "http"
certificates = "main"
proxy_protocol = false

[certificates.main]
source = "file"
cert_file = "site.pem"
key_file = "site-key.pem"
client_ca_file = "clients.pem"

[proxy]
workers = 0
strategy = "p2c"
matcher = "prefix"
no_route_status = 404

[admin]
address = "127.0.0.1:9998"

[drain]
grace = "0s"
timeout = "30s"

routes_file = "routes.txt"
"#;
        let loaded = load(&inputs(file, &[], &[])).unwrap();
        assert_eq!(loaded.config.routes_file, Some("conf/routes.txt".into()));
        assert_eq!(
            loaded.config.consul.unwrap().ca_file,
            Some("conf/ca.pem".into())
        );
        let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
        assert!(
            warnings
                .iter()
                .any(|text| text.contains("drain.routes_file stands inside [drain]")),
            "{warnings:?}"
        );
        assert!(
            warnings
                .iter()
                .any(|text| text.contains("no effect on a plain listener")),
            "{warnings:?}"
        );
    }

    #[test]
    fn static_sources_alone_need_no_consul() {
        let route =
            "[[static.route]]\nservice = \"a\"\nsource = \"/\"\ntargets = [\"http://h:1\"]\n";
        assert_eq!(loaded(route, &[], &[]).consul, None);
        assert_eq!(loaded("routes_file = \"r\"", &[], &[]).consul, None);
        assert!(
            loaded(&format!("[consul]\n{route}"), &[], &[])
                .consul
                .is_some()
        );
        assert!(
            loaded(route, &[("CONSUL_HTTP_ADDR", "h:1")], &[])
                .consul
                .is_some()
        );
        assert!(
            loaded(route, &[], &[("consul.stale", "false")])
                .consul
                .is_some()
        );
    }

    #[test]
    fn consul_variables_mean_what_they_mean_to_consul() {
        let addresses = |env: &[(&str, &str)]| loaded("", env, &[]).consul.unwrap().addresses;
        let cases: &[(&[(&str, &str)], &str)] = &[
            (
                &[("CONSUL_HTTP_ADDR", "10.0.0.1:8500")],
                "http://10.0.0.1:8500",
            ),
            (&[("CONSUL_HTTP_ADDR", "10.0.0.1")], "http://10.0.0.1:80"),
            (
                &[("CONSUL_HTTP_ADDR", "10.0.0.1"), ("CONSUL_HTTP_SSL", "T")],
                "https://10.0.0.1:443",
            ),
            (
                &[("CONSUL_HTTP_ADDR", "https://consul.example.com")],
                "https://consul.example.com:443",
            ),
            (
                &[("CONSUL_HTTP_ADDR", "https://consul.example.com/api/consul/")],
                "https://consul.example.com:443/api/consul",
            ),
            (&[("CONSUL_HTTP_ADDR", "http://[::1]")], "http://[::1]:80"),
            (
                &[("CONSUL_HTTP_ADDR", "http://[::1]:8500/x")],
                "http://[::1]:8500/x",
            ),
            (
                &[
                    ("CONSUL_HTTP_ADDR", "https://h:1"),
                    ("CONSUL_HTTP_SSL", "false"),
                ],
                "https://h:1",
            ),
            (
                &[("CONSUL_HTTP_ADDR", "h:8501"), ("CONSUL_HTTP_SSL", "true")],
                "https://h:8501",
            ),
            (
                &[
                    ("CONSUL_HTTP_ADDR", "http://h:8501"),
                    ("CONSUL_HTTP_SSL", "1"),
                ],
                "https://h:8501",
            ),
            // TLS is not guessed from the rest, as Consul's own tools do not.
            (
                &[("CONSUL_HTTP_ADDR", "h:8500"), ("CONSUL_CACERT", "ca.pem")],
                "http://h:8500",
            ),
            (&[("CONSUL_CACERT", "ca.pem")], "http://127.0.0.1:8500"),
            (
                &[
                    ("CONSUL_HTTP_ADDR", "h:8501"),
                    ("LB_CONSUL_CA_FILE", "ca.pem"),
                ],
                "https://h:8501",
            ),
            (
                &[("LB_CONSUL_ADDRESS", "h:8501"), ("CONSUL_CACERT", "ca.pem")],
                "https://h:8501",
            ),
            (&[("LB_CONSUL_ADDRESS", "h")], "http://h:8500"),
            (
                &[
                    ("CONSUL_HTTP_ADDR", "http://h:8500"),
                    ("CONSUL_CACERT", "ca.pem"),
                ],
                "http://h:8500",
            ),
            (
                &[("CONSUL_HTTP_ADDR", "unix:///run/consul.sock")],
                "unix:///run/consul.sock",
            ),
            (&[("CONSUL_HTTP_ADDR", "")], "http://127.0.0.1:8500"),
            (&[("CONSUL_HTTP_SSL", "true")], "https://127.0.0.1:8500"),
        ];
        for (env, expected) in cases {
            assert_eq!(addresses(env), [*expected], "{env:?}");
        }
        let list = loaded("[consul]\naddress = [\"https://a:1\", \"b:1\"]", &[], &[])
            .consul
            .unwrap();
        assert_eq!(list.addresses, ["https://a:1", "http://b:1"]);
        let two = loaded("", &[], &[("consul.address", "https://a:1, https://b:1/")])
            .consul
            .unwrap();
        assert_eq!(two.addresses, ["https://a:1", "https://b:1"]);
        let consul = loaded(
            "",
            &[
                ("CONSUL_HTTP_SSL_VERIFY", "false"),
                ("CONSUL_HTTP_TOKEN", "t"),
            ],
            &[],
        )
        .consul
        .unwrap();
        assert!(consul.skip_verify);
        assert_eq!(consul.token.as_ref().map(Secret::reveal), Some("t"));
        for (written, name) in [
            ("server.dc1.consul", "server.dc1.consul"),
            ("server.dc1.consul:8501", "server.dc1.consul"),
        ] {
            let consul = loaded("", &[("CONSUL_TLS_SERVER_NAME", written)], &[])
                .consul
                .unwrap();
            assert_eq!(consul.server_name.as_deref(), Some(name));
        }
        let consul = loaded("", &[("CONSUL_HTTP_AUTH", "user:pass")], &[])
            .consul
            .unwrap();
        assert_eq!(
            consul.http_auth.as_ref().map(Secret::reveal),
            Some("user:pass")
        );
        let both = [("CONSUL_CACERT", "a.pem"), ("CONSUL_CAPATH", "cas")];
        let consul = loaded("", &both, &[]).consul.unwrap();
        assert_eq!(
            (consul.ca_file, consul.ca_path),
            (Some("a.pem".into()), None)
        );
        let consul = loaded("[consul]\nca_file = \"a.pem\"", &both[1..], &[])
            .consul
            .unwrap();
        assert_eq!(
            (consul.ca_file, consul.ca_path),
            (Some("conf/a.pem".into()), Some("cas".into()))
        );
    }

    #[test]
    fn what_consuls_variables_may_not_say_is_refused_by_their_name() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[("CONSUL_HTTP_ADDR", "ftp://h:1")], "unknown scheme"),
            (&[("CONSUL_HTTP_ADDR", "http://h:70000")], "not a URL"),
            (&[("CONSUL_HTTP_ADDR", "http://h:0")], "port"),
            (&[("CONSUL_HTTP_ADDR", "http://h:8500/x?y=1")], "not a URL"),
            (
                &[("CONSUL_HTTP_ADDR", "unix://relative")],
                "no absolute path",
            ),
            (
                &[
                    ("CONSUL_HTTP_ADDR", "unix:///run/x"),
                    ("CONSUL_HTTP_SSL", "1"),
                ],
                "unix socket",
            ),
            (
                &[("CONSUL_HTTP_ADDR", "http://user:secret@h:8500")],
                "credentials",
            ),
            (&[("CONSUL_HTTP_SSL", "yes")], "neither true nor false"),
            (&[("CONSUL_HTTP_SSL", "tRuE")], "neither true nor false"),
            (
                &[("CONSUL_HTTP_SSL_VERIFY", "no")],
                "neither true nor false",
            ),
            (&[("CONSUL_TLS_SERVER_NAME", "a b")], "server_name"),
            (&[("CONSUL_CLIENT_CERT", "c.pem")], "no key beside it"),
            (
                &[("CONSUL_CLIENT_KEY", "k.pem")],
                "no certificate beside it",
            ),
            (&[("CONSUL_NAMESPACE", "a b")], "cannot be such a name"),
            (&[("CONSUL_PARTITION", "a&b")], "cannot be such a name"),
        ];
        for (env, part) in cases {
            let found = mistakes("", env, &[]);
            let names_variable = |text: &String| {
                text.contains(&format!("environment {}", env[env.len() - 1].0))
                    || text.contains(env[0].0)
            };
            assert!(
                found
                    .iter()
                    .any(|text| text.contains(part) && names_variable(text)),
                "{env:?}: {found:?}"
            );
            assert!(
                !found.iter().any(|text| text.contains("secret")),
                "{found:?}"
            );
        }
    }

    #[test]
    fn ours_beat_consuls_and_consuls_beat_the_file() {
        let env = [
            ("CONSUL_HTTP_ADDR", "b:1"),
            ("CONSUL_NAMESPACE", "b"),
            ("LB_CONSUL_NAMESPACE", "c"),
        ];
        let file = "[consul]\naddress = \"a:1\"\nnamespace = \"a\"\ntoken_file = \"t\"";
        let consul = loaded(file, &env, &[]).consul.unwrap();
        assert_eq!(consul.addresses, ["http://b:1"]);
        assert_eq!(consul.namespace.as_deref(), Some("c"));
        // A token given later takes the place of a token file given earlier.
        let consul = loaded(file, &[("CONSUL_HTTP_TOKEN", "x")], &[])
            .consul
            .unwrap();
        assert_eq!(
            (consul.token.as_ref().map(Secret::reveal), consul.token_file),
            (Some("x"), None)
        );
    }

    #[test]
    fn lists_and_short_forms() {
        let env = [
            ("LB_CONSUL_ACCEPT_STATUS", "passing,warning"),
            ("LB_DNS_SERVERS", "[\"127.0.0.1\"]"),
        ];
        let flags = [
            ("listener", ":80"),
            (
                "listener",
                "127.0.0.1:443;protocol=https;certificates=main;proxy_protocol",
            ),
            ("certificates", "main;cert_file=site.pem"),
            ("certificates.main.key_file", "key.pem"),
            (
                "static.route",
                "web www.example.com/ http://10.0.0.1:1,http://10.0.0.2:1 strip=/x proto=https",
            ),
        ];
        let config = loaded("[[listener]]\naddress = \"1.1.1.1:1\"", &env, &flags);
        assert_eq!(
            config.routing.rules().accept_status,
            [CheckStatus::Passing, CheckStatus::Warning]
        );
        assert_eq!(config.dns.servers, [address("127.0.0.1:53")]);
        assert_eq!(config.listeners.len(), 2);
        assert_eq!(config.listeners[1].protocol, ListenerProtocol::Https);
        assert!(config.listeners[1].proxy_protocol);
        let source = CertificateSource::File {
            cert_file: "site.pem".into(),
            key_file: "key.pem".into(),
        };
        assert_eq!(config.certificates["main"].source, source);
        assert_eq!(config.static_routes[0].targets.len(), 2);
        assert_eq!(config.static_routes[0].options, "strip=/x proto=https");

        let env = [
            ("LB_LISTENER", "0.0.0.0:1;protocol=tcp,0.0.0.0:2"),
            ("LB_LISTENER_1_PROTOCOL", "grpc"),
            ("LB_CERTIFICATES_MY_SITE_CLIENT_CA_FILE", "ca.pem"),
            ("LB_CERTIFICATES_MY_SITE_CERT_FILE", "c.pem"),
        ];
        let config = loaded("", &env, &[]);
        assert_eq!(config.listeners[0].protocol, ListenerProtocol::Tcp);
        assert_eq!(config.listeners[1].protocol, ListenerProtocol::Grpc);
        assert_eq!(
            config.certificates["my_site"].client_ca_file,
            Some("ca.pem".into())
        );
    }

    #[test]
    fn every_mistake_is_in_one_report_with_its_place() {
        let file = "[consul]\nadress = \"x\"\nwait = 50\nstale = \"yes\"\n[proxi]\n[proxy]\nworkers = -1\nstrategy = \"best\"";
        let found = mistakes(
            file,
            &[("LB_DRAIN_TIMEOUT", "soon")],
            &[("proxy.matcher", "prefx"), ("proxy.worker", "1")],
        );
        let expected = [
            "conf/lb.toml:2: consul.adress is not a known key; did you mean consul.address?",
            "conf/lb.toml:3: consul.wait = 50 has no unit; write a number with its unit, like \"250ms\", \"10s\" or \"1m30s\", from 1s to 10m",
            "conf/lb.toml:4: consul.stale = \"yes\" is neither true nor false; write true or false",
            "conf/lb.toml:5: proxi is not a known section; did you mean [proxy]?",
            "conf/lb.toml:7: proxy.workers = -1 is too small; write a whole number from 0 to 1024",
            "conf/lb.toml:8: proxy.strategy = \"best\" is not a strategy; write p2c, rr, rnd, least, ewma, hash:ip, hash:path, hash:header:NAME or hash:cookie:NAME",
            "environment LB_DRAIN_TIMEOUT: drain.timeout = \"soon\" is not a duration; write a number with its unit, like \"250ms\", \"10s\" or \"1m30s\", from 0s to 1d",
            "flag --proxy.worker: proxy.worker is not a known key; did you mean proxy.workers?",
            "flag --proxy.matcher: proxy.matcher = \"prefx\" is not one of the known words; did you mean prefix? write one of: prefix, iprefix, glob",
        ];
        let expected: Vec<String> = expected
            .iter()
            .map(|text| text.replace("to 1d", "to 24h"))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn cross_checks() {
        let listener = |rest: &str| format!("[[listener]]\naddress = \"127.0.0.1:1\"\n{rest}");
        let dynamic = |rest: &str| {
            format!("[[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp-dynamic\"\n{rest}\n")
        };
        let certificates = "[certificates.main]\ncert_file = \"a.pem\"\n";
        let cases: &[(String, &str)] = &[
            (listener("protocol = \"https\""), "the protocol needs it"),
            (listener("protocol = \"grpcs\"\ncertificates = \"mian\"\n") + certificates, "did you mean \"main\"?"),
            (listener("protocol = \"https+tcp+sni\""), "the protocol needs it"),
            (listener("protocol = \"tcp-dynamic\"\nports = \"1-2\""), "write \"127.0.0.1:0\""),
            (dynamic(""), "ports is missing"),
            (dynamic("ports = \"2-1\""), "holds a range that ends before it begins"),
            (dynamic("ports = [\"1\", \"x\"]"), "holds something that is not a port"),
            (dynamic("ports = 7"), "is not a range of ports"),
            (dynamic("ports = \"1-9\"") + &dynamic("ports = \"9\""), "holds 9, which another tcp-dynamic listener"),
            (listener("idle_timeout = \"0s\""), "only TCP listeners"),
            (listener("tls_min = \"1.3\"\ntls_max = \"1.2\""), "is below tls_min"),
            (listener("tls_min = \"1.1\""), "is not one of the known words"),
            (
                listener("tls_ciphers = [\"TLS_AES_128_GCM_SHA265\"]"),
                "which is not served; choose among TLS_AES_256_GCM_SHA384, ",
            ),
            (listener("tls_ciphers = [\"TLS_AES_128_GCM_SHA256\"]"), "holds no suite for TLS 1.2"),
            (listener("") + &listener("protocol = \"tcp\""), "is another listener's too"),
            (listener("") + "[admin]\naddress = \"127.0.0.1:1\"", "is the admin listener's too"),
            ("[admin]\naddress = \"0.0.0.0:9999\"".to_owned(), "is the default listener's too"),
            ("[[listener]]".to_owned(), "listener.0.address is missing"),
            ("[listener]\naddress = \"127.0.0.1:1\"".to_owned(), "write [[listener]], with two brackets"),
            ("[certificates.a]\nsource = \"vault-pki\"".to_owned(), "certificates.a.issue_path is missing"),
            ("[certificates.a]".to_owned(), "certificates.a.cert_file is missing"),
            ("[certificates.a]\nsource = \"path\"".to_owned(), "certificates.a.path is missing"),
            ("[consul]\ncert_file = \"c.pem\"".to_owned(), "has no key beside it"),
            ("[consul]\nkey_file = \"c.pem\"".to_owned(), "has no certificate beside it"),
            ("[consul]\ncert_pem = \"x\"".to_owned(), "set consul.key_pem too"),
            ("[consul]\nkey_pem = \"x\"".to_owned(), "consul.key_pem = *** has no certificate beside it"),
            ("[consul]\nca_pem = \"x\"\nca_file = \"c\"".to_owned(), "stands beside consul.ca_file; remove one"),
            ("[consul]\naddress = \"ftp://h\"".to_owned(), "has the unknown scheme ftp://"),
            ("[consul]\naddress = \"http://\"".to_owned(), "is not a URL of an agent"),
            ("[consul]\naddress = \",\"".to_owned(), "names no agent"),
            ("[consul]\naccept_status = []".to_owned(), "is empty"),
            ("[consul]\naccept_status = [\"fine\"]".to_owned(), "names something unknown"),
            ("[consul]\ntag_prefix = \"\"".to_owned(), "every tag would be a route"),
            ("[consul]\nserver_name = \"a b\"".to_owned(), "not a name a certificate can carry"),
            ("[consul]\ndatacenter = \"a&b=c\"".to_owned(), "consul.datacenter = \"a&b=c\" cannot be such a name"),
            ("[proxy]\nlocal_ip = \"x; for=y\"".to_owned(), "is not an IP address"),
            ("[proxy]\nno_route_status = 101".to_owned(), "is too small"),
            (
                "[[static.route]]\nservice = \"a\"\nsource = \"/\"\ntargets = [\"http://h:1\"]\noptions = \"stripp=/\""
                    .to_owned(),
                "static.route.0.options = \"stripp=/\" makes no route",
            ),
            (
                "[[static.route]]\nservice = \"a\"\nsource = \"/\"\ntargets = [\"h:1\"]".to_owned(),
                "static.route.0.targets = [\"h:1\"] makes no route",
            ),
            ("[[static.route]]\nservice = \"a\"".to_owned(), "static.route.0.source is missing"),
            ("[static]\nroutes = 1".to_owned(), "write [[static.route]]"),
            ("[dns]\nmin_ttl = \"10m\"".to_owned(), "is shorter than min_ttl"),
            ("[health]\neject_base = \"2m\"".to_owned(), "is shorter than eject_base"),
            ("[log]\nlevel = \"lb=loud\"".to_owned(), "is not a filter"),
            ("[log]\nlevel = \"inof\"".to_owned(), "did you mean info?"),
            ("[proxy]\nclient_ip_header = \"a b\"".to_owned(), "is not the name of a header"),
            (
                "[proxy]\ntrusted_proxies = [\"10.0.0.0/8\", \"10.0.0.0/33\"]".to_owned(),
                "holds \"10.0.0.0/33\", which is neither an address nor a network",
            ),
            (
                "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol_from = [\"proxy.example\"]"
                    .to_owned(),
                "listener.0.proxy_protocol_from",
            ),
            ("[proxy]\nworkers = \"4\"".to_owned(), "is a text, not a number"),
            ("x = ".to_owned(), "conf/lb.toml:1: "),
            ("[consul]\nwait = \"1s\"\nwait = \"2s\"".to_owned(), "conf/lb.toml:3: duplicate key"),
        ];
        for (file, part) in cases {
            let found = mistakes(file, &[], &[]);
            assert!(
                found.iter().any(|text| text.contains(part)),
                "{file}\n{found:#?}"
            );
        }
    }

    #[test]
    fn port_zero_may_repeat() {
        let file = "[[listener]]\naddress = \"127.0.0.1:0\"\n".repeat(2)
            + "[admin]\naddress = \"127.0.0.1:0\"";
        assert_eq!(loaded(&file, &[], &[]).listeners.len(), 2);
    }

    #[test]
    fn a_draft_holds_what_is_right_beside_the_mistakes() {
        let file =
            "routes_file = \"routes.txt\"\n[consul]\nca_file = \"ca.pem\"\n[proxy]\nworkers = -1\n";
        let found = draft(&inputs(file, &[], &[]));
        assert_eq!(found.mistakes.len(), 1, "{:?}", found.mistakes);
        assert_eq!(found.config.routes_file, Some("conf/routes.txt".into()));
        assert_eq!(
            found.consul().unwrap().ca_file,
            Some("conf/ca.pem".into()),
            "nothing is wrong with [consul]"
        );
        assert!(found.finish().is_err());

        for (file, env) in [
            ("", &[("CONSUL_CLIENT_CERT", "client.pem")][..]),
            ("", &[("CONSUL_HTTP_SSL", "perhaps")]),
            ("[consul]\nwait = 5", &[]),
            ("[consul]\nadress = \"https://h:1\"", &[]),
            ("[consul\n", &[]),
        ] {
            let found = draft(&inputs(file, env, &[]));
            assert_eq!((found.consul(), found.mistakes.len()), (None, 1), "{file}");
        }
        let unread = read_draft(
            Some(Path::new("/nonexistent/lb.toml")),
            vec![("proxy.workers".into(), "x".into())],
        );
        assert_eq!(
            (unread.consul(), unread.mistakes.len()),
            (None, 2),
            "{:?}",
            unread.mistakes
        );
    }

    #[test]
    fn a_key_that_has_lost_its_meaning_is_read_with_a_warning() {
        for value in ["true", "false"] {
            let loaded = load(&inputs(
                &format!("[proxy]\ndirect = {value}\n[consul]\n"),
                &[],
                &[],
            ))
            .unwrap();
            let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
            assert!(
                warnings.len() == 1 && warnings[0].contains("proxy.direct"),
                "{warnings:?}"
            );
            assert!(warnings[0].contains("no effect"), "{warnings:?}");
        }
        let wrong = load(&inputs("[proxy]\ndirect = 7\n", &[], &[]));
        assert!(wrong.is_err());
    }

    #[test]
    fn the_tools_environment_goes_before_certificates_in_the_file() {
        let file = "[consul]\nca_pem = \"x\"\ncert_pem = \"x\"\nkey_pem = \"x\"\n";
        let env = [
            ("CONSUL_CACERT", "a"),
            ("CONSUL_CLIENT_CERT", "b"),
            ("CONSUL_CLIENT_KEY", "c"),
        ];
        let loaded = load(&inputs(file, &env, &[])).unwrap();
        let consul = loaded.config.consul.unwrap();
        assert_eq!(
            (consul.ca_pem, consul.cert_pem, consul.key_pem),
            (None, None, None)
        );
        assert_eq!(consul.cert_file, Some("b".into()));
        assert_eq!(loaded.warnings.len(), 3, "{:?}", loaded.warnings);
        let consul = load(&inputs(file, &[], &[]))
            .unwrap()
            .config
            .consul
            .unwrap();
        assert!(
            consul.has_certificate() && consul.addresses[0].starts_with("http"),
            "{:?}",
            consul.addresses
        );
    }

    #[test]
    fn a_secret_is_not_repeated_in_a_report() {
        let found = mistakes("[consul]\ntoken = 123456", &[], &[]);
        assert!(
            found[0].contains("consul.token = *** is not a text"),
            "{found:?}"
        );
    }

    #[test]
    fn foreign_variables_are_nobodys_mistake() {
        let env = [
            ("LB_SERVICE_HOST", "10.0.0.1"),
            ("LB_PORT_80_TCP", "x"),
            ("LB_ADMIN_URL", "http://h"),
            ("LB_CONSUL_WIAT", "1s"),
        ];
        let loaded = load(&inputs("", &env, &[])).unwrap();
        let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].contains("did you mean LB_CONSUL_WAIT?"),
            "{warnings:?}"
        );
    }

    proptest! {
        #[test]
        fn any_file_is_read_without_panic(text in ".{0,300}") {
            let _ = load(&inputs(&text, &[], &[]));
        }

        #[test]
        fn any_arrangement_of_known_words_is_read_without_panic(
            rows in prop::collection::vec(
                prop::sample::select(vec![
                    "[consul]", "[[listener]]", "[listener]", "[certificates.a]", "[certificates]", "[[static.route]]",
                    "[static]", "[proxy]", "address = \"127.0.0.1:1\"", "address = 1", "wait = \"1s\"", "route = []",
                    "source = \"path\"", "a = { cert_file = 1 }", "workers = 99999999999999999999", "routes_file = 1",
                    "strategy = \"hash:\"", "targets = [1, \"\"]", "x.y.z = 1979-05-27", "stale = 0x10",
                ]),
                0..12,
            ),
        ) {
            let _ = load(&inputs(&rows.join("\n"), &[], &[]));
        }

        #[test]
        fn any_flag_and_variable_is_read_without_panic(
            path in prop::sample::select(vec!["listener", "certificates", "static.route", "consul.accept_status",
                "listener.7.address", "certificates.a.path", "dns.servers", "nothing"]),
            value in ".{0,60}",
        ) {
            let name = keys::env_name(path);
            let _ = load(&inputs("", &[(name.as_str(), value.as_str())], &[(path, value.as_str())]));
        }
    }
}
