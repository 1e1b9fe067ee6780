//! HTTP clients on plain sockets, shards of both engines, and the test in control's place.

mod bodies;
mod contents;
mod framing;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hawker_proto::hash::block_values;
use hawker_proto::http1::{Content, Reply, select};
use hawker_proto::identity::HostKey;
use hawker_proto::{Geometry, PieceIndex, TaskId};
use hawker_storage::WriteMode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::Rates;
use crate::control::http::exchange::Exchange;
use crate::control::http::text;
use crate::seam::{ShardCommand, ShardEvent, ShardHandle};
use crate::shard::tests::{ENGINES, HANG, Plane, content, runtime, size};
use crate::share::SharedTask;

/// Runs `test` with a plane of each engine.
fn on_both_engines<F: Future<Output = Plane>>(rates: Rates, test: impl Fn(Plane) -> F) {
    for engine in ENGINES {
        runtime().block_on(async {
            let plane = Plane::start(1, engine, rates, &HostKey::from_seed([99; 32]));
            let plane = timeout(HANG * 2, test(plane)).await.unwrap_or_else(|_| panic!("{engine:?}: hung"));
            plane.stop().await;
        });
    }
}

/// The next request.
async fn asked(plane: &mut Plane) -> Exchange {
    let asked = timeout(HANG, plane.requests.recv()).await.expect("a request").expect("running shards");
    let shard = plane.shards.handles[asked.id.shard].clone();
    Exchange::new(shard, asked)
}

/// Answers each request with its method and target, until the plane ends.
fn echo(plane: &mut Plane) {
    let (_, none) = tokio::sync::mpsc::channel(1);
    let mut requests = std::mem::replace(&mut plane.requests, none);
    let shards = plane.shards.handles.clone();
    tokio::spawn(async move {
        while let Some(asked) = requests.recv().await {
            let exchange = Exchange::new(shards[asked.id.shard].clone(), asked);
            let head = &exchange.request().head;
            let said = text(200, &format!("{} {}\n", head.method, head.target));
            tokio::spawn(exchange.reply(said));
        }
    });
}

/// One client.
struct Client {
    socket: TcpStream,
}

/// An answer's head.
struct Head {
    status: u16,
    fields: String,
}

impl Head {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn length(&self) -> usize {
        self.field("Content-Length").expect("a length").parse().expect("a number")
    }
}

impl Client {
    async fn connect(plane: &Plane) -> Self {
        Self::connect_to(plane.shards.http_address.expect("a port")).await
    }

    async fn connect_to(address: SocketAddr) -> Self {
        Self { socket: TcpStream::connect(address).await.expect("it listens") }
    }

    async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).await.expect("it reads");
    }

    async fn get(&mut self, target: &str, fields: &str) {
        self.say(format!("GET {target} HTTP/1.1\r\nHost: here\r\n{fields}\r\n")).await;
    }

    async fn head(&mut self) -> Head {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(timeout(HANG, self.socket.read_u8()).await.expect("a head").expect("an open connection"));
        }
        let text = String::from_utf8(bytes).expect("text");
        let (line, fields) = text.split_once("\r\n").expect("lines");
        let status = line.split(' ').nth(1).expect("a status").parse().expect("a number");
        assert!(fields.contains("Date: "), "{text}");
        Head { status, fields: fields.to_owned() }
    }

    async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        timeout(HANG, self.socket.read_exact(&mut bytes)).await.expect("bytes").expect("an open connection");
        bytes
    }

    async fn text(&mut self) -> (u16, String) {
        let head = self.head().await;
        (head.status, String::from_utf8(self.bytes(head.length()).await).expect("text"))
    }

    /// All that comes until the clean end of the other side.
    async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        timeout(HANG, self.socket.read_to_end(&mut bytes)).await.expect("an end").expect("no reset");
        bytes
    }
}

/// A task of which nothing is here.
async fn empty_task(plane: &Plane, bytes: &[u8]) -> Arc<SharedTask> {
    let geometry = Geometry::of_length(bytes.len() as u64).expect("a length");
    let name = TaskId([u8::try_from(bytes.len() % 251).expect("small"); 32]);
    plane.create(name, geometry, WriteMode::Buffered).await
}

/// Stores one piece and tells the shards.
async fn store(shards: &[ShardHandle], task: &SharedTask, bytes: &[u8], piece: u32) {
    let (geometry, piece) = (task.geometry(), PieceIndex(piece));
    let range = geometry.piece_range(piece);
    let part = &bytes[size(range.start())..size(range.end())];
    hawker_storage::blocking::write_at(task.file().content(), part, range.start()).expect("a disk");
    task.file().put_record(piece, &block_values(geometry, range.start(), part)).expect("the same record");
    task.file().mark_received(piece);
    for handle in shards {
        handle.send(ShardCommand::Changed { task: task.id() }).await;
    }
}

/// A task of which all is here.
async fn whole_task(plane: &Plane, bytes: &[u8]) -> Arc<SharedTask> {
    let task = empty_task(plane, bytes).await;
    for piece in 0..task.geometry().piece_count() {
        store(&plane.shards.handles, &task, bytes, piece).await;
    }
    task
}

/// What a request asks for of a content with this tag.
fn selected(exchange: &Exchange, length: usize, etag: &str) -> Reply {
    let total = length as u64;
    let content = Content { length: total, etag: Some(etag), last_modified: None };
    let selection = select(&exchange.request().head, &content);
    Reply::selected(selection, total, 0, vec![("ETag".to_owned(), etag.to_owned())], Vec::new()).expect("an answer")
}

/// Whether nothing comes for a moment.
async fn is_silent(client: &mut Client) -> bool {
    let mut byte = [0];
    timeout(Duration::from_millis(100), client.socket.peek(&mut byte)).await.is_err()
}

#[test]
fn answers_come_in_order_over_one_connection() {
    on_both_engines(Rates::default(), |mut plane| async move {
        echo(&mut plane);
        let mut client = Client::connect(&plane).await;
        for turn in 0..3 {
            client.get(&format!("/{turn}"), "").await;
            assert_eq!(client.text().await, (200, format!("GET /{turn}\n")));
        }
        let one = |turn: usize| format!("GET /pipelined/{turn} HTTP/1.1\r\nHost: here\r\n\r\n");
        client.say((0..500).map(one).collect::<String>()).await;
        for turn in 0..500 {
            assert_eq!(client.text().await, (200, format!("GET /pipelined/{turn}\n")));
        }
        client.say("HEAD /head HTTP/1.1\r\nHost: here\r\n\r\nGET /last HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").await;
        let head = client.head().await;
        assert_eq!((head.status, head.length()), (200, "HEAD /head\n".len()));
        assert_eq!(client.text().await, (200, "GET /last\n".to_owned()));
        assert!(client.rest().await.is_empty());
        plane
    });
}

#[test]
fn request_that_nobody_answers_is_a_500_and_the_connection_ends() {
    on_both_engines(Rates::default(), |mut plane| async move {
        let mut client = Client::connect(&plane).await;
        client.get("/", "").await;
        drop(asked(&mut plane).await);
        let head = client.head().await;
        assert_eq!((head.status, head.field("Connection")), (500, Some("close")));
        client.rest().await;
        plane
    });
}

#[test]
fn client_that_goes_away_is_noticed_before_and_during_its_answer() {
    on_both_engines(Rates::default(), |mut plane| async move {
        let mut client = Client::connect(&plane).await;
        client.get("/", "").await;
        let mut exchange = asked(&mut plane).await;
        // A reset: an orderly end only says that no further request comes.
        client.socket.set_zero_linger().expect("a socket");
        drop(client);
        timeout(HANG, exchange.gone()).await.expect("it is gone");

        let bytes = content(64 << 20);
        let task = whole_task(&plane, &bytes).await;
        let mut client = Client::connect(&plane).await;
        client.get("/", "").await;
        let exchange = asked(&mut plane).await;
        let reply = selected(&exchange, bytes.len(), "\"1\"");
        let mut sending = exchange.reply_task(reply, task).await;
        client.head().await;
        client.socket.set_zero_linger().expect("a socket");
        drop(client);
        let sent = timeout(HANG, sending.sent()).await.expect("it is gone");
        assert!(!sent.is_complete && sent.content_bytes < bytes.len() as u64, "{sent:?}");
        plane
    });
}

#[test]
fn the_longest_idle_client_makes_room_and_who_is_served_stays() {
    on_both_engines(Rates::default(), |mut plane| async move {
        let mut served = Client::connect(&plane).await;
        served.get("/", "").await;
        let exchange = asked(&mut plane).await;
        let address = plane.shards.http_address.expect("a port");
        let many = plane.shards.limits.http + 8;
        let mut crowd = Vec::new();
        for _ in 0..many {
            crowd.push(Client::connect_to(address).await);
        }
        let mut first = crowd.remove(0);
        assert!(first.rest().await.is_empty(), "closed for a newer one");
        let answered = tokio::spawn(exchange.reply(text(200, "still here\n")));
        assert_eq!(served.text().await.1, "still here\n");
        assert!(answered.await.expect("no panic").is_complete);
        echo(&mut plane);
        let mut last = crowd.pop().expect("many");
        last.get("/newest", "").await;
        assert_eq!(last.text().await.1, "GET /newest\n");
        plane
    });
}
