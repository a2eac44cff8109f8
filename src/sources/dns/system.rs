//! What the system says about names: `hosts` and `resolv.conf`, as they are now.
//!
//! Both files may be replaced while the process runs (DHCP, VPNs, container managers, people), so
//! they are looked at again before each question: the metadata alone, and the text when that
//! differs. A file that cannot be read, or a `resolv.conf` without servers (one that is just being
//! written, for example), leaves what was known.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::system_conf::parse_resolv_conf;

/// Largest file that is read, in bytes: block lists in `hosts` are long.
const BYTES_MAX: u64 = 64 << 20;
/// A file that was written shorter than this before it was read may be written again without a
/// visible difference in its metadata: it is read once more.
const SETTLED: Duration = Duration::from_secs(2);

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Files {
    /// Servers, search list and options: see resolv.conf(5).
    pub resolv_conf: PathBuf,
    /// Names with their addresses: see hosts(5).
    pub hosts: PathBuf,
    /// The port of the servers, which `resolv.conf` cannot name.
    pub port: u16,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
            port: 53,
        }
    }
}

/// The names of a `hosts` file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(HashMap<String, Vec<IpAddr>>);

impl Hosts {
    /// Reads the text of such a file; lines that are none are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or("");
            let mut words = line.split_ascii_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
                continue;
            };
            for name in words {
                let all = names.entry(canonical(name)).or_default();
                if !all.contains(&address) {
                    all.push(address);
                }
            }
        }
        Self(names)
    }

    /// The addresses of a name: its IPv4 ones, or if there are none its IPv6 ones; nothing for a
    /// name that is not there. `localhost` and what ends with it is this machine in any case (RFC
    /// 6761 section 6.3).
    #[must_use]
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let name = canonical(name);
        if let Some(all) = self.0.get(&name) {
            let v4: Vec<IpAddr> = all.iter().copied().filter(IpAddr::is_ipv4).collect();
            return if v4.is_empty() { all.clone() } else { v4 };
        }
        if name == "localhost" || name.ends_with(".localhost") {
            vec![[127, 0, 0, 1].into()]
        } else {
            Vec::new()
        }
    }
}

/// Names are compared without regard to case, and to a dot at the end.
fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// What `resolv.conf` says.
#[derive(Clone, Debug, Default)]
pub struct ResolvConf {
    /// Servers, in their order.
    pub servers: Vec<NameServerConfig>,
    /// Domains that short names are looked for in, in their order.
    pub search: Vec<String>,
    /// A name with at least so many dots is looked up as it is first.
    pub ndots: usize,
}

impl ResolvConf {
    /// Reads the text of such a file.
    ///
    /// # Errors
    /// No servers, or a line that cannot be understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (config, options) = parse_resolv_conf(text).map_err(|error| error.to_string())?;
        let search = Some(config.search()).filter(|search| !search.is_empty());
        let search = search.map_or_else(
            || config.domain().into_iter().cloned().collect(),
            <[_]>::to_vec,
        );
        let search = search
            .iter()
            .map(|domain| domain.to_string().trim_end_matches('.').to_owned());
        Ok(Self {
            servers: config.name_servers().to_vec(),
            search: search.filter(|domain| !domain.is_empty()).collect(),
            ndots: options.ndots,
        })
    }

    /// The servers, listening at `port`, as hickory wants them.
    #[must_use]
    pub fn to_config(&self, port: u16) -> ResolverConfig {
        let mut servers = self.servers.clone();
        servers
            .iter_mut()
            .flat_map(|server| &mut server.connections)
            .for_each(|connection| connection.port = port);
        ResolverConfig::from_parts(None, Vec::new(), servers)
    }

    /// The full names that a name can mean, in the order in which they are looked up
    /// (resolv.conf(5)): one with a dot at its end is that very name; one with fewer dots than
    /// `ndots` is looked for in the search list first.
    #[must_use]
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let mut all: Vec<String> = self
            .search
            .iter()
            .map(|domain| format!("{name}.{domain}."))
            .collect();
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let at = if dots >= self.ndots { 0 } else { all.len() };
        all.insert(at, format!("{name}."));
        all
    }
}

/// One file, as it was read last.
#[derive(Debug, Default)]
pub struct Watched {
    path: PathBuf,
    stamp: Option<Stamp>,
    text: Option<String>,
    trouble: Option<String>,
}

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Watched {
    /// A file that was not read yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            ..Self::default()
        }
    }

    /// The text, if it is another one than last time. What cannot be read changes nothing, and is
    /// logged once. A file that is not there is empty, if `optional`.
    pub async fn look(&mut self, optional: bool) -> Option<&str> {
        match self.read(optional).await {
            Ok(changed) => {
                self.trouble = None;
                self.text.as_deref().filter(|_| changed)
            }
            Err(error) => {
                let reason = error.to_string();
                if self.trouble.as_ref() != Some(&reason) {
                    tracing::warn!(path = %self.path.display(), %reason, "cannot be read; what it said before holds");
                    self.trouble = Some(reason);
                }
                None
            }
        }
    }

    async fn read(&mut self, optional: bool) -> io::Result<bool> {
        let metadata = match tokio::fs::metadata(&self.path).await {
            Err(error) if optional && error.kind() == io::ErrorKind::NotFound => {
                self.stamp = None;
                return Ok(self.replace(String::new()));
            }
            metadata => metadata?,
        };
        let stamp = Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        if self.stamp == Some(stamp) {
            return Ok(false);
        }
        if metadata.len() > BYTES_MAX {
            return Err(io::Error::other(format!("larger than {BYTES_MAX} bytes")));
        }
        let bytes = tokio::fs::read(&self.path).await?;
        let age = metadata
            .modified()
            .ok()
            .and_then(|modified| SystemTime::now().duration_since(modified).ok());
        self.stamp = age.filter(|age| *age >= SETTLED).map(|_| stamp);
        Ok(self.replace(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn replace(&mut self, text: String) -> bool {
        let changed = self.text.as_ref() != Some(&text);
        self.text = Some(text);
        changed
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why it cannot be read, if it cannot.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_by_name_alias_and_family() {
        let hosts = Hosts::parse(
            "# comment\n127.0.0.1 localhost\n::1 localhost ip6-localhost\n10.0.0.1\tDB db.corp.test # tail\n\
             10.0.0.2 db\n10.0.0.2 db\nfe80::1%eth0 zone\nbroken line\n10.0.0.9\n2001:db8::1 six",
        );
        for (name, expected) in [
            ("db", &["10.0.0.1", "10.0.0.2"][..]),
            ("Db.", &["10.0.0.1", "10.0.0.2"]),
            ("db.corp.test", &["10.0.0.1"]),
            ("six", &["2001:db8::1"]),
            ("localhost", &["127.0.0.1"]),
            ("ip6-localhost", &["::1"]),
            ("app.localhost", &["127.0.0.1"]),
            ("zone", &[]),
            ("line", &[]),
            ("corp.test", &[]),
        ] {
            let found: Vec<String> = hosts
                .addresses(name)
                .iter()
                .map(IpAddr::to_string)
                .collect();
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(
            Hosts::default().addresses("LOCALHOST."),
            [IpAddr::from([127, 0, 0, 1])]
        );
    }

    #[test]
    fn names_go_through_the_search_list() {
        let conf =
            |text: &str| ResolvConf::parse(&format!("nameserver 192.0.2.1\n{text}\n")).unwrap();
        for (text, name, expected) in [
            (
                "search a.test b.test",
                "db",
                &["db.a.test.", "db.b.test.", "db."][..],
            ),
            (
                "search a.test b.test",
                "db.x",
                &["db.x.", "db.x.a.test.", "db.x.b.test."],
            ),
            ("search a.test b.test", "db.", &["db."]),
            (
                "search a.test\noptions ndots:2",
                "db.x",
                &["db.x.a.test.", "db.x."],
            ),
            (
                "search a.test\noptions ndots:5",
                "a.b.c.d.e",
                &["a.b.c.d.e.a.test.", "a.b.c.d.e."],
            ),
            (
                "search old.test\nsearch a.test",
                "db",
                &["db.a.test.", "db."],
            ),
            ("domain corp.test", "db", &["db.corp.test.", "db."]),
            ("search .", "db.x", &["db.x."]),
        ] {
            assert_eq!(conf(text).candidates(name), expected, "{text}: {name}");
        }
        assert!(ResolvConf::parse("search a.test\n").is_err(), "no servers");
        assert_eq!(ResolvConf::default().candidates("db"), ["db."]);
    }

    #[tokio::test]
    async fn a_file_is_read_when_it_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        let mut file = Watched::new(&path);
        assert_eq!(file.look(false).await, None);
        assert!(file.trouble().is_some());
        assert_eq!(file.look(true).await, Some(""));
        for text in ["one", "two", "longer"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(
                file.look(true).await,
                Some(text),
                "also of the same size at the same time"
            );
            assert_eq!(file.look(true).await, None);
        }
        // Replaced, as most programs do it.
        let other = folder.path().join("new");
        std::fs::write(&other, "renamed").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(file.look(true).await, Some("renamed"));
        let old = SystemTime::now() - 10 * SETTLED;
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(old)
            .unwrap();
        assert_eq!(file.look(true).await, None, "the text is the same");
        assert!(file.stamp.is_some());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.look(false).await, None);
        assert_eq!(file.look(true).await, Some(""));
    }
}
