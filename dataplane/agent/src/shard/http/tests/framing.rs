//! What servers read in two ways is refused, over real sockets: the machine's own tests have every case.

use super::*;

#[test]
fn bytes_that_are_no_request_are_refused_and_reach_nobody() {
    on_both_engines(Rates::default(), |mut plane| async move {
        let long = format!("GET /{} HTTP/1.1\r\nHost: here\r\n\r\n", "a".repeat(9_000));
        let many: String = (0..101).map(|index| format!("X-{index}: y\r\n")).collect();
        for (bytes, status) in [
            ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}", 400),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\nHost: a\n\n", 400),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n", 417),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            ("GET /../etc HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (long.as_str(), 414),
            (&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 431),
        ] {
            let mut client = Client::connect(&plane).await;
            // What comes behind it is no request either.
            client.say(format!("{bytes}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            let head = client.head().await;
            assert_eq!((head.status, head.field("Connection")), (status, Some("close")), "{bytes:?}");
            let text = client.rest().await;
            assert_eq!(text.len(), head.length(), "{bytes:?}: one answer and a clean end");
        }
        assert!(plane.requests.try_recv().is_err(), "nobody heard of any");
        plane
    });
}

#[test]
fn request_comes_whole_in_whatever_pieces() {
    on_both_engines(Rates::default(), |mut plane| async move {
        echo(&mut plane);
        let mut client = Client::connect(&plane).await;
        client.socket.set_nodelay(true).expect("a socket");
        for byte in b"GET /slowly HTTP/1.1\r\nHost: here\r\n\r\n" {
            client.say([*byte]).await;
        }
        assert_eq!(client.text().await, (200, "GET /slowly\n".to_owned()));
        // An end of the client's side takes nothing from its answers.
        client.say("GET /a HTTP/1.1\r\nHost: here\r\n\r\nGET /b HTTP/1.1\r\nHost: here\r\n\r\n").await;
        client.socket.shutdown().await.expect("open");
        assert_eq!(client.text().await.1, "GET /a\n");
        assert_eq!(client.text().await.1, "GET /b\n");
        assert!(client.rest().await.is_empty());
        plane
    });
}
