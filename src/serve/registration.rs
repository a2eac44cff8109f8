//! What `lb` registers of itself: its own name, and those that routes ask for, as long as there are such routes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::RegisterConfig;
use crate::fabio::Machine;
use crate::registry::consul::register::{Registrar, Registration, Whereabouts};
use crate::system::vital;
use crate::table::{RouteTable, SharedTable};

/// How often the table is compared with the one that the names were taken from.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for the removal at the end.
const WITHDRAW_MAX: Duration = Duration::from_secs(3);
/// Most names taken from routes: each is a registration that is looked after.
const ALIASES_MAX: usize = 200;

/// The registrations of this process. They end, unremoved, when this is dropped.
pub(super) struct SelfRegistration {
    registrar: Rc<Registrar>,
    wanted: watch::Sender<Wanted>,
    follow: JoinHandle<()>,
}

struct Wanted {
    config: RegisterConfig,
    /// What is spoken on the admin listener: `http` or `https`.
    scheme: &'static str,
    /// Clients are served: before that, nobody should be sent here.
    open: bool,
}

impl SelfRegistration {
    /// Registers nothing yet. Must be called within a `LocalSet`.
    pub(super) fn new(
        registrar: Registrar,
        table: SharedTable,
        admin: SocketAddr,
        (config, scheme): (RegisterConfig, &'static str),
    ) -> Self {
        let registrar = Rc::new(registrar);
        let (wanted, watched) = watch::channel(Wanted { config, scheme, open: false });
        let follow = tokio::task::spawn_local(vital::task(
            "the registration",
            follow(Rc::clone(&registrar), table, admin, watched),
        ));
        Self { registrar, wanted, follow }
    }

    /// What begins the registration: to be called when clients are served.
    pub(super) fn starter(&self) -> impl FnOnce() + use<> {
        let wanted = self.wanted.clone();
        move || wanted.send_modify(|wanted| wanted.open = true)
    }

    /// Registers as this says from now on.
    pub(super) fn reload(&self, config: &RegisterConfig, scheme: &'static str) {
        self.wanted.send_modify(|wanted| (wanted.config, wanted.scheme) = (config.clone(), scheme));
    }

    /// Removes everything; what cannot be removed in time ends by its check.
    pub(super) async fn withdraw(&self) {
        self.follow.abort();
        if !self.registrar.withdraw(WITHDRAW_MAX).await {
            tracing::warn!("not every registration could be removed from Consul; its check removes what is left");
        }
    }
}

impl Drop for SelfRegistration {
    fn drop(&mut self) {
        self.follow.abort();
    }
}

async fn follow(registrar: Rc<Registrar>, table: SharedTable, admin: SocketAddr, mut wanted: watch::Receiver<Wanted>) {
    let mut aliases = Aliases::default();
    let mut told = false;
    loop {
        let (config, scheme, open) = {
            let wanted = wanted.borrow_and_update();
            (wanted.config.clone(), wanted.scheme, wanted.open)
        };
        if open {
            aliases.follow(config.aliases.then(|| table.load())).await;
            let found = registrations(&config, (scheme, admin), &aliases.names);
            // Looked at again each second, and said once.
            if found.is_none() && !told {
                tracing::error!(
                    "lb is not registered: this machine has no global address; set consul.register.address"
                );
            }
            told = found.is_none();
            registrar.set(found.unwrap_or_default());
        }
        let looks = open && config.aliases;
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY), if looks => {}
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
        if self.table.as_ref().is_some_and(|known| Arc::ptr_eq(known, &table)) {
            return;
        }
        let walked = Arc::clone(&table);
        // Beside this thread: a table may be large.
        if let Ok(names) = tokio::task::spawn_blocking(move || aliases(&walked)).await {
            (self.table, self.names) = (Some(table), names);
        }
    }
}

/// The names that routes with a target ask for.
fn aliases(table: &RouteTable) -> BTreeSet<Arc<str>> {
    let routes = table.routes();
    let targets = routes.iter().flat_map(|route| &route.targets);
    let mut names: BTreeSet<Arc<str>> = targets.filter_map(|target| target.options.register.clone()).collect();
    if names.len() > ALIASES_MAX {
        tracing::warn!(names = names.len(), most = ALIASES_MAX, "too many names by register=: the last are left out");
        names = names.into_iter().take(ALIASES_MAX).collect();
    }
    names
}

/// `admin`: what is spoken on the admin listener, and where it is. None: that is nowhere that others could reach.
fn registrations(
    config: &RegisterConfig,
    admin: (&'static str, SocketAddr),
    aliases: &BTreeSet<Arc<str>>,
) -> Option<Vec<Registration>> {
    let own = config.enabled.then_some(config.name.as_str());
    let others = aliases.iter().map(|name| &**name).filter(|name| Some(*name) != own);
    let names: Vec<&str> = own.into_iter().chain(others).collect();
    if names.is_empty() {
        return Some(Vec::new());
    }
    let at = whereabouts(config, admin)?;
    Some(names.into_iter().map(|name| Registration::new(name, config, &at)).collect())
}

fn whereabouts(config: &RegisterConfig, (scheme, admin): (&'static str, SocketAddr)) -> Option<Whereabouts> {
    let mut address = config.address.unwrap_or(admin);
    if address.port() == 0 {
        address.set_port(admin.port());
    }
    if address.ip().is_unspecified() {
        address.set_ip(Machine::here().first_global()?);
    }
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Some(Whereabouts { address, scheme, hostname: hostname.trim().to_owned() })
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
            all.iter().flatten().map(|registration| registration.name().to_owned()).collect()
        };
        let own = RegisterConfig { enabled: true, aliases: true, ..RegisterConfig::default() };
        assert_eq!(names(&own, &found.names), ["lb", "x"]);
        assert_eq!(names(&RegisterConfig { enabled: false, ..own }, &found.names), ["lb", "x"]);
        found.follow(table("route add d /d http://10.0.0.1:4/")).await;
        assert_eq!(names(&RegisterConfig::default(), &found.names), [""; 0]);
    }

    #[test]
    fn what_the_address_leaves_open_is_filled_in() {
        let at = |address: Option<&str>| {
            let address = address.map(|address| address.parse().unwrap());
            let config = RegisterConfig { address, ..RegisterConfig::default() };
            whereabouts(&config, ("http", "127.0.0.1:4711".parse().unwrap())).map(|at| at.address.to_string())
        };
        assert_eq!(at(None).as_deref(), Some("127.0.0.1:4711"));
        assert_eq!(at(Some("10.0.0.1:0")).as_deref(), Some("10.0.0.1:4711"));
        assert_eq!(at(Some("10.0.0.1:80")).as_deref(), Some("10.0.0.1:80"));
        if let Some(global) = Machine::here().first_global() {
            assert_eq!(at(Some("0.0.0.0:80")), Some(SocketAddr::new(global, 80).to_string()));
        }
    }
}
