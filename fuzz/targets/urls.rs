//! URLs as users write them and origins redirect to, and digests. A URL's text is a URL, and the same one.
#![no_main]

use hawker_proto::http1::redirect_target;
use hawker_proto::resolve::Digest;
use hawker_proto::url::Url;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let base = Url::parse("https://origin.example:8443/a/b?c").expect("a URL");
    let _ = text.parse::<Digest>();
    for url in [Url::parse(text).ok(), redirect_target(&base, text).ok()].into_iter().flatten() {
        let again = Url::parse(&url.to_string()).expect("its own text");
        assert_eq!(again, url);
        assert_eq!(again.to_string(), url.to_string());
        assert!(url.target().starts_with('/'));
        assert!(!url.target().contains(['\r', '\n', ' ', '#']), "{url}");
        assert_eq!(url.origin_hash(), again.origin_hash());
    }
});
