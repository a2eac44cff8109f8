//! `[consul]`: agents, credentials, and what `CONSUL_*` adds.

use super::mistake::Mistake;
use super::overlay::ConsulEnvironment;
use super::reader::Reader;
use super::*;

/// Reads the section.
pub(super) fn consul(
    reader: &mut Reader<'_>,
    env: ConsulEnvironment,
    register: RegisterConfig,
    warnings: &mut Vec<Mistake>,
) -> ConsulConfig {
    let mut config = ConsulConfig {
        addresses: Vec::new(),
        ca_file: reader.path("ca_file"),
        ca_pem: reader.text("ca_pem"),
        ca_path: reader.path("ca_path"),
        cert_file: reader.path("cert_file"),
        cert_pem: reader.text("cert_pem"),
        key_file: reader.path("key_file"),
        key_pem: reader.text("key_pem"),
        server_name: reader.text("server_name"),
        skip_verify: reader.bool("skip_verify"),
        http_auth: reader.text("http_auth"),
        token: reader.text("token"),
        token_file: reader.path("token_file"),
        namespace: reader.text("namespace"),
        partition: reader.text("partition"),
        datacenter: reader.text("datacenter"),
        kv_path: kv_path(reader, "kv_path"),
        no_route_kv_path: kv_path(reader, "no_route_kv_path"),
        stale: reader.bool("stale"),
        max_stale: reader.time("max_stale"),
        wait: reader.time("wait"),
        resync: reader.time("resync"),
        confirm_percent: reader.count("confirm_percent"),
        max_connections: reader.count("max_connections"),
        register,
    };
    for (name, value) in [
        ("datacenter", &config.datacenter),
        ("namespace", &config.namespace),
        ("partition", &config.partition),
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
    if let Some(name) = &config.server_name
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
        ("ca_file", &mut config.ca_file),
        ("ca_pem", &mut config.ca_pem),
        warnings,
    );
    one_of(
        reader,
        ("cert_file", &mut config.cert_file),
        ("cert_pem", &mut config.cert_pem),
        warnings,
    );
    one_of(
        reader,
        ("key_file", &mut config.key_file),
        ("key_pem", &mut config.key_pem),
        warnings,
    );
    let given = |file: bool, pem: bool, names: [&'static str; 2]| match (file, pem) {
        (true, _) => Some(names[0]),
        (_, true) => Some(names[1]),
        _ => None,
    };
    let cert = given(
        config.cert_file.is_some(),
        config.cert_pem.is_some(),
        ["cert_file", "cert_pem"],
    );
    let key = given(
        config.key_file.is_some(),
        config.key_pem.is_some(),
        ["key_file", "key_pem"],
    );
    match (cert, key) {
        (Some("cert_pem"), None) => {
            reader.wrong("cert_pem", "has no key beside it", "set consul.key_pem too")
        }
        (Some(cert), None) => reader.wrong(cert, "has no key beside it", "set consul.key_file too"),
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
    if config.token.is_some() && config.token_file.is_some() {
        warnings.push(reader.about(
            "token",
            "is not used, because a token file is set too",
            "remove one of them",
        ));
    }
    if [reader.place("ca_file"), reader.place("ca_path")]
        .into_iter()
        .all(is_of_consul)
    {
        // As in Consul's own tools.
        config.ca_path = None;
        warnings.push(reader.about(
            "ca_path",
            "is not used, because CONSUL_CACERT goes before it",
            "unset one of them",
        ));
    }
    let addresses = consul_addresses(reader, &config, env, warnings);
    let token = if config.token_file.is_some() {
        None
    } else {
        config.token
    };
    ConsulConfig {
        addresses,
        token,
        ..config
    }
}

/// A prefix of keys; keys begin without a slash, which many write all the same.
fn kv_path(reader: &mut Reader<'_>, name: &'static str) -> Option<String> {
    let path = reader.text(name)?;
    let trimmed = path.trim_start_matches('/');
    if trimmed.is_empty() {
        reader.wrong(
            name,
            "is a prefix of every key there is",
            "write a path, as in \"fabio/config\"",
        );
    } else if trimmed.chars().any(char::is_control) {
        reader.wrong(
            name,
            "holds a control character",
            "write a path, as in \"fabio/config\"",
        );
    }
    Some(trimmed.to_owned())
}

/// Reads `[consul.register]`.
pub(super) fn register(reader: &mut Reader<'_>) -> RegisterConfig {
    let config = RegisterConfig {
        enabled: reader.bool("enabled"),
        aliases: reader.bool("aliases"),
        name: reader.text_or_empty("name"),
        address: reader.socket_if_set("address"),
        tags: reader.list("tags"),
        check_interval: reader.time("check_interval"),
        check_timeout: reader.time("check_timeout"),
        check_skip_verify: reader.bool("check_skip_verify"),
    };
    if config.name.is_empty() {
        reader.wrong("name", "is empty", "name the service, as in name = \"lb\"");
    }
    config
}

/// A file and a text that say the same thing. Given side by side one of them is a mistake, and
/// which is not ours to guess; but an environment made for the command-line tools, or a flag, goes
/// before the file as it does everywhere.
fn one_of(
    reader: &mut Reader<'_>,
    (file_key, file): (&'static str, &mut Option<PathBuf>),
    (pem_key, pem): (&'static str, &mut Option<String>),
    warnings: &mut Vec<Mistake>,
) {
    if file.is_none() || pem.is_none() {
        return;
    }
    let in_file = |reader: &Reader<'_>, key| matches!(reader.place(key), Some(Place::File { .. }));
    match (in_file(reader, file_key), in_file(reader, pem_key)) {
        (false, true) => {
            *pem = None;
            warnings.push(reader.about(
                pem_key,
                &format!("is not used, because consul.{file_key} goes before it"),
                "",
            ));
        }
        (true, false) => {
            *file = None;
            warnings.push(reader.about(
                file_key,
                &format!("is not used, because consul.{pem_key} goes before it"),
                "",
            ));
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
fn consul_addresses(
    reader: &mut Reader<'_>,
    config: &ConsulConfig,
    env: ConsulEnvironment,
    warnings: &mut Vec<Mistake>,
) -> Vec<String> {
    let from_variable = is_of_consul(reader.place("address"));
    let as_consul = from_variable || !reader.has("address");
    let asks_for_tls =
        |key: &&str| reader.has(key) && !(as_consul && is_of_consul(reader.place(key)));
    let wants_tls = ["ca_file", "ca_pem", "ca_path", "cert_file", "cert_pem"]
        .iter()
        .any(asks_for_tls);
    let (mut addresses, mut refused) = (Vec::new(), false);
    let written = reader.list("address").join(",");
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
                    "is a unix socket, but CONSUL_HTTP_SSL asks for TLS",
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
                warnings.push(reader.about(
                    "address",
                    &problem,
                    "the port of agents is usually 8500, or 8501 for https",
                ));
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
            warnings.push(reader.about(
                "address",
                "is plain HTTP, so the client certificate is not used",
                advice,
            ));
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
fn is_of_consul(place: Option<&Place>) -> bool {
    matches!(place, Some(Place::Env(name)) if name.starts_with("CONSUL_"))
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
