//! HTTP in the clear on a port where TLS is spoken: the client gets a response in HTTP that says
//! what is wrong. It would not understand a TLS alert; browsers show one as an empty response.

use std::io;

use crate::proxy::http::client_io::ClientIo;

/// Most bytes looked at: those of one read.
const LOOK_MAX: usize = 2048;
/// Longest method that is recognised.
const METHOD_MAX: usize = 20;

/// Whether the client begins with a request and not with TLS. What was read is read again.
///
/// # Errors
/// Those of the socket.
pub(crate) async fn begins(io: &mut ClientIo) -> io::Result<bool> {
    loop {
        match is_request(io.peeked()) {
            Some(known) => return Ok(known),
            // The end of the stream is for the handshake to tell of.
            None if !io.peek_more(LOOK_MAX).await? => return Ok(false),
            None => {}
        }
    }
}

/// Whether these first bytes are those of a request: a method and a blank. A record of TLS begins
/// with a number below all letters (RFC 8446 section 5.1). None: too few to tell.
fn is_request(seen: &[u8]) -> Option<bool> {
    match seen.iter().position(|byte| !byte.is_ascii_uppercase()) {
        Some(end) => Some(end > 0 && seen[end] == b' '),
        None if seen.len() > METHOD_MAX => Some(false),
        None => None,
    }
}

/// The response to a request that begins so.
pub(crate) fn response(seen: &[u8]) -> Vec<u8> {
    let host = host(seen).unwrap_or("…");
    let text = format!(
        "This port speaks HTTPS and got a request in plain HTTP: use https://{host}/ instead.\n"
    );
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    let body = if seen.starts_with(b"HEAD ") {
        ""
    } else {
        &*text
    };
    [head.as_bytes(), body.as_bytes()].concat()
}

/// The value of the Host field, if it was read and holds nothing but the signs of an authority.
fn host(seen: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(seen).ok()?;
    let fields = text
        .split("\r\n")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let is_host = |(name, _): &(&str, &str)| name.eq_ignore_ascii_case("host");
    let (_, host) = fields
        .filter_map(|line| line.split_once(':'))
        .find(is_host)?;
    let host = host.trim();
    let plain = |sign: char| sign.is_ascii_alphanumeric() || "-._:[]".contains(sign);
    (!host.is_empty() && host.len() <= 255 && host.chars().all(plain)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_from_tls_and_other_protocols() {
        for (seen, wanted) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(true)),
            (b"PRI * HTTP/2.0\r\n", Some(true)),
            (b"OPTIONS ", Some(true)),
            (b"GE", None),
            (b"", None),
            (b"\x16\x03\x01\x02\0\x01", Some(false)),
            (b"\x80\x2e\x01", Some(false)),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Some(false)),
            (b" GET /", Some(false)),
            (&[b'A'; 21], Some(false)),
        ] {
            assert_eq!(
                is_request(seen),
                wanted,
                "{}",
                String::from_utf8_lossy(seen)
            );
        }
    }

    #[test]
    fn the_answer_names_the_host_if_that_is_one() {
        let text = |head: &str| String::from_utf8(response(head.as_bytes())).unwrap();
        let answer = text("GET /a HTTP/1.1\r\nUser-Agent: x\r\nhOST: shop.test:8443\r\n\r\n");
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains("use https://shop.test:8443/ "),
            "{answer}"
        );
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{head}"
        );
        for odd in [
            "",
            "Host: a b\r\n",
            "Host: <script>\r\n",
            "Host:\r\n",
            "\r\nHost: body.test\r\n",
        ] {
            assert!(
                text(&format!("GET / HTTP/1.1\r\n{odd}")).contains("use https://…/ "),
                "{odd}"
            );
        }
        assert!(text("HEAD / HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
    }
}
