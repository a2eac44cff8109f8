//! One look at a service: its registrations, and what has to be known of their allocations.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::admission::{AllocationFacts, decide, wants_checks};
use super::api::{Answer, encoded};
use super::error::NomadError;
use super::shared::Shared;
use super::snapshot::{Admissions, key};
use super::wire::{Allocation, CheckResult, Registration};

/// Limit for one read.
const LIMIT: Duration = Duration::from_secs(10);
/// Limit for results of checks, which come from the node of the allocation.
const CHECKS_LIMIT: Duration = Duration::from_secs(5);
/// How long the server that responds may take to reach the index of an event.
const CATCH_UP: &str = "500ms";

/// What is to be read.
#[derive(Debug)]
pub(super) struct Look {
    pub namespace: Arc<str>,
    /// As Nomad calls the service.
    pub service: String,
    /// The index of the event that is the reason; 0: none is.
    pub index: u64,
    /// What need not be read again.
    pub facts: HashMap<String, AllocationFacts>,
    pub admissions: Admissions,
}

/// What was seen.
#[derive(Debug)]
pub(super) struct Seen {
    pub registrations: Vec<Registration>,
    pub facts: HashMap<String, AllocationFacts>,
    pub admissions: Admissions,
    /// Allocations, or checks, that could not be read.
    pub trouble: Option<NomadError>,
}

type OfAllocation = (
    Result<AllocationFacts, NomadError>,
    Option<Result<Vec<CheckResult>, NomadError>>,
);

impl Look {
    pub(super) async fn run(mut self, shared: &Shared) -> Result<Seen, NomadError> {
        let registrations = self.registrations(shared).await?;
        let ids: BTreeSet<&str> = registrations
            .iter()
            .map(|it| it.alloc_id.as_str())
            .collect();
        let known: Vec<_> = ids.iter().map(|id| (*id, self.facts.remove(*id))).collect();
        let reads = known
            .into_iter()
            .map(|(id, known)| self.allocation(shared, id, known, &registrations));
        let of_allocations: HashMap<&str, OfAllocation> =
            ids.iter().copied().zip(join_all(reads).await).collect();
        let admissions = registrations.iter().filter_map(|registration| {
            let (facts, checks) = of_allocations.get(registration.alloc_id.as_str())?;
            let facts = facts.as_ref().map_err(ToString::to_string);
            let checks = match checks {
                None => Ok(&[][..]),
                Some(Ok(results)) => Ok(results.as_slice()),
                Some(Err(error)) => Err(error.to_string()),
            };
            let decided = decide(
                self.admissions.get(&key(registration)),
                &registration.service_name,
                facts.as_ref().map(|it| *it).map_err(String::as_str),
                checks.as_ref().map(|it| *it).map_err(String::as_str),
            );
            Some((key(registration), decided))
        });
        let admissions = admissions.collect();
        let (mut facts, mut trouble) = (HashMap::new(), None);
        for (id, (read, checks)) in of_allocations {
            match read {
                Ok(read) => drop(facts.insert(id.to_owned(), read)),
                Err(error) => trouble = Some(error),
            }
            if let Some(Err(error)) = checks {
                trouble = Some(error);
            }
        }
        Ok(Seen {
            registrations,
            facts,
            admissions,
            trouble,
        })
    }

    async fn registrations(&self, shared: &Shared) -> Result<Vec<Registration>, NomadError> {
        let path = format!("/v1/service/{}", encoded(&self.service));
        let before = self.index.saturating_sub(1).to_string();
        let mut query = vec![("namespace", &*self.namespace)];
        if self.index > 1 {
            query.extend([("index", before.as_str()), ("wait", CATCH_UP)]);
        }
        let _turn = shared.turn().await;
        let answer: Answer<Option<Vec<Registration>>> =
            shared.api().get(&path, &query, LIMIT).await?;
        Ok(answer.body.unwrap_or_default())
    }

    async fn allocation(
        &self,
        shared: &Shared,
        id: &str,
        known: Option<AllocationFacts>,
        registrations: &[Registration],
    ) -> OfAllocation {
        let facts = match known {
            Some(facts) => facts,
            None => match self.facts_of(shared, id).await {
                Ok(facts) => facts,
                Err(error) => return (Err(error), None),
            },
        };
        let mut own = registrations.iter().filter(|it| it.alloc_id == id);
        let in_doubt =
            own.any(|it| wants_checks(self.admissions.get(&key(it)), &facts, &it.service_name));
        let checks = match in_doubt {
            true => Some(self.checks_of(shared, id).await),
            false => None,
        };
        (Ok(facts), checks)
    }

    async fn facts_of(&self, shared: &Shared, id: &str) -> Result<AllocationFacts, NomadError> {
        let path = format!("/v1/allocation/{}", encoded(id));
        let _turn = shared.turn().await;
        let query = [("namespace", &*self.namespace)];
        let answer: Answer<Allocation> = shared.api().get(&path, &query, LIMIT).await?;
        Ok(AllocationFacts::of(&answer.body))
    }

    async fn checks_of(&self, shared: &Shared, id: &str) -> Result<Vec<CheckResult>, NomadError> {
        let path = format!("/v1/client/allocation/{}/checks", encoded(id));
        let _turn = shared.turn().await;
        let query = [("namespace", &*self.namespace)];
        let answer: Answer<Option<HashMap<String, CheckResult>>> =
            shared.api().get(&path, &query, CHECKS_LIMIT).await?;
        let mut results: Vec<_> = answer.body.unwrap_or_default().into_values().collect();
        results.sort_by(|one, other| one.check.cmp(&other.check));
        Ok(results)
    }
}
