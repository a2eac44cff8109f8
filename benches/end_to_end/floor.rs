//! The bottom line: a process that pumps bytes between each client and a backend connection of its
//! own. No parsing, no routing: what is left is the kernel's price, and the runtime's.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Serves until it is killed. `pairs`: the port to listen at, and the port to pump to, alternating.
pub(crate) fn run(ports: &[u16]) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            let doors = ports.chunks_exact(2).map(|pair| serve(pair[0], pair[1]));
            futures_util::future::join_all(doors).await;
        });
}

async fn serve(from: u16, to: u16) {
    let listener = TcpListener::bind(("127.0.0.1", from)).await.unwrap();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        tokio::spawn(async move {
            let Ok(upstream) = TcpStream::connect(("127.0.0.1", to)).await else {
                return;
            };
            let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
            let (client, upstream) = (client.into_split(), upstream.into_split());
            // A side that ended or failed ends the pair.
            let _ = tokio::try_join!(pump(client.0, upstream.1), pump(upstream.0, client.1));
        });
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all(&buffer[..read]).await?;
    }
}
