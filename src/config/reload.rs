//! What a running process cannot take from a new configuration.

use super::Config;

impl Config {
    /// Names of keys that differ from `next` and take effect only after a restart: those that are
    /// bound to a thread or to the admin socket. The keys of sources are not among them; each
    /// source knows its own.
    #[must_use]
    pub fn differs_only_in_reloadable(&self, next: &Self) -> Vec<String> {
        let keys = [
            self.proxy.restart_keys(&next.proxy),
            self.admin.restart_keys(&next.admin),
            self.metrics.restart_keys(&next.metrics),
            self.log.restart_keys(&next.log),
            self.dns.restart_keys(&next.dns),
            self.proxy.retry.restart_keys(&next.proxy.retry),
            self.compression.restart_keys(&next.compression),
            self.routing.restart_keys(&next.routing),
            self.health.restart_keys(&next.health),
            self.vault.restart_keys(&next.vault),
            self.drain.restart_keys(&next.drain),
            self.fleet.restart_keys(&next.fleet),
        ];
        keys.concat().into_iter().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use crate::catalog::options::Strategy;

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
