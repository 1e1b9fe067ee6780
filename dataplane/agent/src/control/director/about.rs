//! What a resolve learns of a task, and what becomes of it on disk.

use std::net::SocketAddr;
use std::time::Duration;

use hawker_proto::resolve::{Digest, ResolveKey};
use hawker_proto::{Geometry, TaskId};
use hawker_scheduler::INLINE_BYTES_MAX;
use hawker_storage::TaskMeta;
use tokio::time::Instant;

use crate::clock;
use crate::control::validators::ValidatorSet;

/// How long a resolve answers for others, unless the origin says less or more.
pub(super) const VALID: Duration = Duration::from_secs(10);

/// How long a scheduler may answer for content that its digest names: as long as schedulers remember anything.
pub(super) const VALID_NAMED: Duration = Duration::from_secs(24 * 3600);

/// What is known of a task and needed as long as it is here.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) task: TaskId,
    pub(super) geometry: Geometry,
    pub(super) key: ResolveKey,
    /// What the content goes by, if not by URL and version.
    pub(super) name: Option<Digest>,
    /// With `name`: its registry gives it to anybody.
    pub(super) is_public: bool,
    pub(super) validators: ValidatorSet,
    /// Until when others may have it without a new resolve.
    pub(super) valid_until: Instant,
    pub(super) is_shared: bool,
    pub(super) has_ranges: bool,
    pub(super) is_credentialed: bool,
    pub(super) direct: Option<SocketAddr>,
    /// Canonical, without credentials.
    pub(super) url: String,
    /// The origin gave nothing to tell versions by.
    pub(super) is_unversioned: bool,
}

impl About {
    /// Whether it goes by its digest and is public, and so small that it rides in the scheduler's answers.
    pub(super) const fn is_small(&self) -> bool {
        self.is_public && self.name.is_some() && self.geometry.length() <= INLINE_BYTES_MAX as u64
    }

    pub(super) fn meta(&self) -> TaskMeta {
        let is_reusable = self.is_shared && (self.name.is_some() || !self.is_unversioned);
        TaskMeta {
            url: self.url.clone(),
            resolve_key: self.key.0,
            etag: self.validators.etag.clone(),
            last_modified: self.validators.last_modified.clone(),
            media_type: self.validators.media_type.clone(),
            digest: self.name.as_ref().map(Digest::to_string),
            is_credentialed: self.is_credentialed,
            resolved_unix_ms: if is_reusable { clock::unix_ms() } else { 0 },
        }
    }

    pub(super) fn from_meta(task: TaskId, geometry: Geometry, meta: &TaskMeta, is_fresh: bool) -> Self {
        let now = Instant::now();
        let name = meta.digest.as_deref().and_then(|digest| digest.parse().ok());
        Self {
            task,
            geometry,
            key: ResolveKey(meta.resolve_key),
            validators: validators_of(meta),
            // What its digest names never changes.
            valid_until: if name.is_some() {
                now + VALID_NAMED
            } else if is_fresh {
                now + VALID
            } else {
                now
            },
            name,
            is_public: false,
            is_shared: meta.resolved_unix_ms > 0,
            has_ranges: true,
            is_credentialed: meta.is_credentialed,
            direct: None,
            url: meta.url.clone(),
            is_unversioned: meta.etag.is_none() && meta.last_modified.is_none(),
        }
    }
}

pub(super) fn validators_of(meta: &TaskMeta) -> ValidatorSet {
    ValidatorSet {
        etag: meta.etag.clone(),
        last_modified: meta.last_modified.clone(),
        media_type: meta.media_type.clone(),
    }
}
