//! Many downloads at once by one process: what a thousand commands would say to their agent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hawker_api::frame;
use hawker_api::local::event::Event as Kind;
use hawker_api::local::{Done, Event, Get, Request, request};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// How a download ended.
#[derive(Debug)]
pub enum Answer {
    Done(Box<Done>),
    /// The agent's words.
    Refused(String),
    /// The connection ended without any.
    Broken(io::Error),
}

/// Asks the agent at `socket` for all of `urls` at once and waits for each to end.
///
/// # Panics
/// When one has not ended after `limit`.
#[must_use]
pub fn get_all(socket: &Path, urls: &[String], limit: Duration) -> Vec<Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let gets = urls.iter().map(|url| tokio::spawn(get(socket.to_owned(), url.clone()))).collect::<Vec<_>>();
        let all = async {
            let mut answers = Vec::new();
            for get in gets {
                answers.push(get.await.expect("no panic").unwrap_or_else(Answer::Broken));
            }
            answers
        };
        tokio::time::timeout(limit, all).await.unwrap_or_else(|_| panic!("downloads hang after {limit:?}"))
    })
}

async fn get(socket: PathBuf, url: String) -> io::Result<Answer> {
    let mut stream = connect(&socket).await?;
    // A link's path comes with the end, so that what the store has can be looked at.
    let get = Get { url, link: true, ..Default::default() };
    let mut bytes = Vec::new();
    frame::encode(&Request { request: Some(request::Request::Get(get)) }, &mut bytes).map_err(io::Error::other)?;
    stream.write_all(&bytes).await?;
    loop {
        let mut head = [0; frame::HEAD_BYTES];
        stream.read_exact(&mut head).await?;
        let mut payload = vec![0; frame::payload_bytes(head).map_err(io::Error::other)?];
        stream.read_exact(&mut payload).await?;
        match Event::decode(payload.as_slice()).map_err(io::Error::other)?.event {
            Some(Kind::Done(done)) => return Ok(Answer::Done(Box::new(done))),
            Some(Kind::Error(error)) => return Ok(Answer::Refused(format!("{}; {}", error.message, error.hint))),
            _ => {}
        }
    }
}

/// A listener whose queue is full says so at once: commands wait in connect(2) instead.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            connected => return connected,
        }
    }
}
