//! `lb sample`: one instance of a small HTTP service, for a Nomad job to run. It responds with its
//! own name, has a path for a health check, and ends as a good instance should: no new connections,
//! running requests finished.
//!
//! The server itself is also that of the samples of `lb demo`.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::system::signals::{Ending, Harmless};

/// Longest wait for running requests; below the `kill_timeout` of the job.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest `?delay=`.
const DELAY_MS_MAX: u64 = 60_000;

/// Which instance it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleOptions {
    /// Where to listen. None: `NOMAD_IP_http` and `NOMAD_PORT_http`.
    pub listen: Option<SocketAddr>,
    /// Name of the service.
    pub name: String,
    /// Name of the node, if given.
    pub node: Option<String>,
    /// Version that it claims to be.
    pub version: String,
}

/// Serves until SIGINT or SIGTERM, then until running requests have their responses.
///
/// # Errors
/// When no address is known, or it cannot be listened on.
pub fn run(options: &SampleOptions) -> Result<()> {
    let address = match options.listen {
        Some(address) => address,
        None => from_nomad(|name| std::env::var(name).ok())?,
    };
    let allocation = std::env::var("NOMAD_ALLOC_ID").unwrap_or_else(|_| "none".to_owned());
    let whoami = Arc::new(whoami(options, &allocation));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    runtime.block_on(async {
        // Before the socket: a process that can connect to it can also count on an orderly end.
        let mut ending = Ending::listen_with_terminal()?;
        let _harmless = Harmless::listen()?;
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        let (leave, leaving) = watch::channel(false);
        let version = options.version.clone();
        let respond = move |request| respond(request, Arc::clone(&whoami), version.clone());
        let mut served = tokio::spawn(serve(listener, respond, leaving));
        tokio::select! {
            () = ending.came() => {}
            ended = &mut served => return ended.context("the server has failed"),
        }
        let _ = leave.send(true);
        if tokio::time::timeout(LEAVE_TIMEOUT, served).await.is_err() {
            bail!(
                "requests were still running after {} s and are cut",
                LEAVE_TIMEOUT.as_secs()
            );
        }
        Ok(())
    })
}

/// The address that Nomad gives to a task with a port `http`.
fn from_nomad(env: impl Fn(&str) -> Option<String>) -> Result<SocketAddr> {
    let (ip, port) = (env("NOMAD_IP_http"), env("NOMAD_PORT_http"));
    let (Some(ip), Some(port)) = (ip, port) else {
        bail!(
            "no address: give --listen ADDRESS:PORT, or run it as a Nomad task with a port \"http\""
        );
    };
    let ip: IpAddr = ip
        .parse()
        .with_context(|| format!("NOMAD_IP_http={ip:?} is not an IP address"))?;
    let port: u16 = port
        .parse()
        .with_context(|| format!("NOMAD_PORT_http={port:?} is not a port"))?;
    Ok(SocketAddr::new(ip, port))
}

fn whoami(options: &SampleOptions, allocation: &str) -> String {
    let node = options
        .node
        .as_ref()
        .map(|node| format!(" on {node}"))
        .unwrap_or_default();
    format!(
        "{} {}{node}, allocation {allocation}\n",
        options.name, options.version
    )
}

async fn respond<B>(
    request: Request<B>,
    whoami: Arc<String>,
    version: String,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/health" {
        return Ok(Response::new(Full::from("well\n")));
    }
    // For trying how long requests fare when the instance ends: ?delay=2000 (ms).
    let delay = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .find_map(|pair| pair.strip_prefix("delay="));
    match delay.map(str::parse::<u64>) {
        None => {}
        Some(Ok(delay)) => tokio::time::sleep(Duration::from_millis(delay.min(DELAY_MS_MAX))).await,
        Some(Err(_)) => {
            let mut response = Response::new(Full::from("delay is a number of milliseconds\n"));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            return Ok(response);
        }
    }
    let mut response = Response::new(Full::from(whoami.as_bytes().to_vec()));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-store"),
    );
    if let Ok(version) = header::HeaderValue::from_str(&version) {
        headers.insert("x-version", version);
    }
    Ok(response)
}

/// Serves requests on the listener until told to leave; then takes no more connections, finishes
/// what runs, and ends. Dropped: the listener and all connections are gone.
pub(crate) async fn serve<A, F, B>(
    listener: TcpListener,
    respond: A,
    mut leaving: watch::Receiver<bool>,
) where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((socket, _)) = accepted {
                    connections.spawn(connection(socket, respond.clone(), leaving.clone()));
                }
            }
            // Reaps what ended, so that the set does not grow.
            Some(_) = connections.join_next() => {}
            _ = leaving.changed() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection<A, F, B>(socket: TcpStream, respond: A, mut leaving: watch::Receiver<bool>)
where
    A: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let _ = socket.set_nodelay(true);
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new());
    let connection = builder.serve_connection(TokioIo::new(socket), service_fn(respond));
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = leaving.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn options() -> SampleOptions {
        SampleOptions {
            listen: None,
            name: "hello".into(),
            node: Some("client-1".into()),
            version: "v2".into(),
        }
    }

    #[test]
    fn nomad_tells_the_address() {
        let env = |ip: &'static str, port: &'static str| {
            move |name: &str| match name {
                "NOMAD_IP_http" => Some(ip.to_owned()),
                "NOMAD_PORT_http" => Some(port.to_owned()),
                _ => None,
            }
        };
        assert_eq!(
            from_nomad(env("10.0.0.1", "23456")).unwrap(),
            "10.0.0.1:23456".parse().unwrap()
        );
        assert_eq!(
            from_nomad(env("fd00::1", "1")).unwrap(),
            "[fd00::1]:1".parse().unwrap()
        );
        for (ip, port, said) in [
            ("x", "1", "NOMAD_IP_http=\"x\""),
            ("::1", "70000", "NOMAD_PORT_http=\"70000\""),
        ] {
            let error = from_nomad(env(ip, port)).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert!(
            from_nomad(|_| None)
                .unwrap_err()
                .to_string()
                .contains("--listen")
        );
    }

    #[tokio::test]
    async fn it_says_who_it_is() {
        let ask = async |path: &str| {
            let request = Request::get(path).body(()).unwrap();
            let response = respond(request, Arc::new(whoami(&options(), "abc")), "v2".into())
                .await
                .unwrap();
            let status = response.status().as_u16();
            (
                status,
                response.into_body().collect().await.unwrap().to_bytes(),
            )
        };
        assert_eq!(
            ask("/hello").await,
            (200, "hello v2 on client-1, allocation abc\n".into())
        );
        assert_eq!(ask("/health").await, (200, "well\n".into()));
        assert_eq!(ask("/?a=b&delay=1").await.0, 200);
        assert_eq!(ask("/?delay=soon").await.0, 400);
    }

    #[tokio::test]
    async fn leaving_finishes_what_runs_and_takes_nothing_new() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (leave, leaving) = watch::channel(false);
        let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
        let gate = Arc::new(tokio::sync::Notify::new());
        let opened = Arc::clone(&gate);
        let held = move |_: Request<Incoming>| {
            let (arrived, opened) = (arrived.clone(), Arc::clone(&opened));
            async move {
                let _ = arrived.send(());
                opened.notified().await;
                Ok(Response::new(Full::from("done")))
            }
        };
        let server = tokio::spawn(serve(listener, held, leaving));
        let mut client = TcpStream::connect(address).await.unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        arrivals.recv().await.unwrap();
        leave.send(true).unwrap();
        // Refused as soon as the listener is closed.
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!server.is_finished());
        gate.notify_one();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(
            text.ends_with("done") && text.contains("connection: close"),
            "{text}"
        );
        server.await.unwrap();
    }
}
