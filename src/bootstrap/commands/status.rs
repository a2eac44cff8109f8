//! `lb bootstrap status`: members, leaders, nodes, and the days left of each certificate.

use std::time::SystemTime;

use anyhow::Result;

use super::invocation::Invocation;
use super::terminal::print;
use crate::bootstrap::cluster::status;
use crate::bootstrap::exit::DIFFERS;
use crate::bootstrap::security::pki;
use crate::bootstrap::topology::Product;

/// A certificate with fewer days than this is a reason for exit code 3.
const WARN_DAYS: i64 = 30;

/// Prints it; exit code 3 when anything is not as it should be.
///
/// # Errors
/// When there is no such cluster, or no certificate for requests to it.
pub(super) async fn run(invocation: &Invocation, json: bool) -> Result<u8> {
    let context = invocation.open_to_read()?;
    context.dial().await;
    let now = SystemTime::now();
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    let mut status =
        status::look(&context.cluster_view()?, context.scope, seconds, WARN_DAYS).await;
    let mut days = None;
    for product in Product::ALL {
        if let Some(ca) = context.state.signing_cert(product)? {
            let left = pki::describe(&ca)?.days_left(now);
            days = Some(days.map_or(left, |days: i64| days.min(left)));
        }
    }
    if let Some(days) = days {
        status.judge_ca(days, WARN_DAYS);
    }
    for operation in context.state.operations()? {
        status.add_problem(operation.told());
    }
    match json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&status)?))?,
        false => print(&status::render(&status))?,
    }
    Ok(if status.degraded { DIFFERS } else { 0 })
}
