//! Release archives from a server of our own, signed by keys made here.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb::bootstrap::host::{ControlDir, Host, Releases};
use lb::bootstrap::spec::{BinarySpec, sha256};
use lb::bootstrap::topology::{BinarySource, Target};

use super::cluster;
use super::support::sshd::is_possible;

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A key's home, its fingerprint and its public half.
fn key(dir: &Path, name: &str) -> (PathBuf, String, PathBuf) {
    let home = dir.join(name);
    fs::create_dir(&home).unwrap();
    run(Command::new("chmod").arg("700").arg(&home));
    let gpg = || {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(&home).args(["--batch", "--quiet", "--passphrase", ""]);
        gpg
    };
    run(gpg().args(["--quick-generate-key", name, "ed25519", "sign", "1d"]));
    let listed = run(gpg().args(["--list-keys", "--with-colons"]));
    let fingerprint = listed.lines().find_map(|line| line.strip_prefix("fpr:")).unwrap().replace(':', "");
    let public = dir.join(format!("{name}.asc"));
    fs::write(&public, run(gpg().args(["--armor", "--export"]))).unwrap();
    (home, fingerprint, public)
}

/// Serves a folder over HTTP for as long as the test runs.
fn serve(root: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.34.5:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 2048];
            let read = stream.read(&mut head).unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            let path = head.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
            let (status, body) =
                fs::read(root.join(path)).map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(&body);
        }
    });
    url
}

#[tokio::test]
async fn only_what_the_right_people_signed_is_installed() {
    if !is_possible("only_what_the_right_people_signed_is_installed", &["gpg", "curl", "unzip", "python3"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (home, fingerprint, public) = key(dir.path(), "ours");
    let (others, _, _) = key(dir.path(), "theirs");
    let root = dir.path().join("www");
    let folder = root.join("consul/1.2.3");
    fs::create_dir_all(&folder).unwrap();
    let zip = folder.join("consul_1.2.3_linux_amd64.zip");
    let make = "import sys, zipfile; zipfile.ZipFile(sys.argv[1], 'w').writestr('consul', '#!/bin/sh\\necho hello\\n')";
    run(Command::new("python3").args(["-c", make]).arg(&zip));
    let sum = sha256(&fs::read(&zip).unwrap());
    let list = folder.join("consul_1.2.3_SHA256SUMS");
    let text = ["amd64", "arm64"].map(|arch| format!("{sum}  consul_1.2.3_linux_{arch}.zip\n")).concat();
    fs::write(&list, &text).unwrap();
    let signature = folder.join("consul_1.2.3_SHA256SUMS.sig");
    let sign = |home: &Path| {
        let _ = fs::remove_file(&signature);
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(home).args(["--batch", "--quiet", "--detach-sign", "-o"]);
        run(gpg.arg(&signature).arg(&list));
    };

    let mut cluster = cluster(&dir.path().join("state"), Target::Local, "127.0.34.5", None);
    cluster.release_url = serve(root);
    cluster.release_key.fingerprint = fingerprint;
    cluster.release_key.file = Some(public);
    let host = Host::new(&cluster, &cluster.nodes[0], &ControlDir::create().unwrap());
    let program = dir.path().join("consul");
    let binary = |version: &str| BinarySpec {
        name: "consul".to_owned(),
        path: program.to_string_lossy().into_owned(),
        source: BinarySource::Release(version.to_owned()),
        sha256: None,
    };
    let refused = async |version: &str, expected: &str| {
        let error = host.install(&binary(version), &Releases::new(&cluster)).await.unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(expected), "{error}");
        assert!(!program.exists());
    };

    refused("9.9.9", "there is no release consul 9.9.9").await;
    refused("1.2.3", "are not to be trusted").await; // no signature
    sign(&others);
    refused("1.2.3", "signed by another key").await;
    sign(&home);
    fs::write(&list, text.replace("linux", "Linux")).unwrap();
    refused("1.2.3", "does not fit the list").await;
    fs::write(&list, &text).unwrap();
    let archive = fs::read(&zip).unwrap();
    fs::write(&zip, b"something else").unwrap();
    refused("1.2.3", "but its signed list says").await;
    fs::write(&zip, &archive).unwrap();

    let releases = Releases::new(&cluster);
    let installed = host.install(&binary("1.2.3"), &releases).await.unwrap();
    assert_eq!(installed, sha256(&fs::read(&program).unwrap()));
    assert_eq!(run(&mut Command::new(&program)), "hello\n");
    // The second run needs no archive, unless somebody changed the program.
    fs::remove_file(&zip).unwrap();
    assert_eq!(host.install(&binary("1.2.3"), &releases).await.unwrap(), installed);
    fs::write(&program, "changed").unwrap();
    let error = host.install(&binary("1.2.3"), &releases).await.unwrap_err().to_string();
    assert!(error.contains("cannot fetch"), "{error}");
}
