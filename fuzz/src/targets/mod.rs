//! The targets, and what an engine without eyes has to begin with: good inputs, and words that mean
//! something.

pub mod command;
pub mod config;
pub mod cookie;
pub mod glob;
pub mod h1_request;
pub mod h1_response;
pub mod h1_stream;
pub mod policy;
pub mod proxy_protocol;
pub mod tag;
pub mod token;

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of its module and of its libFuzzer binary.
    pub name: &'static str,
    /// Panics when it finds something.
    pub run: fn(&[u8]),
    /// Inputs to begin with, and those of former findings.
    pub seeds: &'static [&'static [u8]],
    /// Words to put in.
    pub words: &'static [&'static str],
}

/// All of them.
pub const ALL: [Target; 11] = [
    Target {
        name: "command",
        run: command::run,
        seeds: command::SEEDS,
        words: command::WORDS,
    },
    Target {
        name: "config",
        run: config::run,
        seeds: config::SEEDS,
        words: config::WORDS,
    },
    Target {
        name: "cookie",
        run: cookie::run,
        seeds: cookie::SEEDS,
        words: cookie::WORDS,
    },
    Target {
        name: "glob",
        run: glob::run,
        seeds: glob::SEEDS,
        words: glob::WORDS,
    },
    Target {
        name: "h1_request",
        run: h1_request::run,
        seeds: h1_request::SEEDS,
        words: HTTP,
    },
    Target {
        name: "h1_response",
        run: h1_response::run,
        seeds: h1_response::SEEDS,
        words: HTTP,
    },
    Target {
        name: "h1_stream",
        run: h1_stream::run,
        seeds: h1_stream::SEEDS,
        words: HTTP,
    },
    Target {
        name: "policy",
        run: policy::run,
        seeds: policy::SEEDS,
        words: policy::WORDS,
    },
    Target {
        name: "proxy_protocol",
        run: proxy_protocol::run,
        seeds: proxy_protocol::SEEDS,
        words: proxy_protocol::WORDS,
    },
    Target {
        name: "tag",
        run: tag::run,
        seeds: tag::SEEDS,
        words: tag::WORDS,
    },
    Target {
        name: "token",
        run: token::run,
        seeds: token::SEEDS,
        words: token::WORDS,
    },
];

/// Words of HTTP/1 heads and chunked bodies: those of `http.dict`, which libFuzzer gets.
const HTTP: &[&str] = &[
    "Host: a\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: ",
    "Transfer-Encoding: chunked\r\n",
    "Connection: ",
    "close",
    "keep-alive",
    "upgrade",
    "X-Forwarded-For: 1.1.1.1\r\n",
    "Cookie: a=b\r\n",
    "TE: trailers\r\n",
    "Expect: 100-continue\r\n",
    "\r\n\r\n",
    "\r\n",
    "GET / HTTP/1.1\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 304 Not Modified\r\n",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    ";a=b",
    "%2e%2e/",
    "Upgrade: h2c\r\n",
    "Date: x\r\n",
];

/// The first byte as a number, and the rest.
fn number(input: &[u8]) -> (usize, &[u8]) {
    input
        .split_first()
        .map_or((0, input), |(&first, rest)| (first.into(), rest))
}

/// What stands before the first line break, and behind it.
fn pair(input: &[u8]) -> (&[u8], &[u8]) {
    let at = input
        .iter()
        .position(|&byte| byte == b'\n')
        .unwrap_or(input.len());
    (&input[..at], input.get(at + 1..).unwrap_or_default())
}
