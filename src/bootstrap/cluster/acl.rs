//! ACLs of both products: bootstrap once, then policies and tokens, each secret kept before it is
//! used.
//!
//! Everything here may be cut off at any point and run again. Where a product lets us choose the
//! secret (Consul's tokens; the bootstrap of Nomad from 1.4 and of newer Consul) it is chosen and
//! saved first, so that nothing can be lost. Where it does not (Nomad's other tokens), the token is
//! found again by its name and read.
//!
//! Nomad's agents use one Consul token. Checked with Nomad 2.0.6 and Consul 1.8.7 under default
//! deny: it is enough for Nomad's own services and for the services of groups and tasks; workload
//! identities (a JWT auth method in Consul) are needed only by tasks that want a Consul token of
//! their own, such as templates that read Consul's KV. Where the tokens are kept is the business of
//! the [`TokenStore`], and putting them into configurations that of `render`.

mod consul;
mod nomad;
pub mod rotate;
mod store;

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

pub use consul::tokens as consul_tokens;
pub use nomad::tokens as nomad_tokens;
pub(super) use store::is_valid;
pub use store::new_secret;
pub use store::{
    CONSUL_AGENT, CONSUL_LB, CONSUL_MANAGEMENT, CONSUL_NOMAD, CONSUL_OPERATOR, CONSUL_SCRAPE,
    NOMAD_MANAGEMENT, NOMAD_OPERATOR, TokenStore, consul_agent,
};
use store::{STEP, TokenMade};

use http::StatusCode;

use super::api::{Api, ApiError, LIMIT};
use super::view::ClusterView;
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::topology::{Cluster, Node, Product};

/// Hands their tokens to the agents of these nodes; again does no harm. The view carries the
/// management token.
///
/// # Errors
/// When an agent has not taken it by the deadline; names all such.
pub async fn give_agent_tokens(
    view: &ClusterView<'_>,
    nodes: &[&Node],
    tokens: &(dyn TokenStore + '_),
    deadline: Duration,
) -> anyhow::Result<()> {
    let end = Instant::now() + deadline;
    let mut work = Vec::with_capacity(nodes.len());
    for &node in nodes {
        let name = consul_agent(node);
        let Some(token) = tokens.get(&name) else {
            anyhow::bail!(
                "{}: there is no token {name} in the state folder: run `lb bootstrap up`",
                node.name
            );
        };
        work.push(async move {
            let api = view.api(node, Product::Consul);
            consul::give_agent_token(&api, &token, end)
                .await
                .err()
                .map(|error| format!("\n  {}: {error:#}", node.name))
        });
    }
    let failures: String = join_all(work).await.into_iter().flatten().collect();
    anyhow::ensure!(
        failures.is_empty(),
        "Consul agents that did not take their token:{failures}"
    );
    Ok(())
}

/// Whether a request is refused because ACLs have not been bootstrapped yet: there is no token, or
/// one that the product does not know, because its data was lost and the token was not.
pub async fn is_before_bootstrap(error: &ApiError, api: &Api) -> bool {
    error.status() == Some(StatusCode::FORBIDDEN)
        && (!api.has_token() || matches!(is_valid(api).await, Ok(None)))
}

/// What a try to bootstrap came to.
enum Try {
    /// The token that is now valid.
    Made { accessor: String, secret: Secret },
    /// It was done before; the number that allows it anew.
    DoneBefore { reset_index: Option<u64> },
    /// Not ready; worth another try.
    NotYet(String),
}

/// The bootstrap token of a product: the saved one, or a new one of a cluster that has none. The
/// view needs no token.
///
/// # Errors
/// When the cluster has been bootstrapped with another token (tells how to start over), or is not
/// ready in time.
pub async fn bootstrap(
    view: &ClusterView<'_>,
    product: Product,
    tokens: &mut (dyn TokenStore + '_),
    deadline: Duration,
) -> anyhow::Result<Secret> {
    let name = match product {
        Product::Consul => CONSUL_MANAGEMENT,
        Product::Nomad => NOMAD_MANAGEMENT,
    };
    let end = Instant::now() + deadline;
    let secret = match tokens.get(name) {
        Some(secret) => secret,
        None => {
            // Before it is used: a run that is killed after the request must find it again.
            let secret = new_secret();
            tokens.put(name, "", &secret)?;
            secret
        }
    };
    loop {
        let why = match try_all(view, product, &secret).await {
            Try::Made {
                accessor,
                secret: made,
            } => {
                // Old versions choose for themselves.
                tokens.put(name, &accessor, &made)?;
                return Ok(made);
            }
            Try::DoneBefore { reset_index } => {
                anyhow::bail!(done_before(view, product, reset_index).await)
            }
            Try::NotYet(why) => why,
        };
        anyhow::ensure!(
            Instant::now() < end,
            "{product}'s ACLs cannot be bootstrapped within {deadline:?}: {why}"
        );
        tokio::time::sleep(STEP).await;
    }
}

/// One server after the other: whether our token is valid, else the bootstrap with it.
async fn try_all(view: &ClusterView<'_>, product: Product, secret: &Secret) -> Try {
    let mut last = format!("the cluster has no {product} server");
    for node in view.cluster.servers(product) {
        let api = view.api(node, product).with_token(Some(secret.clone()));
        match is_valid(&api).await {
            Ok(Some(accessor)) => {
                return Try::Made {
                    accessor,
                    secret: secret.clone(),
                };
            }
            Ok(None) => {}
            Err(error) => {
                last = error.to_string();
                continue;
            }
        }
        let body = serde_json::json!({ "BootstrapSecret": secret.reveal() });
        let reply = match api
            .with_token(None)
            .put("/v1/acl/bootstrap", Some(&body), LIMIT)
            .await
        {
            Ok(reply) => reply,
            // Whether it was carried out will be seen with the next look at the token.
            Err(error) => {
                last = error.to_string();
                continue;
            }
        };
        if let Some(reset_index) = already_done(&reply.text()) {
            // By this run, a moment ago, with a response that was lost?
            return match is_valid(&api).await {
                Ok(Some(accessor)) => Try::Made {
                    accessor,
                    secret: secret.clone(),
                },
                Ok(None) => Try::DoneBefore { reset_index },
                Err(error) => Try::NotYet(error.to_string()),
            };
        }
        match reply.json::<TokenMade>() {
            Ok(made) => {
                return Try::Made {
                    accessor: made.accessor_id,
                    secret: Secret::new(made.secret_id),
                };
            }
            Err(error) => last = error.to_string(),
        }
    }
    Try::NotYet(last)
}

/// Consul: `Permission denied: ACL bootstrap no longer allowed (reset index: 9)`; Nomad: `ACL
/// bootstrap already done (reset index: 11)`. None: neither.
fn already_done(text: &str) -> Option<Option<u64>> {
    let done = text.contains("ACL bootstrap no longer allowed")
        || text.contains("ACL bootstrap already done");
    done.then(|| {
        let (_, rest) = text.split_once("reset index: ")?;
        rest.split(')').next()?.trim().parse().ok()
    })
}

async fn done_before(view: &ClusterView<'_>, product: Product, reset_index: Option<u64>) -> String {
    let leader = view.leader(product).await;
    let index = reset_index.map_or_else(
        || "the number of `reset index`".to_owned(),
        |index| index.to_string(),
    );
    let (place, file) = match leader {
        Some(node) => (node.name.as_str(), reset_file(view.cluster, node, product)),
        None => (
            "the leader",
            "acl-bootstrap-reset in its data folder".to_owned(),
        ),
    };
    format!(
        "{product}'s ACLs have been bootstrapped already, and the state folder {} does not hold that token. Use the state \
         folder of this cluster. If the token is lost for good, allow another bootstrap: on {place}, which leads, run \
         `echo {index} > {file}` as the user of the daemon, then run `lb bootstrap up` again; it makes a new management \
         token beside the old ones",
        view.cluster.state.display()
    )
}

fn reset_file(cluster: &Cluster, node: &Node, product: Product) -> String {
    let layout = cluster.layout(node);
    match product {
        Product::Consul => format!("{}/acl-bootstrap-reset", layout.consul_data),
        Product::Nomad => format!("{}/server/acl-bootstrap-reset", layout.nomad_data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_a_second_bootstrap_is_known() {
        let cases = [
            (
                "Permission denied: ACL bootstrap no longer allowed (reset index: 9)",
                Some(Some(9)),
            ),
            (
                "ACL bootstrap already done (reset index: 11)",
                Some(Some(11)),
            ),
            ("ACL bootstrap already done", Some(None)),
            ("ACL bootstrap already done (reset index: x)", Some(None)),
            ("The ACL system is currently in legacy mode.", None),
            ("No cluster leader", None),
        ];
        for (text, expected) in cases {
            assert_eq!(already_done(text), expected, "{text}");
        }
    }
}
