//! The folder as a whole: what is made once, what is taken up again, and what is refused.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;
use crate::bootstrap::security::pki::tests::cluster;
use crate::bootstrap::security::pki::{self, Authority};
use crate::bootstrap::topology::{Cluster, Product, Scope};

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A state with everything in it, of a cluster that exists.
pub(crate) fn full() -> (TempDir, State, Cluster) {
    filled(|_| {})
}

/// The same, as it was before there were intermediates.
fn full_of_one_ca() -> (TempDir, State, Cluster) {
    filled(|state| {
        let ca = Authority::create(now()).unwrap();
        fs::write(state.path("ca-key.pem"), ca.key_pem().reveal()).unwrap();
        fs::write(state.path("ca.pem"), ca.cert_pem()).unwrap();
    })
}

fn filled(before: fn(&State)) -> (TempDir, State, Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("state");
    let mut state = State::create(&dir).unwrap();
    before(&state);
    let cluster = cluster(dir);
    let authority = state.ensure_authorities(None, now()).unwrap();
    state.ensure_pairs(&cluster, &authority, now()).unwrap();
    state.ensure_gossip().unwrap();
    state
        .save_cluster(&Applied::of(&cluster, Scope::All, None, now()))
        .unwrap();
    (folder, state, cluster)
}

#[test]
fn a_folder_of_other_things_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("thesis.txt");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    for error in [
        State::create(folder.path()).unwrap_err(),
        State::open_read_only(folder.path()).unwrap_err(),
    ] {
        assert!(
            error
                .to_string()
                .contains("not the state folder of a cluster"),
            "{error}"
        );
    }
    assert_eq!(mode(&file), 0o644);
    fs::remove_file(&file).unwrap();
    State::create(folder.path()).unwrap();
}

#[test]
fn a_folder_behind_a_link_is_removed_with_what_it_holds() {
    let (folder, state, _) = full();
    drop(state);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("state", &link).unwrap();
    State::open(&link).unwrap().unwrap().remove().unwrap();
    assert!(!folder.path().join("state").exists() && fs::symlink_metadata(&link).is_err());
}

#[test]
fn a_ca_that_has_expired_can_be_changed() {
    let (_folder, mut state, cluster) = full();
    let later = now() + Duration::from_secs(11 * 365 * 86_400);
    let rotation = state.begin_authority_rotation(None, None, later).unwrap();
    assert_eq!(rotation.step, RotationStep::NewLeaves);
    let authority = state.ensure_authorities(None, later).unwrap();
    assert!(
        !state
            .ensure_pairs(&cluster, &authority, later)
            .unwrap()
            .made
            .is_empty()
    );
    assert!(state.due_pairs(&cluster, later).unwrap().is_empty());
}

fn cut(text: &str, unwanted: &str) -> bool {
    !text.contains(unwanted)
}

#[test]
fn the_second_run_makes_nothing() {
    let (_folder, mut state, cluster) = full();
    let (shared, issued) = (
        state.shared().unwrap(),
        state.pairs(&cluster).unwrap().unwrap(),
    );
    assert_eq!(state.due_pairs(&cluster, now()).unwrap(), []);
    let authority = state.ensure_authorities(None, now()).unwrap();
    let again = state.ensure_pairs(&cluster, &authority, now()).unwrap();
    assert_eq!(again.made, []);
    assert_eq!(again, issued);
    state.ensure_gossip().unwrap();
    assert_eq!(state.shared().unwrap(), shared);
    assert_ne!(shared.consul_gossip, shared.nomad_gossip);
    assert!(
        issued.nodes["consul-0"].nomad.is_none() && issued.nodes["nomad-client-0"].nomad.is_some()
    );
    let keys: BTreeSet<_> = issued
        .nodes
        .values()
        .map(|pairs| pairs.consul.key.reveal())
        .collect();
    assert_eq!(keys.len(), 3, "no key is shared");
}

#[test]
fn one_writer_whose_process_is_named_and_any_readers() {
    let (_folder, state, _) = full();
    let error = State::open(state.dir()).unwrap_err().to_string();
    assert!(
        error.contains(&format!("process {} is at work", std::process::id())),
        "{error}"
    );
    let mut reader = State::open_read_only(state.dir()).unwrap().unwrap();
    assert!(reader.shared().is_ok());
    assert!(
        reader
            .put("env", b"x")
            .unwrap_err()
            .chain()
            .any(|it| it.to_string().contains("reading only"))
    );
    let dir = state.dir().to_owned();
    drop(state);
    assert!(State::open(&dir).unwrap().is_some());
    assert!(State::open(&dir.join("none")).unwrap().is_none());
    assert!(
        State::open(&dir.join("ca.pem"))
            .unwrap_err()
            .to_string()
            .contains("not a folder")
    );
}

#[test]
fn modes_are_private_and_put_right() {
    let (_folder, state, _) = full();
    let (dir, key) = (
        state.dir().to_owned(),
        state.path("certs/consul-0/consul-key.pem"),
    );
    assert_eq!(
        (mode(&dir), mode(&dir.join("certs/consul-0")), mode(&key)),
        (0o700, 0o700, 0o600)
    );
    for name in ["ca-key.pem", "gossip.json", "cluster.json", "lock"] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
    drop(state);
    fs::create_dir_all(dir.join("nodes")).unwrap();
    for (path, loose) in [(&dir, 0o755), (&key, 0o644), (&dir.join("nodes"), 0o755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(loose)).unwrap();
    }
    let state = State::open(&dir).unwrap().unwrap();
    assert_eq!(
        (mode(&dir), mode(&key), mode(&dir.join("nodes"))),
        (0o700, 0o600, 0o755)
    );
    assert_eq!(state.notes().len(), 2, "{:?}", state.notes());
    assert!(
        state.notes()[1].contains("consul-key.pem") && state.notes()[1].contains("644"),
        "{:?}",
        state.notes()
    );
}

#[test]
fn what_a_live_cluster_lost_is_not_made_again() {
    for (fill, lost, expected) in [
        (
            full_of_one_ca as fn() -> _,
            "ca-key.pem",
            "CA key of a live cluster",
        ),
        (full, "consul-ca-key.pem", "CA key of a live cluster"),
        (full, "nomad-ca-key.pem", "CA key of a live cluster"),
        (full, "ca.pem", "CA of a live cluster"),
    ] {
        let (_folder, mut state, cluster) = fill();
        fs::remove_file(state.path(lost)).unwrap();
        let error = state
            .ensure_authorities(None, now())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(expected) && error.contains("backup"),
            "{error}"
        );
        assert!(
            state.pairs(&cluster).unwrap().is_some(),
            "what needs no key goes on"
        );
    }
    // Without its own CA a program must not fall back to what both would trust.
    let (_folder, state, cluster) = full();
    fs::remove_file(state.path("nomad-ca.pem")).unwrap();
    let error = state.shared().unwrap_err().to_string();
    assert!(
        error.contains("nomad-ca.pem is missing") && state.due_pairs(&cluster, now()).is_err(),
        "{error}"
    );
    let (_folder, mut state, cluster) = full();
    fs::remove_file(state.path("consul-ca-key.pem")).unwrap();
    assert_eq!(state.due_pairs(&cluster, now()).unwrap(), []);
    fs::remove_file(state.path("gossip.json")).unwrap();
    let error = state.ensure_gossip().unwrap_err().to_string();
    assert!(
        error.contains("gossip keys of a live cluster are lost"),
        "{error}"
    );
    // The form that the message tells to write is one that is read.
    let form = r#"{"version":1,"consul":{"current":"KEY"},"nomad":{"current":"KEY"}}"#;
    assert!(error.contains(form), "{error}");
    fs::write(
        state.path("gossip.json"),
        form.replace("KEY", GossipKeys::key().unwrap().reveal()),
    )
    .unwrap();
    state.ensure_gossip().unwrap();
}

#[test]
fn a_passphrase_locks_the_key_for_good() {
    let (_folder, mut state, cluster) = full();
    let (right, wrong) = (Secret::new("correct horse"), Secret::new("other"));
    let before = state.ensure_authorities(None, now()).unwrap();
    assert_eq!(state.is_key_encrypted().unwrap(), Some(false));
    state.ensure_authorities(Some(&right), now()).unwrap();
    assert_eq!(state.is_key_encrypted().unwrap(), Some(true));
    let error = state
        .ensure_authorities(None, now())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("--passphrase-file") && error.contains("LB_BOOTSTRAP_PASSPHRASE"),
        "{error}"
    );
    let error = format!(
        "{:#}",
        state.ensure_authorities(Some(&wrong), now()).unwrap_err()
    );
    assert!(
        error.contains("wrong passphrase") && cut(&error, "other"),
        "{error}"
    );
    let after = state.ensure_authorities(Some(&right), now()).unwrap();
    assert_eq!(after.consul.key_pem(), before.consul.key_pem());
    assert_eq!(
        state.due_pairs(&cluster, now()).unwrap(),
        [],
        "no passphrase is needed when nothing is due"
    );
    assert!(
        state
            .begin_authority_rotation(None, Some(&wrong), now())
            .is_err()
    );
    for name in ["ca-key.pem", "consul-ca-key.pem", "nomad-ca-key.pem"] {
        let openssl = std::process::Command::new("openssl")
            .args(["pkey", "-noout", "-passin", "pass:correct horse", "-in"])
            .arg(state.path(name))
            .status();
        let text = fs::read_to_string(state.path(name)).unwrap();
        assert!(
            openssl.unwrap().success() && text.contains("ENCRYPTED"),
            "{name}"
        );
    }
}

#[test]
fn a_run_killed_between_two_files_is_taken_up() {
    // Nothing was signed with a CA key that has no certificate.
    let folder = tempfile::tempdir().unwrap();
    let mut state = State::create(folder.path()).unwrap();
    fs::write(
        state.path("ca-key.pem"),
        Authority::create(now()).unwrap().key_pem().reveal(),
    )
    .unwrap();
    fs::write(state.path("ca.pem.new"), "half").unwrap();
    let authority = state.ensure_authorities(None, now()).unwrap();
    let cluster = cluster(folder.path().to_owned());
    let issued = state.ensure_pairs(&cluster, &authority, now()).unwrap();
    assert_eq!(issued.made.len(), 10);
    // A new key beside the old certificate.
    let foreign = authority
        .consul
        .issue(&pki::Subject::lb(), 1, now())
        .unwrap();
    fs::write(state.path("certs/lb-key.pem"), foreign.key.reveal()).unwrap();
    fs::remove_file(state.path("certs/nomad-server-0/nomad.pem")).unwrap();
    let made = state
        .ensure_pairs(&cluster, &authority, now())
        .unwrap()
        .made;
    let made: Vec<_> = made
        .iter()
        .map(|made| (made.what.as_str(), made.reason.as_str()))
        .collect();
    assert_eq!(
        made,
        [
            ("nomad-server-0/nomad", "missing"),
            ("lb", "the key is another's")
        ]
    );
    state.forget_node("consul-0").unwrap();
    assert_eq!(
        state.due_pairs(&cluster, now()).unwrap()[0].what,
        "consul-0/consul"
    );
}

#[test]
fn a_leaf_rotation_renews_each_once() {
    let (_folder, mut state, cluster) = full();
    let later = now() + Duration::from_secs(60);
    let authority = state.ensure_authorities(None, later).unwrap();
    state.begin_leaf_rotation(later).unwrap();
    assert!(state.begin_authority_rotation(None, None, later).is_err());
    let reasons: Vec<_> = state
        .due_pairs(&cluster, later)
        .unwrap()
        .into_iter()
        .map(|made| made.reason)
        .collect();
    assert_eq!(reasons, ["rotation"; 10]);
    // Taken up by another run.
    state
        .begin_leaf_rotation(later + Duration::from_secs(60))
        .unwrap();
    assert_eq!(
        state
            .ensure_pairs(&cluster, &authority, later)
            .unwrap()
            .made
            .len(),
        10
    );
    assert_eq!(state.due_pairs(&cluster, later).unwrap(), []);
    assert_eq!(state.advance_rotation().unwrap(), None);
    assert_eq!(state.rotation().unwrap(), None);
    assert_eq!(state.due_pairs(&cluster, later).unwrap(), []);
}

#[test]
fn a_change_of_the_ca_trusts_both_in_between_and_survives_a_kill_at_each_file() {
    for fill in [full, full_of_one_ca] {
        let (_folder, mut state, cluster) = fill();
        let signing = |state: &State| {
            PerProduct::try_new(|product| state.signing_cert(product))
                .map(|both| [both.consul.unwrap(), both.nomad.unwrap()])
                .unwrap()
        };
        let trusted = |state: &State| {
            Product::ALL.map(|product| pki::split(&state.trusted(product).unwrap().unwrap()))
        };
        let old = signing(&state);
        let (one_ca, had) = (
            state.is_one_ca().unwrap(),
            state.certificates(&cluster).unwrap().len(),
        );
        assert_eq!((old[0] == old[1], had == 7), (one_ca, one_ca));
        // A run killed before it noted the step leaves files that the next one writes anew.
        fs::write(state.path("next-nomad-ca-key.pem"), "left over").unwrap();
        let left = format!("{}{}", old[0], Authority::create(now()).unwrap().cert_pem());
        fs::write(state.path("consul-ca.pem"), left).unwrap();
        state.begin_authority_rotation(None, None, now()).unwrap();
        let both = trusted(&state);
        for (bundle, old) in both.iter().zip(&old) {
            assert_eq!((bundle.len(), &bundle[0]), (2, old));
        }
        assert_eq!(signing(&state), old);
        let authorities = state.ensure_authorities(None, now()).unwrap();
        let made = state
            .ensure_pairs(&cluster, &authorities, now())
            .unwrap()
            .made;
        let of_one_ca: Vec<_> = made.iter().map(|made| made.what.as_str()).collect();
        assert_eq!(
            of_one_ca,
            match one_ca {
                // The old CA signs until all trust the new one, these as well.
                true => vec![
                    "nomad-server-0/nomad-consul",
                    "nomad-client-0/nomad-consul",
                    "operator-nomad"
                ],
                false => vec![],
            }
        );
        assert_eq!(
            state
                .begin_authority_rotation(None, None, now())
                .unwrap()
                .step,
            RotationStep::BothTrusted
        );
        state.advance_rotation().unwrap();
        let authorities = state.ensure_authorities(None, now()).unwrap();
        for (product, bundle) in Product::ALL.into_iter().zip(&both) {
            assert_eq!(
                pki::describe(authorities.of(product).cert_pem()).unwrap(),
                pki::describe(&bundle[1]).unwrap()
            );
        }
        let made = state
            .ensure_pairs(&cluster, &authorities, now())
            .unwrap()
            .made;
        assert!(
            made.len() == 10
                && made
                    .iter()
                    .all(|made| made.reason == "signed by another CA"),
            "{made:?}"
        );
        // Killed after a key got its final name.
        let next = "next-consul-ca-key.pem";
        fs::rename(state.path(next), state.path("consul-ca-key.pem")).unwrap();
        state.ensure_authorities(None, now()).unwrap();
        // Killed after a bundle was written as well.
        fs::write(state.path("consul-ca.pem"), &both[0][1]).unwrap();
        state.ensure_authorities(None, now()).unwrap();
        assert_eq!(
            state.advance_rotation().unwrap().unwrap().step,
            RotationStep::OldDropped
        );
        assert_eq!(trusted(&state).concat(), [&*both[0][1], &both[1][1]]);
        let root = pki::split(&state.ca_bundle().unwrap().unwrap());
        assert!(root.len() == 1 && !old.contains(&root[0]));
        assert_eq!(state.advance_rotation().unwrap(), None);
        state.ensure_authorities(None, now()).unwrap();
        assert_eq!(state.due_pairs(&cluster, now()).unwrap(), []);
        assert!(!state.is_one_ca().unwrap() && !state.path("next-ca-key.pem").exists());
    }
}

/// By an `lb` of before there were intermediates, and ended by this one.
#[test]
fn a_change_of_the_one_ca_that_was_begun_ends_as_it_began() {
    let (_folder, mut state, cluster) = full_of_one_ca();
    let new = Authority::create(now()).unwrap();
    let both = state.ca_bundle().unwrap().unwrap() + new.cert_pem();
    fs::write(state.path("next-ca-key.pem"), new.key_pem().reveal()).unwrap();
    fs::write(state.path("ca.pem"), both).unwrap();
    let begun = r#"{"version":1,"kind":"authority","step":"both-trusted","started_at":1900000000}"#;
    fs::write(state.path("rotation.json"), begun).unwrap();
    while let Some(_step) = state.advance_rotation().unwrap() {
        let authorities = state.ensure_authorities(None, now()).unwrap();
        let issued = state.ensure_pairs(&cluster, &authorities, now()).unwrap();
        let key_id = pki::describe(new.cert_pem()).unwrap().key_id;
        assert_eq!(
            pki::describe(&issued.lb.cert).unwrap().issuer_key_id,
            key_id
        );
    }
    assert_eq!(state.ca_bundle().unwrap().unwrap(), new.cert_pem());
    assert!(state.is_one_ca().unwrap() && state.due_pairs(&cluster, now()).unwrap().is_empty());
}

#[test]
fn a_ca_that_was_brought_along_signs_the_intermediates_and_its_key_stays_where_it_is() {
    let (_folder, mut state, cluster) = full();
    let brought = Authority::create(now()).unwrap();
    state
        .begin_authority_rotation(Some(&brought), None, now())
        .unwrap();
    while state.advance_rotation().unwrap().is_some() {}
    let authorities = state.ensure_authorities(None, now()).unwrap();
    let issued = state.ensure_pairs(&cluster, &authorities, now()).unwrap();
    assert_eq!(state.ca_bundle().unwrap().unwrap(), brought.cert_pem());
    let root = pki::describe(brought.cert_pem()).unwrap();
    for pem in [&issued.lb.cert, &issued.operator.nomad.cert] {
        let chain = pki::split(pem);
        assert_eq!(pki::describe(&chain[1]).unwrap().issuer_key_id, root.key_id);
    }
}

/// As another tool makes it: a subject of several parts, RSA or ECDSA, its key encrypted or not.
#[test]
fn a_ca_of_another_tool_is_taken_up() {
    use crate::bootstrap::topology::CaFiles;

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let make = |key: &[&str], constraints: &str| {
        let config = format!(
            "[req]\ndistinguished_name = name\nx509_extensions = ca\n[name]\n[ca]\nsubjectKeyIdentifier = hash\n\
             keyUsage = critical, keyCertSign, cRLSign\nbasicConstraints = critical, {constraints}\n"
        );
        fs::write(path("config"), config).unwrap();
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["req", "-x509", "-days", "3650", "-subj"]);
        openssl.args(["/C=DE/O=Example GmbH/OU=Ops/CN=Example Root", "-config"]);
        openssl.arg(path("config"));
        openssl.arg("-keyout").arg(path("key.pem"));
        openssl.arg("-out").arg(path("ca.pem")).args(key);
        let output = openssl.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let files = CaFiles {
        cert: path("ca.pem"),
        key: path("key.pem"),
    };
    let (right, now) = (Secret::new("correct horse"), SystemTime::now());
    let p256 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let usable = "CA:TRUE";
    let encrypt = || {
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-in"]);
        openssl
            .arg(path("key.pem"))
            .arg("-out")
            .arg(path("encrypted"));
        openssl.args(["-passout", "pass:correct horse"]);
        assert!(openssl.status().unwrap().success());
        fs::rename(path("encrypted"), path("key.pem")).unwrap();
    };
    let rsa = ["-newkey", "rsa:2048"];
    for (key, encrypted) in [(&p256[..], false), (&p256, true), (&rsa, false)] {
        make(&[key, &["-nodes"]].concat(), usable);
        if encrypted {
            encrypt();
        }
        let ca = brought_authority(&files, Some(&right)).unwrap();
        let below = ca.intermediate(Product::Consul, now).unwrap();
        let lb = below.issue(&pki::Subject::lb(), 365, now).unwrap();
        fs::write(path("lb.pem"), &lb.cert).unwrap();
        let mut verify = std::process::Command::new("openssl");
        verify.args(["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile"]);
        verify.arg(path("ca.pem")).arg("-untrusted");
        let output = verify
            .args([path("lb.pem"), path("lb.pem")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{key:?}: {output:?}");
    }
    make(&[&p256[..], &["-nodes"]].concat(), usable);
    encrypt();
    let error = format!("{:#}", brought_authority(&files, None).unwrap_err());
    assert!(
        error.contains("key.pem") && error.contains("--passphrase-file"),
        "{error}"
    );
    // One that may sign leaves alone.
    make(&[&p256[..], &["-nodes"]].concat(), "CA:TRUE, pathlen:0");
    let ca = brought_authority(&files, None).unwrap();
    let error = ca
        .intermediate(Product::Nomad, now)
        .unwrap_err()
        .to_string();
    assert!(error.contains("pathlen:0"), "{error}");
    fs::write(path("ca.pem"), "x").unwrap();
    let error = format!("{:#}", brought_authority(&files, None).unwrap_err());
    assert!(error.contains("ca.pem holds no certificate"), "{error}");
}

#[test]
fn records_come_back_and_strange_ones_are_refused() {
    let (_folder, mut state, cluster) = full();
    let token = |name: &str| Token {
        accessor: format!("{name}-id"),
        secret: Secret::new(format!("{name}-hush")),
    };
    let mut tokens = Tokens {
        consul_management: Some(token("root")),
        lb: Some(token("lb")),
        ..Tokens::default()
    };
    tokens.agents.insert("consul-0".to_owned(), token("agent"));
    state.save_tokens(&tokens).unwrap();
    assert_eq!(state.tokens().unwrap(), tokens);
    assert!(cut(&format!("{tokens:?}"), "hush"));
    assert_eq!(
        state.shared().unwrap().lb_consul_token.unwrap().reveal(),
        "lb-hush"
    );
    let mut gossip = state.gossip().unwrap().unwrap();
    gossip.nomad.next = Some(NextKey {
        key: GossipKeys::key().unwrap(),
        step: GossipStep::Use,
    });
    state.save_gossip(&gossip).unwrap();
    assert_eq!(state.gossip().unwrap().unwrap(), gossip);
    gossip.consul.current = Secret::new("c2hvcnQ=");
    assert!(
        state
            .save_gossip(&gossip)
            .unwrap_err()
            .to_string()
            .contains("16, 24 or 32")
    );
    let first = state.cluster().unwrap().unwrap();
    let again = Applied::of(
        &cluster,
        Scope::ConsulOnly,
        Some(&first),
        now() + Duration::from_secs(9),
    );
    assert_eq!((&again.id, again.created_at), (&first.id, first.created_at));
    assert!(
        !again.consul_only,
        "a run about Consul alone takes no Nomad away"
    );
    let alone = Applied::of(&cluster, Scope::ConsulOnly, None, now());
    assert!(
        alone.consul_only && !Applied::of(&cluster, Scope::All, Some(&alone), now()).consul_only
    );
    // Saved before it was used, by a run that was killed in between.
    let chosen = Token {
        accessor: String::new(),
        secret: Secret::new("hush"),
    };
    let chosen = Tokens {
        nomad_management: Some(chosen),
        ..tokens.clone()
    };
    assert_eq!(chosen.management(Product::Nomad), None);
    assert_eq!(
        chosen.management(Product::Consul).unwrap().reveal(),
        "root-hush"
    );
    for (text, expected) in [
        (r#"{"version": 3}"#, "a newer lb wrote it"),
        (r#"{"version": 1, "agents": "hush"}"#, "damaged"),
        ("{", "damaged"),
        ("hush", "not a state file"),
    ] {
        fs::write(state.path("tokens.json"), text).unwrap();
        let error = format!("{:#}", state.tokens().unwrap_err());
        assert!(
            error.contains(expected) && error.contains("tokens.json") && cut(&error, "hush"),
            "{text}: {error}"
        );
    }
}
