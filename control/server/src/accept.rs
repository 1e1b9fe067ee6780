//! Connections in, whatever goes wrong with single ones.

use std::io;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

/// Connections accepted and not yet taken over.
const BACKLOG: usize = 64;

/// Out of descriptors or memory: others close in the meantime.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until `stopping`. An error never ends it: the listener lives on, the connection was lost anyway.
pub(crate) fn incoming(
    listener: TcpListener,
    mut stopping: watch::Receiver<bool>,
) -> ReceiverStream<io::Result<TcpStream>> {
    let (connections, taken) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopping.wait_for(|is_stopping| *is_stopping) => return,
                () = connections.closed() => return,
            };
            match accepted {
                Ok((connection, from)) => {
                    if let Err(error) = connection.set_nodelay(true) {
                        tracing::debug!(%from, %error, "connection was gone before it was served");
                        continue;
                    }
                    if connections.send(Ok(connection)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    });
    ReceiverStream::new(taken)
}
