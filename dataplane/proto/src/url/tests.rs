use super::*;
use crate::testing::hex;
use alloc::string::ToString;
use proptest::prelude::*;

fn shown(text: &str) -> String {
    Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).to_string()
}

#[test]
fn url_is_taken_apart() {
    let url = Url::parse("HTTPS://Origin.Example:8443/a/b?c=d#e").unwrap();
    assert_eq!(url.scheme(), Scheme::Https);
    assert_eq!(url.host(), &Host::Name("origin.example".to_owned()));
    assert_eq!(url.port(), 8443);
    assert_eq!((url.target(), url.path(), url.query()), ("/a/b?c=d", "/a/b", Some("c=d")));
    assert_eq!(url.authority(), "origin.example:8443");

    let url = Url::parse("http://[::1]").unwrap();
    assert_eq!(url.host(), &Host::V6(Ipv6Addr::LOCALHOST));
    assert_eq!((url.port(), url.target(), url.query()), (80, "/", None));
    assert_eq!(url.authority(), "[::1]");
}

#[test]
fn spellings_of_one_url_are_one() {
    for (text, expected) in [
        ("http://h", "http://h/"),
        ("http://h:80/", "http://h/"),
        ("https://h:443", "https://h/"),
        ("https://h:80/", "https://h:80/"),
        ("http://h:/x", "http://h/x"),
        ("http://h:0080/", "http://h/"),
        ("http://h?q", "http://h/?q"),
        ("http://h/?", "http://h/?"),
        ("http://h/a?b?c", "http://h/a?b?c"),
        ("http://h/a#b?c", "http://h/a"),
        ("http://127.0.0.1:8080/x", "http://127.0.0.1:8080/x"),
        ("http://[2001:DB8:0::1]:80/", "http://[2001:db8::1]/"),
        ("http://h/a b/é", "http://h/a%20b/%C3%A9"),
        ("http://h/?q=\"<>`{|}^", "http://h/?q=%22%3C%3E%60%7B%7C%7D%5E"),
        ("http://h/%zz%", "http://h/%zz%"),
        ("http://h/a/./b/../c", "http://h/a/c"),
        ("http://h/../../etc/passwd", "http://h/etc/passwd"),
        ("http://h/a/%2e%2E/b/.%2e", "http://h/"),
        ("http://h/a/..", "http://h/"),
        ("http://h/a/b/.", "http://h/a/b/"),
        ("http://h//a//b", "http://h//a//b"),
        ("http://h/a?x=/../y", "http://h/a?x=/../y"),
        ("http://3scale.local/", "http://3scale.local/"),
        ("http://0a1b2c3d4e5f:5000/", "http://0a1b2c3d4e5f:5000/"),
        ("http://a_b-c.d./", "http://a_b-c.d./"),
        ("http://xn--bcher-kva.example/", "http://xn--bcher-kva.example/"),
    ] {
        assert_eq!(shown(text), expected, "{text}");
    }
}

#[test]
fn what_is_no_url_or_has_two_readings_is_refused() {
    for (text, expected) in [
        ("", UrlError::Scheme),
        ("h/x", UrlError::Scheme),
        ("http:/h", UrlError::Scheme),
        ("http:h", UrlError::Scheme),
        (" http://h", UrlError::Scheme),
        ("ftp://h/", UrlError::Scheme),
        ("file:///etc/passwd", UrlError::Scheme),
        ("http://", UrlError::Host),
        ("http:///x", UrlError::Host),
        ("http://:80/", UrlError::Host),
        ("http://user@h/", UrlError::Userinfo),
        ("http://user:secret@h/", UrlError::Userinfo),
        ("http://good.example@evil.example/", UrlError::Userinfo),
        ("http://h:x/", UrlError::Port),
        ("http://h:0/", UrlError::Port),
        ("http://h:65536/", UrlError::Port),
        ("http://h:+80/", UrlError::Port),
        ("http://h:80:80/", UrlError::Port),
        ("http://::1/", UrlError::Host),
        ("http://[::1/", UrlError::Host),
        ("http://[::1]x/", UrlError::Host),
        ("http://[fe80::1%25eth0]/", UrlError::Host),
        ("http://[127.0.0.1]/", UrlError::Host),
        ("http://127.1/", UrlError::Host),
        ("http://2130706433/", UrlError::Host),
        ("http://0x7f000001/", UrlError::Host),
        ("http://0x7f.0.0.1/", UrlError::Host),
        ("http://127.0.0.0x1/", UrlError::Host),
        ("http://0177.0.0.1/", UrlError::Host),
        ("http://127.0.0.1./", UrlError::Host),
        ("http://1.2.3.4.5/", UrlError::Host),
        ("http://a..b/", UrlError::Host),
        ("http://./", UrlError::Host),
        ("http://h h/", UrlError::Host),
        ("http://h%2fx/", UrlError::Host),
        ("http://b\u{fc}cher.example/", UrlError::Host),
        ("http://h\\@evil/", UrlError::Character(b'\\')),
        ("http://h/a\nb", UrlError::Character(b'\n')),
        ("http://h/\u{0}", UrlError::Character(0)),
        ("http://h/\u{7f}", UrlError::Character(0x7f)),
    ] {
        assert_eq!(Url::parse(text), Err(expected), "{text:?}");
    }
    let long_label = format!("http://{}/", "a".repeat(64));
    assert_eq!(Url::parse(&long_label), Err(UrlError::Host));
    let long_name = format!("http://{}a/", "abcdefg.".repeat(32));
    assert_eq!(Url::parse(&long_name), Err(UrlError::Host));
    let long_path = format!("http://h/{}", "a".repeat(URL_BYTES_MAX));
    assert_eq!(Url::parse(&long_path), Err(UrlError::TooLong));
    let grows_when_encoded = format!("http://h/{}", " ".repeat(URL_BYTES_MAX / 2));
    assert_eq!(Url::parse(&grows_when_encoded), Err(UrlError::TooLong));
}

#[test]
fn errors_do_not_repeat_a_password() {
    let error = Url::parse("http://user:hunter2@h/").unwrap_err().to_string();
    assert!(error.contains("Authorization") && !error.contains("hunter2"), "{error}");
}

/// RFC 3986, section 5.4, as far as it is about http.
#[test]
fn references_mean_what_the_standard_says() {
    let base = Url::parse("http://a/b/c/d;p?q").unwrap();
    for (reference, expected) in [
        ("g", "http://a/b/c/g"),
        ("./g", "http://a/b/c/g"),
        ("g/", "http://a/b/c/g/"),
        ("/g", "http://a/g"),
        ("//g", "http://g/"),
        ("?y", "http://a/b/c/d;p?y"),
        ("g?y", "http://a/b/c/g?y"),
        ("#s", "http://a/b/c/d;p?q"),
        ("g#s", "http://a/b/c/g"),
        (";x", "http://a/b/c/;x"),
        ("", "http://a/b/c/d;p?q"),
        (".", "http://a/b/c/"),
        ("./", "http://a/b/c/"),
        ("..", "http://a/b/"),
        ("../g", "http://a/b/g"),
        ("../..", "http://a/"),
        ("../../../g", "http://a/g"),
        ("/../g", "http://a/g"),
        ("g.", "http://a/b/c/g."),
        ("..g", "http://a/b/c/..g"),
        ("./g/.", "http://a/b/c/g/"),
        ("g;x=1/../y", "http://a/b/c/y"),
        ("g?y/../x", "http://a/b/c/g?y/../x"),
        ("x/y:z", "http://a/b/c/x/y:z"),
        ("https://[::1]:8/x", "https://[::1]:8/x"),
    ] {
        assert_eq!(base.join(reference).unwrap().to_string(), expected, "{reference}");
    }
    for reference in ["g:h", "http:g", "javascript:x", "//user@g", "//", "\\\\g"] {
        assert!(base.join(reference).is_err(), "{reference}");
    }
}

#[test]
fn origin_is_scheme_host_and_port() {
    let url = Url::parse("https://origin.example/a").unwrap();
    assert!(url.is_same_origin(&Url::parse("https://ORIGIN.example:443/b").unwrap()));
    for other in ["http://origin.example/a", "https://origin.example:444/a", "https://other.example/a"] {
        assert!(!url.is_same_origin(&Url::parse(other).unwrap()), "{other}");
        assert_ne!(url.origin_hash(), Url::parse(other).unwrap().origin_hash());
    }
    // BLAKE3 of `https://origin.example:443`, by Python's `blake3`.
    assert_eq!(hex(&url.origin_hash()), "9f84873fcef7a6288df80f296e0c163755d7a9b679c68eb621c230e2397eb566");
}

proptest! {
    #[test]
    fn any_text_is_taken_without_panic_and_reads_the_same_again(
        text in "(https?://)?[a-z0-9.\\[\\]:@%]{0,12}[/?#a-z.%2eE: é\\\\]{0,40}|\\PC{0,60}",
    ) {
        if let Ok(url) = Url::parse(&text) {
            prop_assert!(url.target().starts_with('/'));
            prop_assert!(url.target().bytes().all(|byte| byte.is_ascii_graphic()));
            let again = Url::parse(&url.to_string());
            prop_assert_eq!(again, Ok(url));
        }
    }

    #[test]
    fn any_reference_is_joined_without_panic(reference in "[/?#a-z.%:@\\[\\]é]{0,30}|\\PC{0,40}") {
        let base = Url::parse("https://origin.example/a/b?c").unwrap();
        let _ = base.join(&reference);
    }
}

#[test]
fn neither_query_nor_password_is_shown() {
    for (text, expected) in [
        ("https://origin/a?token=secret&b?c", "https://origin/a?..."),
        ("https://origin/@scope/a", "https://origin/@scope/a"),
        ("https://user:secret@origin/a?b", "origin/a?..."),
        ("https://user:se/cr@et@origin/a", "origin/a"),
        ("ftp://origin/a#secret", "ftp://origin/a"),
        ("", ""),
    ] {
        assert_eq!(crate::url::shown(text), expected);
    }
}
