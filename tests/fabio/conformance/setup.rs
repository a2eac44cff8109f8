//! What the programs run between: a Consul agent with everything registered, and upstreams by
//! name.
//!
//! Cases name these as `<NAME>`:
//!
//! | name | is |
//! |---|---|
//! | `<a>` … `<h>` | `HOST:PORT` of an upstream that tells what it got |
//! | `<echo>` | of one that greets with `hello `, echoes bytes, and says ` bye` after the client's end |
//! | `<tls>` | of an HTTPS one whose certificate the programs do not trust |
//! | `<grpc>` | of a gRPC one |
//! | `<junk>` | of one that does not respond in HTTP |
//! | `<late>` | of one that takes its time, more of it than a case has |
//! | `<closed>` | where nothing listens |
//! | `<folder>` | a folder with `site.pem`, `site-key.pem` (`tls.test`, `*.wild.test`) and `second.pem` (`second.test`) |
//! | `<folder>/certs` | the same as a folder of certificates |

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};

use tempfile::TempDir;

use super::case::File;
use super::register;
use super::upstreams;
use crate::support::certs::Ca;
use crate::support::consul::{ConsulAgent, Options};
use crate::support::upstream::{RawUpstream, TcpEcho, Upstream};

pub struct Setup {
    pub consul: ConsulAgent,
    pub ca: Ca,
    folder: TempDir,
    addresses: BTreeMap<String, SocketAddr>,
    _upstreams: Vec<Upstream>,
    _echo: TcpEcho,
    _junk: RawUpstream,
}

impl Setup {
    /// Starts it and registers the cases of all files.
    pub fn new(files: &[File]) -> Self {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let mut upstreams: Vec<Upstream> = names.iter().map(|name| Upstream::start(name)).collect();
        let mut addresses: BTreeMap<String, SocketAddr> = upstreams
            .iter()
            .map(|upstream| (upstream.name().to_owned(), upstream.address))
            .collect();
        let (echo, junk) = (
            TcpEcho::start("hello ", " bye"),
            RawUpstream::start("this is not HTTP\r\n\r\n", true),
        );
        let (ca, folder) = (Ca::new("conformance"), tempfile::tempdir().unwrap());
        ca.pair(&["tls.test", "*.wild.test"])
            .write(folder.path(), "site");
        ca.pair(&["second.test"]).write(folder.path(), "second");
        let certs = folder.path().join("certs");
        std::fs::create_dir(&certs).unwrap();
        for (name, names) in [
            ("a", &["tls.test", "*.wild.test"][..]),
            ("b", &["second.test"]),
        ] {
            let pair = ca.pair(names);
            std::fs::write(certs.join(format!("{name}-cert.pem")), &pair.cert_pem).unwrap();
            std::fs::write(certs.join(format!("{name}-key.pem")), &pair.key_pem).unwrap();
        }
        let late = Upstream::start("late");
        // Longer than any case waits.
        late.set_delay(std::time::Duration::from_secs(600));
        addresses.insert("echo".to_owned(), echo.address);
        addresses.insert("late".to_owned(), late.address);
        upstreams.push(late);
        addresses.insert("junk".to_owned(), junk.address);
        addresses.insert(
            "tls".to_owned(),
            upstreams::https("tls", &ca.pair(&["up.test", "sni.test"])),
        );
        addresses.insert("grpc".to_owned(), upstreams::grpc("grpc"));
        addresses.insert("closed".to_owned(), nobody());
        // Two programs for each file hold a connection for each of their watches, and are one
        // client to the agent.
        let consul = ConsulAgent::start_with(Options {
            connections_max: 5000,
            ..Options::default()
        });
        let setup = Self {
            consul,
            ca,
            folder,
            addresses,
            _upstreams: upstreams,
            _echo: echo,
            _junk: junk,
        };
        for file in files {
            register::marks(&setup, file);
            for case in &file.cases {
                register::case(&setup, file, case);
            }
        }
        setup
    }

    /// Address of an upstream.
    pub fn address(&self, name: &str) -> SocketAddr {
        *self
            .addresses
            .get(name)
            .unwrap_or_else(|| panic!("no upstream is called {name}"))
    }

    /// The text with names replaced.
    pub fn fill(&self, text: &str) -> String {
        let mut text = text.replace("<folder>", self.folder.path().to_str().unwrap());
        for (name, address) in &self.addresses {
            text = text.replace(&format!("<{name}>"), &address.to_string());
        }
        text
    }
}

/// An address where nothing listens. (The port is free now, and given away not soon: the system
/// goes around.)
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}
