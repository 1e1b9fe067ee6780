//! The registry mirror: what `/v2/` answers. Content goes by its digest and is fetched through the swarm; who may have it
//! and what a tag stands for is the registry's to say.

pub(crate) mod access;
mod blobs;
mod credentials;
pub(crate) mod figures;
mod manifests;
mod pass;
mod registries;
mod reply;
pub(crate) mod tags;
mod tokens;
mod upstream;
mod wants;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hawker_proto::http1::{Reply, ReplyBody, RequestHead};
use hawker_proto::oci::{Asked as Wanted, ErrorCode, NamedBy, RepositoryName, Route, route};
use hawker_proto::resolve::{Digest, resolve_key_of_digest};
use hawker_proto::{ByteRange, HostId};
use hawker_storage::TaskState;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::caller::{Asked, CallerId, Failure, GetRequest, code};
use super::director::Ask;
use super::http::exchange::Exchange;
use super::keeper::Keeper;
use super::origin::Transports;
use super::tags::TagBook;
use crate::config::{CredentialsPolicy, MirrorConfig, TagRule};
use crate::seam::{Sent, ShardHandle};
use access::{Gate, Recent};
use figures::{Figures, From, Kind};
pub(crate) use registries::trusts;
use registries::{Place, Registries, below};
use tags::Tags;
use upstream::{Identity, Upstream};
use wants::Image;

/// Callers of the mirror are numbered from here on, those of the local socket from 1.
const FIRST_CALLER: u64 = 1 << 63;
/// Manifests that registries give out by their digest as they were pushed: without a type of theirs in Accept some
/// convert them.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.v1+prettyjws, application/vnd.oci.artifact.manifest.v1+json, */*;q=0.5";

/// What the mirror stands on.
#[derive(Debug)]
pub(crate) struct MirrorParts {
    pub(crate) host: HostId,
    pub(crate) transports: Transports,
    pub(crate) asks: mpsc::Sender<Ask>,
    /// The first keeps the store.
    pub(crate) shards: Vec<ShardHandle>,
    pub(crate) book: TagBook,
}

/// Stands for registries.
#[derive(Debug)]
pub(crate) struct Mirror {
    is_enabled: bool,
    registries: Registries,
    rules: Vec<TagRule>,
    upstream: Upstream,
    gate: Gate,
    tags: Tags,
    book: TagBook,
    figures: Figures,
    asks: mpsc::Sender<Ask>,
    keeper: Keeper,
    shards: Vec<ShardHandle>,
    next_caller: AtomicU64,
    /// Images whose manifests passed, by the blobs they name.
    images: Mutex<Recent<Digest, Arc<Image>>>,
}

/// What a client was told.
#[derive(Clone, Copy, Debug)]
struct Told {
    status: u16,
    sent: Sent,
    source: Option<From>,
}

/// A question about an object of a repository.
#[derive(Clone, Debug)]
struct Subject {
    route: Route,
    place: Arc<Place>,
    who: Identity,
    repository: RepositoryName,
}

impl Subject {
    /// Registry and repository.
    fn scope(&self) -> String {
        format!("{}/{}", self.place.name, self.repository)
    }
}

impl Mirror {
    /// A mirror on what an earlier one left in `data_dir`.
    pub(crate) fn new(config: &MirrorConfig, data_dir: &Path, parts: MirrorParts) -> Arc<Self> {
        let MirrorParts { host, transports, asks, shards, book } = parts;
        let mirror = Arc::new(Self {
            is_enabled: config.is_enabled,
            registries: Registries::new(config),
            rules: config.tags.clone(),
            upstream: Upstream::new(transports, host),
            gate: Gate::default(),
            tags: Tags::open(data_dir),
            book,
            figures: Figures::default(),
            asks,
            keeper: Keeper::new(shards[0].clone()),
            shards,
            next_caller: AtomicU64::new(FIRST_CALLER),
            images: Mutex::new(Recent::new(wants::BLOBS_MAX)),
        });
        if mirror.is_enabled {
            tokio::spawn(Arc::clone(&mirror).remind());
        }
        mirror
    }

    /// What it counts.
    pub(crate) fn figures(&self) -> &Figures {
        &self.figures
    }

    /// What it remembers of tags.
    pub(crate) fn tags(&self) -> &Tags {
        &self.tags
    }

    /// Questions put to registries, tokens not counted.
    pub(crate) fn questions(&self) -> u64 {
        self.upstream.asked.load(Ordering::Relaxed)
    }

    /// Answers a request below `/v2`, to its end.
    pub(crate) async fn serve(self: Arc<Self>, exchange: Exchange) {
        let began = Instant::now();
        let head = &exchange.request().head;
        let (method, from) = (head.method.clone(), exchange.from());
        let path = head.target.split('?').next().unwrap_or_default().to_owned();
        let route = route(&head.target, self.registries.default_registry());
        let kind = route.as_ref().map_or(Kind::Other, |route| kind_of(&route.asked));
        let told = match route {
            _ if !self.is_enabled => {
                let message = "the registry mirror is switched off ([mirror] enabled = false)";
                self.tell(exchange, reply::error(None, 404, ErrorCode::Unsupported, message)).await
            }
            Ok(route) => self.answer(exchange, route).await,
            Err(error) => {
                self.tell(exchange, reply::error(None, error.status(), error.code(), &error.to_string())).await
            }
        };
        self.figures.request(kind, told.status);
        if let Some(source) = told.source {
            self.figures.bytes(source, told.sent.content_bytes);
        }
        tracing::info!(
            target: "hawker::access",
            %method,
            %path,
            status = told.status,
            bytes = told.sent.content_bytes,
            whole = told.sent.is_complete,
            ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            source = told.source.map_or("-", From::as_str),
            from = %from.ip(),
        );
    }

    async fn answer(self: &Arc<Self>, exchange: Exchange, route: Route) -> Told {
        let Some(place) = self.registries.find(&route.registry) else {
            let message = format!("{} is none of the registries that this mirror stands for", route.registry);
            return self.tell(exchange, reply::error(Some(&route), 404, ErrorCode::NameUnknown, &message)).await;
        };
        if place.policy == CredentialsPolicy::Bypass {
            let message = format!("{} is not mirrored here: ask it directly", place.name);
            return self.tell(exchange, reply::error(Some(&route), 404, ErrorCode::NameUnknown, &message)).await;
        }
        let head = &exchange.request().head;
        if head.values("via").any(|value| value.contains(self.upstream.via())) {
            let message = "the request has been here before: the mirror's upstream is the mirror itself";
            return self.tell(exchange, reply::error(Some(&route), 502, ErrorCode::Unsupported, message)).await;
        }
        let who = identity(&place, head);
        let is_read = matches!(head.method.as_str(), "GET" | "HEAD");
        match route.asked.clone() {
            Wanted::Ping if is_read => self.ping(exchange, &route, &place, &who).await,
            Wanted::Manifest { repository, reference } if is_read => {
                let subject = Subject { route, place, who, repository };
                self.manifest(exchange, &subject, reference).await
            }
            Wanted::Blob { repository, digest } if is_read => {
                let subject = Subject { route, place, who, repository };
                self.blob(exchange, &subject, digest).await
            }
            _ => self.pass(exchange, &route, &place, &who).await,
        }
    }

    /// A client learns here how to say who it is: from the registry, when it is known which is meant. One that is away
    /// is a registry all the same.
    async fn ping(&self, exchange: Exchange, route: &Route, place: &Place, who: &Identity) -> Told {
        let is_meant = route.named_by != NamedBy::Default || self.registries.is_default_chosen;
        if is_meant && *who != Identity::Node {
            let head = &exchange.request().head;
            let mut question = upstream::Question::of(hyper::Method::GET, "/v2/", &head.headers);
            question.is_followed = false;
            if let Ok(answer) = self.upstream.ask(place, who, None, question).await
                && answer.head.status == 401
            {
                return self.pass_answer(exchange, route, answer, Vec::new()).await;
            }
        }
        let mut headers = reply::common(Some(route));
        headers.push(reply::field("Content-Type", "application/json"));
        self.tell(exchange, reply::inline(200, headers, b"{}\n".to_vec())).await
    }

    /// Answers from memory.
    async fn tell(&self, exchange: Exchange, reply: Reply) -> Told {
        let status = reply.status();
        Told { status, sent: exchange.reply(reply).await, source: None }
    }

    /// Answers a HEAD with what a GET of `length` bytes would say.
    async fn tell_head(&self, exchange: Exchange, status: u16, headers: reply::Headers, length: u64) -> Told {
        let range = ByteRange::from_length(0, length);
        let body = range.map(|range| ReplyBody::Content { range, total: length, available: 0 });
        let reply = body.and_then(|body| Reply::new(status, headers, body).ok());
        let Some(reply) = reply else {
            return self.tell(exchange, reply::inline(502, Vec::new(), Vec::new())).await;
        };
        let mut stream = exchange.reply_stream(reply).await;
        Told { status, sent: stream.sent().await, source: None }
    }

    /// Asks the director for an object, in the caller's name. Says, too, whether all of it was here before.
    ///
    /// # Errors
    /// It cannot be asked for.
    async fn begin(&self, subject: &Subject, kind: &str, digest: &Digest) -> Result<(Asked, bool), Failure> {
        let stored = self.keeper.find_resolved(resolve_key_of_digest(digest).0).await;
        let was_here = stored.is_some_and(|(summary, _)| summary.state == TaskState::Sealed);
        let target = format!("/v2/{}/{kind}/{digest}", subject.repository);
        let bad = || Failure::new(code::USAGE, "the registry's URL is too long", "");
        let url = below(subject.place.preferred(), &target).ok_or_else(bad)?;
        let token = self.upstream.authorization(&subject.place, &subject.who, Some(&subject.repository)).await;
        let mut headers: Vec<_> = token.into_iter().map(|token| reply::field("Authorization", &token)).collect();
        if kind == "manifests" {
            headers.push(reply::field("Accept", MANIFEST_TYPES));
        }
        let is_public = self.gate.permits().is_public(&subject.scope());
        let request = GetRequest { is_public, ..GetRequest::of_blob(&url.to_string(), headers, *digest)? };
        let caller = CallerId(self.next_caller.fetch_add(1, Ordering::Relaxed));
        let asked = Asked::begin(&self.asks, caller, request).await;
        let asked = asked.ok_or_else(|| Failure::other("the agent is stopping", ""))?;
        Ok((asked, was_here))
    }

    /// Tells each new session with a scheduler what is known: one that has just started knows nothing.
    async fn remind(self: Arc<Self>) {
        let mut sessions = self.book.sessions();
        while sessions.changed().await.is_ok() {
            for (name, fact) in self.tags.all() {
                if !self.book.report_patiently(&name, fact.to_cluster()).await {
                    break;
                }
            }
        }
    }
}

/// In whose name `place` is asked for a client.
fn identity(place: &Place, head: &RequestHead) -> Identity {
    if place.policy == CredentialsPolicy::Node {
        return Identity::Node;
    }
    match head.header("authorization") {
        Some(value) => Identity::Client(value.to_owned()),
        None => Identity::Anybody,
    }
}

const fn kind_of(asked: &Wanted) -> Kind {
    match asked {
        Wanted::Ping => Kind::Ping,
        Wanted::Manifest { .. } => Kind::Manifest,
        Wanted::Blob { .. } => Kind::Blob,
        Wanted::Tags { .. } | Wanted::Referrers { .. } => Kind::List,
        Wanted::Other => Kind::Other,
    }
}
