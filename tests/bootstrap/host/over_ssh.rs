//! The ssh target: a real sshd, and a machine that may be changed.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use lb::bootstrap::nodes::spec::{BinarySpec, DirSpec, NodeSpec, Owner, sha256};
use lb::bootstrap::nodes::{ControlDir, Host, Preflight, Releases, Wipe};
use lb::bootstrap::topology::{BinarySource, Cluster, Product, Runner, Ssh, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{AGENT, agent, cluster, file};
use crate::support::sshd::{Keys, Machine, Network, Sshd, is_possible};
use crate::support::wait::PATIENCE;

const ALIAS: &str = "the-machine";

fn over_ssh(config: &str, address: &str) -> Cluster {
    let options = vec!["-F".to_owned(), config.to_owned()];
    let ssh = Ssh {
        options,
        sudo: false,
        parallel: 4,
        runner: Runner::Process,
    };
    cluster(
        "/nowhere".as_ref(),
        Target::Ssh(ssh),
        address,
        Some(ALIAS.to_owned()),
    )
}

#[tokio::test]
async fn streams_open_as_the_node_sees_them_and_refusals_are_told() {
    if !is_possible("streams_open_as_the_node_sees_them", &["ssh", "sshd"]) {
        return;
    }
    let keys = Keys::make();
    let listen = "127.0.34.3:2234".parse().unwrap();
    let sshd = Sshd::start(&keys, listen);
    let config = keys.client(&[(ALIAS, listen)]);
    let cluster = over_ssh(&config, "127.0.34.3");
    let host = Host::new(&cluster, &cluster.nodes[0], &ControlDir::create().unwrap());
    let ask = Preflight {
        cluster_id: "x".into(),
        ports: vec![2234],
    };
    let facts = host.preflight(&NodeSpec::default(), &ask).await.unwrap();
    assert_eq!(
        (facts.os.as_str(), facts.has_address, facts.clock_skew_ms),
        ("linux", true, 0)
    );
    assert_eq!(facts.ports_taken.len(), 1, "{facts:?}");

    let listener = tokio::net::TcpListener::bind("127.0.34.4:0").await.unwrap();
    let mut stream = host
        .dialer()
        .connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    stream.write_all(b"ping").await.unwrap();
    stream.flush().await.unwrap();
    let (mut peer, _) = listener.accept().await.unwrap();
    let mut bytes = [0; 4];
    peer.read_exact(&mut bytes).await.unwrap();
    peer.write_all(b"pong").await.unwrap();
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"pong");
    drop(peer);
    assert_eq!(stream.read(&mut bytes).await.unwrap(), 0);

    let mut refused = host
        .dialer()
        .connect("127.0.34.4:1".parse().unwrap())
        .await
        .unwrap();
    let error = refused.read(&mut bytes).await.unwrap_err();
    assert!(
        error.to_string().contains("refused") || error.to_string().contains("failed"),
        "{error:?}"
    );

    // A host that is not there, and one whose key is another: each in ssh's own words.
    drop(sshd);
    let host = Host::new(&cluster, &cluster.nodes[0], &ControlDir::create().unwrap());
    let error = format!("{:#}", host.log(Product::Consul, 1).await.unwrap_err());
    assert!(
        error.contains("nomad-client-0: no connection by ssh")
            && error.contains("Connection refused"),
        "{error}"
    );
    let others = Keys::make();
    let _sshd = Sshd::start(&others, listen);
    let error = format!("{:#}", host.log(Product::Consul, 1).await.unwrap_err());
    assert!(error.contains("Host key verification failed"), "{error}");
}

#[tokio::test]
async fn a_machine_is_furnished() {
    if !is_possible(
        "a_machine_is_furnished",
        &["ssh", "sshd", "ip", "unshare", "nsenter"],
    ) {
        return;
    }
    let keys = Keys::make();
    let network = Network::make("lbh34", "10.88.34.1/24");
    let machine = Machine::start(&network, &keys, 1, "10.88.34.11/24");
    let config = keys.client(&[(ALIAS, machine.address)]);
    let cluster = over_ssh(&config, "10.88.34.11");
    let layout = cluster.layout(&cluster.nodes[0]);
    let host = Host::new(&cluster, &cluster.nodes[0], &ControlDir::create().unwrap());

    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("agent");
    fs::write(&source, AGENT).unwrap();
    let program = "/usr/local/bin/lb-test-agent";
    let spec = NodeSpec {
        users: vec![Owner::Consul],
        directories: [
            (&layout.consul_config, 0o750),
            (&layout.consul_data, 0o750),
            (&layout.run, 0o755),
        ]
        .map(|(path, mode)| DirSpec {
            path: path.clone(),
            mode,
            owner: Owner::Consul,
        })
        .to_vec(),
        binaries: vec![BinarySpec {
            name: "lb-test-agent".to_owned(),
            path: program.to_owned(),
            source: BinarySource::File(source.clone()),
            sha256: None,
        }],
        files: vec![file(
            "/etc/consul.d/agent.hcl",
            "plain",
            0o640,
            Owner::Consul,
        )],
        daemons: vec![agent(program, &layout.consul_config)],
        ..NodeSpec::default()
    };
    let ask = Preflight {
        cluster_id: "ours".into(),
        ports: vec![8501],
    };
    let facts = host.preflight(&spec, &ask).await.unwrap();
    assert_eq!(
        (
            facts.has_address,
            facts.foreign.len(),
            facts.ports_taken.len()
        ),
        (true, 0, 0),
        "{facts:?}"
    );
    assert!(facts.missing_tools.is_empty(), "{facts:?}");

    host.claim("ours").await.unwrap();
    host.ensure_users(&spec.users).await.unwrap();
    host.ensure_users(&spec.users).await.unwrap();
    host.ensure_directories(&spec.directories).await.unwrap();
    host.write(&spec.files.iter().collect::<Vec<_>>())
        .await
        .unwrap();
    let releases = Releases::new(&cluster);
    let sum = host.install(&spec.binaries[0], &releases).await.unwrap();
    assert_eq!(sum, sha256(AGENT.as_bytes()));
    let installed = fs::metadata(machine.file(program)).unwrap();
    assert_eq!(
        (installed.permissions().mode() & 0o777, installed.uid()),
        (0o755, 0)
    );
    host.install(&spec.binaries[0], &releases).await.unwrap();
    assert_eq!(
        fs::metadata(machine.file(program)).unwrap().ino(),
        installed.ino(),
        "not copied twice"
    );
    assert!(
        !std::path::Path::new(program).exists(),
        "this machine is left alone"
    );

    // Seen twice, so that the remembered sum is read, too.
    for _ in 0..2 {
        let observed = host.observe(&spec).await.unwrap();
        assert_eq!(observed.users, [Owner::Consul]);
        let seen = &observed.paths["/etc/consul.d/agent.hcl"];
        assert_eq!(
            (seen.mode, seen.owner.as_str(), seen.sha256.as_str()),
            (0o640, "consul", &*sha256(b"plain"))
        );
        assert_eq!(
            (
                observed.paths["/opt/consul"].mode,
                observed.paths["/opt/consul"].owner.as_str()
            ),
            (0o750, "consul")
        );
        assert_eq!(observed.paths[program].sha256, sum);
    }

    let daemon = &spec.daemons[0];
    host.start(daemon).await.unwrap();
    assert!(
        host.observe(&spec).await.unwrap().daemons[&Product::Consul]
            .pid
            .is_some()
    );
    assert!(
        host.log(Product::Consul, 9)
            .await
            .unwrap()
            .contains("started as consul")
    );
    // Copied over while it runs.
    fs::write(&source, format!("{AGENT}# next\n")).unwrap();
    assert_ne!(
        host.install(&spec.binaries[0], &releases).await.unwrap(),
        sum
    );
    let mut foreign = b"\x7fELF\x02\x01\x01".to_vec();
    foreign.resize(64, 0);
    foreign[18] = 8;
    fs::write(&source, foreign).unwrap();
    let error = host
        .install(&spec.binaries[0], &releases)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("is for another processor"), "{error}");
    host.stop(daemon, PATIENCE).await.unwrap();
    assert_eq!(
        host.observe(&spec).await.unwrap().daemons[&Product::Consul].pid,
        None
    );
    host.wipe(Wipe::Everything).await.unwrap();
    let observed = host.observe(&spec).await.unwrap();
    assert_eq!(
        observed
            .paths
            .keys()
            .map(String::as_str)
            .collect::<Vec<_>>(),
        [program]
    );
}
