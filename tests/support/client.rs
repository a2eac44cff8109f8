//! Clients: one that sends exact bytes and reads exact responses, and one that makes load and
//! counts what happens.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::wait::PATIENCE;

/// A connection for exact bytes.
pub struct RawClient {
    socket: TcpStream,
    unread: Vec<u8>,
}

/// A response taken apart, nothing interpreted but its framing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawResponse {
    /// Status code.
    pub status: u16,
    /// Header fields in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body, chunks joined.
    pub body: Vec<u8>,
    /// Trailer fields, names in lower case.
    pub trailers: Vec<(String, String)>,
}

impl RawClient {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            unread: Vec::new(),
        }
    }

    /// Sends these bytes. That the other side has closed already is not a failure: the response
    /// tells.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.socket.write_all(bytes.as_ref());
        self
    }

    /// A second handle on the connection, for a thread that sends while this one reads.
    pub fn clone_for_sending(&self) -> Self {
        Self {
            socket: self.socket.try_clone().unwrap(),
            unread: Vec::new(),
        }
    }

    /// Ends the connection with RST.
    pub fn reset(self) {
        socket2::SockRef::from(&self.socket)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    /// How the connection ends: `end of file`, or the error's kind in words.
    pub fn end(&mut self) -> String {
        let mut buffer = [0; 1024];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return "end of file".to_owned(),
                Ok(_) => {}
                Err(error) => return error.kind().to_string(),
            }
        }
    }

    /// Sends FIN.
    pub fn finish(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }

    /// Reads one response (to a request that was not HEAD); none when the connection ended before
    /// its first byte. Interim responses (1xx but 101) count too.
    pub fn response(&mut self) -> Option<RawResponse> {
        loop {
            if let Some((response, used)) = parse(&self.unread, false) {
                self.unread.drain(..used);
                return Some(response);
            }
            if !self.fill() {
                let rest = std::mem::take(&mut self.unread);
                return parse(&rest, true).map(|(response, _)| response);
            }
        }
    }

    /// Reads exactly `count` bytes; fewer when the connection ended.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count && self.fill() {}
        let rest = self.unread.split_off(count.min(self.unread.len()));
        std::mem::replace(&mut self.unread, rest)
    }

    /// Reads until `end` was seen, and returns everything up to and with it.
    pub fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self
                .unread
                .windows(end.len())
                .position(|window| window == end)
            {
                return self.unread.drain(..at + end.len()).collect();
            }
            assert!(
                self.fill(),
                "connection ended before {:?}",
                String::from_utf8_lossy(end)
            );
        }
    }

    /// Reads to the end of the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.unread)
    }

    /// Whether the other side closes (or resets) without sending anything more.
    pub fn is_closed(&mut self) -> bool {
        self.unread.is_empty() && !self.fill()
    }

    /// False at the end of the connection, clean or not.
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        match self.socket.read(&mut buffer) {
            Ok(count) => {
                self.unread.extend_from_slice(&buffer[..count]);
                count > 0
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                panic!(
                    "nothing came for {PATIENCE:?}; unread: {:?}",
                    String::from_utf8_lossy(&self.unread)
                )
            }
            Err(_) => false,
        }
    }
}

impl RawResponse {
    /// Parses a whole response.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        parse(bytes, true).map(|(response, _)| response)
    }

    /// First value of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One exchange on a connection of its own.
pub fn exchange(address: SocketAddr, request: impl AsRef<[u8]>) -> Option<RawResponse> {
    RawClient::connect(address).send(request).response()
}

/// A plain GET.
pub fn get(address: SocketAddr, host: &str, path: &str) -> RawResponse {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    exchange(address, request).expect("a response")
}

/// The response at the start of `bytes` and its length; none while it is not whole.
fn parse(bytes: &[u8], ended: bool) -> Option<(RawResponse, usize)> {
    let head_end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_end - 4]);
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = fields(lines);
    let mut response = RawResponse {
        status,
        headers,
        ..RawResponse::default()
    };
    let rest = &bytes[head_end..];
    if response
        .header("transfer-encoding")
        .is_some_and(|coding| coding.ends_with("chunked"))
    {
        let used = chunks(rest, &mut response)?;
        return Some((response, head_end + used));
    }
    let length = match response.header("content-length") {
        _ if status < 200 || status == 204 || status == 304 => 0,
        Some(length) => length.parse().ok()?,
        None if ended => rest.len(),
        None => return None,
    };
    response.body = rest.get(..length)?.to_vec();
    Some((response, head_end + length))
}

fn chunks(bytes: &[u8], response: &mut RawResponse) -> Option<usize> {
    let mut at = 0;
    loop {
        // The end of the last chunk may not be here yet.
        let line_end = bytes
            .get(at..)?
            .windows(2)
            .position(|window| window == b"\r\n")?
            + at;
        let size = std::str::from_utf8(&bytes[at..line_end])
            .ok()?
            .split(';')
            .next()?
            .trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        at = line_end + 2;
        if size == 0 {
            break;
        }
        response.body.extend_from_slice(bytes.get(at..at + size)?);
        at += size + 2;
    }
    if bytes.get(at..at + 2)? == b"\r\n" {
        return Some(at + 2);
    }
    let end = bytes[at..]
        .windows(4)
        .position(|window| window == b"\r\n\r\n")?
        + at;
    response.trailers = fields(std::str::from_utf8(&bytes[at..end]).ok()?.split("\r\n"));
    Some(end + 4)
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let split = lines.filter_map(|line| line.split_once(':'));
    split
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect()
}

/// Load at a steady rate over keep-alive connections.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to.
    pub address: SocketAddr,
    /// `Host` header.
    pub host: String,
    /// Path.
    pub path: String,
    /// Method.
    pub method: Method,
    /// Requests per second, over all connections.
    pub per_second: u32,
    /// Connections.
    pub connections: u32,
    /// Longest wait for one response.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Responses by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without a response, by reason.
    pub errors: BTreeMap<String, u64>,
    /// Responses by the `x-instance` header.
    pub instances: BTreeMap<String, u64>,
    /// Times from when each request was due to its whole response, sorted: a stall shows in all it
    /// held up.
    pub latencies: Vec<Duration>,
}

impl Load {
    /// GETs, 30 s patience, 16 connections.
    pub fn new(address: SocketAddr, host: &str, path: &str, per_second: u32) -> Self {
        Self {
            address,
            host: host.to_owned(),
            path: path.to_owned(),
            method: Method::GET,
            per_second,
            connections: 16,
            timeout: PATIENCE,
        }
    }

    /// Runs for `duration` on the present runtime.
    pub async fn run(&self, duration: Duration) -> Outcome {
        let end = Instant::now() + duration;
        self.run_while(move |due| due < end).await
    }

    /// Runs in a thread of its own until it is stopped.
    pub fn start(self) -> RunningLoad {
        let go_on = Arc::new(AtomicBool::new(true));
        let for_thread = Arc::clone(&go_on);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(self.run_while(move |_| for_thread.load(Relaxed)))
        });
        RunningLoad { go_on, thread }
    }

    /// Runs until `go_on` says no to the time at which a request is due.
    async fn run_while(&self, go_on: impl Fn(Instant) -> bool + Send + Sync + 'static) -> Outcome {
        let go_on = Arc::new(go_on);
        let mut clients = JoinSet::new();
        let period = Duration::from_secs(1) * self.connections / self.per_second;
        for client in 0..self.connections {
            // Spread evenly, so that the sum is a steady rate and not a volley per period.
            let offset = period * client / self.connections;
            clients.spawn(one_client(self.clone(), period, offset, Arc::clone(&go_on)));
        }
        let mut sum = Outcome::default();
        while let Some(outcome) = clients.join_next().await {
            sum.add(outcome.unwrap());
        }
        sum.latencies.sort_unstable();
        sum
    }
}

/// Load that runs until it is stopped.
pub struct RunningLoad {
    go_on: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Outcome>,
}

impl RunningLoad {
    /// Lets requests under way finish, and says what came of all.
    pub fn stop(self) -> Outcome {
        self.go_on.store(false, Relaxed);
        self.thread.join().unwrap()
    }
}

impl Outcome {
    /// Requests made.
    pub fn requests(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.errors.values().sum::<u64>()
    }

    /// Requests without a response, and responses of 500 and above.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum::<u64>()
            + self
                .statuses
                .range(500..)
                .map(|(_, count)| count)
                .sum::<u64>()
    }

    /// A percentile of the latencies, 0.0 to 1.0; zero when there are none.
    pub fn percentile(&self, share: f64) -> Duration {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let at = (share * self.latencies.len().saturating_sub(1) as f64).round() as usize;
        self.latencies.get(at).copied().unwrap_or_default()
    }

    /// Panics with the whole outcome when anything failed.
    pub fn assert_none_failed(&self) {
        assert!(self.requests() > 0, "no request was made");
        assert_eq!(
            self.failed(),
            0,
            "statuses {:?}, errors {:?}",
            self.statuses,
            self.errors
        );
    }

    /// Adds the counts of another run; latencies have to be sorted again.
    pub fn add(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        for (instance, count) in other.instances {
            *self.instances.entry(instance).or_default() += count;
        }
        self.latencies.extend(other.latencies);
    }
}

type Connection = SendRequest<Full<Bytes>>;

async fn one_client(
    load: Load,
    period: Duration,
    offset: Duration,
    go_on: Arc<impl Fn(Instant) -> bool>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut connection = None;
    let mut due = Instant::now() + offset;
    while go_on(due) {
        tokio::time::sleep_until(due.into()).await;
        match tokio::time::timeout(load.timeout, one_request(&load, &mut connection)).await {
            Ok(Ok((status, instance))) => {
                *outcome.statuses.entry(status).or_default() += 1;
                *outcome.instances.entry(instance).or_default() += 1;
                outcome.latencies.push(due.elapsed());
            }
            failed => {
                connection = None;
                let reason = failed.map_or_else(
                    |_| "timeout".to_owned(),
                    |result| result.err().unwrap_or_default(),
                );
                *outcome.errors.entry(reason).or_default() += 1;
            }
        }
        due += period;
    }
    outcome
}

async fn one_request(
    load: &Load,
    connection: &mut Option<Connection>,
) -> Result<(u16, String), String> {
    let mut warm = connection.take();
    if let Some(sender) = &mut warm
        && sender.ready().await.is_err()
    {
        warm = None;
    }
    let mut sender = match warm {
        Some(sender) => sender,
        None => connect(load.address)
            .await
            .map_err(|error| format!("connect: {error}"))?,
    };
    let request = Request::builder()
        .method(load.method.clone())
        .uri(&load.path)
        .header(header::HOST, &load.host)
        .body(Full::default())
        .unwrap();
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let instance = response
        .headers()
        .get("x-instance")
        .and_then(|value| value.to_str().ok())
        .unwrap_or("")
        .to_owned();
    response
        .into_body()
        .collect()
        .await
        .map_err(|error| format!("body: {error}"))?;
    *connection = Some(sender);
    Ok((status, instance))
}

async fn connect(
    address: SocketAddr,
) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
    let socket = tokio::net::TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(socket)).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}
