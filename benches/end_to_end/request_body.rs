//! Reads request bodies of the backend's HTTP/1.1 to their end, and forgets them.

use std::io;

use bytes::BytesMut;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Reads the body behind this head, of which the buffer holds the beginning. What follows it stays
/// in the buffer.
pub(crate) async fn skip(
    head: &[u8],
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
) -> io::Result<()> {
    if head.starts_with(b"GET") {
        return Ok(());
    }
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    if field("transfer-encoding:").is_some() {
        return skip_chunks(stream, buffer).await;
    }
    let length = field("content-length:").map_or(0, |value| value.trim().parse().unwrap_or(0));
    skip_bytes(length, stream, buffer).await
}

async fn skip_bytes(
    mut count: usize,
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
) -> io::Result<()> {
    while count > 0 {
        if buffer.is_empty() {
            read(stream, buffer).await?;
        }
        let part = count.min(buffer.len());
        drop(buffer.split_to(part));
        count -= part;
    }
    Ok(())
}

/// Chunks without trailers, which no client here sends.
async fn skip_chunks(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<()> {
    loop {
        let end = loop {
            if let Some(end) = memchr::memmem::find(buffer, b"\r\n") {
                break end;
            }
            read(stream, buffer).await?;
        };
        let line = buffer.split_to(end + 2);
        let size = str::from_utf8(&line[..end])
            .ok()
            .and_then(|text| usize::from_str_radix(text, 16).ok());
        let size = size.ok_or(io::ErrorKind::InvalidData)?;
        skip_bytes(size + 2, stream, buffer).await?;
        if size == 0 {
            return Ok(());
        }
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<()> {
    if stream.read_buf(buffer).await? == 0 {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(())
    }
}
