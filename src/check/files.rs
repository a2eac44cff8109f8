//! Files named in the configuration: they can be read, hold what they should, and secrets are not
//! readable by all users.

use std::path::Path;

use super::reading::Files;
use super::{Finding, Severity, certificates};
use crate::catalog::command::parse_commands;
use crate::catalog::error_pages::FILE_BYTES_MAX;
use crate::catalog::option_text;
use crate::config::{AuthKind, Config, JwtAuth, JwtKeys};
use crate::jwt::KeySet;
use crate::sources::{self, Look};

/// Looks at every file the configuration names. `now` in seconds since 1970.
#[must_use]
pub fn check_files(config: &Config, now: i64) -> Vec<Finding> {
    let mut files = Files::default();
    for source in sources::list() {
        for looked_at in source.looks(config) {
            look(&mut files, looked_at, now);
        }
    }
    certificates::check(config, now, &mut files);
    if let Some(path) = &config.proxy.no_route_page {
        files.read("proxy.no_route_page", path);
    }
    for (name, policy) in &config.policies {
        let pages = policy.policies.error_pages.iter();
        for path in pages.flat_map(|pages| pages.files()) {
            let key = format!("policy.{name}.error_pages");
            let content = files.read(&key, path);
            if content.is_some_and(|content| content.len() as u64 > FILE_BYTES_MAX) {
                let problem = format!("is larger than {FILE_BYTES_MAX} bytes");
                files.error(&key, path, &problem, "make it smaller");
            }
        }
    }
    for (name, scheme) in &config.auth {
        match &scheme.kind {
            AuthKind::Basic { file, .. } => {
                let key = format!("auth.{name}.file");
                files.secret(&key, file);
                files.read(&key, file);
            }
            AuthKind::Jwt(jwt) => token_keys(&mut files, name, jwt),
            AuthKind::External(_) => {}
        }
    }
    files.findings
}

/// Looks at the files of a scheme that takes tokens.
fn token_keys(files: &mut Files, name: &str, jwt: &JwtAuth) {
    match &jwt.keys {
        JwtKeys::File(path) => {
            let key = format!("auth.{name}.keys_file");
            let symmetric = jwt.algorithms.iter().any(|it| it.is_symmetric());
            if symmetric {
                files.secret(&key, path);
            }
            let Some(text) = files.read(&key, path) else {
                return;
            };
            match KeySet::parse(&text, symmetric) {
                Err(error) => files.error(
                    &key,
                    path,
                    &format!("cannot be used: {error}"),
                    "write a JWKS, or public keys and certificates in PEM, into it",
                ),
                Ok(keys) if keys.left_out > 0 => files.warning(
                    &key,
                    path,
                    &format!("holds {} keys that cannot be used", keys.left_out),
                    "take them out; RSA of 2048 bits or more, P-256, P-384 and Ed25519 can be used",
                ),
                Ok(_) => {}
            }
        }
        JwtKeys::Url {
            ca_file: Some(path),
            ..
        } => drop(files.read(&format!("auth.{name}.ca_file"), path)),
        JwtKeys::Url { ca_file: None, .. } => {}
    }
}

/// Looks at what a source names.
fn look(files: &mut Files, looked_at: Look<'_>, now: i64) {
    match looked_at {
        Look::File(key, path) => drop(files.read(key, path)),
        Look::Token(key, path) => token(files, key, path),
        Look::Authorities(key, pem) => certificates::source_authorities(files, key, pem, now),
        Look::AuthoritiesBelow(key, path) => certificates::authorities_below(files, key, path, now),
        Look::ClientPair { cert, key } => certificates::client_pair(files, cert, key, now),
        Look::CommandFile(key, path) => commands(files, key, path),
        Look::Commands(key, text) => {
            files
                .findings
                .extend(check_commands("configuration", key, text))
        }
    }
}

fn token(files: &mut Files, key: &str, path: &Path) {
    files.secret(key, path);
    let bytes = files.read(key, path);
    if bytes.is_some_and(|bytes| bytes.trim_ascii().is_empty()) {
        files.error(key, path, "is empty", "write the token into it");
    }
}

fn commands(files: &mut Files, key: &str, path: &Path) {
    let Some(bytes) = files.read(key, path) else {
        return;
    };
    match String::from_utf8(bytes) {
        Ok(text) => files
            .findings
            .extend(check_commands(&path.display().to_string(), "", &text)),
        Err(_) => files.error(key, path, "is not UTF-8 text", "save it as UTF-8"),
    }
}

/// What is wrong with a text of route commands. A line that makes no command is an error, as a tag
/// that makes no route is one: at run time it is passed over, and its route is missing.
#[must_use]
pub fn check_commands(file: &str, subject: &str, text: &str) -> Vec<Finding> {
    let (_, errors) = parse_commands(text);
    let findings = errors.into_iter().map(|error| Finding {
        severity: match error.is_remark() && !option_text::tells_of_protection(&error.reason) {
            true => Severity::Warning,
            false => Severity::Error,
        },
        file: file.to_owned(),
        line: Some(error.line),
        subject: subject.to_owned(),
        value: None,
        problem: format!("{:?}: {}", error.text, error.reason),
        advice: String::new(),
    });
    findings.collect()
}

/// Whether a text is one of route commands: its first line that is not a comment begins like one.
#[must_use]
pub fn are_commands(text: &str) -> bool {
    let is_comment =
        |line: &&str| line.is_empty() || line.starts_with('#') || line.starts_with("//");
    let first = text.lines().map(str::trim).find(|line| !is_comment(line));
    first.is_some_and(|line| line.split_whitespace().next() == Some("route"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_open_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "\n").unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .unwrap();
        let routes = dir.path().join("routes.txt");
        std::fs::write(
            &routes,
            "# fine\nroute add web /a http://127.0.0.1:1/\nroute ad\n",
        )
        .unwrap();
        let mut config = Config {
            routes_file: Some(routes),
            ..Config::default()
        };
        config.proxy.no_route_page = Some(dir.path().join("missing.html"));
        config.consul.as_mut().unwrap().token_file = Some(token);
        let found = check_files(&config, 0);
        let has = |subject: &str, part: &str| {
            found
                .iter()
                .any(|finding| finding.subject == subject && finding.problem.contains(part))
        };
        assert!(
            has("consul.token_file", "may be read by all users (mode 644)"),
            "{found:#?}"
        );
        assert!(has("consul.token_file", "is empty"), "{found:#?}");
        assert!(has("proxy.no_route_page", "cannot be read"), "{found:#?}");
        assert_eq!(
            found
                .iter()
                .filter(|finding| finding.line == Some(3))
                .count(),
            1,
            "{found:#?}"
        );
    }

    #[test]
    fn lines_are_judged_as_tags_of_job_files_are() {
        let cases = [
            ("route add web /a http://127.0.0.1:1/", None),
            ("route ad", Some(Severity::Error)),
            ("nonsense", Some(Severity::Error)),
            ("route add web /a", Some(Severity::Error)),
            ("route add web /a ftp://127.0.0.1:1/", Some(Severity::Error)),
            (
                "route add web /a http://127.0.0.1:1/ weight x",
                Some(Severity::Error),
            ),
            (
                "route add web /a http://127.0.0.1:1/ opts \"stirp=/x\"",
                Some(Severity::Warning),
            ),
            ("route add web /a http://127.0.0.1:1/ opts \"rate=5\"", None),
            (
                "route add web /a http://127.0.0.1:1/ opts \"rate=lots\"",
                Some(Severity::Error),
            ),
            (
                "route add web /a http://127.0.0.1:1/ opts \"ratelimit=5\"",
                Some(Severity::Error),
            ),
            (
                "route add web /a http://127.0.0.1:1/ opts \"ipallow=10.0.0.1\"",
                Some(Severity::Error),
            ),
        ];
        for (line, wanted) in cases {
            let text = format!("# comment\n{line}\n");
            let found = check_commands("f", "", &text);
            assert_eq!(
                found.first().map(|finding| finding.severity),
                wanted,
                "{line}: {found:?}"
            );
            assert!(
                found.iter().all(|finding| finding.line == Some(2)),
                "{found:?}"
            );
            let routes = Config {
                routes: text.clone(),
                routes_file: None,
                consul: None,
                ..Config::default()
            };
            let of_key = check_files(&routes, 0);
            assert_eq!(
                of_key.first().map(|finding| finding.severity),
                wanted,
                "{line}: {of_key:?}"
            );
            assert_eq!(are_commands(&text), line.starts_with("route"));
        }
        assert!(!are_commands("job \"x\" {}"));
    }
}
