//! The properties file, from a path or an `http(s)://` URL.

use std::fs;
use std::io::Read as _;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, StatusCode, Uri};

use crate::http_client::trust::Trust;
use crate::http_client::{self, Client, Limits, Request};

/// Limit for everything, from the first name to the last byte.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest file.
const BYTES_MAX: usize = 16 << 20;
/// Why the file could not be had.
#[derive(Debug, thiserror::Error)]
#[error("-cfg {location}: {problem}")]
pub struct FetchError {
    location: String,
    problem: String,
}

/// Whether it is a URL, as Fabio sees it.
#[must_use]
pub(crate) fn is_url(location: &str) -> bool {
    location.starts_with("http://") || location.starts_with("https://")
}

/// Reads the file. Blocks, for at most half a minute; must not be called on a thread of an
/// asynchronous runtime.
///
/// # Errors
/// That it cannot be read, with the reason.
pub(crate) fn text(location: &str) -> Result<String, FetchError> {
    let (bytes, latin1) = match is_url(location) {
        true => from_url(location),
        false => from_path(location).map(|bytes| (bytes, false)),
    }
    .map_err(|problem| FetchError {
        location: location.to_owned(),
        problem,
    })?;
    Ok(decode(bytes, latin1))
}

/// UTF-8, unless it is not, or a server calls it something else: Java's own files are Latin-1.
fn decode(bytes: Vec<u8>, latin1: bool) -> String {
    let plain = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect();
    match String::from_utf8(bytes) {
        Ok(text) if !latin1 => text,
        Ok(text) => plain(text.as_bytes()),
        Err(error) => plain(error.as_bytes()),
    }
}

fn from_path(path: &str) -> Result<Vec<u8>, String> {
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let limit = BYTES_MAX as u64 + 1;
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() > BYTES_MAX {
        return Err("is larger than 16 MiB; is it a properties file?".to_owned());
    }
    Ok(bytes)
}

fn from_url(url: &str) -> Result<(Vec<u8>, bool), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(follow(url))
}

async fn follow(url: &str) -> Result<(Vec<u8>, bool), String> {
    let uri: Uri = url
        .parse()
        .map_err(|error| format!("is not a URL: {error}"))?;
    let tls = Trust::default()
        .client_config()
        .map_err(|error| error.to_string())?;
    let request = Request {
        headers: vec![(ACCEPT, HeaderValue::from_static("*/*"))],
        ..Request::get(uri)
    };
    let limits = Limits {
        time: TIMEOUT,
        bytes: BYTES_MAX,
    };
    let client = Client::new(&tls, None).map_err(|error| error.to_string())?;
    let response = client
        .send(request, limits)
        .await
        .map_err(|error| error.to_string())?;
    if response.status() != StatusCode::OK {
        return Err(format!("the server responded {}", response.status()));
    }
    let kind = http_client::header(response.headers(), CONTENT_TYPE)
        .unwrap_or_default()
        .to_ascii_lowercase();
    let latin1 = kind.contains("iso-8859-1") || kind.contains("latin1");
    Ok((response.into_body().to_vec(), latin1))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    /// Responds to one connection after the other with these texts.
    fn server(responses: Vec<&'static str>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!(
            "http://{}/conf/a.properties?x=1",
            listener.local_addr().unwrap()
        );
        let heads = std::thread::spawn(move || {
            let serve = |response: &str| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).unwrap();
                stream.write_all(response.as_bytes()).unwrap();
                String::from_utf8_lossy(&head[..length])
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            };
            responses.into_iter().map(serve).collect()
        });
        (url, heads)
    }

    #[test]
    fn files_come_from_paths() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fabio.properties");
        fs::write(&path, b"a = \xe9\n").unwrap();
        assert_eq!(text(&path.display().to_string()).unwrap(), "a = \u{e9}\n");
        fs::write(&path, "a = \u{e9}\n").unwrap();
        assert_eq!(text(&path.display().to_string()).unwrap(), "a = \u{e9}\n");
        let error = text("/nonexistent/fabio.properties")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("-cfg /nonexistent/fabio.properties: No such file"),
            "{error}"
        );
    }

    #[test]
    fn files_come_from_urls() {
        let (url, heads) = server(vec![
            "HTTP/1.1 302 Found\r\nLocation: b\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 301 Moved\r\nLocation: /c\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nproxy.addr = :1\n",
        ]);
        assert_eq!(text(&url).unwrap(), "proxy.addr = :1\n");
        let expected = [
            "GET /conf/a.properties?x=1 HTTP/1.1",
            "GET /conf/b HTTP/1.1",
            "GET /c HTTP/1.1",
        ];
        assert_eq!(heads.join().unwrap(), expected);
    }

    #[test]
    fn what_is_not_a_file_is_reported() {
        let (url, _heads) = server(vec!["HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]);
        assert!(
            text(&url)
                .unwrap_err()
                .to_string()
                .ends_with("the server responded 404 Not Found")
        );
        let (url, _heads) = server(vec![
            "HTTP/1.1 301 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n";
            11
        ]);
        assert!(
            text(&url)
                .unwrap_err()
                .to_string()
                .ends_with("more than 10 redirects")
        );
        let closed = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        assert!(text(&format!("http://{closed}/")).is_err());
        assert!(text("http://").is_err());
    }

    #[test]
    fn a_server_may_say_that_it_is_latin1() {
        assert_eq!(decode("\u{e9}".into(), true), "\u{c3}\u{a9}");
    }
}
