//! `up --with-sample`: a service job, and lb itself as a system job in front of it, so that the
//! cluster is of use at once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::bootstrap::cluster::facts::NomadNode;
use crate::bootstrap::cluster::view::Consistency;
use crate::bootstrap::context::Context;
use crate::bootstrap::render::jobs;
use crate::bootstrap::topology::{Node, Phase, Product, Role, Scope};

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
pub(super) async fn run(context: &mut Context) -> Result<String> {
    if context.scope != Scope::All || context.cluster.of_role(Role::NomadClient).next().is_none() {
        bail!("--with-sample needs Nomad clients: leave out --only");
    }
    if !context.cluster.raw_exec {
        bail!("--with-sample needs the driver raw_exec: leave the flag or raw_exec = false out");
    }
    let clients = takers(context).await?;
    let bar = context.progress.phase("Sample jobs", 2);
    submit(context, &jobs::hello(&context.cluster))
        .await
        .context("cannot run the job hello")?;
    submit(context, &jobs::lb_system(&context.cluster))
        .await
        .context("cannot run the job lb")?;
    let deadline = Instant::now() + context.limit;
    healthy(context, "hello", 1, deadline).await?;
    bar.set(1, "hello is healthy");
    healthy(context, "lb", clients.len(), deadline).await?;
    let client = clients.first().context("no Nomad client takes jobs")?;
    bar.done("hello, and lb on every client");
    Ok(format!(
        "http://{}/hello",
        SocketAddr::new(client.address, LB_PORT)
    ))
}

/// The clients that take allocations.
async fn takers(context: &Context) -> Result<Vec<Node>> {
    let view = context.cluster_view()?;
    let (_, listed) = view.nomad_nodes(Consistency::Default).await?;
    let mut clients = context.of_phase(Phase::NomadClients);
    clients.retain(|node| {
        let client = NomadNode::of_name(&listed, &node.name);
        client.is_some_and(|client| client.idle().is_none())
    });
    Ok(clients)
}

/// Has Nomad read the job and run it. The same job again changes nothing.
async fn submit(context: &Context, request: &Value) -> Result<()> {
    let view = context.cluster_view()?;
    let server = view.answering_server(Product::Nomad, None).await?;
    let api = view.api(server, Product::Nomad);
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

async fn healthy(context: &Context, service: &str, wanted: usize, deadline: Instant) -> Result<()> {
    let view = context.cluster_view()?;
    let path = format!("/v1/health/service/{service}?passing");
    loop {
        let found = view.any_server::<Vec<Value>>(Product::Consul, &path).await;
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
