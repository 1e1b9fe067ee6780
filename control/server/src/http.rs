//! The one port: gRPC over HTTP/2, and health and metrics over HTTP/1.1.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hawker_api::scheduler::scheduler_server::SchedulerServer;
use hawker_api::scheduler::{DESCRIPTOR, MESSAGE_BYTES_MAX};
use hawker_scheduler::Status;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::ServerError;
use crate::accept::{self, Caller, Room};
use crate::core::Core;
use crate::session::SchedulerService;

/// One session per agent and connection; the others are probes.
const STREAMS_PER_CONNECTION_MAX: u32 = 16;
/// A dead connection is noticed after twice this.
const KEEPALIVE: Duration = Duration::from_secs(10);
const HEADER_BYTES_MAX: u32 = 16 * 1024;

/// Serves until `stopping`, then until the last connection has closed.
pub(crate) async fn serve(
    listener: TcpListener,
    room: Room,
    service: SchedulerService,
    core: Core,
    bearer_token: Option<String>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), ServerError> {
    let incoming = accept::incoming(listener, room, stopping.clone());
    let routes = routes(service, core, Door::new(bearer_token)).await;
    let stopped = async move {
        // An error means that nobody can stop us any more, which is a stop.
        let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
    };
    Server::builder()
        .accept_http1(true)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stopped)
        .await
        .map_err(ServerError::Serve)
}

async fn routes(service: SchedulerService, core: Core, door: Door) -> Routes {
    let (health, health_service) = tonic_health::server::health_reporter();
    let sessions = SchedulerServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    health.set_serving::<SchedulerServer<SchedulerService>>().await;

    let describe = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let guard = |door: Door| {
        move |request: tonic::Request<()>| {
            let token = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
            let from = request.extensions().get::<Caller>().map(|Caller(place)| place.from());
            if door.lets_in(from, token) {
                Ok(request)
            } else {
                Err(tonic::Status::unauthenticated("reflection needs loopback or the bearer token"))
            }
        }
    };
    let mut routes = Routes::new(sessions).add_service(health_service);
    // Both generations of the protocol: grpcurl asks for one or the other.
    if let Ok(reflection) = describe().build_v1() {
        routes =
            routes.add_service(tonic::service::interceptor::InterceptedService::new(reflection, guard(door.clone())));
    }
    if let Ok(reflection) = describe().build_v1alpha() {
        routes =
            routes.add_service(tonic::service::interceptor::InterceptedService::new(reflection, guard(door.clone())));
    }
    let http =
        axum::Router::new().route("/healthz", get(healthz)).route("/metrics", get(metrics)).with_state((core, door));
    let router = std::mem::take(routes.axum_router_mut());
    *routes.axum_router_mut() = router.merge(http);
    routes
}

/// Who may look inside.
#[derive(Clone, Debug)]
struct Door {
    bearer_token: Option<Arc<str>>,
}

impl Door {
    /// An empty token, as an unset variable leaves it, is none: everybody would know it.
    fn new(bearer_token: Option<String>) -> Self {
        Self { bearer_token: bearer_token.filter(|token| !token.is_empty()).map(Arc::from) }
    }

    /// Whether a caller at `from` with this `authorization` may.
    fn lets_in(&self, from: Option<SocketAddr>, authorization: Option<&str>) -> bool {
        let is_local = from.is_some_and(|from| from.ip().to_canonical().is_loopback());
        let given = authorization.and_then(|value| value.strip_prefix("Bearer "));
        let is_known = self.bearer_token.as_deref().zip(given).is_some_and(|(token, given)| is_equal(token, given));
        is_local || is_known
    }
}

/// In the same time wherever they differ.
fn is_equal(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

type Inside = State<(Core, Door)>;

async fn healthz(State((core, _)): Inside) -> (StatusCode, &'static str) {
    match core.status().await {
        Some(_) => (StatusCode::OK, "ok\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
    }
}

async fn metrics(State((core, door)): Inside, from: Option<Extension<Caller>>, headers: HeaderMap) -> Response {
    let from = from.map(|Extension(Caller(place))| place.from());
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if !door.lets_in(from, authorization) {
        return (StatusCode::UNAUTHORIZED, "metrics need loopback or the bearer token\n").into_response();
    }
    let Some(status) = core.status().await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    };
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], exposition(&status)).into_response()
}

fn exposition(status: &Status) -> String {
    let mut registry = Registry::with_prefix("hawker_scheduler");
    let gauges = [
        ("epoch", "Which life of the scheduler this is", status.epoch),
        ("hosts", "Hosts known", status.hosts as u64),
        ("hosts_connected", "Hosts with an open stream", status.hosts_connected as u64),
        ("tasks", "Tasks that some host has or fetches", status.tasks as u64),
        ("peers", "Pairs of host and task", status.peers as u64),
        ("origins", "Origins in use", status.origins as u64),
        ("leases", "Leases open", status.leases as u64),
        ("outstanding_bytes", "Leased bytes that no holder has reported", status.outstanding_bytes),
        ("asks", "Asks for a lease in line", status.asks as u64),
        ("wants", "Wants without an answer", status.wants as u64),
        ("banned", "Hosts banned", status.banned as u64),
        ("tags", "Names in registries known", status.tags as u64),
    ];
    for (name, help, value) in gauges {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    let counters = &status.counters;
    let counters = [
        ("resolves", "Resolves handed out", counters.resolves),
        ("resolvers_replaced", "Resolvers that fell silent", counters.resolvers_replaced),
        ("leases_given", "Origin leases given", counters.leases),
        ("leased_bytes", "Bytes in origin leases", counters.leased_bytes),
        ("leases_adopted", "Leases of an earlier life that went on", counters.leases_adopted),
        ("leases_expired", "Leases whose holder was not heard of in time", counters.leases_expired),
        ("leases_failed", "Leases that their holder could not fetch", counters.leases_failed),
        ("hosts_lost", "Hosts that vanished without a goodbye", counters.hosts_lost),
        ("bans", "Bans", counters.bans),
    ];
    for (name, help, value) in counters {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    let mut text = String::new();
    if encode(&mut text, &registry).is_err() {
        // Writing to a string does not fail; a scraper shall see it if it ever does.
        let _ = writeln!(text, "# encoding failed");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_the_token_get_in() {
        let (local, remote) = ("127.0.0.1:5".parse().unwrap(), "10.0.0.1:5".parse().unwrap());
        let mapped = "[::ffff:127.0.0.1]:5".parse().unwrap();
        let closed = Door::new(None);
        assert!(closed.lets_in(Some(local), None) && closed.lets_in(Some(mapped), None));
        assert!(!closed.lets_in(Some(remote), Some("Bearer ")) && !closed.lets_in(None, None));
        assert!(!Door::new(Some(String::new())).lets_in(Some(remote), Some("Bearer ")));
        let open = Door::new(Some("secret".into()));
        assert!(open.lets_in(Some(remote), Some("Bearer secret")));
        for wrong in [None, Some("secret"), Some("Bearer secre"), Some("Bearer secreT"), Some("Basic secret")] {
            assert!(!open.lets_in(Some(remote), wrong), "{wrong:?}");
        }
    }
}
