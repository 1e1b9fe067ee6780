//! Blobs: content by its digest, from this host, the swarm or the registry.

use std::sync::Arc;
use std::time::Duration;

use hawker_proto::http1::{self, Reply, ReplyBody, select};
use hawker_proto::oci::{ErrorCode, error_json};
use hawker_proto::resolve::{Digest, resolve_key_of_digest};
use hyper::Method;

use super::access::{Object, Verdict};
use super::figures::From;
use super::upstream::Question;
use super::{Mirror, Subject, Told, reply};
use crate::control::caller::{CallerEvent, Failure, Opened, code};
use crate::control::http::exchange::Exchange;

/// A content has a name and a length within this, or the client goes elsewhere.
const OPEN_LIMIT: Duration = Duration::from_secs(60);
/// Content by its digest is the same for ever.
const FOREVER: &str = "max-age=31536000, immutable";

/// A content that may be sent, as far as it is here.
struct Content {
    opened: Opened,
    /// Whether all of it was here before anybody asked now.
    was_here: bool,
    /// Whoever drops this does not want it any more.
    asked: super::Asked,
}

/// Why there is nothing to send.
enum Unopened {
    /// The client is gone.
    Gone,
    Failed(Failure),
}

impl Mirror {
    /// Answers a GET or HEAD of a blob.
    pub(super) async fn blob(self: &Arc<Self>, mut exchange: Exchange, subject: &Subject, digest: Digest) -> Told {
        let is_head = exchange.request().head.method == "HEAD";
        // Twice: a token may have ended between the check and the fetch.
        for attempt in 0..2 {
            let checked = match self.enter(&exchange, subject, &digest).await {
                Ok(checked) => checked,
                Err(reply) => return self.tell(exchange, reply).await,
            };
            if is_head {
                return self.head_blob(exchange, subject, &digest, checked).await;
            }
            self.want_image(&digest);
            let failure = match self.open(&mut exchange, subject, &digest).await {
                Ok(content) => return self.send_blob(exchange, subject, &digest, content).await,
                Err(Unopened::Gone) => return Told { status: 499, sent: crate::seam::Sent::default(), source: None },
                Err(Unopened::Failed(failure)) => failure,
            };
            tracing::debug!(%digest, status = failure.status, error = %failure.message, "a blob cannot be opened");
            if matches!(failure.status, 401 | 403) && attempt == 0 {
                // Asked anew, the registry says itself what is wrong.
                self.gate.permits().refuse(&subject.scope(), &subject.who);
                self.gate.permits().let_go(&subject.scope(), &digest);
                continue;
            }
            return self.blob_failed(exchange, subject, &digest, &failure).await;
        }
        let message = "the registry lets the caller in and refuses the blob";
        self.tell(exchange, reply::error(Some(&subject.route), 503, ErrorCode::Unsupported, message)).await
    }

    /// Whether the caller may have the object; what the registry's answer said of it, when it was asked.
    ///
    /// # Errors
    /// What to answer instead.
    pub(super) async fn enter(
        &self,
        exchange: &Exchange,
        subject: &Subject,
        digest: &Digest,
    ) -> Result<Option<Arc<hawker_proto::http1::ResponseHead>>, Reply> {
        let Subject { route, place, who, repository } = subject;
        let target = route.target.as_str();
        let headers = &exchange.request().head.headers;
        let object = Object { place, who, repository, digest, target, headers };
        match self.gate.enter(&self.upstream, &object, &self.figures.checks).await {
            Verdict::Granted(head) => Ok(head),
            Verdict::GrantedAway => {
                self.figures.stale.add(1);
                Ok(None)
            }
            Verdict::Refused(refusal) => Err(reply::refused(route, &refusal.head)),
            Verdict::Away(why) => match &*why {
                Ok(head) => Err(reply::refused(route, head)),
                Err(error) => Err(reply::away(route, error)),
            },
        }
    }

    /// For how long an answer with the object may be given again.
    pub(super) fn lasts(&self, subject: &Subject, digest: &Digest) -> Duration {
        let Subject { route, place, who, repository } = subject;
        self.gate.lasts(&Object { place, who, repository, digest, target: &route.target, headers: &[] })
    }

    /// Waits until the content has a place.
    async fn open(&self, exchange: &mut Exchange, subject: &Subject, digest: &Digest) -> Result<Content, Unopened> {
        let (mut asked, was_here) = self.begin(subject, "blobs", digest).await.map_err(Unopened::Failed)?;
        let late = tokio::time::sleep(OPEN_LIMIT);
        tokio::pin!(late);
        loop {
            tokio::select! {
                event = asked.events.recv() => match event {
                    Some(CallerEvent::Opened(opened)) => return Ok(Content { opened, was_here, asked }),
                    Some(CallerEvent::Failed(failure)) => return Err(Unopened::Failed(failure)),
                    Some(CallerEvent::Spooled { .. } | CallerEvent::Done { .. }) => {}
                    None => return Err(Unopened::Failed(Failure::other("the agent is stopping", ""))),
                },
                () = exchange.gone() => return Err(Unopened::Gone),
                () = &mut late => {
                    let message = format!("nothing came within {} s", OPEN_LIMIT.as_secs());
                    return Err(Unopened::Failed(Failure::new(code::TIMEOUT, message, "")));
                }
            }
        }
    }

    async fn send_blob(&self, mut exchange: Exchange, subject: &Subject, digest: &Digest, content: Content) -> Told {
        if content.was_here {
            exchange.keep(self.lasts(subject, digest));
        }
        let Content { opened, was_here, mut asked } = content;
        let task = Arc::clone(&opened.task);
        let total = task.geometry().length();
        let source = source_of(&opened, was_here);
        if source == From::Cache {
            self.figures.hits.add(1);
        }
        let mut headers = self.blob_headers(subject, digest);
        headers.push(reply::field("X-Hawker-Task", &task.id().to_string()));
        headers.push(reply::field("X-Hawker-Source", source.as_str()));
        let etag = format!("\"{digest}\"");
        let content = http1::Content { length: total, etag: Some(&etag), last_modified: None };
        let selection = select(&exchange.request().head, &content);
        let error = error_json(ErrorCode::SizeInvalid, "the range or the condition does not fit the blob").into_bytes();
        let Ok(reply) = Reply::selected(selection, total, 0, headers, error) else {
            let message = "the blob's length makes no sense";
            return self.tell(exchange, reply::error(Some(&subject.route), 502, ErrorCode::Unsupported, message)).await;
        };
        let status = reply.status();
        if matches!(reply.body(), ReplyBody::Inline(_)) {
            return self.tell(exchange, reply).await;
        }
        let mut answer = exchange.reply_task(reply, task).await;
        let mut is_over = false;
        let sent = loop {
            tokio::select! {
                sent = answer.sent() => break sent,
                event = asked.events.recv(), if !is_over => match event {
                    Some(CallerEvent::Failed(failure)) => {
                        tracing::debug!(%digest, error = %failure.message, "a blob ends early");
                        // What is stored is right block by block, but of wrong content nothing is worth sending.
                        answer.lost(if failure.code == code::DIGEST_MISMATCH { 0 } else { u64::MAX });
                        is_over = true;
                    }
                    Some(CallerEvent::Done { .. }) => is_over = true,
                    Some(_) => {}
                    None => {
                        answer.lost(u64::MAX);
                        is_over = true;
                    }
                },
            }
        };
        Told { status, sent, source: Some(source_of(&opened, was_here)) }
    }

    async fn head_blob(
        &self,
        exchange: Exchange,
        subject: &Subject,
        digest: &Digest,
        checked: Option<Arc<hawker_proto::http1::ResponseHead>>,
    ) -> Told {
        let stored = self.keeper.find_resolved(resolve_key_of_digest(digest).0).await;
        let stored = stored.map(|(summary, _)| summary.geometry.length());
        let known = stored.or_else(|| checked.as_deref().and_then(reply::length_of));
        if let Some(length) = known {
            let headers = self.blob_headers(subject, digest);
            return self.tell_head(exchange, 200, headers, length).await;
        }
        let question = Question::of(Method::HEAD, &subject.route.target, &exchange.request().head.headers);
        match self.upstream.ask(&subject.place, &subject.who, Some(&subject.repository), question).await {
            Ok(answer) => match reply::length_of(&answer.head) {
                Some(length) => {
                    let headers = self.blob_headers(subject, digest);
                    self.tell_head(exchange, 200, headers, length).await
                }
                None => self.tell(exchange, reply::refused(&subject.route, &answer.head)).await,
            },
            Err(error) => self.tell(exchange, reply::away(&subject.route, &error)).await,
        }
    }

    fn blob_headers(&self, subject: &Subject, digest: &Digest) -> reply::Headers {
        let mut headers = reply::common(Some(&subject.route));
        headers.push(reply::field("Content-Type", "application/octet-stream"));
        headers.push(reply::field("Docker-Content-Digest", &digest.to_string()));
        headers.push(reply::field("ETag", &format!("\"{digest}\"")));
        headers.push(reply::field("Accept-Ranges", "bytes"));
        headers.push(reply::field("Cache-Control", FOREVER));
        headers
    }

    /// Nothing was sent yet.
    async fn blob_failed(&self, exchange: Exchange, subject: &Subject, digest: &Digest, failure: &Failure) -> Told {
        let route = &subject.route;
        let (status, error) = match failure.status {
            404 | 410 => {
                self.gate.permits().let_go(&subject.scope(), digest);
                (404, ErrorCode::BlobUnknown)
            }
            401 => (401, ErrorCode::Unauthorized),
            403 => (403, ErrorCode::Denied),
            // A host without room still stands for the registry.
            _ if failure.code == code::DISK_FULL => {
                return self.pass(exchange, route, &subject.place, &subject.who).await;
            }
            _ if failure.code == code::TIMEOUT => (504, ErrorCode::Unsupported),
            _ => (503, ErrorCode::Unsupported),
        };
        self.tell(exchange, reply::error(Some(route), status, error, &failure.message)).await
    }
}

/// Where most of the content came from so far. What is small may all have come before it was opened.
pub(super) fn source_of(opened: &Opened, was_here: bool) -> From {
    let (origin, peer) = opened.task.bytes_by_source();
    match was_here {
        true => From::Cache,
        false if peer > origin => From::Peer,
        false => From::Origin,
    }
}
