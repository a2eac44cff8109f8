//! How to tell a service that the token may not see from one that is not registered.
//!
//! Consul's response to both is a 200 with less than there is. These requests to the leader tell
//! them apart:
//!
//! - `X-Consul-Results-Filtered-By-ACLs: true` (Consul 1.11, for requests with a token): entries
//!   were left out of the response. Absent it means nothing, unless it is known that it would be
//!   sent.
//! - `/v1/config/service-defaults/NAME` (Consul 1.5) needs `service:read` on the name, and says 403
//!   without it, 404 where there is no such entry. `/v1/coordinate/node/NODE` does the same for
//!   `node:read`.
//! - `/v1/kv/KEY` without `recurse` says 403 without `key:read`, where a read by prefix leaves keys
//!   out.
//! - `/v1/acl/token/self`: 403 when the token is unknown. That it exists does not say what it may
//!   read.
//!
//! The judgements are pure; below them stands what is requested, and in which order.

use std::time::Duration;

use bytes::Bytes;
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use tracing::debug;

use super::error::ConsulError;
use super::keys;
use super::shared::Shared;
use super::visibility::{CONSUL, Visibility};
use super::wire::SEGMENT;
use crate::catalog::definitions::null_is_default;

/// Limit for one question.
const LIMIT: Duration = Duration::from_secs(3);

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    /// It has the right.
    Granted,
    /// It has not.
    Denied,
    /// No request tells.
    Unknown,
}

/// What became of a service that a response lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// It is not registered any more.
    Gone,
    /// The token may not see it; the text says what it may not read.
    Hidden(String),
    /// One or the other; the text says what is missing.
    Unknown(String),
}

/// What two confirmed responses show of a service that is missing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    /// What the list shows of the catalog.
    pub(super) sight: Visibility,
    /// `consul` was listed before for the same reader.
    pub(super) seen_whole: bool,
    /// Consul says that it left something out of the list.
    pub(super) list_filtered: bool,
    /// Consul says that it left something out of the health response; none: there was no such
    /// request.
    pub(super) health_filtered: Option<bool>,
}

impl Evidence {
    /// What the evidence alone decides.
    fn verdict(self, name: &str) -> Option<Absence> {
        match self.health_filtered {
            Some(true) => Some(Absence::Hidden(format!(
                "the instances of `{name}`, which Consul leaves out for it"
            ))),
            // It says so where it leaves something out, and has left out none of these.
            Some(false) if self.list_filtered => Some(Absence::Gone),
            _ => None,
        }
    }
}

/// Whether the response about a configuration entry shows the right to read the service of that
/// name.
fn of_service(response: Result<Bytes, ConsulError>) -> Result<Rights, ConsulError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        kind: String,
    }
    match response {
        Ok(body) => {
            let entry = serde_json::from_slice::<Entry>(&body);
            Ok(
                if entry.is_ok_and(|entry| entry.kind == "service-defaults") {
                    Rights::Granted
                } else {
                    Rights::Unknown
                },
            )
        }
        Err(ConsulError::Status {
            code: 404, text, ..
        }) if text.contains("onfig entry not found") => Ok(Rights::Granted),
        Err(error) => refused(error),
    }
}

/// Whether the response about a node's coordinates shows the right to read the node.
fn of_node(response: Result<Bytes, ConsulError>) -> Result<Rights, ConsulError> {
    match response {
        // Those of a node that is not known are not found, with an empty body; with another, it is
        // not Consul that says so.
        Err(ConsulError::Status {
            code: 404, text, ..
        }) if text.is_empty() => Ok(Rights::Granted),
        Ok(body) if body.trim_ascii_start().starts_with(b"[") => Ok(Rights::Granted),
        Ok(_) => Ok(Rights::Unknown),
        Err(error) => refused(error),
    }
}

/// A 403 of Consul's own is a no. Other refusals say nothing of rights, and what else went wrong
/// may go right later.
fn refused(error: ConsulError) -> Result<Rights, ConsulError> {
    match error {
        ConsulError::Status {
            code: 403, text, ..
        } if is_acl_refusal(&text) => Ok(Rights::Denied),
        ConsulError::Status {
            code: 300..=428 | 430..=499 | 501,
            ..
        } => Ok(Rights::Unknown),
        other => Err(other),
    }
}

/// Whether a 403 comes from Consul's ACLs and not from something in between.
pub(super) fn is_acl_refusal(text: &str) -> bool {
    text.contains("Permission denied") || text.contains("ACL not found")
}

/// What `/v1/acl/token/self` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Consul knows it, and something is granted to it.
    Useful,
    /// Consul does not know it, or grants it nothing.
    Useless,
    /// There are no ACLs.
    AclsOff,
    /// No telling.
    Unknown,
}

/// Reads the response of `/v1/acl/token/self`.
pub(super) fn of_token(response: Result<Bytes, ConsulError>) -> Result<Token, ConsulError> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Known {
        #[serde(rename = "AccessorID", deserialize_with = "null_is_default")]
        accessor: String,
        #[serde(deserialize_with = "null_is_default")]
        policies: Vec<serde::de::IgnoredAny>,
        #[serde(deserialize_with = "null_is_default")]
        roles: Vec<serde::de::IgnoredAny>,
        #[serde(deserialize_with = "null_is_default")]
        service_identities: Vec<serde::de::IgnoredAny>,
        #[serde(deserialize_with = "null_is_default")]
        node_identities: Vec<serde::de::IgnoredAny>,
        #[serde(deserialize_with = "null_is_default")]
        templated_policies: Vec<serde::de::IgnoredAny>,
        /// Of tokens made before Consul 1.4.
        #[serde(deserialize_with = "null_is_default")]
        rules: String,
    }
    match response {
        Ok(body) => Ok(match serde_json::from_slice::<Known>(&body) {
            Ok(token) if token.accessor.is_empty() => Token::Unknown,
            Ok(token) => {
                let grants = [
                    &token.policies,
                    &token.roles,
                    &token.service_identities,
                    &token.node_identities,
                    &token.templated_policies,
                ];
                let useful =
                    grants.iter().any(|list| !list.is_empty()) || !token.rules.trim().is_empty();
                if useful {
                    Token::Useful
                } else {
                    Token::Useless
                }
            }
            Err(_) => Token::Unknown,
        }),
        Err(ConsulError::Status {
            code: 401, text, ..
        }) if text.contains("ACL support disabled") => Ok(Token::AclsOff),
        Err(error) => Ok(match refused(error)? {
            Rights::Denied => Token::Useless,
            Rights::Granted | Rights::Unknown => Token::Unknown,
        }),
    }
}

async fn read(shared: &Shared, path: &str) -> Result<Bytes, ConsulError> {
    let response = shared.client.get_from_leader(path, LIMIT).await;
    debug!(path, ok = response.is_ok(), "Consul: looked up rights");
    Ok(response?.body)
}

/// Whether the token may read the service of this name.
pub(super) async fn to_service(shared: &Shared, name: &str) -> Result<Rights, ConsulError> {
    of_service(
        read(
            shared,
            &format!(
                "/v1/config/service-defaults/{}",
                utf8_percent_encode(name, SEGMENT)
            ),
        )
        .await,
    )
}

/// Whether the token may read the node of this name.
pub(super) async fn to_node(shared: &Shared, name: &str) -> Result<Rights, ConsulError> {
    of_node(
        read(
            shared,
            &format!("/v1/coordinate/node/{}", utf8_percent_encode(name, SEGMENT)),
        )
        .await,
    )
}

/// Whether the token may read the key of this name: a read of a single key is refused and not
/// filtered.
pub(super) async fn to_key(shared: &Shared, key: &str) -> Result<Rights, ConsulError> {
    read(shared, &keys::of(key))
        .await
        .map(|_| Rights::Granted)
        .or_else(refused)
}

/// What Consul knows of the token itself.
pub(super) async fn token(shared: &Shared) -> Result<Token, ConsulError> {
    of_token(read(shared, "/v1/acl/token/self").await)
}

/// Why a list without `consul` is what it is.
async fn without_consul(shared: &Shared, seen_whole: bool) -> Result<Rights, ConsulError> {
    if shared.config().is_scoped() {
        // It is registered elsewhere.
        return Ok(Rights::Denied);
    }
    let rights = to_service(shared, CONSUL).await?;
    // Had it been there and nothing explains that it is not, the list is not to be believed.
    Ok(if rights == Rights::Unknown && seen_whole {
        Rights::Granted
    } else {
        rights
    })
}

/// The error of a list that nothing explains.
fn unexplained() -> ConsulError {
    ConsulError::Rights {
        what: "the catalog (`consul`, which every cluster has, is not listed)".to_owned(),
    }
}

/// Whether a list can be what there is for this token. `known`: services were listed before.
pub(super) async fn accept_list(
    shared: &Shared,
    sight: Visibility,
    seen_whole: bool,
    known: bool,
) -> Result<(), ConsulError> {
    match sight {
        Visibility::Whole => return Ok(()),
        Visibility::Part if !seen_whole => return Ok(()),
        Visibility::Part | Visibility::Nothing => {}
    }
    if without_consul(shared, seen_whole).await? == Rights::Granted {
        return Err(unexplained());
    }
    if sight == Visibility::Nothing && !known {
        // No name to look up: is it a token for services that are not registered yet, or one for
        // nothing?
        let scoped = shared.config().is_scoped();
        match token(shared).await? {
            Token::Useful => {}
            Token::AclsOff if scoped => {}
            Token::Useless | Token::AclsOff | Token::Unknown => return Err(unexplained()),
        }
    }
    Ok(())
}

/// What became of a service that is neither listed nor has instances.
pub(super) async fn absence(
    shared: &Shared,
    name: &str,
    evidence: Evidence,
) -> Result<Absence, ConsulError> {
    if let Some(verdict) = evidence.verdict(name) {
        return Ok(verdict);
    }
    let Evidence {
        sight, seen_whole, ..
    } = evidence;
    if sight != Visibility::Whole && without_consul(shared, seen_whole).await? == Rights::Granted {
        return Ok(Absence::Hidden(
            "the catalog (`consul` is not listed)".to_owned(),
        ));
    }
    let hidden = || Absence::Hidden(format!("the service `{name}`"));
    Ok(match to_service(shared, name).await? {
        Rights::Granted => Absence::Gone,
        Rights::Denied => hidden(),
        // Something is listed, so the token has rights of some kind.
        Rights::Unknown if sight != Visibility::Nothing => Absence::Gone,
        Rights::Unknown => match token(shared).await? {
            Token::Useless => hidden(),
            Token::AclsOff => Absence::Gone,
            Token::Useful | Token::Unknown => {
                Absence::Unknown(format!("{name}: the loss of every instance"))
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, text: &str) -> Result<Bytes, ConsulError> {
        let (agent, request) = (String::new(), String::new());
        Err(ConsulError::Status {
            agent,
            request,
            code,
            text: text.to_owned(),
            retry_after: None,
        })
    }

    fn body(text: &'static str) -> Result<Bytes, ConsulError> {
        Ok(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn rights_to_a_service_are_read_from_what_consul_says_of_its_entry() {
        let timeout = Err(ConsulError::Timeout {
            what: String::new(),
            after: LIMIT,
        });
        let cases = [
            (
                body(r#"{"Kind":"service-defaults","Name":"web"}"#),
                Some(Rights::Granted),
            ),
            (
                status(
                    404,
                    r#"Config entry not found for "service-defaults" / "web""#,
                ),
                Some(Rights::Granted),
            ),
            (status(403, "Permission denied"), Some(Rights::Denied)),
            (
                status(
                    403,
                    "rpc error making call: Permission denied: token lacks service:read",
                ),
                Some(Rights::Denied),
            ),
            (status(403, "ACL not found"), Some(Rights::Denied)),
            // Something in between, or a Consul that has no such entries.
            (status(403, "Forbidden"), Some(Rights::Unknown)),
            (status(404, "404 page not found"), Some(Rights::Unknown)),
            (status(404, ""), Some(Rights::Unknown)),
            (body("{}"), Some(Rights::Unknown)),
            (body("[]"), Some(Rights::Unknown)),
            (body("<html>"), Some(Rights::Unknown)),
            // To be tried again.
            (status(500, "No cluster leader"), None),
            (status(429, "slow down"), None),
            (timeout, None),
        ];
        for (response, expected) in cases {
            let shown = format!("{response:?}");
            assert_eq!(of_service(response).ok(), expected, "{shown}");
        }
    }

    #[test]
    fn rights_to_a_node_are_read_from_what_consul_says_of_its_coordinates() {
        let cases = [
            (body(r#"[{"Node":"n"}]"#), Some(Rights::Granted)),
            (status(404, ""), Some(Rights::Granted)),
            (status(404, "404 page not found"), Some(Rights::Unknown)),
            (status(403, "Permission denied"), Some(Rights::Denied)),
            (
                status(401, "Coordinate support disabled"),
                Some(Rights::Unknown),
            ),
            (body("{}"), Some(Rights::Unknown)),
            (status(500, "No cluster leader"), None),
        ];
        for (response, expected) in cases {
            let shown = format!("{response:?}");
            assert_eq!(of_node(response).ok(), expected, "{shown}");
        }
    }

    #[test]
    fn a_token_is_useful_when_something_is_granted_to_it() {
        let cases = [
            (
                body(r#"{"AccessorID":"a","Policies":[{"ID":"p","Name":"web"}]}"#),
                Some(Token::Useful),
            ),
            (
                body(r#"{"AccessorID":"a","Policies":null,"Roles":[{"ID":"r"}]}"#),
                Some(Token::Useful),
            ),
            (
                body(r#"{"AccessorID":"a","ServiceIdentities":[{"ServiceName":"web"}]}"#),
                Some(Token::Useful),
            ),
            (
                body(r#"{"AccessorID":"a","Rules":"service \"web\" {}"}"#),
                Some(Token::Useful),
            ),
            (
                body(r#"{"AccessorID":"a","Policies":[],"Rules":""}"#),
                Some(Token::Useless),
            ),
            (status(403, "ACL not found"), Some(Token::Useless)),
            (status(401, "ACL support disabled"), Some(Token::AclsOff)),
            (status(404, ""), Some(Token::Unknown)),
            (body("{}"), Some(Token::Unknown)),
            (body(r#"{"consul":[]}"#), Some(Token::Unknown)),
            (status(500, "No cluster leader"), None),
        ];
        for (response, expected) in cases {
            let shown = format!("{response:?}");
            assert_eq!(of_token(response).ok(), expected, "{shown}");
        }
    }

    #[test]
    fn the_header_decides_where_it_is_known_to_be_sent() {
        let evidence = |list_filtered, health_filtered| Evidence {
            sight: Visibility::Nothing,
            seen_whole: false,
            list_filtered,
            health_filtered,
        };
        for (list, health, expected) in [
            (true, Some(false), Some(true)),
            (true, Some(true), Some(false)),
            (false, Some(true), Some(false)),
            // An older Consul, or one that has left nothing out of either.
            (false, Some(false), None),
            (true, None, None),
            (false, None, None),
        ] {
            let verdict = evidence(list, health).verdict("web");
            assert_eq!(
                verdict.map(|verdict| verdict == Absence::Gone),
                expected,
                "{list} {health:?}"
            );
        }
    }

    #[test]
    fn scopes_without_the_service_consul_are_known() {
        let scoped = |namespace: Option<&str>, partition: Option<&str>| {
            let own = |text: Option<&str>| text.map(str::to_owned);
            crate::config::ConsulConfig {
                namespace: own(namespace),
                partition: own(partition),
                ..Default::default()
            }
            .is_scoped()
        };
        for (namespace, partition, expected) in [
            (None, None, false),
            (Some("default"), Some("default"), false),
            (Some(""), None, false),
            (Some("team"), None, true),
            (None, Some("billing"), true),
        ] {
            assert_eq!(
                scoped(namespace, partition),
                expected,
                "{namespace:?} {partition:?}"
            );
        }
    }
}
