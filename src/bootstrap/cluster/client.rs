//! How the agents of a whole cluster are reached: one way to connect, a TLS configuration and a
//! token per product.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{join_all, select_ok};
use rustls::ClientConfig;
use serde::de::DeserializeOwned;

use super::api::{Api, ApiError, Connect, LIMIT};
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::topology::{Node, PerProduct, Product};

/// See the module.
#[derive(Clone)]
pub struct ClusterClient {
    connect: Connect,
    tls: PerProduct<Arc<ClientConfig>>,
    consul_token: Option<Secret>,
    nomad_token: Option<Secret>,
}

impl ClusterClient {
    /// Without tokens.
    #[must_use]
    pub fn new(connect: Connect, tls: PerProduct<Arc<ClientConfig>>) -> Self {
        Self {
            connect,
            tls,
            consul_token: None,
            nomad_token: None,
        }
    }

    /// With this token for one product.
    #[must_use]
    pub fn with_token(mut self, product: Product, token: Option<Secret>) -> Self {
        match product {
            Product::Consul => self.consul_token = token,
            Product::Nomad => self.nomad_token = token,
        }
        self
    }

    /// The API of one agent.
    #[must_use]
    pub fn api(&self, node: &Node, product: Product) -> Api {
        let token = match product {
            Product::Consul => self.consul_token.clone(),
            Product::Nomad => self.nomad_token.clone(),
        };
        Api::new(
            self.connect.clone(),
            node.https(product),
            self.tls.of(product).clone(),
            token,
        )
    }

    /// The first good response of any of these servers. All get the request at once, so that a
    /// hanging one costs no time.
    ///
    /// # Errors
    /// The last error, if no server gives a good response.
    pub async fn any_server<'c, T: DeserializeOwned>(
        &self,
        servers: impl Iterator<Item = &'c Node>,
        product: Product,
        path: &str,
    ) -> anyhow::Result<(&'c Node, T)> {
        let questions: Vec<_> = servers
            .map(|node| {
                let api = self.api(node, product);
                async move { Ok::<_, ApiError>((node, api.get(path, LIMIT).await?.json::<T>()?)) }
                    .boxed()
            })
            .collect();
        anyhow::ensure!(!questions.is_empty(), "the cluster has no {product} server");
        let (answer, _) = select_ok(questions).await?;
        Ok(answer)
    }

    /// The good responses of all of these servers, requested at once, in their order.
    ///
    /// # Errors
    /// The last error, if no server gives a good response.
    pub async fn every_server<'c, T: DeserializeOwned>(
        &self,
        servers: impl Iterator<Item = &'c Node>,
        product: Product,
        path: &str,
    ) -> anyhow::Result<Vec<(&'c Node, T)>> {
        let questions = servers.map(|node| {
            let api = self.api(node, product);
            async move { Ok::<_, ApiError>((node, api.get(path, LIMIT).await?.json::<T>()?)) }
        });
        let (mut good, mut last) = (Vec::new(), None);
        for answer in join_all(questions).await {
            match answer {
                Ok(answer) => good.push(answer),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) if good.is_empty() => Err(error.into()),
            _ => Ok(good),
        }
    }
}
