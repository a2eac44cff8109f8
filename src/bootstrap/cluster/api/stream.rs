//! Bodies that are not held in memory: snapshots, down and up.

use std::io;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::TokioIo;

use super::{Api, ApiError, SHOWN_MAX, without_query};

/// Longest wait for the next part of a response.
const SILENCE_MAX: Duration = Duration::from_secs(60);

impl Api {
    /// GET; hands the content over as it comes. Its length in bytes.
    ///
    /// # Errors
    /// When the status is not 2xx, the response breaks off, or `sink` fails.
    pub async fn download(
        &self,
        path: &str,
        mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> anyhow::Result<u64> {
        let request = self.assemble(Method::GET, path, None)?;
        self.converse(path, request, async |status, mut body| {
            if !status.is_success() {
                return Err(self.refused(path, status, body).await.into());
            }
            let mut length = 0;
            while let Some(frame) = self
                .within(path, SILENCE_MAX, next(self, &mut body))
                .await?
            {
                sink(&frame).context("cannot be written")?;
                length += frame.len() as u64;
            }
            Ok(length)
        })
        .await
    }

    /// PUT of a body in blocks.
    ///
    /// # Errors
    /// When the status is not 2xx, it takes longer than `limit`, or `blocks` fails.
    pub async fn upload(
        &self,
        path: &str,
        limit: Duration,
        blocks: impl Iterator<Item = io::Result<Vec<u8>>> + Send + 'static,
    ) -> anyhow::Result<()> {
        let frames =
            stream::iter(blocks.map(|block| block.map(|block| Frame::data(Bytes::from(block)))));
        let body = StreamBody::new(frames.boxed());
        let request = self.assemble(Method::PUT, path, None)?.map(|_| body);
        let exchange = self.converse(path, request, async |status, body| {
            match status.is_success() {
                true => Ok(()),
                false => Err(self.refused(path, status, body).await.into()),
            }
        });
        match tokio::time::timeout(limit, exchange).await {
            Ok(done) => done,
            Err(_) => Err(ApiError::Timeout {
                address: self.address,
                path: without_query(path),
                limit,
            }
            .into()),
        }
    }

    /// Sends a request, and reads its response while the connection is driven.
    async fn converse<B, T>(
        &self,
        path: &str,
        request: Request<B>,
        read: impl AsyncFnOnce(StatusCode, Incoming) -> anyhow::Result<T>,
    ) -> anyhow::Result<T>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let connect = self.handshake(self.tls.clone());
        let stream = self.within(path, SILENCE_MAX, connect).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.hyper_error(error))?;
        let exchange = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| self.hyper_error(error))?;
            read(response.status(), response.into_body()).await
        };
        tokio::pin!(exchange);
        tokio::select! {
            result = &mut exchange => result,
            // It may end before the last bytes have been taken over, which is not a mistake.
            end = connection => exchange.await.map_err(|error| match end {
                Ok(()) => error,
                Err(end) => error.context(self.hyper_error(end).to_string()),
            }),
        }
    }

    async fn refused(&self, path: &str, status: StatusCode, mut body: Incoming) -> ApiError {
        let mut text = Vec::new();
        while let Ok(Some(frame)) = self.within(path, SILENCE_MAX, next(self, &mut body)).await
            && text.len() < SHOWN_MAX
        {
            text.extend_from_slice(&frame);
        }
        let text = String::from_utf8_lossy(&text);
        ApiError::Status {
            address: self.address,
            path: without_query(path),
            status,
            body: text.trim().chars().take(SHOWN_MAX).collect(),
        }
    }
}

/// The next part of a content; None at its end.
async fn next(api: &Api, body: &mut Incoming) -> Result<Option<Bytes>, ApiError> {
    loop {
        let Some(frame) = body.frame().await else {
            return Ok(None);
        };
        let frame = frame.map_err(|error| api.hyper_error(error))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}
