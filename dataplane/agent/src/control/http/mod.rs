//! The HTTP port: health for probes, metrics for scrapers.

#[expect(dead_code, reason = "its shards' side follows")]
pub(crate) mod exchange;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::metrics;
use super::status::AgentFacts;

/// A request's head is here within this, or the connection closes.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Longest head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// After EMFILE and its like.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the runtime ends. Of more than `connections_max` connections the oldest goes: whoever only opens them
/// must not keep probes out.
pub(crate) async fn serve(listener: TcpListener, facts: Arc<AgentFacts>, connections_max: usize) {
    let routes = Router::new().route("/healthz", get(health)).route("/metrics", get(scrape)).with_state(facts);
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((socket, from)) => {
                if open.len() >= connections_max {
                    open.retain(|connection| !connection.is_finished());
                }
                while open.len() >= connections_max {
                    open.pop_front().inspect(AbortHandle::abort);
                }
                open.push_back(tokio::spawn(connection(socket, from, routes.clone())).abort_handle());
            }
            Err(error) => {
                tracing::warn!(%error, "the HTTP port accepts nobody for a moment");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(socket: TcpStream, from: SocketAddr, routes: Router) {
    let service = TowerToHyperService::new(routes.layer(Extension(ConnectInfo(from))));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, %from, "an HTTP connection ended early");
    }
}

/// 200 as long as the director answers.
async fn health(State(facts): State<Arc<AgentFacts>>) -> Response {
    if facts.asks.is_closed() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response()
    } else {
        "ok\n".into_response()
    }
}

async fn scrape(State(facts): State<Arc<AgentFacts>>, ConnectInfo(from): ConnectInfo<SocketAddr>) -> Response {
    // Figures say what this host does and with whom: not for everybody on the network.
    if !from.ip().to_canonical().is_loopback() {
        let text =
            "metrics are served to this host only; scrape 127.0.0.1, or put a proxy with authentication before it\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let Some(snapshot) = facts.snapshot().await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    };
    match metrics::encode(&facts, &snapshot) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
