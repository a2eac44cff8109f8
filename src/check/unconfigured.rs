//! Routes that name an authentication scheme, a policy or a certificate which the configuration does
//! not have: they let no request in.

use std::path::Path;

use super::{Finding, Severity};
use crate::catalog::command::{Command, from_static, parse_commands};
use crate::catalog::options::RouteOptions;
use crate::config::Config;

/// What is wrong with a route that has these options, and what to do, for each name that is not
/// configured.
#[must_use]
pub fn unknown(config: &Config, options: &RouteOptions) -> Vec<(String, String)> {
    let schemes: Vec<&str> = config.auth.keys().map(String::as_str).collect();
    let policies: Vec<&str> = config.policies.keys().map(String::as_str).collect();
    let certificates: Vec<&str> = config.certificates.keys().map(String::as_str).collect();
    let certificate = options.client_certificate.as_deref();
    [
        ("auth", "auth", options.auth.as_deref(), schemes),
        ("policy", "policy", options.policy.as_deref(), policies),
        ("cert", "certificates", certificate, certificates),
    ]
    .into_iter()
    .filter_map(|(option, section, name, known)| {
        let name = name.filter(|name| !known.contains(name))?;
        let problem = format!(
            "names {option}={name}, but there is no [{section}.{name}]: every request is refused"
        );
        let advice = match crate::config::nearest(name, known) {
            Some(near) => format!("did you mean {option}={near}?"),
            None => format!("add [{section}.{name}], or take the option out"),
        };
        Some((problem, advice))
    })
    .collect()
}

/// The routes of the configuration itself and of its `routes_file`. Lines that cannot be read are
/// for others to report.
#[must_use]
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for route in &config.static_routes {
        if let Ok(commands) = from_static(route) {
            look_at(config, "configuration", &commands, &mut findings);
        }
    }
    look_at(
        config,
        "configuration",
        &parse_commands(&config.routes).0,
        &mut findings,
    );
    if let Some(path) = &config.routes_file {
        look_at(
            config,
            &path.display().to_string(),
            &commands_of(path),
            &mut findings,
        );
    }
    findings
}

fn commands_of(path: &Path) -> Vec<Command> {
    std::fs::read(path)
        .map(|bytes| parse_commands(&String::from_utf8_lossy(&bytes)).0)
        .unwrap_or_default()
}

fn look_at(config: &Config, file: &str, commands: &[Command], findings: &mut Vec<Finding>) {
    for command in commands {
        let Command::Add(add) = command else { continue };
        let key = &add.spec.key;
        for (problem, advice) in unknown(config, &add.spec.options) {
            let finding = Finding {
                severity: Severity::Error,
                file: file.to_owned(),
                line: None,
                subject: format!("service {}, route {}{}", add.service, key.host, key.path),
                value: None,
                problem,
                advice,
            };
            // A route with several targets is one mistake.
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Inputs, load};

    #[test]
    fn every_route_with_an_unknown_name_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (users, routes) = (
            folder.path().join("users"),
            folder.path().join("routes.txt"),
        );
        std::fs::write(&users, "a:b\n").unwrap();
        std::fs::write(&routes, "route add f /f http://127.0.0.1:1/ opts \"auth=none\"\nroute add g /g http://127.0.0.1:1/ opts \"auth=main\"\n").unwrap();
        let route = |source: &str, options: &str| {
            format!(
                "[[static.route]]\nservice = \"s\"\nsource = \"{source}\"\n\
                 targets = [\"http://127.0.0.1:1\", \"http://127.0.0.1:2\"]\noptions = \"{options}\"\n"
            )
        };
        let text = format!("routes_file = {routes:?}\n[auth.main]\nfile = {users:?}\n")
            + &route("/a", "auth=main")
            + &route("/b", "auth=mian")
            + &route("/c", "")
            + "[policy.strict]\nrate = \"1/s\"\n"
            + &route("/d", "policy=strict")
            + &route("/e", "policy=strikt")
            + &route("/f", "proto=https cert=main")
            + &route("/g", "proto=https cert=backent")
            + "[certificates.backend]\ncert_file = \"c\"\nkey_file = \"k\"\n";
        let config = load(&Inputs {
            file: Some(("lb.toml".into(), text)),
            ..Inputs::default()
        })
        .unwrap()
        .config;
        let found: Vec<_> = check(&config)
            .into_iter()
            .map(|it| (it.subject, it.advice))
            .collect();
        let wanted = [
            ("service s, route /b", "did you mean auth=main?"),
            ("service s, route /e", "did you mean policy=strict?"),
            (
                "service s, route /f",
                "add [certificates.main], or take the option out",
            ),
            ("service s, route /g", "did you mean cert=backend?"),
            (
                "service f, route /f",
                "add [auth.none], or take the option out",
            ),
        ];
        assert_eq!(
            found,
            wanted.map(|(subject, advice)| (subject.to_owned(), advice.to_owned()))
        );
    }
}
