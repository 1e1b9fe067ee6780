//! Origins that misbehave towards two hosts of a swarm: what one host learns holds for all, nobody waits for ever for
//! what nobody may fetch, and who may fetch does so for the others.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hawker_tests::cluster::clean;
use hawker_tests::process::{Ended, Process, Scratch, wait_until};
use hawker_tests::scripted::{Act, Request, Scripted, honest, part_head, refusal, slowly};
use hawker_tests::{files, free_address, on_both_engines, workspace};

use crate::cases::{V1, later, script};
use crate::{Agent, LIMIT, READY_WITHIN, check_content, check_refused};

const V2: &str = "ETag: \"v2\"\r\n";
/// Parameters that sign a URL do not make it another. One signature ends, the others are good for ever.
const SHORT: &str = "file?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=5407";
const LASTING: &str = "file?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=1a57";
const FRESH: &str = "file?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=f4e5";
const TOKEN_LIVES: Duration = Duration::from_secs(2);
/// More than a resolve and the first leases bring.
const LENGTH: usize = (18 << 20) + 1;

/// A scheduler and two agents.
pub(crate) struct Swarm {
    pub(crate) agents: [Agent; 2],
    _scheduler: Process,
    _scratch: Scratch,
}

impl Swarm {
    pub(crate) fn start(engine: &str) -> Self {
        let scratch = Scratch::new();
        let listen = free_address().to_string();
        let mut command = Command::new(workspace::hawker());
        command.args(["scheduler", "--listen", &listen, "--data-dir"]).arg(scratch.join("scheduler"));
        clean(&mut command);
        let scheduler = Process::start(scratch.path(), "scheduler", command);
        let url = format!("http://{listen}");
        let agents = ["a", "b"].map(|name| {
            let agent = Agent::start(&scratch.join(name), engine, &scratch.join("no-roots"), &["--scheduler", &url]);
            wait_until(READY_WITHIN, "connected", || agent.ask(&["status"])["scheduler"]["is_connected"] == true);
            agent
        });
        Self { agents, _scheduler: scheduler, _scratch: scratch }
    }

    /// Runs a get on both hosts at once.
    fn get(&self, name: &str, urls: [&str; 2], more: &[&str], judge: impl Fn(&Ended, &Path) -> Result<(), String>) {
        let gets = self.agents.iter().zip(urls).map(|(agent, url)| agent.get(name, url, more));
        for (index, (get, output)) in gets.collect::<Vec<_>>().into_iter().enumerate() {
            judge(&get.wait(LIMIT), &output).unwrap_or_else(|error| panic!("{name}, host {index}: {error}"));
        }
    }

    fn get_content(&self, name: &str, urls: [&str; 2], more: &[&str], content: &[u8]) {
        self.get(name, urls, more, |ended, output| check_content(ended, output, content));
    }

    fn get_refused(&self, name: &str, urls: [&str; 2], more: &[&str], words: &str) {
        self.get(name, urls, more, |ended, output| check_refused(ended, output, 3, words));
    }
}

#[test]
fn several_hosts_stand_a_misbehaving_origin() {
    on_both_engines("several_hosts_stand_a_misbehaving_origin", None, |engine| {
        let swarm = Swarm::start(engine);
        let content: Arc<[u8]> = files::random_bytes(LENGTH, 51).into();
        let other: Arc<[u8]> = files::random_bytes(LENGTH, 52).into();
        let cases: [(&str, &(dyn Fn() + Sync)); 5] = [
            ("a change is seen by all", &|| change_is_seen_by_all(&swarm, &content, &other)),
            ("no validators", &|| content_without_validators_is_right(&swarm, &content)),
            ("one token ends", &|| whose_token_ends_gets_the_rest_from_others(&swarm, &content)),
            ("all tokens end", &|| when_all_tokens_end_all_hear_of_it(&swarm, &content)),
            ("bearers end", &|| bearers_end(&swarm, &content)),
        ];
        std::thread::scope(|scope| {
            for (name, case) in cases {
                scope.spawn(move || {
                    let start = Instant::now();
                    case();
                    println!("{engine}: {name}: {:.1} s", start.elapsed().as_secs_f64());
                });
            }
        });
    });
}

fn change_is_seen_by_all(swarm: &Swarm, content: &Arc<[u8]>, other: &Arc<[u8]>) {
    let changed = Arc::clone(other);
    let changing = later(content, V1, move |request| Some(honest(request, &changed, V2)));
    let origin = Scripted::start(script(changing), None);
    let url = origin.url("changing");
    swarm.get_refused("changing", [&url, &url], &[], "changed");
    let changed = Arc::clone(other);
    origin.change(script(move |request| honest(request, &changed, V2)));
    swarm.get_content("changing", [&url, &url], &[], other);
}

fn content_without_validators_is_right(swarm: &Swarm, content: &Arc<[u8]>) {
    let served = Arc::clone(content);
    let origin = Scripted::start(script(move |request| honest(request, &served, "")), None);
    let url = origin.url("no-validators");
    swarm.get_content("no-validators", [&url, &url], &[], content);
}

fn whose_token_ends_gets_the_rest_from_others(swarm: &Swarm, content: &Arc<[u8]>) {
    let (slow, served) = (slow(content), Arc::clone(content));
    let is_over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_over);
    let origin = Scripted::start(
        script(move |request| match (seen.load(Ordering::Relaxed), request.head.contains("Signature=5407")) {
            (false, _) => slow(request),
            (true, true) => refusal(403, ""),
            (true, false) => honest(request, &served, V1),
        }),
        None,
    );
    let urls = [origin.url(SHORT), origin.url(LASTING)];
    let gets: Vec<_> = swarm.agents.iter().zip(&urls).map(|(agent, url)| agent.get("one-token", url, &[])).collect();
    let port = format!(":{}/", origin.port());
    let has_some = |agent: &Agent| {
        let status = agent.ask(&["status"]);
        let mut tasks = status["tasks"].as_array().into_iter().flatten();
        tasks.any(|task| task["url"].as_str().is_some_and(|url| url.contains(&port)) && task["bytes_have"] != 0)
    };
    wait_until(LIMIT, "half way", || swarm.agents.iter().all(has_some));
    is_over.store(true, Ordering::Relaxed);
    for (index, (get, output)) in gets.into_iter().enumerate() {
        let ended = get.wait(LIMIT);
        check_content(&ended, &output, content).unwrap_or_else(|error| panic!("one-token, host {index}: {error}"));
    }
}

fn when_all_tokens_end_all_hear_of_it(swarm: &Swarm, content: &Arc<[u8]>) {
    let origin = Scripted::start(ending(content, "Signature=5407", 403), None);
    let (short, fresh) = (origin.url(SHORT), origin.url(FRESH));
    swarm.get_refused("all-tokens", [&short, &short], &[], "403 (forbidden)");
    swarm.get_content("all-tokens", [&fresh, &fresh], &[], content);
}

fn bearers_end(swarm: &Swarm, content: &Arc<[u8]>) {
    let origin = Scripted::start(ending(content, "Bearer short", 401), None);
    let url = origin.url("bearer");
    swarm.get_refused("bearer", [&url, &url], &["--header", "Authorization: Bearer short"], "401");
    swarm.get_content("bearer", [&url, &url], &["--header", "Authorization: Bearer fresh"], content);
}

/// Requests with `token` are answered slowly, and refused with `status` once it has ended; others are answered.
fn ending(content: &Arc<[u8]>, token: &'static str, status: u16) -> hawker_tests::scripted::Script {
    let (slow, served) = (slow(content), Arc::clone(content));
    script(move |request| match (request.head.contains(token), request.age < TOKEN_LIVES) {
        (true, true) => slow(request),
        (true, false) => refusal(status, ""),
        (false, _) => honest(request, &served, V1),
    })
}

/// An answer of a few megabytes takes longer than a token lives, and none is longer than half of what was asked for.
fn slow(content: &Arc<[u8]>) -> impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static {
    let content = Arc::clone(content);
    move |request| {
        // Whether its credentials are good is asked without a range.
        let Some(range) = request.range.clone() else { return honest(request, &content, V1) };
        let range = range.start..range.end.min(content.len());
        let mut acts = vec![Act::Text(part_head(&range, content.len(), V1))];
        let end = range.start + range.len().div_ceil(2);
        acts.extend(slowly(&content, range.start..end, 1 << 20, Duration::from_millis(300)));
        acts
    }
}
