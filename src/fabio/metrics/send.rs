//! Sends reports, every interval. One thread takes them, and each receiver has a thread of its own:
//! a server that hangs holds up no other, and what it did not take by the next interval is dropped.

use std::fmt;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::FabioMetrics;
use super::lines::{Form, lines, packets};
use super::report::{self, News};

/// What fits one frame of Ethernet, under IPv6 too.
const PACKET_BYTES_MAX: usize = 1432;
/// How long a server may take to accept a connection, and to take what it is sent.
const TCP_TIMEOUT: Duration = Duration::from_secs(10);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sink {
    /// By UDP to `HOST:PORT`; the name is looked up each time.
    Udp(String),
    /// By TCP to `HOST:PORT`, with a connection for each report.
    Tcp(String),
    /// To standard output.
    Stdout,
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => write!(f, "udp {address}"),
            Self::Tcp(address) => write!(f, "tcp {address}"),
            Self::Stdout => f.write_str("standard output"),
        }
    }
}

/// Sends until it is dropped; what came since the last report is sent then.
#[derive(Debug)]
pub(crate) struct Reporter {
    _running: SyncSender<()>,
}

impl Reporter {
    /// Starts sending to all of `sinks` every `interval`.
    ///
    /// # Errors
    /// A thread cannot be made.
    pub(crate) fn start(
        metrics: Arc<FabioMetrics>,
        sinks: Vec<(Form, Sink)>,
        interval: Duration,
    ) -> io::Result<Self> {
        let mut outlets = Vec::new();
        for (form, sink) in sinks {
            // One report may wait while another one is sent.
            let (queue, waiting) = mpsc::sync_channel(1);
            thread::Builder::new()
                .name("lb-metrics-out".to_owned())
                .spawn(move || drain(&sink, &waiting))?;
            outlets.push((form, queue));
        }
        let (running, stopped) = mpsc::sync_channel(0);
        let work = move || {
            let mut news = News::default();
            loop {
                let last = !matches!(
                    stopped.recv_timeout(interval),
                    Err(RecvTimeoutError::Timeout)
                );
                let points = report::take(&metrics);
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_secs();
                let new = news.of(&points);
                for (form, queue) in &outlets {
                    let points = if form.is_for_people() { &new } else { &points };
                    let lines = lines(*form, &metrics.names().prefix, points, now);
                    if !lines.is_empty() {
                        let _ = queue.try_send(lines);
                    }
                }
                if last {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("lb-metrics".to_owned())
            .spawn(work)?;
        Ok(Self { _running: running })
    }
}

/// Sends what comes until nothing comes any more. A failure is logged when it begins and when it is
/// over.
fn drain(sink: &Sink, waiting: &Receiver<Vec<String>>) {
    let mut failing = false;
    while let Ok(lines) = waiting.recv() {
        let sent = send(sink, &lines);
        match &sent {
            Ok(()) if failing => tracing::info!(%sink, "metrics are sent again"),
            Err(error) if !failing => {
                tracing::warn!(%sink, %error, "cannot send metrics: those of this interval are lost; trying again");
            }
            _ => {}
        }
        failing = sent.is_err();
    }
}

fn send(sink: &Sink, lines: &[String]) -> io::Result<()> {
    match sink {
        Sink::Udp(address) => {
            let to = first(address)?;
            let from: SocketAddr = if to.is_ipv4() {
                (Ipv4Addr::UNSPECIFIED, 0).into()
            } else {
                (Ipv6Addr::UNSPECIFIED, 0).into()
            };
            let socket = UdpSocket::bind(from)?;
            packets(lines, PACKET_BYTES_MAX)
                .iter()
                .try_for_each(|packet| socket.send_to(packet, to).map(drop))
        }
        Sink::Tcp(address) => {
            let mut stream = TcpStream::connect_timeout(&first(address)?, TCP_TIMEOUT)?;
            stream.set_write_timeout(Some(TCP_TIMEOUT))?;
            stream.write_all(&text(lines))
        }
        Sink::Stdout => {
            let mut out = io::stdout().lock();
            out.write_all(&text(lines))?;
            out.flush()
        }
    }
}

fn text(lines: &[String]) -> Vec<u8> {
    lines
        .iter()
        .flat_map(|line| [line.as_bytes(), b"\n"])
        .flatten()
        .copied()
        .collect()
}

fn first(address: &str) -> io::Result<SocketAddr> {
    address
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::other("the name has no address"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::super::tests::busy;
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn each_server_gets_its_form() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        // Nothing reads from this one: the others do not wait for it.
        let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = |address: io::Result<SocketAddr>| address.unwrap().to_string();
        let sinks = vec![
            (Form::Graphite, Sink::Tcp(at(deaf.local_addr()))),
            (Form::Statsd, Sink::Udp(at(udp.local_addr()))),
            (Form::Graphite, Sink::Tcp(at(tcp.local_addr()))),
        ];
        let reporter = Reporter::start(Arc::new(busy()), sinks, LONG).unwrap();
        drop(reporter);
        udp.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut packet = [0; 2 * PACKET_BYTES_MAX];
        let length = udp.recv(&mut packet).unwrap();
        let packet = std::str::from_utf8(&packet[..length]).unwrap();
        assert!(
            length <= PACKET_BYTES_MAX && packet.starts_with("vm.fabionotfound:2.000000|c\n"),
            "{packet}"
        );
        let (mut stream, _) = tcp.accept().unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(
            text.starts_with("vm.fabionotfound 2.000000 ") && text.ends_with('\n'),
            "{text}"
        );
    }

    #[test]
    fn a_server_that_is_away_is_an_error_and_no_end() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = gone.local_addr().unwrap().to_string();
        drop(gone);
        assert!(send(&Sink::Tcp(address), &["a 1 1".to_owned()]).is_err());
        assert!(send(&Sink::Udp("no port".to_owned()), &["a 1 1".to_owned()]).is_err());
    }
}
