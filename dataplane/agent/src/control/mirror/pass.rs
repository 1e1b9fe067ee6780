//! What goes to the registry as it is, and its answer back as it is: lists, pushes, everything that is no pull.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::{BodyExt, StreamBody};
use hyper::Method;
use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use hawker_proto::ByteRange;
use hawker_proto::http1::{BodyFraming, ContentRange, HTTP_INLINE_BYTES_MAX, Reply, ReplyBody};
use hawker_proto::oci::{Asked as Wanted, ErrorCode, Reference, Route};

use super::registries::Place;
use super::upstream::{Answer, Identity, Question, Upload};
use super::{Mirror, Told, reply};
use crate::control::http::exchange::{BodyError, Exchange};
use crate::control::origin::OriginError;
use crate::seam::ShardCommand;

/// A body of a known length up to this is answered from memory.
const SMALL_BYTES_MAX: u64 = 64 * 1024;

impl Mirror {
    /// Asks `place` the client's question, and answers its answer.
    pub(super) async fn pass(&self, exchange: Exchange, route: &Route, place: &Place, who: &Identity) -> Told {
        let head = &exchange.request().head;
        let Ok(method) = Method::from_bytes(head.method.as_bytes()) else {
            let message = "the method is none that a registry knows";
            return self.tell(exchange, reply::error(Some(route), 405, ErrorCode::Unsupported, message)).await;
        };
        let (is_read, is_deletion) = (matches!(method, Method::GET | Method::HEAD), method == Method::DELETE);
        // This host's credentials are there to pull with.
        let who = if *who == Identity::Node && !is_read { &Identity::Anybody } else { who };
        let mut question = Question::of(method, &route.target, &head.headers);
        for name in ["range", "if-range", "if-match", "if-none-match"] {
            question.kept.extend(head.header(name).map(|value| (name, value.to_owned())));
        }
        let (exchange, asked) = if exchange.request().framing == BodyFraming::Empty {
            let asked = self.upstream.ask(place, who, route.asked.repository(), question).await;
            (exchange, asked)
        } else {
            self.upload(exchange, place, who, question).await
        };
        match asked {
            Ok(answer) => {
                if is_deletion && (200..300).contains(&answer.head.status) {
                    self.forget_deleted(route, place).await;
                }
                self.pass_answer(exchange, route, answer, Vec::new()).await
            }
            Err(error) => self.tell(exchange, reply::away(route, &error)).await,
        }
    }

    /// What was deleted through this mirror is gone through it at once.
    async fn forget_deleted(&self, route: &Route, place: &Place) {
        let Some(repository) = route.asked.repository() else { return };
        let scope = format!("{}/{repository}", place.name);
        match &route.asked {
            Wanted::Manifest { reference: Reference::Tag(tag), .. } => {
                let name = format!("{scope}:{tag}");
                self.tags.forget(|known| known == name);
            }
            Wanted::Manifest { reference: Reference::Digest(digest), .. } | Wanted::Blob { digest, .. } => {
                let name = format!("{scope}@{digest}");
                self.gate.permits().let_go(&scope, digest);
                self.tags.forget(|known| known == name);
            }
            _ => {}
        }
        for shard in &self.shards {
            shard.send(ShardCommand::ForgetAnswers).await;
        }
    }

    /// Asks with the client's body, which moves as fast as the registry takes it.
    async fn upload(
        &self,
        mut exchange: Exchange,
        place: &Place,
        who: &Identity,
        mut question: Question,
    ) -> (Exchange, Result<Answer, OriginError>) {
        let length = match exchange.request().framing {
            BodyFraming::Length(length) => Some(length),
            _ => None,
        };
        let (sender, receiver) = mpsc::channel::<io::Result<Frame<Bytes>>>(1);
        let moved = Arc::new(AtomicU64::new(0));
        let bytes = StreamBody::new(ReceiverStream::new(receiver)).boxed();
        question.body = Some(Upload { bytes, length, moved: Arc::clone(&moved) });
        let feeding = async {
            loop {
                let part = match exchange.body().await {
                    Ok(Some(bytes)) => bytes,
                    Ok(None) => break,
                    Err(error) => {
                        // A body that breaks off must not look whole to the registry.
                        let reason = match error {
                            BodyError::Refused(refusal) => refusal.to_string(),
                            BodyError::Gone => "the client is gone".to_owned(),
                        };
                        drop(sender.send(Err(io::Error::other(reason))).await);
                        break;
                    }
                };
                moved.fetch_add(part.len() as u64, Ordering::Relaxed);
                if sender.send(Ok(Frame::data(Bytes::from(part)))).await.is_err() {
                    break;
                }
            }
            drop(sender);
        };
        let asking = self.upstream.ask(place, who, None, question);
        tokio::pin!(asking);
        let answered = {
            tokio::pin!(feeding);
            tokio::select! {
                // A registry may answer before it has all, and then wants no more.
                answered = &mut asking => Some(answered),
                () = &mut feeding => None,
            }
        };
        let answered = match answered {
            Some(answered) => answered,
            None => asking.await,
        };
        (exchange, answered)
    }

    /// Answers what a registry answered, with `more` fields of our own.
    pub(super) async fn pass_answer(
        &self,
        exchange: Exchange,
        route: &Route,
        answer: Answer,
        more: reply::Headers,
    ) -> Told {
        let status = answer.head.status;
        let mut headers = reply::through(route, &answer);
        headers.extend(more);
        let is_head = exchange.request().head.method == "HEAD";
        let length = answer.head.content_length().ok().flatten();
        if matches!(status, 204 | 304) || status < 200 {
            return self.tell(exchange, reply::inline(status.max(200), headers, Vec::new())).await;
        }
        if is_head {
            return match length {
                Some(length) => self.tell_head(exchange, status, headers, length).await,
                None => self.tell(exchange, reply::inline(status, headers, Vec::new())).await,
            };
        }
        let part = match status {
            206 => part(&answer),
            _ => length.and_then(|length| ByteRange::from_length(0, length)).zip(length),
        };
        match part {
            Some((range, total)) if range.length() > SMALL_BYTES_MAX || status == 206 => {
                self.pass_stream(exchange, status, headers, (range, total), answer).await
            }
            // A part of unknown place cannot be said again.
            None if status == 206 => {
                let message = "the registry's answer does not say which part it is";
                self.tell(exchange, reply::error(Some(route), 502, ErrorCode::Unsupported, message)).await
            }
            _ => match answer.read(HTTP_INLINE_BYTES_MAX).await {
                Ok(Some(bytes)) => self.tell(exchange, reply::inline(status, headers, bytes)).await,
                Ok(None) => {
                    let message = "the registry's answer is longer than 4 MiB and does not say how long";
                    self.tell(exchange, reply::error(Some(route), 502, ErrorCode::Unsupported, message)).await
                }
                Err(error) => self.tell(exchange, reply::away(route, &error)).await,
            },
        }
    }

    async fn pass_stream(
        &self,
        exchange: Exchange,
        status: u16,
        headers: reply::Headers,
        part: (ByteRange, u64),
        answer: Answer,
    ) -> Told {
        let (range, total) = part;
        let body = ReplyBody::Content { range, total, available: range.start() };
        let reply = match Reply::new(status, headers, body) {
            Ok(reply) => reply,
            Err(error) => return self.tell(exchange, reply::inline(502, Vec::new(), error.to_string().into())).await,
        };
        let mut stream = exchange.reply_stream(reply).await;
        let mut reading = answer.into_reading();
        let mut left = range.length();
        while left > 0 {
            match reading.next().await {
                Ok(Some(bytes)) => {
                    left = left.saturating_sub(bytes.len() as u64);
                    if stream.push(bytes.to_vec()).await.is_err() {
                        break;
                    }
                }
                Ok(None) | Err(_) => {
                    stream.lost();
                    break;
                }
            }
        }
        Told { status, sent: stream.sent().await, source: None }
    }
}

/// Which part of how much a 206 is.
fn part(answer: &Answer) -> Option<(ByteRange, u64)> {
    let length = answer.head.content_length().ok().flatten()?;
    let ContentRange { range, total } = ContentRange::parse(answer.head.header("content-range")?)?;
    range.filter(|range| range.length() == length).zip(total)
}
