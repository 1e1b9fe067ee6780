//! What tests of the control half stand on: an origin that follows a script, and shards that only listen.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use hawker_ring::{Budget, EngineChoice, EngineConfig, Slab, SlabLimits};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::origin::BlockSource;
use crate::rates::HostRates;
use crate::seam::{COMMAND_QUEUE_MAX, ShardCommand, ShardHandle};

/// An origin on loopback: every request's head (and a form, as it is) goes to the script, whose bytes are the answer; then it hangs up.
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

type Script = Arc<dyn Fn(&str) -> Vec<u8> + Send + Sync>;
type Upgrade<S> = Arc<dyn Fn(tokio::net::TcpStream) -> Pin<Box<dyn Future<Output = Option<S>> + Send>> + Send + Sync>;

impl Origin {
    pub(super) async fn start(script: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start_over(Arc::new(|stream| Box::pin(async move { Some(stream) })), script).await
    }

    pub(super) async fn start_over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        upgrade: Upgrade<S>,
        script: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let script: Script = Arc::new(script);
        let log = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, script, upgrade) = (Arc::clone(&log), Arc::clone(&script), Arc::clone(&upgrade));
                tokio::spawn(async move {
                    let Some(mut stream) = upgrade(stream).await else { return };
                    let Some(head) = head(&mut stream).await else { return };
                    let answer = script(&head);
                    log.lock().unwrap().push(head);
                    // A client that has seen enough hangs up first.
                    let _ = stream.write_all(&answer).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { address, requests }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    let mut text = String::from_utf8(bytes).ok()?.to_ascii_lowercase();
    // A form is as good as a query; other bodies are none of a script's business.
    if text.contains("content-type: application/x-www-form-urlencoded\r\n") {
        let (_, rest) = text.split_once("content-length: ")?;
        let mut form = vec![0; rest.split_once("\r\n")?.0.parse().ok()?];
        stream.read_exact(&mut form).await.ok()?;
        text.push_str(&String::from_utf8(form).ok()?);
    }
    Some(text)
}

/// The bytes `[start, end)` that a request asks for.
pub(super) fn asked_range(request: &str) -> Option<(usize, usize)> {
    let (_, rest) = request.split_once("range: bytes=")?;
    let (range, _) = rest.split_once("\r\n")?;
    let (start, last) = range.split_once('-')?;
    Some((start.parse().ok()?, last.parse::<usize>().ok()? + 1))
}

/// What a well-behaved server of `content` answers.
pub(super) fn serve(content: &[u8], request: &str) -> Vec<u8> {
    let fields = "etag: \"v1\"\r\ncontent-type: text/plain\r\n";
    let (head, body) = match asked_range(request) {
        Some((start, _)) if start >= content.len() => {
            (format!("HTTP/1.1 416 No\r\ncontent-range: bytes */{}\r\ncontent-length: 0\r\n", content.len()), &[][..])
        }
        Some((start, end)) => {
            let end = end.min(content.len());
            let range = format!("content-range: bytes {start}-{}/{}\r\n", end - 1, content.len());
            (format!("HTTP/1.1 206 Partial\r\n{range}content-length: {}\r\n", end - start), &content[start..end])
        }
        None => (format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", content.len()), content),
    };
    let mut answer = format!("{head}{fields}connection: close\r\n\r\n").into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// Bytes in which no two blocks are equal.
pub(super) fn content(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from((index ^ (index >> 16)) % 251).unwrap()).collect()
}

/// A shard's mailbox and what is put into it.
pub(crate) fn shard() -> (ShardHandle, mpsc::Receiver<ShardCommand>) {
    let detection = hawker_ring::detect(EngineChoice::Epoll).unwrap();
    let waker = hawker_ring::open(&detection, &EngineConfig::default()).unwrap().waker();
    let (commands, mailbox) = mpsc::channel(COMMAND_QUEUE_MAX);
    (ShardHandle { commands, waker }, mailbox)
}

pub(super) fn blocks() -> BlockSource {
    let limits = SlabLimits { bytes_max: 8 << 20, reserve_blocks: 0 };
    let slab = Slab::new(limits, Budget::new(8 << 20)).unwrap();
    BlockSource::new(slab, Arc::new(HostRates::default()))
}
