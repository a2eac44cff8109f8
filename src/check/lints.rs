//! Judges the services of job files: tags that make no route, and what loses requests in a rolling
//! deployment.

use std::collections::{BTreeMap, HashMap};

use super::jobs::{JobService, JobTag, services};
use super::{Finding, Severity, unconfigured};
use crate::catalog::allowed_options::forbidden_text;
use crate::catalog::option_text;
use crate::catalog::options::RouteOptions;
use crate::catalog::tag::{RouteKey, parse_tag};
use crate::config::Config;

/// Where a route was seen first.
struct Claim {
    service: String,
    place: String,
}

/// Checks job files, given as name and text, against a tag prefix. `config`: where one is given,
/// what tags name has to be in it.
#[must_use]
pub fn check_jobs(
    files: &[(String, String)],
    prefix: &str,
    config: Option<&Config>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut claims: BTreeMap<RouteKey, Claim> = BTreeMap::new();
    for (file, text) in files {
        match services(text) {
            Err(error) => findings.push(Finding {
                severity: Severity::Error,
                file: file.clone(),
                line: error.line,
                subject: String::new(),
                value: None,
                problem: error.problem,
                advice: "`nomad job validate` shows more".to_owned(),
            }),
            Ok(services) => {
                for service in &services {
                    Judge {
                        file,
                        prefix,
                        config,
                        service,
                        findings: &mut findings,
                        claims: &mut claims,
                    }
                    .judge();
                }
            }
        }
    }
    findings
}

struct Judge<'a> {
    file: &'a str,
    prefix: &'a str,
    config: Option<&'a Config>,
    service: &'a JobService,
    findings: &'a mut Vec<Finding>,
    claims: &'a mut BTreeMap<RouteKey, Claim>,
}

impl Judge<'_> {
    fn judge(mut self) {
        let service = self.service;
        let tags = || service.tags.iter().chain(&service.canary_tags);
        for tag in tags() {
            self.tag(tag);
        }
        for &line in &service.unread {
            self.note(
                Severity::Warning,
                line,
                None,
                "has tags that only Nomad can evaluate",
                "they were not checked",
            );
        }
        let routed = tags().any(|tag| tag.sample.trim().starts_with(self.prefix));
        if routed && !service.has_check {
            let advice = "add a check block: until one passes, an instance that is still starting gets traffic";
            self.note(
                Severity::Warning,
                service.line,
                None,
                "has routes but no check",
                advice,
            );
        }
        if routed && !service.has_shutdown_delay {
            let advice = "add shutdown_delay = \"3s\" to the group: Nomad stops a task without waiting for its routes \
                          to be withdrawn";
            self.note(
                Severity::Warning,
                service.line,
                None,
                "has routes but no shutdown_delay",
                advice,
            );
        }
    }

    fn tag(&mut self, tag: &JobTag) {
        let value = || Some(format!("{:?}", tag.text));
        // Nomad expands what it knows; `$DC` alone is left for us.
        let env = HashMap::from([("DC".to_owned(), "dc1".to_owned())]);
        match parse_tag(self.prefix, &tag.sample, &env) {
            None => self.near_prefix(tag),
            Some(Err(error)) if tag.open => {
                let problem = format!("has a tag that may make no route: {}", error.fault);
                let advice = "check what the interpolation becomes";
                self.note(Severity::Warning, tag.line, value(), &problem, advice);
            }
            Some(Err(error)) => {
                let problem = format!("has a tag that makes no route: {}", error.fault);
                self.note(Severity::Error, tag.line, value(), &problem, "");
            }
            Some(Ok(parsed)) => {
                self.forbidden(tag, &parsed.spec.options);
                for text in parsed.unknown.iter().chain(&parsed.warnings) {
                    let severity = match option_text::tells_of_protection(text) {
                        true => Severity::Error,
                        false => Severity::Warning,
                    };
                    self.note(
                        severity,
                        tag.line,
                        value(),
                        &format!("has a tag with a doubt: {text}"),
                        "",
                    );
                }
                let options = &parsed.spec.options;
                let unknown = self
                    .config
                    .map(|config| unconfigured::unknown(config, options));
                for (problem, advice) in unknown.into_iter().flatten() {
                    let severity = if tag.open {
                        Severity::Warning
                    } else {
                        Severity::Error
                    };
                    self.note(
                        severity,
                        tag.line,
                        value(),
                        &format!("has a tag that {problem}"),
                        &advice,
                    );
                }
                if !tag.open {
                    self.claim(parsed.spec.key, tag);
                }
            }
        }
    }

    /// An option that the configuration does not let tags carry.
    fn forbidden(&mut self, tag: &JobTag, options: &RouteOptions) {
        let forbidden = self
            .config
            .and_then(|config| config.tags.allowed.forbidden(options));
        if let Some(option) = forbidden {
            let problem = format!("has a tag that makes no route: {}", forbidden_text(option));
            let value = Some(format!("{:?}", tag.text));
            self.note(Severity::Error, tag.line, value, &problem, "");
        }
    }

    /// `urlprefix/x` or `UrlPrefix-x`: hardly meant as a plain tag.
    fn near_prefix(&mut self, tag: &JobTag) {
        let word = self
            .prefix
            .trim_end_matches(|c: char| !c.is_alphanumeric())
            .to_ascii_lowercase();
        if !word.is_empty() && tag.sample.trim().to_ascii_lowercase().starts_with(&word) {
            let advice = format!("write {}HOST/PATH", self.prefix);
            let problem = "has a tag that is nearly a route";
            self.note(
                Severity::Warning,
                tag.line,
                Some(format!("{:?}", tag.text)),
                problem,
                &advice,
            );
        }
    }

    fn claim(&mut self, key: RouteKey, tag: &JobTag) {
        match self.claims.get(&key) {
            Some(claim) if claim.service != self.service.name => {
                let problem = format!(
                    "claims a route that is {}'s too ({})",
                    claim.service, claim.place
                );
                let advice = "requests will be spread over both services";
                self.note(
                    Severity::Warning,
                    tag.line,
                    Some(format!("{:?}", tag.text)),
                    &problem,
                    advice,
                );
            }
            Some(_) => {}
            None => {
                let place = format!("{}:{}", self.file, tag.line);
                self.claims.insert(
                    key,
                    Claim {
                        service: self.service.name.clone(),
                        place,
                    },
                );
            }
        }
    }

    fn note(
        &mut self,
        severity: Severity,
        line: usize,
        value: Option<String>,
        problem: &str,
        advice: &str,
    ) {
        self.findings.push(Finding {
            severity,
            file: self.file.to_owned(),
            line: Some(line),
            subject: self.service.place(),
            value,
            problem: problem.to_owned(),
            advice: advice.to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::allowed_options::AllowedOptions;

    fn check(text: &str) -> Vec<String> {
        let findings = check_jobs(&[("j.hcl".to_owned(), text.to_owned())], "urlprefix-", None);
        let line = |finding: &Finding| finding.line.unwrap_or_default();
        findings
            .iter()
            .map(|it| format!("{}:{:?}:{}", line(it), it.severity, it.problem))
            .collect()
    }

    #[test]
    fn a_good_job_has_one_open_end() {
        let found = check(include_str!("../../tests/fixtures/jobs/good.nomad.hcl"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("only Nomad can evaluate"), "{found:?}");
    }

    #[test]
    fn all_findings_of_a_bad_job_are_reported() {
        let found = check(include_str!("../../tests/fixtures/jobs/bad.nomad.hcl"));
        let expected = [
            "Error:has a tag that makes no route",
            "Warning:has a tag with a doubt",
            "Warning:has a tag that is nearly a route",
            "Warning:has routes but no check",
            "Warning:has routes but no shutdown_delay",
            "Warning:claims a route that is bad-web's too (j.hcl:",
        ];
        for part in expected {
            assert!(
                found.iter().any(|text| text.contains(part)),
                "{part}\n{found:#?}"
            );
        }
    }

    #[test]
    fn schemes_that_tags_name_have_to_be_in_the_configuration() {
        let text = "job \"j\" {\n group \"g\" {\n service {\n name = \"db\"\n tags = [\"urlprefix-/a auth=main\"]\n }\n }\n}\n";
        let files = [("j.hcl".to_owned(), text.to_owned())];
        let errors = |config: Option<&Config>| {
            let found = check_jobs(&files, "urlprefix-", config);
            found
                .iter()
                .filter(|it| it.severity == Severity::Error)
                .map(|it| it.problem.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            errors(None),
            [""; 0],
            "nothing is known of the configuration"
        );
        let found = errors(Some(&Config::default()));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("there is no [auth.main]"), "{found:?}");
    }

    #[test]
    fn options_that_tags_may_not_carry_are_errors() {
        let text = "job \"j\" {\n group \"g\" {\n service {\n name = \"db\"\n tags = [\"urlprefix-/a strip=/a\", \"urlprefix-/b prepend=/b\"]\n }\n }\n}\n";
        let files = [("j.hcl".to_owned(), text.to_owned())];
        let mut config = Config::default();
        let errors = |config: &Config| {
            let found = check_jobs(&files, "urlprefix-", Some(config)).into_iter();
            let errors = found.filter(|it| it.severity == Severity::Error);
            errors.map(|it| it.problem).collect::<Vec<_>>()
        };
        assert_eq!(errors(&config), [""; 0]);
        config.tags.allowed = AllowedOptions::read(&["strip".to_owned()]).unwrap();
        let found = errors(&config);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("`prepend`") && found[0].contains("tags.allow"),
            "{found:?}"
        );
    }

    #[test]
    fn services_without_routes_are_left_alone() {
        let text = "job \"j\" {\n group \"g\" {\n service {\n name = \"db\"\n tags = [\"primary\"]\n }\n }\n}\n";
        assert_eq!(check(text), Vec::<String>::new());
    }
}
