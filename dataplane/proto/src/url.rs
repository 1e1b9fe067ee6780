//! Strict http and https URLs.
//!
//! Ours, because the `url` crate brings the ICU tables into every agent (42 crates, 2026-11) for international host
//! names, which origins are not asked for: those are written in their ASCII form (`xn--...`). What this parser takes,
//! it takes as RFC 3986 and the WHATWG standard both do; what they read differently (user names, backslashes,
//! hosts like `0x7f.1`) it refuses, since two readings of one URL are how a filter is passed.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of a URL, at most: what fits a request line of 8 KiB.
pub const URL_BYTES_MAX: usize = 8 * 1024 - 64;

/// How an origin is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP in the clear.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port of a URL that names none.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The host of a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name in lower case.
    Name(String),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, in brackets when written.
    V6(Ipv6Addr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::V4(address) => write!(f, "{address}"),
            Self::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// An absolute http or https URL, without user name and fragment.
///
/// Invariants: scheme and host are in lower case; the target starts with `/`, has no dot segment in its path, and holds
/// only ASCII that may stand in a request line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    scheme: Scheme,
    host: Host,
    port: u16,
    target: String,
    path_bytes: usize,
}

impl Url {
    /// Parses `text`. Characters that a user types but a request line cannot hold (a space, `é`) are percent-encoded.
    ///
    /// # Errors
    /// The text is no http or https URL that we take: the fault of whoever wrote it.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(UrlError::TooLong);
        }
        if let Some(byte) = text.bytes().find(|byte| byte.is_ascii_control() || *byte == b'\\') {
            return Err(UrlError::Character(byte));
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let scheme = [Scheme::Http, Scheme::Https]
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(scheme))
            .ok_or(UrlError::Scheme)?;
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UrlError::Userinfo);
        }
        let (host, port) = parse_authority(authority)?;
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let mut target = without_dot_segments(&encoded(path));
        let path_bytes = target.len();
        if let Some(query) = query {
            target.push('?');
            target.push_str(&encoded(query));
        }
        if target.len() > URL_BYTES_MAX {
            return Err(UrlError::TooLong);
        }
        Ok(Self { scheme, host, port: port.unwrap_or(scheme.default_port()), target, path_bytes })
    }

    /// The URL that `reference` means on a page at this one (RFC 3986, section 5): absolute or relative.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn join(&self, reference: &str) -> Result<Self, UrlError> {
        let reference = reference.split('#').next().unwrap_or_default();
        let (scheme, authority) = (self.scheme.as_str(), self.authority());
        if has_scheme(reference) {
            return Self::parse(reference);
        }
        if reference.starts_with("//") {
            return Self::parse(&format!("{scheme}:{reference}"));
        }
        let path = self.path();
        let directory = &path[..=path.rfind('/').unwrap_or(0)];
        let base = match reference.bytes().next() {
            None => self.target(),
            Some(b'/') => "",
            Some(b'?') => path,
            Some(_) => directory,
        };
        Self::parse(&format!("{scheme}://{authority}{base}{reference}"))
    }

    /// How the origin is spoken to.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The origin's host.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The origin's port, the scheme's default when the URL names none.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, as they go into a request line.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The path: at least `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.target[..self.path_bytes]
    }

    /// What stands behind the `?`, if there is one.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.target.get(self.path_bytes + 1..)
    }

    /// Host and, unless it is the scheme's default, port: the Host header.
    #[must_use]
    pub fn authority(&self) -> String {
        let mut text = format!("{}", self.host);
        if self.port != self.scheme.default_port() {
            let _infallible = write!(text, ":{}", self.port);
        }
        text
    }

    /// Whether both have the same scheme, host and port: credentials for one may go to the other.
    #[must_use]
    pub fn is_same_origin(&self, other: &Self) -> bool {
        (self.scheme, &self.host, self.port) == (other.scheme, &other.host, other.port)
    }

    /// BLAKE3 of `scheme://host:port`, the port always written: what an [`crate::trust::Allowance`] is for, and what an
    /// origin's budget is counted under.
    #[must_use]
    pub fn origin_hash(&self) -> [u8; 32] {
        let origin = format!("{}://{}:{}", self.scheme.as_str(), self.host, self.port);
        *blake3::hash(origin.as_bytes()).as_bytes()
    }

    /// The URL with another path and query, which must hold what a target may hold.
    pub(crate) fn with_target(&self, path: &str, query: Option<&str>) -> String {
        let mark = if query.is_some() { "?" } else { "" };
        format!("{}://{}{path}{mark}{}", self.scheme.as_str(), self.authority(), query.unwrap_or_default())
    }
}

/// A URL as logs and people see it: without its query, which may be a signed token. Text that is no URL loses what
/// stands before its last `@` too, which may be a password.
#[must_use]
pub fn shown(text: &str) -> String {
    let (front, is_cut) = match text.find(['?', '#']) {
        Some(end) => (&text[..end], text[end..].starts_with('?')),
        None => (text, false),
    };
    let front = match Url::parse(text) {
        Ok(_) => front,
        Err(_) => front.rsplit('@').next().unwrap_or_default(),
    };
    if is_cut { format!("{front}?...") } else { front.to_owned() }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.authority(), self.target)
    }
}

/// Whether `reference` starts with a scheme, ours or not.
fn has_scheme(reference: &str) -> bool {
    let Some((scheme, _)) = reference.split_once(':') else { return false };
    let is_scheme_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(is_scheme_byte)
}

fn parse_authority(authority: &str) -> Result<(Host, Option<u16>), UrlError> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(UrlError::Host)?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(UrlError::Host)?) };
            (Host::V6(address.parse().map_err(|_| UrlError::Host)?), port)
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (parse_host(host)?, Some(port)),
            None => (parse_host(authority)?, None),
        },
    };
    // RFC 3986, section 3.2.3: an empty port is the default one.
    Ok((host, port.filter(|port| !port.is_empty()).map(parse_port).transpose()?))
}

fn parse_port(text: &str) -> Result<u16, UrlError> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| is_number && *port != 0);
    port.ok_or(UrlError::Port)
}

fn parse_host(text: &str) -> Result<Host, UrlError> {
    let name = text.to_ascii_lowercase();
    let labels = name.strip_suffix('.').unwrap_or(&name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    // RFC 1035, section 2.3.4.
    if labels.len() > 253 || !labels.split('.').all(is_label) {
        return Err(UrlError::Host);
    }
    let last = labels.rsplit('.').next().unwrap_or_default();
    let is_hex = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    // WHATWG reads `127.1` and `0x7f000001` as addresses, RFC 3986 as names: only the form that both read alike.
    if last.bytes().all(|byte| byte.is_ascii_digit()) || last.strip_prefix("0x").is_some_and(is_hex) {
        return name.parse().map(Host::V4).map_err(|_| UrlError::Host);
    }
    Ok(Host::Name(name))
}

/// `text` with everything percent-encoded that may not stand in a path or a query.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>^`{|}".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _infallible = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// RFC 3986, section 5.2.4, with `%2e` read as a dot, as every server reads it.
fn without_dot_segments(path: &str) -> String {
    let segments = path.strip_prefix('/').unwrap_or(path).split('/');
    let mut kept: Vec<&str> = Vec::new();
    let mut is_directory = false;
    for segment in segments {
        let dots = segment.to_ascii_lowercase().replace("%2e", ".");
        is_directory = dots == "." || dots == "..";
        match dots.as_str() {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    if is_directory {
        kept.push("");
    }
    "/".to_owned() + &kept.join("/")
}

/// Why a text is no URL we take. The fault of whoever wrote it: a user, or an origin that redirects there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// More than [`URL_BYTES_MAX`] bytes.
    TooLong,
    /// Not `http://` or `https://`.
    Scheme,
    /// A user name or password before the host: it would end up in logs and identities.
    Userinfo,
    /// No host, or none that has only one reading.
    Host,
    /// No port from 1 to 65535.
    Port,
    /// A control character or a backslash.
    Character(u8),
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "a URL has at most {URL_BYTES_MAX} bytes"),
            Self::Scheme => f.write_str("a URL starts with http:// or https://"),
            Self::Userinfo => {
                f.write_str("a URL may not hold a user name or password: send them in an Authorization header")
            }
            Self::Host => {
                f.write_str("the URL's host must be a DNS name in ASCII, an IPv4 address, or an IPv6 address in []")
            }
            Self::Port => f.write_str("the URL's port must be a number from 1 to 65535"),
            Self::Character(byte) => write!(f, "the URL holds the character 0x{byte:02x}, which must be encoded"),
        }
    }
}

impl core::error::Error for UrlError {}

#[cfg(test)]
mod tests;
