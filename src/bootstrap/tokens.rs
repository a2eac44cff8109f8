//! ACLs between the phases: Consul's as soon as it has a leader, Nomad's likewise, and each agent its own.

use anyhow::Result;

use super::acl;
use super::topology::Phase;
use super::world::World;

/// Makes and hands out what the phases after this one need. Nothing without ACLs.
///
/// # Errors
/// When a product refuses, or has tokens that are not ours.
pub(super) async fn after(world: &mut World, phase: Phase) -> Result<()> {
    if !world.cluster.acl {
        return Ok(());
    }
    match phase {
        Phase::ConsulServers => {
            let bar = world.progress.phase("Consul ACLs", 2);
            let reach = world.reach()?;
            acl::bootstrap_consul(&world.cluster, &reach, &mut world.state, world.limit).await?;
            let reach = world.reach()?;
            acl::consul_tokens(&world.cluster, &reach, &mut world.state).await?;
            bar.set(1, "tokens of the servers");
            let servers: Vec<_> = world.of_phase(phase);
            acl::give_agent_tokens(&servers.iter().collect::<Vec<_>>(), &reach, &world.state, world.limit).await?;
            world.read_shared()?;
            bar.done("default deny, a token for each");
        }
        Phase::ConsulClients => {
            let reach = world.reach()?;
            let agents: Vec<_> = world.of_phase(phase);
            acl::give_agent_tokens(&agents.iter().collect::<Vec<_>>(), &reach, &world.state, world.limit).await?;
        }
        Phase::NomadServers => {
            let bar = world.progress.phase("Nomad ACLs", 1);
            let reach = world.reach()?;
            acl::bootstrap_nomad(&world.cluster, &reach, &mut world.state, world.limit).await?;
            let reach = world.reach()?;
            acl::nomad_tokens(&world.cluster, &reach, &mut world.state).await?;
            bar.done("default deny, an operator's token");
        }
        Phase::NomadClients => {}
    }
    Ok(())
}
