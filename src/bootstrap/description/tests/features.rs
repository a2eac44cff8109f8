//! What machines have beside the cluster's own programs: keys that are for the ssh target.

use super::{THREE_LINES, good, read};
use crate::bootstrap::topology::Features;

const KEYS: [(&str, &str, Features); 3] = [
    (
        "clients",
        "docker",
        Features {
            docker: true,
            cni: false,
            consul_dns: false,
        },
    ),
    (
        "clients",
        "cni",
        Features {
            docker: false,
            cni: true,
            consul_dns: false,
        },
    ),
    (
        "dns",
        "consul",
        Features {
            docker: false,
            cni: false,
            consul_dns: true,
        },
    ),
];

#[test]
fn each_is_off_until_it_is_asked_for() {
    assert_eq!(good(THREE_LINES).features, Features::default());
    for (section, key, features) in KEYS {
        let on = good(&format!("{THREE_LINES}[{section}]\n{key} = true\n"));
        assert_eq!(on.features, features, "{section}.{key}");
        let off = good(&format!("{THREE_LINES}[{section}]\n{key} = false\n"));
        assert_eq!(off.features, Features::default(), "{section}.{key}");
    }
}

#[test]
fn on_the_local_target_each_is_a_mistake_with_its_line() {
    for (section, key, _) in KEYS {
        let text = format!("\n[{section}]\n{key} = true\n");
        let mistakes = read(&text).unwrap_err();
        let told = mistakes[0].to_string();
        assert_eq!(mistakes.len(), 1, "{told}");
        assert!(told.contains(&format!("{section}.{key}")), "{told}");
        assert!(
            told.contains(":3") && told.contains("is for the ssh target"),
            "{told}"
        );
        // Written out as it is anyway, it is none.
        good(&format!("\n[{section}]\n{key} = false\n"));
    }
}
