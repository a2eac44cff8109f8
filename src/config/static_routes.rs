//! What is wrong with a `[[static.route]]`, by key: each key is tried beside sound others, so that
//! one mistake hides no other and none is blamed on its neighbour.

use crate::catalog::command::from_static;
use crate::catalog::static_route::StaticRoute;

/// Stands in for a target that is wrong.
const SOUND_TARGET: &str = "http://127.0.0.1:1/";
/// A place of HTTP and one of TCP: one of them fits every sound target.
const SOUND_SOURCES: [&str; 2] = ["/", ":1"];

/// Every problem as the key's name and words about it; empty when the route can be taken.
pub(super) fn problems(route: &StaticRoute) -> Vec<(&'static str, String)> {
    let Err(errors) = from_static(route) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut note = |name: &'static str, problem: String| {
        let problem = (name, problem);
        if !found.contains(&problem) {
            found.push(problem);
        }
    };
    for reason in reasons(&route.service, "/", SOUND_TARGET, "") {
        note("service", reason);
    }
    // The target of a redirect is a pattern, and only the options say that it is one.
    let redirects = route.options.contains("redirect=");
    let mut sound = None;
    for target in &route.targets {
        match everywhere(target, "").into_iter().next() {
            Some(reason) if !redirects => note("targets", format!("{target:?}: {reason}")),
            _ => sound = sound.or(Some(target)),
        }
    }
    let target = sound.map_or(SOUND_TARGET, String::as_str);
    let wrong_options = everywhere(target, &route.options);
    // Whether a place is one of TCP may hang on the options.
    let options = if wrong_options.is_empty() {
        &*route.options
    } else {
        ""
    };
    for reason in wrong_options {
        note("options", reason);
    }
    for reason in reasons("x", &route.source, target, options) {
        note("source", reason);
    }
    // Each key is fine by itself, and yet they do not go together.
    if found.is_empty() {
        found.extend(
            errors
                .into_iter()
                .map(|error| ("targets", format!("{:?}: {}", error.text, error.reason))),
        );
    }
    found
}

/// What is wrong wherever the route may stand.
fn everywhere(target: &str, options: &str) -> Vec<String> {
    let [http, tcp] = SOUND_SOURCES.map(|source| reasons("x", source, target, options));
    http.into_iter()
        .filter(|reason| tcp.contains(reason))
        .collect()
}

fn reasons(service: &str, source: &str, target: &str, options: &str) -> Vec<String> {
    let route = StaticRoute {
        service: service.to_owned(),
        source: source.to_owned(),
        targets: vec![target.to_owned()],
        options: options.to_owned(),
    };
    from_static(&route)
        .err()
        .into_iter()
        .flatten()
        .map(|error| error.reason)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(source: &str, targets: &[&str], options: &str) -> Vec<&'static str> {
        let route = StaticRoute {
            service: "web".to_owned(),
            source: source.to_owned(),
            targets: targets.iter().map(|&target| target.to_owned()).collect(),
            options: options.to_owned(),
        };
        problems(&route).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn no_key_hides_another() {
        let cases: [(&str, &[&str], &str, &[&str]); 10] = [
            ("/", &["http://h:1"], "strip=/x", &[]),
            (":80", &["tcp://h:1"], "", &[]),
            (":80", &["http://h:1"], "proto=tcp", &[]),
            ("/", &["http://h:1"], "redirect=301,https://x$path", &[]),
            ("/", &["foo://x"], "", &["targets"]),
            ("/", &["http://h:1"], "weight=heavy", &["options"]),
            ("/", &["foo://x"], "weight=heavy", &["targets", "options"]),
            (
                "/",
                &["http://h:1", "foo://x"],
                "stripp=/",
                &["targets", "options"],
            ),
            (
                "",
                &["foo://x"],
                "stripp=/",
                &["targets", "options", "source"],
            ),
            (":80", &["tcp://h"], "stripp=/", &["targets", "options"]),
        ];
        for (source, targets, options, expected) in cases {
            let found = names(source, targets, options);
            assert_eq!(found, expected, "{source} {targets:?} {options}");
        }
    }

    #[test]
    fn a_wrong_scheme_is_blamed_on_the_target() {
        let route = StaticRoute {
            service: "a b".to_owned(),
            source: "/".to_owned(),
            targets: vec!["foo://x".to_owned()],
            options: "weight=heavy".to_owned(),
        };
        let found = problems(&route);
        let has = |name: &str, part: &str| {
            found
                .iter()
                .any(|(key, text)| *key == name && text.contains(part))
        };
        assert!(
            has("service", "blank") && has("targets", "\"foo://x\"") && has("options", "weight"),
            "{found:?}"
        );
        assert!(!has("targets", "weight"), "{found:?}");
    }
}
