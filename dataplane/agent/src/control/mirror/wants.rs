//! All layers of an image at once, when the first of them is asked for: clients fetch three at a time, and a swarm moves
//! many small things better together.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hawker_proto::oci::{Descriptor, Manifest};
use hawker_proto::resolve::Digest;
use tokio::task::JoinSet;

use super::{Mirror, Subject};
use crate::control::caller::CallerEvent;

/// Blobs of images that passed, remembered; twice as many before the oldest go.
pub(super) const BLOBS_MAX: usize = 8 * 1024;
/// Larger images are fetched as they are asked for.
const IMAGE_BLOBS_MAX: usize = 256;
/// A layer that nobody waits for is given up after so long.
const LIMIT: Duration = Duration::from_secs(3600);

/// An image whose manifest passed.
#[derive(Debug)]
pub(super) struct Image {
    subject: Subject,
    blobs: Vec<Descriptor>,
    is_wanted: AtomicBool,
}

impl Mirror {
    /// A manifest passes: what it names belongs to its repository, and may be wanted soon.
    pub(super) fn note_manifest(&self, subject: &Subject, manifest: &Manifest) {
        let scope = subject.scope();
        {
            let mut permits = self.gate.permits();
            for object in manifest.blobs.iter().chain(&manifest.manifests) {
                permits.hold(&scope, &object.digest);
            }
        }
        if manifest.blobs.len() < 2 || manifest.blobs.len() > IMAGE_BLOBS_MAX {
            return;
        }
        let (subject, blobs) = (subject.clone(), manifest.blobs.clone());
        let image = Arc::new(Image { subject, blobs, is_wanted: AtomicBool::new(false) });
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        for blob in &image.blobs {
            images.insert(blob.digest, Arc::clone(&image));
        }
    }

    /// A blob is asked for: so will be the rest of its image.
    pub(super) fn want_image(self: &Arc<Self>, digest: &Digest) {
        let image = self.images.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned();
        let Some(image) = image.filter(|image| !image.is_wanted.swap(true, Ordering::Relaxed)) else { return };
        let (mirror, asked) = (Arc::clone(self), *digest);
        tokio::spawn(async move { mirror.want(&image, &asked).await });
    }

    async fn want(self: Arc<Self>, image: &Image, asked: &Digest) {
        let mut seen = HashSet::from([*asked]);
        let mut all = JoinSet::new();
        for blob in image.blobs.iter().filter(|blob| seen.insert(blob.digest)) {
            let (mirror, subject, digest) = (Arc::clone(&self), image.subject.clone(), blob.digest);
            all.spawn(async move {
                let Ok((mut asked, was_here)) = mirror.begin(&subject, "blobs", &digest).await else { return };
                mirror.figures.wanted.add(u64::from(!was_here));
                while let Some(event) = asked.events.recv().await {
                    if matches!(event, CallerEvent::Done { .. } | CallerEvent::Failed(_)) {
                        return;
                    }
                }
            });
        }
        // What is dropped is not wanted any more.
        drop(tokio::time::timeout(LIMIT, async { while all.join_next().await.is_some() {} }).await);
    }
}
