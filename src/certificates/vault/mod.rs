//! Vault (OpenBao is the same), as far as certificates need it.

mod api;
pub(super) mod kv;
pub(super) mod pki;
mod token;

use std::sync::Arc;

use super::error::SourceError;
use super::source::FetchContext;
use crate::config::TokenPlace;
use api::{Api, Base};

pub(crate) use token::Tokens;

/// How to come by an [`Api`] with a token that is good now.
pub(super) struct Connection {
    context: FetchContext,
    place: TokenPlace,
    base: Option<Arc<Base>>,
}

impl Connection {
    /// `token`: the source's own, in place of `[vault]`'s.
    pub(super) fn new(context: FetchContext, token: TokenPlace) -> Self {
        let place = if token == TokenPlace::Nowhere {
            context.vault.token.clone()
        } else {
            token
        };
        Self {
            context,
            place,
            base: None,
        }
    }

    /// Reads certificates and token where that is due, and unwraps the token if it is a wrapped
    /// one.
    pub(super) async fn api(&mut self) -> Result<Api, SourceError> {
        let base = match &self.base {
            Some(base) => Arc::clone(base),
            None => Arc::clone(self.base.insert(Arc::new(Base::new(&self.context.vault)?))),
        };
        let token = self.context.tokens.token(&base, &self.place).await?;
        Ok(Api::new(base, token))
    }
}
