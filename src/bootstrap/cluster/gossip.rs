//! Another gossip key for a living cluster: install it everywhere, use it, remove the old one.
//!
//! ```text
//!   [old*]  ─ install ─▶  [old*, new]  ─ use ─▶  [old, new*]  ─ remove ─▶  [new*]        * encrypts
//! ```
//!
//! Between two steps every member of every pool must have taken the one before; a member that
//! misses one could not talk to the others any more. The point at which an earlier run stopped is
//! read from the cluster. Making and keeping keys is left to `state`, the configuration files
//! (which only new nodes read) to `render`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::api::{Api, ApiError};
use super::facts::{Member, MemberStatus};
use super::view::ClusterView;
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::topology::{Node, Product};

/// Limit for one call: it waits for the responses of all members.
const LIMIT: Duration = Duration::from_secs(15);
/// Pause between two looks.
const STEP: Duration = Duration::from_millis(200);

/// Steps of a change, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// All know the new key.
    Install,
    /// All encrypt with it.
    Use,
    /// None knows the old one.
    Remove,
}

/// One gossip pool (Consul has two: LAN of all agents, WAN of the servers).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pool {
    /// Keys, and how many members know each.
    #[serde(default)]
    keys: BTreeMap<String, usize>,
    /// Keys that members encrypt with; not told by older versions.
    #[serde(default)]
    primary_keys: Option<BTreeMap<String, usize>>,
    /// Members.
    num_nodes: usize,
    /// It is the pool of the servers of all datacenters.
    #[serde(default, rename = "WAN")]
    wan: bool,
}

/// Goes from the old key to the new one, from wherever an earlier run stopped; told each step once
/// it is done.
///
/// # Errors
/// When a member has failed (it would come back with the old key only), or a step is not done
/// everywhere by the deadline, which is that of each step. Run it again with the same keys.
pub async fn rotate(
    view: &ClusterView<'_>,
    product: Product,
    old: &Secret,
    new: &Secret,
    deadline: Duration,
    done: &(dyn Fn(Step) + Send + Sync),
) -> anyhow::Result<()> {
    anyhow::ensure!(old != new, "the new gossip key of {product} is the old one");
    let api = refuse_failed(view, product).await?;
    let keyring = Keyring {
        api,
        product,
        deadline,
        view,
    };
    for step in [Step::Install, Step::Use, Step::Remove] {
        keyring.walk(step, old.reveal(), new.reveal()).await?;
        done(step);
    }
    Ok(())
}

/// Whether a change may begin: no member has failed, and none of the description is away.
///
/// # Errors
/// Which are.
pub async fn check(view: &ClusterView<'_>, product: Product) -> anyhow::Result<()> {
    refuse_failed(view, product).await.map(drop)
}

/// A server that responds, if no member has failed and none of the description is away.
///
/// Autopilot soon makes a dead server one that has `left`; it would come back with the old key all
/// the same.
async fn refuse_failed(view: &ClusterView<'_>, product: Product) -> anyhow::Result<Api> {
    // Every server's view counts: a loss takes its time to get around.
    let views = view.members_by_server(product).await?;
    let wanted: Vec<String> = view
        .cluster
        .nodes
        .iter()
        .filter(|node| is_member(node, product) && !view.is_absent(node))
        .map(|node| view.member_name(node, product))
        .collect();
    let skipped: Vec<String> = view
        .cluster
        .nodes
        .iter()
        .filter(|node| is_member(node, product) && view.is_absent(node))
        .map(|node| view.member_name(node, product))
        .collect();
    let away = views
        .iter()
        .map(|(_, members)| away(members, &wanted, &skipped))
        .find(|away| !away.is_empty())
        .unwrap_or_default();
    anyhow::ensure!(
        away.is_empty(),
        "{product}'s gossip key cannot be changed while members are away: {}. They would come back with the old key and \
         be locked out. Start them, put other machines in their place (`lb bootstrap replace-node NAME`), take them out (`lb bootstrap \
         remove-node NAME --dead`), or go on without them (--skip NAME): they get the new key by the next `up`",
        away.join(", ")
    );
    let (server, _) = views
        .first()
        .with_context(|| format!("the cluster has no {product} server"))?;
    Ok(view.api(server, product))
}

fn is_member(node: &Node, product: Product) -> bool {
    product == Product::Consul || node.is_server(product)
}

/// Which members have failed, and which of the description are not alive; not those that are skipped.
fn away(members: &[Member], wanted: &[String], skipped: &[String]) -> Vec<String> {
    let members: BTreeMap<&str, MemberStatus> = members
        .iter()
        .map(|member| (member.name.as_str(), member.status))
        .collect();
    let of = |name: &str| members.get(name).copied();
    let absent = wanted
        .iter()
        .map(String::as_str)
        .filter(|name| of(name) != Some(MemberStatus::Alive));
    let failed = members
        .iter()
        .filter(|(name, status)| {
            let is_known = |names: &[String]| names.iter().any(|known| known == *name);
            **status == MemberStatus::Failed && !is_known(wanted) && !is_known(skipped)
        })
        .map(|(name, _)| *name);
    let word = |name| of(name).map_or("absent", MemberStatus::word);
    absent
        .chain(failed)
        .map(|name| format!("{name} ({})", word(name)))
        .collect()
}

struct Keyring<'a> {
    api: Api,
    product: Product,
    deadline: Duration,
    view: &'a ClusterView<'a>,
}

impl Keyring<'_> {
    /// Carries a step out, again and again, until it is done everywhere: a member that joins just
    /// then makes it fail.
    async fn walk(&self, step: Step, old: &str, new: &str) -> anyhow::Result<()> {
        let end = Instant::now() + self.deadline;
        loop {
            let before = self.pools().await;
            let short = matches!(&before, Ok(pools) if self.is_short(pools));
            if short {
                // One was lost on the way: it must not be left behind with a key that is in use
                // nowhere any more.
                refuse_failed(self.view, self.product).await?;
            } else if matches!(&before, Ok(pools) if is_done(step, pools, old, new)) {
                return Ok(());
            }
            // Where members do not tell what they encrypt with, this response is the only witness
            // of that step.
            let sent = self.send(step, old, new).await;
            let witness = !short
                && sent.is_ok()
                && step == Step::Use
                && matches!(&before, Ok(pools) if is_blind(pools));
            if witness {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(self.too_late(step, before, sent, old, new));
            }
            if short || sent.is_err() {
                tokio::time::sleep(STEP).await;
            }
        }
    }

    /// Whether a pool has fewer members than the description; more may be of other datacenters, or
    /// undescribed.
    fn is_short(&self, pools: &[Pool]) -> bool {
        let servers = self.view.servers(self.product).count();
        let nodes = self.view.cluster.nodes.iter();
        let all = if self.product == Product::Consul {
            nodes.filter(|node| !self.view.is_absent(node)).count()
        } else {
            servers
        };
        pools
            .iter()
            .any(|pool| pool.num_nodes < if pool.wan { servers } else { all })
    }

    fn too_late(
        &self,
        step: Step,
        pools: Result<Vec<Pool>, ApiError>,
        sent: Result<(), ApiError>,
        old: &str,
        new: &str,
    ) -> anyhow::Error {
        let state = match pools {
            Ok(pools) => count(&pools, old, new),
            Err(error) => error.to_string(),
        };
        let answer = sent
            .err()
            .map(|error| format!("; {error}"))
            .unwrap_or_default();
        let (product, deadline) = (self.product, self.deadline);
        anyhow::anyhow!(
            "{product}'s gossip key: step {step:?} is not done everywhere within {deadline:?}: {state}{answer}. \
             Nothing is lost: run `lb bootstrap rotate-gossip` again, it goes on from here"
        )
    }

    async fn pools(&self) -> Result<Vec<Pool>, ApiError> {
        match self.product {
            Product::Consul => self.api.get("/v1/operator/keyring", LIMIT).await?.json(),
            Product::Nomad => Ok(vec![
                self.api
                    .get("/v1/agent/keyring/list", LIMIT)
                    .await?
                    .json()?,
            ]),
        }
    }

    async fn send(&self, step: Step, old: &str, new: &str) -> Result<(), ApiError> {
        let key: Value = json!({ "Key": if step == Step::Remove { old } else { new } });
        let key = Some(&key);
        let consul = "/v1/operator/keyring";
        let reply = match (self.product, step) {
            (Product::Consul, Step::Install) => self.api.post(consul, key, LIMIT).await,
            (Product::Consul, Step::Use) => self.api.put(consul, key, LIMIT).await,
            (Product::Consul, Step::Remove) => self.api.delete(consul, key, LIMIT).await,
            (Product::Nomad, Step::Install) => {
                self.api.put("/v1/agent/keyring/install", key, LIMIT).await
            }
            (Product::Nomad, Step::Use) => self.api.put("/v1/agent/keyring/use", key, LIMIT).await,
            (Product::Nomad, Step::Remove) => {
                self.api.put("/v1/agent/keyring/remove", key, LIMIT).await
            }
        };
        reply?.good().map(drop)
    }
}

/// Whether no member tells which key it encrypts with.
fn is_blind(pools: &[Pool]) -> bool {
    pools
        .iter()
        .any(|pool| pool.primary_keys.as_ref().is_none_or(BTreeMap::is_empty))
}

/// A later step implies the ones before it.
fn is_done(step: Step, pools: &[Pool], old: &str, new: &str) -> bool {
    let all = |known: &dyn Fn(&Pool) -> bool| !pools.is_empty() && pools.iter().all(known);
    let knows_new = |pool: &Pool| pool.num_nodes > 0 && pool.keys.get(new) == Some(&pool.num_nodes);
    let knows_old = |pool: &Pool| pool.keys.contains_key(old);
    let uses_new = |pool: &Pool| {
        // The only key that a pool has is the one it uses.
        let only = knows_new(pool) && pool.keys.len() == 1;
        only || pool
            .primary_keys
            .as_ref()
            .is_some_and(|keys| keys.get(new) == Some(&pool.num_nodes))
    };
    match step {
        Step::Install => all(&knows_new),
        Step::Use => all(&|pool| knows_new(pool) && uses_new(pool)),
        Step::Remove => all(&|pool| knows_new(pool) && !knows_old(pool)),
    }
}

/// How far the pools are, without a key.
fn count(pools: &[Pool], old: &str, new: &str) -> String {
    let of = |keys: &BTreeMap<String, usize>, key: &str| keys.get(key).copied().unwrap_or_default();
    let lines = pools.iter().map(|pool| {
        let using = pool
            .primary_keys
            .as_ref()
            .map(|keys| format!(", {} use it", of(keys, new)))
            .unwrap_or_default();
        format!(
            "of {} members {} know the new key{using}, {} the old one",
            pool.num_nodes,
            of(&pool.keys, new),
            of(&pool.keys, old)
        )
    });
    lines.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(keys: &[(&str, usize)], primary: Option<&[(&str, usize)]>) -> Pool {
        let map = |keys: &[(&str, usize)]| {
            keys.iter()
                .map(|(key, count)| ((*key).to_owned(), *count))
                .collect()
        };
        Pool {
            keys: map(keys),
            primary_keys: primary.map(map),
            num_nodes: 3,
            wan: false,
        }
    }

    #[test]
    fn a_step_is_done_when_every_member_of_every_pool_has_taken_it() {
        let start = || pool(&[("old", 3)], Some(&[("old", 3)]));
        let installed = || pool(&[("old", 3), ("new", 3)], Some(&[("old", 3)]));
        let used = || pool(&[("old", 3), ("new", 3)], Some(&[("new", 3)]));
        let ended = || pool(&[("new", 3)], Some(&[("new", 3)]));
        let cases = [
            (vec![start()], [false, false, false]),
            (
                vec![pool(&[("old", 3), ("new", 2)], Some(&[("old", 3)]))],
                [false, false, false],
            ),
            (vec![installed()], [true, false, false]),
            (vec![installed(), start()], [false, false, false]),
            (
                vec![pool(
                    &[("old", 3), ("new", 3)],
                    Some(&[("old", 1), ("new", 2)]),
                )],
                [true, false, false],
            ),
            (vec![used()], [true, true, false]),
            (vec![used(), installed()], [true, false, false]),
            (
                vec![pool(&[("old", 1), ("new", 3)], Some(&[("new", 3)]))],
                [true, true, false],
            ),
            (vec![ended()], [true, true, true]),
            (vec![ended(), used()], [true, true, false]),
            (
                vec![pool(&[("old", 3), ("new", 3)], None)],
                [true, false, false],
            ),
            (vec![pool(&[("new", 3)], None)], [true, true, true]),
            (vec![], [false, false, false]),
        ];
        for (pools, expected) in cases {
            let found = [Step::Install, Step::Use, Step::Remove]
                .map(|step| is_done(step, &pools, "old", "new"));
            assert_eq!(found, expected, "{pools:?}");
        }
    }

    #[test]
    fn whoever_is_away_is_named() {
        let members = [
            ("y", MemberStatus::Left),
            ("x", MemberStatus::Failed),
            ("b", MemberStatus::Leaving),
            ("a", MemberStatus::Alive),
        ];
        let members = members.map(|(name, status)| Member::new(name, status));
        let wanted = ["a", "b", "c"].map(ToOwned::to_owned);
        assert_eq!(
            away(&members, &wanted, &[]),
            ["b (leaving)", "c (absent)", "x (failed)"]
        );
        assert_eq!(away(&members, &wanted[..1], &[]), ["x (failed)"]);
        assert!(away(&members, &wanted[..1], &["x".to_owned()]).is_empty());
    }

    #[test]
    fn the_count_shows_no_key() {
        let text = count(
            &[pool(&[("c2VjcmV0", 3), ("bmV3", 2)], None)],
            "c2VjcmV0",
            "bmV3",
        );
        assert_eq!(text, "of 3 members 2 know the new key, 3 the old one");
    }

    #[test]
    fn answers_of_both_products_are_understood() {
        let consul = r#"[{"WAN":false,"Datacenter":"dc1","Segment":"","Keys":{"a=":3},"PrimaryKeys":{"a=":3},"NumNodes":3}]"#;
        let pools: Vec<Pool> = serde_json::from_str(consul).unwrap();
        assert!(!is_blind(&pools));
        let nomad = r#"{"Keys":{"a=":1},"Messages":{},"NumNodes":1}"#;
        let nomad: Pool = serde_json::from_str(nomad).unwrap();
        assert!(is_blind(&[nomad]));
    }
}
