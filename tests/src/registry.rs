//! Debian's docker-registry as an origin whose requests are counted: images in its storage, nginx before it, and what keeps
//! strangers out.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hawker_proto::http1::{ResponseHead, parse_response};

use crate::images::{Blob, Image, Index};
use crate::lab::Lab;
use crate::nginx::{Nginx, Request};
use crate::process::{Process, Scratch};
use crate::{free_address, workspace};

const PROGRAM: &str = "docker-registry";
const READY_WITHIN: Duration = Duration::from_mins(1);

/// Who may pull.
#[derive(Clone, Debug, Default)]
pub enum Access {
    #[default]
    Everybody,
    /// These users with their passwords, by basic authentication.
    Basic(Vec<(String, String)>),
    /// Whom a token service at `realm` vouches for; `roots` is a PEM file with its certificate.
    Token { realm: String, issuer: String, roots: PathBuf },
}

/// How clients reach it.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// Where nginx listens.
    pub address: SocketAddr,
    /// Certificate and key, PEM: https.
    pub tls: Option<(PathBuf, PathBuf)>,
    pub access: Access,
    /// On the origin of this lab.
    pub lab: Option<&'a Lab>,
}

/// A running registry. Ends with this value.
#[derive(Debug)]
pub struct Registry {
    // Dropped in this order.
    nginx: Nginx,
    _backend: Process,
    address: SocketAddr,
}

impl Registry {
    /// Why this machine can have none, `None` when it can.
    #[must_use]
    pub fn obstacle() -> Option<String> {
        let missing = [PROGRAM, "nginx", "htpasswd"].into_iter().find(|name| workspace::find_program(name).is_none());
        missing.map(|name| format!("{name} is not installed")).or_else(Image::obstacle)
    }

    /// Serves the storage that [`fill`] filled; callers ask [`Self::obstacle`] first.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(scratch: &Scratch, storage: &Path, wish: &Wish<'_>) -> Self {
        let port = free_address().port();
        let backend = start_backend(scratch, storage, port, &wish.access, wish.lab);
        let tls = wish.tls.as_ref().map_or_else(String::new, |(certificate, key)| {
            format!("ssl_certificate {}; ssl_certificate_key {};", certificate.display(), key.display())
        });
        let ssl = if wish.tls.is_some() { " ssl" } else { "" };
        let server = format!(
            "listen {}{ssl}; {tls} location / {{ proxy_pass http://127.0.0.1:{port}; proxy_http_version 1.1; \
             client_max_body_size 0; proxy_request_buffering off; proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme; proxy_buffering off; }}",
            wish.address
        );
        let nginx = Nginx::serve(scratch, wish.address, &server, wish.lab);
        Self { nginx, _backend: backend, address: wish.address }
    }

    /// Its name as images have it.
    #[must_use]
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// Every request that has ended.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.nginx.requests()
    }

    /// Asserts that a blob left it about once, however many asked for it. Nobody waits for a small one to be asked for
    /// twice; its bytes cost nothing. Of a larger one a busy machine may lose a lease.
    ///
    /// # Panics
    /// When it did not, or not at all.
    pub fn assert_sent_once(&self, blob: &Blob) {
        let copies = self.copies_of(blob);
        let most = if blob.bytes.len() > 1 << 20 { 1.5 } else { 2.0 };
        assert!(copies > 0.99 && copies <= most, "{blob:?} left {copies:.2} times: {:#?}", self.requests());
    }

    /// How often the bytes of a blob left it: 1.0 is once.
    #[must_use]
    pub fn copies_of(&self, blob: &Blob) -> f64 {
        let requests = self.requests();
        let of_it = requests.iter().filter(|request| request.target.contains(&format!("/blobs/{}", blob.digest)));
        let bytes: u64 = of_it.filter(|request| request.method == "GET").map(|request| request.body_bytes).sum();
        bytes as f64 / blob.bytes.len() as f64
    }
}

/// Puts images into a registry's storage: names such as `team/app:v1`.
///
/// # Panics
/// When the registry does not take them.
pub fn fill(scratch: &Scratch, storage: &Path, images: &[(&str, &Image)]) {
    let (registry, _backend) = start_open(scratch, storage);
    for (name, image) in images {
        let (repository, tag) = name.split_once(':').expect("a name with a tag");
        push(registry, repository, tag, image);
    }
}

/// The same with images for several platforms.
///
/// # Panics
/// When the registry does not take them.
pub fn fill_indexes(scratch: &Scratch, storage: &Path, indexes: &[(&str, &Index)]) {
    let (registry, _backend) = start_open(scratch, storage);
    for (name, index) in indexes {
        let (repository, tag) = name.split_once(':').expect("a name with a tag");
        for image in &index.images {
            push(registry, repository, &image.manifest.digest, image);
        }
        put_manifest(registry, repository, tag, &index.manifest);
    }
}

fn start_open(scratch: &Scratch, storage: &Path) -> (SocketAddr, Process) {
    let port = free_address().port();
    let backend = start_backend(scratch, storage, port, &Access::Everybody, None);
    (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), backend)
}

fn push(registry: SocketAddr, repository: &str, reference: &str, image: &Image) {
    for blob in image.blobs() {
        let begun = send(registry, "POST", &format!("/v2/{repository}/blobs/uploads/"), "", &[]);
        let location = begun.header("location").expect("a place to upload to");
        let path = location.split_once("://").map_or(location, |(_, rest)| rest);
        let path = &path[path.find('/').expect("a path")..];
        let target = format!("{path}{}digest={}", if path.contains('?') { '&' } else { '?' }, blob.digest);
        let put = send(registry, "PUT", &target, "Content-Type: application/octet-stream\r\n", &blob.bytes);
        assert_eq!(put.status, 201, "{blob:?}: {put:?}");
    }
    put_manifest(registry, repository, reference, &image.manifest);
}

fn put_manifest(registry: SocketAddr, repository: &str, reference: &str, manifest: &Blob) {
    let kind = format!("Content-Type: {}\r\n", manifest.media_type);
    let put = send(registry, "PUT", &format!("/v2/{repository}/manifests/{reference}"), &kind, &manifest.bytes);
    assert_eq!(put.status, 201, "{repository} {reference}: {put:?}");
}

/// One request on a connection of its own; the head of the answer.
fn send(address: SocketAddr, method: &str, target: &str, fields: &str, body: &[u8]) -> ResponseHead {
    ask(address, method, target, fields, body).0
}

/// One request on a connection of its own, with head fields that each end in CRLF; the answer's head and body.
///
/// # Panics
/// When there is no answer.
#[must_use]
pub fn ask(address: SocketAddr, method: &str, target: &str, fields: &str, body: &[u8]) -> (ResponseHead, Vec<u8>) {
    let mut socket = TcpStream::connect(address).expect("it listens");
    socket.set_read_timeout(Some(READY_WITHIN)).expect("a timeout");
    write!(
        socket,
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n{fields}\r\n",
        body.len()
    )
    .expect("it reads");
    socket.write_all(body).expect("it reads");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("an answer");
    let parsed = parse_response(&answer).expect("HTTP");
    let (head, length) = parsed.unwrap_or_else(|| panic!("no answer to {method} {target}"));
    let body = answer.split_off(length);
    (head, body)
}

fn start_backend(scratch: &Scratch, storage: &Path, port: u16, access: &Access, lab: Option<&Lab>) -> Process {
    let name = format!("registry-{port}");
    let file = scratch.join(&format!("{name}.yml"));
    let mut text = format!(
        "version: 0.1\nlog: {{ level: warn, accesslog: {{ disabled: true }} }}\n\
         storage: {{ filesystem: {{ rootdirectory: {} }}, delete: {{ enabled: true }} }}\n\
         http: {{ addr: '127.0.0.1:{port}', secret: test, relativeurls: true }}\n",
        storage.display()
    );
    match access {
        Access::Everybody => {}
        Access::Basic(users) => {
            let path = scratch.join(&format!("{name}.htpasswd"));
            let lines: Vec<String> = users.iter().map(|(user, password)| htpasswd(user, password)).collect();
            std::fs::write(&path, lines.concat()).expect("room");
            let _ = writeln!(text, "auth: {{ htpasswd: {{ realm: test, path: {} }} }}", path.display());
        }
        Access::Token { realm, issuer, roots } => {
            let _ = writeln!(
                text,
                "auth: {{ token: {{ realm: '{realm}', service: registry, issuer: {issuer}, rootcertbundle: {} }} }}",
                roots.display()
            );
        }
    }
    std::fs::write(&file, text).expect("room");
    let program = workspace::find_program(PROGRAM).expect("callers ask for obstacles");
    let mut command = lab.map_or_else(|| Command::new(&program), |lab| lab.command("origin", &program));
    // It would look for a collector of traces.
    command.arg("serve").arg(&file).env("OTEL_TRACES_EXPORTER", "none");
    let mut process = Process::start(scratch.path(), &name, command);
    let is_listening = || match lab {
        None => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(),
        Some(lab) => {
            let curl = workspace::find_program("curl").expect("labs need it");
            let mut probe = lab.command("origin", &curl);
            probe.args(["-s", "-o", "/dev/null", &format!("http://127.0.0.1:{port}/v2/")]);
            probe.status().is_ok_and(|status| status.success())
        }
    };
    process.wait_until(READY_WITHIN, "listening", is_listening);
    process
}

/// A line of a password file; the registry knows bcrypt only.
fn htpasswd(user: &str, password: &str) -> String {
    let program = workspace::find_program("htpasswd").expect("callers ask for obstacles");
    let output = Command::new(program).args(["-nbB", "-C", "4", user, password]).output().expect("htpasswd runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned() + "\n"
}
