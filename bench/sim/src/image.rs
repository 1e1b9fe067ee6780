//! What a container image is made of.

/// Compressed bytes of the layers of one real image, from its base up: `nextcloud:25-apache` for linux/amd64, manifest
/// sha256:2702837049ae2f8b7480e7a6346e95a0aa36228701f4c3b7b53b3da77192f086, 354,931,609 bytes in 20 layers (source:
/// github.com/docker-library/repo-info at 72e4be79, repos/nextcloud/remote/25-apache.md). As in most images, a few layers
/// hold nearly all bytes, and more than half are smaller than one packet or two.
pub const IMAGE_LAYERS: [u64; 20] = [
    31_396_972,
    224,
    91_634_688,
    270,
    19_244_762,
    476,
    515,
    12_093_594,
    492,
    11_048_914,
    2_459,
    248,
    895,
    19_446_039,
    4_042_347,
    599,
    578,
    166_012_081,
    3_239,
    2_217,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_add_up_to_what_the_manifest_says() {
        assert_eq!(IMAGE_LAYERS.iter().sum::<u64>(), 354_931_609);
    }
}
