//! What a form of the access log of one's own tells of a request, beyond what every form does. Noted only for such a form,
//! and only what it tells.

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::catalog::options::HostRewrite;
use crate::config::{AccessField, AccessFormat};
use crate::log::More;
use crate::proxy::http::headers::{self, HeaderRules};
use crate::proxy::http::path::NormalPath;
use crate::proxy::http::server::connection::Downstream;
use crate::proxy::http::upstream::forward::{self, Original};
use crate::table::Target;

/// The note.
#[derive(Debug)]
pub struct Told {
    /// In the order of the form's.
    headers: Vec<Option<HeaderValue>>,
    scheme: String,
    /// Key of the target that the rest is about.
    target: Option<u64>,
    host_sent: Option<HeaderValue>,
    upstream_scheme: &'static str,
    upstream_uri: Option<PathAndQuery>,
}

impl Told {
    /// Of a request with these fields.
    #[must_use]
    pub fn new(format: &AccessFormat, received: &HeaderMap, tls: bool) -> Self {
        let scheme = if format.tells(&[AccessField::RequestScheme, AccessField::RequestUrl]) {
            let websocket = headers::upgrade_of(received).is_some_and(|upgrade| upgrade.websocket);
            headers::scheme(received, tls, websocket)
        } else {
            ""
        };
        Self {
            headers: format.headers().iter().map(|name| received.get(name).cloned()).collect(),
            scheme: scheme.to_owned(),
            target: None,
            host_sent: None,
            upstream_scheme: "",
            upstream_uri: None,
        }
    }

    /// A field that is set here.
    pub fn header(&mut self, format: &AccessFormat, name: &HeaderName, value: &HeaderValue) {
        if let Some(at) = format.headers().iter().position(|known| known == name) {
            self.headers[at] = Some(value.clone());
        }
    }

    /// The request goes to `target`.
    pub fn goes_to(
        &mut self,
        format: &AccessFormat,
        rules: &HeaderRules,
        original: &Original,
        path: &NormalPath<'_>,
        downstream: &Downstream,
        target: &Target,
    ) {
        if self.target.replace(target.state.key) == Some(target.state.key) {
            return;
        }
        let context = forward::context(original, downstream, rules, target);
        self.upstream_scheme = if target.options.proto.is_tls() { "https" } else { "http" };
        if format.tells(&[AccessField::RequestHost]) && target.options.host != HostRewrite::Keep {
            self.host_sent = Some(headers::upstream_host(&context));
        }
        if format.tells(&[AccessField::UpstreamRequestUri, AccessField::UpstreamRequestUrl]) {
            self.upstream_uri = forward::target_uri(original, path, target).ok();
        }
        if format.headers().iter().any(|name| rules.writes(name)) {
            let sent = forward::fields(original, &context);
            for (name, value) in format.headers().iter().zip(&mut self.headers).filter(|(name, _)| rules.writes(name)) {
                *value = sent.get(name).cloned();
            }
        }
    }

    /// For the line.
    #[must_use]
    pub fn more(&self, remote_port: u16) -> More<'_> {
        More {
            remote_port,
            headers: &self.headers,
            scheme: &self.scheme,
            host_sent: self.host_sent.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default(),
            upstream_scheme: self.upstream_scheme,
            upstream_uri: self.upstream_uri.as_ref().map_or("", PathAndQuery::as_str),
        }
    }
}
