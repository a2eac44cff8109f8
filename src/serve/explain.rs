//! What the data path would do with a request, for the admin listener: a worker of its own without
//! clients, on the control thread.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use tokio::sync::watch;

use crate::admin::DataPath;
use crate::config::{ListenerConfig, ListenerProtocol};
use crate::metrics::ListenerMetrics;
use crate::proxy::http::explain::{decide, decide_connection};
use crate::proxy::http::headers::without_port;
use crate::proxy::listener::Listener;
use crate::proxy::worker::{Worker, WorkerContext};
use crate::table::explain::{Decision, ExplainedRequest};

/// The configured listeners, as they are now.
pub(super) type Listeners = watch::Receiver<Arc<[ListenerConfig]>>;

/// Decides about requests without sending them.
pub(super) struct Explainer {
    worker: Rc<Worker>,
    listeners: Listeners,
}

impl Explainer {
    pub(super) fn new(context: &WorkerContext, listeners: Listeners) -> Self {
        Self {
            worker: Worker::new(context, 0),
            listeners,
        }
    }

    /// The listener that such a request comes to: by its port, else the first that speaks so.
    fn listener(&self, asked: &ExplainedRequest) -> Rc<Listener> {
        let listeners = self.listeners.borrow();
        let speaks = |config: &&ListenerConfig| is_http(config.protocol) == Some(asked.tls);
        let by_port = |config: &&ListenerConfig| Some(config.address.port()) == asked.port;
        let found = listeners
            .iter()
            .filter(speaks)
            .find(by_port)
            .or_else(|| listeners.iter().find(speaks));
        let config = found.cloned().unwrap_or_else(|| {
            let protocol = if asked.tls {
                ListenerProtocol::Https
            } else {
                ListenerProtocol::Http
            };
            ListenerConfig {
                protocol,
                ..ListenerConfig::default()
            }
        });
        Rc::new(Listener {
            config: Arc::new(config),
            certificates: None,
            metrics: Arc::new(ListenerMetrics::default()),
            observer: None,
        })
    }

    async fn decide(&self, asked: &ExplainedRequest) -> Decision {
        let listener = self.listener(asked);
        if listener.config.protocol == ListenerProtocol::HttpsTcpSni {
            let host = asked
                .headers
                .get(http::header::HOST)
                .and_then(|host| host.to_str().ok())
                .unwrap_or_default();
            let name = std::str::from_utf8(without_port(host.as_bytes())).unwrap_or("");
            let passed_through = self
                .worker
                .table
                .borrow_mut()
                .load()
                .is_passed_through(name);
            if passed_through {
                return decide_connection(
                    &self.worker,
                    listener.config.address,
                    Some(name),
                    SocketAddr::new(asked.from, 0),
                );
            }
        }
        decide(&self.worker, &listener, asked).await
    }
}

/// Whether it carries HTTP, and then, whether in TLS.
fn is_http(protocol: ListenerProtocol) -> Option<bool> {
    match protocol {
        ListenerProtocol::Http | ListenerProtocol::Grpc => Some(false),
        ListenerProtocol::Https | ListenerProtocol::HttpsTcpSni | ListenerProtocol::Grpcs => {
            Some(true)
        }
        ListenerProtocol::Tcp
        | ListenerProtocol::TcpSni
        | ListenerProtocol::TcpDynamic
        | ListenerProtocol::Prometheus => None,
    }
}

impl DataPath for Explainer {
    fn decide<'a>(&'a self, asked: &'a ExplainedRequest) -> LocalBoxFuture<'a, Decision> {
        Box::pin(self.decide(asked))
    }

    fn decide_connection(
        &self,
        local: SocketAddr,
        server_name: Option<&str>,
        from: SocketAddr,
    ) -> Decision {
        decide_connection(&self.worker, local, server_name, from)
    }
}
