//! Whether an instance may get requests yet.
//!
//! Pure: what was read comes in, and a decision with its reason comes out.
//!
//! | what is known | decision |
//! |---|---|
//! | admitted before, and no task has restarted since | stays admitted, also through an in-place update |
//! | the allocation is over | out |
//! | a task has restarted, and does not run yet | out |
//! | its deployment (or migration) calls it healthy, after the last restart | in |
//! | its checks have all passed, after the last restart | in |
//! | it has checks | out until they pass |
//! | no checks, and a deployment that has not said anything yet, or that it is unhealthy | out |
//! | no checks, no deployment | in as soon as it runs |
//!
//! A deployment's word stays what it was when a task restarts, and so does the result of a check
//! until it runs again: both have to be newer than the restart. The two times are those of the
//! node that runs the allocation, so that they can be compared.

use std::collections::HashMap;

use jiff::Timestamp;

use super::wire::{Allocation, CheckResult};

/// Checks of a service whose name is made on the node, so that it cannot be found in the job.
const SOME: usize = 1;

/// What an allocation says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AllocationFacts {
    status: String,
    has_deployment: bool,
    /// What the deployment says, and when it did.
    healthy: Option<(bool, Option<Timestamp>)>,
    restart: Option<Restart>,
    /// Number of checks by the name of their service, as the job writes it.
    checks: HashMap<String, usize>,
}

/// The last restart of one of its tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Restart {
    at: Timestamp,
    /// When the task started after it; none while it does not run.
    running_since: Option<Timestamp>,
}

/// What was decided for an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Not yet, or not any more, for this reason.
    Waiting(String),
    /// It may get requests, until a task restarts after this.
    Admitted {
        /// The last restart that is known of.
        restarted: Option<Timestamp>,
    },
}

impl AllocationFacts {
    pub(super) fn of(allocation: &Allocation) -> Self {
        let states = allocation.task_states.iter().flat_map(HashMap::values);
        let restarts = states.filter_map(|task| {
            let at = time(task.last_restart.as_ref()).filter(|_| task.restarts > 0)?;
            let started = time(task.started_at.as_ref()).filter(|started| *started >= at);
            Some(Restart {
                at,
                running_since: started.filter(|_| task.state == "running"),
            })
        });
        let deployment = allocation.deployment_status.as_ref();
        Self {
            status: allocation.client_status.clone(),
            has_deployment: !allocation.deployment_id.is_empty(),
            healthy: deployment.and_then(|it| Some((it.healthy?, time(it.timestamp.as_ref())))),
            restart: restarts.max_by_key(|restart| restart.at),
            checks: checks(allocation),
        }
    }

    /// How many results of checks an instance of this service has to have.
    fn checks_of(&self, service: &str) -> usize {
        // Names like `web-${NOMAD_ALLOC_INDEX}` are known to the node alone.
        let is_made_there = |(name, count): (&String, &usize)| name.contains("${") && *count > 0;
        match self.checks.get(service) {
            Some(count) => *count,
            None if self.checks.iter().any(is_made_there) => SOME,
            None => 0,
        }
    }

    fn restarted(&self) -> Option<Timestamp> {
        self.restart.as_ref().map(|restart| restart.at)
    }

    fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "complete" | "failed" | "lost")
    }

    /// What the deployment says that still counts.
    fn verdict(&self) -> Option<bool> {
        let (healthy, said_at) = self.healthy?;
        let counts = match (self.restarted(), said_at) {
            (None, _) => true,
            (Some(restarted), Some(said_at)) => said_at > restarted,
            (Some(_), None) => false,
        };
        counts.then_some(healthy)
    }

    fn stands_aside(&self) -> Option<String> {
        if self.is_over() {
            return Some(format!("its allocation is {}", self.status));
        }
        if self.status == "pending" {
            return Some("its allocation has not started yet".to_owned());
        }
        let restart = self.restart.as_ref()?;
        let waits = restart.running_since.is_none();
        waits.then(|| "a task of its allocation restarts".to_owned())
    }
}

fn time(text: Option<&String>) -> Option<Timestamp> {
    text?.parse().ok()
}

fn checks(allocation: &Allocation) -> HashMap<String, usize> {
    let job = allocation.job.iter();
    let groups = job.flat_map(|job| job.task_groups.iter().flatten());
    let mut counts = HashMap::new();
    for group in groups.filter(|group| group.name == allocation.task_group) {
        let tasks = group.tasks.iter().flatten();
        let of_tasks = tasks.flat_map(|task| task.services.iter().flatten());
        for service in group.services.iter().flatten().chain(of_tasks) {
            *counts.entry(service.name.clone()).or_default() +=
                service.checks.as_ref().map_or(0, Vec::len);
        }
    }
    counts
}

/// Whether results of checks are needed to decide.
pub(super) fn wants_checks(
    before: Option<&Admission>,
    facts: &AllocationFacts,
    service: &str,
) -> bool {
    !stays_admitted(before, facts)
        && facts.stands_aside().is_none()
        && facts.verdict() != Some(true)
        && facts.checks_of(service) > 0
}

fn stays_admitted(before: Option<&Admission>, facts: &AllocationFacts) -> bool {
    let Some(Admission::Admitted { restarted }) = before else {
        return false;
    };
    !facts.is_over() && *restarted == facts.restarted()
}

/// Decides for an instance of `service`. `facts` and `checks`: what was read, or why it was not.
pub(super) fn decide(
    before: Option<&Admission>,
    service: &str,
    facts: Result<&AllocationFacts, &str>,
    checks: Result<&[CheckResult], &str>,
) -> Admission {
    let facts = match (facts, before) {
        (Ok(facts), _) => facts,
        (Err(_), Some(known)) => return known.clone(),
        (Err(reason), None) => {
            return Admission::Waiting(format!("its allocation cannot be read: {reason}"));
        }
    };
    let admitted = Admission::Admitted {
        restarted: facts.restarted(),
    };
    if stays_admitted(before, facts) {
        return admitted;
    }
    if let Some(reason) = facts.stands_aside() {
        return Admission::Waiting(reason);
    }
    let wanted = facts.checks_of(service);
    match facts.verdict() {
        Some(true) => return admitted,
        Some(false) if wanted == 0 => {
            return Admission::Waiting("its deployment calls it unhealthy".to_owned());
        }
        // After a restart no deployment says anything any more.
        None if wanted == 0 && facts.has_deployment && facts.restart.is_none() => {
            return Admission::Waiting("its deployment does not call it healthy yet".to_owned());
        }
        Some(false) | None => {}
    }
    if wanted == 0 {
        return admitted;
    }
    match checks {
        Err(reason) => Admission::Waiting(format!("its checks cannot be read: {reason}")),
        Ok(results) => match trouble(facts, service, wanted, results) {
            Some(reason) => Admission::Waiting(reason),
            None => admitted,
        },
    }
}

/// What keeps the checks of a service from having passed; none when nothing does.
fn trouble(
    facts: &AllocationFacts,
    service: &str,
    wanted: usize,
    results: &[CheckResult],
) -> Option<String> {
    let since = facts.restart.as_ref().and_then(|it| it.running_since);
    // A result carries whole seconds: one of the second of the start may be from before it.
    let is_new = |result: &CheckResult| since.is_none_or(|it| result.timestamp > it.as_second());
    let mut count = 0;
    for result in results.iter().filter(|result| result.service == service) {
        count += 1;
        let name = &result.check;
        match result.status.as_str() {
            "success" if is_new(result) => {}
            "failure" if is_new(result) => {
                return Some(format!("check `{name}` fails: {}", result.output.trim()));
            }
            _ => return Some(format!("check `{name}` has not run yet")),
        }
    }
    (count < wanted).then(|| format!("{count} of its {wanted} checks have run yet"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const CHECKED: &str = "web";

    fn facts(change: Value) -> AllocationFacts {
        let mut allocation = json!({
            "ClientStatus": "running", "TaskGroup": "g", "DeploymentID": "", "DeploymentStatus": null,
            "TaskStates": {"app": {"State": "running", "Restarts": 0, "LastRestart": null,
                "StartedAt": "2026-12-01T01:29:16.85Z"}},
            "Job": {"TaskGroups": [
                {"Name": "other", "Services": [{"Name": "web", "Checks": [{}, {}, {}]}]},
                {"Name": "g", "Services": [{"Name": "web", "Checks": [{}]}, {"Name": "bare", "Checks": null}],
                 "Tasks": [{"Services": [{"Name": "two", "Checks": [{}, {}]}]}]},
            ]},
        });
        for (key, value) in change.as_object().unwrap() {
            allocation[key] = value.clone();
        }
        AllocationFacts::of(&serde_json::from_value(allocation).unwrap())
    }

    fn restarted(state: &str, at: &str, started: &str) -> Value {
        json!({"app": {"State": state, "Restarts": 1, "LastRestart": at, "StartedAt": started}})
    }

    fn healthy(value: Option<bool>, at: &str) -> Value {
        json!({"Healthy": value, "Timestamp": at})
    }

    fn result(service: &str, status: &str, timestamp: i64) -> CheckResult {
        CheckResult {
            service: service.to_owned(),
            check: "alive".to_owned(),
            status: status.to_owned(),
            output: "503\n".to_owned(),
            timestamp,
        }
    }

    /// `in`, or the reason.
    fn decided(
        before: Option<&Admission>,
        service: &str,
        facts: &AllocationFacts,
        checks: &[CheckResult],
    ) -> String {
        match decide(before, service, Ok(facts), Ok(checks)) {
            Admission::Admitted { .. } => "in".to_owned(),
            Admission::Waiting(reason) => reason,
        }
    }

    #[test]
    fn a_new_instance_waits_until_it_is_known_to_be_up() {
        let deployed = json!({"DeploymentID": "d"});
        let said = |value| {
            let status = healthy(value, "2026-12-01T01:29:22Z");
            json!({"DeploymentID": "d", "DeploymentStatus": status})
        };
        let pending = json!({"ClientStatus": "pending"});
        let (good, bad, none) = ("success", "failure", "pending");
        type Case<'a> = (Value, &'a str, Vec<CheckResult>, &'a str);
        let cases: Vec<Case<'_>> = vec![
            (json!({}), CHECKED, vec![], "0 of its 1 checks have run yet"),
            (
                json!({}),
                CHECKED,
                vec![result(CHECKED, bad, 1)],
                "check `alive` fails: 503",
            ),
            (
                json!({}),
                CHECKED,
                vec![result(CHECKED, none, 1)],
                "check `alive` has not run yet",
            ),
            (
                json!({}),
                CHECKED,
                vec![result(CHECKED, "odd", 1)],
                "check `alive` has not run yet",
            ),
            (json!({}), CHECKED, vec![result(CHECKED, good, 1)], "in"),
            (
                json!({}),
                CHECKED,
                vec![result("two", good, 1)],
                "0 of its 1 checks have run yet",
            ),
            (
                json!({}),
                "two",
                vec![result("two", good, 1)],
                "1 of its 2 checks have run yet",
            ),
            (
                json!({}),
                "two",
                vec![result("two", good, 1), result("two", bad, 1)],
                "check `alive` fails: 503",
            ),
            (
                deployed.clone(),
                CHECKED,
                vec![result(CHECKED, good, 1)],
                "in",
            ),
            (said(Some(true)), CHECKED, vec![], "in"),
            (
                said(Some(false)),
                CHECKED,
                vec![result(CHECKED, good, 1)],
                "in",
            ),
            (
                said(Some(false)),
                CHECKED,
                vec![result(CHECKED, bad, 1)],
                "check `alive` fails: 503",
            ),
            (
                said(None),
                CHECKED,
                vec![],
                "0 of its 1 checks have run yet",
            ),
            (json!({}), "bare", vec![], "in"),
            (
                deployed,
                "bare",
                vec![],
                "its deployment does not call it healthy yet",
            ),
            (said(Some(true)), "bare", vec![], "in"),
            (
                said(Some(false)),
                "bare",
                vec![],
                "its deployment calls it unhealthy",
            ),
            (
                pending,
                "bare",
                vec![],
                "its allocation has not started yet",
            ),
            (
                json!({"ClientStatus": "failed"}),
                "bare",
                vec![],
                "its allocation is failed",
            ),
        ];
        for (change, service, checks, expected) in cases {
            let facts = facts(change.clone());
            assert_eq!(
                decided(None, service, &facts, &checks),
                expected,
                "{change} {service} {checks:?}"
            );
        }
    }

    #[test]
    fn what_was_admitted_stays_so_through_an_update_and_not_through_a_restart() {
        let before = Admission::Admitted { restarted: None };
        let updated = facts(json!({"DeploymentID": "d2", "DeploymentStatus": null}));
        assert_eq!(decided(Some(&before), CHECKED, &updated, &[]), "in");
        assert_eq!(
            decided(
                Some(&before),
                CHECKED,
                &facts(json!({"ClientStatus": "unknown"})),
                &[]
            ),
            "in",
            "its node is out of reach of the servers, which says nothing of the instance"
        );
        let over = facts(json!({"ClientStatus": "complete"}));
        assert_eq!(
            decided(Some(&before), CHECKED, &over, &[]),
            "its allocation is complete"
        );

        let (at, started) = ("2026-12-01T01:29:27Z", "2026-12-01T01:29:28.4Z");
        let second = "2026-12-01T01:29:28Z"
            .parse::<Timestamp>()
            .unwrap()
            .as_second();
        let old_word = healthy(Some(true), "2026-12-01T01:29:22Z");
        let new_word = healthy(Some(true), "2026-12-01T01:29:32Z");
        let case = |state: &str, started: &str, word: &Value| {
            let states = restarted(state, at, started);
            facts(json!({"DeploymentID": "d", "DeploymentStatus": word, "TaskStates": states}))
        };
        let down = case("pending", "2026-12-01T01:29:16Z", &old_word);
        let up = case("running", started, &old_word);
        let called = case("running", started, &new_word);
        let (good, old) = (
            result(CHECKED, "success", second + 1),
            result(CHECKED, "success", second),
        );
        for (facts, service, checks, expected) in [
            (
                &down,
                CHECKED,
                vec![old.clone()],
                "a task of its allocation restarts",
            ),
            (&down, "bare", vec![], "a task of its allocation restarts"),
            (&up, CHECKED, vec![old], "check `alive` has not run yet"),
            (&up, CHECKED, vec![good], "in"),
            (&up, "bare", vec![], "in"),
            (&called, CHECKED, vec![], "in"),
        ] {
            assert_eq!(decided(Some(&before), service, facts, &checks), expected);
        }
        let after = decide(Some(&before), CHECKED, Ok(&called), Ok(&[]));
        assert_ne!(after, before);
        assert_eq!(
            decided(Some(&after), CHECKED, &up, &[]),
            "in",
            "the same restart is not a new one"
        );
    }

    #[test]
    fn what_cannot_be_read_changes_nothing_and_admits_nothing() {
        let before = Admission::Admitted { restarted: None };
        let unread = decide(Some(&before), CHECKED, Err("refused"), Ok(&[]));
        assert_eq!(unread, before);
        let Admission::Waiting(reason) = decide(None, CHECKED, Err("refused"), Ok(&[])) else {
            panic!("admitted");
        };
        assert_eq!(reason, "its allocation cannot be read: refused");
        let Admission::Waiting(reason) = decide(None, CHECKED, Ok(&facts(json!({}))), Err("away"))
        else {
            panic!("admitted");
        };
        assert_eq!(reason, "its checks cannot be read: away");
    }

    #[test]
    fn checks_are_read_for_those_in_doubt_alone() {
        let admitted = Admission::Admitted { restarted: None };
        let fresh = facts(json!({}));
        let status = healthy(Some(true), "2026-12-01T01:29:22Z");
        let called = facts(json!({"DeploymentStatus": status}));
        assert!(wants_checks(None, &fresh, CHECKED));
        assert!(!wants_checks(Some(&admitted), &fresh, CHECKED));
        assert!(!wants_checks(None, &fresh, "bare"));
        assert!(!wants_checks(None, &called, CHECKED));
    }

    #[test]
    fn a_service_whose_name_is_made_on_the_node_waits_for_its_checks() {
        let job = json!({"TaskGroups": [{"Name": "g", "Services": [
            {"Name": "web-${NOMAD_ALLOC_INDEX}", "Checks": [{}]}]}]});
        let facts = facts(json!({"Job": job}));
        let name = "web-0";
        assert!(decided(None, name, &facts, &[]).starts_with("0 of its 1"));
        assert_eq!(
            decided(None, name, &facts, &[result(name, "success", 1)]),
            "in"
        );
    }
}
