//! What a symptom in a log or a response means, and what to do about it: the catalogue, as a table.
//! Pure.
//!
//! The texts are those of Consul 1.8 to 1.13 and Nomad 1.x to 2.0, as seen on clusters that were
//! broken on purpose.

/// The likely cause of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    /// What is wrong.
    pub text: &'static str,
    /// What to do.
    pub advice: &'static str,
}

/// A symptom is there when every text of one of its sets is found in one line.
struct Row {
    symptoms: &'static [&'static [&'static str]],
    cause: Cause,
}

macro_rules! row {
    ([$([$($text:literal),+]),+], $cause:literal, $advice:literal) => {
        Row { symptoms: &[$(&[$($text),+]),+], cause: Cause { text: $cause, advice: $advice } }
    };
}

/// The more telling ones first: a broken connection has many texts, and the last rows match most of
/// them.
const CATALOGUE: &[Row] = &[
    row!(
        [["No installed keys could decrypt"]],
        "the gossip key of this node is not the cluster's",
        "run `lb bootstrap up`: it writes the key of the state folder; if the state folder is of another cluster, use the right one. \
         A key that a daemon has kept in DATA/serf/*.keyring wins over its configuration: remove that file on the node that is new"
    ),
    row!(
        [
            ["Remote state is encrypted and encryption is not configured"],
            ["Encrypted remote state", "encryption is not configured"],
            ["key size must be 16, 24 or 32 bytes"]
        ],
        "the gossip key is missing or of a wrong length",
        "run `lb bootstrap up` to write the configuration anew; a key is 32 random bytes in base64"
    ),
    row!(
        [
            ["x509: certificate has expired or is not yet valid"],
            ["certificate expired"],
            ["certificate not valid yet"],
            ["CertificateExpired"]
        ],
        "a certificate has expired or is not valid yet, or a clock is wrong",
        "compare the `current time` of the message with a clock; if it is right, run `lb bootstrap rotate-certs`"
    ),
    row!(
        [
            ["x509: certificate signed by unknown authority"],
            ["invalid peer certificate", "UnknownIssuer"],
            ["certificate signed by unknown authority"],
            ["alert", "UnknownCA"]
        ],
        "a certificate is of another CA",
        "run `lb bootstrap up` with the state folder of this cluster; it writes the certificates that its CA signed"
    ),
    row!(
        [
            ["x509: certificate specifies an incompatible key usage"],
            ["unsuitable certificate purpose"]
        ],
        "a certificate lacks client or server authentication among its extended key usages",
        "run `lb bootstrap rotate-certs`: the certificates of agents carry both"
    ),
    row!(
        [
            ["certificate is valid for client.", "not server."],
            ["x509: certificate is valid for", "not server."]
        ],
        "this node runs as a server with the certificate of a client",
        "correct its role in the cluster's description, or run `lb bootstrap rotate-certs` after its role was changed"
    ),
    row!(
        [["invalid role or region for certificate"]],
        "the certificate of this Nomad agent does not name its role and region (server.REGION.nomad, client.REGION.nomad)",
        "run `lb bootstrap rotate-certs`; if the region was renamed, all certificates have to be made anew"
    ),
    row!(
        [
            ["invalid peer certificate", "NotValidForName"],
            ["invalid peer certificate", "not valid for name"]
        ],
        "the certificate that the node serves does not hold the address that the request went to",
        "run `lb bootstrap rotate-certs`: new certificates hold the address of the description"
    ),
    row!(
        [["Non-TLS connection attempted with VerifyIncoming set"]],
        "an agent speaks to Consul's servers without TLS (verify_outgoing is off)",
        "run `lb bootstrap up` to write its configuration anew; the servers' log names the address of the agent"
    ),
    row!(
        [["non-TLS connection attempted with RequireTLS set"]],
        "an agent speaks to Nomad's servers without TLS (tls.rpc is off)",
        "run `lb bootstrap up` to write its configuration anew; the servers' log names the address of the agent"
    ),
    row!(
        [["private key does not match public key"]],
        "certificate and key of this node are not a pair",
        "run `lb bootstrap up`: it writes both anew"
    ),
    row!(
        [
            ["Failed to load cert/key pair", "no such file"],
            ["failed to read cert", "no such file"],
            ["Error loading CA File"],
            ["Failed to load cert/key pair", "permission denied"],
            ["failed to load cert/key pair"]
        ],
        "a certificate or key file is missing or cannot be read by the user that the daemon runs as",
        "run `lb bootstrap up`: it writes the files and sets their owner and mode"
    ),
    row!(
        [["address already in use"], ["Failed to start TCP listener"]],
        "another process has the port",
        "find it with `ss -ltnup`; an agent of an earlier cluster is the usual one. `lb bootstrap down` ends those of this cluster"
    ),
    row!(
        [["cannot assign requested address"]],
        "the address of the description is not an address of this host",
        "compare it with `ip address` on the node"
    ),
    row!(
        [["part of wrong datacenter"]],
        "an agent of another datacenter reaches this cluster",
        "give all nodes the same `datacenter`; end the agent that the message names"
    ),
    row!(
        [
            ["Conflicting address for"],
            ["Name conflict for", "are claiming"]
        ],
        "an agent of this name was seen at another address less than a minute ago",
        "if the old machine still runs, stop it there; then run it again"
    ),
    row!(
        [
            ["conflicts with another node"],
            ["minority in name conflict resolution"],
            ["Node name", "is reserved by node"]
        ],
        "two nodes have the same name",
        "give each node its own name; after a node was made anew on another machine use `lb bootstrap replace-node NAME`"
    ),
    row!(
        [
            ["invalid config key"],
            ["unexpected keys"],
            ["object expected closing RBRACE"],
            ["Error parsing", ".hcl"],
            ["Error loading configuration"]
        ],
        "this version of the program does not understand its configuration",
        "run `lb bootstrap up` with the version that is installed; files that others put into the configuration folder are read as well"
    ),
    row!(
        [
            ["failed to acquire consul self endpoint"],
            ["error discovering nomad servers", "connection refused"]
        ],
        "the Consul agent of this node is down",
        "look at its log; Nomad places no Consul services here until it is back"
    ),
    row!(
        [["keyring has not been initialized yet"]],
        "the client registered before Nomad's leader had made its key; it tries again after 15 to 30 s",
        "wait, or run `lb bootstrap up` once more"
    ),
    row!(
        [
            ["ACL not found"],
            ["Permission denied"],
            ["blocked by ACLs"]
        ],
        "a token is missing, unknown or lacks rights",
        "run `lb bootstrap up`: it makes the tokens that are missing and hands them to the agents"
    ),
    row!(
        [["CertificateRequired"], ["certificate required"]],
        "the node requested a client certificate and got none",
        "use the operator's certificate: `lb bootstrap env` prints the variables"
    ),
    row!(
        [["Client sent an HTTP request to an HTTPS server"]],
        "plain HTTP was spoken to an HTTPS port",
        "use https:// in the address"
    ),
    row!(
        [
            ["server misbehaving"],
            ["InvalidContentType"],
            ["corrupt message"]
        ],
        "what listens on the port does not speak TLS",
        "find it with `ss -ltnp` on the node: an agent that is not of this cluster, or one without TLS"
    ),
    row!(
        [
            ["tls: bad certificate"],
            ["BadCertificate"],
            ["rpc error making call: EOF"]
        ],
        "the servers refuse the certificate of this agent",
        "their log says why: look there for `x509`. `lb bootstrap rotate-certs` makes new ones"
    ),
    row!(
        [
            ["error registering", "session shutdown"],
            ["error registering", "broken pipe"]
        ],
        "Nomad's servers refuse the certificate of this client",
        "their log says why: look there for `failed TLS handshake`. `lb bootstrap rotate-certs` makes new ones"
    ),
    row!(
        [["No known Consul servers"]],
        "the agent has not joined any server",
        "check that it reaches the servers on ports 8300 and 8301, TCP and UDP"
    ),
    row!(
        [["No cluster leader"]],
        "it knows no leader: fewer servers than a majority reach each other, or an election is under way",
        "`lb bootstrap status` shows which servers are away: start those; where none is, wait for the election to end"
    ),
];

/// The first line of a daemon's log.
const STARTS: [&str; 2] = ["==> Starting Consul agent", "==> Starting Nomad agent"];

/// Looks for a known symptom in the end of a node's log, then in the error of its API.
///
/// Newer lines come first: what was wrong an hour ago may have been mended since.
#[must_use]
pub fn find(log: &str, api_error: &str) -> Option<Cause> {
    // What a daemon said before it was started anew may have been mended.
    let from = STARTS
        .iter()
        .filter_map(|start| log.rfind(start))
        .max()
        .unwrap_or(0);
    let log = log.get(from..).unwrap_or(log);
    // An error beats a later line that merely follows from it, hence row by row and not line by
    // line.
    let lines = || log.lines().rev().chain(api_error.lines());
    let found = CATALOGUE
        .iter()
        .find(|row| lines().any(|line| row.is_in(line)));
    found.map(|row| row.cause)
}

impl Row {
    fn is_in(&self, line: &str) -> bool {
        self.symptoms
            .iter()
            .any(|texts| texts.iter().all(|text| line.contains(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_text_has_its_cause() {
        let cases = [
            (
                "[WARN]  agent: (LAN) couldn't join: err=\"Failed to join 127.0.1.11: No installed keys could decrypt the message\"",
                "gossip key of this node",
            ),
            (
                "memberlist: failed to receive: No installed keys could decrypt the message from=127.0.1.14:46112",
                "gossip key of this node",
            ),
            (
                "failed to receive: Remote state is encrypted and encryption is not configured",
                "missing or of a wrong length",
            ),
            (
                "==> Invalid key: key size must be 16, 24 or 32 bytes",
                "missing or of a wrong length",
            ),
            (
                "agent.server.rpc: failed to read byte: error=\"x509: certificate has expired or is not yet valid: current time 2026-11-22T10:00:00Z is after 2026-11-21T10:00:00Z\"",
                "expired",
            ),
            (
                "agent: RPC failed: error=\"x509: certificate signed by unknown authority\"",
                "another CA",
            ),
            (
                "remote error: x509: certificate specifies an incompatible key usage",
                "extended key usages",
            ),
            (
                "error=\"x509: certificate is valid for client.dc1.consul, localhost, not server.dc1.consul\"",
                "certificate of a client",
            ),
            (
                "agent.server.rpc: Non-TLS connection attempted with VerifyIncoming set: conn=from=127.0.1.14:1",
                "without TLS (verify_outgoing",
            ),
            (
                "==> Failed to load cert/key pair: tls: private key does not match public key",
                "not a pair",
            ),
            (
                "==> Failed to load cert/key pair: open /etc/consul.d/key.pem: no such file or directory",
                "missing or cannot be read",
            ),
            (
                "==> listen tcp 127.0.1.11:8501: bind: address already in use",
                "another process has the port",
            ),
            (
                "Failed to create memberlist: Could not set up network transport: failed to obtain an address: Failed to start TCP listener on \"127.0.1.11\" port 8301: listen tcp",
                "another process has the port",
            ),
            (
                "listen tcp 10.0.0.9:8301: bind: cannot assign requested address",
                "not an address of this host",
            ),
            (
                "Member 'consul-9' part of wrong datacenter 'dc9'",
                "another datacenter",
            ),
            (
                "memberlist: Conflicting address for consul-2. Mine: 10.0.0.3:8301 Theirs: 10.0.0.4:8301",
                "another address",
            ),
            (
                "serf: Node name conflicts with another node at 127.0.1.12:8301",
                "same name",
            ),
            (
                "serf: minority in name conflict resolution, quitting [1 / 3]",
                "same name",
            ),
            (
                "==> Error parsing /etc/consul.d/consul.hcl: 1 error occurred: invalid config key tls",
                "does not understand",
            ),
            (
                "object expected closing RBRACE got: EOF",
                "does not understand",
            ),
            ("unexpected keys foo", "does not understand"),
            (
                "nomad.rpc: failed TLS handshake: remote_addr=127.0.1.17:1 error=\"invalid role or region for certificate\"",
                "role and region",
            ),
            (
                "client: error registering: error=\"rpc error: failed to get conn: session shutdown\"",
                "refuse the certificate of this client",
            ),
            (
                "client: error registering: error=\"write: broken pipe\"",
                "refuse the certificate of this client",
            ),
            (
                "client: error discovering nomad servers: error=\"Get https://127.0.1.17:8501/v1/catalog/datacenters: dial tcp: connect: connection refused\"",
                "Consul agent of this node is down",
            ),
            (
                "consul.sync: failed to acquire consul self endpoint",
                "Consul agent of this node is down",
            ),
            (
                "nomad.rpc: non-TLS connection attempted with RequireTLS set: remote_addr=127.0.1.17:1",
                "tls.rpc is off",
            ),
            (
                "error registering: keyring has not been initialized yet",
                "before Nomad's leader",
            ),
            (
                "agent: Node info update blocked by ACLs: node=1 accessorID=",
                "token",
            ),
            ("rpc error making call: ACL not found", "token"),
            ("No known Consul servers", "not joined"),
            ("No cluster leader", "fewer servers than a majority"),
        ];
        for (line, expected) in cases {
            let log = format!("[INFO] agent: Started\n    {line}\n[INFO] agent: and on\n");
            let found = find(&log, "");
            assert!(
                found.is_some_and(|cause| cause.text.contains(expected)),
                "{line}: {found:?}"
            );
            assert_eq!(find("", line), found, "{line}: the same from the API");
        }
    }

    #[test]
    fn answers_have_their_cause() {
        let cases = [
            (
                "https://127.0.1.14:8501/v1/status/leader: 500: rpc error making call: EOF",
                "refuse the certificate of this agent",
            ),
            (
                "https://127.0.1.14:8501: TLS: invalid peer certificate: UnknownIssuer",
                "another CA",
            ),
            (
                "https://127.0.1.14:8501: TLS: received fatal alert: CertificateRequired",
                "got none",
            ),
            (
                "https://127.0.1.14:8501: TLS: received corrupt message of type InvalidContentType",
                "does not speak TLS",
            ),
            (
                "400: Client sent an HTTP request to an HTTPS server.",
                "plain HTTP",
            ),
        ];
        for (answer, expected) in cases {
            let found = find("", answer);
            assert!(
                found.is_some_and(|cause| cause.text.contains(expected)),
                "{answer}: {found:?}"
            );
        }
    }

    #[test]
    fn the_log_that_names_the_cause_beats_the_answer_that_follows_from_it() {
        let log =
            "rpc: x509: certificate has expired or is not yet valid: current time T is after U";
        let found = find(log, "500: rpc error making call: EOF").expect("a cause");
        assert!(found.text.contains("expired"), "{found:?}");
    }

    #[test]
    fn what_was_said_before_the_last_start_is_past() {
        let old = "==> Starting Consul agent...\n[ERROR] memberlist: No installed keys could decrypt the message\n";
        let log = format!(
            "{old}==> Starting Consul agent...\n[ERROR] agent: yamux: remote error: tls: bad certificate\n"
        );
        let found =
            find(&log, "TLS: invalid peer certificate: certificate expired").expect("a cause");
        assert!(found.text.contains("expired"), "{found:?}");
        assert!(find(old, "").is_some_and(|cause| cause.text.contains("gossip key")));
    }

    #[test]
    fn ordinary_lines_have_none() {
        for line in [
            "[INFO] agent: Synced node info",
            "raft: entering follower state",
            "connection refused",
            "",
        ] {
            assert_eq!(find(line, ""), None, "{line}");
        }
    }

    #[test]
    fn rows_do_not_hide_each_other_entirely() {
        for (index, row) in CATALOGUE.iter().enumerate() {
            let reachable = row.symptoms.iter().any(|texts| {
                let line = texts.join(" ");
                CATALOGUE.iter().position(|row| row.is_in(&line)) == Some(index)
            });
            assert!(reachable, "no symptom leads to: {}", row.cause.text);
        }
    }
}
