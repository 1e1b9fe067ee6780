//! What a manifest holds, as far as a mirror must know: which blobs it takes to run an image.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::resolve::Digest;

/// Bytes of a manifest, at most: what the distribution specification wants registries to take.
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// Layers of an image, at most. Docker makes 127, and no file system stacks more than 500.
const LAYERS_MAX: usize = 1024;
/// Manifests of an index, at most: platforms and what is attached to them.
const MANIFESTS_MAX: usize = 4096;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What it calls itself, or what it must be by what it holds; `None` when neither says.
    pub media_type: Option<String>,
    /// Configuration and layers, in order, without those that stand elsewhere (`urls`); empty for an index, whose
    /// images are for many platforms, and for what is no image.
    pub blobs: Vec<Descriptor>,
    /// The manifests of an index.
    pub manifests: Vec<Descriptor>,
}

/// A blob that a manifest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// Which.
    pub digest: Digest,
    /// Bytes.
    pub length: u64,
}

/// Bytes that are no manifest: the fault of whoever pushed them. They are passed on all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// More than [`MANIFEST_BYTES_MAX`].
    TooLong,
    /// No JSON object, or one whose fields are not what they must be.
    Json,
    /// Image and index at once: two readers would see two things.
    Ambiguous,
    /// More layers than any image has, or more images than any index.
    TooManyLayers,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the manifest is longer than 4 MiB",
            Self::Json => "the manifest is not the JSON that it should be",
            Self::Ambiguous => "the manifest is both an image and an index",
            Self::TooManyLayers => "the manifest has more than 1024 layers or 4096 images",
        })
    }
}

impl core::error::Error for ManifestError {}

/// Reads a manifest's JSON.
///
/// # Errors
/// See [`ManifestError`].
pub fn parse_manifest(bytes: &[u8]) -> Result<Manifest, ManifestError> {
    if bytes.len() > MANIFEST_BYTES_MAX {
        return Err(ManifestError::TooLong);
    }
    let json: Json = serde_json::from_slice(bytes).map_err(|_| ManifestError::Json)?;
    let (is_index, is_image) = (json.manifests.is_some(), json.config.is_some() || json.layers.is_some());
    if is_index && is_image {
        return Err(ManifestError::Ambiguous);
    }
    let layers = json.layers.unwrap_or_default();
    if layers.len() > LAYERS_MAX {
        return Err(ManifestError::TooManyLayers);
    }
    let guess = match (is_index, is_image) {
        (true, _) => Some(OCI_INDEX),
        (_, true) => Some(OCI_IMAGE),
        _ => None,
    };
    let manifests = json.manifests.unwrap_or_default();
    if manifests.len() > MANIFESTS_MAX {
        return Err(ManifestError::TooManyLayers);
    }
    let here = json.config.into_iter().chain(layers).filter(|blob| blob.urls.is_none());
    // A digest of an algorithm that is not known here is for the registry itself.
    let known = |blob: JsonBlob| Some(Descriptor { digest: blob.digest.parse().ok()?, length: blob.size });
    Ok(Manifest {
        media_type: json.media_type.or(guess.map(String::from)),
        blobs: here.filter_map(known).collect(),
        manifests: manifests.into_iter().filter_map(known).collect(),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    media_type: Option<String>,
    config: Option<JsonBlob>,
    layers: Option<Vec<JsonBlob>>,
    manifests: Option<Vec<JsonBlob>>,
}

#[derive(Deserialize)]
struct JsonBlob {
    digest: String,
    size: u64,
    urls: Option<IgnoredAny>,
}
