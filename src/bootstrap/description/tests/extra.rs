//! `extra`: what may stand there, and what lb decides itself.

use serde_json::{Value, json};

use super::{THREE_LINES, good, names, read};
use crate::bootstrap::topology::Product;

#[test]
fn it_is_read_as_written_wherever_it_stands() {
    let text = format!(
        "{THREE_LINES}{}",
        r#"
[consul]
extra = { log_level = "WARN", limits = { rpc_rate = 1.5, http_max_conns_per_client = 400 } }

[nomad.extra.telemetry]
collection_interval = "5s"

[clients.extra.client]
node_class = "web"
reserved = { memory = 1_024 }

[clients.extra.client.host_volume.data]
path = "/srv"
read_only = false
"#
    )
    .replace(
        "\"10.0.0.19\"",
        "{ address = \"10.0.0.19\", extra = { nomad = { client = { node_class = \"gpu\" } }, consul = { log_level = \"DEBUG\" } } }",
    );
    let cluster = good(&text);
    assert_eq!(names(&cluster).len(), 9);
    let of = |name: &str, product| {
        let node = cluster.nodes.iter().find(|node| node.name == name);
        Value::Object(cluster.extra(node.unwrap(), product))
    };
    let limits = json!({ "rpc_rate": 1.5, "http_max_conns_per_client": 400 });
    assert_eq!(
        of("consul-0", Product::Consul),
        json!({ "log_level": "WARN", "limits": limits })
    );
    assert_eq!(
        of("nomad-client-2", Product::Consul),
        json!({ "log_level": "DEBUG", "limits": limits })
    );
    assert_eq!(
        of("nomad-server-0", Product::Nomad),
        json!({ "telemetry": { "collection_interval": "5s" } })
    );
    let client = |class: &str| {
        json!({
            "telemetry": { "collection_interval": "5s" },
            "client": {
                "node_class": class,
                "reserved": { "memory": 1024 },
                "host_volume": { "data": { "path": "/srv", "read_only": false } },
            },
        })
    };
    assert_eq!(of("nomad-client-0", Product::Nomad), client("web"));
    assert_eq!(of("nomad-client-2", Product::Nomad), client("gpu"));
}

#[test]
fn what_lb_decides_is_a_mistake_with_its_line() {
    for (section, extra, key) in [
        ("consul", "acl = { enabled = false }", "consul.extra.acl"),
        ("consul", "ACL = { enabled = false }", "consul.extra.ACL"),
        (
            "consul",
            "acl_default_policy = \"allow\"",
            "acl_default_policy",
        ),
        ("consul", "addresses = { http = \"0.0.0.0\" }", "addresses"),
        ("consul", "bind_addr = \"0.0.0.0\"", "bind_addr"),
        ("consul", "advertise_addr = \"10.0.0.1\"", "advertise_addr"),
        ("consul", "bootstrap_expect = 1", "bootstrap_expect"),
        ("consul", "data_dir = \"/tmp\"", "data_dir"),
        ("consul", "datacenter = \"x\"", "datacenter"),
        ("consul", "encrypt = \"x\"", "encrypt"),
        (
            "consul",
            "encrypt_verify_incoming = false",
            "encrypt_verify_incoming",
        ),
        ("consul", "node_name = \"x\"", "node_name"),
        ("consul", "ports = { http = 8500 }", "ports"),
        ("consul", "retry_join = [\"x\"]", "retry_join"),
        ("consul", "server = true", "server"),
        (
            "consul",
            "tls = { defaults = { verify_incoming = false } }",
            "tls",
        ),
        ("consul", "verify_incoming = false", "verify_incoming"),
        (
            "consul",
            "verify_incoming_rpc = false",
            "verify_incoming_rpc",
        ),
        ("nomad", "acl = { enabled = false }", "acl"),
        ("nomad", "advertise = { http = \"x\" }", "advertise"),
        ("nomad", "bind_addr = \"x\"", "bind_addr"),
        (
            "nomad",
            "consul = { token = \"x\" }",
            "nomad.extra.consul.token",
        ),
        ("nomad", "consul = { ssl = false }", "consul.ssl"),
        ("nomad", "data_dir = \"x\"", "data_dir"),
        ("nomad", "name = \"x\"", "name"),
        ("nomad", "ports = { http = 1 }", "ports"),
        ("nomad", "region = \"x\"", "region"),
        (
            "nomad",
            "server = { bootstrap_expect = 1 }",
            "server.bootstrap_expect",
        ),
        ("nomad", "server = { encrypt = \"x\" }", "server.encrypt"),
        (
            "nomad",
            "server = { server_join = { retry_join = [] } }",
            "server.server_join",
        ),
        ("nomad", "server = true", "nomad.extra.server"),
        ("nomad", "tls = { http = false }", "tls"),
        ("clients", "client = { enabled = false }", "client.enabled"),
        (
            "clients",
            "client = { meta = { lb_bin = \"/x\" } }",
            "client.meta.lb_bin",
        ),
        (
            "clients",
            "client = { servers = [] }",
            "clients.extra.client.servers",
        ),
    ] {
        let text = format!("{THREE_LINES}\n[{section}]\n# a line\nextra = {{ {extra} }}\n");
        let said = read(&text).unwrap_err();
        assert_eq!(said.len(), 1, "{extra}: {said:?}");
        assert!(
            said[0].contains(key) && said[0].contains(":7"),
            "{extra}: {said:?}"
        );
    }
    // Of one node, and what is not a table at all.
    for (node, parts) in [
        (
            "extra = { consul = { server = true } }",
            &["nomad_clients[2].extra.consul.server"][..],
        ),
        (
            "extra = { vault = { } }",
            &["extra.vault", "neither consul nor nomad"],
        ),
        ("extra = 3", &["nomad_clients[2].extra", "is not a table"]),
    ] {
        let node = format!("{{ address = \"10.0.0.19\", {node} }}");
        let said = read(&THREE_LINES.replace("\"10.0.0.19\"", &node)).unwrap_err();
        assert_eq!(said.len(), 1, "{node}: {said:?}");
        for part in parts {
            assert!(said[0].contains(part), "{node}: {said:?}");
        }
    }
    let said = read(&format!("{THREE_LINES}\n[consul]\nextra = 3\n")).unwrap_err();
    assert!(
        said[0].contains("consul.extra") && said[0].contains("is not a table"),
        "{said:?}"
    );
}
