//! What a resolve learned, in the bytes that travel through the scheduler to whoever wants the same content.
//!
//! The scheduler does not look inside. Lines of text, so that they can be read in a capture:
//! `hawker-validators-1`, then `etag`, `last-modified` and `media-type` lines, each optional.

use std::fmt::Write as _;

use hawker_proto::http1::ResponseHead;

/// Most bytes that a scheduler takes.
const BYTES_MAX: usize = 4096;
const HEADER: &str = "hawker-validators-1";

/// Response fields that name a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValidatorSet {
    pub etag: Option<String>,
    pub last_modified: Option<String>,
    pub media_type: Option<String>,
}

impl ValidatorSet {
    /// The bytes; fields that do not fit are left out.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = HEADER.to_owned();
        let fields = [("etag", &self.etag), ("last-modified", &self.last_modified), ("media-type", &self.media_type)];
        for (name, value) in fields {
            let Some(value) = value else { continue };
            let is_line = !value.contains(['\n', '\r']);
            if is_line && text.len() + name.len() + value.len() + 2 <= BYTES_MAX {
                // Writing to a String cannot fail.
                let _ = write!(text, "\n{name} {value}");
            }
        }
        text.into_bytes()
    }

    /// What [`Self::encode`] wrote; empty for anything else, since nothing in it is needed.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let mut set = Self::default();
        let Ok(text) = std::str::from_utf8(bytes) else { return set };
        let mut lines = text.split('\n');
        if bytes.len() > BYTES_MAX || lines.next() != Some(HEADER) {
            return set;
        }
        for (name, value) in lines.filter_map(|line| line.split_once(' ')) {
            let value = Some(value.to_owned()).filter(|value| is_field_value(value));
            match name {
                "etag" => set.etag = value,
                "last-modified" => set.last_modified = value,
                "media-type" => set.media_type = value,
                _ => {}
            }
        }
        set
    }

    /// Without what names a version.
    pub(crate) fn unpinned(self) -> Self {
        Self { etag: None, last_modified: None, ..self }
    }

    /// What pins a request to this version: a strong ETag, else a date.
    pub(crate) fn pin(&self) -> Option<String> {
        let strong = self.etag.clone().filter(|etag| is_strong(etag));
        strong.or_else(|| self.last_modified.clone())
    }

    /// Whether `head` names another version. What either side does not say proves nothing.
    pub(crate) fn differ(&self, head: &ResponseHead) -> bool {
        if let (Some(ours), Some(theirs)) = (&self.etag, head.header("etag")) {
            let is_same = ours == theirs || (!is_strong(ours) && opaque(ours) == opaque(theirs));
            if !is_same || is_strong(ours) {
                return !is_same;
            }
        }
        // Equal weak tags stand for contents that serve the same purpose, not for the same bytes.
        self.last_modified.as_deref().zip(head.header("last-modified")).is_some_and(|(ours, theirs)| ours != theirs)
    }

    /// Whether `head` names this very version, as far as there is something to name it by.
    pub(crate) fn confirm(&self, head: &ResponseHead) -> bool {
        let named = [("etag", &self.etag), ("last-modified", &self.last_modified)];
        let is_silent = named.iter().any(|(field, ours)| ours.is_some() && head.header(field).is_none());
        !is_silent && !self.differ(head)
    }

    /// Whether a revalidation can be asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }
}

fn is_strong(etag: &str) -> bool {
    etag.starts_with('"')
}

fn opaque(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

/// It becomes a request field: nothing that could end the line.
fn is_field_value(value: &str) -> bool {
    value.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validators_survive_the_trip() {
        let set = ValidatorSet {
            etag: Some("\"a b\"".to_owned()),
            last_modified: None,
            media_type: Some("text/plain; charset=utf-8".to_owned()),
        };
        assert_eq!(ValidatorSet::decode(&set.encode()), set);
        assert_eq!(set.pin().as_deref(), Some("\"a b\""));
    }

    #[test]
    fn bytes_of_another_form_hold_nothing() {
        for bytes in [&b""[..], b"\xff", b"hawker-validators-2\netag \"x\"", b"etag \"x\""] {
            assert!(ValidatorSet::decode(bytes).is_empty());
        }
        let smuggled = ValidatorSet { etag: Some("\"x\"\r\nhost: y".to_owned()), ..Default::default() };
        assert!(ValidatorSet::decode(&smuggled.encode()).is_empty());
        assert!(ValidatorSet::decode(b"hawker-validators-1\netag \"\x01\"").is_empty());
    }

    #[test]
    fn another_version_is_known_by_whatever_both_sides_name() {
        let set = |etag: &str, date: &str| ValidatorSet {
            etag: Some(etag.to_owned()).filter(|etag| !etag.is_empty()),
            last_modified: Some(date.to_owned()).filter(|date| !date.is_empty()),
            media_type: None,
        };
        let head = |etag: &str, date: &str| {
            let fields = [("etag", etag), ("last-modified", date)].into_iter().filter(|(_, value)| !value.is_empty());
            let headers = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            ResponseHead { status: 206, version_minor: 1, headers }
        };
        for (ours, theirs, is_other) in [
            (("\"1\"", "a"), ("\"1\"", "b"), false),
            (("\"1\"", ""), ("\"2\"", ""), true),
            (("\"1\"", ""), ("W/\"1\"", ""), true),
            (("W/\"1\"", ""), ("\"1\"", ""), false),
            (("W/\"1\"", "a"), ("W/\"1\"", "b"), true),
            (("W/\"1\"", ""), ("W/\"2\"", ""), true),
            (("", "a"), ("", "b"), true),
            (("", "a"), ("\"1\"", ""), false),
            (("\"1\"", "a"), ("", ""), false),
            (("", ""), ("\"1\"", "a"), false),
        ] {
            assert_eq!(set(ours.0, ours.1).differ(&head(theirs.0, theirs.1)), is_other, "{ours:?} {theirs:?}");
        }
        assert!(set("\"1\"", "").confirm(&head("\"1\"", "")) && set("", "").confirm(&head("", "")));
        assert!(!set("\"1\"", "").confirm(&head("", "")) && !set("", "a").confirm(&head("\"1\"", "")));
    }

    #[test]
    fn weak_tag_does_not_pin() {
        let set = ValidatorSet { etag: Some("W/\"1\"".to_owned()), ..Default::default() };
        assert_eq!(set.pin(), None);
    }
}
