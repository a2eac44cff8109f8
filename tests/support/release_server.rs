//! Release archives as HashiCorp publishes them, from a server and with a signing key of our own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb::bootstrap::nodes::spec::sha256;

/// A signing key.
pub struct Key {
    /// Its home for gpg.
    pub home: PathBuf,
    /// Its fingerprint.
    pub fingerprint: String,
    /// A file with its public half, armoured.
    pub public: PathBuf,
}

/// Makes a key below a folder.
pub fn key(dir: &Path, name: &str) -> Key {
    let home = dir.join(name);
    fs::create_dir(&home).unwrap();
    run(Command::new("chmod").arg("700").arg(&home));
    let gpg = || {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir")
            .arg(&home)
            .args(["--batch", "--quiet", "--passphrase", ""]);
        gpg
    };
    run(gpg().args(["--quick-generate-key", name, "ed25519", "sign", "1d"]));
    let listed = run(gpg().args(["--list-keys", "--with-colons"]));
    let fingerprint = listed
        .lines()
        .find_map(|line| line.strip_prefix("fpr:"))
        .unwrap()
        .replace(':', "");
    let public = dir.join(format!("{name}.asc"));
    fs::write(&public, run(gpg().args(["--armor", "--export"]))).unwrap();
    Key {
        home,
        fingerprint,
        public,
    }
}

/// Signs a list of sums.
pub fn sign(key: &Key, list: &Path, signature: &Path) {
    let _ = fs::remove_file(signature);
    let mut gpg = Command::new("gpg");
    gpg.arg("--homedir")
        .arg(&key.home)
        .args(["--batch", "--quiet", "--detach-sign", "-o"]);
    run(gpg.arg(signature).arg(list));
}

/// Makes a release of the installed `consul` below `dir/www`; its version.
pub fn consul_release(dir: &Path, key: &Key) -> String {
    let told = run(Command::new("consul").arg("version"));
    let version = told
        .split_whitespace()
        .nth(1)
        .unwrap()
        .trim_start_matches('v')
        .to_owned();
    let folder = dir.join("www/consul").join(&version);
    fs::create_dir_all(&folder).unwrap();
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let name = format!("consul_{version}_linux_{machine}.zip");
    let zip = folder.join(&name);
    let make = "import shutil, sys, zipfile; zipfile.ZipFile(sys.argv[1], 'w').write(shutil.which('consul'), 'consul')";
    run(Command::new("python3").args(["-c", make]).arg(&zip));
    let list = folder.join(format!("consul_{version}_SHA256SUMS"));
    fs::write(
        &list,
        format!("{}  {name}\n", sha256(&fs::read(&zip).unwrap())),
    )
    .unwrap();
    sign(
        key,
        &list,
        &folder.join(format!("consul_{version}_SHA256SUMS.sig")),
    );
    version
}

/// Serves a folder over HTTP for as long as the test runs; its URL.
pub fn serve(root: PathBuf, address: &str) -> String {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 2048];
            let read = stream.read(&mut head).unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            let path = head
                .split(' ')
                .nth(1)
                .unwrap_or("/")
                .trim_start_matches('/')
                .to_owned();
            let (status, body) = fs::read(root.join(path))
                .map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(&body);
        }
    });
    url
}

/// Runs a command to its end; what it prints.
pub fn run(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}
