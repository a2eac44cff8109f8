//! What a running process cannot take from a new configuration.

use super::*;

impl ListenerProtocol {
    /// Its name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::Grpc => "grpc",
            Self::Grpcs => "grpcs",
            Self::TcpSni => "tcp+sni",
            Self::HttpsTcpSni => "https+tcp+sni",
            Self::TcpDynamic => "tcp-dynamic",
            Self::Prometheus => "prometheus",
        }
    }
}

impl ListenerProtocol {
    /// Whether it carries bytes and never looks for requests in them.
    #[must_use]
    pub fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::TcpSni | Self::TcpDynamic)
    }

    /// Whether its clients are those of gRPC.
    #[must_use]
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::Grpcs)
    }
}

impl Config {
    /// Names of keys that differ from `next` and take effect only after a restart: those that are
    /// bound to a thread or to the admin socket. The keys of sources are not among them; each
    /// source knows its own.
    #[must_use]
    pub fn differs_only_in_reloadable(&self, next: &Self) -> Vec<String> {
        let mut keys = Vec::new();
        let mut note = |differs: bool, key: &str| {
            if differs {
                keys.push(key.to_owned());
            }
        };
        note(self.proxy.workers != next.proxy.workers, "proxy.workers");
        note(self.admin.address != next.admin.address, "admin.address");
        note(self.metrics != next.metrics, "metrics");
        note(self.log.format != next.log.format, "log.format");
        note(self.log.access != next.log.access, "log.access");
        note(self.log.access_tcp != next.log.access_tcp, "log.access_tcp");
        note(self.dns != next.dns, "dns");
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_routes_deadlines_and_certificates_need_no_restart() {
        let old = Config {
            static_routes: vec![StaticRoute {
                service: "a".to_owned(),
                source: "/".to_owned(),
                targets: vec!["http://127.0.0.1:1".to_owned()],
                options: String::new(),
            }],
            ..Config::default()
        };
        let mut new = old.clone();
        new.proxy.connect_timeout *= 2;
        new.proxy.strategy = Strategy::Random;
        new.static_routes[0].source = "/other".to_owned();
        new.listeners[0].protocol = ListenerProtocol::Tcp;
        new.listeners.push(ListenerConfig {
            address: "127.0.0.1:2".parse().unwrap(),
            ..old.listeners[0].clone()
        });
        new.certificates.clear();
        assert_eq!(old.differs_only_in_reloadable(&new), Vec::<String>::new());
    }

    #[test]
    fn threads_the_admin_socket_and_logs_do() {
        let old = Config::default();
        let mut new = old.clone();
        new.proxy.workers = 3;
        new.admin.address = "127.0.0.1:1".parse().unwrap();
        new.log.access = AccessLog::Json;
        assert_eq!(
            old.differs_only_in_reloadable(&new),
            ["proxy.workers", "admin.address", "log.access"]
        );
    }
}
