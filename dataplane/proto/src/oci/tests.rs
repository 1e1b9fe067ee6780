use super::*;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use proptest::prelude::*;

use crate::url::Url;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn hub() -> Registry {
    Registry::docker_hub()
}

fn at(target: &str) -> Route {
    route(target, &hub()).unwrap_or_else(|error| panic!("{target}: {error}"))
}

#[test]
fn requests_are_understood() {
    let digest = format!("sha256:{HEX}");
    let sha512 = format!("sha512:{HEX}{HEX}");
    // Request, registry, what is asked for, what the registry is asked for.
    for (target, registry, asked, upstream) in [
        ("/v2/".to_owned(), "docker.io", "Ping", "/v2/".to_owned()),
        ("/v2".to_owned(), "docker.io", "Ping", "/v2/".to_owned()),
        ("/v2/?ns=quay.io".to_owned(), "quay.io", "Ping", "/v2/".to_owned()),
        ("/v2/quay.io/".to_owned(), "quay.io", "Ping", "/v2/".to_owned()),
        (
            "/v2/alpine/manifests/latest".to_owned(),
            "docker.io",
            "Manifest",
            "/v2/library/alpine/manifests/latest".to_owned(),
        ),
        (
            "/v2/a/b/c/manifests/v1?ns=r.io:5000".to_owned(),
            "r.io:5000",
            "Manifest",
            "/v2/a/b/c/manifests/v1".to_owned(),
        ),
        ("/v2/localhost/a/manifests/v1".to_owned(), "localhost", "Manifest", "/v2/a/manifests/v1".to_owned()),
        ("/v2/h.io__5000/a/manifests/v1".to_owned(), "h.io:5000", "Manifest", "/v2/a/manifests/v1".to_owned()),
        ("/v2/10.7.0.1__80/a/manifests/v1".to_owned(), "10.7.0.1:80", "Manifest", "/v2/a/manifests/v1".to_owned()),
        ("/v2/a__b/c/manifests/v1".to_owned(), "docker.io", "Manifest", "/v2/a__b/c/manifests/v1".to_owned()),
        (format!("/v2/ghcr.io/a/b/blobs/{digest}"), "ghcr.io", "Blob", format!("/v2/a/b/blobs/{digest}")),
        (
            format!("/v2/ghcr.io/a/b/blobs/{}", digest.replace(':', "%3A")),
            "ghcr.io",
            "Blob",
            format!("/v2/a/b/blobs/{digest}"),
        ),
        (format!("/v2/a/b/blobs/{sha512}?ns=h%3A1"), "h:1", "Blob", format!("/v2/a/b/blobs/{sha512}")),
        (format!("/v2/a/manifests/{sha512}?ns=h.io"), "h.io", "Manifest", format!("/v2/a/manifests/{sha512}")),
        ("/v2/a/tags/list?n=5&ns=h.io&last=x".to_owned(), "h.io", "Tags", "/v2/a/tags/list?n=5&last=x".to_owned()),
        (
            format!("/v2/h.io/a/referrers/{digest}?artifactType=x"),
            "h.io",
            "Referrers",
            format!("/v2/a/referrers/{digest}?artifactType=x"),
        ),
        ("/v2/h.io/a/blobs/uploads/?mount=x".to_owned(), "h.io", "Other", "/v2/a/blobs/uploads/?mount=x".to_owned()),
        (
            "/v2/a/blobs/uploads/1-2?ns=h.io&_state=A%2Fb".to_owned(),
            "h.io",
            "Other",
            "/v2/a/blobs/uploads/1-2?_state=A%2Fb".to_owned(),
        ),
        ("/v2/_catalog?ns=h.io".to_owned(), "h.io", "Other", "/v2/_catalog".to_owned()),
        ("/v2/a/blobs/md5:abc?ns=h.io".to_owned(), "h.io", "Other", "/v2/a/blobs/md5:abc".to_owned()),
        // A repository may be called like a part of the API.
        (
            "/v2/tags/list/manifests/manifests?ns=h.io".to_owned(),
            "h.io",
            "Manifest",
            "/v2/tags/list/manifests/manifests".to_owned(),
        ),
        // With ns the path's first part is the repository's.
        ("/v2/a.b/c/manifests/1?ns=h.io".to_owned(), "h.io", "Manifest", "/v2/a.b/c/manifests/1".to_owned()),
    ] {
        let route = at(&target);
        assert_eq!((route.registry.as_str(), route.target.as_str()), (registry, upstream.as_str()), "{target}");
        assert!(format!("{:?}", route.asked).starts_with(asked), "{target}: {:?}", route.asked);
    }
}

#[test]
fn requests_that_no_registry_takes_are_refused() {
    let digest = format!("sha256:{HEX}");
    for (target, status, code) in [
        ("/".to_owned(), 404, "UNSUPPORTED"),
        ("/v1/a".to_owned(), 404, "UNSUPPORTED"),
        ("/v22/a".to_owned(), 404, "UNSUPPORTED"),
        ("/v2/?ns=".to_owned(), 400, "NAME_INVALID"),
        ("/v2/?ns=a.io&ns=b.io".to_owned(), 400, "NAME_INVALID"),
        ("/v2/?ns=a.io/b".to_owned(), 400, "NAME_INVALID"),
        ("/v2/?ns=user%40a.io".to_owned(), 400, "NAME_INVALID"),
        ("/v2/a.io:99999/b/tags/list".to_owned(), 400, "NAME_INVALID"),
        ("/v2/A/manifests/x".to_owned(), 404, "NAME_INVALID"),
        ("/v2/a//b/manifests/x".to_owned(), 404, "NAME_INVALID"),
        ("/v2/a%2F%2e%2e%2Fb/manifests/x?ns=h.io".to_owned(), 404, "NAME_INVALID"),
        ("/v2/a_/tags/list".to_owned(), 404, "NAME_INVALID"),
        (format!("/v2/{}/tags/list", "a".repeat(256)), 404, "NAME_INVALID"),
        ("/v2/a/manifests/.x".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/a/manifests/{}", "x".repeat(129)), 404, "MANIFEST_UNKNOWN"),
        ("/v2/a/manifests/sha256:baddigeststring".to_owned(), 400, "DIGEST_INVALID"),
        (format!("/v2/a/manifests/{}", digest.to_uppercase()), 400, "DIGEST_INVALID"),
        (format!("/v2/a/blobs/{digest}0"), 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/x".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/%00".to_owned(), 404, "NAME_INVALID"),
    ] {
        let error = route(&target, &hub()).expect_err(&target);
        assert_eq!((error.status(), error.code().as_str()), (status, code), "{target}");
        assert!(ErrorCode::ALL.contains(&error.code()));
    }
}

#[test]
fn docker_hub_has_one_name() {
    for name in ["docker.io", "index.docker.io", "registry-1.docker.io", "Docker.IO", "docker.io:443"] {
        assert_eq!(Registry::parse(name), Some(hub()), "{name}");
    }
    assert_eq!(hub().default_url(), "https://registry-1.docker.io/");
    assert_eq!(Registry::parse("h.io:5000").unwrap().default_url(), "https://h.io:5000/");
    assert_eq!(at("/v2/docker.io/a/b/manifests/x").target, "/v2/a/b/manifests/x");
    for text in ["", "a b", "a/b", "u@h", "h:0", "h:x", "[::1", "h?x", "h#x"] {
        assert_eq!(Registry::parse(text), None, "{text}");
    }
    assert_eq!(Registry::parse("[::1]:5000").unwrap().as_str(), "[::1]:5000");
}

#[test]
fn names_are_those_of_the_specification() {
    for text in ["a", "a/b", "a.b", "a_b", "a__b", "a-b", "a---b", "0/1", "a-b_c.d/e"] {
        assert!(RepositoryName::parse(text).is_some(), "{text}");
    }
    for text in ["", "/", "a/", "/a", "A", "a..b", "a___b", "a._b", "a-", "-a", ".a", "a.", "a b", "é", "a:b"] {
        assert!(RepositoryName::parse(text).is_none(), "{text}");
    }
    for (text, is_tag) in [("latest", true), ("_1.0-x", true), ("-x", false), (".x", false), ("", false), ("é", false)]
    {
        assert_eq!(Tag::parse(text).is_some(), is_tag, "{text}");
    }
}

#[test]
fn error_has_the_form_of_the_specification() {
    let text = error_json(ErrorCode::NameUnknown, "a \"name\" \\ with\nlines");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["errors"][0]["code"], "NAME_UNKNOWN");
    assert_eq!(json["errors"][0]["message"], "a \"name\" \\ with\nlines");
}

fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
    Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned), scope: scope.map(str::to_owned) }
}

#[test]
fn challenges_are_read_strictly() {
    let hub = bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:library/a:pull"));
    for (value, expected) in [
        (
            "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:library/a:pull\"",
            Vec::from([hub.clone()]),
        ),
        ("bearer realm=\"r\" , service=s", Vec::from([bearer("r", Some("s"), None)])),
        ("Basic realm=\"a, b\"", Vec::from([Challenge::Basic])),
        ("Basic", Vec::from([Challenge::Basic])),
        ("Negotiate, Basic realm=x", Vec::from([Challenge::Basic])),
        ("Negotiate abc==, Bearer realm=\"r\"", Vec::from([bearer("r", None, None)])),
        (
            "Basic realm=\"x\", Bearer realm=\"r\",scope=\"a:b:pull,push\"",
            Vec::from([Challenge::Basic, bearer("r", None, Some("a:b:pull,push"))]),
        ),
        ("Bearer realm=\"a\\\"b\"", Vec::from([bearer("a\"b", None, None)])),
        ("", Vec::new()),
        ("Bearer", Vec::new()),
        ("Bearer realm=\"r", Vec::new()),
        ("Bearer realm=\"r\" x", Vec::new()),
        ("Bearer realm=\"r\", realm=\"s\"", Vec::new()),
        ("Bearer realm=\"r\";service=x", Vec::new()),
        ("Bearer realm=\"r\u{1}\"", Vec::new()),
        ("=", Vec::new()),
    ] {
        assert_eq!(parse_challenges(value), expected, "{value}");
    }
    assert_eq!(parse_challenges(&format!("Bearer realm=\"{}\"", "x".repeat(CHALLENGE_BYTES_MAX))), Vec::new());
}

#[test]
fn links_lead_through_the_mirror() {
    let base = Url::parse("https://r.io/prefix/").unwrap();
    let asked = Url::parse("https://r.io/prefix/v2/a/tags/list?n=2").unwrap();
    let (by_path, by_query) = (at("/v2/r.io/a/tags/list?n=2"), at("/v2/a/tags/list?n=2&ns=r.io"));
    let next = "</prefix/v2/a/tags/list?last=b&n=2>; rel=\"next\"";
    let link = |value: &str, route: &Route| link_through_mirror(value, &asked, &base, route);
    assert_eq!(link(next, &by_path).unwrap(), "</v2/r.io/a/tags/list?last=b&n=2>; rel=\"next\"");
    assert_eq!(link(next, &by_query).unwrap(), "</v2/a/tags/list?last=b&n=2&ns=r.io>; rel=\"next\"");
    assert_eq!(link("<list?last=b>", &by_query).unwrap(), "</v2/a/tags/list?last=b&ns=r.io>");
    for elsewhere in
        ["<https://evil.io/v2/a/tags/list>; rel=next", "</other>; rel=next", "next", "<x", "<http://r.io/prefix/v2/a>"]
    {
        assert_eq!(link(elsewhere, &by_path), None, "{elsewhere}");
    }
    let upload = Url::parse("https://r.io/prefix/v2/a/blobs/uploads/").unwrap();
    let location = |value: &str| location_through_mirror(value, &upload, &base, &by_path).unwrap();
    assert_eq!(location("/prefix/v2/a/blobs/uploads/7?_state=x"), "/v2/r.io/a/blobs/uploads/7?_state=x");
    assert_eq!(location("https://bucket.example/x"), "https://bucket.example/x");
}

#[test]
fn manifests_name_their_blobs() {
    let blob = |size: u64| format!("{{\"digest\":\"sha256:{HEX}\",\"size\":{size}}}");
    let image = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"m\",\"config\":{},\"layers\":[{},{{\"digest\":\"sha256:{HEX}\",\"size\":3,\"urls\":[\"x\"]}},{}],\"x\":[{{}}]}}",
        blob(1),
        blob(2),
        blob(4)
    );
    let manifest = parse_manifest(image.as_bytes()).unwrap();
    assert_eq!(manifest.media_type.as_deref(), Some("m"));
    assert_eq!(manifest.blobs.iter().map(|blob| blob.length).collect::<Vec<_>>(), [1, 2, 4]);

    let index = parse_manifest(format!("{{\"manifests\":[{}]}}", blob(1)).as_bytes()).unwrap();
    assert_eq!(index.media_type.as_deref(), Some("application/vnd.oci.image.index.v1+json"));
    assert!(index.blobs.is_empty(), "an index's images are for many platforms");
    assert_eq!(index.manifests.len(), 1);
    let nothing = parse_manifest(b"{}").unwrap();
    assert_eq!((nothing.media_type, nothing.blobs.len()), (None, 0));

    let both = format!("{{\"manifests\":[],\"layers\":[{}]}}", blob(1));
    assert_eq!(parse_manifest(both.as_bytes()), Err(ManifestError::Ambiguous));
    let many = format!("{{\"layers\":[{}]}}", alloc::vec![blob(1); 1025].join(","));
    assert_eq!(parse_manifest(many.as_bytes()), Err(ManifestError::TooManyLayers));
    for bad in ["", "[]x", "{\"layers\":[{\"digest\":\"d\",\"size\":-1}]}", "{\"layers\":3}", "{} {}"] {
        assert_eq!(parse_manifest(bad.as_bytes()), Err(ManifestError::Json), "{bad}");
    }
    assert_eq!(parse_manifest(&alloc::vec![b' '; MANIFEST_BYTES_MAX + 1]), Err(ManifestError::TooLong));
    assert!(parse_manifest("[".repeat(100_000).as_bytes()).is_err(), "depth is bounded");
}

proptest! {
    #[test]
    fn any_target_has_a_route_or_an_error(target in "/v2/[a-z0-9./:%?&=_-]{0,60}") {
        if let Ok(found) = route(&target, &hub()) {
            prop_assert!(found.target.starts_with("/v2/"), "{:?}", found);
            // What the registry is asked is understood there as it was here.
            let again = route(&format!("{}{}ns={}", found.target, if found.target.contains('?') { "&" } else { "?" }, found.registry), &hub());
            prop_assert_eq!(again.map(|again| (again.registry, again.asked)), Ok((found.registry, found.asked)));
        }
    }

    #[test]
    fn names_round_trip(name in "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}(/[a-z0-9]{1,8}){0,3}", tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}") {
        let found = route(&format!("/v2/{name}/manifests/{tag}?ns=h.io"), &hub()).unwrap();
        let reference = Reference::Tag(Tag::parse(&tag).unwrap());
        prop_assert_eq!(found.asked, Asked::Manifest { repository: RepositoryName::parse(&name).unwrap(), reference });
    }

    #[test]
    fn challenges_that_are_written_are_read(realm in "[ -~]{0,30}", service in "[ -~]{0,30}") {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let value = format!("Bearer realm=\"{}\",service=\"{}\"", quoted(&realm), quoted(&service));
        prop_assert_eq!(parse_challenges(&value), Vec::from([bearer(&realm, Some(&service), None)]));
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_manifest(&bytes);
        if let Ok(text) = String::from_utf8(bytes) {
            let _ = parse_challenges(&text);
            let json: serde_json::Value = serde_json::from_str(&error_json(ErrorCode::Denied, &text)).unwrap();
            prop_assert_eq!(json["errors"][0]["message"].as_str().map(str::to_string), Some(text));
        }
    }
}
