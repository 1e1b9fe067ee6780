//! OCI images that a seed describes: a program that runs, and layers of random bytes.

use serde_json::json;

use crate::{files, workspace};

/// What the parts of an image are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Types {
    pub layer: &'static str,
    pub config: &'static str,
    pub manifest: &'static str,
    /// The list of images for several platforms.
    pub index: &'static str,
}

/// As the OCI calls them.
pub const OCI: Types = Types {
    layer: "application/vnd.oci.image.layer.v1.tar",
    config: "application/vnd.oci.image.config.v1+json",
    manifest: "application/vnd.oci.image.manifest.v1+json",
    index: "application/vnd.oci.image.index.v1+json",
};

/// As Docker calls them (image manifest version 2, schema 2).
pub const DOCKER: Types = Types {
    layer: "application/vnd.docker.image.rootfs.diff.tar",
    config: "application/vnd.docker.container.image.v1+json",
    manifest: "application/vnd.docker.distribution.manifest.v2+json",
    index: "application/vnd.docker.distribution.manifest.list.v2+json",
};

/// What this machine runs, as images call it.
pub const PLATFORM: &str = "amd64";

/// What the program of every image is; Debian's busybox-static.
const PROGRAM: &str = "busybox";
const SECTOR: usize = 512;

/// Bytes and their name.
#[derive(Clone)]
pub struct Blob {
    /// `sha256:HEX`.
    pub digest: String,
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} bytes", self.digest, self.bytes.len())
    }
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { digest: format!("sha256:{}", files::sha256_bytes(&bytes)), media_type, bytes }
    }

    fn descriptor(&self) -> serde_json::Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// An image without compression: its layers are as large as what is in them.
#[derive(Clone, Debug)]
pub struct Image {
    architecture: String,
    pub layers: Vec<Blob>,
    pub config: Blob,
    pub manifest: Blob,
    /// Digests of `/data/0`, `/data/1` and so on.
    data: Vec<String>,
}

impl Image {
    /// Why this machine can make none that runs, `None` when it can.
    #[must_use]
    pub fn obstacle() -> Option<String> {
        let Some(path) = workspace::find_program(PROGRAM) else { return Some(format!("{PROGRAM} is not installed")) };
        // The image holds nothing else.
        let is_static = std::fs::read(path).is_ok_and(|bytes| !bytes.windows(9).any(|part| part == b"/ld-linux"));
        (!is_static).then(|| format!("{PROGRAM} is not static (package busybox-static)"))
    }

    /// An image for this machine with one layer of a program and one of each length; callers ask [`Self::obstacle`]
    /// first.
    ///
    /// # Panics
    /// When the program cannot be read.
    #[must_use]
    pub fn new(seed: u64, lengths: &[usize]) -> Self {
        Self::of(OCI, PLATFORM, seed, lengths)
    }

    /// The same with parts of these types, said to be for another platform. Its program is this machine's all the same.
    ///
    /// # Panics
    /// When the program cannot be read.
    #[must_use]
    pub fn of(types: Types, architecture: &str, seed: u64, lengths: &[usize]) -> Self {
        let program = workspace::find_program(PROGRAM).expect("callers ask for obstacles");
        let program = std::fs::read(program).expect("a program that can be read");
        let mut layers = vec![Blob::new(types.layer, tar("bin/busybox", 0o755, &program))];
        let mut data = Vec::new();
        for (index, length) in lengths.iter().enumerate() {
            let bytes = files::random_bytes(*length, seed * 1000 + index as u64);
            data.push(files::sha256_bytes(&bytes));
            layers.push(Blob::new(types.layer, tar(&format!("data/{index}"), 0o644, &bytes)));
        }
        let digests: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": { "Cmd": ["/bin/busybox", "true"] },
            "rootfs": { "type": "layers", "diff_ids": digests },
        });
        let config = Blob::new(types.config, config.to_string().into_bytes());
        let descriptors: Vec<serde_json::Value> = layers.iter().map(Blob::descriptor).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": types.manifest, "config": config.descriptor(), "layers": descriptors,
        });
        let manifest = Blob::new(types.manifest, manifest.to_string().into_bytes());
        Self { architecture: architecture.to_owned(), layers, config, manifest, data }
    }

    /// Config and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config])
    }

    /// Bytes of all of them.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.blobs().map(|blob| blob.bytes.len() as u64).sum()
    }

    /// What to run in the image, to see that all of it is there.
    #[must_use]
    pub fn check_command(&self) -> Vec<String> {
        let names = (0..self.data.len()).map(|index| format!("/data/{index}"));
        ["/bin/busybox", "sha256sum"].map(str::to_owned).into_iter().chain(names).collect()
    }

    /// What that must print.
    #[must_use]
    pub fn check_output(&self) -> String {
        self.data.iter().enumerate().map(|(index, digest)| format!("{digest}  /data/{index}\n")).collect()
    }
}

/// Images for several platforms under one name.
#[derive(Clone, Debug)]
pub struct Index {
    pub images: Vec<Image>,
    pub manifest: Blob,
}

impl Index {
    /// A list of `images`, whose types are these.
    #[must_use]
    pub fn new(types: Types, images: Vec<Image>) -> Self {
        let descriptors = images.iter().map(|image| {
            let mut descriptor = image.manifest.descriptor();
            descriptor["platform"] = json!({ "architecture": image.architecture, "os": "linux" });
            descriptor
        });
        let descriptors: Vec<serde_json::Value> = descriptors.collect();
        let text = json!({ "schemaVersion": 2, "mediaType": types.index, "manifests": descriptors });
        let manifest = Blob::new(types.index, text.to_string().into_bytes());
        Self { images, manifest }
    }
}

/// An archive of one file and the directory that it is in (ustar, POSIX.1-1988).
fn tar(name: &str, mode: u32, bytes: &[u8]) -> Vec<u8> {
    let directory = name.split_once('/').map_or(name, |(directory, _)| directory);
    let mut archive = header(&format!("{directory}/"), 0o755, 0, b'5');
    archive.extend(header(name, mode, bytes.len(), b'0'));
    archive.extend_from_slice(bytes);
    // The last sector is filled, and two empty ones end the archive.
    archive.resize(archive.len().next_multiple_of(SECTOR) + 2 * SECTOR, 0);
    archive
}

fn header(name: &str, mode: u32, length: usize, kind: u8) -> Vec<u8> {
    let mut header = vec![0; SECTOR];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{length:011o}"));
    put(136, "00000000000");
    // The checksum counts itself as spaces.
    put(148, "        ");
    put(156, std::str::from_utf8(&[kind]).expect("ASCII"));
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
