//! `up --with-sample`: a service job, and lb itself as a system job in front of it, so that the
//! cluster is of use at once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::bootstrap::context::World;
use crate::bootstrap::render::jobs;
use crate::bootstrap::topology::{Node, Product, Role, Scope};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Limit for a request that makes Nomad parse or plan a job.
const JOB_LIMIT: Duration = Duration::from_secs(15);
/// Port of lb's listener in the sample job.
const LB_PORT: u16 = 9999;

/// Submits both jobs and waits until requests can go through; the URL to try.
///
/// # Errors
/// When Nomad refuses a job, or its instances do not become healthy in time.
pub(super) async fn run(world: &mut World) -> Result<String> {
    if world.scope != Scope::All || world.cluster.of_role(Role::NomadClient).next().is_none() {
        bail!("--with-sample needs Nomad clients: leave out --only");
    }
    let clients = world.cluster.of_role(Role::NomadClient).count();
    let bar = world.progress.phase("Sample jobs", 2);
    submit(world, &jobs::hello(&world.cluster))
        .await
        .context("job hello")?;
    submit(world, &jobs::lb_system(&world.cluster))
        .await
        .context("job lb")?;
    let deadline = Instant::now() + world.limit;
    healthy(world, "hello", 1, deadline).await?;
    bar.set(1, "hello is healthy");
    healthy(world, "lb", clients, deadline).await?;
    let client = world
        .cluster
        .of_role(Role::NomadClient)
        .next()
        .context("no Nomad client")?;
    bar.done("hello, and lb on every client");
    Ok(format!(
        "http://{}/hello",
        SocketAddr::new(client.address, LB_PORT)
    ))
}

/// Has Nomad read the job and run it. The same job again changes nothing.
async fn submit(world: &World, request: &Value) -> Result<()> {
    let reach = world.reach()?;
    let (server, _): (&Node, Value) = reach
        .any_server(&world.cluster, Product::Nomad, "/v1/status/leader")
        .await?;
    let api = reach.api(server, Product::Nomad);
    let job: Value = api
        .put("/v1/jobs/parse", Some(request), JOB_LIMIT)
        .await?
        .good()?
        .json()?;
    api.put("/v1/jobs", Some(&json!({ "Job": job })), JOB_LIMIT)
        .await?
        .good()?;
    Ok(())
}

async fn healthy(world: &World, service: &str, wanted: usize, deadline: Instant) -> Result<()> {
    let reach = world.reach()?;
    let path = format!("/v1/health/service/{service}?passing");
    loop {
        let found = reach
            .any_server::<Vec<Value>>(&world.cluster, Product::Consul, &path)
            .await;
        let count = found.as_ref().map_or(0, |(_, instances)| instances.len());
        if count >= wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            let why = found
                .err()
                .map(|error| format!("{error:#}"))
                .unwrap_or_default();
            bail!(
                "{service}: {count} of {wanted} instances are healthy; look at `nomad job status {service}` {why}"
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}
