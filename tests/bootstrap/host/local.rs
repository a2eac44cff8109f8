//! The local target: folders of this machine, processes in the background, owners left alone.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lb::bootstrap::nodes::spec::{
    BinarySpec, DaemonSpec, DirSpec, NodeSpec, Observed, Owner, Stamps, sha256,
};
use lb::bootstrap::nodes::{ControlDir, Host, Preflight, Wipe};
use lb::bootstrap::topology::{BinarySource, Layout, Product, Target};
use tempfile::TempDir;

use super::{AGENT, agent, cluster, file};
use crate::support::wait::{PATIENCE, wait_until, wait_until_async};

/// A node in a temporary folder, with [`AGENT`] as its Consul. What still runs at the end is
/// killed.
struct Fixture {
    dir: TempDir,
    host: Host,
    layout: Layout,
    spec: NodeSpec,
}

impl Fixture {
    async fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // A quote in the path: nothing may take it for shell.
        let state = dir.path().join("it's a state");
        let cluster = cluster(&state, Target::Local, "127.0.34.1", None);
        let layout = cluster.layout(&cluster.nodes[0]);
        let host = Host::new(&cluster, &cluster.nodes[0], &ControlDir::create().unwrap());
        let program = dir.path().join("agent").to_string_lossy().into_owned();
        fs::write(&program, AGENT).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let directories = [&layout.consul_config, &layout.consul_data, &layout.run];
        let spec = NodeSpec {
            users: vec![Owner::Consul],
            directories: directories
                .map(|path| DirSpec {
                    path: path.clone(),
                    mode: 0o750,
                    owner: Owner::Consul,
                })
                .to_vec(),
            binaries: vec![BinarySpec {
                name: "consul".to_owned(),
                path: program.clone(),
                source: BinarySource::File(PathBuf::from(&program)),
                sha256: None,
            }],
            files: vec![file(
                &format!("{}/agent.hcl", layout.consul_config),
                config,
                0o640,
                Owner::Consul,
            )],
            daemons: vec![agent(&program, &layout.consul_config)],
            ..NodeSpec::default()
        };
        let fixture = Self {
            dir,
            host,
            layout,
            spec,
        };
        fixture
            .host
            .ensure_users(&fixture.spec.users)
            .await
            .unwrap();
        fixture
            .host
            .ensure_directories(&fixture.spec.directories)
            .await
            .unwrap();
        fixture
            .host
            .write(&fixture.spec.files.iter().collect::<Vec<_>>())
            .await
            .unwrap();
        fixture
    }

    fn daemon(&self) -> &DaemonSpec {
        self.spec.daemon(Product::Consul).unwrap()
    }

    async fn observe(&self) -> Observed {
        self.host.observe(&self.spec).await.unwrap()
    }

    async fn pid(&self) -> Option<u32> {
        self.observe().await.daemons[&Product::Consul].pid
    }

    async fn wait_log(&self, text: &str) {
        wait_until_async(format!("`{text}` in the log"), async || {
            let log = self.host.log(Product::Consul, 50).await.unwrap();
            if log.contains(text) { Ok(()) } else { Err(log) }
        })
        .await;
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(format!("{}/consul.pid", self.layout.run)) {
            let command =
                fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
            if command.contains(&*self.dir.path().to_string_lossy()) {
                let _ = std::process::Command::new("kill")
                    .args(["-9", pid.trim()])
                    .status();
            }
        }
    }
}

#[tokio::test]
async fn what_was_written_is_observed() {
    let node = Fixture::new("plain").await;
    let observed = node.observe().await;
    let config = &node.spec.files[0];
    let seen = &observed.paths[&config.path];
    assert_eq!(
        (seen.sha256.as_str(), seen.mode, seen.owner.as_str()),
        (&*sha256(b"plain"), 0o640, "consul")
    );
    let seen = &observed.paths[&node.layout.consul_data];
    assert_eq!((seen.sha256.as_str(), seen.mode), ("", 0o750));
    assert_eq!(
        observed.paths[&node.spec.binaries[0].path].sha256,
        sha256(AGENT.as_bytes())
    );
    assert_eq!(observed.users, [Owner::Consul]);
    assert_eq!(observed.daemons[&Product::Consul].pid, None);

    // A second write replaces the file and leaves nothing beside it.
    let other = file(&config.path, "other\0bytes", 0o600, Owner::Consul);
    node.host.write(&[&other]).await.unwrap();
    let seen = &node.observe().await.paths[&config.path];
    assert_eq!(
        (seen.sha256.as_str(), seen.mode),
        (&*sha256(b"other\0bytes"), 0o600)
    );
    assert_eq!(fs::read_dir(&node.layout.consul_config).unwrap().count(), 1);

    node.host
        .remove(std::slice::from_ref(&config.path))
        .await
        .unwrap();
    assert!(!node.observe().await.paths.contains_key(&config.path));
    let error = node
        .host
        .remove(&["/etc/hostname".to_owned()])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("lies outside"), "{error}");
    let missing = file(&format!("{}/no/x", node.layout.run), "", 0o600, Owner::Root);
    let error = node.host.write(&[&missing]).await.unwrap_err().to_string();
    assert!(
        error.contains("nomad-client-0: ") && error.contains("there is no folder"),
        "{error}"
    );
}

#[tokio::test]
async fn a_daemon_starts_reloads_and_stops() {
    let node = Fixture::new("plain").await;
    node.host.start(node.daemon()).await.unwrap();
    let pid = node.pid().await.unwrap();
    node.host.start(node.daemon()).await.unwrap();
    assert_eq!(node.pid().await, Some(pid), "a second start does nothing");

    // Of its own session, and with nothing of ours open.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat
        .rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .nth(3)
        .unwrap()
        .to_owned();
    let own = fs::read_to_string("/proc/self/stat").unwrap();
    assert_ne!(
        Some(session.as_str()),
        own.rsplit_once(") ").unwrap().1.split(' ').nth(3)
    );
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        let target = target.to_string_lossy().into_owned();
        let expected = ["/dev/null", "consul.log", "/agent"];
        assert!(
            expected.iter().any(|name| target.ends_with(name)),
            "{target}"
        );
    }

    // Before that it has no trap for the signal.
    node.wait_log("started").await;
    node.host.reload(node.daemon()).await.unwrap();
    node.wait_log("reloaded").await;
    node.host.stop(node.daemon(), PATIENCE).await.unwrap();
    assert!(
        node.host
            .log(Product::Consul, 1)
            .await
            .unwrap()
            .contains("interrupted")
    );
    assert_eq!(node.pid().await, None);
    node.host.stop(node.daemon(), PATIENCE).await.unwrap();
    let error = node.host.reload(node.daemon()).await.unwrap_err();
    assert!(error.to_string().contains("does not run"), "{error}");
}

#[tokio::test]
async fn a_daemon_that_is_deaf_is_killed() {
    let node = Fixture::new("deaf").await;
    node.host.start(node.daemon()).await.unwrap();
    node.wait_log("started").await;
    let begin = Instant::now();
    node.host
        .stop(node.daemon(), Duration::from_millis(300))
        .await
        .unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(node.pid().await, None);
    assert!(
        !node
            .host
            .log(Product::Consul, 9)
            .await
            .unwrap()
            .contains("interrupted")
    );
}

#[tokio::test]
async fn a_daemon_that_ends_at_once_is_reported_with_its_last_words() {
    let node = Fixture::new("bad").await;
    let error = node
        .host
        .start(node.daemon())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("consul ended as soon as it was started")
            && error.contains("invalid config key"),
        "{error}"
    );
    assert_eq!(node.pid().await, None);
}

#[tokio::test]
async fn a_pid_file_that_names_something_else_counts_for_nothing() {
    let node = Fixture::new("plain").await;
    let ours = std::process::id();
    for content in [
        ours.to_string(),
        "4194303".to_owned(),
        "nonsense".to_owned(),
        "1 2".to_owned(),
        String::new(),
    ] {
        fs::write(format!("{}/consul.pid", node.layout.run), &content).unwrap();
        assert_eq!(node.pid().await, None, "{content}");
        // Must not harm the process that has the number now: this test, in the first round.
        node.host.stop(node.daemon(), PATIENCE).await.unwrap();
    }
    fs::write(format!("{}/consul.pid", node.layout.run), ours.to_string()).unwrap();
    node.host.start(node.daemon()).await.unwrap();
    assert!(node.pid().await.is_some_and(|pid| pid != ours));
    node.host.stop(node.daemon(), PATIENCE).await.unwrap();
}

#[tokio::test]
async fn stamps_are_kept() {
    let node = Fixture::new("plain").await;
    let stamps = Stamps {
        restart: Some("r1".into()),
        reload: Some("l1".into()),
    };
    node.host.stamp(Product::Consul, &stamps).await.unwrap();
    assert_eq!(
        node.observe().await.daemons[&Product::Consul].stamps,
        stamps
    );
    let stamps = Stamps {
        restart: Some("r2".into()),
        reload: None,
    };
    node.host.stamp(Product::Consul, &stamps).await.unwrap();
    assert_eq!(
        node.observe().await.daemons[&Product::Consul].stamps,
        stamps
    );
}

#[tokio::test]
async fn preflight_tells_foreign_data_and_taken_ports() {
    let node = Fixture::new("plain").await;
    let listener = std::net::TcpListener::bind("127.0.34.1:0").unwrap();
    let elsewhere = std::net::TcpListener::bind("127.0.34.2:0").unwrap();
    let port = |listener: &std::net::TcpListener| listener.local_addr().unwrap().port();
    let ask = Preflight {
        cluster_id: "ours".into(),
        ports: vec![port(&listener), port(&elsewhere)],
    };
    let facts = node.host.preflight(&node.spec, &ask).await.unwrap();
    assert_eq!(
        facts
            .ports_taken
            .iter()
            .map(|taken| taken.port)
            .collect::<Vec<_>>(),
        [port(&listener)]
    );
    assert_eq!(
        (
            facts.clock_skew_ms,
            facts.has_address,
            facts.missing_tools.len()
        ),
        (0, true, 0),
        "{facts:?}"
    );
    assert!(facts.free_disk_bytes > 0);
    assert_eq!(
        (facts.cluster_id.as_deref(), &facts.foreign),
        (None, &vec![node.layout.consul_config.clone()])
    );

    node.host.claim("ours").await.unwrap();
    node.host.claim("ours").await.unwrap();
    let facts = node.host.preflight(&node.spec, &ask).await.unwrap();
    assert_eq!(
        (facts.cluster_id.as_deref(), facts.foreign.len()),
        (Some("ours"), 0)
    );
    let error = node.host.claim("theirs").await.unwrap_err().to_string();
    assert!(
        error.contains("belongs to the cluster ours, not to theirs"),
        "{error}"
    );
}

#[tokio::test]
async fn a_wipe_takes_what_is_ours_alone() {
    let node = Fixture::new("plain").await;
    let data = PathBuf::from(&node.layout.consul_data).join("raft");
    fs::create_dir(&data).unwrap();
    let error = node
        .host
        .wipe(Wipe::Everything)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("may not be ours"), "{error}");
    node.host.claim("ours").await.unwrap();
    node.host.start(node.daemon()).await.unwrap();
    let error = node
        .host
        .wipe(Wipe::Everything)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("still runs"), "{error}");
    assert!(data.exists());
    node.host.stop(node.daemon(), PATIENCE).await.unwrap();

    node.host.wipe(Wipe::Data(Product::Consul)).await.unwrap();
    assert!(!data.exists());
    assert!(PathBuf::from(&node.spec.files[0].path).exists());
    node.host.wipe(Wipe::Everything).await.unwrap();
    assert!(
        [
            &node.layout.consul_config,
            &node.layout.consul_data,
            &node.layout.run
        ]
        .iter()
        .all(|path| !PathBuf::from(path).exists())
    );
    assert!(PathBuf::from(&node.spec.binaries[0].path).exists());
    node.host.wipe(Wipe::Everything).await.unwrap();
}

#[tokio::test]
async fn tasks_left_by_a_nomad_client_are_ended() {
    let node = Fixture::new("plain").await;
    let data = &node.layout.nomad_data;
    fs::create_dir_all(format!("{data}/alloc")).unwrap();
    assert_eq!(node.host.stop_tasks(PATIENCE).await.unwrap(), 0);
    // Its command line is what Nomad gives its executors; the task below it has none of that.
    let program = node.dir.path().join("nomad");
    fs::write(&program, "#!/bin/sh\nsleep 1000 &\nwait\nsleep 1000\n").unwrap();
    let mut executor = std::process::Command::new("sh")
        .arg(&program)
        .args([
            "executor",
            &format!("{{\"LogFile\":\"{data}/alloc/x/executor.out\"}}"),
        ])
        .spawn()
        .unwrap();
    let mut bystander = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", executor.id());
    wait_until("the task of the executor", || {
        !fs::read_to_string(&children).unwrap().is_empty()
    });
    let reaper = std::thread::spawn(move || executor.wait().unwrap());
    let ended = node.host.stop_tasks(Duration::from_secs(1)).await.unwrap();
    assert_eq!(ended, 2);
    reaper.join().unwrap();
    assert!(bystander.try_wait().unwrap().is_none());
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}
