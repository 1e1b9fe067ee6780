//! The agent's figures in the OpenMetrics text format. Labels hold no URL, no header and no host of another.

use std::fmt;

use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::director::Snapshot;
use super::mirror::Mirror;
use super::status::{AgentFacts, resident_bytes};

pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All figures as they are now.
///
/// # Errors
/// Only when the text cannot be written, which is a bug.
pub(crate) fn encode(facts: &AgentFacts, snapshot: &Snapshot, mirror: &Mirror) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("hawker");
    let engine = vec![
        ("engine", facts.detection.kind.name().to_owned()),
        ("tier", facts.detection.tier.clone()),
        ("reason", facts.detection.reason.clone()),
    ];
    registry.register("engine", "Which I/O engine runs, and why", Info::new(engine));
    registry.register("build", "This program", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
    counters(&mut registry, facts, snapshot);
    gauges(&mut registry, facts, snapshot);
    registries(&mut registry, mirror);
    let mut text = String::new();
    encode_text(&mut text, &registry)?;
    Ok(text)
}

fn counters(registry: &mut Registry, facts: &AgentFacts, snapshot: &Snapshot) {
    let bytes = [
        ("origin", "Body bytes from origins", facts.sum(|shard| &shard.origin_bytes)),
        ("peer", "Verified bytes from peers", facts.sum(|shard| &shard.peer_bytes)),
        ("cache", "Bytes that callers found here", snapshot.cache_bytes),
        ("uploaded", "Bytes sent to peers", facts.sum(|shard| &shard.uploaded_bytes)),
        ("http_sent", "Bytes of contents sent to HTTP clients", facts.sum(|shard| &shard.http_bytes)),
    ];
    for (name, help, value) in bytes {
        registry.register_with_unit(name, help, Unit::Bytes, ConstCounter::new(value));
    }
    let counts = [
        ("bad_blocks", "Blocks from peers that differed from their records", facts.sum(|shard| &shard.bad_blocks)),
        ("pieces", "Pieces stored and recorded", facts.sum(|shard| &shard.pieces)),
        ("links_refused", "Peer connections that were refused", facts.sum(|shard| &shard.refused)),
        (
            "http_refused",
            "HTTP connections closed for newer ones, or not taken",
            facts.sum(|shard| &shard.http_refused),
        ),
        ("shard_turns", "Turns of the shards' loops", facts.sum(|shard| &shard.turns)),
    ];
    for (name, help, value) in counts {
        registry.register(name, help, ConstCounter::new(value));
    }
    let answers: Family<[(&str, &str); 1], Counter> = Family::default();
    for (index, class) in ["2xx", "3xx", "4xx", "5xx"].into_iter().enumerate() {
        answers.get_or_create(&[("class", class)]).inc_by(facts.sum(|shard| &shard.http_answers[index]));
    }
    registry.register("http_answers", "Answers to HTTP clients", answers);
}

/// What the registry mirror did.
fn registries(registry: &mut Registry, mirror: &Mirror) {
    let figures = mirror.figures();
    let requests: Family<[(&str, &str); 2], Counter> = Family::default();
    for (kind, class, count) in figures.requests() {
        requests.get_or_create(&[("kind", kind), ("class", class)]).inc_by(count);
    }
    registry.register("mirror_requests", "Answers of the registry mirror", requests);
    let bytes: Family<[(&str, &str); 1], Counter> = Family::default();
    for (source, count) in figures.by_source() {
        bytes.get_or_create(&[("source", source)]).inc_by(count);
    }
    let help = "Bytes that the mirror sent, by where most of their content came from";
    registry.register_with_unit("mirror_sent", help, Unit::Bytes, bytes);
    let counts = [
        ("mirror_registry_requests", "Questions put to registries by the mirror", mirror.questions()),
        ("mirror_checks", "Questions to registries whether a caller may have an object", figures.checks.value()),
        ("mirror_hits", "Objects that were here already", figures.hits.value()),
        ("mirror_stale", "Answers given when the registry could not be asked", figures.stale.value()),
        ("mirror_wanted", "Layers fetched before they were asked for", figures.wanted.value()),
    ];
    for (name, help, value) in counts {
        registry.register(name, help, ConstCounter::new(value));
    }
}

fn gauges(registry: &mut Registry, facts: &AgentFacts, snapshot: &Snapshot) {
    let is_connected = facts.cluster.as_ref().is_some_and(|cluster| cluster.facts().is_connected());
    let round_trip = facts.cluster.as_ref().and_then(|cluster| cluster.facts().round_trip()).unwrap_or_default();
    let counts = [
        ("links_out", "Links that this host dialed", facts.sum(|shard| &shard.links_out)),
        ("links_in", "Links that this host serves", facts.sum(|shard| &shard.links_in)),
        ("http_connections", "Connections of HTTP clients", facts.sum(|shard| &shard.http_connections)),
        ("http_requests_running", "Requests of HTTP clients being answered", facts.sum(|shard| &shard.http_requests)),
        ("neighbors", "Hosts that this one exchanges with", u64::from(snapshot.neighbors)),
        ("running_tasks", "Downloads that run or wait", u64::from(snapshot.running_tasks)),
        ("queued_tasks", "Downloads that wait for others to end", u64::from(snapshot.queued)),
        ("resolves", "URLs being resolved", u64::from(snapshot.flights)),
        ("callers", "Callers that wait", u64::from(snapshot.callers)),
        ("scheduler_connected", "Whether a scheduler session is open", u64::from(is_connected)),
    ];
    for (name, help, value) in counts {
        registry.register(name, help, gauge(value));
    }
    let usage = snapshot.usage;
    let bytes = [
        ("store_used", "Bytes of whole tasks on disk", usage.used),
        ("store_reserved", "Bytes taken by tasks that still grow", usage.reserved),
        ("store_limit", "Bytes that the store may take", usage.limit),
        ("blocks", "Block memory", facts.budget.bytes_drawn() as u64),
        ("resident", "Memory that only this process uses", resident_bytes().unwrap_or(0)),
    ];
    for (name, help, value) in bytes {
        registry.register_with_unit(name, help, Unit::Bytes, gauge(value));
    }
    let seconds = ConstGauge::new(round_trip.as_secs_f64());
    registry.register_with_unit("scheduler_round_trip", "Smoothed", Unit::Seconds, seconds);
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
