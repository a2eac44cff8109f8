//! Release archives from a server of our own, signed by keys made here.

use std::fs;
use std::process::Command;

use lb::bootstrap::nodes::spec::{BinarySpec, sha256};
use lb::bootstrap::nodes::{ControlDir, Host, Releases};
use lb::bootstrap::topology::{BinarySource, Target};

use super::cluster;
use crate::support::release_server::{Key, key, run, serve, sign};
use crate::support::sshd::is_possible;

#[tokio::test]
async fn only_what_the_right_people_signed_is_installed() {
    if !is_possible(
        "only_what_the_right_people_signed_is_installed",
        &["gpg", "curl", "unzip", "python3"],
    ) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ours = key(dir.path(), "ours");
    let theirs = key(dir.path(), "theirs");
    let root = dir.path().join("www");
    let folder = root.join("consul/1.2.3");
    fs::create_dir_all(&folder).unwrap();
    let zip = folder.join("consul_1.2.3_linux_amd64.zip");
    let make = "import sys, zipfile; zipfile.ZipFile(sys.argv[1], 'w').writestr('consul', '#!/bin/sh\\necho hello\\n')";
    run(Command::new("python3").args(["-c", make]).arg(&zip));
    let sum = sha256(&fs::read(&zip).unwrap());
    let list = folder.join("consul_1.2.3_SHA256SUMS");
    let text = ["amd64", "arm64"]
        .map(|arch| format!("{sum}  consul_1.2.3_linux_{arch}.zip\n"))
        .concat();
    fs::write(&list, &text).unwrap();
    let signature = folder.join("consul_1.2.3_SHA256SUMS.sig");
    let sign = |key: &Key| sign(key, &list, &signature);

    let mut cluster = cluster(&dir.path().join("state"), Target::Local, "127.0.34.5", None);
    cluster.release_url = serve(root, "127.0.34.5");
    cluster
        .release_key
        .fingerprint
        .clone_from(&ours.fingerprint);
    cluster.release_key.file = Some(ours.public.clone());
    let host = Host::new(&cluster, &cluster.nodes[0], &ControlDir::create().unwrap());
    let program = dir.path().join("consul");
    let binary = |version: &str| BinarySpec {
        name: "consul".to_owned(),
        path: program.to_string_lossy().into_owned(),
        source: BinarySource::Release(version.to_owned()),
        sha256: None,
    };
    let refused = async |version: &str, expected: &str| {
        let error = host
            .install(&binary(version), &Releases::new(&cluster))
            .await
            .unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(expected), "{error}");
        assert!(!program.exists());
    };

    refused("9.9.9", "there is no release consul 9.9.9").await;
    refused("1.2.3", "are not to be trusted").await; // no signature
    sign(&theirs);
    refused("1.2.3", "signed by another key").await;
    sign(&ours);
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
    // The second run needs no archive, unless the program was changed.
    fs::remove_file(&zip).unwrap();
    assert_eq!(
        host.install(&binary("1.2.3"), &releases).await.unwrap(),
        installed
    );
    fs::write(&program, "changed").unwrap();
    let error = host
        .install(&binary("1.2.3"), &releases)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("cannot fetch"), "{error}");
}
