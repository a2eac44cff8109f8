//! Which CAs to trust behind the proxy: settings for TLS connections to instances.
//!
//! Made once per configuration and shared: sessions are resumed from a cache inside. The name that
//! is verified is the route's (`host=NAME`, `grpcservername=`) or else the target's address.

use std::path::Path;
use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use crate::catalog::options::HostRewrite;
use crate::proxy::tls::authorities::authorities;
use crate::proxy::tls::cryptography::provider;
use crate::proxy::tls::error::{Problems, TlsError};
use crate::proxy::tls::pairs;
use crate::table::Target;
use crate::trust::AcceptAny;

/// Client settings, by how much is verified and which protocol is spoken.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    verified: PerProtocol,
    unverified: PerProtocol,
}

#[derive(Clone, Debug)]
struct PerProtocol {
    h1: Arc<ClientConfig>,
    h2: Arc<ClientConfig>,
    plain: Arc<ClientConfig>,
}

/// What is spoken inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    /// HTTP/1.1, said by ALPN.
    Http1,
    /// HTTP/2, said by ALPN.
    Http2,
    /// Bytes; no ALPN.
    Bytes,
}

impl UpstreamTls {
    /// Trusts the CAs of `ca_file`, or those of the system.
    ///
    /// # Errors
    /// When not one certificate of the file can be used. A system without CAs is not an error:
    /// every verified handshake fails then, and [`has_system_roots`] can say so beforehand.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, TlsError> {
        Self::load(ca_file, &mut Problems::default())
    }

    /// The same; what is wrong with single certificates of the file is added to `problems`.
    ///
    /// # Errors
    /// As [`UpstreamTls::new`].
    pub fn load(ca_file: Option<&Path>, problems: &mut Problems) -> Result<Self, TlsError> {
        let Some(path) = ca_file else {
            return Self::trusting(system_roots());
        };
        let mut roots = RootCertStore::empty();
        for certificate in authorities(path, &pairs::read_pem(path)?, problems) {
            roots.add(certificate)?;
        }
        match roots.is_empty() {
            true => Err(problems.errors.pop().unwrap_or(TlsError::Unusable("CAs"))),
            false => Self::trusting(roots),
        }
    }

    /// Trusts no CA: every verified handshake fails.
    ///
    /// # Errors
    /// The TLS library refuses its own settings.
    pub fn trusting_none() -> Result<Self, TlsError> {
        Self::trusting(RootCertStore::empty())
    }

    fn trusting(roots: RootCertStore) -> Result<Self, TlsError> {
        let roots = Arc::new(roots);
        let verified = PerProtocol::new(|| {
            let builder = ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()?;
            Ok(builder
                .with_root_certificates(Arc::clone(&roots))
                .with_no_client_auth())
        })?;
        let unverified = PerProtocol::new(|| {
            let verifier = Arc::new(AcceptAny::new(provider()));
            let builder = ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()?;
            Ok(builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth())
        })?;
        Ok(Self {
            verified,
            unverified,
        })
    }

    /// The same trust, with a certificate of ours. No session is resumed.
    pub(super) fn showing(&self, certificate: Arc<dyn ResolvesClientCert>) -> Self {
        let show = |config: &Arc<ClientConfig>| {
            let mut config = ClientConfig::clone(config);
            config.client_auth_cert_resolver = Arc::clone(&certificate);
            config.resumption = Resumption::disabled();
            Arc::new(config)
        };
        let all = |configs: &PerProtocol| PerProtocol {
            h1: show(&configs.h1),
            h2: show(&configs.h2),
            plain: show(&configs.plain),
        };
        Self {
            verified: all(&self.verified),
            unverified: all(&self.unverified),
        }
    }

    /// The settings for one connection. `skip_verify` is the route's `tlsskipverify=true`.
    #[must_use]
    pub fn config(&self, skip_verify: bool, inside: Inside) -> &Arc<ClientConfig> {
        let settings = if skip_verify {
            &self.unverified
        } else {
            &self.verified
        };
        match inside {
            Inside::Http1 => &settings.h1,
            Inside::Http2 => &settings.h2,
            Inside::Bytes => &settings.plain,
        }
    }
}

/// Whether the system has any CA to trust.
#[must_use]
pub fn has_system_roots() -> bool {
    !system_roots().is_empty()
}

/// The name a target must prove. None: the route names something that is not a DNS name.
#[must_use]
pub fn server_name(target: &Target) -> Option<ServerName<'static>> {
    let options = &target.options;
    let name = match (&options.grpc_server_name, &options.host) {
        (Some(name), _) | (None, HostRewrite::Name(name)) => name,
        (None, HostRewrite::Keep | HostRewrite::Target) => {
            return Some(target.state.addr.ip().into());
        }
    };
    let host = name
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let host = host.map_or(&**name, |(host, _)| host);
    ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).ok()
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // A bundle often holds a certificate or two that no library likes; the others count.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

impl PerProtocol {
    fn new(make: impl Fn() -> Result<ClientConfig, rustls::Error>) -> Result<Self, TlsError> {
        let with = |protocols: &[&[u8]]| -> Result<Arc<ClientConfig>, TlsError> {
            let mut config = make()?;
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Ok(Arc::new(config))
        };
        Ok(Self {
            h1: with(&[b"http/1.1"])?,
            h2: with(&[b"h2"])?,
            plain: with(&[])?,
        })
    }
}
