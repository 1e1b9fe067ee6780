//! This host's own credentials: private images for clients that have none, and for nobody else to see.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hawker_tests::images::Image;
use hawker_tests::process::Scratch;
use hawker_tests::registry::{Access, Registry, Wish, ask, fill};
use hawker_tests::token::TokenService;
use hawker_tests::{free_address, http_get, on_both_engines};

use super::{credentials, obstacle};
use crate::clients::{Client, Clients, name};
use crate::faults::Mirror;

const REPOSITORY: &str = "team/secret";
const USER: &str = "node";
const PASSWORD: &str = "c4nary-password";
/// What a token service starts each token with: the base64 of `{"alg":`.
const TOKEN: &str = "eyJhbGciOi";

/// A registry for one user, and the image that only it has.
struct Private {
    registry: Registry,
    image: Image,
}

impl Private {
    fn start(scratch: &Scratch, seed: u64, access: Access) -> Self {
        let image = Image::new(seed, &[700_000]);
        let storage = scratch.join(&format!("storage-{seed}"));
        fill(scratch, &storage, &[(&format!("{REPOSITORY}:v1"), &image)]);
        let wish = Wish { address: free_address(), tls: None, access, lab: None };
        Self { registry: Registry::start(scratch, &storage, &wish), image }
    }

    fn section(&self, name: &str, more: &str) -> String {
        let url = self.registry.name();
        format!("[[mirror.registry]]\nname = '{name}'\nurl = 'http://{url}'\ninsecure = true\n{more}\n")
    }

    fn blob(&self) -> String {
        format!("/v2/{REPOSITORY}/blobs/{}", self.image.layers[1].digest)
    }
}

#[test]
fn this_hosts_credentials_serve_all_its_clients_and_are_seen_by_none() {
    let test = "this_hosts_credentials_serve_all_its_clients_and_are_seen_by_none";
    on_both_engines(test, obstacle().as_deref(), |engine| {
        let scratch = Scratch::new();
        let user = format!("{USER}:{PASSWORD}");
        let rights = HashMap::from([(user.clone(), vec![REPOSITORY.to_owned()])]);
        let tokens = TokenService::start(&scratch.join("token.pem"), rights);
        let basic = || Access::Basic(vec![(USER.to_owned(), PASSWORD.to_owned())]);
        let all = [
            Private::start(&scratch, 41, basic()),
            Private::start(&scratch, 42, tokens.access()),
            Private::start(&scratch, 43, tokens.access()),
        ];
        let file = scratch.join("config.json");
        let entry = |index| format!("\"{}\": {{ \"auth\": \"{}\" }}", name(index), STANDARD.encode(&user));
        std::fs::write(&file, format!("{{ \"auths\": {{ {}, {} }} }}", entry(0), entry(1))).expect("room");
        write_helper(&scratch, &name(2));
        let by_file = format!("credentials = 'node'\nauth-file = '{}'\nrealms = ['localhost']", file.display());
        let by_helper = "credentials = 'node'\nhelper = 'canary'\nrealms = ['localhost']";
        let sections: String = [&by_file, &by_file, by_helper]
            .iter()
            .enumerate()
            .map(|(index, more)| all[index].section(&name(index), more))
            .collect();
        let mirror = Mirror::start(&scratch, engine, &sections, &["--log", "trace"]);
        let clients = Clients::start(&scratch, "clients", &mirror.url(), &[0, 1, 2].map(name));

        for (index, private) in all.iter().enumerate() {
            let what = format!("{engine}, registry {index}");
            clients.pull_all(&what, &format!("{}/{REPOSITORY}:v1", name(index)), &private.image);
            // Every client of this host may have it, whatever it says of itself: that is what the setting means.
            for fields in ["", "Authorization: Basic Ym9iOm90aGVy\r\n", "Authorization: Bearer forged\r\n"] {
                let (head, bytes) =
                    ask(mirror.http, "GET", &format!("{}?ns={}", private.blob(), name(index)), fields, b"");
                assert_eq!(head.status, 200, "{what}: {fields}");
                assert!(bytes == private.image.layers[1].bytes, "{what}");
            }
            private.registry.assert_sent_once(&private.image.layers[1]);
            // To pull, and for nothing else.
            let uploads = format!("/v2/{REPOSITORY}/blobs/uploads/?ns={}", name(index));
            assert_eq!(ask(mirror.http, "POST", &uploads, "", b"").0.status, 401, "{what}");
            let manifest = format!("/v2/{REPOSITORY}/manifests/{}?ns={}", private.image.manifest.digest, name(index));
            assert_eq!(ask(mirror.http, "DELETE", &manifest, "", b"").0.status, 401, "{what}");
        }
        assert!(!tokens.requests().is_empty());
        let [first, ..] = all;
        let (reference, image) = (format!("{}/{REPOSITORY}:v1", name(0)), first.image);
        drop(first.registry);
        let pulled = clients.pull(Client::Skopeo, &reference, &image);
        pulled.unwrap_or_else(|error| panic!("{engine}, with the registry away: {error}"));

        assert_seen_nowhere(&scratch, &mirror, &user);
    });
}

/// No credentials in what the agent says, and none in its files.
fn assert_seen_nowhere(scratch: &Scratch, mirror: &Mirror, user: &str) {
    let status = mirror.ask(&["status"]).to_string();
    let tags = mirror.ask(&["mirror", "ls"]).to_string();
    let tasks = mirror.ask(&["ls"]).to_string();
    assert!(tags.contains(REPOSITORY) && tasks.contains(REPOSITORY), "{tags} {tasks}");
    let mut all = vec![
        ("log".to_owned(), mirror.guard.stderr() + &mirror.guard.stdout()),
        ("metrics".to_owned(), http_get(mirror.http, "/metrics", "")),
        ("status".to_owned(), status),
        ("status for people".to_owned(), mirror.tell(&["status"])),
        ("tags".to_owned(), tags),
        ("tasks".to_owned(), tasks),
    ];
    let mut directories = vec![scratch.join("data")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("the agent's").flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let bytes = std::fs::read(&path).expect("the agent's");
                all.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
    }
    for (place, text) in all {
        for secret in [PASSWORD, &STANDARD.encode(user), TOKEN] {
            let at = text.find(secret);
            assert!(at.is_none(), "{secret} in {place}: {:?}", at.map(|at| text[..at].lines().last()));
        }
    }
}

/// `docker-credential-canary`, which knows one server.
fn write_helper(scratch: &Scratch, server: &str) {
    let directory = scratch.join("bin");
    std::fs::create_dir_all(&directory).expect("room");
    let path = directory.join("docker-credential-canary");
    let answer = format!("{{\"ServerURL\":\"{server}\",\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = get ] || exit 2\nread -r server || true\n[ \"$server\" = {server} ] || exit 1\n\
         echo '{answer}'\n"
    );
    std::fs::write(&path, text).expect("room");
    make_executable(&path);
}

fn make_executable(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("our own file");
}

#[test]
fn a_registry_that_is_passed_by_is_asked_by_its_clients_alone() {
    let test = "a_registry_that_is_passed_by_is_asked_by_its_clients_alone";
    on_both_engines(test, obstacle().as_deref(), |engine| {
        let scratch = Scratch::new();
        let access = Access::Basic(vec![("ann".to_owned(), PASSWORD.to_owned())]);
        let private = Private::start(&scratch, 44, access);
        let name = private.registry.name();
        let mirror = Mirror::start(&scratch, engine, &private.section(&name, "credentials = 'bypass'"), &[]);
        let clients = Clients::start(&scratch, "clients", &mirror.url(), std::slice::from_ref(&name));
        let ann = || credentials("ann", PASSWORD, "");
        for client in Client::ALL {
            let reference = format!("{name}/{REPOSITORY}:v1");
            let pulled = clients.pull_as(client, ann(), &reference, &private.image);
            pulled.unwrap_or_else(|error| panic!("{engine}, {client:?}: {error}"));
            let wrong = clients.pull_as(client, credentials("ann", "wrong", ""), &reference, &private.image);
            assert!(wrong.is_err(), "{engine}, {client:?}");
        }
        let (head, body) = ask(mirror.http, "GET", &format!("{}?ns={name}", private.blob()), "", b"");
        assert_eq!(
            (head.status, head.header("www-authenticate")),
            (404, None),
            "{engine}: {}",
            String::from_utf8_lossy(&body)
        );
        assert_eq!(mirror.ask(&["ls"])["tasks"].as_array().map(Vec::len), Some(0), "{engine}");
        let log = mirror.guard.stderr();
        let mut asked =
            log.lines().filter(|line| line.contains("hawker::access") && line.contains(REPOSITORY)).peekable();
        assert!(asked.peek().is_some() && asked.all(|line| line.contains(" status=404 ")), "{engine}: {log}");
        for secret in [PASSWORD.to_owned(), STANDARD.encode(format!("ann:{PASSWORD}"))] {
            assert!(!log.contains(&secret), "{engine}");
        }
    });
}
