//! What a request may cost, in things that no noise touches: heap allocations, system calls and
//! instructions of the usual HTTP/1.1 request once everything is warm.
//!
//! One test: the counts are of whole processes, so nothing else may run beside them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::alloc::System;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Connections that send requests at the same time.
const CONNECTIONS: usize = 64;
/// Rounds in which each of them sends one.
const ROUNDS: usize = 100;
/// The same where each instruction is counted.
const INSTRUCTION_ROUNDS: usize = 20;
const REQUEST: &[u8] =
    b"GET /a?b=c HTTP/1.1\r\nHost: app.example\r\nAccept: */*\r\nUser-Agent: gate\r\n\r\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    Content-Length: 64\r\n\r\n0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Heap allocations per request: none. The rest of the process (its clocks, its tick once a second)
/// has this much room.
const ALLOCATIONS_MAX: f64 = 0.05;
/// System calls per request: two reads, two writes, and a part of a wait.
const SYSCALLS_MAX: f64 = 4.2;

/// Instructions per request of the unoptimised build, in user mode, as callgrind counts them: what
/// is added to a request shows here as well as in an optimised build, and that one would cost
/// minutes more to make. Recorded with `RECORDED_WITH`; another compiler makes other code. After a
/// change that is meant, record it anew.
const INSTRUCTIONS: f64 = 114_000.0;
const RECORDED_WITH: &str = "rustc 1.95.0";
/// How far above it may be.
const INSTRUCTIONS_MARGIN: f64 = 0.05;
/// Runs of which the least counts, where the first ones are above it.
const INSTRUCTION_RUNS: usize = 4;

/// Responds to every request with the same bytes, without allocating.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while matches!(stream.read(&mut buffer), Ok(1..)) {
                    if stream.write_all(ANSWER).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Clients that send all at once, and read into room they have.
struct Clients {
    streams: Vec<TcpStream>,
    buffer: Vec<u8>,
}

impl Clients {
    fn connect(address: SocketAddr) -> Self {
        let connect = || {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            stream
        };
        Self {
            streams: (0..CONNECTIONS).map(|_| connect()).collect(),
            buffer: vec![0; 4096],
        }
    }

    fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            for stream in &mut self.streams {
                stream.write_all(REQUEST).unwrap();
            }
            for stream in &mut self.streams {
                let mut read = 0;
                while read < ANSWER.len() {
                    let more = stream.read(&mut self.buffer[read..]).unwrap();
                    assert!(more > 0, "the router closed a connection");
                    read += more;
                }
                assert!(self.buffer.starts_with(b"HTTP/1.1 200 OK\r\n"));
            }
        }
    }
}

fn settings(upstream: SocketAddr) -> String {
    format!(
        "[proxy]\nworkers = 1\n[admin]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[static.route]]\nservice = \"gate\"\nsource = \"app.example/\"\ntargets = [\"http://{upstream}\"]\n\
         options = \"allow=ip:127.0.0.0/8\"\n[log]\nlevel = \"error\"\n"
    )
}

#[test]
fn a_usual_request_costs_no_more_than_it_must() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lb.toml");
    std::fs::write(&file, settings(upstream())).unwrap();
    let allocations = allocations(&file);
    println!("{allocations:.3} heap allocations per request");
    assert!(
        allocations <= ALLOCATIONS_MAX,
        "{allocations:.3} heap allocations per request, at most {ALLOCATIONS_MAX}"
    );
    match syscalls(&file) {
        Some(calls) => {
            println!("{calls:.2} system calls per request");
            assert!(
                calls <= SYSCALLS_MAX,
                "{calls:.2} system calls per request, at most {SYSCALLS_MAX}"
            );
        }
        None => println!("SKIPPED system calls per request: no strace on PATH"),
    }
    // What a busy machine adds (wakes with fewer requests each, ticks of the process) it adds to one
    // run more than to another.
    let above = |count: f64| count / INSTRUCTIONS - 1.0;
    let mut least = instructions(&file);
    for _ in 1..INSTRUCTION_RUNS {
        if least.is_none_or(|count| above(count) <= INSTRUCTIONS_MARGIN) {
            break;
        }
        least = least
            .zip(instructions(&file))
            .map(|(one, other)| one.min(other));
    }
    match least {
        Some(count) => {
            println!("{count:.0} instructions per request");
            let above = above(count);
            assert!(
                above <= INSTRUCTIONS_MARGIN,
                "{count:.0} instructions per request, {:.1} % above the {INSTRUCTIONS:.0} recorded: if that is meant, \
                 record it in tests/cost_limits.rs",
                above * 100.0
            );
        }
        None => println!(
            "SKIPPED instructions per request: no valgrind on PATH, or not {RECORDED_WITH}"
        ),
    }
}

/// Of a router of its own, under callgrind; none without that, or with another compiler than the
/// recorded figure is of.
fn instructions(file: &Path) -> Option<f64> {
    Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .ok()?;
    let rustc = Command::new("rustc").arg("--version").output().ok()?;
    if !String::from_utf8_lossy(&rustc.stdout).starts_with(RECORDED_WITH)
        || std::env::consts::ARCH != "x86_64"
    {
        return None;
    }
    let profile = file.with_extension("callgrind");
    let mut out = std::ffi::OsString::from("--callgrind-out-file=");
    out.push(&profile);
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--quiet", "--tool=callgrind", "--instr-atstart=no"])
        .arg(out)
        .arg(env!("CARGO_BIN_EXE_lb"));
    let mut lb = run(&mut valgrind, file);
    let mut clients = Clients::connect(listening(&mut lb));
    clients.rounds(5);
    let control = |state: &str| {
        let pid = lb.id().to_string();
        let done = Command::new("callgrind_control")
            .args(["-i", state, &pid])
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(done.success(), "callgrind_control -i {state}: {done}");
    };
    control("on");
    clients.rounds(INSTRUCTION_ROUNDS);
    control("off");
    drop(clients);
    Command::new("kill")
        .args(["-TERM", &lb.id().to_string()])
        .status()
        .unwrap();
    lb.wait().unwrap();
    let text = std::fs::read_to_string(&profile).unwrap();
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<f64>().ok());
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let requests = (INSTRUCTION_ROUNDS * CONNECTIONS) as f64;
    Some(total.unwrap() / requests)
}

/// Of the router in this process, where its allocator can be watched.
fn allocations(file: &Path) -> f64 {
    let config = lb::config::read(Some(file), Vec::new()).unwrap().config;
    let running = lb::serve::start(&config, Vec::new()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    assert!(runtime.block_on(running.opened()));
    let http = running
        .listeners
        .iter()
        .find(|(name, _)| name == "http")
        .unwrap()
        .1;
    let mut clients = Clients::connect(http);
    clients.rounds(20);
    let region = Region::new(ALLOCATOR);
    clients.rounds(ROUNDS);
    let change = region.change();
    running.stop();
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let per_request =
        (change.allocations + change.reallocations) as f64 / (ROUNDS * CONNECTIONS) as f64;
    per_request
}

/// Of a router of its own, watched by strace; none without that.
fn syscalls(file: &Path) -> Option<f64> {
    Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status()
        .ok()?;
    let mut lb = run(&mut Command::new(env!("CARGO_BIN_EXE_lb")), file);
    let http = listening(&mut lb);
    let mut clients = Clients::connect(http);
    clients.rounds(20);
    let counts = file.with_extension("strace");
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-U", "name,calls", "-o"])
        .arg(&counts)
        .args(["-p", &lb.id().to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It says so once it is attached.
    let mut said = [0; 1];
    strace
        .stderr
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    clients.rounds(5);
    clients.rounds(ROUNDS);
    // Sends SIGINT, at which it detaches and writes its table.
    Command::new("kill")
        .args(["-INT", &strace.id().to_string()])
        .status()
        .unwrap();
    strace.wait().unwrap();
    lb.kill().unwrap();
    lb.wait().unwrap();
    let table = std::fs::read_to_string(&counts).unwrap();
    let calls: f64 = table
        .lines()
        .filter_map(|line| line.split_whitespace().collect::<Vec<_>>().try_into().ok())
        .filter(|[name, _]: &[&str; 2]| !["total", "syscall"].contains(name))
        .filter_map(|[_, calls]| calls.parse::<f64>().ok())
        .sum();
    assert!(calls > 0.0, "strace counted nothing: {table}");
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let requests = ((ROUNDS + 5) * CONNECTIONS) as f64;
    Some(calls / requests)
}

/// Starts `lb run`, which `program` leads to, with its log where it can be read.
fn run(program: &mut Command, file: &Path) -> Child {
    let program = program.args(["run", "--config"]).arg(file);
    program
        .env("LB_LOG_LEVEL", "info")
        .env("LB_LOG_FORMAT", "json")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads the log until the address of the HTTP listener is there.
fn listening(lb: &mut Child) -> SocketAddr {
    use std::io::BufRead as _;
    let log = std::io::BufReader::new(lb.stderr.take().unwrap());
    let begun = Instant::now();
    let mut address = None;
    let mut lines = log.lines();
    while let Some(Ok(line)) = lines.next() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "lb does not listen"
        );
        let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if line["listener"] == "http" {
            address = line["address"].as_str().map(|text| text.parse().unwrap());
            break;
        }
    }
    // What comes later has to be read, or lb would wait.
    std::thread::spawn(move || lines.for_each(drop));
    address.unwrap()
}
