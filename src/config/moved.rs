//! Keys that were written under their old names, taken as if they were written under the new ones.

use super::error::{ConfigError, Location};
use super::keys::{MOVED, section};
use super::raw::{Entry, Group, Settings};
use super::typed::same_value;

/// Moves settings from old names to new ones. One that says something else under each of its two
/// names is a mistake; that old names are used is one remark, however many there are.
pub(super) fn take(
    settings: &mut Settings,
    mistakes: &mut Vec<ConfigError>,
    remarks: &mut Vec<ConfigError>,
) {
    for moved in MOVED {
        let (Some(old), Some(section)) = (settings.once.get_mut(moved.from), section(moved.to))
        else {
            continue;
        };
        let keys = section.keys.iter();
        let found: Vec<_> = keys
            .filter(|key| moved.keys.contains(&key.name))
            .filter_map(|key| Some((key, old.entries.remove(key.name)?)))
            .collect();
        let Some((_, first)) = found.first() else {
            continue;
        };
        let old_name = |name: &str| format!("{}.{name}", moved.from);
        let names: Vec<String> = found.iter().map(|(key, _)| old_name(key.name)).collect();
        remarks.push(ConfigError {
            key: names.join(", "),
            value: None,
            place: first.place.clone(),
            problem: format!("moved to [{}]", moved.to),
            advice: "the old name goes on working".to_owned(),
        });
        let new = settings
            .once
            .entry(section.name)
            .or_insert_with(|| Group::new(Location::Absent));
        for (key, entry) in found {
            match new.entries.get(key.name) {
                None => {
                    new.old_names.insert(key.name, old_name(key.name));
                    new.entries.insert(key.name, entry);
                }
                Some(other) if same_value(key, &entry, other) => {}
                Some(other) => {
                    mistakes.push(differs(
                        old_name(key.name),
                        &section.path(key),
                        &entry,
                        other,
                    ));
                }
            }
        }
    }
}

fn differs(old: String, new: &str, entry: &Entry, other: &Entry) -> ConfigError {
    ConfigError {
        problem: format!(
            "differs from {new} = {} ({}), which is the new name of the same key",
            other.value, other.place
        ),
        advice: format!("remove {old}"),
        key: old,
        value: Some(entry.value.to_string()),
        place: entry.place.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::{MOVED, env_name, section};
    use super::super::{Config, Draft, Inputs, draft};

    fn read(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Draft {
        let own = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        draft(&Inputs {
            file: Some(("lb.toml".into(), file.to_owned())),
            env: own(env),
            flags: own(flags),
            terminal: false,
        })
    }

    fn config(draft: &Draft) -> &Config {
        assert!(draft.mistakes.is_empty(), "{:?}", draft.mistakes);
        &draft.config
    }

    /// A value of each key that is not its default.
    const OTHERS: [(&str, &str, &str); 8] = [
        ("tag_prefix", "\"lb-\"", "lb-"),
        (
            "accept_status",
            "[\"passing\", \"warning\"]",
            "passing,warning",
        ),
        ("checks_required", "\"one\"", "one"),
        ("require_check", "true", "true"),
        ("node_checks", "\"serf\"", "serf"),
        ("weights", "false", "false"),
        ("check_grace", "\"7s\"", "7s"),
        ("critical_hold", "\"7s\"", "7000ms"),
    ];

    #[test]
    fn a_key_means_the_same_under_both_names_wherever_it_is_written() {
        for (name, literal, bare) in OTHERS {
            let new = format!("routing.{name}");
            let expected = read(
                &format!("[consul]\n[routing]\n{name} = {literal}\n"),
                &[],
                &[],
            );
            assert_ne!(
                config(&expected).routing,
                Config::default().routing,
                "{name}"
            );
            assert!(expected.remarks.is_empty(), "{:?}", expected.remarks);
            for path in [format!("consul.{name}"), new] {
                let in_env = read("[consul]\n", &[(&env_name(&path), bare)], &[]);
                let by_flag = read("[consul]\n", &[], &[(&path, bare)]);
                assert_eq!(config(&in_env), config(&expected), "{path}");
                assert_eq!(config(&by_flag), config(&expected), "{path}");
            }
            let old = read(&format!("[consul]\n{name} = {literal}\n"), &[], &[]);
            assert_eq!(config(&old), config(&expected), "{name}");
            assert_eq!(old.remarks.len(), 1, "{:?}", old.remarks);
        }
    }

    #[test]
    fn every_key_that_moved_is_in_the_section_it_moved_to() {
        for moved in MOVED {
            let to = section(moved.to).unwrap();
            for name in moved.keys {
                assert!(to.keys.iter().any(|key| key.name == *name), "{name}");
                assert!(OTHERS.iter().any(|(known, ..)| known == name), "{name}");
            }
            assert!(section(moved.from).is_some());
        }
    }

    #[test]
    fn both_names_may_say_the_same() {
        let file = "[consul]\ncheck_grace = \"7s\"\n[routing]\ncheck_grace = \"7000ms\"\n";
        let found = read(file, &[("LB_CONSUL_CHECK_GRACE", "7s")], &[]);
        let grace = config(&found).routing.rules().check_grace;
        assert_eq!(grace, std::time::Duration::from_secs(7));
    }

    #[test]
    fn both_names_with_different_values_are_a_mistake_that_names_both() {
        let file = "[consul]\ntag_prefix = \"a-\"\n[routing]\ntag_prefix = \"b-\"\n";
        let warnings = |draft: Draft| -> Vec<String> {
            draft.mistakes.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            warnings(read(file, &[], &[])),
            [
                "lb.toml:2: consul.tag_prefix = \"a-\" differs from routing.tag_prefix = \"b-\" (lb.toml:4), \
              which is the new name of the same key; remove consul.tag_prefix"
            ]
        );
        let routing = "[routing]\nrequire_check = true\n";
        let found = warnings(read(routing, &[("LB_CONSUL_REQUIRE_CHECK", "false")], &[]));
        assert!(
            found.len() == 1
                && found[0]
                    .starts_with("environment LB_CONSUL_REQUIRE_CHECK: consul.require_check")
                && found[0].contains("routing.require_check = true (lb.toml:2)"),
            "{found:?}"
        );
        let found = warnings(read(routing, &[], &[("consul.require_check", "false")]));
        assert!(
            found[0].starts_with("flag --consul.require_check"),
            "{found:?}"
        );
    }

    #[test]
    fn old_names_are_one_remark_and_mistakes_name_what_was_written() {
        let file = "[consul]\nweights = false\nrequire_check = true\n";
        let remarks = read(file, &[], &[]).remarks;
        let remarks: Vec<String> = remarks.iter().map(ToString::to_string).collect();
        assert_eq!(
            remarks,
            [
                "lb.toml:3: consul.require_check, consul.weights moved to [routing]; the old name goes on working"
            ]
        );
        let found = read("[consul]\ncheck_grace = 5\n", &[], &[]);
        let mistake = found.mistakes[0].to_string();
        assert!(
            mistake.starts_with("lb.toml:2: consul.check_grace = 5 has no unit"),
            "{mistake}"
        );
        assert!(found.consul().is_none(), "it is written in [consul]");
    }

    #[test]
    fn an_old_name_turns_consul_on_as_it_did_and_a_new_one_does_not() {
        let routes = "routes = \"route add a / http://10.0.0.1:1/\"\n";
        let old = read(routes, &[("LB_CONSUL_WEIGHTS", "false")], &[]);
        let new = read(routes, &[("LB_ROUTING_WEIGHTS", "false")], &[]);
        assert!(config(&old).consul.is_some() && config(&new).consul.is_none());
        assert_eq!(config(&old).routing, config(&new).routing);
    }
}
