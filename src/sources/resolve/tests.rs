//! The stage with a made-up resolver in paused time, and once with a DNS server over UDP.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::*;
use crate::catalog::command::{Command, parse_commands};
use crate::catalog::{Endpoint, Instance, InstanceId, Registration, ServiceSnapshot, Weights};
use crate::sources::dns::Found;
use crate::sources::dns::system::Files;

/// Resolves from a table; the query for a name that is not in it never ends.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Table>>);

type Table = HashMap<String, Result<Vec<Found>, ResolveError>>;

impl Fake {
    fn set(&self, name: &str, result: Result<Vec<Found>, ResolveError>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), result);
    }

    fn addrs(&self, name: &str, last: &[u8]) {
        let at = |&last: &u8| Found {
            target: name.into(),
            addr: [10, 0, 0, last].into(),
            port: 0,
            weight: 0,
        };
        self.set(name, Ok(last.iter().map(at).collect()));
    }

    fn fail(&self, name: &str) {
        self.set(name, Err(ResolveError::Failed("timeout".to_owned())));
    }
}

impl Resolve for Fake {
    async fn resolve(&self, question: &Question) -> Result<DnsResponse, ResolveError> {
        let known = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&*question.name)
            .cloned();
        match known {
            Some(Ok(found)) => Ok(DnsResponse {
                found,
                failed_targets: Vec::new(),
                ttl: Duration::from_secs(5),
            }),
            Some(Err(error)) => Err(error),
            None => std::future::pending().await,
        }
    }
}

struct Fixture {
    fake: Fake,
    metrics: Metrics,
    input: mpsc::Sender<Update>,
    output: mpsc::Receiver<Update>,
    _task: SourceTask,
}

fn config(servers: Vec<SocketAddr>) -> DnsConfig {
    DnsConfig {
        servers,
        min_ttl: Duration::from_secs(1),
        max_ttl: Duration::from_secs(60),
        timeout: Duration::from_secs(2),
    }
}

impl Fixture {
    fn new() -> Self {
        let fake = Fake::default();
        let metrics = Metrics::default();
        let (input, stage_input) = mpsc::channel(16);
        let (stage_output, output) = mpsc::channel(16);
        let task = spawn_with(
            Arc::new(fake.clone()),
            &config(Vec::new()),
            metrics.clone(),
            stage_input,
            stage_output,
        );
        Self {
            fake,
            metrics,
            input,
            output,
            _task: task,
        }
    }

    async fn send(&self, update: Update) {
        self.input.send(update).await.expect("a running stage");
    }

    /// The next update in one line.
    async fn next(&mut self) -> String {
        // Time is paused: this limit passes at once when nothing else is going to happen.
        let update = time::timeout(Duration::from_secs(600), self.output.recv())
            .await
            .expect("an update in time");
        show(&update.expect("a running stage"))
    }

    /// Lets `pause` pass, in which nothing may be sent.
    async fn silence(&mut self, pause: Duration) {
        let update = time::timeout(pause, self.output.recv()).await;
        assert!(update.is_err(), "{update:?}");
    }
}

fn show(update: &Update) -> String {
    match update {
        Update::Service { snapshot, .. } => {
            let instances = snapshot
                .instances
                .iter()
                .map(|instance| match &instance.endpoint {
                    Endpoint::Addr(addr) => format!(" {}={addr}", instance.id.id),
                    Endpoint::Unresolved { reason, .. } => {
                        format!(" {}=({reason})", instance.id.id)
                    }
                    Endpoint::Name { host, .. } => panic!("{host} is not resolved"),
                });
            format!("{}:{}", snapshot.name, instances.collect::<String>())
        }
        Update::Gone { service, .. } => format!("{service} gone"),
        Update::Commands { commands, .. } => {
            let targets = commands.iter().map(|command| match &**command {
                Command::Add(add) => match (&add.endpoint, add.spec.options.weight) {
                    (Endpoint::Addr(addr), None) => format!(" {addr}"),
                    (Endpoint::Addr(addr), Some(weight)) => format!(" {addr}*{weight}"),
                    (Endpoint::Unresolved { port, reason, .. }, _) => format!(" {port}({reason})"),
                    (Endpoint::Name { host, .. }, _) => panic!("{host} is not resolved"),
                },
                _ => " other".to_owned(),
            });
            format!("commands:{}", targets.collect::<String>())
        }
        Update::Synced { source } => format!("{source} synced"),
    }
}

fn service(name: &str, instances: &[(&str, &str)]) -> Update {
    let instance = |&(id, place): &(&str, &str)| Instance {
        id: InstanceId {
            node: "n".into(),
            id: id.into(),
        },
        endpoint: match place.parse() {
            Ok(addr) => Endpoint::Addr(addr),
            Err(_) => Endpoint::Name {
                host: place.into(),
                port: 80,
            },
        },
        tags: Vec::new(),
        checks: Vec::new(),
        weights: Weights::default(),
        registration: Registration::default(),
    };
    let instances = instances.iter().map(instance).collect();
    Update::Service {
        source: "test",
        snapshot: Arc::new(ServiceSnapshot {
            name: name.into(),
            datacenter: None,
            instances,
        }),
        seen_at: std::time::Instant::now(),
    }
}

fn commands(text: &str) -> Update {
    let (commands, errors) = parse_commands(text);
    assert!(errors.is_empty(), "{errors:?}");
    Update::Commands {
        source: "test",
        commands: commands.into(),
        errors: errors.into(),
        seen_at: std::time::Instant::now(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_name_delays_only_its_own_service_and_not_for_long() {
    let mut stage = Fixture::new();
    let start = Instant::now();
    stage
        .send(service(
            "slow",
            &[("a", "never.answers"), ("b", "10.0.0.9:80")],
        ))
        .await;
    stage.send(Update::Synced { source: "test" }).await;
    stage.send(service("plain", &[("a", "10.0.0.1:80")])).await;
    stage.send(Update::Synced { source: "other" }).await;
    stage
        .send(Update::Gone {
            source: "test",
            service: "old".into(),
            seen_at: std::time::Instant::now(),
        })
        .await;
    assert_eq!(stage.next().await, "plain: a=10.0.0.1:80");
    assert_eq!(stage.next().await, "other synced");
    assert_eq!(stage.next().await, "old gone");
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(
        stage.next().await,
        "slow: a=(name never.answers does not resolve: no response yet) b=10.0.0.9:80"
    );
    assert!(start.elapsed() <= PATIENCE + Duration::from_millis(5));
    assert_eq!(stage.next().await, "test synced");
}

#[tokio::test(start_paused = true)]
async fn several_addresses_make_several_instances_and_changes_are_followed() {
    let mut stage = Fixture::new();
    stage.fake.addrs("web", &[2, 1]);
    stage
        .send(service("s", &[("z", "web"), ("a", "10.0.0.9:80")]))
        .await;
    assert_eq!(
        stage.next().await,
        "s: a=10.0.0.9:80 z#10.0.0.1=10.0.0.1:80 z#10.0.0.2=10.0.0.2:80"
    );
    stage.silence(Duration::from_secs(60)).await;
    stage.fake.addrs("web", &[2]);
    assert_eq!(
        stage.next().await,
        "s: a=10.0.0.9:80 z#10.0.0.2=10.0.0.2:80"
    );
    // The same again from the source changes nothing.
    stage
        .send(service("s", &[("a", "10.0.0.9:80"), ("z", "web")]))
        .await;
    stage.silence(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn failures_keep_addresses_and_are_counted() {
    let mut stage = Fixture::new();
    stage.send(service("plain", &[("a", "10.0.0.1:80")])).await;
    assert_eq!(stage.next().await, "plain: a=10.0.0.1:80");
    assert!(
        stage.metrics.control().registry_errors.is_empty(),
        "no names, no lookups"
    );
    stage.fake.addrs("web", &[1]);
    stage.send(service("s", &[("z", "web")])).await;
    assert_eq!(stage.next().await, "s: z#10.0.0.1=10.0.0.1:80");
    assert_eq!(
        stage.metrics.control().registry_errors["dns"],
        0,
        "shown before the first error"
    );
    stage.fake.fail("web");
    stage.silence(Duration::from_secs(3600)).await;
    assert!(stage.metrics.control().registry_errors["dns"] > 10);
    stage.fake.set("web", Err(ResolveError::Absent));
    assert_eq!(
        stage.next().await,
        "s: z=(name web does not resolve: no such name)"
    );
    stage.fake.addrs("web", &[3]);
    assert_eq!(stage.next().await, "s: z#10.0.0.3=10.0.0.3:80");
}

#[tokio::test(start_paused = true)]
async fn an_unresolvable_name_keeps_its_place_until_it_resolves() {
    let mut stage = Fixture::new();
    stage.fake.addrs("good", &[1]);
    stage.fake.fail("bad");
    stage
        .send(commands(
            "route add a / http://good\nroute add b / http://bad:81\nroute del c",
        ))
        .await;
    stage.send(Update::Synced { source: "test" }).await;
    assert_eq!(
        stage.next().await,
        "commands: 10.0.0.1:80 81(name bad does not resolve: timeout) other"
    );
    assert_eq!(stage.next().await, "test synced");
    stage.fake.set("bad", Err(ResolveError::Absent));
    let absent = "commands: 10.0.0.1:80 81(name bad does not resolve: no such name) other";
    assert_eq!(stage.next().await, absent);
    stage.fake.addrs("bad", &[2]);
    assert_eq!(
        stage.next().await,
        "commands: 10.0.0.1:80 10.0.0.2:81 other"
    );
}

#[tokio::test(start_paused = true)]
async fn a_newer_update_takes_the_place_of_the_one_that_waits() {
    let mut stage = Fixture::new();
    stage.send(service("s", &[("old", "never.answers")])).await;
    stage.send(service("s", &[("new", "10.0.0.1:80")])).await;
    assert_eq!(stage.next().await, "s: new=10.0.0.1:80");
    stage.send(service("s", &[("old", "never.answers")])).await;
    stage
        .send(Update::Gone {
            source: "test",
            service: "s".into(),
            seen_at: std::time::Instant::now(),
        })
        .await;
    assert_eq!(stage.next().await, "s gone");
    stage.silence(Duration::from_secs(3600)).await;
}

#[tokio::test(start_paused = true)]
async fn srv_records_give_port_and_weight() {
    let mut stage = Fixture::new();
    let found = |last, port, weight| Found {
        target: "t".into(),
        addr: [10, 0, 0, last].into(),
        port,
        weight,
    };
    stage
        .fake
        .set("web.consul", Ok(vec![found(1, 1000, 1), found(2, 2000, 3)]));
    stage
        .send(commands("route add a / srv+http://web.consul"))
        .await;
    assert_eq!(
        stage.next().await,
        "commands: 10.0.0.1:1000*0.25 10.0.0.2:2000*0.75"
    );
    stage
        .fake
        .set("web.consul", Ok(vec![found(1, 1000, 1), found(2, 2000, 1)]));
    assert_eq!(stage.next().await, "commands: 10.0.0.1:1000 10.0.0.2:2000");
}

/// What the DNS server below says: A records and SRV records (priority, weight, port, target) by
/// name.
#[derive(Default)]
struct Zone {
    addrs: HashMap<&'static str, Vec<Ipv4Addr>>,
    services: HashMap<&'static str, Vec<(u16, u16, u16, &'static str)>>,
}

fn response(zone: &Zone, request: &Message) -> Message {
    let mut response = Message::response(request.metadata.id, OpCode::Query);
    let query = request.queries.first().expect("a query").clone();
    let (name, kind) = (query.name().clone(), query.query_type());
    let text = name.to_string();
    response.add_query(query);
    let key = text.trim_end_matches('.');
    let data: Vec<RData> = match kind {
        RecordType::A => zone
            .addrs
            .get(key)
            .into_iter()
            .flatten()
            .map(|&addr| RData::A(A(addr)))
            .collect(),
        RecordType::SRV => {
            let srv = |&(priority, weight, port, target): &(u16, u16, u16, &str)| {
                RData::SRV(SRV::new(
                    priority,
                    weight,
                    port,
                    Name::from_ascii(target).expect("a name"),
                ))
            };
            zone.services
                .get(key)
                .into_iter()
                .flatten()
                .map(srv)
                .collect()
        }
        _ => Vec::new(),
    };
    if !zone.addrs.contains_key(key) && !zone.services.contains_key(key) {
        response.metadata.response_code = ResponseCode::NXDomain;
    }
    response.add_answers(
        data.into_iter()
            .map(|data| Record::from_rdata(name.clone(), 1, data)),
    );
    response
}

async fn serve(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut buffer = [0; 4096];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
        let Ok(request) = Message::from_vec(&buffer[..length]) else {
            continue;
        };
        let response = response(
            &zone.lock().unwrap_or_else(PoisonError::into_inner),
            &request,
        );
        let _ = socket
            .send_to(&response.to_vec().expect("encodes"), peer)
            .await;
    }
}

#[tokio::test]
async fn a_dns_server_is_queried_again_after_the_ttl() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a socket");
    let server = socket.local_addr().expect("an address");
    let zone = Arc::new(Mutex::new(Zone::default()));
    let change =
        |edit: &dyn Fn(&mut Zone)| edit(&mut zone.lock().unwrap_or_else(PoisonError::into_inner));
    change(&|zone| {
        zone.addrs.insert(
            "one.test",
            vec![[127, 0, 0, 2].into(), [127, 0, 0, 1].into()],
        );
        zone.addrs.insert("two.test", vec![[127, 0, 0, 3].into()]);
        let spare = (9, 1, 9000, "one.test.");
        zone.services.insert(
            "srv.test",
            vec![(1, 1, 7000, "one.test."), (1, 1, 8000, "two.test."), spare],
        );
    });
    let _server = SourceTask::spawn(serve(socket, Arc::clone(&zone)));

    let (input, stage_input) = mpsc::channel(16);
    let (stage_output, mut output) = mpsc::channel(16);
    let config = config(vec![server]);
    let _stage = spawn(
        Arc::new(Dns::new(&config)),
        &config,
        Metrics::default(),
        stage_input,
        stage_output,
    );
    let mut next = async || {
        let update = time::timeout(Duration::from_secs(30), output.recv())
            .await
            .expect("an update in time");
        show(&update.expect("a running stage"))
    };

    input
        .send(commands("route add a / http://one.test:80"))
        .await
        .expect("a running stage");
    assert_eq!(next().await, "commands: 127.0.0.1:80 127.0.0.2:80");
    change(&|zone| drop(zone.addrs.insert("one.test", vec![[127, 0, 0, 7].into()])));
    assert_eq!(next().await, "commands: 127.0.0.7:80");
    input
        .send(commands("route add a / srv+http://srv.test"))
        .await
        .expect("a running stage");
    assert_eq!(next().await, "commands: 127.0.0.7:7000 127.0.0.3:8000");
    change(&|zone| {
        drop(zone.services.insert(
            "srv.test",
            vec![(1, 1, 8001, "two.test."), (1, 3, 7000, "gone.test.")],
        ))
    });
    assert_eq!(next().await, "commands: 127.0.0.3:8001");
    change(&|zone| drop(zone.services.remove("srv.test")));
    assert_eq!(
        next().await,
        "commands: 0(name srv.test does not resolve: no such name)"
    );
}

/// The system's files in a folder, two DNS servers on different addresses, and the stage behind
/// them. No name is queried again by its TTL.
struct Site {
    folder: tempfile::TempDir,
    input: mpsc::Sender<Update>,
    output: mpsc::Receiver<Update>,
    _tasks: Vec<SourceTask>,
}

const FIRST: &str = "nameserver 127.0.0.1\n";
const SECOND: &str = "nameserver 127.0.0.2\n";

impl Site {
    /// `first` and `second` are what the servers at 127.0.0.1 and 127.0.0.2 know: names and the
    /// last byte of an address.
    async fn new(
        resolv_conf: Option<&str>,
        hosts: Option<&str>,
        first: &[(&'static str, u8)],
        second: &[(&'static str, u8)],
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let one = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a socket");
        let port = one.local_addr().expect("an address").port();
        let two = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), port))
            .await
            .expect("a socket");
        let mut tasks = Vec::new();
        for (socket, names) in [(one, first), (two, second)] {
            let mut zone = Zone::default();
            zone.addrs.extend(
                names
                    .iter()
                    .map(|(name, last)| (*name, vec![Ipv4Addr::new(10, 0, 0, *last)])),
            );
            tasks.push(SourceTask::spawn(serve(socket, Arc::new(Mutex::new(zone)))));
        }
        let path = |name: &str| folder.path().join(name);
        let files = Files {
            resolv_conf: path("resolv.conf"),
            hosts: path("hosts"),
            port,
        };
        for (path, text) in [(&files.resolv_conf, resolv_conf), (&files.hosts, hosts)] {
            if let Some(text) = text {
                std::fs::write(path, text).expect("writes");
            }
        }
        let config = DnsConfig {
            min_ttl: Duration::from_secs(3600),
            ..config(Vec::new())
        };
        let config = DnsConfig {
            max_ttl: config.min_ttl,
            timeout: Duration::from_millis(1500),
            ..config
        };
        let (input, stage_input) = mpsc::channel(16);
        let (stage_output, output) = mpsc::channel(16);
        let dns = Dns::with_files(&config, &files);
        tasks.push(spawn_with(
            Arc::new(dns),
            &config,
            Metrics::default(),
            stage_input,
            stage_output,
        ));
        Self {
            folder,
            input,
            output,
            _tasks: tasks,
        }
    }

    /// Puts a new file in the place of the old one, as most programs do.
    fn replace(&self, name: &str, text: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).expect("writes");
        std::fs::rename(new, self.folder.path().join(name)).expect("renames");
    }

    async fn next_after(&mut self, text: &str) -> String {
        self.input
            .send(commands(text))
            .await
            .expect("a running stage");
        self.next().await
    }

    async fn next(&mut self) -> String {
        let update = time::timeout(Duration::from_secs(30), self.output.recv())
            .await
            .expect("an update in time");
        show(&update.expect("a running stage"))
    }
}

#[tokio::test]
async fn other_servers_are_queried_when_resolv_conf_changes() {
    let mut site = Site::new(Some(FIRST), None, &[("web.test", 1)], &[("web.test", 2)]).await;
    assert_eq!(
        site.next_after("route add a / http://web.test:80").await,
        "commands: 10.0.0.1:80"
    );
    site.replace("resolv.conf", SECOND);
    assert_eq!(site.next().await, "commands: 10.0.0.2:80");
    // Written over in place, and for a moment empty.
    let path = site.folder.path().join("resolv.conf");
    std::fs::write(&path, "").expect("writes");
    time::sleep(3 * LOOK_EVERY).await;
    std::fs::write(&path, FIRST).expect("writes");
    assert_eq!(site.next().await, "commands: 10.0.0.1:80");
    // A server that does not run: the address stays, and comes again with the next change.
    std::fs::write(&path, "nameserver 127.0.0.3\n").expect("writes");
    time::sleep(3 * LOOK_EVERY).await;
    std::fs::write(&path, SECOND).expect("writes");
    assert_eq!(site.next().await, "commands: 10.0.0.2:80");
}

#[tokio::test]
async fn hosts_comes_first_and_is_followed() {
    let conf = format!("{FIRST}search corp.test\n");
    let hosts = "127.0.0.1 localhost\n10.0.0.50 db DB.corp.test\n::7 six\n";
    let names = [("db.corp.test", 1), ("cache.corp.test", 3), ("web.test", 4)];
    let mut site = Site::new(Some(&conf), Some(hosts), &names, &[]).await;
    let all = "route add a / http://db:80\nroute add b / http://db.corp.test.:81\nroute add c / http://six:82\n\
               route add d / http://cache:83\nroute add e / http://web.test:84\nroute add f / http://localhost:85";
    assert_eq!(
        site.next_after(all).await,
        "commands: 10.0.0.50:80 10.0.0.50:81 [::7]:82 10.0.0.3:83 10.0.0.4:84 127.0.0.1:85"
    );
    site.replace("hosts", "10.0.0.51 db\n10.0.0.60 web.test\n::7 six\n");
    // `localhost` needs no entry; `db.corp.test` is left to the server.
    let mut last = site.next().await;
    while last
        != "commands: 10.0.0.51:80 10.0.0.1:81 [::7]:82 10.0.0.3:83 10.0.0.60:84 127.0.0.1:85"
    {
        last = site.next().await;
    }
}

#[tokio::test]
async fn short_names_go_through_the_search_list_in_order() {
    let conf = format!("{FIRST}search a.test b.test\noptions ndots:2\n");
    let names = [
        ("db.b.test", 1),
        ("x.y.a.test", 2),
        ("x.y", 9),
        ("p.q.r", 3),
        ("bare", 4),
    ];
    let mut site = Site::new(Some(&conf), None, &names, &[]).await;
    let all = "route add a / http://db:80\nroute add b / http://x.y:81\nroute add c / http://x.y.:82\n\
               route add d / http://p.q.r:83\nroute add e / http://bare:84\nroute add f / http://db.:85";
    assert_eq!(
        site.next_after(all).await,
        "commands: 10.0.0.1:80 10.0.0.2:81 10.0.0.9:82 10.0.0.3:83 10.0.0.4:84 \
         85(name db. does not resolve: no such name)"
    );
}

#[tokio::test]
async fn names_in_hosts_need_no_servers() {
    let mut site = Site::new(None, Some("10.0.0.50 db\n"), &[("web.test", 1)], &[]).await;
    let first = site
        .next_after("route add a / http://db:80\nroute add b / http://web.test:81")
        .await;
    assert!(
        first.starts_with(
            "commands: 10.0.0.50:80 81(name web.test does not resolve: no DNS servers"
        ),
        "{first}"
    );
    assert!(first.contains("resolv.conf"), "{first}");
    site.replace("resolv.conf", FIRST);
    assert_eq!(site.next().await, "commands: 10.0.0.50:80 10.0.0.1:81");
}
