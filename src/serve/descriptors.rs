//! File descriptors: as many as the system allows, and how many clients they are enough for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::system::lack;

/// Descriptors of a worker that do not belong to a connection: its event loop, its share of pipes
/// for long transfers (32 idle ones, two descriptors each), its sockets that listen.
const PER_WORKER: u64 = 96;
/// Of the rest of the process: standard streams, event loops, files that are read, connections of
/// the admin listener, of certificate sources and of authentication.
const REST: u64 = 256;
/// Of the last descriptors so many are kept for what has to work when the others are used up.
const RESERVED: u64 = 32;
/// Descriptors of a client: its connection, and the one to an instance.
const PER_CLIENT: u64 = 2;
/// Fewer clients than that, all workers together, are worth a warning.
const FEW_CLIENTS: u64 = 4096;

/// Raises the soft limit of open files to the hard one, and keeps some of them from connections.
/// Returns the limit that holds; none: unlimited. `loops`: accept loops, each of which may hold one
/// accepted connection there while it waits for another descriptor.
pub(super) fn raise_limit(loops: usize) -> Option<u64> {
    let limit = raise();
    if let Some(limit) = limit {
        lack::reserve_from(limit - (RESERVED + loops as u64).min(limit / 4));
    }
    limit
}

fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        Ok(()) => {
            tracing::info!(from = current, to = maximum, "limit of open files raised");
            maximum
        }
        Err(error) => {
            tracing::warn!(%error, limit = current, "the limit of open files cannot be raised");
            current
        }
    }
}

/// Most client connections of one of `workers`: what is configured (`proxy.max_connections`), or
/// fewer, so that there is a descriptor for the connection to an instance for each of them.
pub(super) fn clients_max(config: &Config, workers: usize, limit: Option<u64>) -> usize {
    let configured = config.proxy.max_connections;
    let Some(limit) = limit else {
        return configured;
    };
    let room = room(
        limit,
        workers as u64,
        config
            .consul
            .as_ref()
            .map_or(0, |consul| consul.max_connections) as u64,
    );
    configured.min(usize::try_from(room).unwrap_or(usize::MAX))
}

fn room(limit: u64, workers: u64, consul: u64) -> u64 {
    // Where there are few, most of that is not in use at once either.
    let taken = (REST + consul + workers * PER_WORKER).min(limit / 3);
    (limit.saturating_sub(taken) / PER_CLIENT / workers.max(1)).max(1)
}

/// Says once what the limit means, where it means something.
pub(super) fn tell(configured: usize, clients_max: usize, workers: usize, limit: Option<u64>) {
    if clients_max >= configured {
        return;
    }
    let few = (clients_max as u64).saturating_mul(workers as u64) < FEW_CLIENTS;
    let text = "the limit of open files allows fewer client connections per worker than proxy.max_connections, as each \
                may need one to an instance; more clients wait. Raise it (LimitNOFILE, ulimit -Hn)";
    if few {
        tracing::warn!(limit, configured, clients_max, workers, "{text}");
    } else {
        tracing::info!(limit, configured, clients_max, workers, "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_a_descriptor_for_its_instance_whatever_the_limit_is() {
        for (limit, workers, consul) in [
            (256, 2, 16),
            (1024, 1, 0),
            (4096, 4, 16),
            (1 << 20, 64, 150),
        ] {
            let clients = room(limit, workers, consul);
            let needed = (REST + consul + workers * PER_WORKER).min(limit / 3)
                + workers * clients * PER_CLIENT;
            assert!(needed <= limit, "{needed} of {limit}");
            assert!(
                needed + workers * PER_CLIENT > limit,
                "more would fit into {limit}"
            );
        }
        assert_eq!(room(8, 4, 16), 1, "at least one");
    }

    #[test]
    fn the_configured_limit_is_never_exceeded() {
        let mut config = Config::default();
        config.proxy.max_connections = 100;
        assert_eq!(clients_max(&config, 2, None), 100);
        assert_eq!(clients_max(&config, 2, Some(1 << 20)), 100);
        assert!(clients_max(&config, 2, Some(500)) < 100);
    }
}
