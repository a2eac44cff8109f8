//! `[consul]`: agents, credentials, and what `CONSUL_*` adds.

use std::path::PathBuf;
use std::time::Duration;

use super::declare::{Checked, section};
use super::error::Location;
use super::key::{DAY, HOUR, MINUTE, SECOND};
use super::reader::Reader;
use super::register::RegisterConfig;
use super::secret::Secret;
use super::value::Urls;

section! {
    /// How to reach Consul and what to read there. Without this section, without CONSUL_* variables
    /// and with a static source (routes_file, routes, [routes_http] or [[static.route]]), Consul is
    /// not used at all.
    pub struct ConsulConfig is Once "consul" {
        /// Agents, tried in order, separated by commas: http://, https:// or unix:// URLs, with a
        /// path where they are behind a proxy that needs one. Without a scheme, https is used when
        /// a CA or client certificate is configured, else http. Also CONSUL_HTTP_ADDR and
        /// CONSUL_HTTP_SSL, which mean what they mean to Consul's own tools: http unless it says
        /// https, and the scheme's port where none is given. Proxies named in HTTP_PROXY or
        /// HTTPS_PROXY are not used.
        addresses as "address": Urls = "127.0.0.1:8500";

        /// PEM file of the CAs that sign the agents' certificates. Also CONSUL_CACERT. Without it:
        /// the system's.
        ca_file: Option<PathBuf> = unset "ca.pem";

        /// The same as text, in place of ca_file: for a configuration that is one file.
        ca_pem: Option<String> = unset "-----BEGIN CERTIFICATE-----…";

        /// Folder of such files, whatever their names, and of folders of them. Files without a CA
        /// are passed over. Also CONSUL_CAPATH, which counts only without CONSUL_CACERT.
        ca_path: Option<PathBuf> = unset "ca.d";

        /// Client certificate for agents that verify it (verify_incoming). Read again when it
        /// changes. Also CONSUL_CLIENT_CERT.
        cert_file: Option<PathBuf> = unset "client.pem";

        /// The same as text, in place of cert_file.
        cert_pem: Option<String> = unset "-----BEGIN CERTIFICATE-----…";

        /// Its private key. Also CONSUL_CLIENT_KEY.
        key_file: Option<PathBuf> = unset "client-key.pem";

        /// The same as text, in place of key_file. Never shown; keep the file to yourself (chmod
        /// 600).
        key_pem: Option<Secret> = unset "-----BEGIN PRIVATE KEY-----…";

        /// Name to verify in the agent's certificate instead of the address. Also
        /// CONSUL_TLS_SERVER_NAME.
        server_name: Option<String> = unset "server.dc1.consul";

        /// Accept any server certificate. For experiments only. Also CONSUL_HTTP_SSL_VERIFY=false.
        skip_verify: bool = "false";

        /// Sent with every request, as HTTP basic authentication: for something in front of the
        /// agents that requires it. Also CONSUL_HTTP_AUTH.
        http_auth: Option<Secret> = unset "USER:PASSWORD";

        /// ACL token. Better in a file. Also CONSUL_HTTP_TOKEN.
        token: Option<Secret> = unset "TOKEN";

        /// File that holds the ACL token; read again at every reload. Also CONSUL_HTTP_TOKEN_FILE.
        token_file: Option<PathBuf> = unset "token";

        /// Namespace (Consul Enterprise). Also CONSUL_NAMESPACE.
        namespace: Option<String> = unset "default";

        /// Admin partition (Consul Enterprise). Also CONSUL_PARTITION.
        partition: Option<String> = unset "default";

        /// Datacenter to read, and what $DC in a tag stands for. Without it: the agent's own.
        datacenter: Option<String> = unset "dc1";

        /// Where the KV store holds route commands (`route add`, `route del`, `route weight`),
        /// which act after all other routes. Every key that begins with this text counts, in the
        /// order of their names. The token needs key_prefix read.
        kv_path: Option<String> = unset "fabio/config" [restart];

        /// Where the KV store holds the page for requests without a route. While a key begins with
        /// this text, its value is sent in place of proxy.no_route_page and proxy.no_route_html. Up
        /// to 1 MiB. The token needs key_prefix read.
        no_route_kv_path: Option<String> = unset "fabio/noroute.html" [restart];

        /// Let any server respond, not the leader alone: cheaper, and it goes on while there is no
        /// leader.
        stale: bool = "true";

        /// A stale response older than this is read again in default mode. Without a leader it is
        /// kept all the same.
        max_stale: Duration = "5s" in (0, HOUR);

        /// How long a blocking query may wait for a change. Below a minute it survives most
        /// middleboxes.
        wait: Duration = "50s" in (SECOND, 10 * MINUTE);

        /// Everything is read again unconditionally this often (jittered), in case a change was
        /// missed.
        resync: Duration = "5m" in (10 * SECOND, DAY);

        /// When more than this share of all instances vanishes in one response, it is read a second
        /// time in default mode before it is believed.
        confirm_percent: u32 = "30" in (1, 100);

        /// Most connections to one agent. Over HTTPS a few carry everything. Over plain HTTP each
        /// watched service takes one while they suffice; with more services a few watches tell
        /// which of them changed. An agent grants 200 to all programs of a host together
        /// (limits.http_max_conns_per_client); what it closes is not opened again for a while.
        max_connections: usize = "96" in (1, 150) [restart];
    } and {
        /// `[consul.register]`.
        register: RegisterConfig;
    }
}

impl ConsulConfig {
    /// Whether there is a client certificate to be shown, whichever way it is given.
    #[must_use]
    pub fn has_certificate(&self) -> bool {
        self.cert_file.is_some() || self.cert_pem.is_some()
    }

    /// Whether what is read lies in a namespace or partition other than the default one, which
    /// holds the service `consul`.
    #[must_use]
    pub fn is_scoped(&self) -> bool {
        let other = |name: &Option<String>| {
            name.as_deref()
                .is_some_and(|name| !matches!(name, "" | "default"))
        };
        other(&self.namespace) || other(&self.partition)
    }
}

impl Checked for ConsulConfig {
    fn check(&mut self, reader: &mut Reader<'_>) {
        check_kv_path(reader, "kv_path", &mut self.kv_path);
        check_kv_path(reader, "no_route_kv_path", &mut self.no_route_kv_path);
        for (name, value) in [
            ("datacenter", &self.datacenter),
            ("namespace", &self.namespace),
            ("partition", &self.partition),
        ] {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if value
                .as_deref()
                .is_some_and(|value| !value.chars().all(fits))
            {
                reader.wrong(
                    name,
                    "cannot be such a name",
                    "use letters, digits, - and _",
                );
            }
        }
        if let Some(name) = &self.server_name
            && rustls::pki_types::ServerName::try_from(name.as_str()).is_err()
        {
            reader.wrong(
                "server_name",
                "is not a name a certificate can carry",
                "write it like server.dc1.consul",
            );
        }
        one_of(
            reader,
            ("ca_file", &mut self.ca_file),
            ("ca_pem", &mut self.ca_pem),
        );
        one_of(
            reader,
            ("cert_file", &mut self.cert_file),
            ("cert_pem", &mut self.cert_pem),
        );
        one_of(
            reader,
            ("key_file", &mut self.key_file),
            ("key_pem", &mut self.key_pem),
        );
        let given = |file: bool, pem: bool, names: [&'static str; 2]| match (file, pem) {
            (true, _) => Some(names[0]),
            (_, true) => Some(names[1]),
            _ => None,
        };
        let cert = given(
            self.cert_file.is_some(),
            self.cert_pem.is_some(),
            ["cert_file", "cert_pem"],
        );
        let key = given(
            self.key_file.is_some(),
            self.key_pem.is_some(),
            ["key_file", "key_pem"],
        );
        match (cert, key) {
            (Some("cert_pem"), None) => {
                reader.wrong("cert_pem", "has no key beside it", "set consul.key_pem too")
            }
            (Some(cert), None) => {
                reader.wrong(cert, "has no key beside it", "set consul.key_file too")
            }
            (None, Some("key_pem")) => reader.wrong(
                "key_pem",
                "has no certificate beside it",
                "set consul.cert_pem too",
            ),
            (None, Some(key)) => reader.wrong(
                key,
                "has no certificate beside it",
                "set consul.cert_file too",
            ),
            _ => {}
        }
        if self.token.is_some() && self.token_file.is_some() {
            reader.warn(
                "token",
                "is not used, because a token file is set too",
                "remove one of them",
            );
        }
        if [reader.place("ca_file"), reader.place("ca_path")]
            .into_iter()
            .all(is_of_consul)
        {
            // As in Consul's own tools.
            self.ca_path = None;
            reader.warn(
                "ca_path",
                "is not used, because CONSUL_CACERT goes before it",
                "unset one of them",
            );
        }
        self.addresses = Urls(consul_addresses(reader, self));
        if self.token_file.is_some() {
            self.token = None;
        }
    }
}

/// A prefix of keys; keys begin without a slash, which many write all the same.
fn check_kv_path(reader: &mut Reader<'_>, name: &'static str, path: &mut Option<String>) {
    let Some(path) = path else {
        return;
    };
    *path = path.trim_start_matches('/').to_owned();
    if path.is_empty() {
        reader.wrong(
            name,
            "is a prefix of every key there is",
            "write a path, as in \"fabio/config\"",
        );
    } else if path.chars().any(char::is_control) {
        reader.wrong(
            name,
            "holds a control character",
            "write a path, as in \"fabio/config\"",
        );
    }
}

/// A file and a text that say the same thing. Given side by side one of them is a mistake, and
/// which is not ours to guess; but an environment made for the command-line tools, or a flag, goes
/// before the file as it does everywhere.
fn one_of<T>(
    reader: &mut Reader<'_>,
    (file_key, file): (&'static str, &mut Option<PathBuf>),
    (pem_key, pem): (&'static str, &mut Option<T>),
) {
    if file.is_none() || pem.is_none() {
        return;
    }
    let in_file =
        |reader: &Reader<'_>, key| matches!(reader.place(key), Some(Location::File { .. }));
    match (in_file(reader, file_key), in_file(reader, pem_key)) {
        (false, true) => {
            *pem = None;
            reader.warn(
                pem_key,
                &format!("is not used, because consul.{file_key} goes before it"),
                "",
            );
        }
        (true, false) => {
            *file = None;
            reader.warn(
                file_key,
                &format!("is not used, because consul.{pem_key} goes before it"),
                "",
            );
        }
        _ => reader.wrong(
            pem_key,
            &format!("stands beside consul.{file_key}"),
            "remove one of them",
        ),
    }
}

/// The agents' URLs. A bare address gets its scheme from what else is configured; one from Consul's
/// own variables, and the default beside them, means what it means to Consul's own tools
/// (`NewClient` in its package `api`).
fn consul_addresses(reader: &mut Reader<'_>, config: &ConsulConfig) -> Vec<String> {
    let env = reader.context.consul;
    let from_variable = is_of_consul(reader.place("address"));
    let as_consul = from_variable || !reader.has("address");
    let asks_for_tls =
        |key: &&str| reader.has(key) && !(as_consul && is_of_consul(reader.place(key)));
    let wants_tls = ["ca_file", "ca_pem", "ca_path", "cert_file", "cert_pem"]
        .iter()
        .any(asks_for_tls);
    let (mut addresses, mut refused) = (Vec::new(), false);
    let written = config.addresses.join(",");
    for text in written
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
    {
        let (scheme, rest) = match text.split_once("://") {
            None if wants_tls || env.ssl => ("https", text),
            None => ("http", text),
            // The last word on this variable.
            Some(("http", rest)) if env.ssl && from_variable => ("https", rest),
            Some(("unix", _)) if env.ssl && from_variable => {
                reader.wrong(
                    "address",
                    "is a unix socket, but CONSUL_HTTP_SSL wants TLS",
                    "unset CONSUL_HTTP_SSL",
                );
                refused = true;
                continue;
            }
            Some(parts) => parts,
        };
        let url = match scheme {
            "http" | "https" if from_variable && !has_port(rest) => {
                let port = if scheme == "https" { 443 } else { 80 };
                let problem = format!("names no port, so {port} is used, as by Consul's own tools");
                reader.warn(
                    "address",
                    &problem,
                    "the port of agents is usually 8500, or 8501 for https",
                );
                let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                format!("{scheme}://{host}:{port}{path}")
            }
            "http" | "https" if text == rest && !has_port(rest) && !rest.contains('/') => {
                format!("{scheme}://{rest}:8500")
            }
            _ => format!("{scheme}://{rest}"),
        };
        if url.contains('@') && scheme != "unix" {
            let advice = "write USER:PASSWORD into consul.http_auth, or CONSUL_HTTP_AUTH";
            reader.wrong_secret("address", "holds credentials", advice);
            refused = true;
            continue;
        }
        if let Some(problem) = address_problem(&url) {
            let advice = "write http://HOST:PORT, https://HOST:PORT or unix:///path/to/socket";
            reader.wrong("address", &problem, advice);
            continue;
        }
        if url.starts_with("http://") && config.has_certificate() {
            let advice = "write https:// if the agent speaks TLS (its port is usually 8501)";
            reader.warn(
                "address",
                "is plain HTTP, so the client certificate is not used",
                advice,
            );
        }
        let url = url.trim_end_matches('/').to_owned();
        if !addresses.contains(&url) {
            addresses.push(url);
        }
    }
    if addresses.is_empty() && !reader.has("address") {
        addresses.push("http://127.0.0.1:8500".to_owned());
    } else if addresses.is_empty() && !refused {
        reader.wrong(
            "address",
            "names no agent",
            "write http://HOST:PORT or https://HOST:PORT",
        );
    }
    addresses
}

/// Whether a port stands behind the host.
fn has_port(rest: &str) -> bool {
    let authority = rest.split('/').next().unwrap_or_default();
    authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

/// Whether one of the variables of Consul's own tools says it.
fn is_of_consul(place: Option<&Location>) -> bool {
    matches!(place, Some(Location::Env(name)) if name.starts_with("CONSUL_"))
}

fn address_problem(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    match scheme {
        "unix" if rest.starts_with('/') => None,
        "unix" => Some("has no absolute path to a socket".to_owned()),
        "http" | "https" => match url.parse::<http::Uri>() {
            Ok(uri)
                if uri.port().is_some_and(|port| {
                    port.as_str().parse::<u16>().map_or(true, |port| port == 0)
                }) =>
            {
                Some("has a port that is not between 1 and 65535".to_owned())
            }
            Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) && uri.query().is_none() => {
                None
            }
            _ => Some("is not a URL of an agent".to_owned()),
        },
        other => Some(format!("has the unknown scheme {other}://")),
    }
}
