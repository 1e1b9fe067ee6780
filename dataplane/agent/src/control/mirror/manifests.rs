//! Manifests: by digest as any content, by tag as the registry says now, or as it said when it cannot be asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hawker_proto::http1::{Content, HTTP_INLINE_BYTES_MAX, RequestHead, ResponseHead, Selection, select};
use hawker_proto::oci::{Asked, ErrorCode, MANIFEST_BYTES_MAX, Reference, Tag, error_json, parse_manifest};
use hawker_proto::resolve::Digest;
use hawker_storage::blocking;
use hyper::Method;

use super::access::Object;
use super::figures::From;
use super::tags::{Fact, policy, unix_ms};
use super::upstream::{Answer, Question};
use super::{Mirror, Subject, Told, blobs, reply};
use crate::config::TagPolicy;
use crate::control::caller::{CallerEvent, Failure, Opened, code};
use crate::control::director::{Ask, digest_of_bytes};
use crate::control::http::exchange::Exchange;
use crate::control::origin::OriginError;

/// A manifest is here within this, or the client goes elsewhere.
const LIMIT: Duration = Duration::from_secs(60);
/// What a manifest is called that says nothing about itself, by a registry that does not either.
const UNKNOWN_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A manifest that is to be answered with.
struct Found {
    digest: Digest,
    /// As the registry called it, if it was asked.
    media_type: Option<String>,
    /// Bytes, if they are known.
    length: Option<u64>,
    /// Whether the registry could not be asked.
    is_stale: bool,
}

/// A manifest's bytes and where they came from.
struct Fetched {
    bytes: Vec<u8>,
    task: String,
    source: From,
}

impl Mirror {
    /// Answers a GET or HEAD of a manifest.
    pub(super) async fn manifest(
        self: &Arc<Self>,
        exchange: Exchange,
        subject: &Subject,
        reference: Reference,
    ) -> Told {
        match reference {
            Reference::Digest(digest) => self.manifest_by_digest(exchange, subject, digest).await,
            Reference::Tag(tag) => self.manifest_by_tag(exchange, subject, &tag).await,
        }
    }

    async fn manifest_by_digest(self: &Arc<Self>, mut exchange: Exchange, subject: &Subject, digest: Digest) -> Told {
        let name = format!("{}@{digest}", subject.scope());
        let mut found = Found { digest, media_type: None, length: None, is_stale: false };
        match self.enter(&exchange, subject, &digest).await {
            Ok(Some(head)) => {
                self.learn(&name, subject, &digest, &head);
                (found.media_type, found.length) = said(&head);
            }
            Ok(None) => {}
            Err(reply) if reply.status() < 500 && reply.status() != 429 => return self.tell(exchange, reply).await,
            Err(reply) => match self.recall(&name).await.filter(|fact| fact.is_public && fact.digest == digest) {
                Some(fact) => {
                    self.figures.stale.add(1);
                    found = Found { is_stale: true, ..found_in(&fact) };
                }
                None => return self.tell(exchange, reply).await,
            },
        }
        if !found.is_stale {
            exchange.keep(self.lasts(subject, &digest));
        }
        self.send_manifest(exchange, subject, found).await
    }

    async fn manifest_by_tag(self: &Arc<Self>, exchange: Exchange, subject: &Subject, tag: &Tag) -> Told {
        let name = format!("{}:{tag}", subject.scope());
        let known = self.tags.get(&name).filter(|fact| accepts(&exchange.request().head, &fact.media_type));
        let is_believed = |fact: &Fact| match policy(&self.rules, &name) {
            TagPolicy::Always => false,
            TagPolicy::For(lasts) => fact.age() < lasts,
            TagPolicy::Pinned => true,
        };
        if let Some(fact) = known.filter(is_believed) {
            return self.send_believed(exchange, subject, &name, fact).await;
        }
        let question = Question::of(Method::HEAD, &subject.route.target, &exchange.request().head.headers);
        let asked = self.upstream.ask(&subject.place, &subject.who, Some(&subject.repository), question).await;
        match asked {
            Ok(answer) if answer.head.status == 200 => self.send_tagged(exchange, subject, &name, &answer.head).await,
            Ok(answer) if answer.head.status == 429 || answer.head.status >= 500 => {
                self.send_stale(exchange, subject, &name, reply::refused(&subject.route, &answer.head)).await
            }
            Ok(answer) => {
                let status = answer.head.status;
                if matches!(status, 401 | 403) {
                    self.gate.permits().refuse(&subject.scope(), &subject.who);
                }
                if status == 404 {
                    self.tags.forget(|known| known == name);
                }
                self.tell(exchange, reply::refused(&subject.route, &answer.head)).await
            }
            Err(error) => self.send_stale(exchange, subject, &name, reply::away(&subject.route, &error)).await,
        }
    }

    /// The registry said just now what the tag is.
    async fn send_tagged(
        self: &Arc<Self>,
        exchange: Exchange,
        subject: &Subject,
        name: &str,
        head: &ResponseHead,
    ) -> Told {
        let digest = head.header("docker-content-digest").and_then(|digest| digest.parse::<Digest>().ok());
        let Some(digest) = digest else { return self.send_unnamed(exchange, subject, name).await };
        self.learn(name, subject, &digest, head);
        let (media_type, length) = said(head);
        self.send_manifest(exchange, subject, Found { digest, media_type, length, is_stale: false }).await
    }

    /// A registry that does not say a manifest's digest: its bytes do.
    async fn send_unnamed(self: &Arc<Self>, exchange: Exchange, subject: &Subject, name: &str) -> Told {
        let question = Question::of(Method::GET, &subject.route.target, &exchange.request().head.headers);
        let asked = self.upstream.ask(&subject.place, &subject.who, Some(&subject.repository), question).await;
        let answer = match asked {
            Ok(answer) if answer.head.status == 200 => answer,
            Ok(Answer { head, .. }) => return self.tell(exchange, reply::refused(&subject.route, &head)).await,
            Err(error) => return self.tell(exchange, reply::away(&subject.route, &error)).await,
        };
        let head = answer.head.clone();
        let bytes = match answer.read(MANIFEST_BYTES_MAX).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return self.tell(exchange, too_long(subject)).await,
            Err(error) => return self.tell(exchange, reply::away(&subject.route, &error)).await,
        };
        let digest = digest_of_bytes(&bytes, &Digest::Sha256([0; 32]));
        self.learn(name, subject, &digest, &head);
        let (media_type, length) = said(&head);
        let found = Found { digest, media_type, length, is_stale: false };
        let headers = reply::common(Some(&subject.route));
        self.answer_manifest(exchange, subject, &found, bytes, headers).await
    }

    /// The tag is believed; whether the caller may have it is asked all the same.
    async fn send_believed(self: &Arc<Self>, exchange: Exchange, subject: &Subject, name: &str, fact: Fact) -> Told {
        let by_digest = Subject {
            route: hawker_proto::oci::Route {
                target: format!("/v2/{}/manifests/{}", subject.repository, fact.digest),
                ..subject.route.clone()
            },
            ..subject.clone()
        };
        match self.enter(&exchange, &by_digest, &fact.digest).await {
            Ok(_) => self.send_manifest(exchange, subject, found_in(&fact)).await,
            Err(reply) if reply.status() >= 500 || reply.status() == 429 => {
                self.send_stale(exchange, subject, name, reply).await
            }
            Err(reply) => self.tell(exchange, reply).await,
        }
    }

    /// The registry cannot be asked: what it said last is as good as it gets, for those who may have it. `otherwise` is
    /// the answer for the others.
    async fn send_stale(
        self: &Arc<Self>,
        exchange: Exchange,
        subject: &Subject,
        name: &str,
        otherwise: hawker_proto::http1::Reply,
    ) -> Told {
        let Some(fact) = self.recall(name).await.filter(|fact| accepts(&exchange.request().head, &fact.media_type))
        else {
            return self.tell(exchange, otherwise).await;
        };
        let Subject { place, who, repository, .. } = subject;
        let (digest, target) = (&fact.digest, subject.route.target.as_str());
        // The tag is of this repository, so its manifest is, too.
        self.gate.permits().hold(&subject.scope(), digest);
        let object = Object { place, who, repository, digest, target, headers: &[] };
        if !fact.is_public && !self.gate.is_granted_away(&object) {
            return self.tell(exchange, otherwise).await;
        }
        if fact.is_public {
            // So are the layers that it names.
            self.gate.permits().allow(Instant::now(), &subject.scope(), &super::Identity::Anybody);
        }
        self.figures.stale.add(1);
        self.send_manifest(exchange, subject, Found { is_stale: true, ..found_in(&fact) }).await
    }

    /// What `name` stood for: as this host knows it, or the cluster if that is newer or all there is.
    async fn recall(&self, name: &str) -> Option<Fact> {
        let ours = self.tags.get(name);
        let theirs = self.book.recall(name).await.as_ref().and_then(Fact::of_cluster);
        ours.into_iter().chain(theirs).max_by_key(|fact| fact.seen_unix_ms)
    }

    /// The registry said that `name` is `digest`, and let the caller in.
    fn learn(&self, name: &str, subject: &Subject, digest: &Digest, head: &ResponseHead) {
        let is_public = {
            let mut permits = self.gate.permits();
            permits.allow(Instant::now(), &subject.scope(), &subject.who);
            permits.hold(&subject.scope(), digest);
            permits.is_public(&subject.scope())
        };
        let (media_type, length) = said(head);
        let (Some(media_type), Some(length)) = (media_type, length) else { return };
        let fact = Fact { digest: *digest, media_type, length, is_public, seen_unix_ms: unix_ms() };
        self.book.report(name, fact.to_cluster());
        self.tags.set(name, fact);
    }

    async fn send_manifest(self: &Arc<Self>, exchange: Exchange, subject: &Subject, found: Found) -> Told {
        let is_head = exchange.request().head.method == "HEAD";
        if let (true, Some(length), Some(media_type)) = (is_head, found.length, &found.media_type) {
            let headers = manifest_headers(subject, &found, media_type);
            return self.tell_head(exchange, 200, headers, length).await;
        }
        let fetched = match self.fetch_manifest(subject, &found.digest).await {
            Ok(fetched) => fetched,
            Err(failure) => return self.manifest_failed(exchange, subject, &failure).await,
        };
        let headers = vec![
            reply::field("X-Hawker-Task", &fetched.task),
            reply::field("X-Hawker-Source", fetched.source.as_str()),
        ];
        let told = self.answer_manifest(exchange, subject, &found, fetched.bytes, headers).await;
        Told { source: Some(fetched.source), ..told }
    }

    async fn answer_manifest(
        &self,
        exchange: Exchange,
        subject: &Subject,
        found: &Found,
        bytes: Vec<u8>,
        more: reply::Headers,
    ) -> Told {
        let parsed = parse_manifest(&bytes);
        if let Ok(manifest) = &parsed {
            self.note_manifest(subject, manifest);
        }
        let head = &exchange.request().head;
        let media_type = found
            .media_type
            .clone()
            .or_else(|| parsed.ok().and_then(|manifest| manifest.media_type))
            .or_else(|| head.header("accept").and_then(|accept| accept.split([',', ';']).next()).map(str::to_owned))
            .filter(|media_type| !media_type.is_empty() && !media_type.contains('*'))
            .unwrap_or_else(|| UNKNOWN_TYPE.to_owned());
        let mut headers = manifest_headers(subject, found, &media_type);
        headers.extend(more.into_iter().filter(|(name, _)| name.starts_with("X-")));
        let etag = format!("\"{}\"", found.digest);
        let content = Content { length: bytes.len() as u64, etag: Some(&etag), last_modified: None };
        let reply = match select(head, &content) {
            Selection::NotModified => reply::inline(304, headers, Vec::new()),
            Selection::PreconditionFailed => {
                let text = error_json(ErrorCode::ManifestUnknown, "the manifest is another one now");
                reply::inline(412, headers, text.into_bytes())
            }
            // Nobody needs a part of a manifest; all of it is an answer, too: RFC 9110, section 14.2.
            Selection::Whole | Selection::Part(_) | Selection::Unsatisfiable => reply::inline(200, headers, bytes),
        };
        self.tell(exchange, reply).await
    }

    /// The bytes of a manifest, compared with its digest.
    async fn fetch_manifest(&self, subject: &Subject, digest: &Digest) -> Result<Fetched, Failure> {
        let late = || Failure::new(code::TIMEOUT, format!("no manifest within {} s", LIMIT.as_secs()), "");
        // Twice: what rotted on the disk is fetched again.
        for _ in 0..2 {
            let opened = tokio::time::timeout(LIMIT, self.whole_manifest(subject, digest)).await;
            let (opened, was_here) = opened.map_err(|_| late())??;
            let length = opened.task.geometry().length();
            let file = Arc::clone(opened.task.file().content());
            let count = usize::try_from(length).unwrap_or(usize::MAX).min(HTTP_INLINE_BYTES_MAX);
            let expected = *digest;
            let read = tokio::task::spawn_blocking(move || {
                let bytes = blocking::read_at(&file, count, 0).ok()?;
                (digest_of_bytes(&bytes, &expected) == expected).then_some(bytes)
            });
            if let Ok(Some(bytes)) = read.await {
                let (task, source) = (opened.task.id().to_string(), blobs::source_of(&opened, was_here));
                if source == From::Cache {
                    self.figures.hits.add(1);
                }
                return Ok(Fetched { bytes, task, source });
            }
            for piece in 0..opened.task.geometry().piece_count() {
                let lost = Ask::Lost { task: opened.task.id(), piece: hawker_proto::PieceIndex(piece) };
                drop(self.asks.send(lost).await);
            }
        }
        Err(Failure::other("the disk gives back another manifest than was written", ""))
    }

    async fn whole_manifest(&self, subject: &Subject, digest: &Digest) -> Result<(Opened, bool), Failure> {
        let (mut asked, was_here) = self.begin(subject, "manifests", digest).await?;
        let mut opened: Option<Opened> = None;
        loop {
            match asked.events.recv().await {
                Some(CallerEvent::Opened(now)) if now.task.geometry().length() > MANIFEST_BYTES_MAX as u64 => {
                    return Err(Failure::new(code::USAGE, "the manifest is longer than 4 MiB", ""));
                }
                Some(CallerEvent::Opened(now)) => opened = Some(now),
                Some(CallerEvent::Spooled { .. }) => {}
                Some(CallerEvent::Done { .. }) => {
                    let opened = opened.ok_or_else(|| Failure::other("the manifest has no place", ""))?;
                    return Ok((opened, was_here));
                }
                Some(CallerEvent::Failed(failure)) => return Err(failure),
                None => return Err(Failure::other("the agent is stopping", "")),
            }
        }
    }

    /// The swarm does not give it: the registry itself is asked, for a host without room, or a registry that knows it by
    /// its tag only.
    async fn manifest_failed(&self, exchange: Exchange, subject: &Subject, failure: &Failure) -> Told {
        tracing::debug!(status = failure.status, error = %failure.message, "a manifest cannot be fetched");
        let Subject { route, place, who, repository } = subject;
        let question = Question::of(
            Method::from_bytes(exchange.request().head.method.as_bytes()).unwrap_or(Method::GET),
            &route.target,
            &exchange.request().head.headers,
        );
        let is_get = question.method == Method::GET;
        match (self.upstream.ask(place, who, Some(repository), question).await, &route.asked) {
            (Ok(answer), Asked::Manifest { reference: Reference::Digest(digest), .. })
                if is_get && answer.head.status == 200 =>
            {
                self.pass_named(exchange, subject, answer, digest).await
            }
            (Ok(answer), _) => self.pass_answer(exchange, route, answer, Vec::new()).await,
            (Err(error @ OriginError::Timeout { .. }), _) => self.tell(exchange, reply::away(route, &error)).await,
            (Err(_), _) => {
                let error = reply::error(Some(route), 503, ErrorCode::Unsupported, &failure.message);
                self.tell(exchange, error).await
            }
        }
    }

    /// A registry's own answer about a manifest by its digest: it must be that one.
    async fn pass_named(&self, exchange: Exchange, subject: &Subject, answer: Answer, digest: &Digest) -> Told {
        let headers = reply::through(&subject.route, &answer);
        let reply = match answer.read(MANIFEST_BYTES_MAX).await {
            Ok(Some(bytes)) if digest_of_bytes(&bytes, digest) == *digest => reply::inline(200, headers, bytes),
            Ok(Some(_)) => {
                let message = "the registry sends another manifest than the one of this digest";
                reply::error(Some(&subject.route), 502, ErrorCode::ManifestInvalid, message)
            }
            Ok(None) => too_long(subject),
            Err(error) => reply::away(&subject.route, &error),
        };
        self.tell(exchange, reply).await
    }
}

fn found_in(fact: &Fact) -> Found {
    Found { digest: fact.digest, media_type: Some(fact.media_type.clone()), length: Some(fact.length), is_stale: false }
}

/// What a registry's answer says of a manifest.
fn said(head: &ResponseHead) -> (Option<String>, Option<u64>) {
    let media_type = head.header("content-type").map(reply::plain_type).filter(|media_type| !media_type.is_empty());
    (media_type, reply::length_of(head))
}

fn manifest_headers(subject: &Subject, found: &Found, media_type: &str) -> reply::Headers {
    let mut headers = reply::common(Some(&subject.route));
    headers.push(reply::field("Content-Type", media_type));
    headers.push(reply::field("Docker-Content-Digest", &found.digest.to_string()));
    headers.push(reply::field("ETag", &format!("\"{}\"", found.digest)));
    if found.is_stale {
        headers.push(reply::field("Warning", "110 hawker \"the registry cannot be asked: this is what it said last\""));
    }
    headers
}

fn too_long(subject: &Subject) -> hawker_proto::http1::Reply {
    reply::error(Some(&subject.route), 502, ErrorCode::ManifestInvalid, "the manifest is longer than 4 MiB")
}

/// Whether a client takes a manifest of this type. One that says nothing takes any; what it thinks of each is the
/// registry's business.
fn accepts(head: &RequestHead, media_type: &str) -> bool {
    let mut items = head.values("accept").flat_map(|value| value.split(',')).map(reply::plain_type).peekable();
    items.peek().is_none()
        || items.any(|item| item == "*/*" || item == "application/*" || item.eq_ignore_ascii_case(media_type))
}
