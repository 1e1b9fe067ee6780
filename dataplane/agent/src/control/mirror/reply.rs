//! Answers of the mirror.

use hawker_proto::http1::{self, Reply, ReplyBody, ResponseHead};
use hawker_proto::oci::{ErrorCode, NamedBy, Route, error_json};

use super::upstream::Answer;
use crate::control::origin::OriginError;

const JSON: &str = "application/json";
/// Fields of a registry's answer that the mirror says itself, or that would be wrong behind it.
const OWN_FIELDS: [&str; 6] =
    ["content-range", "date", "docker-distribution-api-version", "oci-namespace", "strict-transport-security", "via"];

pub(super) type Headers = Vec<(String, String)>;

/// Every answer's fields. `route` is the question's, when it is understood.
pub(super) fn common(route: Option<&Route>) -> Headers {
    let mut headers = vec![field("Docker-Distribution-Api-Version", "registry/2.0")];
    if let Some(route) = route.filter(|route| route.named_by == NamedBy::Query) {
        headers.push(field("OCI-Namespace", route.registry.as_str()));
    }
    headers
}

pub(super) fn field(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// An answer of our own that is an error.
pub(super) fn error(route: Option<&Route>, status: u16, code: ErrorCode, message: &str) -> Reply {
    let mut headers = common(route);
    headers.push(field("Content-Type", JSON));
    inline(status, headers, error_json(code, message).into_bytes())
}

/// An answer with `headers` that may be a registry's: when they cannot be sent, it is 502.
pub(super) fn inline(status: u16, headers: Headers, bytes: Vec<u8>) -> Reply {
    Reply::new(status, headers, ReplyBody::Inline(bytes)).unwrap_or_else(|error| bad_gateway(&error.to_string()))
}

fn bad_gateway(reason: &str) -> Reply {
    let text = error_json(ErrorCode::Unsupported, &format!("the registry's answer cannot be passed on: {reason}"));
    let headers = vec![field("Content-Type", JSON)];
    Reply::new(502, headers, ReplyBody::Inline(text.into_bytes())).expect("an answer of our own")
}

/// What a registry refused with, as it said it, with a body of our own: the question was for a head only.
pub(super) fn refused(route: &Route, head: &ResponseHead) -> Reply {
    let (code, message) = match head.status {
        401 => (ErrorCode::Unauthorized, "the registry wants credentials"),
        403 => (ErrorCode::Denied, "the registry denies access"),
        404 => match route.asked {
            hawker_proto::oci::Asked::Blob { .. } => (ErrorCode::BlobUnknown, "the registry knows no such blob"),
            _ => (ErrorCode::ManifestUnknown, "the registry knows no such manifest"),
        },
        429 => (ErrorCode::TooManyRequests, "the registry limits requests"),
        500.. => (ErrorCode::Unsupported, "the registry is in trouble"),
        _ => (ErrorCode::Unsupported, "the registry refuses the request"),
    };
    let mut headers = common(Some(route));
    headers.extend(passed(head).into_iter().filter(|(name, _)| name != "content-type" && name != "content-length"));
    headers.push(field("Content-Type", JSON));
    // A redirect or success that was not asked for is none of the client's business.
    let status = if head.status < 400 { 502 } else { head.status };
    inline(status, headers, error_json(code, message).into_bytes())
}

/// A registry that cannot be asked: what the client is told, so that it goes elsewhere. Never 408 or 429 of our own,
/// on which clients come again at once.
pub(super) fn away(route: &Route, error: &OriginError) -> Reply {
    let status = match error {
        OriginError::Timeout { .. } => 504,
        OriginError::Disk(_) => 503,
        _ => 502,
    };
    self::error(Some(route), status, ErrorCode::Unsupported, &error.to_string())
}

/// The fields of a registry's answer that a client may see.
pub(super) fn passed(head: &ResponseHead) -> Headers {
    let headers = http1::forwardable_headers(&head.headers);
    headers.into_iter().filter(|(name, _)| !OWN_FIELDS.contains(&name.as_str())).collect()
}

/// The value of a Content-Type without its parameters: manifests have none.
pub(super) fn plain_type(value: &str) -> String {
    value.split(';').next().unwrap_or_default().trim().to_owned()
}

/// What an answer's head says of a content.
pub(super) fn length_of(head: &ResponseHead) -> Option<u64> {
    head.content_length().ok().flatten().filter(|_| head.status == 200)
}

/// The status and fields of `answer`, with its links leading through the mirror.
pub(super) fn through(route: &Route, answer: &Answer) -> Headers {
    use hawker_proto::oci::{link_through_mirror, location_through_mirror};
    let mut headers = common(Some(route));
    for (name, value) in passed(&answer.head) {
        let value = match name.as_str() {
            "link" => link_through_mirror(&value, &answer.asked, &answer.base, route),
            "location" => location_through_mirror(&value, &answer.asked, &answer.base, route),
            _ => Some(value),
        };
        headers.extend(value.map(|value| (name, value)));
    }
    if let Some(range) = answer.head.header("content-range").filter(|_| answer.head.status == 416) {
        headers.push(field("Content-Range", range));
    }
    headers
}
