//! A builder that is told of changes one by one against one that is told everything at once.

use proptest::prelude::*;

use super::{Admission, Contribution, Matcher, TableBuilder};
use crate::catalog::command::parse_commands;
use crate::catalog::command_list::CommandText;
use crate::catalog::tag::RouteKey;
use crate::catalog::{InstanceId, ServiceName, options};
use crate::metrics::Metrics;

fn new_builder() -> TableBuilder {
    TableBuilder::new(Matcher::Prefix, options::Strategy::P2c, Metrics::default())
}

/// The one instance that a service registers, at this host.
fn at(host: &str) -> Contribution {
    Contribution {
        key: RouteKey {
            host: host.into(),
            path: "/".into(),
        },
        instance: InstanceId {
            node: "n".into(),
            id: "i".into(),
        },
        addr: ([127, 0, 0, 1], 1).into(),
        options: Default::default(),
        tags: ["t".into()].into(),
        admission: Admission::Eligible { weight: 1 },
    }
}

/// Lines that meet at few places, so that they act on each other.
fn lines() -> impl Strategy<Value = Vec<String>> {
    let line = prop_oneof![
        4 => "route add [xy] [ab]/ http://127\\.0\\.0\\.1:[78]/( weight 0\\.[25])?( tags \"[tu]\")?",
        1 => "route del [sxy]( [ab]/( http://127\\.0\\.0\\.1:[178]/)?)?",
        1 => "route del (x )?tags \"[tu]\"",
        1 => "route weight [sx] [ab]/ weight 0\\.[48]",
        1 => "# .{0,3}",
    ];
    prop::collection::vec(line, 0..9)
}

/// All that can be told of the table and its services.
fn told(builder: &mut TableBuilder) -> (String, Vec<(String, usize)>) {
    let table = builder.build();
    builder.retire();
    let services = builder.command_services();
    let count = |name: &ServiceName| (name.to_string(), services.targets(name).count());
    (
        table.to_fabio_commands(),
        services.names().map(count).collect(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    /// However it came about, a table is what its sources say now.
    #[test]
    fn commands_that_change_bit_by_bit_make_what_they_make_at_once(
        texts in prop::collection::vec((any::<bool>(), lines(), any::<bool>()), 1..8),
    ) {
        let mut builder = new_builder();
        let mut sources = [("consul_kv", CommandText::default()), ("routes_file", CommandText::default())];
        for (which, lines, tagged) in texts {
            let contributions = if tagged { vec![at("a"), at("b")] } else { vec![] };
            builder.apply_service("consul", &"s".into(), contributions.clone(), 0);
            let (source, text) = &mut sources[usize::from(which)];
            text.replace(lines.join("\n"));
            builder.apply_commands(source, text.commands().cloned().collect(), 0);
            let mut fresh = new_builder();
            for (source, text) in &sources {
                fresh.apply_commands(source, parse_commands(text.text()).0.into(), 0);
            }
            fresh.apply_service("consul", &"s".into(), contributions, 0);
            prop_assert_eq!(told(&mut builder), told(&mut fresh), "{:?}", sources);
        }
    }
}
