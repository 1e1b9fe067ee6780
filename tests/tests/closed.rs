//! Closed by default: no redirect leads from outside into a private network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hawker_tests::cluster::{ask, clean};
use hawker_tests::island::Island;
use hawker_tests::process::{Ended, Process, Scratch};
use hawker_tests::scripted::{Scripted, honest, refusal};
use hawker_tests::{files, workspace};

const LIMIT: Duration = Duration::from_mins(1);

/// More than the first GET of a resolve brings.
const LENGTH: usize = (20 << 20) + 1;

const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

const ADDRESSES: [&str; 5] =
    ["203.0.113.1/32", "203.0.113.2/32", "10.9.9.9/32", "169.254.169.254/32", "fd00:ec2::254/128"];

const HOSTS: &str = "127.0.0.1 localhost\n10.9.9.9 inside.test\n203.0.113.2 outside.test\n";

fn on_both_engines(test: &str, check: impl Fn(&'static str)) {
    hawker_tests::on_both_engines(test, Island::obstacle().as_deref(), check);
}

/// An agent on the island that works alone, and its socket.
fn start_agent(island: &Island, scratch: &Scratch, engine: &str) -> (Process, PathBuf) {
    let socket = scratch.join("agent.sock");
    let mut command = island.command(&workspace::hawker());
    command.args(["agent", "--peer-port", "0", "--http-port", "0", "--engine", engine, "--limit-disk", "8GiB"]);
    command.arg("--data-dir").arg(scratch.join("data")).arg("--socket").arg(&socket);
    clean(&mut command);
    let mut agent = Process::start(scratch.path(), "agent", command);
    agent.wait_until(LIMIT, "ready", || ask(&socket, &["status"]).is_some());
    (agent, socket)
}

/// `hawker get` by the agent at `socket`.
fn get(scratch: &Scratch, socket: &Path, url: &str, output: &Path) -> Ended {
    let mut command = Command::new(workspace::hawker());
    command.args(["get", url, "--json", "--overwrite", "-o"]).arg(output).arg("--socket").arg(socket);
    clean(&mut command);
    Process::start(scratch.path(), "get", command).wait(LIMIT)
}

#[test]
fn no_redirect_leads_further_in_than_its_origin_stands() {
    on_both_engines("no_redirect_leads_further_in", |engine| {
        let island = Island::up(&ADDRESSES, HOSTS);
        let scratch = Scratch::new();
        let output = scratch.join("file");
        let (_agent, socket) = start_agent(&island, &scratch, engine);
        let content: Arc<[u8]> = files::random_bytes(LENGTH, 9_001).into();
        // What is asked for here by others than `/right` is asked for by a trick.
        let target = island.run(|| {
            let content = Arc::clone(&content);
            let script = move |request: &_| honest(request, &content, "ETag: \"1\"\r\n");
            Scripted::start_at(Ipv6Addr::UNSPECIFIED.into(), Arc::new(script), None)
        });
        let port = target.port();
        let redirector = |at: IpAddr, location: String| {
            let script = move |_: &_| refusal(302, &format!("Location: {location}\r\n"));
            island.run(|| Scripted::start_at(at, Arc::new(script), None))
        };
        let inside = ["127.0.0.1", "10.9.9.9", "169.254.169.254", "[fd00:ec2::254]", "[fe80::1]", "[::1]", "0.0.0.0"];
        let hidden = ["[::ffff:127.0.0.1]", "[::ffff:10.9.9.9]", "inside.test", "localhost"];
        for host in inside.into_iter().chain(hidden) {
            let origin = redirector(PUBLIC, format!("http://{host}:{port}/trick"));
            // Once more by way of another public host.
            let twice = redirector(PUBLIC, format!("http://203.0.113.1:{}/hop", origin.port()));
            for first in [origin.port(), twice.port()] {
                let ended = get(&scratch, &socket, &format!("http://203.0.113.1:{first}/file"), &output);
                assert_eq!(ended.code(), Some(3), "{engine}, {host}: {}", ended.stderr);
                assert!(ended.stderr.contains("private network"), "{engine}, {host}: {}", ended.stderr);
            }
        }
        let metadata = redirector("10.9.9.9".parse().expect("an address"), format!("http://169.254.169.254:{port}/"));
        let ended = get(&scratch, &socket, &format!("http://inside.test:{}/file", metadata.port()), &output);
        assert_eq!(ended.code(), Some(3), "a private origin does not reach the metadata either: {}", ended.stderr);

        // An origin that turns when the download runs already: its later ranges are elsewhere.
        let turning = {
            let content = Arc::clone(&content);
            let script = move |request: &hawker_tests::scripted::Request| {
                if request.is_later() {
                    refusal(302, &format!("Location: http://10.9.9.9:{port}/trick\r\n"))
                } else {
                    honest(request, &content, "ETag: \"1\"\r\n")
                }
            };
            island.run(|| Scripted::start_at(PUBLIC, Arc::new(script), None))
        };
        let ended = get(&scratch, &socket, &format!("http://203.0.113.1:{}/file", turning.port()), &output);
        assert_eq!(ended.code(), Some(3), "{engine}: {}", ended.stderr);
        assert!(turning.requests().iter().any(hawker_tests::scripted::Request::is_later), "it was asked");
        assert!(target.requests().is_empty(), "{engine}: {:?}", target.requests());

        // Outward, and from inside to inside, redirects go on as ever; so does what the caller itself asks for.
        let outward = redirector(PUBLIC, format!("http://outside.test:{port}/right"));
        let around = redirector("10.9.9.9".parse().expect("an address"), format!("http://inside.test:{port}/right"));
        let home = redirector(Ipv4Addr::LOCALHOST.into(), format!("http://127.0.0.1:{port}/right"));
        let urls = [
            format!("http://203.0.113.1:{}/file", outward.port()),
            format!("http://10.9.9.9:{}/file", around.port()),
            format!("http://localhost:{}/file", home.port()),
            format!("http://169.254.169.254:{port}/right"),
        ];
        for url in urls {
            let ended = get(&scratch, &socket, &url, &output);
            assert_eq!(ended.code(), Some(0), "{engine}, {url}: {}", ended.stderr);
            assert!(std::fs::read(&output).expect("an output") == *content, "{engine}, {url}: wrong bytes");
        }
    });
}
