//! What the environment and the command line put on top of the file.

use super::error::{ConfigError, Location, nearer_than};
use super::keys::{Key, SCHEMA, SECTIONS, Section, Shape, env_name, section};
use super::raw::{Entry, Group, RawValue, Settings};
use super::reader::ConsulEnvironment;
use super::schema::{ITEMS_MAX, is_name};
use super::slot::{Slot, resolve};
use super::typed::parse_bool;

/// Layer of `CONSUL_*`, `VAULT_*` and `NOMAD_*`.
const CONSUL: u8 = 1;
/// Layer of `LB_*`.
const ENV: u8 = 2;
/// Layer of flags.
const FLAG: u8 = 3;

/// Consul's own variables and the keys they fill.
const CONSUL_VARIABLES: &[(&str, &str)] = &[
    ("CONSUL_HTTP_ADDR", "address"),
    ("CONSUL_CACERT", "ca_file"),
    ("CONSUL_CAPATH", "ca_path"),
    ("CONSUL_CLIENT_CERT", "cert_file"),
    ("CONSUL_CLIENT_KEY", "key_file"),
    ("CONSUL_TLS_SERVER_NAME", "server_name"),
    ("CONSUL_HTTP_AUTH", "http_auth"),
    ("CONSUL_HTTP_TOKEN", "token"),
    ("CONSUL_HTTP_TOKEN_FILE", "token_file"),
    ("CONSUL_NAMESPACE", "namespace"),
    ("CONSUL_PARTITION", "partition"),
];

/// The variable of Consul's own tools that fills this key (`consul.ca_file`), if there is one.
#[must_use]
pub fn consul_variable(key: &str) -> Option<&'static str> {
    let name = key.strip_prefix("consul.")?;
    CONSUL_VARIABLES
        .iter()
        .find(|(_, known)| *known == name)
        .map(|(variable, _)| *variable)
}

/// Nomad's own variables and the keys they fill. Of two for one key the first that is set wins.
const NOMAD_VARIABLES: &[(&str, &str)] = &[
    ("NOMAD_ADDR", "address"),
    ("NOMAD_UNIX_ADDR", "address"),
    ("NOMAD_CACERT", "ca_file"),
    ("NOMAD_CLIENT_CERT", "cert_file"),
    ("NOMAD_CLIENT_KEY", "key_file"),
    ("NOMAD_TLS_SERVER_NAME", "server_name"),
    ("NOMAD_TOKEN", "token"),
    ("NOMAD_REGION", "region"),
    ("NOMAD_NAMESPACE", "namespaces"),
];

/// Vault's own variables and the keys they fill. Of two for one key the first that is set wins.
const VAULT_VARIABLES: &[(&str, &str)] = &[
    ("VAULT_AGENT_ADDR", "address"),
    ("VAULT_ADDR", "address"),
    ("VAULT_CACERT", "ca_file"),
    ("VAULT_CACERT_BYTES", "ca_pem"),
    ("VAULT_CAPATH", "ca_path"),
    ("VAULT_CLIENT_CERT", "cert_file"),
    ("VAULT_CLIENT_KEY", "key_file"),
    ("VAULT_TLS_SERVER_NAME", "server_name"),
    ("VAULT_SKIP_VERIFY", "skip_verify"),
    ("VAULT_NAMESPACE", "namespace"),
    ("VAULT_TOKEN", "token"),
    ("VAULT_CLIENT_TIMEOUT", "timeout"),
];

/// Takes `CONSUL_*`.
pub(crate) fn consul(
    env: &[(String, String)],
    settings: &mut Settings,
    mistakes: &mut Vec<ConfigError>,
) -> ConsulEnvironment {
    let mut found = ConsulEnvironment::default();
    let Some(section) = section("consul") else {
        return found;
    };
    let value_of = |name: &str| {
        env.iter()
            .find(|(known, value)| known == name && !value.is_empty())
    };
    let mut put = |name: &str, key: &str, value: String| {
        if let Some(key) = section.key(key) {
            let place = Location::Env(name.to_owned());
            let group = settings
                .once
                .entry(section.name)
                .or_insert_with(|| Group::new(Location::Absent));
            put_token_aware(
                group,
                key,
                Entry {
                    value: RawValue::Bare(value),
                    place,
                    layer: CONSUL,
                },
            );
        }
    };
    for (name, key) in CONSUL_VARIABLES {
        if let Some((_, value)) = value_of(name) {
            found.any = true;
            let value = if *name == "CONSUL_TLS_SERVER_NAME" {
                without_port(value)
            } else {
                value
            };
            put(name, key, value.to_owned());
        }
    }
    for name in ["CONSUL_HTTP_SSL", "CONSUL_HTTP_SSL_VERIFY"] {
        let Some((_, value)) = value_of(name) else {
            continue;
        };
        found.any = true;
        match (name, parse_bool(value)) {
            ("CONSUL_HTTP_SSL", Some(on)) => found.ssl = on,
            (_, Some(verify)) => put(name, "skip_verify", (!verify).to_string()),
            (_, None) => mistakes.push(ConfigError {
                key: name.to_owned(),
                value: Some(format!("{value:?}")),
                place: Location::Env(name.to_owned()),
                problem: "is neither true nor false".to_owned(),
                advice: "set it to true or false".to_owned(),
            }),
        }
    }
    found
}

/// Consul's tools take an address for a name, and leave its port out.
fn without_port(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') && !host.contains(':') => host,
        _ => name,
    }
}

/// Takes `VAULT_*`.
pub(crate) fn vault(env: &[(String, String)], settings: &mut Settings) {
    let Some(section) = section("vault") else {
        return;
    };
    for (name, key) in VAULT_VARIABLES.iter().rev() {
        let Some((_, value)) = env
            .iter()
            .find(|(known, value)| known == name && !value.is_empty())
        else {
            continue;
        };
        let Some(key) = section.key(key) else {
            continue;
        };
        // Vault's tools take a plain number for seconds.
        let seconds = key.name == "timeout" && value.bytes().all(|byte| byte.is_ascii_digit());
        let value = if seconds {
            format!("{value}s")
        } else {
            value.clone()
        };
        let place = Location::Env((*name).to_owned());
        let group = settings
            .once
            .entry(section.name)
            .or_insert_with(|| Group::new(Location::Absent));
        put_token_aware(
            group,
            key,
            Entry {
                value: RawValue::Bare(value),
                place,
                layer: CONSUL,
            },
        );
    }
}

/// Takes `NOMAD_*`, for what nothing else has set, and only where something else turns the source
/// on. Called after all others: every task of Nomad has such variables, which say where it runs and
/// not what this configuration means.
pub(crate) fn nomad(env: &[(String, String)], settings: &mut Settings) {
    let Some(section) = section("nomad") else {
        return;
    };
    if !settings.present.contains(section.name) && !settings.once.contains_key(section.name) {
        return;
    }
    let group = settings
        .once
        .entry(section.name)
        .or_insert_with(|| Group::new(Location::Absent));
    for (name, key) in NOMAD_VARIABLES {
        let is_set = |key: &str| group.entries.contains_key(key);
        let has_token = *key == "token" && is_set("token_file");
        let value = env
            .iter()
            .find(|(known, value)| known == name && !value.is_empty());
        let (Some((_, value)), Some(key)) = (value, section.key(key)) else {
            continue;
        };
        if is_set(key.name) || has_token {
            continue;
        }
        let entry = Entry {
            value: RawValue::Bare(value.clone()),
            place: Location::Env((*name).to_owned()),
            layer: CONSUL,
        };
        group.put(key, entry);
    }
}

/// A token from a later layer replaces a token file of an earlier one, and the other way round.
fn put_token_aware(group: &mut Group, key: &'static Key, entry: Entry) {
    let rival = match key.name {
        "token" => "token_file",
        "token_file" => "token",
        _ => "",
    };
    if group
        .entries
        .get(rival)
        .is_some_and(|old| old.layer < entry.layer)
    {
        group.entries.remove(rival);
    }
    group.put(key, entry);
}

/// Takes `LB_*`. An unknown name is a warning only: other programs use such names too (Kubernetes
/// sets `LB_SERVICE_HOST` for a service called `lb`).
pub(crate) fn environment(
    env: &[(String, String)],
    settings: &mut Settings,
    mistakes: &mut Vec<ConfigError>,
    warnings: &mut Vec<ConfigError>,
) {
    let mut ours: Vec<_> = env
        .iter()
        .filter(|(name, value)| name.starts_with("LB_") && !value.is_empty())
        .collect();
    // Short forms replace whole lists, so they come before keys of single entries.
    ours.sort_by_key(|(name, _)| (name.len(), name.clone()));
    for (name, value) in ours {
        let place = Location::Env(name.clone());
        match path_of(name).as_deref().and_then(resolve) {
            Some(slot) => put(settings, slot, value, place, ENV, mistakes),
            None => {
                // Stricter than for keys, and blind to the prefix all of them share: most such
                // names are not ours.
                let bare = |name: &str| name.trim_start_matches("LB_").to_ascii_lowercase();
                let known: Vec<String> = SECTIONS
                    .iter()
                    .flat_map(|section| {
                        section
                            .keys
                            .iter()
                            .map(|key| bare(&env_name(&section.path(key))))
                    })
                    .collect();
                if let Some(near) = nearer_than(0.93, &bare(name), known.iter().map(String::as_str))
                {
                    warnings.push(ConfigError {
                        key: String::new(),
                        value: None,
                        place,
                        problem: "is not a known variable and has no effect".to_owned(),
                        advice: format!("did you mean LB_{}?", near.to_ascii_uppercase()),
                    });
                }
            }
        }
    }
}

/// The dotted path an environment name stands for.
fn path_of(name: &str) -> Option<String> {
    for section in SECTIONS {
        match section.shape {
            Shape::Top | Shape::Once => {
                let mut keys = section.keys.iter().chain(section.moved());
                if let Some(key) = keys.find(|key| env_name(&section.path(key)) == name) {
                    return Some(section.path(key));
                }
            }
            Shape::List | Shape::Named => {
                let Some(rest) = name.strip_prefix(&env_name(section.name)) else {
                    continue;
                };
                if rest.is_empty() {
                    return Some(section.name.to_owned());
                }
                let Some(rest) = rest.strip_prefix('_').map(str::to_ascii_lowercase) else {
                    continue;
                };
                // The longest key wins: NAME_CLIENT_CA_FILE is client_ca_file of NAME, whatever
                // shorter key fits.
                let longest = section
                    .keys
                    .iter()
                    .filter_map(|key| {
                        Some((key.name, rest.strip_suffix(key.name)?.strip_suffix('_')?))
                    })
                    .max_by_key(|(key, _)| key.len());
                if let Some((key, which)) = longest {
                    return Some(format!("{}.{which}.{key}", section.name));
                }
            }
        }
    }
    None
}

/// Takes flags: dotted path and value, in their order.
pub(crate) fn flags(
    flags: &[(String, String)],
    settings: &mut Settings,
    mistakes: &mut Vec<ConfigError>,
) {
    let mut replaced = Vec::new();
    // As in the environment: whole entries first, then keys of entries.
    let (short, single): (Vec<_>, Vec<_>) = flags
        .iter()
        .partition(|(path, _)| matches!(resolve(path), Some(Slot::Short(_))));
    for (path, value) in short.into_iter().chain(single) {
        let place = Location::Flag(format!("--{path}"));
        match resolve(path) {
            // The first of a repeated flag replaces what the file says, the others add to it.
            Some(Slot::Short(section)) => {
                if !replaced.contains(&section.name) {
                    replaced.push(section.name);
                    settings.lists.remove(section.name);
                }
                short_form(settings, section, value, place, FLAG, mistakes);
            }
            Some(slot) => put(settings, slot, value, place, FLAG, mistakes),
            None => {
                let name = path.rsplit('.').next().unwrap_or(path);
                let section = path.split_once('.').and_then(|(first, _)| section(first));
                mistakes.push(SCHEMA.unknown(section, name, path.clone(), place));
            }
        }
    }
}

fn put(
    settings: &mut Settings,
    slot: Slot,
    value: &str,
    place: Location,
    layer: u8,
    mistakes: &mut Vec<ConfigError>,
) {
    let entry = Entry {
        value: RawValue::Bare(value.to_owned()),
        place: place.clone(),
        layer,
    };
    match slot {
        Slot::Scalar(section, key) => {
            let group = settings
                .once
                .entry(section.name)
                .or_insert_with(|| Group::new(Location::Absent));
            put_token_aware(group, key, entry);
        }
        Slot::Named(section, name, key) => {
            let groups = settings.named.entry(section.name).or_default();
            groups
                .entry(name)
                .or_insert_with(|| Group::new(place))
                .put(key, entry);
        }
        Slot::Item(section, at, key) => {
            let groups = settings.lists.entry(section.name).or_default();
            if at == groups.len() && at < ITEMS_MAX {
                groups.push(Group::new(place));
            }
            match groups.get_mut(at) {
                Some(group) => group.put(key, entry),
                None => mistakes.push(ConfigError {
                    key: format!("{}.{at}.{}", section.name, key.name),
                    value: None,
                    place: entry.place,
                    problem: format!("speaks of entry {at}, but there are {}", groups.len()),
                    advice: "entries are counted from 0; the next new one may be added".to_owned(),
                }),
            }
        }
        Slot::Short(section) => {
            settings.lists.remove(section.name);
            short_form(settings, section, value, place, layer, mistakes);
        }
    }
}

/// The short form of a repeated section: a whole entry, or several, in one text.
fn short_form(
    settings: &mut Settings,
    section: &'static Section,
    value: &str,
    place: Location,
    layer: u8,
    mistakes: &mut Vec<ConfigError>,
) {
    let between = if section.name == "static.route" {
        [';', '\n']
    } else {
        [',', '\n']
    };
    for text in value
        .split(between)
        .map(str::trim)
        .filter(|text| !text.is_empty())
    {
        let parts = if section.name == "static.route" {
            route_parts(text)
        } else {
            semicolon_parts(section, text)
        };
        let mut group = Group::new(place.clone());
        let mut name = None;
        for (key, part) in parts {
            let entry = Entry {
                value: RawValue::Bare(part.to_owned()),
                place: place.clone(),
                layer,
            };
            match section.key(key) {
                Some(key) => group.put(key, entry),
                None if key.is_empty() && section.shape == Shape::Named => {
                    name = Some(part.to_owned())
                }
                None => mistakes.push(SCHEMA.unknown(
                    Some(section),
                    key,
                    format!("{}.{key}", section.name),
                    place.clone(),
                )),
            }
        }
        match (section.shape, name) {
            (Shape::Named, Some(name)) if is_name(&name) => {
                let groups = settings.named.entry(section.name).or_default();
                let old = groups
                    .entry(name)
                    .or_insert_with(|| Group::new(place.clone()));
                old.entries.extend(group.entries);
            }
            (Shape::Named, _) => mistakes.push(ConfigError {
                key: section.name.to_owned(),
                value: Some(format!("{text:?}")),
                place: place.clone(),
                problem: "does not begin with a name".to_owned(),
                advice: "write it like 'main;cert_file=site.pem;key_file=site-key.pem'".to_owned(),
            }),
            _ => {
                let groups = settings.lists.entry(section.name).or_default();
                if groups.len() < ITEMS_MAX {
                    groups.push(group);
                }
            }
        }
    }
}

/// `FIRST;key=value;key`: the first part is the address or the name, a bare word is a switch.
fn semicolon_parts<'a>(section: &Section, text: &'a str) -> Vec<(&'a str, &'a str)> {
    let first = if section.shape == Shape::Named {
        ""
    } else {
        "address"
    };
    let parts = text
        .split(';')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .enumerate();
    parts
        .map(|(at, part)| match part.split_once('=') {
            Some((key, value)) => (key.trim(), value.trim()),
            None if at == 0 => (first, part),
            None => (part, "true"),
        })
        .collect()
}

/// `SERVICE PLACE URL[,URL] [OPTIONS]`.
fn route_parts(text: &str) -> Vec<(&str, &str)> {
    let mut rest = text;
    let mut parts = Vec::new();
    for key in ["service", "source", "targets"] {
        let (word, tail) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        if !word.is_empty() {
            parts.push((key, word));
        }
        rest = tail.trim_start();
    }
    if !rest.is_empty() {
        parts.push(("options", rest));
    }
    parts
}
