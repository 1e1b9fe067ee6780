//! Where registries point to, so that clients come through the mirror again.

use alloc::format;
use alloc::string::String;

use super::route::{NamedBy, Route};
use crate::url::Url;

/// The value of Link in an answer to `route` from `upstream` (the URL that was asked), as the client may follow it through
/// the mirror; `None` when it leads elsewhere, or is none.
#[must_use]
pub fn link_through_mirror(value: &str, upstream: &Url, base: &Url, route: &Route) -> Option<String> {
    let (target, parameters) = value.trim().strip_prefix('<')?.split_once('>')?;
    let target = through_mirror(&upstream.join(target).ok()?, base, route)?;
    let is_plain = parameters.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    is_plain.then(|| format!("<{target}>{parameters}"))
}

/// The value of Location in an answer to `route` from `upstream`: through the mirror where it leads to the same registry,
/// else as the registry said it; `None` when it is none.
#[must_use]
pub fn location_through_mirror(value: &str, upstream: &Url, base: &Url, route: &Route) -> Option<String> {
    let target = upstream.join(value.trim()).ok()?;
    Some(through_mirror(&target, base, route).unwrap_or_else(|| format!("{target}")))
}

/// `base` is where the registry's `/v2/` is below.
fn through_mirror(target: &Url, base: &Url, route: &Route) -> Option<String> {
    if !target.is_same_origin(base) {
        return None;
    }
    let rest = target.path().strip_prefix(base.path().trim_end_matches('/'))?.strip_prefix("/v2/")?;
    let registry = match route.named_by {
        NamedBy::Path => format!("{}/", route.registry),
        NamedBy::Query | NamedBy::Default => String::new(),
    };
    let namespace = match route.named_by {
        NamedBy::Query => format!("ns={}", route.registry),
        NamedBy::Path | NamedBy::Default => String::new(),
    };
    let query = match (target.query().unwrap_or_default(), namespace.as_str()) {
        ("", "") => String::new(),
        ("", query) | (query, "") => format!("?{query}"),
        (query, namespace) => format!("?{query}&{namespace}"),
    };
    Some(format!("/v2/{registry}{rest}{query}"))
}
