//! This host's own credentials: Docker's `config.json`, Podman's `auth.json`, and the helper programs that both name.

use std::collections::HashMap;
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use hawker_proto::oci::{Registry, RepositoryName};

use super::registries::Place;

/// A helper answers within this.
const HELPER_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a helper's answer, and of a credentials file, at most.
const BYTES_MAX: u64 = 1 << 20;
/// What Docker calls its Hub in its own files.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What Docker's helpers call one whose secret is no password.
const IDENTITY: &str = "<token>";

/// What this host shows to say who it is.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Secret {
    /// A name and a password.
    pub(crate) password: Option<(String, String)>,
    /// What stands for them at a token server that speaks OAuth 2: a refresh token, which Docker calls identity token.
    pub(crate) identity: Option<String>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Looks up this host's credentials. Nothing is kept: files and helpers change, and tokens are what is asked with.
#[derive(Debug, Default)]
pub(crate) struct Credentials;

impl Credentials {
    /// What `place` says about itself, for `repository`.
    pub(crate) async fn find(&self, place: &Place, repository: Option<&RepositoryName>) -> Option<Secret> {
        let (registry, file, helper) = (place.name.clone(), place.auth_file.clone(), place.helper.clone());
        let repository = repository.cloned();
        let found = tokio::task::spawn_blocking(move || match (helper, file) {
            (Some(helper), _) => ask_helper(&helper, &server_of(&registry)),
            (None, Some(file)) => in_file(&file, &registry, repository.as_ref()),
            (None, None) => Err("neither auth-file nor helper is set".to_owned()),
        });
        match found.await {
            Ok(Ok(secret)) => Some(secret),
            Ok(Err(error)) => {
                tracing::warn!(registry = %place.name, %error, "this host's credentials cannot be had");
                None
            }
            Err(_) => None,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    auths: HashMap<String, Entry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "identitytoken")]
    identity_token: Option<String>,
}

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username")]
    name: String,
    #[serde(rename = "Secret")]
    secret: String,
}

impl From<HelperAnswer> for Secret {
    fn from(answer: HelperAnswer) -> Self {
        match answer.name.as_str() {
            IDENTITY => Self { password: None, identity: Some(answer.secret) },
            _ => Self { password: Some((answer.name, answer.secret)), identity: None },
        }
    }
}

fn in_file(path: &Path, registry: &Registry, repository: Option<&RepositoryName>) -> Result<Secret, String> {
    let failed = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    file.take(BYTES_MAX).read_to_string(&mut text).map_err(|error| failed(&error))?;
    // Where the mistake is, and not the text there, which may be a password.
    let config: ConfigFile = serde_json::from_str(&text)
        .map_err(|error| failed(&format_args!("line {} is not as it should be", error.line())))?;
    if let Some(helper) = config.cred_helpers.iter().find(|(key, _)| is_of(key, registry.as_str())).map(|(_, it)| it) {
        return ask_helper(helper, &server_of(registry));
    }
    if let Some(secret) = entry(&config, registry, repository) {
        return Ok(secret);
    }
    match &config.creds_store {
        Some(helper) => ask_helper(helper, &server_of(registry)),
        None => Err(failed(&format_args!("nothing about {registry}"))),
    }
}

/// The entry of the longest part of `registry/repository` that has one.
fn entry(config: &ConfigFile, registry: &Registry, repository: Option<&RepositoryName>) -> Option<Secret> {
    let mut name = match repository {
        Some(repository) => format!("{registry}/{repository}"),
        None => registry.to_string(),
    };
    loop {
        let found = config.auths.iter().find(|(key, _)| is_of(key, &name)).and_then(|(_, entry)| entry.secret());
        if found.is_some() {
            return found;
        }
        name.truncate(name.rfind('/')?);
    }
}

impl Entry {
    fn secret(&self) -> Option<Secret> {
        let identity = self.identity_token.clone().filter(|token| !token.is_empty());
        // Beside such a token the password may be empty: what is left of one that nobody should see.
        let password = self.password().filter(|(_, password)| identity.is_none() || !password.is_empty());
        (password.is_some() || identity.is_some()).then_some(Secret { password, identity })
    }

    fn password(&self) -> Option<(String, String)> {
        if let Some(auth) = self.auth.as_deref().filter(|auth| !auth.is_empty()) {
            let text = String::from_utf8(STANDARD.decode(auth).ok()?).ok()?;
            let (name, password) = text.split_once(':')?;
            let password = password.trim_end_matches('\0').to_owned();
            return Some((name.to_owned(), password));
        }
        Some((self.username.clone()?, self.password.clone()?))
    }
}

/// Whether a file's key stands for `name`: `https://index.docker.io/v1/` is `docker.io`.
fn is_of(key: &str, name: &str) -> bool {
    let key = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let Some(registry) = Registry::parse(host) else { return false };
    let rest = name.strip_prefix(registry.as_str());
    rest.is_some_and(|rest| if path.is_empty() { rest.is_empty() } else { rest.strip_prefix('/') == Some(path) })
}

fn server_of(registry: &Registry) -> String {
    if *registry == Registry::docker_hub() { DOCKER_HUB_KEY.to_owned() } else { registry.to_string() }
}

/// Docker's credential helper protocol: the server's name in, JSON out.
fn ask_helper(helper: &str, server: &str) -> Result<Secret, String> {
    let program = format!("docker-credential-{helper}");
    let is_name = helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if helper.is_empty() || !is_name {
        return Err("a helper's name holds letters, digits, dots, dashes and underscores only".to_owned());
    }
    let failed = |error: &dyn fmt::Display| format!("{program}: {error}");
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(&error))?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let (sender, receiver) = mpsc::channel();
    let server = server.to_owned();
    // Ends with the helper at the latest.
    std::thread::spawn(move || {
        let mut text = String::new();
        // A helper that reads nothing may still answer.
        drop(input.map(|mut input| input.write_all(server.as_bytes())));
        let read = output.map(|output| output.take(BYTES_MAX).read_to_string(&mut text));
        drop(sender.send(read.is_some_and(|read| read.is_ok()).then_some(text)));
    });
    let answer = receiver.recv_timeout(HELPER_LIMIT);
    // It has said all, or had its time.
    let is_late = answer.is_err();
    if is_late {
        drop(child.kill());
    }
    let status = wait(&mut child).map_err(|error| failed(&error))?;
    let text = answer.ok().flatten().ok_or_else(|| failed(&"no answer within 10 s"))?;
    if !status.success() {
        return Err(failed(&format_args!("it ended with {status}")));
    }
    let answer: HelperAnswer = serde_json::from_str(&text).map_err(|_| failed(&"its answer is not as it should be"))?;
    Ok(answer.into())
}

/// One that has said what it has to say and does not end is ended.
fn wait(child: &mut Child) -> std::io::Result<ExitStatus> {
    for _ in 0..100 {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill()?;
    child.wait()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, registry: &str, repository: Option<&str>) -> Option<String> {
        let config: ConfigFile = serde_json::from_str(text).unwrap();
        let repository = repository.map(|name| RepositoryName::parse(name).unwrap());
        let secret = entry(&config, &Registry::parse(registry).unwrap(), repository.as_ref())?;
        let password = secret.password.map(|(name, password)| format!("{name}:{password}"));
        Some(password.into_iter().chain(secret.identity).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn credentials_are_found_as_docker_and_podman_write_them() {
        let auth = |text: &str| STANDARD.encode(text);
        let text = format!(
            "{{\"auths\":{{\"https://index.docker.io/v1/\":{{\"auth\":\"{}\"}},\"h.io:5000\":{{\"username\":\"u\",\"password\":\"p\"}},\
             \"q.io\":{{\"auth\":\"{}\"}},\"q.io/team/app\":{{\"auth\":\"{}\"}},\"empty.io\":{{}},\"i.io\":{{\"auth\":\"{}\",\"identitytoken\":\"i3\"}},\
             \"both.io\":{{\"auth\":\"{}\",\"identitytoken\":\"i4\"}},\"token.io\":{{\"identitytoken\":\"i5\"}}}},\"other\":1}}",
            auth("hub:a:b"),
            auth("all:1"),
            auth("app:2"),
            auth("00000000:"),
            auth("both:4")
        );
        for (registry, repository, expected) in [
            ("docker.io", Some("library/a"), Some("hub:a:b")),
            ("h.io:5000", None, Some("u:p")),
            ("h.io", None, None),
            ("q.io", Some("team/app"), Some("app:2")),
            ("q.io", Some("team/app/sub"), Some("app:2")),
            ("q.io", Some("team/other"), Some("all:1")),
            ("q.io", Some("team/application"), Some("all:1")),
            ("empty.io", None, None),
            ("i.io", None, Some("i3")),
            ("both.io", None, Some("both:4 i4")),
            ("token.io", None, Some("i5")),
        ] {
            assert_eq!(found(&text, registry, repository).as_deref(), expected, "{registry} {repository:?}");
        }
    }

    #[test]
    fn answer_of_a_helper_is_a_password_or_a_token() {
        let secret = |text: &str| Secret::from(serde_json::from_str::<HelperAnswer>(text).unwrap());
        let password = secret("{\"ServerURL\":\"h.io\",\"Username\":\"u\",\"Secret\":\"p\"}");
        assert!(password == Secret { password: Some(("u".to_owned(), "p".to_owned())), identity: None });
        let token = secret("{\"Username\":\"<token>\",\"Secret\":\"t\"}");
        assert!(token == Secret { password: None, identity: Some("t".to_owned()) });
    }

    #[test]
    fn helper_that_is_none_is_named() {
        for (helper, part) in [("", "name"), ("../x", "name"), ("does-not-exist", "docker-credential-does-not-exist")] {
            assert!(ask_helper(helper, "h.io").unwrap_err().contains(part), "{helper}");
        }
    }
}
