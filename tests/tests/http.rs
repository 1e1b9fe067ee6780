//! The HTTP port of a real agent: connections that live on, answers to what is asked, a clean end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use hawker_tests::loopback::Loopback;
use hawker_tests::process::wait_until;
use hawker_tests::{http_get, workspace};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_mins(2);

fn on_both_engines(test: &str, check: impl Fn(&'static str)) {
    let obstacle = workspace::find_program("nginx").is_none().then_some("nginx is not installed");
    hawker_tests::on_both_engines(test, obstacle, check);
}

/// A connection that is kept.
struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).expect("it listens");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        Self(socket)
    }

    fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).expect("it reads");
    }

    /// The next answer's head and body.
    fn answer(&mut self, is_head_request: bool) -> (String, String) {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).expect("an answer");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
        let mut body = vec![0; if is_head_request { 0 } else { length.parse().expect("a number") }];
        self.0.read_exact(&mut body).expect("a body");
        (head, String::from_utf8(body).expect("text"))
    }
}

#[test]
fn one_connection_carries_probes_scrapes_and_mistakes() {
    on_both_engines("one_connection_carries", |engine| {
        let cluster = Loopback::start(engine, 1);
        let [_, http] = cluster.listeners(0);
        let mut client = Client::connect(http);
        // All at once: they are answered in order.
        let methods = [("GET", "/healthz"), ("HEAD", "/healthz"), ("POST", "/metrics"), ("GET", "/nothing?x=/healthz")];
        let all =
            methods.map(|(method, path)| format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
        client.say(&all.concat());
        let (head, body) = client.answer(false);
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("\r\nDate: "), "{engine}: {head}");
        assert_eq!(body, "ok\n");
        let (head, _) = client.answer(true);
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("Content-Length: 3\r\n"), "{engine}: {head}");
        let (head, _) = client.answer(false);
        assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("Allow: GET, HEAD\r\n"), "{engine}: {head}");
        assert!(client.answer(false).0.starts_with("HTTP/1.1 404 "), "{engine}");
        client.say("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        let (head, figures) = client.answer(false);
        assert!(head.contains("Content-Type: application/openmetrics-text"), "{engine}: {head}");
        for line in [
            "hawker_http_answers_total{class=\"2xx\"} 2",
            "hawker_http_answers_total{class=\"4xx\"} 2",
            "hawker_http_connections 1",
            "hawker_http_requests_running 1",
        ] {
            assert!(figures.lines().any(|found| found == line), "{engine}: {line} is not in {figures}");
        }
    });
}

#[test]
fn agent_that_stops_ends_idle_connections_cleanly() {
    on_both_engines("agent_that_stops", |engine| {
        let mut cluster = Loopback::start(engine, 1);
        let [_, http] = cluster.listeners(0);
        let mut idle = Client::connect(http);
        idle.say("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(idle.answer(false).1, "ok\n");
        let mut half = Client::connect(http);
        half.say("GET /healthz HTTP/1.1\r\nHost: a");
        assert!(http_get(http, "/healthz", "").ends_with("ok\n"));
        cluster.agent(0).signal(Signal::TERM);
        for client in [&mut idle, &mut half] {
            let mut rest = Vec::new();
            client.0.read_to_end(&mut rest).expect("a clean end, no reset");
            assert!(rest.is_empty(), "{engine}: {rest:?}");
        }
        wait_until(LIMIT, "stopped", || !cluster.agent(0).is_running());
        assert!(!cluster.agent(0).stderr().contains("panicked"), "{}", cluster.agent(0).stderr());
    });
}
