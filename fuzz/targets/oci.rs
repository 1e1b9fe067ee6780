//! What registries and their clients say: targets, challenges, links and manifests.
#![no_main]

use hawker_proto::oci::{
    ErrorCode, Registry, error_json, link_through_mirror, location_through_mirror, parse_challenges, parse_manifest,
    route,
};
use hawker_proto::url::Url;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = parse_manifest(bytes) {
        assert!(manifest.blobs.len() <= 1025);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = parse_challenges(text);
    let _ = error_json(ErrorCode::NameUnknown, text);
    let default = Registry::parse("docker.io").expect("a registry");
    let (target, rest) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(found) = route(target, &default) else { return };
    assert!(found.target.starts_with("/v2/"));
    // What goes on to the registry must not be another request there.
    let mark = if found.target.contains('?') { '&' } else { '?' };
    let again = route(&format!("{}{mark}ns={}", found.target, found.registry), &default).expect("the same again");
    assert_eq!((&again.registry, &again.asked), (&found.registry, &found.asked));
    let base = Url::parse("https://registry.example/").expect("a URL");
    let Ok(asked) = base.join(&found.target) else { return };
    if let Some(link) = link_through_mirror(rest, &asked, &base, &found) {
        assert!(link.starts_with("</v2/"));
    }
    let _ = location_through_mirror(rest, &asked, &base, &found);
});
