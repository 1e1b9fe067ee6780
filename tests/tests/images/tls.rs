//! Registries behind TLS whose authority only the agent's settings know.

use hawker_tests::images::Image;
use hawker_tests::process::Scratch;
use hawker_tests::registry::{Access, Registry, Wish, ask, fill};
use hawker_tests::tls::{Authority, write_roots};
use hawker_tests::{free_address, on_both_engines};

use super::obstacle;
use crate::clients::{Client, Clients, name};
use crate::faults::Mirror;

const REPOSITORY: &str = "team/app";

/// Registries of one image behind TLS, and authorities for them.
struct Stage {
    scratch: Scratch,
    image: Image,
    ours: Authority,
    sections: String,
    registries: Vec<Registry>,
}

impl Stage {
    fn new(seed: u64) -> Self {
        let scratch = Scratch::new();
        let image = Image::new(seed, &[300_000, 2_000_000]);
        fill(&scratch, &scratch.join("storage"), &[(&format!("{REPOSITORY}:v1"), &image)]);
        let ours = Authority::new("ours");
        Self { scratch, image, ours, sections: String::new(), registries: Vec::new() }
    }

    /// A registry with a certificate for `host`; `settings` is what the agent's say beside its name and URL.
    fn add(&mut self, host: &str, settings: &str) {
        let address = free_address();
        let [certificate, key] = ["crt", "key"].map(|end| self.scratch.join(&format!("{}.{end}", address.port())));
        self.ours.issue(host).write(&certificate, &key);
        let wish = Wish { address, tls: Some((certificate, key)), access: Access::Everybody, lab: None };
        let registry = Registry::start(&self.scratch, &self.scratch.join("storage"), &wish);
        let name = name(self.registries.len());
        self.sections += &format!("[[mirror.registry]]\nname = '{name}'\nurl = 'https://{address}'\n{settings}\n");
        self.registries.push(registry);
    }

    /// The settings' line about a file with the certificate of `authority`.
    fn ca(&self, file: &str, authority: &Authority) -> String {
        let path = self.scratch.join(file);
        write_roots(&path, &[authority.identity()]);
        format!("ca = '{}'", path.display())
    }

    fn start(&self, engine: &str) -> (Mirror, Clients) {
        let mirror = Mirror::start(&self.scratch, engine, &self.sections, &[]);
        let names: Vec<String> = (0..self.registries.len()).map(name).collect();
        let clients = Clients::start(&self.scratch, "clients", &mirror.url(), &names);
        (mirror, clients)
    }

    fn reference(index: usize) -> String {
        format!("{}/{REPOSITORY}:v1", name(index))
    }

    fn assert_sent_once(&self, index: usize) {
        for layer in &self.image.layers {
            self.registries[index].assert_sent_once(layer);
        }
    }
}

#[test]
fn a_registry_behind_tls_is_believed_by_its_certificate_only() {
    let test = "a_registry_behind_tls_is_believed_by_its_certificate_only";
    on_both_engines(test, obstacle().as_deref(), |engine| {
        let mut stage = Stage::new(31);
        let [ours, another] = [stage.ca("ours.pem", &stage.ours), stage.ca("another.pem", &Authority::new("another"))];
        stage.add("127.0.0.1", &ours);
        let reasons = ["UnknownIssuer", "UnknownIssuer", "not valid for name"];
        for (host, settings) in [("127.0.0.1", ""), ("127.0.0.1", &another), ("elsewhere.example", &ours)] {
            stage.add(host, settings);
        }
        let (mirror, clients) = stage.start(engine);

        for (index, reason) in (1..).zip(reasons) {
            let what = format!("{engine}, registry {index}");
            // Podman waits three seconds for better luck.
            let pulling = Client::ALL.into_iter().filter(|client| index == 1 || *client != Client::Podman);
            for client in pulling {
                let pulled = clients.pull(client, &Stage::reference(index), &stage.image);
                assert!(pulled.is_err(), "{what}: {client:?}");
            }
            for object in ["manifests/v1".to_owned(), format!("blobs/{}", stage.image.layers[1].digest)] {
                let target = format!("/v2/{REPOSITORY}/{object}?ns={}", name(index));
                let (head, body) = ask(mirror.http, "GET", &target, "", b"");
                let text = String::from_utf8_lossy(&body);
                assert_eq!(head.status, 502, "{what}: {text}");
                assert!(text.contains("certificate") && text.contains(reason), "{what}: {text}");
            }
            // nginx logs what comes in the clear, too.
            let requests = stage.registries[index].requests();
            assert!(requests.is_empty(), "{what}: {requests:?}");
            // Clients say no more than 502, so the log must.
            let log = mirror.guard.stderr();
            let mut warnings = log.lines().filter(|line| line.contains("a registry cannot be asked"));
            let is_named = |line: &str| line.contains(&name(index)) && line.contains(reason);
            assert!(warnings.any(is_named) && !warnings.any(is_named), "{what}: {log}");
        }
        assert_eq!(mirror.ask(&["ls"])["tasks"].as_array().map(Vec::len), Some(0), "{engine}");
        assert_eq!(mirror.ask(&["mirror", "ls"])["tags"].as_array().map(Vec::len), Some(0), "{engine}");

        clients.pull_all(engine, &Stage::reference(0), &stage.image);
        stage.assert_sent_once(0);
    });
}

#[test]
fn a_registry_whose_certificate_nobody_checks_is_one_that_settings_name() {
    let test = "a_registry_whose_certificate_nobody_checks_is_one_that_settings_name";
    on_both_engines(test, obstacle().as_deref(), |engine| {
        let mut stage = Stage::new(32);
        let another = stage.ca("another.pem", &Authority::new("another"));
        stage.add("elsewhere.example", "insecure = true");
        // Who names certificates wants them to count.
        stage.add("127.0.0.1", &format!("insecure = true\n{another}"));
        stage.add("127.0.0.1", "");
        let (mirror, clients) = stage.start(engine);
        let log = mirror.guard.stderr();
        let warned = |index: usize| {
            let warnings = log.lines().filter(|line| line.contains("WARN") && line.contains("`insecure`"));
            warnings.filter(|line| line.contains(&name(index))).count()
        };
        assert_eq!([0, 1, 2].map(warned), [1, 0, 0], "{engine}: {log}");
        for index in [1, 2] {
            let pulled = clients.pull(Client::Skopeo, &Stage::reference(index), &stage.image);
            assert!(pulled.is_err() && stage.registries[index].requests().is_empty(), "{engine}, {index}: {pulled:?}");
        }
        // Its content has a digest. What has none is another matter.
        let url = format!("https://{}/v2/", stage.registries[0].name());
        let got = mirror.get(&stage.scratch, &url);
        assert!(got.code() != Some(0) && got.stderr.contains("certificate"), "{engine}: {got:?}");
        assert!(stage.registries[0].requests().is_empty(), "{engine}");

        clients.pull_all(engine, &Stage::reference(0), &stage.image);
        stage.assert_sent_once(0);
    });
}
