//! What `lb` registers of itself: its own name, and those in `register=` options, as long as there
//! are such routes.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::{RegisterConfig, format_duration};
use crate::fabio::{self, Machine};
use crate::metrics::Metrics;
use crate::metrics::process::hostname;
use crate::sources::registration::{AdvertisedAddress, Announcement, Registrar};
use crate::system::vital;
use crate::table::{RouteTable, SharedTable};

/// How often the table is compared with the one that the names were taken from.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause before an address of this machine is looked for again, the first and the last; each is
/// twice the one before.
const ADDRESS_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Longest wait for the removal at the end.
const WITHDRAW_MAX: Duration = Duration::from_secs(3);
/// Most names taken from routes: each is a registration that is looked after.
const ALIASES_MAX: usize = 200;

/// The registrations of this process. They end, unremoved, when this is dropped.
pub(super) struct SelfRegistration {
    registrar: Rc<dyn Registrar>,
    wanted: watch::Sender<Wanted>,
    metrics: Metrics,
    follow: JoinHandle<()>,
}

struct Wanted {
    config: RegisterConfig,
    /// What is spoken on the admin listener: `http` or `https`.
    scheme: &'static str,
    /// Clients are served: before that, no client should be sent here.
    open: bool,
}

impl SelfRegistration {
    /// Registers nothing yet. Must be called within a `LocalSet`.
    pub(super) fn new(
        registrar: Box<dyn Registrar>,
        table: SharedTable,
        admin: SocketAddr,
        (config, scheme): (RegisterConfig, &'static str),
        metrics: Metrics,
    ) -> Self {
        let registrar: Rc<dyn Registrar> = registrar.into();
        let (wanted, watched) = watch::channel(Wanted {
            config,
            scheme,
            open: false,
        });
        let follow = follow(
            Rc::clone(&registrar),
            table,
            admin,
            watched,
            metrics.clone(),
        );
        let follow = tokio::task::spawn_local(vital::task("the registration", follow));
        Self {
            registrar,
            wanted,
            metrics,
            follow,
        }
    }

    /// What begins the registration: to be called when clients are served.
    pub(super) fn starter(&self) -> impl FnOnce() + use<> {
        let wanted = self.wanted.clone();
        move || wanted.send_modify(|wanted| wanted.open = true)
    }

    /// Registers as this says from now on.
    pub(super) fn reload(&self, config: &RegisterConfig, scheme: &'static str) {
        self.wanted
            .send_modify(|wanted| (wanted.config, wanted.scheme) = (config.clone(), scheme));
    }

    /// Removes everything; what cannot be removed in time ends by its check.
    pub(super) async fn withdraw(&self) {
        self.follow.abort();
        if let Some(registered) = &mut self.metrics.control().registered {
            *registered = false;
        }
        if !self.registrar.withdraw(WITHDRAW_MAX).await {
            tracing::warn!(
                "not every registration could be removed from Consul; its check removes what is left"
            );
        }
    }
}

impl Drop for SelfRegistration {
    fn drop(&mut self) {
        self.follow.abort();
    }
}

async fn follow(
    registrar: Rc<dyn Registrar>,
    table: SharedTable,
    admin: SocketAddr,
    mut wanted: watch::Receiver<Wanted>,
    metrics: Metrics,
) {
    let mut aliases = Aliases::default();
    let mut trouble = Trouble::default();
    loop {
        let (config, scheme, open) = {
            let wanted = wanted.borrow_and_update();
            (wanted.config.clone(), wanted.scheme, wanted.open)
        };
        if open {
            aliases.follow(config.aliases.then(|| table.load())).await;
            match registrations(&config, (scheme, admin), &aliases.names) {
                Ok(found) => {
                    trouble = Trouble::default();
                    let asked = !found.is_empty();
                    // Whether it is done is the registrar's to say.
                    let mut control = metrics.control();
                    control.registered = asked.then(|| control.registered.unwrap_or_default());
                    registrar.set(&found);
                }
                // What is registered stays: the address may only not be told for the moment.
                Err(error) => {
                    metrics.control().registered = Some(false);
                    trouble.note(&error);
                }
            }
        } else if config.enabled {
            metrics.control().registered = Some(false);
        }
        let looks = (open && config.aliases).then_some(LOOK_EVERY);
        let pause = trouble.pause.into_iter().chain(looks).min();
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
    }
}

/// No address to register with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum NoAddress {
    #[error("this machine has no global address")]
    NoGlobal,
    #[error("the addresses of this machine cannot be read: {0}")]
    Unreadable(String),
}

/// What was said of it.
#[derive(Debug, Default)]
struct Trouble {
    told: Option<String>,
    /// Before the next look.
    pause: Option<Duration>,
}

impl Trouble {
    /// Said once, and again when it is another one.
    fn note(&mut self, error: &NoAddress) {
        let next = self
            .pause
            .map_or(ADDRESS_PAUSE.0, |pause| (pause * 2).min(ADDRESS_PAUSE.1));
        self.pause = Some(next);
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            let retry = format_duration(next);
            tracing::error!(
                error = text,
                retry,
                "lb is not registered: set consul.register.address, or mend this"
            );
            self.told = Some(text);
        }
    }
}

/// Names of `register=` options, and the table that they are of.
#[derive(Default)]
struct Aliases {
    table: Option<Arc<RouteTable>>,
    names: BTreeSet<Arc<str>>,
}

impl Aliases {
    async fn follow(&mut self, table: Option<Arc<RouteTable>>) {
        let Some(table) = table else {
            *self = Self::default();
            return;
        };
        if self
            .table
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, &table))
        {
            return;
        }
        let walked = Arc::clone(&table);
        // Beside this thread: a table may be large.
        if let Ok(names) = tokio::task::spawn_blocking(move || aliases(&walked)).await {
            (self.table, self.names) = (Some(table), names);
        }
    }
}

/// The names in `register=` options of routes that have a target.
fn aliases(table: &RouteTable) -> BTreeSet<Arc<str>> {
    let routes = table.routes();
    let targets = routes.iter().flat_map(|route| &route.targets);
    let mut names: BTreeSet<Arc<str>> = targets
        .filter_map(|target| target.options.register.clone())
        .collect();
    if names.len() > ALIASES_MAX {
        tracing::warn!(
            names = names.len(),
            most = ALIASES_MAX,
            "too many names by register=: the last are left out"
        );
        names = names.into_iter().take(ALIASES_MAX).collect();
    }
    names
}

/// `admin`: what is spoken on the admin listener, and where it is.
///
/// # Errors
/// That is nowhere that others could reach.
fn registrations(
    config: &RegisterConfig,
    admin: (&'static str, SocketAddr),
    aliases: &BTreeSet<Arc<str>>,
) -> Result<Vec<Announcement>, NoAddress> {
    let own = config.enabled.then_some(config.name.as_str());
    let others = aliases
        .iter()
        .map(|name| &**name)
        .filter(|name| Some(*name) != own);
    let names: Vec<&str> = own.into_iter().chain(others).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let at = whereabouts(config, admin)?;
    Ok(names
        .into_iter()
        .map(|name| Announcement {
            name: name.to_owned(),
            config: config.clone(),
            at: at.clone(),
        })
        .collect())
}

fn whereabouts(
    config: &RegisterConfig,
    (scheme, admin): (&'static str, SocketAddr),
) -> Result<AdvertisedAddress, NoAddress> {
    let mut address = config.address.unwrap_or(admin);
    if address.port() == 0 {
        address.set_port(admin.port());
    }
    if address.ip().is_unspecified() {
        address.set_ip(global(Machine::look(), fabio::outward)?);
    }
    Ok(AdvertisedAddress {
        address,
        scheme,
        hostname: hostname(),
    })
}

/// An address that others may reach this machine by. Where they cannot be listed, the one that
/// packets to far places leave from is the next best: finding it takes another way through the
/// kernel.
fn global(
    machine: io::Result<Machine>,
    outward: impl FnOnce() -> Option<IpAddr>,
) -> Result<IpAddr, NoAddress> {
    match machine {
        Ok(machine) => machine.first_global().ok_or(NoAddress::NoGlobal),
        Err(error) => {
            let error = named(&error);
            let found = outward().filter(fabio::is_global_unicast);
            if let Some(address) = found {
                tracing::debug!(error, %address, "the addresses of this machine cannot be listed; the outward one is taken");
            }
            found.ok_or(NoAddress::Unreadable(error))
        }
    }
}

/// An error of the system with its name, and what to do about it in the unit that forbids it.
fn named(error: &io::Error) -> String {
    let name = match error.raw_os_error() {
        Some(97) => "EAFNOSUPPORT: does RestrictAddressFamilies= of the unit lack AF_NETLINK? ",
        Some(1) => "EPERM: does a filter of system calls forbid sockets of AF_NETLINK? ",
        Some(13) => "EACCES: ",
        Some(24) => "EMFILE: ",
        Some(23) => "ENFILE: ",
        _ => "",
    };
    format!("{name}{error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::command::parse_commands;
    use crate::catalog::options::Strategy;
    use crate::metrics::Metrics;
    use crate::table::Matcher;
    use crate::table::build::TableBuilder;

    fn table(commands: &str) -> RouteTable {
        let mut builder = TableBuilder::new(Matcher::Prefix, Strategy::P2c, Metrics::default());
        builder.apply_commands("static", parse_commands(commands).0.into(), 0);
        builder.build()
    }

    #[tokio::test]
    async fn names_are_those_of_routes_and_each_stands_once() {
        let table = |text| Some(Arc::new(table(text)));
        let mut found = Aliases::default();
        found
            .follow(table(
                "route add a /a http://10.0.0.1:1/ opts \"register=x\"\n\
                 route add b /b http://10.0.0.1:2/ opts \"register=x\"\n\
                 route add c /c http://10.0.0.1:3/ opts \"register=lb\"\n\
                 route add d /d http://10.0.0.1:4/",
            ))
            .await;
        let names = |config: &RegisterConfig, aliases: &BTreeSet<Arc<str>>| -> Vec<String> {
            let all = registrations(config, ("http", "127.0.0.1:9998".parse().unwrap()), aliases);
            all.into_iter()
                .flatten()
                .map(|announcement| announcement.name)
                .collect()
        };
        let own = RegisterConfig {
            enabled: true,
            aliases: true,
            ..RegisterConfig::default()
        };
        assert_eq!(names(&own, &found.names), ["lb", "x"]);
        assert_eq!(
            names(
                &RegisterConfig {
                    enabled: false,
                    ..own
                },
                &found.names
            ),
            ["lb", "x"]
        );
        found
            .follow(table("route add d /d http://10.0.0.1:4/"))
            .await;
        assert_eq!(names(&RegisterConfig::default(), &found.names), [""; 0]);
    }

    #[test]
    fn what_the_address_leaves_open_is_filled_in() {
        let at = |address: Option<&str>| {
            let address = address.map(|address| address.parse().unwrap());
            let config = RegisterConfig {
                address,
                ..RegisterConfig::default()
            };
            let at = whereabouts(&config, ("http", "127.0.0.1:4711".parse().unwrap()));
            at.ok().map(|at| at.address.to_string())
        };
        assert_eq!(at(None).as_deref(), Some("127.0.0.1:4711"));
        assert_eq!(at(Some("10.0.0.1:0")).as_deref(), Some("10.0.0.1:4711"));
        assert_eq!(at(Some("10.0.0.1:80")).as_deref(), Some("10.0.0.1:80"));
        if let Some(global) = Machine::here().first_global() {
            assert_eq!(
                at(Some("0.0.0.0:80")),
                Some(SocketAddr::new(global, 80).to_string())
            );
        }
    }

    #[test]
    fn addresses_that_cannot_be_listed_are_told_with_the_name_of_the_error() {
        let refused = |errno| Err(io::Error::from_raw_os_error(errno));
        let outward = |ip: &str| Some(ip.parse().unwrap());
        assert_eq!(
            global(refused(97), || outward("10.0.0.7")),
            Ok("10.0.0.7".parse().unwrap())
        );
        for useless in [None, outward("127.0.0.1"), outward("169.254.1.1")] {
            for (errno, name) in [(97, "EAFNOSUPPORT"), (1, "EPERM"), (13, "EACCES")] {
                let error = global(refused(errno), || useless).unwrap_err().to_string();
                assert!(
                    error.contains(name) && error.contains(&format!("os error {errno}")),
                    "{error}"
                );
            }
        }
        assert!(
            global(refused(97), || None)
                .unwrap_err()
                .to_string()
                .contains("AF_NETLINK")
        );
        assert_eq!(
            global(Ok(Machine::bare()), || outward("10.0.0.7")),
            Err(NoAddress::NoGlobal)
        );
    }

    #[test]
    fn trouble_is_looked_at_again_later_and_later() {
        let mut trouble = Trouble::default();
        let pauses: Vec<u64> = (0..8)
            .map(|_| {
                trouble.note(&NoAddress::NoGlobal);
                trouble.pause.unwrap().as_secs()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
