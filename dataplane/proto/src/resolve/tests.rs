use super::*;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use proptest::prelude::*;

const KEY: ResolveKey = ResolveKey([0xee; 32]);

fn canonical(text: &str) -> (String, bool) {
    let (url, is_signed) = CanonicalUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    (url.to_string(), is_signed)
}

fn headers(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect()
}

// The golden values below were made with Python's `hashlib` and `blake3`, from the diagram in `resolve.rs`.

#[test]
fn task_ids_have_golden_values() {
    let modified = Version::Modified { last_modified: "Sun, 06 Nov 1994 08:49:37 GMT".to_owned(), length: 1000 };
    let cases = [
        (
            task_id_of_digest(Some(1000), &Digest::Sha256([0xab; 32])),
            "2f426f1f9a430525c4644c5f15a2252640734753236df674cd025f0e0f15c090",
        ),
        (
            task_id_of_digest(None, &Digest::Blake3([0xcd; 32])),
            "6cbb67a1ed7e9b2ea7fea0554571a8fa22f658a434f37a583f00a167795c25a2",
        ),
        (
            task_id_of_version(Some(1000), KEY, &Version::ETag("\"v1\"".to_owned())),
            "7e339a3dcb2e9c1f2274c61cf10f80055dbf6baf0dcd0bb5715bae1ef92434c8",
        ),
        (
            task_id_of_version(Some(1000), KEY, &modified),
            "640ba0e43a32911b6cbd24d6eaf255165db7345700e02b785692b85ab23c6fe4",
        ),
        (
            task_id_of_version(None, KEY, &Version::Nonce([7; 16])),
            "a8d4f618879bae201d5635f05aa45f032a5ea61cece7933c019bbdedfd2350f5",
        ),
    ];
    for (task, expected) in cases {
        assert_eq!(task.to_string(), expected);
    }
}

#[test]
fn resolve_keys_have_golden_values() {
    let (url, _) = CanonicalUrl::parse("http://origin.example/file").unwrap();
    let key = |cluster: Option<&ClusterKey>, tag, application, headers: &[(String, String)]| {
        resolve_key(cluster, &url, tag, application, headers).to_string()
    };
    let cluster = ClusterKey::from_bytes([9; 32]);
    let plain = "d8558bbdb12f7ec7c498ff943b19235a0338f549c89a3ad2d75100c1c172dd8d";
    assert_eq!(key(None, "", "", &[]), plain);
    assert_eq!(key(Some(&cluster), "", "", &[]), plain, "without credentials the cluster makes no difference");
    let headers = headers(&[
        ("Cookie", "a=1"),
        ("AUTHORIZATION", " Bearer x\t"),
        ("User-Agent", "curl"),
        ("accept", "text/plain"),
        ("cookie", "b=2"),
    ]);
    assert_eq!(
        key(Some(&cluster), "t", "a", &headers),
        "4c22478dcaa417cd5a4a07c88a060706ab52c41240ab3a34b1e3c1d1249cda9b"
    );
    assert_eq!(key(None, "t", "a", &headers), "e57a1b9efecba6e7263efbc8208f9178582ce921a674c3dd71a036aca8e96f1f");
}

#[test]
fn key_of_a_digest_has_a_golden_value_and_hashers_give_the_digest_they_are_asked_for() {
    let key = resolve_key_of_digest(&Digest::Sha256([0xab; 32]));
    assert_eq!(key.to_string(), "8c1ef23f6d5bc23fcf3837e097b247185d957576f7ab4a4f43b67472c816b4cb");
    let abc = [
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd\
         454d4423643ce80e2a9ac94fa54ca49f",
        "blake3:6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
    ];
    for text in abc {
        let mut hasher = DigestHasher::like(&text.parse().unwrap());
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.finish().to_string(), text);
    }
}

#[test]
fn resolve_key_depends_on_each_part() {
    let url = |text| CanonicalUrl::parse(text).unwrap().0;
    let key = |text, tag, application, fields: &[(&str, &str)]| {
        resolve_key(None, &url(text), tag, application, &headers(fields))
    };
    let base = key("http://h/a", "t", "p", &[]);
    assert_eq!(base, key("HTTP://H:80/a#x", "t", "p", &[("User-Agent", "x")]));
    for other in [
        key("http://h/b", "t", "p", &[]),
        key("http://h/a", "u", "p", &[]),
        key("http://h/a", "t", "q", &[]),
        key("http://h/a", "tp", "", &[]),
        key("http://h/a", "t", "p", &[("Accept", "x")]),
        key("http://h/a", "t", "p", &[("PRIVATE-TOKEN", "x")]),
    ] {
        assert_ne!(base, other);
    }
    let one = key("http://h/a", "", "", &[("cookie", "a"), ("cookie", "b")]);
    assert_ne!(one, key("http://h/a", "", "", &[("cookie", "b"), ("cookie", "a")]));
    let one = key("http://h/a", "", "", &[("cookie", "a"), ("authorization", "b")]);
    assert_eq!(one, key("http://h/a", "", "", &[("authorization", "b"), ("cookie", "a")]));
}

#[test]
fn digest_has_one_spelling() {
    let digest = Digest::Sha256([0xab; 32]);
    assert_eq!(digest.to_string().parse(), Ok(digest));
    let digest = Digest::Blake3([1; 32]);
    assert_eq!(digest.to_string().parse(), Ok(digest));
    let digest = Digest::Sha512([7; 64]);
    assert_eq!(digest.to_string().parse(), Ok(digest));
    let hex = "ab".repeat(32);
    for text in [
        hex.clone(),
        format!("sha512:{hex}"),
        format!("md5:{hex}"),
        format!("SHA256:{hex}"),
        format!("sha256:{}", hex.to_uppercase()),
        format!("sha256:{hex}0"),
        format!("sha256: {hex}"),
        String::new(),
    ] {
        assert_eq!(text.parse::<Digest>(), Err(ParseDigestError), "{text}");
    }
}

#[test]
fn canonical_url_unifies_spellings() {
    assert_eq!(canonical("HTTP://H:80/%7euser%2f%zz?B=1&A=2#f"), ("http://h/%7Euser%2F%zz?B=1&A=2".to_owned(), false));
    assert_eq!(canonical("http://h/?"), ("http://h/?".to_owned(), false));
    assert_eq!(canonical("http://h/%%2f%a%2é"), ("http://h/%%2F%a%2%C3%A9".to_owned(), false));
    assert_eq!(CanonicalUrl::parse("http://u:p@h/"), Err(UrlError::Userinfo));
}

#[test]
fn signatures_of_every_provider_are_stripped() {
    let signed = [
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=k%2F20260101&X-Amz-Date=d&X-Amz-Expires=60\
         &X-Amz-SignedHeaders=host&X-Amz-Security-Token=t&X-Amz-Signature=s",
        "x-amz-signature=s",
        "X%2DAmz%2dSignature=s",
        "AWSAccessKeyId=k&Signature=s&Expires=1",
        "X-Goog-Algorithm=a&X-Goog-Credential=c&X-Goog-Date=d&X-Goog-Expires=1&X-Goog-SignedHeaders=host\
         &X-Goog-Signature=s",
        "GoogleAccessId=g&Expires=1&Signature=s",
        "OSSAccessKeyId=k&Expires=1&Signature=s&security-token=t",
        "x-oss-signature-version=OSS4-HMAC-SHA256&x-oss-credential=c&x-oss-date=d&x-oss-expires=1\
         &x-oss-additional-headers=host&x-oss-security-token=t&x-oss-signature=s",
        "AccessKeyId=k&Expires=1&Signature=s&x-obs-security-token=t",
        "q-sign-algorithm=sha1&q-ak=k&q-sign-time=1;2&q-key-time=1;2&q-header-list=host&q-url-param-list=\
         &q-signature=s&x-cos-security-token=t",
        "sv=2022-11-02&st=a&se=b&sr=b&sp=r&spr=https&sip=1.2.3.4&sig=s",
        "sv=v&ss=b&srt=o&sp=r&se=e&sig=s",
        "skoid=o&sktid=t&skt=t&ske=e&sks=b&skv=v&saoid=a&suoid=u&scid=c&sdd=1&ses=s&sv=v&sr=b&sp=r&sig=s",
        "Expires=1&Signature=s&Key-Pair-Id=k",
        "Policy=p&Signature=s&Key-Pair-Id=k&Hash-Algorithm=SHA256",
    ];
    for query in signed {
        assert_eq!(canonical(&format!("http://h/f?{query}")), ("http://h/f".to_owned(), true), "{query}");
        let between = format!("http://h/f?versionId=1&{query}&response-content-type=x&flag");
        let expected = "http://h/f?versionId=1&response-content-type=x&flag".to_owned();
        assert_eq!(canonical(&between), (expected, true), "{query}");
    }
}

#[test]
fn parameters_that_only_look_like_a_signature_stay() {
    for query in
        ["signature=s&expires=1", "sig=1&sp=2", "sv=1&se=2", "X-Amz-Date=1", "q-ak=1", "Expires=5", "x=X-Amz-Signature"]
    {
        let url = format!("http://h/f?{query}");
        assert_eq!(canonical(&url), (url.clone(), false));
    }
    let url = "http://h/f?X-Amz-Signature=s&sp=1&sr=2";
    assert_eq!(canonical(url), ("http://h/f?sp=1&sr=2".to_owned(), true), "another provider's names stay");
}

#[test]
fn credentials_are_recognized_by_name() {
    for name in [
        "Authorization",
        "COOKIE",
        "PRIVATE-TOKEN",
        "X-Api-Key",
        "X-JFrog-Art-Api",
        "Proxy-Authorization",
        "X-Amz-Security-Token",
        "X-Secret",
    ] {
        assert!(is_credentialed(&headers(&[("Accept", "x"), (name, "y")])), "{name}");
    }
    assert!(!is_credentialed(&headers(&[("Accept", "a"), ("User-Agent", "b"), ("X-Request-Id", "c")])));
}

#[test]
fn version_is_the_best_that_the_origin_gives() {
    let date = Some("Sun, 06 Nov 1994 08:50:37 GMT");
    let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
    let nonce = [7; 16];
    let of = |etag, last_modified, date, length| version_of(&Validators { etag, last_modified, date, length }, nonce);
    let by_time = Version::Modified { last_modified: modified.to_owned(), length: 5 };

    assert_eq!(of(Some("\"a\""), Some(modified), date, Some(5)), Version::ETag("\"a\"".to_owned()));
    assert_eq!(of(Some("\"a\""), None, None, None), Version::ETag("\"a\"".to_owned()));
    for weak in ["W/\"a\"", "a", "\"", "\"\"", "\"a", "\"a\", \"b\""] {
        assert_eq!(of(Some(weak), Some(modified), date, Some(5)), by_time, "{weak}");
        assert_eq!(of(Some(weak), None, date, Some(5)), Version::Nonce(nonce), "{weak}");
    }
    assert_eq!(of(None, Some(modified), date, Some(5)), by_time, "60 s old");
    let too_young = Some("Sun, 06 Nov 1994 08:50:36 GMT");
    assert_eq!(of(None, Some(modified), too_young, Some(5)), Version::Nonce(nonce), "59 s old");
    let before = Some("Sun, 06 Nov 1994 08:49:36 GMT");
    assert_eq!(of(None, Some(modified), before, Some(5)), Version::Nonce(nonce), "of the future");
    assert_eq!(of(None, Some(modified), None, Some(5)), Version::Nonce(nonce), "no clock to compare");
    assert_eq!(of(None, Some(modified), date, None), Version::Nonce(nonce), "no length");
    assert_eq!(of(None, Some("yesterday"), date, Some(5)), Version::Nonce(nonce));
}

#[test]
fn private_responses_are_not_shared() {
    let of = |cache_control: &[&'static str], vary: &[&'static str]| {
        sharing(cache_control.iter().copied(), vary.iter().copied())
    };
    assert_eq!(of(&[], &[]), Sharing::Shared);
    assert_eq!(
        of(&["public, max-age=60", "no-cache"], &["Accept-Encoding, Origin", "Authorization,Accept"]),
        Sharing::Shared
    );
    assert_eq!(of(&["max-age=0", ""], &[""]), Sharing::Shared);
    for cache_control in ["no-store", "No-Store", "max-age=1,private", "private=\"set-cookie\"", "x=\"a, no-store\""] {
        assert_eq!(of(&["public", cache_control], &[]), Sharing::Private, "{cache_control}");
    }
    for vary in ["*", "User-Agent", "Accept-Encoding, Accept-Language", "Accept, *"] {
        assert_eq!(of(&[], &["Origin", vary]), Sharing::Private, "{vary}");
    }
    assert_eq!(sharing(Some("private"), None), Sharing::Private, "an Option will do");
    assert_eq!(sharing(vec![], vec!["*"]), Sharing::Private);
}

proptest! {
    #[test]
    fn canonical_form_is_its_own(text in "http://h/[a-zA-Z0-9%&=?./-]{0,60}|http://h/\\?((sv|sig|Signature|AccessKeyId|x|%73ig)=[a-z%]{0,3}&?){0,6}") {
        if let Ok((url, _)) = CanonicalUrl::parse(&text) {
            let again = CanonicalUrl::parse(url.as_str());
            prop_assert_eq!(again, Ok((url, false)));
        }
    }

    #[test]
    fn any_text_is_taken_without_panic(text in "\\PC{0,60}", other in "\\PC{0,60}") {
        let _ = CanonicalUrl::parse(&format!("http://h/{text}?{other}"));
        let _ = text.parse::<Digest>();
        let validators = Validators { etag: Some(&text), last_modified: Some(&other), date: Some(&text), length: Some(1) };
        let _ = version_of(&validators, [0; 16]);
        let _ = sharing([text.as_str()], [other.as_str()]);
    }
}
