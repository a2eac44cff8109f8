//! Which version of a program may follow another at once. Pure.
//!
//! Neither product goes back. Consul's makers want each step to go over two minor versions at most
//! (1.12 to 1.14), from 1.8 and 1.9 to 1.10.12 first:
//! <https://developer.hashicorp.com/consul/docs/upgrade/instructions>. Nomad's support two as well:
//! <https://developer.hashicorp.com/nomad/docs/upgrade>.

use crate::bootstrap::render::Version;
use crate::bootstrap::topology::Product;

/// Most minor versions of a step.
const STEP_MAX: u32 = 2;

/// What Consul 1.8 and 1.9 become before anything later.
const CONSUL_GATE: Version = Version::new(1, 10, 12);

/// The last minor version before 2.0.
fn last_of_first(product: Product) -> u16 {
    match product {
        Product::Consul => 22,
        Product::Nomad => 11,
    }
}

/// Why a version cannot follow another, and the way there. `force`: as far as one likes, but not
/// back.
pub(super) fn refusal(product: Product, old: Version, new: Version, force: bool) -> Option<String> {
    if new < old {
        let why = format!("its data may be of a form that {new} does not read");
        return Some(format!(
            "{product} {old} cannot go back to {new}: {why}; name {old} or a later one"
        ));
    }
    if force {
        return None;
    }
    let way = way(product, old, new);
    if way.is_empty() {
        return None;
    }
    Some(format!(
        "{product} {old} cannot go to {new} at once: its makers support {STEP_MAX} minor versions a step. Go \
         {old} -> {} -> {new}, a run of `lb bootstrap upgrade` for each, or take the risk with --force",
        way.join(" -> ")
    ))
}

/// The versions between: none where the step may be made at once.
fn way(product: Product, old: Version, new: Version) -> Vec<String> {
    let line = |version: Version| line(product, old, version);
    let mut between = Vec::new();
    let mut at = line(old);
    let behind_gate = Version::new(1, CONSUL_GATE.minor + 1, 0);
    if product == Product::Consul
        && old < Version::new(1, CONSUL_GATE.minor, 0)
        && new >= behind_gate
    {
        between.push(CONSUL_GATE.to_string());
        at = line(CONSUL_GATE);
    }
    while at + STEP_MAX < line(new) {
        at += STEP_MAX;
        between.push(named(product, old, at));
    }
    between
}

/// Minor versions counted through: 2.0 follows the last 1.x.
fn line(product: Product, old: Version, version: Version) -> u32 {
    // One that is newer than this program knows.
    let last = last_of_first(product).max(if old.major == 1 { old.minor } else { 0 });
    match version.major {
        0 | 1 => u32::from(version.minor),
        // A major version beyond the second has minor versions before it that are not known here:
        // it counts as three steps further.
        major => {
            (u32::from(last) + 1) + u32::from(version.minor) + (u32::from(major) - 2) * STEP_MAX * 3
        }
    }
}

fn named(product: Product, old: Version, at: u32) -> String {
    let last = u32::from(last_of_first(product).max(if old.major == 1 { old.minor } else { 0 }));
    match at.checked_sub(last + 1) {
        None => format!("1.{at}"),
        Some(minor) => format!("2.{minor}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_as_long_as_the_makers_support() {
        use Product::{Consul, Nomad};
        for (product, old, new, between) in [
            (Consul, "1.8.7", "1.8.7", ""),
            (Consul, "1.8.7", "1.8.19", ""),
            (Consul, "1.8.7", "1.9.17", ""),
            (Consul, "1.8.7", "1.10.12", ""),
            (Consul, "1.9.0", "1.10.3", ""),
            // Two minor versions, and yet not at once.
            (Consul, "1.9.0", "1.11.0", "1.10.12"),
            (Consul, "1.8.7", "1.12.9", "1.10.12"),
            (
                Consul,
                "1.8.7",
                "1.22.1",
                "1.10.12 1.12 1.14 1.16 1.18 1.20",
            ),
            (Consul, "1.10.0", "1.12.0", ""),
            (Consul, "1.12.0", "1.14.11", ""),
            (Consul, "1.12.0", "1.15.0", "1.14"),
            (Consul, "1.21.7", "2.0.1", ""),
            (Consul, "1.20.0", "2.0.1", "1.22"),
            (Consul, "1.22.1", "2.1.0", ""),
            (Consul, "1.22.1", "2.2.0", "2.1"),
            (Consul, "2.0.0", "2.2.0", ""),
            (Consul, "2.0.0", "2.3.0", "2.2"),
            (Nomad, "1.4.0", "1.6.2", ""),
            (Nomad, "1.4.0", "1.7.0", "1.6"),
            (Nomad, "1.9.7", "1.11.1", ""),
            (Nomad, "1.10.2", "2.0.6", ""),
            (Nomad, "1.9.7", "2.0.6", "1.11"),
            (Nomad, "1.4.0", "2.0.6", "1.6 1.8 1.10"),
        ] {
            let version = |text| Version::parse(text).unwrap();
            let (from, to) = (version(old), version(new));
            let found = way(product, from, to).join(" ");
            assert_eq!(found, between, "{product} {old} to {new}");
            let told = refusal(product, from, to, false);
            assert_eq!(told.is_none(), between.is_empty(), "{told:?}");
            assert_eq!(refusal(product, from, to, true), None);
            let Some(told) = told else {
                continue;
            };
            let steps = format!("{old} -> {} -> {new}", between.replace(' ', " -> "));
            assert!(told.contains(&steps) && told.contains("--force"), "{told}");
        }
        // Each step of a way is one that may be made.
        for (old, new) in [
            ("1.8.7", "1.10.12"),
            ("1.10.12", "1.12.0"),
            ("1.20.0", "1.22.1"),
        ] {
            let version = |text| Version::parse(text).unwrap();
            assert_eq!(refusal(Consul, version(old), version(new), false), None);
        }
    }

    #[test]
    fn nothing_goes_back_and_nothing_far_goes_unasked() {
        let version = |text| Version::parse(text).unwrap();
        for force in [false, true] {
            let told = refusal(Product::Consul, version("1.9.0"), version("1.8.7"), force);
            assert!(told.unwrap().contains("cannot go back"));
        }
        for (old, new) in [("1.9.0", "3.0.0"), ("2.0.0", "3.0.0"), ("1.22.0", "4.0.0")] {
            for product in Product::ALL {
                let (old, new) = (version(old), version(new));
                assert!(refusal(product, old, new, false).is_some(), "{old} {new}");
                assert!(refusal(product, old, new, true).is_none(), "{old} {new}");
            }
        }
    }
}
