mod tokens;

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use hawker_proto::HostId;
use hawker_proto::http1::{BodyFraming, Request};
use hawker_proto::oci::Registry;
use hawker_proto::resolve::DigestHasher;
use hawker_proto::url::Url;
use tokio::sync::oneshot;

use super::*;
use crate::config::{RegistryConfig, TagPolicy};
use crate::control::testing::{Origin, shard};
use crate::seam::{HttpAction, HttpCommand, HttpContent, HttpId, HttpRequest, ShardCommand};

const MANIFEST: &str = "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\"}";
const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

fn sha256(bytes: &[u8]) -> String {
    let mut hasher = DigestHasher::like(&Digest::Sha256([0; 32]));
    hasher.update(bytes);
    hasher.finish().to_string()
}

/// What a client got.
#[derive(Debug)]
struct Got {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A mirror in front of a scripted registry, and a director that has no room: what is let in is passed through.
struct Stage {
    mirror: Arc<Mirror>,
    registry: Origin,
    asked: Arc<AtomicUsize>,
    _directory: tempfile::TempDir,
}

/// `status`, fields and body.
fn answer(status: u16, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} x\r\nconnection: close\r\n");
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !fields.iter().any(|(name, _)| *name == "content-length") {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    let mut bytes = format!("{text}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

impl Stage {
    async fn new(script: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::with(|_| (), |_| (), script).await
    }

    async fn with(
        change: impl FnOnce(&mut RegistryConfig),
        change_all: impl FnOnce(&mut MirrorConfig),
        script: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let registry = Origin::start(script).await;
        let name = Registry::parse("r.io").unwrap();
        let mut config = RegistryConfig {
            url: Some(Url::parse(&registry.url("/")).unwrap()),
            is_insecure: true,
            ..RegistryConfig::of(name)
        };
        change(&mut config);
        let mut all = MirrorConfig { registries: vec![config], ..MirrorConfig::default() };
        change_all(&mut all);
        let directory = tempfile::tempdir().unwrap();
        let (asks, mut questions) = mpsc::channel(64);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Some(ask) = questions.recv().await {
                if let Ask::Get { events, .. } = ask {
                    count.fetch_add(1, Ordering::Relaxed);
                    let full = Failure::disk_full("no room");
                    events.try_send(crate::control::caller::CallerEvent::Failed(full)).unwrap();
                }
            }
        });
        let (keeper, mut mailbox) = shard();
        // A store that has nothing.
        tokio::spawn(async move { while mailbox.recv().await.is_some() {} });
        let parts = MirrorParts {
            host: HostId([7; 32]),
            transports: Transports::with_roots(rustls::RootCertStore::empty(), &[]),
            asks,
            shards: vec![keeper],
            book: TagBook::new(HostId([7; 32]), None),
        };
        Self { mirror: Mirror::new(&all, directory.path(), parts), registry, asked, _directory: directory }
    }

    async fn get(&self, target: &str, headers: &[(&str, &str)]) -> Got {
        self.ask("GET", target, headers, None).await
    }

    async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Got {
        let (handle, mut mailbox) = shard();
        let (sender, end) = oneshot::channel();
        let (parts, part_queue) = mpsc::channel(2);
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let head = RequestHead {
            method: method.to_owned(),
            target: target.to_owned(),
            host: "127.0.0.1:7311".to_owned(),
            headers,
        };
        let framing = body.map_or(BodyFraming::Empty, |body| BodyFraming::Length(body.len() as u64));
        let request = Request { head, version_minor: 1, framing, expects_continue: false, is_kept_alive: true };
        let asked = HttpRequest {
            id: HttpId { shard: 0, connection: 1, request: 1 },
            from: "127.0.0.1:1".parse().unwrap(),
            request: Box::new(request),
            body: body.map(|_| part_queue),
            end,
        };
        let serving = tokio::spawn(Arc::clone(&self.mirror).serve(Exchange::new(handle, asked)));
        let is_head = method == "HEAD";
        let mut got = None;
        let mut window = None;
        let body = body.map(<[u8]>::to_vec);
        while let Some(command) = mailbox.recv().await {
            let ShardCommand::Http(HttpCommand { action, .. }) = command else { panic!("another command") };
            match action {
                HttpAction::TakeBody => {
                    parts.send(crate::seam::BodyPart::Bytes(body.clone().unwrap())).await.unwrap();
                    parts.send(crate::seam::BodyPart::End).await.unwrap();
                }
                HttpAction::BodyTaken => {}
                HttpAction::Reply { reply, content, .. } => {
                    let (status, headers) = (reply.status(), reply.headers().to_vec());
                    let length = reply.length();
                    let body = match reply.body() {
                        ReplyBody::Inline(bytes) => bytes.clone(),
                        ReplyBody::Content { .. } => Vec::new(),
                    };
                    let mut found = Got { status, headers, body };
                    found.headers.push(("Content-Length".to_owned(), length.to_string()));
                    got = Some(found);
                    match content {
                        HttpContent::Stream(permits) if !is_head && length > 0 => window = Some((permits, length)),
                        HttpContent::Stream(_) | HttpContent::Inline => break,
                        HttpContent::Task(_) => panic!("the director opens nothing"),
                    }
                }
                HttpAction::Push(bytes) => {
                    let (permits, left) = window.as_mut().unwrap();
                    permits.add_permits(bytes.len());
                    *left -= bytes.len() as u64;
                    got.as_mut().unwrap().body.extend_from_slice(&bytes);
                    if *left == 0 {
                        break;
                    }
                }
                HttpAction::Lost { .. } | HttpAction::Fail => break,
            }
        }
        let got = got.expect("an answer");
        let sent = Sent { content_bytes: got.body.len() as u64, is_complete: true };
        // A stream's promise may be gone already.
        let _ = sender.send(sent);
        serving.await.unwrap();
        got
    }

    fn requests(&self) -> Vec<String> {
        self.registry.requests()
    }

    fn gets(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// A registry of one repository, `team/app`, with one manifest under `v1`, for `basic alice` alone.
fn private(request: &str) -> Vec<u8> {
    if !request.contains("authorization: basic alice\r\n") {
        return answer(401, &[("www-authenticate", "Basic realm=\"r\"")], b"");
    }
    repository(request)
}

fn repository(request: &str) -> Vec<u8> {
    let digest = sha256(MANIFEST.as_bytes());
    let blob = vec![5_u8; 100_000];
    let is_head = request.starts_with("head ");
    let (fields, body) = if request.contains(&format!(" /v2/team/app/manifests/{digest} "))
        || request.contains(" /v2/team/app/manifests/v1 ")
    {
        (vec![("content-type", OCI), ("docker-content-digest", digest.as_str())], MANIFEST.as_bytes())
    } else if request.contains(&format!(" /v2/team/app/blobs/{} ", sha256(&blob))) {
        (vec![("content-type", "application/octet-stream")], blob.as_slice())
    } else {
        return answer(404, &[], b"");
    };
    let length = body.len().to_string();
    let mut fields = fields;
    fields.push(("content-length", &length));
    answer(200, &fields, if is_head { b"" } else { body })
}

#[tokio::test(flavor = "multi_thread")]
async fn object_of_a_private_repository_is_for_those_whom_the_registry_lets_in() {
    let stage = Stage::new(private).await;
    let blob = sha256(&[5; 100_000]);
    let target = format!("/v2/team/app/blobs/{blob}?ns=r.io");
    let alice = [("authorization", "Basic alice")];
    let got = stage.get(&target, &alice).await;
    assert_eq!((got.status, got.body.len()), (200, 100_000));
    assert_eq!(stage.gets(), 1, "who is let in is asked for through the swarm");
    let bob = [("authorization", "Basic bob")];
    for headers in [&bob[..], &[]] {
        let got = stage.get(&target, headers).await;
        assert_eq!((got.status, got.header("www-authenticate")), (401, Some("Basic realm=\"r\"")));
        assert!(got.text().contains("UNAUTHORIZED"), "{}", got.text());
        assert_eq!(got.header("oci-namespace"), Some("r.io"));
    }
    assert_eq!(stage.gets(), 1, "nobody else's question reaches the swarm");
    // The same digest through another repository is another question.
    let other = stage.get(&format!("/v2/team/other/blobs/{blob}?ns=r.io"), &alice).await;
    assert_eq!((other.status, stage.gets()), (404, 1));
    assert!(other.text().contains("BLOB_UNKNOWN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn right_is_asked_for_once_and_by_all_at_once() {
    let stage = Arc::new(Stage::new(private).await);
    let target = format!("/v2/r.io/team/app/blobs/{}", sha256(&[5; 100_000]));
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (stage, target) = (Arc::clone(&stage), target.clone());
        all.spawn(async move { stage.get(&target, &[("authorization", "Basic alice")]).await.status });
    }
    while let Some(status) = all.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    let heads = stage.requests().iter().filter(|request| request.starts_with("head ")).count();
    assert_eq!(heads, 1, "{:?}", stage.requests());
    assert_eq!(stage.mirror.figures().checks.value(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn manifest_by_tag_says_what_the_registry_says_and_head_says_what_get_says() {
    let stage = Stage::new(repository).await;
    let digest = sha256(MANIFEST.as_bytes());
    for reference in ["v1", digest.as_str()] {
        let target = format!("/v2/team/app/manifests/{reference}?ns=r.io");
        let got = stage.get(&target, &[("accept", OCI)]).await;
        assert_eq!((got.status, got.text().as_str()), (200, MANIFEST), "{reference}");
        let head = stage.ask("HEAD", &target, &[("accept", OCI)], None).await;
        assert_eq!(head.status, 200);
        for name in ["content-type", "content-length", "docker-content-digest"] {
            assert_eq!(head.header(name), got.header(name), "{reference} {name}");
        }
        assert_eq!(head.header("docker-content-digest"), Some(digest.as_str()));
    }
    let missing = stage.get("/v2/team/app/manifests/v2?ns=r.io", &[]).await;
    assert_eq!(missing.status, 404);
    assert!(missing.text().contains("MANIFEST_UNKNOWN"));
    assert!(stage.requests().iter().all(|request| request.contains("accept-encoding: identity\r\n")));
}

#[tokio::test(flavor = "multi_thread")]
async fn manifest_that_is_another_than_its_digest_says_is_not_given_out() {
    let stage = Stage::new(|request| {
        let is_head = request.starts_with("head ");
        let length = MANIFEST.len().to_string();
        answer(
            200,
            &[("content-type", OCI), ("content-length", &length)],
            if is_head { b"" } else { MANIFEST.as_bytes() },
        )
    })
    .await;
    // The host has no room, so each is the registry's own answer.
    let target = |digest: String| format!("/v2/team/app/manifests/{digest}?ns=r.io");
    let right = stage.get(&target(sha256(MANIFEST.as_bytes())), &[("accept", OCI)]).await;
    assert_eq!((right.status, right.text().as_str()), (200, MANIFEST));
    let wrong = stage.get(&target(sha256(b"another")), &[("accept", OCI)]).await;
    assert_eq!(wrong.status, 502, "{}", wrong.text());
    assert!(wrong.text().contains("MANIFEST_INVALID"), "{}", wrong.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_is_believed_as_long_as_its_policy_says() {
    let rules = |config: &mut MirrorConfig| {
        config.tags =
            vec![TagRule { pattern: "r.io/team/app:v1".to_owned(), policy: TagPolicy::For(Duration::from_secs(600)) }];
    };
    for (is_ruled, questions) in [(true, 1), (false, 3)] {
        let change = |config: &mut MirrorConfig| {
            if is_ruled {
                rules(config);
            }
        };
        let stage = Stage::with(|_| (), change, repository).await;
        for _ in 0..3 {
            let got = stage.ask("HEAD", "/v2/team/app/manifests/v1?ns=r.io", &[("accept", OCI)], None).await;
            assert_eq!(got.status, 200);
        }
        let asked = stage.requests().iter().filter(|request| request.contains("/manifests/v1 ")).count();
        assert_eq!(asked, questions, "{is_ruled}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_in_trouble_is_answered_for_by_what_it_said_last() {
    let is_ill = Arc::new(Mutex::new(None::<u16>));
    let state = Arc::clone(&is_ill);
    let stage = Stage::new(move |request| match *state.lock().unwrap() {
        Some(status) => answer(status, &[("retry-after", "7")], b""),
        None => private(request),
    })
    .await;
    let target = "/v2/team/app/manifests/v1?ns=r.io";
    let headers = [("authorization", "Basic alice"), ("accept", OCI)];
    assert_eq!(stage.ask("HEAD", target, &headers, None).await.status, 200);
    for status in [429, 500, 503] {
        *is_ill.lock().unwrap() = Some(status);
        let got = stage.ask("HEAD", target, &headers, None).await;
        assert_eq!(got.status, 200, "{status}");
        assert!(got.header("warning").is_some_and(|warning| warning.starts_with("110 ")));
        let other = stage.ask("HEAD", target, &[("authorization", "Basic bob"), ("accept", OCI)], None).await;
        assert_eq!(other.status, status, "whose right was not proven before gets what the registry says");
        let unknown = stage.get("/v2/team/app/manifests/v9?ns=r.io", &headers).await;
        assert_eq!((unknown.status, unknown.header("retry-after")), (status, Some("7")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_else_passes_through_with_its_links_and_bodies() {
    let stage = Stage::new(|request| {
        if request.starts_with("put /v2/a/blobs/uploads/7?digest=x ") {
            assert!(
                request.contains("content-length: 300000\r\n") && request.contains("via: 1.1 hawker-"),
                "{request}"
            );
            return answer(201, &[("location", "/v2/a/blobs/x")], b"");
        }
        if request.starts_with("get /v2/a/tags/list?n=1 ") {
            let link = ("link", "</v2/a/tags/list?last=x&n=1>; rel=\"next\"");
            return answer(200, &[("content-type", "application/json"), link], b"{\"tags\":[]}");
        }
        if request.starts_with("get /v2/_catalog ") {
            return b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end".to_vec();
        }
        answer(404, &[], b"{\"errors\":[]}")
    })
    .await;
    let got = stage.get("/v2/r.io/a/tags/list?n=1", &[]).await;
    assert_eq!((got.status, got.text().as_str()), (200, "{\"tags\":[]}"));
    assert_eq!(got.header("link"), Some("</v2/r.io/a/tags/list?last=x&n=1>; rel=\"next\""));
    assert_eq!(stage.get("/v2/r.io/_catalog", &[]).await.text(), "until the end");
    let missing = stage.get(&format!("/v2/r.io/a/referrers/{}", sha256(b"")), &[]).await;
    assert_eq!((missing.status, missing.text().as_str()), (404, "{\"errors\":[]}"));
    let pushed = stage.ask("PUT", "/v2/r.io/a/blobs/uploads/7?digest=x", &[], Some(&[1; 300_000])).await;
    assert_eq!((pushed.status, pushed.header("location")), (201, Some("/v2/r.io/a/blobs/x")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_mirrored_is_said_at_once() {
    let stage = Stage::with(
        |config| config.credentials = CredentialsPolicy::Bypass,
        |all| all.is_only_configured = true,
        |_| panic!("nobody is asked"),
    )
    .await;
    for (target, status) in [
        ("/v2/a/manifests/v1?ns=r.io", 404),
        ("/v2/a/manifests/v1?ns=other.io", 404),
        ("/v2/A/manifests/v1", 404),
        ("/v2/a/manifests/sha256:x", 400),
        ("/v2/", 200),
        ("/v3/", 404),
    ] {
        let got = stage.get(target, &[]).await;
        assert_eq!(got.status, status, "{target}: {}", got.text());
        assert_eq!(got.header("docker-distribution-api-version"), Some("registry/2.0"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_that_is_away_is_neither_waited_for_nor_408_nor_429() {
    let stage =
        Stage::with(|config| config.url = Some(Url::parse("http://127.0.0.1:1/").unwrap()), |_| (), |_| Vec::new())
            .await;
    let digest = sha256(b"x");
    for target in [
        "/v2/a/manifests/v1?ns=r.io".to_owned(),
        format!("/v2/a/manifests/{digest}?ns=r.io"),
        format!("/v2/a/blobs/{digest}?ns=r.io"),
        "/v2/a/tags/list?ns=r.io".to_owned(),
    ] {
        for method in ["GET", "HEAD"] {
            let got = stage.ask(method, &target, &[], None).await;
            assert_eq!(got.status, 502, "{target}");
        }
    }
    assert_eq!(stage.get("/v2/?ns=r.io", &[]).await.status, 200, "a mirror is there all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn question_that_goes_in_a_circle_ends() {
    let stage = Stage::new(|_| panic!("nobody is asked")).await;
    let via = format!("1.1 {}", stage.mirror.upstream.via());
    let got = stage.get("/v2/a/tags/list?ns=r.io", &[("via", &via)]).await;
    assert_eq!(got.status, 502);
}
