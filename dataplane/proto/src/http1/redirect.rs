//! Where a redirect leads, and what may be told there.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::url::{Scheme, Url, UrlError};

/// Redirects followed for one request, at most.
pub const REDIRECTS_MAX: u32 = 10;

/// Headers that may follow a redirect to another origin: they say nothing about who asks.
const HARMLESS: [&str; 2] = ["accept", "user-agent"];

/// Why a redirect is not followed. The origin's fault: the download ends there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectError {
    /// Its Location is no URL that we take.
    Location(UrlError),
    /// It leads from https to http: what was protected would go in the clear.
    Downgrade,
}

impl fmt::Display for RedirectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Location(error) => write!(f, "the origin redirects to an invalid URL: {error}"),
            Self::Downgrade => f.write_str("the origin redirects from https to http, which is refused"),
        }
    }
}

impl core::error::Error for RedirectError {}

/// The URL that `location` means in an answer from `from`.
///
/// # Errors
/// See [`RedirectError`].
pub fn redirect_target(from: &Url, location: &str) -> Result<Url, RedirectError> {
    let to = from.join(location).map_err(RedirectError::Location)?;
    let is_downgrade = from.scheme() == Scheme::Https && to.scheme() == Scheme::Http;
    if is_downgrade { Err(RedirectError::Downgrade) } else { Ok(to) }
}

/// The user's headers that may go to `to`: all of them to the same scheme, host and port; elsewhere only Accept and
/// User-Agent. A header whose meaning we do not know may be a credential.
#[must_use]
pub fn headers_after_redirect(from: &Url, to: &Url, headers: &[(String, String)]) -> Vec<(String, String)> {
    let is_same_origin = from.is_same_origin(to);
    let may_go = |name: &str| is_same_origin || HARMLESS.iter().any(|harmless| harmless.eq_ignore_ascii_case(name));
    headers.iter().filter(|(name, _)| may_go(name)).cloned().collect()
}
