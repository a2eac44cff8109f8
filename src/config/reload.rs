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
        }
    }
}

impl Config {
    /// Names of keys that differ from `next` and take effect only after a restart; empty when `next` can be taken
    /// as a whole. They are the keys that are bound to a socket or a thread. An added listener is among them, although opening one
    /// closes nothing: workers open their sockets when they start.
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
        note(self.log.format != next.log.format, "log.format");
        for (old, new) in pairs(&self.listeners, &next.listeners) {
            match (old, new) {
                (Some(old), Some(new)) => {
                    let place = format!("listener {}", old.address);
                    note(old.protocol != new.protocol, &format!("{place} protocol"));
                    note(old.proxy_protocol != new.proxy_protocol, &format!("{place} proxy_protocol"));
                    note(old.certificates != new.certificates, &format!("{place} certificates"));
                }
                (Some(old), None) => note(true, &format!("listener {} (removed)", old.address)),
                (None, Some(new)) => note(true, &format!("listener {} (added)", new.address)),
                (None, None) => {}
            }
        }
        keys
    }
}

/// Listeners of both sides by address; several on port 0 are told apart by their order.
fn pairs<'a>(
    old: &'a [ListenerConfig],
    new: &'a [ListenerConfig],
) -> Vec<(Option<&'a ListenerConfig>, Option<&'a ListenerConfig>)> {
    let mut rest: Vec<&ListenerConfig> = new.iter().collect();
    let mut pairs = Vec::new();
    for listener in old {
        let at = rest.iter().position(|other| other.address == listener.address);
        pairs.push((Some(listener), at.map(|at| rest.remove(at))));
    }
    pairs.extend(rest.into_iter().map(|listener| (None, Some(listener))));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_deadlines_and_certificates_need_no_restart() {
        let old = Config::default();
        let mut new = old.clone();
        new.proxy.connect_timeout *= 2;
        new.proxy.strategy = Strategy::Random;
        new.routes_file = Some("routes.txt".into());
        new.log.access = AccessLog::Json;
        assert_eq!(old.differs_only_in_reloadable(&new), Vec::<String>::new());
    }

    #[test]
    fn sockets_and_threads_do() {
        let old = Config::default();
        let mut new = old.clone();
        new.proxy.workers = 3;
        new.admin.address = "127.0.0.1:1".parse().unwrap();
        new.listeners[0].protocol = ListenerProtocol::Tcp;
        new.listeners.push(ListenerConfig { address: "127.0.0.1:2".parse().unwrap(), ..old.listeners[0].clone() });
        assert_eq!(
            old.differs_only_in_reloadable(&new),
            ["proxy.workers", "admin.address", "listener 0.0.0.0:9999 protocol", "listener 127.0.0.1:2 (added)"]
        );
        new.listeners.clear();
        assert!(old.differs_only_in_reloadable(&new).contains(&"listener 0.0.0.0:9999 (removed)".to_owned()));
    }
}
