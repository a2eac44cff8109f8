//! `lb fabio -shadow URL`: our table beside that of a running Fabio, before anything is switched.
//!
//! It reads what `lb fabio` with the same settings would read, opens no listener but an admin
//! listener on a free port of this machine, changes nothing anywhere, and ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::{Running, start};
use crate::admin::client::{self, Access, AdminClientError};
use crate::config::Config;
use crate::control::{InstanceStatus, ServiceStatus};
use crate::fabio::shadow::{Comparison, LeftOut, compare};
use crate::sources::consul::is_of_mesh;

/// Longest wait for our own table.
const SYNC_MAX: Duration = Duration::from_secs(30);
/// Tables that differ are read again for so long: a change may have reached one and not yet the
/// other.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// Compares the table of the Fabio whose `ui.addr` is `url` with the one that `config` makes.
///
/// # Errors
/// Fabio cannot be reached, or there is no table of ours within 30 s.
pub fn shadow(mut config: Config, url: &str) -> anyhow::Result<Comparison> {
    alone(&mut config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // First, so that a wrong address is told at once.
        fabio_routes(url).await?;
        let running = start(&config, Vec::new())?;
        let synced = tokio::time::timeout(SYNC_MAX, running.control.synced()).await;
        if synced.is_err() {
            bail!(
                "no table of our own within {} s: still waiting for {}",
                SYNC_MAX.as_secs(),
                waited_for(&running)
            );
        }
        let until = tokio::time::Instant::now() + SETTLE_MAX;
        loop {
            let ours = client::api_routes(&access(format!("http://{}", running.admin))).await?;
            let theirs = fabio_routes(url).await?;
            let left_out: Vec<LeftOut> = running
                .control
                .services()
                .await
                .iter()
                .flat_map(left_out)
                .collect();
            let comparison = compare(&theirs, &ours, &left_out)
                .with_context(|| format!("{url} does not respond as Fabio does"))?;
            if comparison.is_equal() || tokio::time::Instant::now() >= until {
                running.thread.stop();
                return Ok(comparison);
            }
            tokio::time::sleep(LOOK).await;
        }
    })
}

/// The instances of a service that get no traffic.
fn left_out(service: &ServiceStatus) -> impl Iterator<Item = LeftOut> {
    let out = |instance: &InstanceStatus| LeftOut {
        service: service.name.to_string(),
        address: instance.address.clone(),
        reason: instance.reason.clone().unwrap_or_default(),
        never: instance.reason.as_deref().is_some_and(is_of_mesh),
    };
    service
        .instances
        .iter()
        .filter(|instance| instance.state == "excluded")
        .map(out)
}

/// Takes out everything by which others would notice: listeners, the registration, the real admin
/// listener.
fn alone(config: &mut Config) {
    config.listeners.clear();
    config.certificates.clear();
    if let Some(consul) = &mut config.consul {
        consul.register.enabled = false;
        consul.register.aliases = false;
    }
    config.admin.address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.metrics.address = None;
    config.admin.certificates = None;
    config.admin.path.clear();
    config.proxy.workers = 1;
}

fn waited_for(running: &Running) -> String {
    running.control.readiness().waiting_for.join(", ")
}

/// An address and nothing else: over TLS, the server there has to have a certificate that the
/// system trusts.
fn access(url: String) -> Access {
    Access {
        url,
        ..Access::default()
    }
}

async fn fabio_routes(url: &str) -> anyhow::Result<String> {
    client::api_routes(&access(url.to_owned()))
        .await
        .map_err(|error| match error {
            AdminClientError::Refused { address } => {
                anyhow::anyhow!("nothing listens on {address}: is Fabio's ui.addr there?")
            }
            AdminClientError::Exchange { address, reason } => {
                anyhow::anyhow!("request to Fabio at {address} failed: {reason}")
            }
            AdminClientError::Timeout { address } => {
                anyhow::anyhow!("Fabio at {address} did not respond in time")
            }
            AdminClientError::Response {
                address,
                status,
                message,
            } => {
                anyhow::anyhow!("Fabio at {address} responded {status}: {message}")
            }
            error @ (AdminClientError::Address { .. }
            | AdminClientError::File { .. }
            | AdminClientError::Tls { .. }) => error.into(),
        })
}
