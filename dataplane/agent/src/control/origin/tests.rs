use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hawker_proto::url::Url;
use hawker_proto::{BLOCK_BYTES, ByteRange, Geometry, TaskId, hash};
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::control::testing::{Origin, asked_range, blocks, content, serve, shard};
use crate::control::validators::ValidatorSet;
use crate::seam::{OriginEnd, OriginSpec, ShardCommand};

const BLOCK: usize = BLOCK_BYTES as usize;

fn client() -> OriginClient {
    OriginClient::with_roots(rustls::RootCertStore::empty())
}

fn ask(url: &str) -> Ask {
    let headers = vec![("Authorization".to_owned(), "Bearer s3cret".to_owned())];
    Ask { url: Url::parse(url).unwrap(), headers, range: None, condition: Condition::Any, is_named: false }
}

async fn fresh(url: &str) -> Resolved {
    match resolve(&client(), ask(url), [7; 16]).await.unwrap() {
        Resolution::Fresh(resolved) => *resolved,
        Resolution::NotModified => panic!("nobody asked for a revalidation"),
    }
}

/// Fetches `range` of `content` and checks every block that reaches the shard; returns how it ended.
async fn fetch(origin: &Origin, content: &[u8], range: (u64, u64), change: impl FnOnce(&mut FetchJob)) -> OriginEnd {
    let (shard, mut mailbox) = shard();
    let spec = OriginSpec {
        url: origin.url("/file"),
        headers: Vec::new(),
        validators: ValidatorSet { etag: Some("\"v1\"".to_owned()), ..ValidatorSet::default() },
        is_range_ok: true,
        is_named: false,
        direct: None,
    };
    let mut job = FetchJob {
        task: TaskId([1; 32]),
        serial: 9,
        range: ByteRange::new(range.0, range.1).unwrap(),
        // Of 256 KiB blocks.
        geometry: Geometry::of_stream(content.len() as u64).unwrap(),
        spec,
        parked: None,
        shard,
        limit: TaskLimit::default(),
    };
    change(&mut job);
    let (_stop, stopped) = oneshot::channel();
    let (end, _) = run_fetch(client(), blocks(), job, stopped).await;
    let upto = drain(&mut mailbox, content, range.0);
    assert!(end != OriginEnd::Complete || upto == range.1, "complete means all of the range");
    end
}

/// Checks what reached the shard; returns up to where.
fn drain(mailbox: &mut mpsc::Receiver<ShardCommand>, content: &[u8], start: u64) -> u64 {
    let mut next = start;
    while let Ok(command) = mailbox.try_recv() {
        match command {
            ShardCommand::OriginData { serial, offset, block, length, value, .. } => {
                assert_eq!((serial, offset), (9, next), "blocks come in order and once");
                let start = usize::try_from(offset).unwrap();
                assert_eq!(&block.as_slice()[..length], &content[start..start + length]);
                assert_eq!(value, hash::block_value(offset, &content[start..start + length]));
                next += length as u64;
            }
            other => panic!("{other:?}"),
        }
    }
    next
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_arrive_hashed_and_in_order() {
    let content = content(3 * BLOCK + 17);
    let served = content.clone();
    let origin = Origin::start(move |request| serve(&served, request)).await;
    let end = fetch(&origin, &content, (BLOCK as u64, content.len() as u64), |_| ()).await;
    assert_eq!(end, OriginEnd::Complete);
    let request = &origin.requests()[0];
    assert!(request.contains("if-match: \"v1\"\r\n") && request.contains("accept-encoding: identity\r\n"), "{request}");
    assert_eq!(asked_range(request), Some((BLOCK, content.len())));
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_body_goes_on_at_the_last_whole_block() {
    let content = content(3 * BLOCK);
    let served = content.clone();
    let count = AtomicUsize::new(0);
    let origin = Origin::start(move |request| {
        let mut answer = serve(&served, request);
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            answer.truncate(answer.len() - BLOCK - 1000);
        }
        answer
    })
    .await;
    assert_eq!(fetch(&origin, &content, (0, content.len() as u64), |_| ()).await, OriginEnd::Complete);
    let ranges: Vec<_> = origin.requests().iter().map(|request| asked_range(request)).collect();
    assert_eq!(ranges, [Some((0, 3 * BLOCK)), Some((BLOCK, 3 * BLOCK))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn origin_without_ranges_is_read_from_the_start() {
    let content = content(2 * BLOCK + 5);
    let served = content.clone();
    let origin = Origin::start(move |_| serve(&served, "")).await;
    let end = fetch(&origin, &content, (BLOCK as u64, content.len() as u64), |job| job.spec.is_range_ok = false).await;
    assert_eq!(end, OriginEnd::Complete);
    assert_eq!(asked_range(&origin.requests()[0]), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_body_of_the_resolve_is_read_on() {
    let content = content(2 * BLOCK + 5);
    let served = content.clone();
    let origin = Origin::start(move |request| serve(&served, request)).await;
    let resolved = fresh(&origin.url("/file")).await;
    let end = fetch(&origin, &content, (0, content.len() as u64), |job| job.parked = Some(resolved.body)).await;
    assert_eq!(end, OriginEnd::Complete);
    assert_eq!(origin.requests().len(), 1, "no byte is asked for twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_changed_is_never_mixed_in() {
    let content = content(2 * BLOCK);
    for (from, to) in [("etag: \"v1\"", "etag: \"v2\""), ("/524288\r\n", "/524289\r\n")] {
        let served = content.clone();
        let origin = Origin::start(move |request| {
            let answer = serve(&served, request);
            let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
            let changed = String::from_utf8_lossy(&answer[..head]).replace(from, to);
            [changed.as_bytes(), &answer[head..]].concat()
        })
        .await;
        let end = fetch(&origin, &content, (0, content.len() as u64), |_| ()).await;
        assert_eq!(end, OriginEnd::Refused { status: 412 }, "{to}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_fetch_gives_its_lease_back() {
    let content = content(BLOCK);
    let origin = Origin::start(|_| b"HTTP/1.1 206 Partial\r\n".to_vec()).await;
    let end = fetch(&origin, &content, (0, content.len() as u64), |job| {
        job.spec.url = "http://127.0.0.1:1/refuses".to_owned();
    })
    .await;
    assert!(matches!(end, OriginEnd::Failed { .. }), "{end:?}");
    drop(origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn resolve_learns_version_length_and_type_from_one_request() {
    let content = content(1000);
    let origin = Origin::start(move |request| serve(&content, request)).await;
    let resolved = fresh(&origin.url("/file")).await;
    assert_eq!((resolved.length, resolved.is_range_ok, resolved.is_shared), (Some(1000), true, true));
    assert_eq!(resolved.validators().pin().as_deref(), Some("\"v1\""));
    assert_eq!(resolved.media_type.as_deref(), Some("text/plain"));
    assert_eq!(resolved.direct, Some(origin.address));
    let requests = origin.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].contains("authorization: bearer s3cret\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_file_resolves_to_no_bytes() {
    let origin = Origin::start(|request| serve(&[], request)).await;
    assert_eq!(fresh(&origin.url("/empty")).await.length, Some(0));
    assert_eq!(origin.requests().len(), 2, "416 says nothing about validators");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_body_has_no_length_and_no_ranges() {
    let origin = Origin::start(|_| {
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec()
    })
    .await;
    let resolved = fresh(&origin.url("/stream")).await;
    assert_eq!((resolved.length, resolved.is_range_ok), (None, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_carries_its_status_and_no_secret() {
    let origin = Origin::start(|_| b"HTTP/1.1 404 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec()).await;
    let error = resolve(&client(), ask(&origin.url("/gone?token=s3cret")), [7; 16]).await.unwrap_err();
    assert_eq!(error.status(), 404);
    assert!(!error.is_passing());
    let text = format!("{error} {error:?} {:?}", ask(&origin.url("/gone?token=s3cret")));
    assert!(text.contains("404 (not found)") && !text.contains("s3cret") && !text.contains("gone"), "{text}");
    assert_eq!(origin.requests().len(), 1, "a final answer is not asked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_origin_is_asked_again_and_not_forever() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let content = content(10);
    let origin = Origin::start(move |request| match seen.fetch_add(1, Ordering::Relaxed) {
        0 => b"HTTP/1.1 503 Later\r\nretry-after: 0\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec(),
        1 => serve(&content, request),
        _ => b"HTTP/1.1 429 Later\r\nretry-after: 3600\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec(),
    })
    .await;
    assert_eq!(fresh(&origin.url("/busy")).await.length, Some(10));
    let error = resolve(&client(), ask(&origin.url("/busy")), [7; 16]).await.unwrap_err();
    assert_eq!(error.status(), 429);
    assert_eq!(count.load(Ordering::Relaxed), 3, "an hour is not sat out");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_do_not_follow_a_redirect_to_another_origin() {
    let content = content(100);
    let target = Origin::start(move |request| serve(&content, request)).await;
    let location = target.url("/elsewhere");
    let first = Origin::start(move |_| {
        format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .into_bytes()
    })
    .await;
    let resolved = fresh(&first.url("/file")).await;
    assert_eq!(resolved.length, Some(100));
    assert_eq!(resolved.direct, None, "shards do not follow redirects");
    assert!(first.requests()[0].contains("s3cret"));
    let request = &target.requests()[0];
    assert!(!request.contains("s3cret") && asked_range(request).is_some(), "{request}");
}

#[tokio::test(flavor = "multi_thread")]
async fn circle_of_redirects_ends() {
    let origin = Origin::start(|_| {
        b"HTTP/1.1 302 Found\r\nlocation: /again\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec()
    })
    .await;
    let error = resolve(&client(), ask(&origin.url("/again")), [7; 16]).await.unwrap_err();
    assert!(matches!(error, OriginError::TooManyRedirects), "{error}");
    assert_eq!(origin.requests().len(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn revalidation_of_an_unchanged_version_brings_no_body() {
    let origin = Origin::start(|request| {
        assert!(request.contains("if-none-match: \"v1\"\r\n"));
        b"HTTP/1.1 304 Same\r\netag: \"v1\"\r\nconnection: close\r\n\r\n".to_vec()
    })
    .await;
    let condition = Condition::Newer { etag: Some("\"v1\"".to_owned()), last_modified: None };
    let result = resolve(&client(), Ask { condition, ..ask(&origin.url("/file")) }, [7; 16]).await.unwrap();
    assert!(matches!(result, Resolution::NotModified));
}

#[tokio::test(flavor = "multi_thread")]
async fn header_that_would_break_the_request_is_refused_without_its_value() {
    let headers = vec![("X-Token".to_owned(), "s3cret\r\nhost: evil".to_owned())];
    let asked = Ask { headers, ..ask("http://127.0.0.1:1/") };
    let error = client().open(&asked).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("X-Token") && !text.contains("s3cret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_must_be_signed_by_somebody_who_is_trusted() {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = issued.cert.der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let content = content(100);
    let origin = Origin::start_over(
        Arc::new(move |stream| {
            let acceptor = acceptor.clone();
            Box::pin(async move { acceptor.accept(stream).await.ok() })
        }),
        move |request| serve(&content, request),
    )
    .await;
    let url = format!("https://localhost:{}/file", origin.address.port());

    let error = client().open(&ask(&url)).await.unwrap_err();
    assert!(matches!(&error, OriginError::Connect { reason, .. } if reason.contains("certificate")), "{error}");

    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let trusting = OriginClient::with_roots(roots);
    let answered = trusting.open(&ask(&url)).await.unwrap();
    assert_eq!((answered.head.status, answered.direct), (200, None));
    let by_address = format!("https://{}/file", origin.address);
    assert!(trusting.open(&ask(&by_address)).await.is_err(), "the certificate names another host");

    // Settings say that whoever answers there is right: for content that is compared with its digest.
    let anybody = [Url::parse(&url).unwrap().authority()];
    let transports = Transports::with_roots(rustls::RootCertStore::empty(), &anybody);
    let lenient = OriginClient::new(transports.clone());
    assert!(lenient.open(&ask(&url)).await.is_err(), "what nobody compares");
    let named = |url: &str| Ask { is_named: true, ..ask(url) };
    assert_eq!(lenient.open(&named(&url)).await.unwrap().head.status, 200);
    assert!(lenient.open(&named(&by_address)).await.is_err(), "another host");
    let (here, there) = (Url::parse(&url).unwrap(), Url::parse(&by_address).unwrap());
    let hop = Hop { whose: &here, is_lenient: true, ..Hop::to(&there) };
    let mut request = hyper::Request::new(nothing());
    *request.uri_mut() = by_address.parse().unwrap();
    assert!(transports.send(request, hop).await.is_err(), "one that is named by whoever answered");
}
