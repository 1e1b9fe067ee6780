//! Secrets that a caller gives for an origin go to that origin and nowhere else: not into logs, answers, figures,
//! packets to other hosts, files, or requests to other origins.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hawker_tests::capture::Capture;
use hawker_tests::cluster::{ask, clean};
use hawker_tests::island::Island;
use hawker_tests::process::{Ended, Process, Scratch};
use hawker_tests::scripted::{Request, Scripted, honest, refusal};
use hawker_tests::tls::{Identity, write_roots};
use hawker_tests::{files, http_get, workspace};

const LIMIT: Duration = Duration::from_mins(1);
const LENGTH: usize = (6 << 20) + 1;

/// What every secret of this test holds.
const CANARY: &str = "c4nary";

/// A URL's query that is a signature, and so a credential.
const SIGNATURE: &str = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=c4nary-id&X-Amz-Date=20260101T000000Z\
                         &X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Security-Token=c4nary-token\
                         &X-Amz-Signature=c4nary-signature";

const ADDRESSES: [&str; 3] = ["10.9.9.1/32", "10.9.9.2/32", "10.9.9.3/32"];
const HOSTS: &str = "127.0.0.1 localhost\n10.9.9.1 secure.test\n";
const AGENTS: [&str; 2] = ["one", "two"];

/// Two agents, their scheduler, and three origins; every packet but the origins' is searched.
struct Lab {
    // Dropped in this order.
    agents: [Process; 2],
    scheduler: Process,
    capture: Capture,
    origin: Scripted,
    secure: Scripted,
    elsewhere: Scripted,
    content: Arc<[u8]>,
    island: Island,
    scratch: Scratch,
}

impl Lab {
    fn start(engine: &str, is_insecure: bool) -> Self {
        let island = Island::up(&ADDRESSES, HOSTS);
        let scratch = Scratch::new();
        let key = scratch.join("cluster.key");
        std::fs::write(&key, "ab".repeat(32)).expect("room");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("our own file");
        let content: Arc<[u8]> = files::random_bytes(LENGTH, 9_100).into();
        let identity = Identity::new("secure.test", false);
        write_roots(&scratch.join("roots.pem"), &[&identity]);

        let served = Arc::clone(&content);
        let script = move |request: &Request| honest(request, &served, "ETag: \"1\"\r\n");
        let elsewhere = island.run(|| Scripted::start_at([10, 9, 9, 2].into(), Arc::new(script), None));
        let there = format!("10.9.9.2:{}", elsewhere.port());
        let script = origin_script(Arc::clone(&content), there);
        let origin = island.run(|| Scripted::start_at([10, 9, 9, 1].into(), Arc::clone(&script) as _, None));
        let secure = island.run(|| Scripted::start_at([10, 9, 9, 1].into(), script, Some(identity.server())));
        let origins = vec![origin.port(), secure.port(), elsewhere.port()];
        let capture = Capture::start(&island, CANARY, origins);

        let trust = |command: &mut std::process::Command| {
            if is_insecure {
                command.arg("--insecure");
            } else {
                command.arg("--cluster-key").arg(&key);
            }
        };
        let start = |name: &str, arguments: &[&str]| {
            let mut command = island.command(&workspace::hawker());
            command.args(arguments).args(["--log", "trace"]);
            command.arg("--data-dir").arg(scratch.join(&format!("data-{name}")));
            trust(&mut command);
            if name != "scheduler" {
                command.arg("--socket").arg(socket(&scratch, name));
            }
            clean(&mut command);
            command.env("SSL_CERT_FILE", scratch.join("roots.pem")).env_remove("SSL_CERT_DIR");
            Process::start(scratch.path(), name, command)
        };
        let scheduler = start("scheduler", &["scheduler", "--listen", "0.0.0.0:7300"]);
        let agents = AGENTS.map(|name| {
            let scheduler = ["--scheduler", "http://10.9.9.3:7300", "--advertise", "10.9.9.3", "--peer-port", "0"];
            let port = http_port(name).to_string();
            let more = ["--http-port", &port, "--engine", engine, "--limit-disk", "8GiB"];
            start(name, &[&["agent"], &scheduler[..], &more[..]].concat())
        });
        let mut lab = Self { agents, scheduler, capture, origin, secure, elsewhere, content, island, scratch };
        for (agent, name) in lab.agents.iter_mut().zip(AGENTS) {
            let socket = socket(&lab.scratch, name);
            agent.wait_until(LIMIT, "connected to its scheduler", || {
                ask(&socket, &["status"]).is_some_and(|status| status["scheduler"]["is_connected"] == true)
            });
        }
        lab
    }

    /// `hawker get` with secrets in every header, by an agent, or without one.
    fn get(&self, agent: Option<&str>, url: &str, more: &[&str]) -> Ended {
        let name = agent.unwrap_or("alone");
        let mut command = self.island.command(&workspace::hawker());
        command.args(["get", url, "--overwrite", "--json", "--log", "trace", "-H", &format!("X-Host: {name}")]);
        for header in ["Authorization: Bearer", "Cookie: session="] {
            command.args(["-H", &format!("{header} {CANARY}")]);
        }
        command.args(["-H", &format!("X-Custom: {CANARY}-{name}")]).arg("-o").arg(self.output(name)).args(more);
        clean(&mut command);
        command.env("SSL_CERT_FILE", self.scratch.join("roots.pem")).env_remove("SSL_CERT_DIR");
        command.env("XDG_RUNTIME_DIR", self.scratch.path());
        if agent.is_some() {
            command.arg("--socket").arg(socket(&self.scratch, name));
        }
        Process::start(self.scratch.path(), &format!("get-{name}"), command).wait(LIMIT)
    }

    fn output(&self, name: &str) -> PathBuf {
        self.scratch.join(&format!("file-{name}"))
    }

    /// Downloads that work and that do not, by `agent`; what the command prints is looked at.
    fn download_all(&self, agent: Option<&str>) {
        let at = format!("10.9.9.1:{}", self.origin.port());
        let secure = format!("secure.test:{}", self.secure.port());
        let right = [
            format!("http://{at}/signed?versionId=7&{SIGNATURE}"),
            format!("http://{at}/token?token={CANARY}-query"),
            format!("http://{at}/moved?{SIGNATURE}"),
            format!("https://{secure}/signed-too?{SIGNATURE}"),
        ];
        for url in right {
            let ended = self.get(agent, &url, &[]);
            assert_eq!(ended.code(), Some(0), "{url}: {}", ended.stderr);
            let output = self.output(agent.unwrap_or("alone"));
            assert!(std::fs::read(output).expect("an output") == *self.content, "{url}: wrong bytes");
            assert_silent(&format!("get {url}"), &format!("{}{}", ended.stdout, ended.stderr));
        }
        let wrong = [
            (3, format!("http://{at}/refused?{SIGNATURE}")),
            (3, format!("http://{at}/inward?{SIGNATURE}")),
            (3, format!("http://{at}/circle?{SIGNATURE}")),
            (3, format!("http://{at}/nowhere?{SIGNATURE}")),
            (3, format!("http://{at}/userinfo?{SIGNATURE}")),
            (3, format!("https://{secure}/moved?{SIGNATURE}")),
            (2, format!("http://user:{CANARY}@{at}/file")),
            (2, format!("http://{at}/file\\?{SIGNATURE}")),
        ];
        for (code, url) in wrong {
            let ended = self.get(agent, &url, &[]);
            assert_eq!(ended.code(), Some(code), "{url}: {}", ended.stderr);
            assert_silent(&format!("get {url}"), &format!("{}{}", ended.stdout, ended.stderr));
        }
        let wrong_digest = format!("sha256:{}", "0".repeat(64));
        let url = format!("http://{at}/signed?versionId=7&{SIGNATURE}");
        let no_colon = format!("Authorization Bearer {CANARY}");
        for (code, more) in [(4, ["--digest", &wrong_digest]), (2, ["-H", &no_colon])] {
            let ended = self.get(agent, &url, &more);
            assert_eq!(ended.code(), Some(code), "{more:?}: {}", ended.stderr);
            assert_silent(&format!("get {more:?}"), &format!("{}{}", ended.stdout, ended.stderr));
        }
    }
}

/// An origin whose answers name secrets, too.
fn origin_script(content: Arc<[u8]>, there: String) -> hawker_tests::scripted::Script {
    Arc::new(move |request: &Request| {
        let moved = |location: &str| refusal(302, &format!("Location: {location}\r\n"));
        let target = request.head.split(' ').nth(1).unwrap_or_default();
        match target.split('?').next().unwrap_or_default() {
            "/moved" => moved(&format!("http://{there}/there?sig={CANARY}-location")),
            "/refused" => refusal(403, &format!("Set-Cookie: {CANARY}-answer\r\n")),
            "/inward" => moved(&format!("http://127.0.0.1:1/{CANARY}-path?{SIGNATURE}")),
            "/circle" => moved(target),
            "/nowhere" => moved(&format!("ftp://{there}/{CANARY}-path?{SIGNATURE}")),
            "/userinfo" => moved(&format!("http://user:{CANARY}-password@{there}/")),
            _ => honest(request, &content, "ETag: \"1\"\r\n"),
        }
    })
}

/// On an island everybody has the ports that it likes.
fn http_port(name: &str) -> u16 {
    if name == AGENTS[0] { 7311 } else { 7312 }
}

fn socket(scratch: &Scratch, name: &str) -> PathBuf {
    scratch.join(&format!("{name}.sock"))
}

#[test]
fn secrets_go_to_their_origin_and_nowhere_else() {
    let test = "secrets_go_to_their_origin_and_nowhere_else";
    hawker_tests::on_both_engines(test, Island::obstacle().as_deref(), |engine| {
        for is_insecure in [false, true] {
            let lab = Lab::start(engine, is_insecure);
            for name in AGENTS {
                lab.download_all(Some(name));
            }
            // Without an agent there is no cluster.
            if !is_insecure {
                lab.download_all(None);
            }
            check_hosts(&lab);
            check_packets(&lab);
            check_requests(&lab);
            check_files(&lab);
        }
    });
}

/// What agents and scheduler say to people: logs, answers, figures.
fn check_hosts(lab: &Lab) {
    for (agent, name) in lab.agents.iter().zip(AGENTS) {
        let log = format!("{}{}", agent.stdout(), agent.stderr());
        assert!(log.contains("TRACE") && log.contains("resolve failed"), "the log says everything: {log}");
        assert_silent(&format!("the log of {name}"), &log);
        let socket = socket(&lab.scratch, name);
        let status = ask(&socket, &["status"]).expect("a status");
        let list = ask(&socket, &["ls"]).expect("a list");
        let tasks = list["tasks"].as_array().or_else(|| list.as_array()).expect("tasks").clone();
        assert!(tasks.len() >= 4, "{name} has {list}");
        for task in &tasks {
            let stat = ask(&socket, &["stat", task["task"].as_str().expect("a name")]).expect("a task");
            assert_silent(&format!("stat of {name}"), &stat.to_string());
        }
        assert_silent(&format!("the list of {name}"), &list.to_string());
        assert_silent(&format!("the status of {name}"), &status.to_string());
        let http = SocketAddr::from(([127, 0, 0, 1], http_port(name)));
        assert_silent(&format!("the metrics of {name}"), &lab.island.run(|| http_get(http, "/metrics", "")));
    }
    assert_silent("the scheduler's log", &format!("{}{}", lab.scheduler.stdout(), lab.scheduler.stderr()));
    let figures = lab.island.run(|| http_get(([127, 0, 0, 1], 7300).into(), "/metrics", ""));
    assert_silent("the scheduler's metrics", &figures);
}

fn check_packets(lab: &Lab) {
    assert!(lab.capture.bytes() > LENGTH as u64, "the content went from host to host: {} bytes", lab.capture.bytes());
    assert!(lab.capture.found().is_empty(), "packets with secrets: {:?}", lab.capture.found());
}

/// Another origin hears no secret but what is in the redirect to it; the right one hears each host's own.
fn check_requests(lab: &Lab) {
    let requests = lab.elsewhere.requests();
    assert!(!requests.is_empty(), "the redirect was followed");
    for request in requests {
        let head = request.head.replace(&format!("{CANARY}-location"), "");
        assert_silent("another origin's request", &head);
    }
    let requests = [lab.origin.requests(), lab.secure.requests()].concat();
    for request in &requests {
        let name = request.header("x-host").unwrap_or_else(|| panic!("whose is {}", request.head));
        assert_eq!(request.header("x-custom"), Some(&*format!("{CANARY}-{name}")), "another's secret");
        assert_eq!(request.header("authorization"), Some(&*format!("Bearer {CANARY}")), "{}", request.head);
    }
    let of_query = |request: &&Request| request.head.contains(&format!("token={CANARY}-query"));
    assert!(requests.iter().any(|request| of_query(&request)), "the origin gets what it asks for");
}

/// Of secrets, only a query that no provider's signature explains stands on disk: it names the content.
fn check_files(lab: &Lab) {
    let mut holders = Vec::new();
    for name in AGENTS.into_iter().chain(["scheduler"]) {
        let data = lab.scratch.join(&format!("data-{name}"));
        let mode = std::fs::metadata(&data).expect("a data directory").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} can be read by others", data.display());
        collect(&data, &mut holders);
    }
    for holder in &holders {
        let bytes = std::fs::read(holder).expect("our own file");
        let text = String::from_utf8_lossy(&bytes).replace(&format!("token={CANARY}-query"), "");
        assert_silent(&holder.display().to_string(), &text);
        let mode = std::fs::metadata(holder).expect("our own file").permissions().mode();
        let is_meta = holder.extension().is_some_and(|extension| extension == "meta");
        assert!(is_meta && mode & 0o077 == 0, "{} with mode {mode:o} holds a query", holder.display());
    }
    assert_eq!(holders.len(), AGENTS.len(), "{holders:?}");
}

/// Files below `directory` that hold a secret.
fn collect(directory: &Path, holders: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("our own directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, holders);
        } else if path.is_file() {
            let bytes = std::fs::read(&path).expect("our own file");
            if bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()) {
                holders.push(path);
            }
        }
    }
}

fn assert_silent(what: &str, text: &str) {
    let told: Vec<&str> = text.lines().filter(|line| line.contains(CANARY)).take(3).collect();
    assert!(told.is_empty(), "{what} holds secrets: {told:#?}");
}
