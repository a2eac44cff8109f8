//! Credentials that belong to a connection and not to a request: NTLM and Negotiate (RFC 4559).
//!
//! An instance that has let in a client by one of them takes everything that comes on the same
//! connection for that client's. So such a connection is its client connection's alone: it gets no
//! request of another, and the next of its own go there.

use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;

use super::auth_scheme::is_of_connection;
use super::head::Head;
use super::upstream::response::UpstreamResponse;

/// Whether the connection of a response is its client's alone from now on.
#[must_use]
pub fn binds(head: &Head<'_>, response: &UpstreamResponse) -> bool {
    if head.authenticates_connection {
        return true;
    }
    response.status() == 401
        && match response {
            UpstreamResponse::H1(response) => {
                let bytes = response.buffer.filled();
                let challenges = response.fields.iter().filter(|field| {
                    field
                        .name
                        .of(bytes)
                        .eq_ignore_ascii_case(WWW_AUTHENTICATE.as_str().as_bytes())
                });
                challenges
                    .map(|field| field.value.of(bytes))
                    .any(is_of_connection)
            }
            UpstreamResponse::H2(response) => {
                let challenges = response.response.headers().get_all(WWW_AUTHENTICATE);
                challenges
                    .iter()
                    .map(HeaderValue::as_bytes)
                    .any(is_of_connection)
            }
        }
}
