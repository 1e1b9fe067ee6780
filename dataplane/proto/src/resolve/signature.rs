//! Signatures in query strings: they change with every signing and say nothing about the content.

use alloc::string::String;
use alloc::vec::Vec;

/// One provider's way to sign a URL.
struct Provider {
    /// Parameters that are all there when a URL is signed this way; without them the others are left alone, since
    /// names like `sig` or `expires` mean other things elsewhere.
    markers: &'static [&'static str],
    /// The parameters of the signature, the markers among them. What else stands in the query (a version id, a
    /// response override) is part of the content's name.
    parameters: &'static [&'static str],
}

/// Names in lower case; sources: the providers' manuals on presigned URLs, version 4 first where there are two.
const PROVIDERS: [Provider; 10] = [
    // Amazon S3, Signature Version 4, and all that copy it (MinIO, Ceph, R2).
    Provider {
        markers: &["x-amz-signature"],
        parameters: &[
            "x-amz-algorithm",
            "x-amz-content-sha256",
            "x-amz-credential",
            "x-amz-date",
            "x-amz-expires",
            "x-amz-security-token",
            "x-amz-signature",
            "x-amz-signedheaders",
        ],
    },
    // Amazon S3, Signature Version 2.
    Provider {
        markers: &["awsaccesskeyid", "signature"],
        parameters: &["awsaccesskeyid", "expires", "signature", "x-amz-security-token"],
    },
    // Google Cloud Storage, V4.
    Provider {
        markers: &["x-goog-signature"],
        parameters: &[
            "x-goog-algorithm",
            "x-goog-credential",
            "x-goog-date",
            "x-goog-expires",
            "x-goog-security-token",
            "x-goog-signature",
            "x-goog-signedheaders",
        ],
    },
    // Google Cloud Storage, V2.
    Provider { markers: &["googleaccessid", "signature"], parameters: &["expires", "googleaccessid", "signature"] },
    // Alibaba Cloud OSS, V4.
    Provider {
        markers: &["x-oss-signature"],
        parameters: &[
            "x-oss-additional-headers",
            "x-oss-credential",
            "x-oss-date",
            "x-oss-expires",
            "x-oss-security-token",
            "x-oss-signature",
            "x-oss-signature-version",
        ],
    },
    // Alibaba Cloud OSS, V1.
    Provider {
        markers: &["ossaccesskeyid", "signature"],
        parameters: &["expires", "ossaccesskeyid", "security-token", "signature"],
    },
    // Huawei Cloud OBS.
    Provider {
        markers: &["accesskeyid", "signature"],
        parameters: &["accesskeyid", "expires", "signature", "x-obs-security-token"],
    },
    // Tencent Cloud COS.
    Provider {
        markers: &["q-signature"],
        parameters: &[
            "q-ak",
            "q-header-list",
            "q-key-time",
            "q-sign-algorithm",
            "q-sign-time",
            "q-signature",
            "q-url-param-list",
            "x-cos-security-token",
        ],
    },
    // Azure Storage, shared access signatures of service, account and user delegation.
    Provider {
        markers: &["sig", "sv"],
        parameters: &[
            "saoid", "scid", "sdd", "se", "ses", "si", "sig", "sip", "ske", "skoid", "sks", "skt", "sktid", "skv",
            "sp", "spr", "sr", "srt", "ss", "st", "suoid", "sv",
        ],
    },
    // Amazon CloudFront, canned and custom policies.
    Provider {
        markers: &["key-pair-id", "signature"],
        parameters: &["expires", "hash-algorithm", "key-pair-id", "policy", "signature"],
    },
];

/// `query` without the parameters of its signature, the rest in order; `None` when it has no signature.
pub(super) fn strip(query: &str) -> Option<String> {
    let parameters: Vec<(String, &str)> = query.split('&').map(|parameter| (name_of(parameter), parameter)).collect();
    let has = |marker: &&str| parameters.iter().any(|(name, _)| name == marker);
    let signed: Vec<&Provider> = PROVIDERS.iter().filter(|provider| provider.markers.iter().all(has)).collect();
    if signed.is_empty() {
        return None;
    }
    let is_kept = |name: &str| !signed.iter().any(|provider| provider.parameters.contains(&name));
    let kept: Vec<&str> =
        parameters.iter().filter(|(name, _)| is_kept(name)).map(|(_, parameter)| *parameter).collect();
    Some(kept.join("&"))
}

/// The parameter's name as a server reads it: decoded, and in lower case because servers differ there.
fn name_of(parameter: &str) -> String {
    let name = parameter.split('=').next().unwrap_or_default().as_bytes();
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(nibble(*high) << 4 | nibble(*low));
                rest = tail;
            }
            (first, _) => bytes.push(*first),
        }
    }
    bytes.make_ascii_lowercase();
    bytes.into_iter().map(char::from).collect()
}

/// The value of a hexadecimal digit.
fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
