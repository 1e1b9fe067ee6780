//! The HTTP port: health for probes, metrics for scrapers.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::metrics;
use super::status::AgentFacts;

/// Serves until the runtime ends.
pub(crate) async fn serve(listener: TcpListener, facts: Arc<AgentFacts>) {
    let routes = Router::new().route("/healthz", get(health)).route("/metrics", get(scrape)).with_state(facts);
    let service = routes.into_make_service_with_connect_info::<SocketAddr>();
    if let Err(error) = axum::serve(listener, service).await {
        tracing::error!(%error, "the HTTP port is closed");
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
