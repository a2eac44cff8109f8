//! Pebble for tests: a small ACME server that behaves as Let's Encrypt does, with the DNS server that
//! it queries. Both on loopback, and ended with the test.

use std::cell::RefCell;
use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use super::certs::Ca;
use super::loopback::free_port;
use super::wait::wait_until;

/// How the server is to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Life of certificates in seconds.
    pub life: u32,
    /// Whether it validates at once; else after up to five seconds, as it does by default.
    pub at_once: bool,
    /// Whether accounts have to be bound to an external one, `kid-1`.
    pub external: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            life: 90 * 86_400,
            at_once: true,
            external: false,
        }
    }
}

/// HMAC key of the external account.
pub const EXTERNAL_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// A running server.
pub struct Pebble {
    programs: Programs,
    folder: TempDir,
    server: RefCell<Child>,
    names: Child,
    management: u16,
    names_management: u16,
    names_port: u16,
    port: u16,
    options: Options,
    /// Where it validates by http-01.
    pub http_port: u16,
    /// Where it validates by tls-alpn-01.
    pub tls_port: u16,
}

#[derive(Clone)]
struct Programs {
    server: PathBuf,
    names: PathBuf,
}

fn find(name: &str) -> Option<PathBuf> {
    let on_path = env::var_os("PATH").unwrap_or_default();
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&on_path).collect();
    folders.extend(env::var_os("PEBBLE_DIR").map(PathBuf::from));
    folders.extend([home.join("go/bin"), home.join(".cargo/bin")]);
    let mut found = folders.into_iter().map(|folder| folder.join(name));
    found.find(|path| path.is_file())
}

impl Pebble {
    /// Starts it; none, and a word on standard error, where it is not installed.
    pub fn start(test: &str, options: Options) -> Option<Self> {
        let (Some(server), Some(names)) = (find("pebble"), find("pebble-challtestsrv")) else {
            // Not by `eprintln`, which is captured where a test passes.
            let what =
                "`pebble` and `pebble-challtestsrv` (on PATH, in ~/go/bin, or in PEBBLE_DIR)";
            let _ = writeln!(std::io::stderr(), "SKIPPED {test}: it needs {what}");
            return None;
        };
        let programs = Programs { server, names };
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::new("of the server itself");
        let pair = ca.pair(&["127.0.0.1", "localhost"]);
        fs::write(folder.path().join("ca.pem"), &ca.pem).unwrap();
        fs::write(folder.path().join("cert.pem"), &pair.cert_pem).unwrap();
        fs::write(folder.path().join("key.pem"), &pair.key_pem).unwrap();
        let [port, management, names_port, names_management] = [(); 4].map(|()| free_port());
        let (http_port, tls_port) = (free_port(), free_port());
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": folder.path().join("cert.pem"),
            "privateKey": folder.path().join("key.pem"),
            "httpPort": http_port,
            "tlsPort": tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": options.external,
            "externalAccountMACKeys": { "kid-1": EXTERNAL_KEY },
            "retryAfter": { "authz": 1, "order": 1 },
            "domainBlocklist": ["blocked.acme.test"],
            "profiles": { "default": { "description": "of the test", "validityPeriod": options.life } },
        } });
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let dns = run(
            &programs.names,
            folder.path(),
            "names.log",
            &[
                "-dnsserver",
                &format!("127.0.0.1:{names_port}"),
                "-management",
                &format!("127.0.0.1:{names_management}"),
                "-defaultIPv6",
                "",
                "-http01",
                "",
                "-https01",
                "",
                "-tlsalpn01",
                "",
                "-doh",
                "",
            ],
            &[],
        );
        let server = serve(&programs, folder.path(), names_port, options);
        let pebble = Self {
            programs,
            folder,
            server: RefCell::new(server),
            names: dns,
            management,
            names_management,
            names_port,
            port,
            options,
            http_port,
            tls_port,
        };
        pebble.wait();
        Some(pebble)
    }

    fn wait(&self) {
        for port in [self.port, self.management, self.names_management] {
            wait_until("a port of pebble", || {
                TcpStream::connect(("127.0.0.1", port)).is_ok()
            });
        }
    }

    /// URL of its directory.
    pub fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// The CA of its own certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The CA of the certificates that it issues.
    pub fn root(&self) -> String {
        curl(&[
            "--cacert",
            self.ca_file().to_str().unwrap(),
            &format!("https://127.0.0.1:{}/roots/0", self.management),
        ])
    }

    /// Has its DNS say that this host is at this address.
    pub fn host_at(&self, host: &str, address: &str) {
        let body = json!({ "host": format!("{host}."), "addresses": [address] });
        self.tell_names("add-a", &body.to_string());
    }

    /// A request to the management of its DNS.
    pub fn tell_names(&self, path: &str, body: &str) {
        let url = format!("{}/{path}", self.names_url());
        curl(&["-d", body, &url]);
    }

    /// Where the management of its DNS is.
    pub fn names_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.names_management)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }

    /// Orders that were made.
    pub fn orders(&self) -> usize {
        self.log().matches("Added order ").count()
    }

    /// Certificates that were issued.
    pub fn issued(&self) -> usize {
        self.log().matches("Issued certificate serial ").count()
    }

    /// Ends it at once. It forgets everything.
    pub fn kill(&self) {
        let mut server = self.server.borrow_mut();
        server.kill().ok();
        server.wait().ok();
    }

    /// Starts it again, on the same ports.
    pub fn restart(&self) {
        let server = serve(
            &self.programs,
            self.folder.path(),
            self.names_port,
            self.options,
        );
        *self.server.borrow_mut() = server;
        self.wait();
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- pebble\n{}", self.log());
        }
        for child in [self.server.get_mut(), &mut self.names] {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn serve(programs: &Programs, folder: &Path, names_port: u16, options: Options) -> Child {
    let sleep = if options.at_once { "1" } else { "0" };
    run(
        &programs.server,
        folder,
        "server.log",
        &[
            "-config",
            folder.join("config.json").to_str().unwrap(),
            "-dnsserver",
            &format!("127.0.0.1:{names_port}"),
        ],
        &[("PEBBLE_VA_NOSLEEP", sleep)],
    )
}

fn run(
    program: &Path,
    folder: &Path,
    log: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join(log))
        .unwrap();
    Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["-sS", "--fail"])
        .args(arguments)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {arguments:?}: {words}");
    String::from_utf8(output.stdout).unwrap()
}
