//! Notes in an explanation which targets are held: kept for now, although their checks fail or
//! Consul shows them no longer.

use super::explain::Explanation;
use crate::control::ServiceStatus;

/// Gives targets that are held their state, and says why below the explanation.
pub(super) fn note(answer: &mut Explanation, services: &[ServiceStatus]) {
    let Some(route) = &mut answer.route else {
        return;
    };
    let mut lines = Vec::new();
    for target in route
        .targets
        .iter_mut()
        .filter(|target| target.target.state == "healthy")
    {
        let of_service = services
            .iter()
            .filter(|service| *service.name == *target.target.service);
        let mut instances = of_service.flat_map(|service| &service.instances);
        let Some(instance) = instances.find(|instance| {
            instance.state.starts_with("held") && instance.id.to_string() == target.target.instance
        }) else {
            continue;
        };
        target.target.state = instance.state;
        if let Some(reason) = &instance.reason {
            lines.push(format!(
                "held      {} {}: {reason}\n",
                target.target.service, target.target.instance
            ));
        }
    }
    if !lines.is_empty() {
        answer.reword();
        lines
            .iter()
            .for_each(|line| answer.text.push_str(&super::tabular::printable(line)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::explain::tests::ask as explain;
    use crate::admin::routes::tests::table;
    use crate::catalog::InstanceId;
    use crate::control::InstanceStatus;

    #[test]
    fn targets_that_are_held_say_so_and_why() {
        let table = table(
            "route add web shop/ http://10.0.0.1:80/\nroute add web shop/ http://10.0.0.2:80/",
        );
        let ask = || explain(&table, "url=http://shop/").unwrap();
        let ids: Vec<String> = ask()
            .route
            .unwrap()
            .targets
            .iter()
            .map(|target| target.target.instance.clone())
            .collect();
        let status = |id: &str, state| {
            let (node, id) = id.split_once('/').unwrap();
            InstanceStatus {
                id: InstanceId {
                    node: node.into(),
                    id: id.into(),
                },
                address: String::new(),
                state,
                reason: Some("Consul\u{1b} refuses".to_owned()),
                tags: Vec::new(),
                in_flight: 0,
                failures: 0,
            }
        };
        let service = |name: &str, instances| ServiceStatus {
            name: name.into(),
            source: "consul",
            last_success: None,
            instances,
            rejected: Vec::new(),
            unknown_options: Vec::new(),
            held: None,
        };
        let mut answer = ask();
        let services = [
            service("other", vec![status(&ids[1], "held")]),
            service(
                "web",
                vec![
                    status(&ids[0], "held, not confirmed"),
                    status(&ids[1], "healthy"),
                ],
            ),
        ];
        note(&mut answer, &services);
        let states: Vec<_> = answer
            .route
            .as_ref()
            .unwrap()
            .targets
            .iter()
            .map(|target| target.target.state)
            .collect();
        assert_eq!(states, ["held, not confirmed", "healthy"]);
        assert!(
            answer
                .text
                .contains("50.0 %, held, not confirmed, 0 in flight"),
            "{}",
            answer.text
        );
        let line = format!("held      web {}: Consul\\u{{1b}} refuses\n", ids[0]);
        assert!(answer.text.ends_with(&line), "{}", answer.text);
        let mut same = ask();
        note(&mut same, &[]);
        assert_eq!(same, ask());
    }
}
