//! What a registry's clients and registries say to each other: the OCI distribution specification 1.1 as a mirror needs
//! it. Requests to routes, names, errors, challenges, links and manifests; bytes come from outside, so that what is not
//! exactly as specified is refused or passed on unread.
//!
//! A mirror stands for many registries. Which one a request means is said by `?ns=` (containerd), by the first part of its
//! path (`/v2/quay.io/...`: Podman, CRI-O, skopeo), or by nobody: then it is the default one.

mod challenge;
mod error;
mod link;
mod manifest;
mod name;
mod route;

pub use challenge::{CHALLENGE_BYTES_MAX, Challenge, parse_challenges};
pub use error::{ErrorCode, error_json};
pub use link::{link_through_mirror, location_through_mirror};
pub use manifest::{Descriptor, MANIFEST_BYTES_MAX, Manifest, ManifestError, parse_manifest};
pub use name::{DOCKER_HUB, Reference, Registry, RepositoryName, TAG_CHARS_MAX, Tag};
pub use route::{Asked, NamedBy, Route, RouteError, route};

#[cfg(test)]
mod tests;
