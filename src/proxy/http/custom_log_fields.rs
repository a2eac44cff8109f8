//! Extra fields recorded for a custom access log format, and only those that it shows.

use http::{HeaderName, HeaderValue};

use super::h1::write_head::Outbound;
use super::head::Head;
use super::headers::{self, ClientContext, HeaderRules};
use crate::catalog::options::HostRewrite;
use crate::config::{AccessField, AccessFormat};
use crate::log::More;
use crate::table::Target;

/// Fields of one request. See the module.
#[derive(Debug)]
pub struct CustomLogFields {
    /// In the order of the form's.
    headers: Vec<Option<HeaderValue>>,
    scheme: String,
    /// Key of the target that the rest is about.
    target: Option<u64>,
    host_sent: Option<HeaderValue>,
    upstream_scheme: &'static str,
    upstream_uri: Option<String>,
}

impl CustomLogFields {
    /// Of a request with this head.
    #[must_use]
    pub fn new(
        format: &AccessFormat,
        head: &Head<'_>,
        client: &ClientContext,
        rules: &HeaderRules,
    ) -> Self {
        let scheme = if format.tells(&[AccessField::RequestScheme, AccessField::RequestUrl]) {
            let websocket = head
                .upgrade
                .as_ref()
                .is_some_and(|upgrade| upgrade.websocket);
            headers::scheme(head.fields.map(), client, rules, websocket)
        } else {
            ""
        };
        let value = |name: &HeaderName| {
            head.fields
                .get(name)
                .and_then(|value| HeaderValue::from_bytes(value).ok())
        };
        Self {
            headers: format.headers().iter().map(value).collect(),
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
        request: &Outbound<'_>,
        client: &ClientContext,
        target: &Target,
    ) {
        if self.target.replace(target.state.key) == Some(target.state.key) {
            return;
        }
        let host = request.head.host_value();
        let context = request.context(host.as_ref(), rules, client, target);
        self.upstream_scheme = if target.options.proto.is_tls() {
            "https"
        } else {
            "http"
        };
        if format.tells(&[AccessField::RequestHost]) && target.options.host != HostRewrite::Keep {
            self.host_sent = Some(headers::upstream_host(&context));
        }
        if format.tells(&[
            AccessField::UpstreamRequestUri,
            AccessField::UpstreamRequestUrl,
        ]) {
            self.upstream_uri = request
                .target_for(target)
                .ok()
                .map(std::borrow::Cow::into_owned);
        }
        if format.headers().iter().any(|name| rules.writes(name)) {
            let sent = request.fields(&context);
            for (name, value) in format
                .headers()
                .iter()
                .zip(&mut self.headers)
                .filter(|(name, _)| rules.writes(name))
            {
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
            host_sent: self
                .host_sent
                .as_ref()
                .and_then(|host| host.to_str().ok())
                .unwrap_or_default(),
            upstream_scheme: self.upstream_scheme,
            upstream_uri: self.upstream_uri.as_deref().unwrap_or(""),
        }
    }
}
