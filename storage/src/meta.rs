//! The meta file: what is variable about a task, in one checksummed file that is written before the task's slot.

use crate::FORMAT_MAJOR;
use crate::codec::{Reader, put_bytes, put_u64};

/// Bytes of the largest meta file, and what every task is charged for it: a long URL and three validators fit.
pub const META_BYTES_MAX: usize = 8 * 1024;

const MAGIC: &[u8; 8] = b"HAWKMETA";
const HEAD_BYTES: usize = 24;

/// Where a task came from, and what its origin said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskMeta {
    /// The canonical URL, without credentials or signature parameters.
    pub url: String,
    /// Hash of URL, tag, application and credentials: what a want is looked up by.
    pub resolve_key: [u8; 32],
    /// Strong or weak, as the origin wrote it.
    pub etag: Option<String>,
    /// As the origin wrote it.
    pub last_modified: Option<String>,
    /// Content-Type.
    pub media_type: Option<String>,
    /// The digest of the whole content when it is known: `sha256:` or `blake3:` and 64 hexadecimal digits.
    pub digest: Option<String>,
    /// Whether the origin asked for credentials: every local caller proves access anew.
    pub is_credentialed: bool,
    /// When the origin last confirmed this, in milliseconds since 1970.
    pub resolved_unix_ms: u64,
}

impl TaskMeta {
    /// The file's bytes.
    ///
    /// When the texts do not fit they are left out: an origin chose them, and it must not fail a download.
    #[must_use]
    pub fn encode(&self, instance: u64) -> Vec<u8> {
        let mut body = self.body();
        if HEAD_BYTES + body.len() > META_BYTES_MAX {
            // A validator that was cut would never match again; without it the task is resolved anew.
            let short = Self {
                url: String::new(),
                etag: None,
                last_modified: None,
                media_type: None,
                digest: self.digest.clone().filter(|digest| digest.len() < 128),
                ..self.clone()
            };
            body = short.body();
        }
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT_MAJOR.to_le_bytes());
        bytes.extend_from_slice(&0u16.to_le_bytes());
        let mut check = crc32fast::Hasher::new();
        check.update(&bytes);
        check.update(&instance.to_le_bytes());
        check.update(&body);
        bytes.extend_from_slice(&check.finalize().to_le_bytes());
        put_u64(&mut bytes, instance);
        bytes.extend_from_slice(&body);
        bytes
    }

    /// What [`Self::encode`] wrote for the task's `instance`; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8], instance: u64) -> Option<Self> {
        let (head, body) = bytes.split_at_checked(HEAD_BYTES)?;
        let mut check = crc32fast::Hasher::new();
        check.update(&head[..12]);
        check.update(&instance.to_le_bytes());
        check.update(body);
        let is_ours = head.starts_with(MAGIC)
            && head[8..10] == FORMAT_MAJOR.to_le_bytes()
            && head[12..16] == check.finalize().to_le_bytes()
            && head[16..24] == instance.to_le_bytes();
        is_ours.then(|| Self::parse_body(body)).flatten()
    }

    fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.push(u8::from(self.is_credentialed));
        body.extend_from_slice(&self.resolve_key);
        put_u64(&mut body, self.resolved_unix_ms);
        put_bytes(&mut body, self.url.as_bytes());
        for text in [&self.etag, &self.last_modified, &self.media_type, &self.digest] {
            body.push(u8::from(text.is_some()));
            put_bytes(&mut body, text.as_deref().unwrap_or("").as_bytes());
        }
        body
    }

    // A later minor version appends fields: what follows the last known one is not looked at.
    fn parse_body(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let is_credentialed = reader.u8()? != 0;
        let resolve_key = reader.array()?;
        let resolved_unix_ms = reader.u64()?;
        let url = reader.text()?;
        let mut optional = || -> Option<Option<String>> {
            let is_present = reader.u8()? != 0;
            let text = reader.text()?;
            Some(is_present.then_some(text))
        };
        Some(Self {
            url,
            resolve_key,
            etag: optional()?,
            last_modified: optional()?,
            media_type: optional()?,
            digest: optional()?,
            is_credentialed,
            resolved_unix_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> TaskMeta {
        TaskMeta {
            url: "https://origin.example/a?b=c".into(),
            resolve_key: [7; 32],
            etag: Some("\"abc\"".into()),
            last_modified: None,
            media_type: Some(String::new()),
            digest: Some(format!("sha256:{}", "ab".repeat(32))),
            is_credentialed: true,
            resolved_unix_ms: 1_234_567,
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = sample().encode(9);
        assert_eq!(TaskMeta::decode(&bytes, 9), Some(sample()));
        assert_eq!(TaskMeta::decode(&bytes, 8), None, "of another instance");
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(TaskMeta::decode(&bad, 9), None, "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(TaskMeta::decode(&bytes[..len], 9), None, "{len} bytes");
        }
    }

    #[test]
    fn text_of_any_length_fits_the_file() {
        let meta = TaskMeta { url: "u".repeat(META_BYTES_MAX), ..sample() };
        let bytes = meta.encode(1);
        assert!(bytes.len() <= META_BYTES_MAX);
        let read = TaskMeta::decode(&bytes, 1).unwrap();
        assert_eq!((read.resolve_key, read.etag), (meta.resolve_key, None));
    }
}
