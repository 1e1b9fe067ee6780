//! The HTTP port's control half: health for probes, metrics for scrapers, the registry mirror for clients of registries.
//! Connections and their bytes live on the shards.

pub(crate) mod exchange;

use std::sync::Arc;

use hawker_proto::http1::{Reply, ReplyBody};
use tokio::sync::mpsc;

use super::metrics;
use super::mirror::Mirror;
use super::status::AgentFacts;
use crate::seam::{HttpRequest, ShardHandle};
use exchange::Exchange;

const TEXT: &str = "text/plain; charset=utf-8";

/// Answers what `shards` are asked until they end: one task a request, and there is one request a connection.
pub(crate) async fn serve(
    mut requests: mpsc::Receiver<HttpRequest>,
    shards: Vec<ShardHandle>,
    facts: Arc<AgentFacts>,
    mirror: Arc<Mirror>,
) {
    while let Some(asked) = requests.recv().await {
        let shard = shards[asked.id.shard].clone();
        tokio::spawn(route(Exchange::new(shard, asked), Arc::clone(&facts), Arc::clone(&mirror)));
    }
}

async fn route(exchange: Exchange, facts: Arc<AgentFacts>, mirror: Arc<Mirror>) {
    let head = &exchange.request().head;
    let (path, _) = head.target.split_once('?').unwrap_or((&head.target, ""));
    if path == "/v2" || path.starts_with("/v2/") {
        return mirror.serve(exchange).await;
    }
    let is_read = matches!(head.method.as_str(), "GET" | "HEAD");
    let reply = if path == "/healthz" {
        if is_read { health(&facts) } else { refused_method() }
    } else if path == "/metrics" {
        if is_read { scrape(&exchange, &facts, &mirror).await } else { refused_method() }
    } else {
        text(404, "this port answers /healthz, /metrics and /v2/\n")
    };
    exchange.reply(reply).await;
}

/// 200 as long as the director answers.
fn health(facts: &AgentFacts) -> Reply {
    if facts.asks.is_closed() { text(503, "stopping\n") } else { text(200, "ok\n") }
}

async fn scrape(exchange: &Exchange, facts: &AgentFacts, mirror: &Mirror) -> Reply {
    // Figures say what this host does and with whom: not for everybody on the network.
    if !exchange.from().ip().to_canonical().is_loopback() {
        return text(
            403,
            "metrics are served to this host only; scrape 127.0.0.1, or put a proxy with authentication before it\n",
        );
    }
    let Some(snapshot) = facts.snapshot().await else { return text(503, "stopping\n") };
    match metrics::encode(facts, &snapshot, mirror) {
        Ok(figures) => inline(200, &[("Content-Type", metrics::CONTENT_TYPE)], figures.into_bytes()),
        Err(error) => text(500, &format!("{error}\n")),
    }
}

fn refused_method() -> Reply {
    inline(405, &[("Allow", "GET, HEAD"), ("Content-Type", TEXT)], b"GET and HEAD only\n".to_vec())
}

/// An answer of plain text.
pub(crate) fn text(status: u16, text: &str) -> Reply {
    inline(status, &[("Content-Type", TEXT)], text.as_bytes().to_vec())
}

/// An answer whose headers and length are our own, so that it cannot be refused.
pub(crate) fn inline(status: u16, headers: &[(&str, &str)], bytes: Vec<u8>) -> Reply {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Reply::new(status, headers, ReplyBody::Inline(bytes)).expect("an answer of our own")
}
