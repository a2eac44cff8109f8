//! The thread on which certificates are fetched.

use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};

use super::store_sink::StoreSink;
use crate::certificates::{self, Demands, FetchContext, Ports};
use crate::config::CertificateConfig;
use crate::system::vital;

/// Orders of certificates wait in many layers of calls. What is not used of it takes no memory.
const STACK: usize = 16 << 20;

/// One source, and what it needs.
pub(super) struct Job {
    pub(super) config: CertificateConfig,
    pub(super) context: FetchContext,
    pub(super) sink: Arc<StoreSink>,
    pub(super) demands: Option<Demands>,
    pub(super) ports: Option<Ports>,
}

/// The thread; ends when this is dropped, and its tasks with it.
#[derive(Debug)]
pub(super) struct Fetcher(mpsc::UnboundedSender<Vec<Job>>);

impl Fetcher {
    pub(super) fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime that fetches certificates")?;
        let (sender, received) = mpsc::unbounded_channel();
        let run = move || LocalSet::new().block_on(&runtime, run_jobs(received));
        thread::Builder::new()
            .name("lb-certificates".to_owned())
            .stack_size(STACK)
            .spawn(run)?;
        Ok(Self(sender))
    }

    /// Does these jobs instead of the present ones.
    pub(super) fn replace(&self, jobs: Vec<Job>) {
        // The thread ends with this sender only.
        self.0.send(jobs).ok();
    }
}

async fn run_jobs(mut received: mpsc::UnboundedReceiver<Vec<Job>>) {
    let mut tasks: Vec<JoinHandle<()>> = Vec::new();
    while let Some(jobs) = received.recv().await {
        for task in tasks.drain(..) {
            task.abort();
        }
        let spawned = jobs.into_iter().map(|job| {
            tokio::task::spawn_local(vital::again("a source of certificates", move || {
                certificates::run(
                    job.config.clone(),
                    job.context.clone(),
                    job.sink.clone(),
                    job.demands.clone(),
                    job.ports.clone(),
                )
            }))
        });
        tasks.extend(spawned);
    }
}
