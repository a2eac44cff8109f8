//! ACLs between the phases: Consul's as soon as it has a leader, Nomad's likewise, and each agent
//! its own.

use anyhow::{Context as _, Result, bail};

use crate::bootstrap::cluster::acl::{self, Bootstrapped, TokenStore};
use crate::bootstrap::cluster::view::ClusterView;
use crate::bootstrap::context::Context;
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::state::{State, Token, Tokens};
use crate::bootstrap::topology::{Phase, Product};

/// The tokens of the state folder under the names by which `acl` knows them.
struct StoredTokens<'a>(&'a mut State);

/// Where a token of this name is kept.
fn slot<'a>(tokens: &'a mut Tokens, name: &str) -> Option<&'a mut Option<Token>> {
    Some(match name {
        acl::CONSUL_MANAGEMENT => &mut tokens.consul_management,
        acl::CONSUL_OPERATOR => &mut tokens.operator,
        acl::CONSUL_NOMAD => &mut tokens.nomad_consul,
        acl::CONSUL_LB => &mut tokens.lb,
        acl::CONSUL_SCRAPE => &mut tokens.scrape,
        acl::NOMAD_MANAGEMENT => &mut tokens.nomad_management,
        acl::NOMAD_OPERATOR => &mut tokens.nomad_operator,
        _ => return None,
    })
}

impl StoredTokens<'_> {
    fn token(&self, name: &str) -> Option<Token> {
        let mut tokens = self.0.tokens().ok()?;
        match slot(&mut tokens, name) {
            Some(slot) => slot.take(),
            None => tokens.agents.remove(name.strip_prefix(acl::CONSUL_AGENT)?),
        }
    }
}

impl TokenStore for StoredTokens<'_> {
    fn get(&self, name: &str) -> Option<Secret> {
        self.token(name).map(|token| token.secret)
    }

    fn retired(&self) -> Vec<String> {
        let retired = self.0.tokens().unwrap_or_default().retired;
        let accessors = retired.into_iter().map(|retired| retired.token.accessor);
        accessors.collect()
    }

    fn accessor(&self, name: &str) -> Option<String> {
        self.token(name).map(|token| token.accessor)
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        let mut tokens = self.0.tokens()?;
        if let Some(slot) = slot(&mut tokens, name) {
            *slot = None;
        } else if let Some(node) = name.strip_prefix(acl::CONSUL_AGENT) {
            tokens.agents.remove(node);
        }
        self.0.save_tokens(&tokens)
    }

    fn put(&mut self, name: &str, accessor: &str, secret: &Secret) -> Result<()> {
        let mut tokens = self.0.tokens()?;
        let token = Token {
            accessor: accessor.to_owned(),
            secret: secret.clone(),
        };
        match (
            slot(&mut tokens, name),
            name.strip_prefix(acl::CONSUL_AGENT),
        ) {
            (Some(slot), _) => *slot = Some(token),
            (None, Some(node)) => drop(tokens.agents.insert(node.to_owned(), token)),
            (None, None) => bail!("no place for a token called {name:?}"),
        }
        self.0.save_tokens(&tokens)
    }
}

/// How often a lost token is made anew: while a leader is elected, another node has to allow it.
const TRIES: usize = 5;

/// The management token of a product. One that was made for us and never arrived is given up for
/// another.
async fn bootstrap(context: &mut Context, product: Product) -> Result<()> {
    for _ in 0..TRIES {
        let view = ClusterView::new(&context.cluster, context.cluster_client()?);
        let tokens = &mut StoredTokens(&mut context.state);
        let (leader, reset_index) =
            match acl::bootstrap(&view, product, tokens, context.limit).await? {
                Bootstrapped::Token(_) => return Ok(()),
                Bootstrapped::TokenLost {
                    leader,
                    reset_index,
                } => (leader, reset_index),
            };
        let node = context
            .cluster
            .nodes
            .iter()
            .find(|node| node.name == leader);
        let node = node.with_context(|| format!("{leader} is not a node of the cluster"))?;
        context.progress.note(&format!(
            "{product}'s first token was made and never arrived: {leader} allows another"
        ));
        let spec = context.spec(node)?;
        let host = context.host(node);
        host.allow_bootstrap(&spec, product, reset_index).await?;
    }
    bail!(
        "{product}'s servers do not allow another first token, although the one that leads was given the file \
         acl-bootstrap-reset; run the same command again"
    )
}

/// Makes and hands out what the phases after this one need; nothing without ACLs. Whether Nomad was
/// given its first token, its first again after a loss of its data, which shows more than the gate
/// could see before.
///
/// # Errors
/// When a product refuses, or has tokens that are not ours.
pub(super) async fn after(context: &mut Context, phase: Phase) -> Result<bool> {
    if !context.cluster.acl {
        return Ok(false);
    }
    let accessor = |context: &Context| {
        let token = context.state.tokens()?.nomad_management;
        anyhow::Ok(token.map(|token| token.accessor).unwrap_or_default())
    };
    let before = accessor(context)?;
    match phase {
        Phase::ConsulServers => {
            let bar = context.progress.phase("Consul ACLs", 2);
            bootstrap(context, Product::Consul).await?;
            let view = ClusterView::new(&context.cluster, context.cluster_client()?);
            acl::consul_tokens(&view, &mut StoredTokens(&mut context.state)).await?;
            bar.set(1, "tokens of the servers");
            let servers: Vec<_> = context.of_phase(phase);
            acl::give_agent_tokens(
                &view,
                &servers.iter().collect::<Vec<_>>(),
                &StoredTokens(&mut context.state),
                context.limit,
            )
            .await?;
            context.read_shared()?;
            bar.done("default deny, a token for each");
        }
        Phase::ConsulClients => {
            let view = ClusterView::new(&context.cluster, context.cluster_client()?);
            let agents: Vec<_> = context.of_phase(phase);
            acl::give_agent_tokens(
                &view,
                &agents.iter().collect::<Vec<_>>(),
                &StoredTokens(&mut context.state),
                context.limit,
            )
            .await?;
        }
        Phase::NomadServers => {
            let bar = context.progress.phase("Nomad ACLs", 1);
            bootstrap(context, Product::Nomad).await?;
            let view = ClusterView::new(&context.cluster, context.cluster_client()?);
            acl::nomad_tokens(&view, &mut StoredTokens(&mut context.state)).await?;
            bar.done("default deny, an operator's token");
        }
        Phase::NomadClients => {}
    }
    Ok(phase == Phase::NomadServers && accessor(context)? != before)
}
