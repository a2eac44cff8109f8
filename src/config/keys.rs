//! The one table of configuration keys.
//!
//! From it come the check for unknown keys, the types, the defaults, the environment names, the
//! flags, and the commented `config/lb.toml`. A key that is not here does not exist.

/// What a value has to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Text that is never shown.
    Secret,
    /// A path; in a file, relative to that file's folder.
    Path,
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds.
    Count(u64, u64),
    /// A duration within bounds, in milliseconds.
    Time(u64, u64),
    /// `IP:PORT`; `:PORT` means every IPv4 address.
    Socket,
    /// Ports and ranges of ports.
    Ports,
    /// A list of texts.
    List,
    /// URLs, separated by commas, or as a list.
    Urls,
    /// A list of `IP:PORT`.
    Sockets,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of these words, not empty.
    Words(&'static [&'static str]),
    /// The name of an HTTP header.
    Header,
    /// A list of `Name: value`; the values are never shown.
    Headers,
    /// A balancing strategy.
    Strategy,
    /// A list of positive numbers, ascending.
    Numbers,
}

impl Kind {
    /// In words, for messages: what to write.
    #[must_use]
    pub fn wants(self) -> String {
        let time = |ms| super::format_duration(std::time::Duration::from_millis(ms));
        match self {
            Self::Text | Self::Secret => "write a text in quotes".to_owned(),
            Self::Path => "write a path in quotes".to_owned(),
            Self::Bool => "write true or false".to_owned(),
            Self::Count(min, u64::MAX) => format!("write a whole number from {min}"),
            Self::Count(min, max) => format!("write a whole number from {min} to {max}"),
            Self::Time(min, max) => format!(
                "write a number with its unit, like \"250ms\", \"10s\" or \"1m30s\", from {} to {}",
                time(min),
                time(max)
            ),
            Self::Socket => "write an address and a port, like \"0.0.0.0:9999\" or \"[::1]:9999\"".to_owned(),
            Self::Ports => "write a port or a range of ports, or a list of them, like \"10000-10999\"".to_owned(),
            Self::List => "write a list of texts, like [\"a\", \"b\"]".to_owned(),
            Self::Urls => "write URLs in quotes, separated by commas".to_owned(),
            Self::Sockets => "write a list of addresses, like [\"127.0.0.1:8600\"]".to_owned(),
            Self::Word(words) => format!("write one of: {}", words.join(", ")),
            Self::Words(words) => format!("write a list of: {}", words.join(", ")),
            Self::Header => "write the name of a header, like \"X-Client-Ip\"".to_owned(),
            Self::Headers => "write a list of headers, like [\"Authorization: Bearer 1234\"]".to_owned(),
            Self::Strategy => {
                "write p2c, rr, rnd, least, ewma, hash:ip, hash:path, hash:header:NAME or hash:cookie:NAME".to_owned()
            }
            Self::Numbers => "write a list of positive numbers that rise, like [0.1, 0.5, 2.5]".to_owned(),
        }
    }

    /// What stands for the value in usage texts.
    #[must_use]
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Text => "TEXT",
            Self::Secret => "SECRET",
            Self::Path => "PATH",
            Self::Bool => "BOOL",
            Self::Count(..) => "N",
            Self::Time(..) => "DURATION",
            Self::Socket => "ADDR",
            Self::Urls => "URL,…",
            Self::Ports => "PORTS",
            Self::List | Self::Headers | Self::Sockets | Self::Words(_) => "LIST",
            Self::Word(_) => "WORD",
            Self::Header => "HEADER",
            Self::Strategy => "STRATEGY",
            Self::Numbers => "NUMBERS",
        }
    }
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name inside the section.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// Its default as one would write it in a flag; none: unset.
    pub default: Option<&'static str>,
    /// Shown in `lb.toml` when there is no default.
    pub example: &'static str,
    /// One paragraph for users.
    pub doc: &'static str,
}

/// How often a section may stand in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Keys at the top of the file, before any section.
    Top,
    /// `[name]`
    Once,
    /// `[[name]]`, any number, in order.
    List,
    /// `[name.NAME]`, any number, by name.
    Named,
}

/// Keys that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Dotted name; empty at the top.
    pub name: &'static str,
    /// How it is written.
    pub shape: Shape,
    /// One paragraph for users.
    pub doc: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

impl Section {
    /// The key of that name, or the one that has moved from here to another section.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        let mut keys = self.keys.iter().chain(self.moved());
        keys.find(|key| key.name == name)
    }

    /// The keys that have moved from here to another section; they are still taken here.
    pub fn moved(&self) -> impl Iterator<Item = &'static Key> {
        let from_here = MOVED.iter().filter(|moved| moved.from == self.name);
        from_here.flat_map(|moved| {
            let keys = section(moved.to).map_or(&[][..], |section| section.keys);
            keys.iter()
                .filter(move |key| moved.keys.contains(&key.name))
        })
    }

    /// The full path of a key; a placeholder stands for the name or number of a repeated section.
    #[must_use]
    pub fn path(&self, key: &Key) -> String {
        match self.shape {
            Shape::Top => key.name.to_owned(),
            Shape::Once => format!("{}.{}", self.name, key.name),
            Shape::List => format!("{}.N.{}", self.name, key.name),
            Shape::Named => format!("{}.NAME.{}", self.name, key.name),
        }
    }
}

/// The environment variable of a dotted path.
#[must_use]
pub fn env_name(path: &str) -> String {
    format!("LB_{}", path.replace('.', "_").to_ascii_uppercase())
}

/// The section of that name.
#[must_use]
pub fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name == name)
}

const fn key(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key {
        name,
        kind,
        default: Some(default),
        example: "",
        doc,
    }
}

const fn unset(name: &'static str, kind: Kind, example: &'static str, doc: &'static str) -> Key {
    Key {
        name,
        kind,
        default: None,
        example,
        doc,
    }
}

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Protocol names of listeners.
pub const PROTOCOLS: &[&str] = &[
    "http",
    "https",
    "tcp",
    "grpc",
    "grpcs",
    "tcp+sni",
    "https+tcp+sni",
    "tcp-dynamic",
    "prometheus",
];
/// What may stand at the root of the admin listener.
pub const ADMIN_HOMES: &[&str] = &["overview", "routes"];
/// Colours of the admin pages: those of Material Design, whose names Fabio takes.
pub const ADMIN_COLORS: &[&str] = &[
    "red",
    "pink",
    "purple",
    "deep-purple",
    "indigo",
    "blue",
    "light-blue",
    "cyan",
    "teal",
    "green",
    "light-green",
    "lime",
    "yellow",
    "amber",
    "orange",
    "deep-orange",
    "brown",
    "grey",
    "blue-grey",
    "black",
    "white",
];
/// TLS versions served.
pub const TLS_VERSIONS: &[&str] = &["1.2", "1.3"];
/// Cipher suites served, under their registered names (IANA), with their numbers; the best first.
pub const TLS_CIPHERS: [(&str, u16); 9] = [
    ("TLS_AES_256_GCM_SHA384", 0x1302),
    ("TLS_AES_128_GCM_SHA256", 0x1301),
    ("TLS_CHACHA20_POLY1305_SHA256", 0x1303),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", 0xc02c),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", 0xc02b),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", 0xcca9),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", 0xc030),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", 0xc02f),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", 0xcca8),
];
/// Certificate sources.
pub const CERTIFICATE_SOURCES: &[&str] = &["file", "path", "http", "consul", "vault", "vault-pki"];

/// Content codings.
pub const CODINGS: &[&str] = &["zstd", "br", "gzip"];

/// Kinds of authentication.
pub const AUTH_TYPES: &[&str] = &["basic", "external"];

/// Keys that have moved from one section to another.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// The section that they were in.
    pub from: &'static str,
    /// The section that they are in.
    pub to: &'static str,
    /// Their names, the same in both.
    pub keys: &'static [&'static str],
}

/// All keys that have moved. Each means the same under its old name as under its new one.
pub const MOVED: &[Moved] = &[Moved {
    from: "consul",
    to: "routing",
    keys: &[
        "tag_prefix",
        "accept_status",
        "checks_required",
        "require_check",
        "node_checks",
        "weights",
        "check_grace",
        "critical_hold",
    ],
}];

/// Keys, and sections of repetitions, that turn a source on. Where one of them is set, Consul is
/// asked only if `[consul]` is there too.
pub const SOURCE_SWITCHES: &[&str] = &["routes_file", "routes", "routes_http.url", "static.route"];

/// Every section, in the order of `config/lb.toml`.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "",
        shape: Shape::Top,
        doc: "",
        keys: &[
            unset(
                "routes_file",
                Kind::Path,
                "routes.txt",
                "A file in Fabio's route language (`route add SERVICE PLACE URL ...`), read again whenever it changes. \
                 A source of its own beside Consul and [[static.route]].",
            ),
            unset(
                "routes",
                Kind::Text,
                "route add web www.example.com/ http://10.0.0.5:8080/",
                "The same as text, a command on each line. They act after those of [[static.route]].",
            ),
            key(
                "take_over",
                Kind::Bool,
                "false",
                "Listen also where another lb of the same user listens already, to relieve it without a closed port. The \
                 kernel deals connections out to both until the other one is stopped, and both say so. Without it an \
                 address in use is an error. Meant for a flag (--take-over) or the environment (LB_TAKE_OVER=1).",
            ),
        ],
    },
    Section {
        name: "routes_http",
        shape: Shape::Once,
        doc: "An endpoint that answers with routes: a JSON list of objects with cmd, service, src, dst, weight, tags and \
              opts, each meaning what such a command means in the route language. A source of its own beside Consul and \
              the others. While it gives no such list, the last one stays in force.",
        keys: ROUTES_HTTP,
    },
    Section {
        name: "consul",
        shape: Shape::Once,
        doc: "How to reach Consul and what to read there. Without this section, without CONSUL_* variables and with \
              a static source (routes_file, routes, [routes_http] or [[static.route]]), Consul is not used at all.",
        keys: CONSUL,
    },
    Section {
        name: "consul.register",
        shape: Shape::Once,
        doc: "Registration of lb itself as a service in Consul, with checks: of /health by HTTP, and one that fails when \
              lb does not report for 15s. It is put back when the agent forgets it, and removed at the beginning of a \
              drain, before drain.grace. The token needs service:write for each name.",
        keys: REGISTER,
    },
    Section {
        name: "listener",
        shape: Shape::List,
        doc: "Where clients connect; as many as needed. Without any: one for HTTP on 0.0.0.0:9999. Short form for a \
              flag (repeat it) or the environment (separate by commas): \
              --listener '0.0.0.0:9443;protocol=https;certificates=main'. It replaces the file's list.",
        keys: LISTENER,
    },
    Section {
        name: "certificates",
        shape: Shape::Named,
        doc: "Certificates for TLS listeners, under a name of your choice. Files are watched: a new pair is used for \
              new connections, a bad one is reported and ignored; so are pairs that come from elsewhere. Until the \
              first ones are there, handshakes are refused. Short form: \
              --certificates 'main;cert_file=site.pem;key_file=site-key.pem'.",
        keys: CERTIFICATES,
    },
    Section {
        name: "auth",
        shape: Shape::Named,
        doc: "Who may use routes with auth=NAME in their tag; a name that is not configured here refuses every request (503). Short \
              form: --auth 'main;file=users.htpasswd'.",
        keys: AUTH,
    },
    Section {
        name: "vault",
        shape: Shape::Once,
        doc: "How to reach Vault, or OpenBao, for certificates with source = \"vault\" or \"vault-pki\". The environment \
              is that of Vault's own tools.",
        keys: VAULT,
    },
    Section {
        name: "static.route",
        shape: Shape::List,
        doc: "Routes that do not come from Consul. Short form: --static.route 'SERVICE PLACE URL[,URL] [OPTIONS]', \
              as in --static.route 'web /api http://10.0.0.5:8080 strip=/api'; in the environment separated by `;`.",
        keys: STATIC_ROUTE,
    },
    Section {
        name: "routing",
        shape: Shape::Once,
        doc: "Which tags are routes, and which instances get traffic: rules for what every source of services tells. \
              These keys are also taken in [consul], where they were at first.",
        keys: ROUTING,
    },
    Section {
        name: "proxy",
        shape: Shape::Once,
        doc: "Rules of the data path: routing, headers, limits and deadlines.",
        keys: PROXY,
    },
    Section {
        name: "proxy.compression",
        shape: Shape::Once,
        doc: "Compression of answers, where the client takes it (Accept-Encoding) and the instance has not done it. \
              Off while there is no pattern.",
        keys: &[
            unset(
                "content_types",
                Kind::Text,
                "^(text/|application/(json|javascript|xml)|image/svg)",
                "Which answers are compressed: a regular expression over their Content-Type. Not those of which a part \
                 was asked for, that forbid it (Cache-Control: no-transform), of gRPC, or for clients that accept \
                 text/event-stream.",
            ),
            key(
                "algorithms",
                Kind::Words(CODINGS),
                "zstd,br,gzip",
                "What may be used, the best first: counts where a client likes several equally.",
            ),
            key(
                "min_bytes",
                Kind::Count(0, 1 << 30),
                "1024",
                "Answers known to be shorter than this pass as they are.",
            ),
            key(
                "max_memory_mib",
                Kind::Count(1, 65_536),
                "128",
                "About how much memory (MiB) each worker may take for it. What comes when it is used up passes as it is.",
            ),
        ],
    },
    Section {
        name: "retry",
        shape: Shape::Once,
        doc: "When a request is tried on another instance. A failed connect always is; a connection that died \
              before the first byte of an answer, for idempotent requests; nothing after the first byte.",
        keys: &[
            key(
                "attempts",
                Kind::Count(1, 10),
                "4",
                "Most attempts for one request, the first included. 1: none.",
            ),
            key(
                "budget_percent",
                Kind::Count(0, 100),
                "20",
                "Retries (but for failed connects) as a share of recent requests, in percent: keeps a sick service \
                 from being flooded.",
            ),
            key(
                "budget_min",
                Kind::Count(0, 1_000_000),
                "10",
                "Retries per second and worker that are granted even when traffic is low.",
            ),
        ],
    },
    Section {
        name: "health",
        shape: Shape::Once,
        doc: "What traffic itself says about an instance: one that fails again and again is left out for a while, \
              whatever Consul says.",
        keys: &[
            key(
                "eject_after",
                Kind::Count(0, 10_000),
                "5",
                "Failures in a row that eject an instance. 0: never.",
            ),
            key(
                "eject_base",
                Kind::Time(100, HOUR),
                "5s",
                "Length of the first ejection; it doubles with each one that follows.",
            ),
            key("eject_max", Kind::Time(100, DAY), "1m", "Longest ejection."),
            key(
                "eject_max_percent",
                Kind::Count(0, 100),
                "50",
                "Largest share of a service's instances ejected at the same time, in percent.",
            ),
            key(
                "error_status",
                Kind::Word(&["off", "gateway", "5xx"]),
                "gateway",
                "Answers that count as failures of their instance while other instances do better: off, gateway (502, \
                 503, 504; of gRPC, UNAVAILABLE in place of an answer) or 5xx (all of them). What all instances answer \
                 ejects none.",
            ),
            key(
                "frozen_after",
                Kind::Time(0, HOUR),
                "2s",
                "An instance that owes an answer for so long, and answers none of the further requests it is given while \
                 other instances do, is frozen: it is ejected, and GETs and HEADs that wait for it are asked elsewhere too, \
                 as far as the retry budget's share of recent requests goes. A slow request is asked once. 0s: never.",
            ),
            key(
                "slow_start",
                Kind::Time(0, HOUR),
                "0s",
                "How long a new or returning instance takes to its full share of traffic. 0s: at once.",
            ),
        ],
    },
    Section {
        name: "dns",
        shape: Shape::Once,
        doc: "Resolving of names in static routes, and of registrations that carry a name instead of an address.",
        keys: &[
            key(
                "servers",
                Kind::Sockets,
                "",
                "Servers to ask. Empty: the system's, with its search list (/etc/resolv.conf). /etc/hosts comes before either. \
                 Both files are read again when they change.",
            ),
            key(
                "min_ttl",
                Kind::Time(100, DAY),
                "1s",
                "An answer is kept at least this long.",
            ),
            key(
                "max_ttl",
                Kind::Time(SECOND, DAY),
                "5m",
                "An answer is kept at most this long.",
            ),
            key(
                "timeout",
                Kind::Time(10, MINUTE),
                "2s",
                "Limit for one query.",
            ),
        ],
    },
    Section {
        name: "admin",
        shape: Shape::Once,
        doc: "The admin listener: web pages, health, metrics, API. It changes nothing, unless writable is true.",
        keys: ADMIN,
    },
    Section {
        name: "metrics",
        shape: Shape::Once,
        doc: "Metrics under the names that Fabio gives, for dashboards made for it, and metrics that are sent. lb's own \
              names, lb_*, are always at /metrics of the admin listener. While nothing here is switched on, nothing \
              of this is counted.",
        keys: METRICS,
    },
    Section {
        name: "drain",
        shape: Shape::Once,
        doc: "What happens on SIGTERM. A second SIGTERM ends the process at once.",
        keys: &[
            key(
                "grace",
                Kind::Time(0, HOUR),
                "0s",
                "First /ready says 503 while traffic is still served, for this long: the time a balancer in front \
                 needs to notice.",
            ),
            key(
                "timeout",
                Kind::Time(0, DAY),
                "30s",
                "Then what runs may finish, at most this long.",
            ),
        ],
    },
    Section {
        name: "log",
        shape: Shape::Once,
        doc: "The program's log goes to standard error, the access log to standard output.",
        keys: &[
            key(
                "level",
                Kind::Text,
                "info",
                "error, warn, info, debug or trace; per module as in \"info,lb::sources=debug\".",
            ),
            key(
                "format",
                Kind::Word(&["auto", "text", "json"]),
                "auto",
                "json: one object a line. text: for people. auto: text when standard error is a terminal.",
            ),
            key(
                "access",
                Kind::Text,
                "off",
                "Form of the access log: off, common, combined, json, or a text with fields: $remote_addr, $remote_host, \
                 $remote_port, $request, $request_args, $request_host, $request_method, $request_proto, \
                 $request_scheme, $request_uri, $request_url, $response_body_size, $response_status, \
                 $response_time_ms, $response_time_us, $response_time_ns (seconds with 3, 6 or 9 decimals), \
                 $time_common, $time_rfc3339, $time_rfc3339_ms, $time_rfc3339_us, $time_rfc3339_ns, $time_unix_ms, \
                 $time_unix_us, $time_unix_ns, $upstream_addr, $upstream_host, $upstream_port, \
                 $upstream_request_scheme, $upstream_request_uri, $upstream_request_url, $upstream_service, \
                 $grpc_status, of TCP connections $listener_addr, $request_body_size, $connection_end, and $header.NAME for a header field of the request, as the instance got it (X-Forwarded-For: as it came in).",
            ),
            key(
                "access_tcp",
                Kind::Bool,
                "true",
                "Whether TCP connections have a line there too, when they end: client, listener, service, instance, bytes, \
                 duration, and how it ended.",
            ),
        ],
    },
];

const ROUTING: &[Key] = &[
    key(
        "tag_prefix",
        Kind::Text,
        "urlprefix-",
        "Tags that start with this are routes.",
    ),
    key(
        "accept_status",
        Kind::Words(&["passing", "warning", "critical"]),
        "passing",
        "Check states that count as healthy: passing, warning, critical.",
    ),
    key(
        "checks_required",
        Kind::Word(&["all", "one"]),
        "all",
        "Whether every check of an instance has to be in such a state, or one is enough.",
    ),
    key(
        "require_check",
        Kind::Bool,
        "false",
        "An instance without any check of its own never gets traffic. Else it does, after check_grace.",
    ),
    key(
        "node_checks",
        Kind::Word(&["all", "serf"]),
        "all",
        "Which critical checks of a node take its instances out: all of them, or serfHealth alone.",
    ),
    key(
        "weights",
        Kind::Bool,
        "true",
        "Instances get traffic in proportion to their weights in Consul. false: these weights say nothing.",
    ),
    key(
        "check_grace",
        Kind::Time(0, HOUR),
        "2s",
        "How long a new instance without checks of its own waits for one before it gets traffic: Nomad registers \
         services a moment before their checks.",
    ),
    key(
        "critical_hold",
        Kind::Time(0, HOUR),
        "10s",
        "When all known-good instances of a service turn critical in one step (an agent restart), they are kept this \
         long while they can be reached.",
    ),
];

const CONSUL: &[Key] = &[
    key(
        "address",
        Kind::Urls,
        "127.0.0.1:8500",
        "Agents, tried in order, separated by commas: http://, https:// or unix:// URLs, with a path where they are behind \
         a proxy that asks for one. Without a scheme, https is used when a CA or client certificate is configured, else \
         http. Also CONSUL_HTTP_ADDR and CONSUL_HTTP_SSL, which mean what they mean to Consul's own tools: http unless \
         it says https, and the scheme's port where none is given. Proxies named in HTTP_PROXY or HTTPS_PROXY are not used.",
    ),
    unset(
        "ca_file",
        Kind::Path,
        "ca.pem",
        "PEM file of the CAs that sign the agents' certificates. Also CONSUL_CACERT. Without it: the system's.",
    ),
    unset(
        "ca_pem",
        Kind::Text,
        "-----BEGIN CERTIFICATE-----…",
        "The same as text, in place of ca_file: for a configuration that is one file.",
    ),
    unset(
        "ca_path",
        Kind::Path,
        "ca.d",
        "Folder of such files, whatever their names, and of folders of them. Files without a CA are passed over. Also \
         CONSUL_CAPATH, which counts only without CONSUL_CACERT.",
    ),
    unset(
        "cert_file",
        Kind::Path,
        "client.pem",
        "Client certificate for agents that verify it (verify_incoming). Read again when it changes. Also \
         CONSUL_CLIENT_CERT.",
    ),
    unset(
        "cert_pem",
        Kind::Text,
        "-----BEGIN CERTIFICATE-----…",
        "The same as text, in place of cert_file.",
    ),
    unset(
        "key_file",
        Kind::Path,
        "client-key.pem",
        "Its private key. Also CONSUL_CLIENT_KEY.",
    ),
    unset(
        "key_pem",
        Kind::Secret,
        "-----BEGIN PRIVATE KEY-----…",
        "The same as text, in place of key_file. Never shown; keep the file to yourself (chmod 600).",
    ),
    unset(
        "server_name",
        Kind::Text,
        "server.dc1.consul",
        "Name to verify in the agent's certificate instead of the address. Also CONSUL_TLS_SERVER_NAME.",
    ),
    key(
        "skip_verify",
        Kind::Bool,
        "false",
        "Accept any server certificate. For experiments only. Also CONSUL_HTTP_SSL_VERIFY=false.",
    ),
    unset(
        "http_auth",
        Kind::Secret,
        "USER:PASSWORD",
        "Sent with every request, as HTTP basic authentication: for something in front of the agents that asks for it. \
         Also CONSUL_HTTP_AUTH.",
    ),
    unset(
        "token",
        Kind::Secret,
        "TOKEN",
        "ACL token. Better in a file. Also CONSUL_HTTP_TOKEN.",
    ),
    unset(
        "token_file",
        Kind::Path,
        "token",
        "File that holds the ACL token; read again at every reload. Also CONSUL_HTTP_TOKEN_FILE.",
    ),
    unset(
        "namespace",
        Kind::Text,
        "default",
        "Namespace (Consul Enterprise). Also CONSUL_NAMESPACE.",
    ),
    unset(
        "partition",
        Kind::Text,
        "default",
        "Admin partition (Consul Enterprise). Also CONSUL_PARTITION.",
    ),
    unset(
        "datacenter",
        Kind::Text,
        "dc1",
        "Datacenter to read, and what $DC in a tag stands for. Without it: the agent's own.",
    ),
    unset(
        "kv_path",
        Kind::Text,
        "fabio/config",
        "Where the KV store holds route commands (`route add`, `route del`, `route weight`), which act after all other \
         routes. Every key that begins with this text counts, in the order of their names. The token needs key_prefix \
         read.",
    ),
    unset(
        "no_route_kv_path",
        Kind::Text,
        "fabio/noroute.html",
        "Where the KV store holds the page for requests without a route. While a key begins with this text, its value is \
         sent in place of proxy.no_route_page and proxy.no_route_html. Up to 1 MiB. The token needs key_prefix read.",
    ),
    key(
        "stale",
        Kind::Bool,
        "true",
        "Let any server answer, not the leader alone: cheaper, and it goes on while there is no leader.",
    ),
    key(
        "max_stale",
        Kind::Time(0, HOUR),
        "5s",
        "A stale answer older than this is read again in default mode. Without a leader it is kept all the same.",
    ),
    key(
        "wait",
        Kind::Time(SECOND, 10 * MINUTE),
        "50s",
        "How long a blocking query may wait for a change. Below a minute it survives most middleboxes.",
    ),
    key(
        "resync",
        Kind::Time(10 * SECOND, DAY),
        "5m",
        "Everything is read again unconditionally this often (jittered), in case a change was missed.",
    ),
    key(
        "confirm_percent",
        Kind::Count(1, 100),
        "30",
        "When more than this share of all instances vanishes in one answer, it is read a second time in default mode \
         before it is believed.",
    ),
    key(
        "max_connections",
        Kind::Count(1, 150),
        "96",
        "Most connections to one agent. Over HTTPS a few carry everything. Over plain HTTP each watched service takes one \
         while they suffice; with more services a few watches tell which of them changed. An agent grants 200 to all \
         programs of a host together (limits.http_max_conns_per_client); what it closes is not opened again for a while.",
    ),
];

const REGISTER: &[Key] = &[
    key(
        "enabled",
        Kind::Bool,
        "false",
        "Whether lb registers itself under its name.",
    ),
    key(
        "aliases",
        Kind::Bool,
        "false",
        "Whether it also registers under each NAME that a route names by register=NAME, as long as such a route has a \
         target. Whoever may write tags chooses these names; the rights of the token bound them.",
    ),
    key(
        "name",
        Kind::Text,
        "lb",
        "Name of the service. Its id is NAME-HOSTNAME-PORT.",
    ),
    unset(
        "address",
        Kind::Socket,
        "10.0.0.1:9998",
        "Address under which the admin listener is registered and checked. Unset: admin.address. In place of 0.0.0.0 \
         or [::]: the first global address of this machine.",
    ),
    key("tags", Kind::List, "", "Tags of the service."),
    key(
        "check_interval",
        Kind::Time(100, HOUR),
        "1s",
        "How often the agent checks /health.",
    ),
    key(
        "check_timeout",
        Kind::Time(100, HOUR),
        "3s",
        "Limit for such a check.",
    ),
    key(
        "check_skip_verify",
        Kind::Bool,
        "false",
        "Whether the check accepts any certificate, where the admin listener speaks TLS.",
    ),
];

const ADMIN: &[Key] = &[
    key(
        "address",
        Kind::Socket,
        "127.0.0.1:9998",
        "Where it listens. Everybody who can reach it can read the routing table.",
    ),
    unset(
        "certificates",
        Kind::Text,
        "main",
        "Which [certificates.NAME] it shows; client certificates are asked for as that says. Unset: plain HTTP.",
    ),
    key(
        "strict_sni",
        Kind::Bool,
        "false",
        "Refuse the handshake for a name without certificate.",
    ),
    key(
        "tls_min",
        Kind::Word(TLS_VERSIONS),
        "1.2",
        "Lowest TLS version taken.",
    ),
    key(
        "tls_max",
        Kind::Word(TLS_VERSIONS),
        "1.3",
        "Highest TLS version taken.",
    ),
    unset(
        "tls_ciphers",
        Kind::List,
        "TLS_AES_256_GCM_SHA384",
        "Cipher suites taken, as those of a listener.",
    ),
    key(
        "writable",
        Kind::Bool,
        "false",
        "Whether /api/manual and the page /manual show and change the route commands of consul.kv_path. Whoever reaches \
         the listener may then send all traffic elsewhere. The token needs key_prefix write.",
    ),
    unset(
        "hosts",
        Kind::List,
        "lb.example.com",
        "Names under which it may be asked (Host), beside IP addresses, localhost and the machine's name: other names \
         are answered with 421, because a page of a stranger's site could let its name point here. /health, /ready and \
         /metrics may be asked under any name.",
    ),
    unset(
        "path",
        Kind::Text,
        "/lb",
        "What its paths begin with. /health, /ready and /metrics stay at the root as well.",
    ),
    key(
        "home",
        Kind::Word(ADMIN_HOMES),
        "overview",
        "The page at its root. With routes, every unknown path leads there.",
    ),
    unset(
        "title",
        Kind::Text,
        "east",
        "Shown on its pages, to tell one lb from another.",
    ),
    unset(
        "color",
        Kind::Word(ADMIN_COLORS),
        "light-green",
        "Colour at the top of its pages, for the same purpose.",
    ),
    key(
        "link_sources",
        Kind::Bool,
        "false",
        "Whether places of routes are links on the page /routes.",
    ),
    key(
        "link_new_tab",
        Kind::Bool,
        "true",
        "Whether these open a new tab.",
    ),
    key(
        "link_scheme",
        Kind::Word(&["http", "https"]),
        "http",
        "Their scheme.",
    ),
    unset(
        "link_host",
        Kind::Text,
        "www.example.com",
        "Host of those of routes that have none. Unset: the one under which the page was asked for.",
    ),
    unset(
        "link_port",
        Kind::Count(1, 65535),
        "8080",
        "Port of those. Unset: the scheme's.",
    ),
];

const LISTENER: &[Key] = &[
    key(
        "address",
        Kind::Socket,
        "0.0.0.0:9999",
        "Where to listen. Port 0: any free one. Required in a [[listener]].",
    ),
    key(
        "protocol",
        Kind::Word(PROTOCOLS),
        "http",
        "http, https, grpc or grpcs (http and grpc also take HTTP/2 with prior knowledge); tcp: by port; tcp+sni: TLS \
         passed on by its server name, not ended here; https+tcp+sni: the same for names whose routes are tcp, https \
         for all others; tcp-dynamic: a TCP listener for each :PORT route of the catalog; prometheus: nothing but \
         metrics.path.",
    ),
    unset(
        "certificates",
        Kind::Text,
        "main",
        "Which [certificates.NAME]: required for https, grpcs and https+tcp+sni; on tcp and tcp-dynamic, TLS is ended \
         here with them.",
    ),
    key(
        "proxy_protocol",
        Kind::Bool,
        "false",
        "Accept the PROXY protocol (v1 and v2) in front of a connection.",
    ),
    key(
        "proxy_protocol_timeout",
        Kind::Time(1, MINUTE),
        "250ms",
        "How long to wait for its header.",
    ),
    key(
        "strict_sni",
        Kind::Bool,
        "false",
        "Refuse the handshake for a name without certificate, instead of showing the first one.",
    ),
    key(
        "tls_min",
        Kind::Word(TLS_VERSIONS),
        "1.2",
        "Lowest TLS version taken where TLS is ended.",
    ),
    key(
        "tls_max",
        Kind::Word(TLS_VERSIONS),
        "1.3",
        "Highest TLS version taken.",
    ),
    unset(
        "tls_ciphers",
        Kind::List,
        "TLS_AES_256_GCM_SHA384,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "Cipher suites taken, by their registered names. Unset: all that are served; none of them is weak.",
    ),
    unset(
        "header_timeout",
        Kind::Time(100, HOUR),
        "10s",
        "As proxy.header_timeout, for this listener: the limit for a request head, a ClientHello, a TLS handshake.",
    ),
    unset(
        "idle_timeout",
        Kind::Time(0, 365 * DAY),
        "60s",
        "As proxy.idle_timeout for this listener, or as proxy.tcp_idle_timeout where it is one of tcp (0s: never).",
    ),
    unset(
        "body_timeout",
        Kind::Time(100, DAY),
        "60s",
        "As proxy.body_timeout, for this listener.",
    ),
    unset(
        "request_timeout",
        Kind::Time(0, DAY),
        "5m",
        "As proxy.request_timeout, for this listener.",
    ),
    unset(
        "ports",
        Kind::Ports,
        "10000-10999",
        "Ports that tcp-dynamic may open, at the IP of its address (whose own port is 0). Required there: whoever may \
         register a service opens ports with it. Ports of other listeners are never taken.",
    ),
    key(
        "refresh",
        Kind::Time(50, HOUR),
        "1s",
        "How often tcp-dynamic looks for routes that came or went.",
    ),
];

const CERTIFICATES: &[Key] = &[
    key(
        "source",
        Kind::Word(CERTIFICATE_SOURCES),
        "file",
        "file: one pair. path: a folder of pairs. http: files beside a list of their names. consul: keys of the KV store. \
         vault: entries of a KV engine. vault-pki: issued for each server name when it is first asked for.",
    ),
    unset(
        "cert_file",
        Kind::Path,
        "site.pem",
        "The chain, leaf first (PEM), for source = \"file\".",
    ),
    unset(
        "key_file",
        Kind::Path,
        "site-key.pem",
        "Its private key. Without it: in cert_file too.",
    ),
    unset(
        "path",
        Kind::Path,
        "certs.d",
        "Folder with X-cert.pem and X-key.pem, or X.pem with both, for source = \"path\". The first by name is the \
         default. The names are the same in all other sources but vault.",
    ),
    unset(
        "url",
        Kind::Secret,
        "https://certs.example.com/lb/list",
        "For http: the URL of a list of file names, one a line, which lie beside it. For consul: keys in the KV store of \
         another Consul than [consul], as in http://HOST:8500/v1/kv/lb/certs?token=T.",
    ),
    unset(
        "headers",
        Kind::Headers,
        "Authorization: Bearer 1234",
        "For http: sent with each request to the URL's host.",
    ),
    unset(
        "kv_path",
        Kind::Text,
        "lb/certs",
        "For consul: the keys below it, read from [consul] and watched. For vault: the entries below it, with the fields \
         cert and key, in a KV engine of version 1 or 2 (secret/lb/certs, without /data/).",
    ),
    unset(
        "issue_path",
        Kind::Text,
        "pki/issue/lb",
        "For vault-pki: where certificates are issued.",
    ),
    unset(
        "names",
        Kind::List,
        "*.example.com",
        "For vault-pki: server names that certificates are asked for; `*` stands for any characters. Unset: all of them.",
    ),
    key(
        "refresh",
        Kind::Time(0, DAY),
        "30s",
        "How often http and vault are read again. 0s: never, once they have answered. Consul tells of changes itself, \
         and files are watched.",
    ),
    key(
        "renew_before",
        Kind::Time(MINUTE, 365 * DAY),
        "1h",
        "For vault-pki: a certificate is issued anew this long before its end, or after two thirds of its life if that \
         is later.",
    ),
    unset(
        "token",
        Kind::Secret,
        "hvs.…",
        "For consul and vault: in place of the token of [consul] or [vault].",
    ),
    unset(
        "token_file",
        Kind::Path,
        "token",
        "A file that holds it, read again when it changes.",
    ),
    unset(
        "token_env",
        Kind::Text,
        "MY_TOKEN",
        "The environment variable that holds it.",
    ),
    unset(
        "client_ca_file",
        Kind::Path,
        "clients.pem",
        "CAs of client certificates, or a folder of them (*.pem): asks clients for one.",
    ),
    unset(
        "client_ca_url",
        Kind::Secret,
        "https://certs.example.com/cas/list",
        "The same for http and consul: as url.",
    ),
    unset(
        "client_ca_kv_path",
        Kind::Text,
        "lb/cas",
        "The same for consul, vault and vault-pki: as kv_path.",
    ),
    unset(
        "client_ca_upgrade_cn",
        Kind::Text,
        "ApiGateway",
        "A certificate among them whose issuer has this common name counts as a CA, though it does not say that it is \
         one: those of Amazon's API Gateway do not.",
    ),
    key(
        "client_auth",
        Kind::Word(&["required", "optional"]),
        "required",
        "Whether a client without a certificate is refused, when it is asked for one.",
    ),
];

const AUTH: &[Key] = &[
    key(
        "type",
        Kind::Word(AUTH_TYPES),
        "basic",
        "basic: name and password (RFC 7617), looked up in a file. external: a service is asked about each request.",
    ),
    unset(
        "file",
        Kind::Path,
        "users.htpasswd",
        "Names and passwords as htpasswd writes them: bcrypt, MD5, SHA, SSHA, SHA-crypt or plain. Without the file \
         nobody gets in.",
    ),
    unset(
        "realm",
        Kind::Text,
        "shop",
        "What browsers show when they ask. Without it: NAME.",
    ),
    key(
        "refresh",
        Kind::Time(0, DAY),
        "1s",
        "How often its time stamp is looked at; below 1s counts as 1s. 0s: it is read at start and at a reload alone.",
    ),
    unset(
        "endpoint",
        Kind::Secret,
        "http://127.0.0.1:4180/oauth2/auth",
        "What type = \"external\" asks: GET, with the request's header, and without its body. X-Forwarded-Method, -Uri, -Host, \
         -Proto, -Port, -Prefix, -For, X-Real-Ip and Forwarded are written here, whatever the client says. 2xx lets it in; \
         any other answer, a redirect too, is the client's; 502 when none comes.",
    ),
    key(
        "set_headers",
        Kind::List,
        "",
        "Header fields of its answer that replace those of the request, and those that differ in `_`, `.` or case alone.",
    ),
    key(
        "append_headers",
        Kind::List,
        "",
        "Header fields of its answer that are added to those of the request.",
    ),
    key(
        "timeout",
        Kind::Time(10, MINUTE),
        "5s",
        "Limit for its answer.",
    ),
];

const METRICS: &[Key] = &[
    key(
        "fabio_names",
        Kind::Bool,
        "false",
        "Fabio's names for Prometheus: PREFIX_requests, PREFIX_http_status, PREFIX_route and so on. They stand behind \
         lb's own at /metrics and at `path` of the admin listener, and alone on listeners with protocol = \
         \"prometheus\".",
    ),
    key("path", Kind::Text, "/metrics", "Where they are."),
    key(
        "prefix",
        Kind::Text,
        "{{clean .Hostname}}.{{clean .Exec}}",
        "First part of all these names: text with {{.Hostname}} and {{.Exec}} (the program's name) in it; `clean` \
         makes lower case, and _ of . and :. Names for Prometheus follow it behind a _, those in log lines behind a \
         dot, those that are sent behind nothing, as in Fabio: end it in a dot for them.",
    ),
    unset(
        "subsystem",
        Kind::Text,
        "edge",
        "Second part of the names for Prometheus.",
    ),
    key(
        "buckets",
        Kind::Numbers,
        "0.005,0.01,0.025,0.05,0.1,0.25,0.5,1,2.5,5,10",
        "Bounds of their histograms, in seconds.",
    ),
    unset(
        "statsd",
        Kind::Text,
        "127.0.0.1:8125",
        "HOST:PORT of a StatsD server to send to, by UDP.",
    ),
    unset(
        "dogstatsd",
        Kind::Text,
        "127.0.0.1:8125",
        "HOST:PORT of a DogStatsD server: with labels as tags.",
    ),
    unset(
        "graphite",
        Kind::Text,
        "127.0.0.1:2003",
        "HOST:PORT of a Graphite (Carbon) server, by TCP.",
    ),
    key(
        "stdout",
        Kind::Word(&["off", "flat", "label", "flat,label"]),
        "off",
        "Whether they are written to standard output too: as NAME:VALUE|TYPE with labels in the name (flat) or behind \
         (label).",
    ),
    key(
        "interval",
        Kind::Time(100, DAY),
        "30s",
        "How often they are sent and written.",
    ),
];

const VAULT: &[Key] = &[
    key(
        "address",
        Kind::Text,
        "https://127.0.0.1:8200",
        "Its URL. Also VAULT_AGENT_ADDR and VAULT_ADDR.",
    ),
    unset(
        "ca_file",
        Kind::Path,
        "vault-ca.pem",
        "CAs of its certificate. Also VAULT_CACERT. Without it: the system's.",
    ),
    unset(
        "ca_path",
        Kind::Path,
        "vault-cas",
        "Folder of CA files, whatever their names, and of folders of them. Also VAULT_CAPATH.",
    ),
    unset(
        "ca_pem",
        Kind::Text,
        "-----BEGIN CERTIFICATE-----",
        "The CAs as text. Also VAULT_CACERT_BYTES.",
    ),
    unset(
        "cert_file",
        Kind::Path,
        "vault-client.pem",
        "Client certificate. Also VAULT_CLIENT_CERT.",
    ),
    unset(
        "key_file",
        Kind::Path,
        "vault-client-key.pem",
        "Its key. Also VAULT_CLIENT_KEY.",
    ),
    unset(
        "server_name",
        Kind::Text,
        "vault.example.com",
        "Name to verify. Also VAULT_TLS_SERVER_NAME.",
    ),
    key(
        "skip_verify",
        Kind::Bool,
        "false",
        "Takes any certificate. Also VAULT_SKIP_VERIFY.",
    ),
    unset(
        "namespace",
        Kind::Text,
        "team",
        "Namespace. Also VAULT_NAMESPACE.",
    ),
    unset(
        "token",
        Kind::Secret,
        "hvs.…",
        "Token, also a wrapped one, which is unwrapped once. It is renewed while it can be. Also VAULT_TOKEN.",
    ),
    unset(
        "token_file",
        Kind::Path,
        "vault-token",
        "A file that holds it, read again when it changes.",
    ),
    key(
        "timeout",
        Kind::Time(100, HOUR),
        "60s",
        "Limit for one request. Also VAULT_CLIENT_TIMEOUT.",
    ),
];

const ROUTES_HTTP: &[Key] = &[
    unset(
        "url",
        Kind::Secret,
        "https://routes.example.com/lb",
        "Where to ask, with GET. Answers up to 64 MiB are taken.",
    ),
    unset(
        "headers",
        Kind::Headers,
        "Authorization: Bearer 1234",
        "Sent with each request to the URL's host.",
    ),
    key(
        "refresh",
        Kind::Time(100, DAY),
        "10s",
        "Time from one answer to the next request.",
    ),
    key(
        "timeout",
        Kind::Time(100, HOUR),
        "5s",
        "Limit for one request.",
    ),
    unset(
        "ca_file",
        Kind::Path,
        "routes-ca.pem",
        "CAs of its certificate. Without it: the system's.",
    ),
    key("skip_verify", Kind::Bool, "false", "Takes any certificate."),
];

const STATIC_ROUTE: &[Key] = &[
    unset("service", Kind::Text, "web", "Name for metrics and logs."),
    unset(
        "source",
        Kind::Text,
        "www.example.com/api",
        "The place: HOST/PATH, /PATH, or :PORT for tcp.",
    ),
    unset(
        "targets",
        Kind::List,
        "http://10.0.0.5:8080",
        "Target URLs; names are resolved again by TTL.",
    ),
    key(
        "options",
        Kind::Text,
        "",
        "Options as in a tag: \"strip=/api proto=https\".",
    ),
];

const PROXY: &[Key] = &[
    key(
        "workers",
        Kind::Count(0, 1024),
        "0",
        "Worker threads. 0: one per core.",
    ),
    key(
        "strategy",
        Kind::Strategy,
        "p2c",
        "How an instance is chosen: p2c (two at random, the less busy one), rr, rnd, least, ewma, or hash:ip, \
         hash:path, hash:header:NAME, hash:cookie:NAME. A route may have its own (strategy= in the tag).",
    ),
    key(
        "matcher",
        Kind::Word(&["prefix", "iprefix", "glob"]),
        "prefix",
        "How a route's path is compared: prefix, iprefix (ignoring case) or glob.",
    ),
    key(
        "no_route_status",
        Kind::Count(200, 999),
        "404",
        "Status when no route matches.",
    ),
    unset(
        "no_route_page",
        Kind::Path,
        "no-route.html",
        "Page sent with it.",
    ),
    unset(
        "no_route_html",
        Kind::Text,
        "<h1>Not here</h1>",
        "The same as text; no_route_page wins.",
    ),
    key(
        "retry_after",
        Kind::Time(0, HOUR),
        "1s",
        "Retry-After of the 503 for a service that is registered but has no healthy instance.",
    ),
    key(
        "fall_through",
        Kind::Bool,
        "false",
        "A route whose instances are all out counts as not there: a shorter path or a less specific host serves, or \
         nobody. Else it answers that 503.",
    ),
    key(
        "host_patterns",
        Kind::Bool,
        "true",
        "Hosts of routes are patterns: *.example.com. false: text, which no host of a request is when it holds a `*`.",
    ),
    key(
        "merge_slashes",
        Kind::Bool,
        "false",
        "Instances get a path as routes are compared with it: without `//`, and where anything was cleaned, with `/` for \
         `%2F`. Else `//` and `%2F` are sent as they came. `.` and `..` are never sent.",
    ),
    key(
        "upstream_errors",
        Kind::Word(&["told", "bare"]),
        "told",
        "Answers when an upstream failed: with a line of text, or bare as in Fabio, which has 500 for what is no HTTP too.",
    ),
    key(
        "forwarded_host",
        Kind::Word(&["received", "sent"]),
        "received",
        "X-Forwarded-Host and -Port: of the host the client asked for, or of the one that host= of a tag put in its place.",
    ),
    unset(
        "local_ip",
        Kind::Text,
        "10.0.0.1",
        "Address for `by=` in the Forwarded header.",
    ),
    unset(
        "client_ip_header",
        Kind::Header,
        "X-Client-Ip",
        "Header that gets the client's address.",
    ),
    unset(
        "request_id_header",
        Kind::Header,
        "X-Request-Id",
        "Header that gets a fresh id with each request.",
    ),
    unset(
        "tls_header",
        Kind::Header,
        "X-Tls",
        "Header set on TLS listeners and removed on plain ones.",
    ),
    key("tls_header_value", Kind::Text, "true", "Its value."),
    key(
        "sts_max_age",
        Kind::Count(0, 10_000_000_000),
        "0",
        "max-age of Strict-Transport-Security in seconds, on TLS listeners. 0: no such header.",
    ),
    key(
        "sts_subdomains",
        Kind::Bool,
        "false",
        "Adds includeSubdomains to it.",
    ),
    key("sts_preload", Kind::Bool, "false", "Adds preload to it."),
    unset(
        "upstream_ca_file",
        Kind::Path,
        "upstream-ca.pem",
        "PEM file of CAs for instances that are reached by TLS. Without it: the system's.",
    ),
    key(
        "header_timeout",
        Kind::Time(100, HOUR),
        "10s",
        "Limit for a client to send its request head, or a ClientHello, or to finish a TLS handshake.",
    ),
    key(
        "idle_timeout",
        Kind::Time(100, DAY),
        "75s",
        "How long an idle client connection is kept. It has to be longer than what a balancer in front keeps its own: that \
         would send a request on a connection that is just being closed. AWS ALB keeps 60s, Azure Front Door 90s, Google's \
         balancers 600s (write 620s behind them).",
    ),
    key(
        "body_timeout",
        Kind::Time(100, DAY),
        "60s",
        "How long a client may pause inside a request body, or while not reading the answer.",
    ),
    key(
        "max_header_bytes",
        Kind::Count(1024, 16_777_216),
        "65536",
        "Largest request head in bytes; 431 above it.",
    ),
    key(
        "max_headers",
        Kind::Count(8, 4096),
        "128",
        "Most header fields of a request; 431 above it.",
    ),
    key(
        "max_streams",
        Kind::Count(1, 100_000),
        "250",
        "Most streams at a time on one HTTP/2 client connection.",
    ),
    key(
        "max_connections",
        Kind::Count(1, 10_000_000),
        "65536",
        "Most client connections per worker, fewer where the limit of open files is low; more wait in the kernel's queue.",
    ),
    key(
        "connect_timeout",
        Kind::Time(1, HOUR),
        "1s",
        "Limit to connect to an instance, TLS included.",
    ),
    key(
        "response_timeout",
        Kind::Time(1, DAY),
        "60s",
        "Limit from the request to the first byte of the answer; 504 after it. gRPC calls bring their own.",
    ),
    key(
        "response_idle_timeout",
        Kind::Time(0, DAY),
        "10m",
        "How long an instance may pause inside an answer while the client waits for more; the answer is cut then. Not for \
         websockets, gRPC and text/event-stream. 0s: without end.",
    ),
    key(
        "request_timeout",
        Kind::Time(0, DAY),
        "0s",
        "Limit for a request as a whole, from its head to the last byte of its answer: 504 where no answer has begun, \
         else it is cut. Not for websockets and gRPC. 0s: none.",
    ),
    key(
        "try_timeout",
        Kind::Time(0, DAY),
        "0s",
        "When a GET or HEAD has no first byte after this, another instance is asked too, within the retry budget, and the \
         first answer counts. It doubles requests that are slow by nature. 0s: never; frozen instances are found by \
         health.frozen_after.",
    ),
    key(
        "upstream_idle_timeout",
        Kind::Time(0, DAY),
        "4s",
        "How long an idle connection to an instance is kept. It has to be shorter than what the instances keep theirs: Node.js \
         closes after 5s, nginx after 75s, Go never. For gunicorn (2s) and Apache httpd (5s, counted in whole seconds) raise \
         theirs, or write 1s here.",
    ),
    key(
        "direct",
        Kind::Bool,
        "true",
        "Has no effect any more: there is one way for all requests. Older files that set it are still read, with a warning.",
    ),
    key(
        "upstream_max_idle",
        Kind::Count(0, 1_000_000),
        "256",
        "Most idle connections per instance and worker.",
    ),
    key(
        "keepalive",
        Kind::Time(0, DAY),
        "15s",
        "TCP keep-alive of connections to instances. 0s: the system's.",
    ),
    key(
        "tcp_idle_timeout",
        Kind::Time(0, 365 * DAY),
        "10m",
        "A TCP connection is closed after this time without a byte either way. 0s: never.",
    ),
    key(
        "removed_grace",
        Kind::Time(0, 365 * DAY),
        "30s",
        "TCP and upgraded connections whose instance is gone are cut after this time. 0s: never.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_key_is_documented_and_its_environment_name_is_its_own() {
        let mut names = BTreeSet::new();
        for section in SECTIONS {
            for key in section.keys {
                let path = section.path(key);
                assert!(
                    key.doc.ends_with('.') || key.doc.ends_with(')'),
                    "{path}: {}",
                    key.doc
                );
                assert!(key.default.is_some() || !key.example.is_empty(), "{path}");
                assert!(
                    names.insert(env_name(&path)),
                    "{path} shares its environment name"
                );
            }
        }
    }

    #[test]
    fn fields_of_the_access_log_are_listed() {
        let doc = section("log")
            .and_then(|log| log.key("access"))
            .unwrap()
            .doc;
        let listed: BTreeSet<&str> = doc.split(['$', ',', ' ']).collect();
        let missing: Vec<_> = super::super::ACCESS_FIELDS
            .iter()
            .filter(|(name, _)| !listed.contains(name))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn environment_names_follow_the_path() {
        assert_eq!(env_name("consul.ca_file"), "LB_CONSUL_CA_FILE");
        assert_eq!(env_name("routes_file"), "LB_ROUTES_FILE");
    }
}
