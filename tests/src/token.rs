//! A token service: what a registry sends its clients to for a bearer token.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::registry::Access;
use crate::scripted::{Act, Request, Scripted};
use crate::tls::{Identity, write_roots};

const ISSUER: &str = "token-service";
/// How long a token holds.
const VALID_S: u64 = 300;

/// A running service. It serves until the test's process ends.
#[derive(Debug)]
pub struct TokenService {
    service: Scripted,
    roots: PathBuf,
}

impl TokenService {
    /// A service that lets users (by `user:password`; an empty one is anybody) pull from repositories.
    ///
    /// # Panics
    /// When its certificate cannot be written.
    #[must_use]
    pub fn start(roots: &Path, rights: HashMap<String, Vec<String>>) -> Self {
        let identity = Identity::new("token.service", false);
        write_roots(roots, &[&identity]);
        let script = move |request: &Request| answer(request, &rights, &identity);
        Self { service: Scripted::start(Arc::new(script), None), roots: roots.to_owned() }
    }

    /// For a registry that believes it.
    #[must_use]
    pub fn access(&self) -> Access {
        Access::Token { realm: self.service.url("token"), issuer: ISSUER.to_owned(), roots: self.roots.clone() }
    }

    /// What it was asked.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.service.requests()
    }
}

fn answer(request: &Request, rights: &HashMap<String, Vec<String>>, identity: &Identity) -> Vec<Act> {
    if request.head.starts_with("POST ") {
        // Clients try this first (OAuth 2), and GET when a service does not know it.
        let text = "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return vec![Act::Text(text.to_owned()), Act::Hang];
    }
    let credentials = request.header("authorization").and_then(|value| value.strip_prefix("Basic "));
    let user = credentials.and_then(|text| STANDARD.decode(text).ok()).and_then(|bytes| String::from_utf8(bytes).ok());
    let user = user.unwrap_or_default();
    if !user.is_empty() && !rights.contains_key(&user) {
        return reply("401 Unauthorized", &json!({ "errors": [{ "code": "UNAUTHORIZED" }] }));
    }
    let target = request.head.split(' ').nth(1).unwrap_or_default().to_owned();
    let scopes = target.split(['?', '&']).filter_map(|part| part.strip_prefix("scope="));
    let scopes = scopes.map(|scope| scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ","));
    let public = rights.get("").into_iter().flatten();
    let may: Vec<&String> = rights.get(&user).into_iter().flatten().chain(public).collect();
    let access: Vec<Value> = scopes
        .filter_map(|scope| {
            let mut parts = scope.splitn(3, ':');
            let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
            let is_right =
                may.iter().any(|repository| *repository == name) && actions.split(',').any(|word| word == "pull");
            is_right.then(|| json!({ "type": kind, "name": name, "actions": ["pull"] }))
        })
        .collect();
    let token = sign(identity, &user, &access);
    reply("200 OK", &json!({ "token": token, "access_token": token, "expires_in": VALID_S }))
}

fn reply(status: &str, body: &Value) -> Vec<Act> {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    vec![Act::Text(head + &body), Act::Keep]
}

/// A JSON web token, signed with ES256 (RFC 7518, section 3.4).
fn sign(identity: &Identity, user: &str, access: &[Value]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(identity.certificate())] });
    let claims = json!({
        "iss": ISSUER, "sub": user, "aud": "registry", "iat": now, "nbf": now - 60, "exp": now + VALID_S, "jti": "1",
        "access": access,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(identity.sign(signed.as_bytes())))
}
