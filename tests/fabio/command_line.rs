//! The command line, the environment and the properties file, as Fabio reads them. With `FABIO_BIN`
//! the real one gets the same, and has to end the same way.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use lb::fabio::keys::{self, Key, Kind};
use lb::fabio::settings::defaults_file;
use lb::fabio::{Machine, Request, request};

use super::{fabio, fabio_with};
use crate::support::loopback::free_address;
use crate::support::wait::PATIENCE;

/// A value that is another than the default, and makes sense.
fn other(key: &Key) -> &'static str {
    match key.name {
        "proxy.noroutestatus" => "418",
        "proxy.strategy" => "rr",
        "proxy.matcher" => "iprefix",
        "proxy.addr" => "127.0.0.1:1111;rt=3s",
        "proxy.cs" => "cs=a;type=file;cert=/a.pem",
        "proxy.auth" => "name=a;type=basic;file=/users",
        "proxy.localip" => "10.1.2.3",
        "proxy.header.clientip" | "proxy.header.requestid" | "proxy.header.tls" => "X-Some",
        "proxy.gzip.contenttype" => "^text/",
        "log.access.target" => "stdout",
        "log.access.format" => "combined",
        "log.level" => "WARN",
        "log.routes.format" | "proxy.log.routes" => "all",
        "registry.backend" => "static",
        "registry.static.routes" => "route add a / http://127.0.0.1:1/",
        "registry.consul.addr" => "10.0.0.1:8500",
        "registry.consul.register.addr" | "ui.addr" => "127.0.0.1:1112",
        "registry.consul.service.status" => "passing,warning",
        "registry.consul.checksRequired" => "all",
        // Two keys that exclude each other: this one is true by default, the other one is not.
        "registry.consul.allowStale" => "false",
        "ui.access" => "rw",
        "ui.path" => "/some",
        "ui.color" => "blue",
        "ui.routingtable.source.scheme" => "https",
        "ui.routingtable.source.port" => "81",
        "metrics.target" => "prometheus",
        "metrics.prefix" => "some",
        "metrics.prometheus.path" => "/m",
        "metrics.graphite.addr" | "metrics.statsd.addr" | "metrics.dogstatsd.addr" => {
            "127.0.0.1:1113"
        }
        "profile.mode" => "cpu",
        _ => match key.kind {
            Kind::Text | Kind::Secret => "some",
            Kind::Bool => match key.default {
                "true" => "false",
                _ => "true",
            },
            Kind::Int | Kind::Uint => "3",
            Kind::Span => "7s",
            Kind::List => "a,b",
            Kind::Numbers => "1,2",
        },
    }
}

/// What these settings become: the configuration, and the warnings without where a value was given.
fn becomes(env: &[(String, String)], args: &[String]) -> (String, Vec<String>) {
    let Ok(Request::Serve(source)) = request(args, env.to_vec(), Machine::bare()) else {
        panic!("{args:?}")
    };
    let translation = source
        .translate()
        .unwrap_or_else(|error| panic!("{env:?} {args:?}: {error}"));
    let warnings = translation
        .warnings
        .iter()
        .map(|warning| format!("{}: {}", warning.key, warning.text));
    (translation.toml, warnings.collect())
}

#[test]
fn every_key_may_be_given_in_every_way() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fabio.properties");
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let nothing = becomes(&[], &[]);
    for key in keys::all() {
        let value = other(key);
        let with_equals = becomes(&[], &[format!("-{}={value}", key.name)]);
        // Of those that become something, some do so together with others only.
        if !matches!(key.mapping, keys::Mapping::Becomes(_)) {
            assert_ne!(with_equals, nothing, "{} is left out in silence", key.name);
        }
        let dashes = becomes(&[], &[format!("--{}={value}", key.name)]);
        assert_eq!(dashes, with_equals, "{}", key.name);
        if key.kind != Kind::Bool {
            let apart = becomes(&[], &words(&[&format!("-{}", key.name), value]));
            assert_eq!(apart, with_equals, "{}", key.name);
        }
        let variable = key.name.replace('.', "_").to_ascii_uppercase();
        for name in [
            format!("FABIO_{variable}"),
            format!("fabio_{}", variable.to_ascii_lowercase()),
            variable,
        ] {
            let by_env = becomes(&[(name.clone(), value.to_owned())], &[]);
            assert_eq!(by_env, with_equals, "{name}");
        }
        fs::write(&file, lb::fabio::properties::entry(key.name, value)).unwrap();
        let by_file = becomes(&[], &words(&["-cfg", file.to_str().unwrap()]));
        assert_eq!(by_file, with_equals, "{} in a file", key.name);
    }
}

#[test]
fn the_nearest_source_wins() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    fs::write(
        &file,
        "proxy.noroutestatus = 404\nproxy.maxconn = 44\nproxy.strategy = rr\nui.title = file",
    )
    .unwrap();
    let env = [
        ("FABIO_PROXY_NOROUTESTATUS", "403"),
        ("PROXY_NOROUTESTATUS", "402"),
        ("FABIO_PROXY_MAXCONN", "33"),
        ("PROXY_MAXCONN", "22"),
        ("PROXY_STRATEGY", "rnd"),
    ];
    let shown = fabio_with(
        &env,
        &[
            "-print-config",
            "-proxy.noroutestatus=401",
            "-cfg",
            file.to_str().unwrap(),
        ],
    );
    for line in [
        "no_route_status = 401",
        "upstream_max_idle = 33",
        "strategy = \"rnd\"",
        "title = \"file\"",
    ] {
        assert!(shown.out.contains(line), "{line}: {}", shown.out);
    }
}

#[test]
fn the_printed_configuration_passes_the_check() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("routes.txt"),
        "route add a / http://127.0.0.1:1/\n",
    )
    .unwrap();
    let routes = folder.path().join("routes.txt");
    for args in [
        &[
            "-registry.backend=static",
            "-registry.static.routes=route add a /a http://127.0.0.1:1/",
        ][..],
        &[
            "-registry.backend=file",
            "-registry.file.path",
            routes.to_str().unwrap(),
            "-proxy.matcher=glob",
        ],
        &[
            "-proxy.addr=127.0.0.1:0,127.0.0.1:0;proto=tcp;pxyproto=true",
            "-metrics.target=prometheus,stdout",
        ],
    ] {
        let printed = fabio(&[args, &["-print-config"]].concat());
        assert_eq!(printed.code, Some(0), "{args:?}: {}", printed.err);
        let path = folder.path().join("lb.toml");
        fs::write(&path, &printed.out).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_lb"));
        let output = check
            .args(["check", "--config"])
            .arg(&path)
            .env_clear()
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            output.status.code(),
            Some(0),
            "{args:?}: {told}\n{}",
            printed.out
        );
    }
}

/// How a program that was started ends, or that it does not.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It opened its proxy listener; on SIGTERM it ended with this code.
    Serves(Option<i32>),
    /// It ended by itself: code, and whether it wrote to standard output and to standard error.
    Ends(Option<i32>, bool, bool),
}

const SERVES: Fate = Fate::Serves(Some(0));
const REFUSES: Fate = Fate::Ends(Some(1), false, true);
const USAGE: Fate = Fate::Ends(Some(2), false, true);

/// Starts it with a proxy listener at `<ip>:9999` unless `args` say where, and sees what becomes of
/// it.
fn fate(program: &Path, env: &[(&str, &str)], args: &[&str]) -> Fate {
    let ip = free_address();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    fs::write(file("defaults"), defaults_file(&Machine::here())).unwrap();
    fs::write(
        file("some"),
        "! a comment\nproxy.strategy : rr\nui.title=a \\\n    b\nno.such.key = 1",
    )
    .unwrap();
    fs::write(file("wrong"), "proxy.strategy = best").unwrap();
    fs::write(file("number"), "proxy.maxconn = many").unwrap();
    let own = [
        format!("-proxy.addr={ip}:9999"),
        format!("-ui.addr={ip}:9998"),
        "-registry.backend=static".to_owned(),
        "-insecure".to_owned(),
    ];
    let args = args.iter().map(|arg| {
        arg.replace("<ip>", &ip)
            .replace("<folder>", folder.path().to_str().unwrap())
    });
    let mut command = Command::new(program);
    if program == Path::new(env!("CARGO_BIN_EXE_lb")) {
        command.arg("fabio");
    }
    let [out, err] = ["out", "err"].map(file);
    let pipe = |path: &PathBuf| Stdio::from(fs::File::create(path).unwrap());
    command
        .args(own)
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .current_dir(folder.path());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(pipe(&out))
        .stderr(pipe(&err))
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let mut serves = false;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            let wrote = |path: &PathBuf| !fs::read(path).unwrap().is_empty();
            return if serves {
                Fate::Serves(status.code())
            } else {
                Fate::Ends(status.code(), wrote(&out), wrote(&err))
            };
        }
        if !serves && TcpStream::connect((ip.as_str(), 9999)).is_ok() {
            serves = true;
            let _ = Command::new("kill").arg(child.id().to_string()).status();
        }
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            panic!(
                "{program:?} {env:?}: neither serves nor ends:\n{}",
                fs::read_to_string(&err).unwrap()
            );
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Arguments, with `<ip>` and `<folder>`, and what comes of them.
const COMMAND_LINES: &[(&[&str], Fate)] = &[
    (&[], SERVES),
    (&["-v"], Fate::Ends(Some(0), true, false)),
    (&["-version"], Fate::Ends(Some(0), true, false)),
    (&["--version"], Fate::Ends(Some(0), true, false)),
    (&["-nothing", "-v"], Fate::Ends(Some(0), true, false)),
    (&["--v"], SERVES),
    (&["-v=true"], SERVES),
    (&["-h"], Fate::Ends(Some(0), false, true)),
    (&["-help"], Fate::Ends(Some(0), false, true)),
    (&["--help"], Fate::Ends(Some(0), false, true)),
    (&["word"], SERVES),
    (&["--", "-nothing"], SERVES),
    // Flags that there are not, and values that do not fit.
    (&["-nothing"], USAGE),
    (&["-PROXY.ADDR=:1"], USAGE),
    (&["-proxy.maxconn"], USAGE),
    (&["-proxy.maxconn=many"], USAGE),
    (&["-proxy.maxconn=1.5"], USAGE),
    (&["-proxy.dialtimeout=5"], USAGE),
    (&["-insecure=maybe"], USAGE),
    (&["-metrics.prometheus.buckets=a"], USAGE),
    (&["---x"], USAGE),
    // Files.
    (&["-cfg"], REFUSES),
    (&["-cfg="], REFUSES),
    (&["-cfg", ""], SERVES),
    (&["-cfg", "/nonexistent"], REFUSES),
    (&["-cfg", "http://127.0.0.1:1/"], REFUSES),
    (&["-cfg", "<folder>/defaults"], SERVES),
    (&["-cfg", "<folder>/some"], SERVES),
    (&["-cfg='<folder>/some'"], SERVES),
    (&["-cfg", "<folder>/wrong"], REFUSES),
    (&["-cfg", "<folder>/wrong", "-proxy.strategy=rr"], SERVES),
    (&["-cfg", "<folder>/number"], SERVES),
    // Words.
    (&["-proxy.strategy=best"], REFUSES),
    (&["-proxy.strategy="], REFUSES),
    (&["-proxy.matcher=regexp"], REFUSES),
    (&["-proxy.noroutestatus=99"], REFUSES),
    (&["-proxy.noroutestatus=1000"], REFUSES),
    (&["-proxy.noroutestatus=999"], SERVES),
    (&["-ui.access=none"], REFUSES),
    (&["-log.level=LOUD"], SERVES),
    (&["-log.access.target=file"], REFUSES),
    (&["-log.routes.format=odd"], SERVES),
    (&["-profile.mode=odd"], REFUSES),
    (&["-proxy.localip={{"], REFUSES),
    (&["-registry.consul.allowStale"], REFUSES),
    (
        &[
            "-registry.consul.allowStale",
            "-registry.consul.requireConsistent=false",
        ],
        SERVES,
    ),
    (
        &["-registry.consul.register.checkDeregisterCriticalServiceAfter=90m"],
        SERVES,
    ),
    (&["-aws.apigw.cert.cn=x"], SERVES),
    (&["-tracing.TracingEnabled"], USAGE),
    // Listeners.
    (&["-proxy.addr=<ip>:9999;proto=ftp"], REFUSES),
    (&["-proxy.addr=<ip>:9999;proto="], REFUSES),
    (&["-proxy.addr=<ip>:9999;proto=https"], REFUSES),
    (&["-proxy.addr=<ip>:9999;proto=grpcs"], REFUSES),
    (&["-proxy.addr=<ip>:9999;cs=x"], REFUSES),
    (&["-proxy.addr=<ip>:9999;rt=5"], REFUSES),
    (&["-proxy.addr=<ip>:9999;rt=5s;it=1m"], SERVES),
    (&["-proxy.addr=<ip>:9999;odd=1"], SERVES),
    (&["-proxy.addr=<ip>:9999;tlsmin=abc"], REFUSES),
    (
        &["-proxy.addr=<ip>:9999;pxyproto=true;pxytimeout=1s"],
        SERVES,
    ),
    (&["-proxy.addr=<ip>:9999;proto=tcp,<ip>:9997"], SERVES),
    (&["-proxy.addr=<ip>"], REFUSES),
    (&["-proxy.addr=<ip>:99999"], REFUSES),
    (&["-ui.addr=<ip>:1,<ip>:2"], REFUSES),
    (&["-ui.addr=<ip>:1;cs=x"], REFUSES),
    // Certificates and passwords.
    (&["-proxy.cs=cs=a;type=file"], REFUSES),
    (&["-proxy.cs=type=file;cert=x"], REFUSES),
    (&["-proxy.cs=cs=a;cert=x"], REFUSES),
    (&["-proxy.cs=cs=a;type=odd;cert=x"], REFUSES),
    (&["-proxy.cs=cs=a;type=path;cert=x;refresh=z"], REFUSES),
    (&["-proxy.cs=cs=a;type=file;cert=/nonexistent"], SERVES),
    // Fabio refuses this with a listener that uses it; lb opens the other listeners
    // (docs/migrating-from-fabio.md).
    (
        &[
            "-proxy.cs=cs=a;type=file;cert=/nonexistent",
            "-proxy.addr=<ip>:9999",
        ],
        SERVES,
    ),
    (&["-proxy.auth=name=a"], REFUSES),
    (&["-proxy.auth=type=basic;file=x"], REFUSES),
    (&["-proxy.auth=name=a;type=basic"], REFUSES),
    (&["-proxy.auth=name=a;type=odd;file=x"], REFUSES),
    (
        &["-proxy.auth=name=a;type=basic;file=<folder>/some"],
        SERVES,
    ),
    (
        &["-proxy.auth=name=a;type=basic;file=/nonexistent"],
        REFUSES,
    ),
    // Metrics.
    (&["-metrics.target=statsd"], REFUSES),
    (&["-metrics.target=odd"], REFUSES),
    (&["-metrics.target=circonus"], REFUSES),
    (&["-metrics.target=statsd_raw"], SERVES),
    (&["-metrics.target=prometheus"], SERVES),
    (&["-metrics.prefix={{.Odd}}"], REFUSES),
    (&["-metrics.names={{.Odd}}"], SERVES),
    // Registries.
    (&["-registry.backend=etcd"], REFUSES),
    (&["-registry.backend=file", "-registry.timeout=0s"], REFUSES),
    (
        &[
            "-registry.backend=file",
            "-registry.timeout=0s",
            "-registry.file.path=/nonexistent",
        ],
        REFUSES,
    ),
];

/// Variables, and what comes of them.
const ENVIRONMENTS: &[(&[(&str, &str)], Fate)] = &[
    (&[("FABIO_PROXY_STRATEGY", "best")], REFUSES),
    (&[("proxy_strategy", "best")], REFUSES),
    (
        &[("FABIO_PROXY_STRATEGY", "rr"), ("PROXY_STRATEGY", "best")],
        SERVES,
    ),
    (&[("FABIO_PROXY_MAXCONN", "many")], SERVES),
    (&[("FABIO_PROXY_DIALTIMEOUT", "5")], SERVES),
    (&[("FABIO_NO_SUCH_KEY", "x")], SERVES),
];

#[test]
fn what_fabio_takes_and_refuses_is_taken_and_refused() {
    let lb = PathBuf::from(env!("CARGO_BIN_EXE_lb"));
    let real = std::env::var_os("FABIO_BIN")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    if real.is_none() {
        eprintln!("SKIPPED: no FABIO_BIN: lb alone was asked");
    }
    let programs: Vec<PathBuf> = std::iter::once(lb).chain(real).collect();
    let mut wrong = Vec::new();
    for program in &programs {
        for (args, expected) in COMMAND_LINES {
            let found = fate(program, &[], args);
            if found != *expected {
                wrong.push(format!(
                    "{} {args:?}: {found:?}, not {expected:?}",
                    program.display()
                ));
            }
        }
        for (env, expected) in ENVIRONMENTS {
            let found = fate(program, env, &[]);
            if found != *expected {
                wrong.push(format!(
                    "{} {env:?}: {found:?}, not {expected:?}",
                    program.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
