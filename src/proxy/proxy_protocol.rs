//! The PROXY protocol, versions 1 and 2: the client's address, told by the balancer in front or to
//! the target behind.
//!
//! Pure and incremental: bytes in, verdict out. Reading, its deadline, and passing on the bytes
//! after the header are left to the listener. The header is optional for a client, as in Fabio:
//! bytes that cannot be one are [`Received::Absent`] as soon as that is certain. Source: the
//! specification in HAProxy's `proxy-protocol.txt`, sections 2.1 and 2.2.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const V1_START: &[u8] = b"PROXY ";
/// Longest line of version 1, CRLF included.
const V1_LINE_MAX: usize = 107;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEAD: usize = 16;
/// Longest body of version 2 that is taken: addresses, and some room for the TLVs that are skipped.
const V2_BODY_MAX: usize = 4096;

/// Most bytes a header can have: a buffer of this size always comes to a verdict.
pub const HEADER_BYTES_MAX: usize = V2_HEAD + V2_BODY_MAX;

/// What the bytes read so far say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Too early to tell: read on.
    NeedMore,
    /// No PROXY header: everything read belongs to the client's own protocol.
    Absent,
    /// A header of `len` bytes; what follows belongs to the client's own protocol.
    Header {
        /// Bytes of the header.
        len: usize,
        /// Addresses it carried; none when it keeps those of the connection (`UNKNOWN`, `LOCAL`,
        /// unix sockets).
        addresses: Option<Addresses>,
    },
}

/// The two ends of the client's connection, as the one in front saw them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

/// A header that began and then made no sense: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed PROXY header: {0}")]
pub struct Malformed(&'static str);

/// Looks at all bytes received so far.
///
/// # Errors
/// [`Malformed`] when a header began but is wrong; the connection is to be closed.
pub fn parse(bytes: &[u8]) -> Result<Received, Malformed> {
    if begins(bytes, V1_START) {
        return parse_v1(bytes);
    }
    if begins(bytes, V2_SIGNATURE) {
        return parse_v2(bytes);
    }
    Ok(Received::Absent)
}

/// Whether `bytes` and `start` agree as far as both go.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(have, want)| have == want)
}

fn parse_v1(bytes: &[u8]) -> Result<Received, Malformed> {
    let window = &bytes[..bytes.len().min(V1_LINE_MAX)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if bytes.len() < V1_LINE_MAX {
            Ok(Received::NeedMore)
        } else {
            Err(Malformed("line too long"))
        };
    };
    let line = window[..end]
        .strip_suffix(b"\r")
        .ok_or(Malformed("line does not end with CRLF"))?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed("line is not ASCII"))?;
    let mut words = line.split(' ').skip(1);
    let addresses = match words.next() {
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(v1_addresses::<Ipv4Addr>(words)?),
        Some("TCP6") => Some(v1_addresses::<Ipv6Addr>(words)?),
        _ => return Err(Malformed("protocol is not TCP4, TCP6 or UNKNOWN")),
    };
    Ok(Received::Header {
        len: end + 1,
        addresses,
    })
}

fn v1_addresses<'a, A>(mut words: impl Iterator<Item = &'a str>) -> Result<Addresses, Malformed>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let mut word = || words.next().ok_or(Malformed("missing address or port"));
    let ip = |word: &str| {
        word.parse::<A>()
            .map(Into::into)
            .map_err(|_| Malformed("address of the wrong kind"))
    };
    let (source, destination) = (ip(word()?)?, ip(word()?)?);
    let (source_port, destination_port) = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return Err(Malformed("something after the ports"));
    }
    Ok(Addresses {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

/// Digits only: `parse` alone would take a sign.
fn port(word: &str) -> Result<u16, Malformed> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse()
        .ok()
        .filter(|_| digits)
        .ok_or(Malformed("bad port"))
}

fn parse_v2(bytes: &[u8]) -> Result<Received, Malformed> {
    // What is there is judged before the rest is waited for.
    if let Some(&byte) = bytes.get(12)
        && byte >> 4 != 2
    {
        return Err(Malformed("version is not 2"));
    }
    let Some(head) = bytes.get(..V2_HEAD) else {
        return Ok(Received::NeedMore);
    };
    let body_len = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if body_len > V2_BODY_MAX {
        return Err(Malformed("header too long"));
    }
    let len = V2_HEAD + body_len;
    let Some(body) = bytes.get(V2_HEAD..len) else {
        return Ok(Received::NeedMore);
    };
    let addresses = match (head[12] & 0x0f, head[13]) {
        // LOCAL: a health check of the one in front, in its own name.
        (0, _) => None,
        (1, 0x11) => Some(v2_addresses::<4>(body)?),
        (1, 0x21) => Some(v2_addresses::<16>(body)?),
        // Unspecified, datagrams and unix sockets carry nothing that could stand for a TCP peer.
        (1, 0x00 | 0x01 | 0x02 | 0x10 | 0x12 | 0x20 | 0x22 | 0x30..=0x32) => None,
        (1, _) => return Err(Malformed("unknown address family")),
        _ => return Err(Malformed("unknown command")),
    };
    Ok(Received::Header { len, addresses })
}

/// Two addresses of `N` bytes and two ports; TLVs after them are skipped.
fn v2_addresses<const N: usize>(body: &[u8]) -> Result<Addresses, Malformed>
where
    IpAddr: From<[u8; N]>,
{
    const SHORT: Malformed = Malformed("body shorter than its addresses");
    let (source, rest) = body.split_first_chunk::<N>().ok_or(SHORT)?;
    let (destination, rest) = rest.split_first_chunk::<N>().ok_or(SHORT)?;
    let &[s1, s0, d1, d0] = rest.first_chunk::<4>().ok_or(SHORT)?;
    Ok(Addresses {
        source: SocketAddr::new(IpAddr::from(*source), u16::from_be_bytes([s1, s0])),
        destination: SocketAddr::new(IpAddr::from(*destination), u16::from_be_bytes([d1, d0])),
    })
}

/// The line of version 1 that tells a target about its client: `PROXY TCP4|TCP6 …`.
#[must_use]
pub fn v1_line(addresses: &Addresses) -> Vec<u8> {
    let mut line = Vec::with_capacity(V1_LINE_MAX);
    let (source, destination) = one_family(addresses);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (addresses.source.port(), addresses.destination.port());
    // Writing to a vector cannot fail.
    let _ = write!(
        line,
        "PROXY {family} {source} {destination} {from} {to}\r\n"
    );
    line
}

/// The header of version 2; without addresses a `LOCAL` one, for connections of the balancer's own.
#[must_use]
pub fn v2_header(addresses: Option<&Addresses>) -> Vec<u8> {
    let mut header = Vec::with_capacity(V2_HEAD + 36);
    header.extend_from_slice(V2_SIGNATURE);
    let Some(addresses) = addresses else {
        header.extend_from_slice(&[0x20, 0x00, 0, 0]);
        return header;
    };
    match one_family(addresses) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.extend_from_slice(&[0x21, 0x11, 0, 12]);
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
        }
        (source, destination) => {
            header.extend_from_slice(&[0x21, 0x21, 0, 36]);
            header.extend_from_slice(&as_v6(source).octets());
            header.extend_from_slice(&as_v6(destination).octets());
        }
    }
    header.extend_from_slice(&addresses.source.port().to_be_bytes());
    header.extend_from_slice(&addresses.destination.port().to_be_bytes());
    header
}

/// Both addresses in one family: IPv4 if both are (mapped ones count), else IPv6.
fn one_family(addresses: &Addresses) -> (IpAddr, IpAddr) {
    let (source, destination) = (
        addresses.source.ip().to_canonical(),
        addresses.destination.ip().to_canonical(),
    );
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    (as_v6(source).into(), as_v6(destination).into())
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(source: &str, destination: &str) -> Addresses {
        Addresses {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    fn v2(cmd: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[cmd, family][..], &len, body].concat()
    }

    #[test]
    fn version_1() {
        let tcp4 = Some(addresses("192.0.2.1:5", "198.51.100.1:443"));
        let tcp6 = Some(addresses("[2001:db8::1]:5", "[::1]:65535"));
        let good: [(&str, Option<Addresses>); 4] = [
            ("PROXY TCP4 192.0.2.1 198.51.100.1 5 443\r\n", tcp4),
            ("PROXY TCP6 2001:db8::1 ::1 5 65535\r\n", tcp6),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 what ever\r\n", None),
        ];
        for (line, addresses) in good {
            let bytes = format!("{line}GET / HTTP/1.1\r\n");
            assert_eq!(
                parse(bytes.as_bytes()),
                Ok(Received::Header {
                    len: line.len(),
                    addresses
                }),
                "{line}"
            );
            for cut in 0..line.len() {
                assert_eq!(
                    parse(&line.as_bytes()[..cut]),
                    Ok(Received::NeedMore),
                    "{line} cut at {cut}"
                );
            }
        }
        let bad = [
            "PROXY \r\n",
            "PROXY TCP5 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP4 ::1 ::1 1 1\r\n",
            "PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1 \r\n",
            "PROXY  TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n",
            "PROXY TCP4 1.1.1.1 1.1.1.01 1 1\r\n",
            &format!("PROXY UNKNOWN {}", "x".repeat(120)),
            &format!("PROXY UNKNOWN {}\r\n", "x".repeat(120)),
        ];
        for line in bad {
            assert!(parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn version_2() {
        let ipv4 = [192, 0, 2, 1, 198, 51, 100, 1, 0, 5, 1, 187];
        let seen4 = Some(addresses("192.0.2.1:5", "198.51.100.1:443"));
        let ipv6: Vec<u8> = [[0x20; 16], [0x30; 16]]
            .concat()
            .into_iter()
            .chain([0, 1, 0, 2])
            .collect();
        let tlv = [&ipv4[..], &[4, 0, 3, 1, 2, 3]].concat();
        let good = [
            (v2(0x21, 0x11, &ipv4), seen4),
            (v2(0x21, 0x11, &tlv), seen4),
            (
                v2(0x21, 0x21, &ipv6),
                Some(addresses(
                    "[2020:2020:2020:2020:2020:2020:2020:2020]:1",
                    "[3030:3030:3030:3030:3030:3030:3030:3030]:2",
                )),
            ),
            (v2(0x20, 0x11, &ipv4), None),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x21, 0x31, &[0; 216]), None),
            (v2(0x21, 0x12, &ipv4), None),
        ];
        for (bytes, addresses) in good {
            let len = bytes.len();
            assert_eq!(
                parse(&[&bytes[..], b"rest"].concat()),
                Ok(Received::Header { len, addresses }),
                "{bytes:?}"
            );
            for cut in 0..len {
                assert_eq!(
                    parse(&bytes[..cut]),
                    Ok(Received::NeedMore),
                    "{bytes:?} cut at {cut}"
                );
            }
        }
        let bad = [
            v2(0x11, 0x11, &ipv4),
            v2(0x22, 0x11, &ipv4),
            v2(0x21, 0x11, &ipv4[..11]),
            v2(0x21, 0x21, &ipv6[..35]),
            v2(0x21, 0x41, &ipv4),
            v2(0x21, 0x11, &[0; V2_BODY_MAX + 1]),
        ];
        for bytes in bad {
            assert!(parse(&bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn absence_is_seen_early() {
        for bytes in [
            "GET / HTTP/1.1\r\n",
            "PO",
            "PROXX",
            "\x16\x03\x01",
            "PROXY\r",
            "\r\nGET",
        ] {
            assert_eq!(parse(bytes.as_bytes()), Ok(Received::Absent), "{bytes:?}");
        }
        assert_eq!(parse(b""), Ok(Received::NeedMore));
    }

    #[test]
    fn mixed_families_are_sent_as_ipv6() {
        let mixed = addresses("192.0.2.1:5", "[2001:db8::1]:443");
        assert_eq!(
            v1_line(&mixed),
            b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 5 443\r\n"
        );
        let mapped = addresses("[::ffff:192.0.2.1]:5", "192.0.2.2:443");
        assert_eq!(
            v1_line(&mapped),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 5 443\r\n"
        );
        assert_eq!(
            parse(&v2_header(None)),
            Ok(Received::Header {
                len: 16,
                addresses: None
            })
        );
    }

    proptest! {
        #[test]
        fn what_is_sent_is_received(source: SocketAddr, destination: SocketAddr) {
            let sent = Addresses { source, destination };
            let (from, to) = one_family(&sent);
            let wanted = Addresses {
                source: SocketAddr::new(from, source.port()),
                destination: SocketAddr::new(to, destination.port()),
            };
            for bytes in [v1_line(&sent), v2_header(Some(&sent))] {
                let header = Received::Header { len: bytes.len(), addresses: Some(wanted) };
                prop_assert_eq!(parse(&bytes), Ok(header));
            }
        }

        #[test]
        fn a_verdict_never_changes(start in 0..3usize, noise: Vec<u8>) {
            let bytes = [[&b"PROXY TCP4 "[..], &V2_SIGNATURE[..], b""][start], &noise].concat();
            let mut verdict = Ok(Received::NeedMore);
            for len in 0..=bytes.len() {
                let now = parse(&bytes[..len]);
                if verdict != Ok(Received::NeedMore) {
                    prop_assert_eq!(now, verdict);
                }
                verdict = now;
            }
        }
    }
}
