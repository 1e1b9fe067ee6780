//! What can go wrong with an origin, as a user reads it. No variant holds a header, a query or a path.

use std::fmt;
use std::time::Duration;

use hawker_proto::url::UrlError;

use crate::seam::Trouble;

/// Why an origin gave no usable answer. The origin's or the caller's fault, never ours.
#[derive(Debug)]
pub(crate) enum OriginError {
    /// The caller's URL is none that Hawker fetches.
    BadUrl(UrlError),
    /// A header that the caller gave cannot be sent. Only its name is kept: the value may be a secret.
    BadHeader(String),
    /// More redirects in a row than any honest origin needs.
    TooManyRedirects,
    /// A redirect that would leave https.
    InsecureRedirect { host: String },
    /// A redirect from far away to what only this network or this host can reach.
    PrivateRedirect { host: String, to: String },
    /// No connection: DNS, TCP or TLS.
    Connect { host: String, reason: String },
    /// The connection broke, or the answer is not HTTP.
    Broken { host: String, reason: String },
    /// Nothing came for too long.
    Timeout { host: String, waited: Duration },
    /// The origin says no: 4xx, or content that is not what was resolved before.
    Refused { host: String, status: u16 },
    /// The origin says later: 429, 5xx.
    Busy { host: String, status: u16, retry_after: Option<Duration> },
    /// The content is not the version that was resolved.
    Changed { host: String },
    /// The answer contradicts itself or the question.
    Malformed { host: String, reason: String },
    /// The body could not be kept here.
    Disk(std::io::Error),
}

impl OriginError {
    /// Whether another try after a pause may do better.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Broken { .. } | Self::Timeout { .. } | Self::Busy { .. })
    }

    /// How long the origin asks to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The same for those who count failures.
    pub(crate) fn trouble(&self) -> Trouble {
        match self {
            Self::Busy { status, .. } => Trouble::Status(*status),
            Self::Timeout { waited, .. } => Trouble::Silent(*waited),
            _ => Trouble::Broken,
        }
    }

    /// The status to report for an answer that is final; 0 when there was none.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Refused { status, .. } | Self::Busy { status, .. } => *status,
            Self::Changed { .. } => 412,
            _ => 0,
        }
    }
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadUrl(error) => write!(f, "this URL cannot be fetched: {error}"),
            Self::BadHeader(name) => write!(f, "header `{name}` cannot be sent: it holds characters that HTTP forbids"),
            Self::TooManyRedirects => f.write_str("the origin redirects in circles (more than 10 times)"),
            Self::InsecureRedirect { host } => write!(f, "{host} redirects from https to http, which is refused"),
            Self::PrivateRedirect { host, to } => {
                write!(f, "{host} redirects to {to}, which stands in a private network, and that is refused")
            }
            Self::Connect { host, reason } => write!(f, "cannot connect to {host}: {reason}"),
            Self::Broken { host, reason } => write!(f, "the connection to {host} broke: {reason}"),
            Self::Timeout { host, waited } => write!(f, "{host} sent nothing for {} s", waited.as_secs()),
            Self::Refused { host, status } => write!(f, "{host} answers {status}{}", meaning(*status)),
            Self::Busy { host, status, .. } => write!(f, "{host} keeps answering {status}{}", meaning(*status)),
            Self::Changed { host } => write!(f, "the content at {host} changed while it was fetched"),
            Self::Malformed { host, reason } => write!(f, "{host} sends an answer that makes no sense: {reason}"),
            Self::Disk(error) => write!(f, "the body could not be written: {error}"),
        }
    }
}

impl std::error::Error for OriginError {}

/// The words that a user knows a status by.
pub(crate) fn meaning(status: u16) -> &'static str {
    match status {
        400 => " (bad request)",
        401 => " (credentials missing or wrong)",
        403 => " (forbidden)",
        404 => " (not found)",
        405 => " (method not allowed)",
        407 => " (proxy wants credentials)",
        410 => " (gone)",
        412 => " (content changed)",
        416 => " (range not satisfiable)",
        429 => " (too many requests)",
        451 => " (unavailable for legal reasons)",
        500 => " (server error)",
        502 => " (bad gateway)",
        503 => " (unavailable)",
        504 => " (gateway timeout)",
        _ => "",
    }
}

/// What a user can do about a final answer.
pub(crate) fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => "give credentials with -H 'Authorization: ...', or check that they are still valid",
        404 | 410 => "check the URL",
        429 => "the origin limits requests: wait, or lower --limit-origin",
        412 => "the content changed during the download: run the command again",
        500..=599 => "the origin is in trouble: try again later",
        _ => "check the URL with another client, such as curl -v",
    }
}
