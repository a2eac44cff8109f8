//! ACLs of both products: bootstrap once, then policies and tokens, each secret kept before it is
//! used.
//!
//! Everything here may be cut off at any point and run again. Where a product lets us choose the
//! secret (Consul's tokens; the bootstrap of Nomad from 1.4 and of newer Consul) it is chosen and
//! saved first, so that nothing can be lost. Where it does not, a token of Nomad is found again by
//! its name and read, and the bootstrap of older Consul, whose response may be lost, is allowed
//! once more.
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
use crate::bootstrap::topology::{Node, Product};

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

/// Whether a product does not know the view's token, because its data was lost and the token was
/// not: a majority of the servers says so, and none knows it. One alone may not know it yet.
pub async fn is_token_lost(view: &ClusterView<'_>, product: Product) -> bool {
    let servers: Vec<&Node> = view.cluster.servers(product).collect();
    let looks = servers.iter().map(|node| async move {
        let api = view.api(node, product);
        is_valid(&api).await.ok()
    });
    let found: Vec<_> = join_all(looks).await.into_iter().flatten().collect();
    found.len() > servers.len() / 2 && found.iter().all(Option::is_none)
}

/// What a try to bootstrap came to.
enum Try {
    /// The token that is now valid.
    Made { accessor: String, secret: Secret },
    /// It was done before; the number that allows it anew.
    DoneBefore { reset_index: Option<u64> },
    /// Requested without a response: it may have been carried out.
    NoResponse(String),
    /// Not ready; worth another try.
    NotYet(String),
}

/// What the bootstrap of a product came to.
#[derive(Debug)]
pub enum Bootstrapped {
    /// The management token, which is saved.
    Token(Secret),
    /// A request of ours was carried out and its response lost, and with it the token. The leader
    /// allows another bootstrap when a file of its data folder holds the index.
    TokenLost {
        /// Name of the node that leads.
        leader: String,
        /// What [`Layout::acl_reset_file`](crate::bootstrap::topology::Layout::acl_reset_file)
        /// must hold.
        reset_index: u64,
    },
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
) -> anyhow::Result<Bootstrapped> {
    let name = match product {
        Product::Consul => CONSUL_MANAGEMENT,
        Product::Nomad => NOMAD_MANAGEMENT,
    };
    let end = Instant::now() + deadline;
    let before = tokens.accessor(name);
    // One that a run has saved which was then killed may have been requested.
    let mut is_response_lost = before.as_deref() == Some("");
    let secret = tokens.get(name).unwrap_or_else(new_secret);
    loop {
        let why = match try_all(view, product, &secret, name, tokens).await? {
            Try::Made {
                accessor,
                secret: made,
            } => {
                // Old versions choose for themselves.
                tokens.put(name, &accessor, &made)?;
                return Ok(Bootstrapped::Token(made));
            }
            Try::DoneBefore { reset_index } => {
                let leader = view.leader(product).await;
                if let (true, Some(leader), Some(reset_index)) =
                    (is_response_lost, leader, reset_index)
                {
                    let leader = leader.name.clone();
                    return Ok(Bootstrapped::TokenLost {
                        leader,
                        reset_index,
                    });
                }
                // By others: the next run must not take it for ours.
                match &before {
                    Some(accessor) => tokens.put(name, accessor, &secret)?,
                    None => tokens.remove(name)?,
                }
                anyhow::bail!(done_before(view, product, reset_index).await)
            }
            Try::NoResponse(why) => {
                is_response_lost = true;
                why
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
async fn try_all(
    view: &ClusterView<'_>,
    product: Product,
    secret: &Secret,
    name: &str,
    tokens: &mut (dyn TokenStore + '_),
) -> anyhow::Result<Try> {
    let mut last = format!("the cluster has no {product} server");
    for node in view.cluster.servers(product) {
        let api = view.api(node, product).with_token(Some(secret.clone()));
        match is_valid(&api).await {
            Ok(Some(accessor)) => {
                return Ok(Try::Made {
                    accessor,
                    secret: secret.clone(),
                });
            }
            Ok(None) => {}
            Err(error) => {
                last = error.to_string();
                continue;
            }
        }
        // Before it is used: a run that is killed after the request must find it again.
        if tokens.accessor(name).as_deref() != Some("") {
            tokens.put(name, "", secret)?;
        }
        let body = serde_json::json!({ "BootstrapSecret": secret.reveal() });
        let reply = match api
            .with_token(None)
            .put("/v1/acl/bootstrap", Some(&body), LIMIT)
            .await
        {
            Ok(reply) => reply,
            // Whether it was carried out will be seen with the next look at the token.
            Err(error) => return Ok(Try::NoResponse(error.to_string())),
        };
        if let Some(reset_index) = already_done(&reply.text()) {
            // By this run, a moment ago, with a response that was lost?
            return Ok(match is_valid(&api).await {
                Ok(Some(accessor)) => Try::Made {
                    accessor,
                    secret: secret.clone(),
                },
                Ok(None) => Try::DoneBefore { reset_index },
                Err(error) => Try::NotYet(error.to_string()),
            });
        }
        match reply.json::<TokenMade>() {
            Ok(made) => {
                return Ok(Try::Made {
                    accessor: made.accessor_id,
                    secret: Secret::new(made.secret_id),
                });
            }
            Err(error) => last = error.to_string(),
        }
    }
    Ok(Try::NotYet(last))
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
        Some(node) => (
            node.name.as_str(),
            view.cluster.layout(node).acl_reset_file(product),
        ),
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
