//! Which fields of a message may be passed on by a proxy.

use alloc::string::String;
use alloc::vec::Vec;

use super::head::items;

/// Fields between two neighbors only (RFC 9110, section 7.6.1, and RFC 9112, section 9), and those that frame a message
/// or name its host: each hop sets its own.
const HOP_BY_HOP: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Fields that mean something to Hawker itself: nobody outside may send or see another's.
const OWN_PREFIX: &str = "x-hawker-";

/// The fields of `headers` that go on to the next hop, in order: none that Connection names, none of this hop's, none
/// that only Hawker may set.
#[must_use]
pub fn forwardable_headers(headers: &[(String, String)]) -> Vec<(String, String)> {
    let is_kept = |name: &str| {
        let is_own = name.get(..OWN_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWN_PREFIX));
        let is_hop = HOP_BY_HOP.iter().any(|hop| hop.eq_ignore_ascii_case(name));
        let is_named = items(headers, "connection").any(|item| item.eq_ignore_ascii_case(name));
        !is_own && !is_hop && !is_named
    };
    headers.iter().filter(|(name, _)| is_kept(name)).cloned().collect()
}
