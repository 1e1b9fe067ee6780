//! Labels and headers as people write them.

/// `NAME=VALUE`, as `--label` takes it.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not NAME=VALUE, such as zone=a")),
    }
}

/// `Name: value`, as `-H` takes it.
pub(crate) fn parse_header(text: &str) -> Result<(String, String), String> {
    let Some((name, value)) = text.split_once(':') else {
        return Err("a header is written 'Name: value'".to_owned());
    };
    let is_token = |letter: char| letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter);
    // What follows the name may be a secret: it is not repeated in the message.
    if name.is_empty() || !name.chars().all(is_token) {
        let word = name.split(|letter| !is_token(letter)).next().unwrap_or_default();
        return Err(format!("a header is written 'Name: value', and `{word}` is not followed by a colon"));
    }
    if value.chars().any(|letter| letter.is_ascii_control() && letter != '\t') {
        return Err(format!("the value of `{name}` holds control characters"));
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_checked_without_repeating_secrets() {
        assert_eq!(parse_header("Authorization: Bearer x"), Ok(("Authorization".to_owned(), "Bearer x".to_owned())));
        assert_eq!(parse_header("X-Empty:"), Ok(("X-Empty".to_owned(), String::new())));
        for text in ["no colon", ": x", "a b: c", "x: a\r\nb"] {
            assert!(parse_header(text).is_err(), "{text}");
        }
        for text in ["Authorization: secret\u{7}", "Authorization secret", "Authorization=secret:x"] {
            assert!(!parse_header(text).unwrap_err().contains("secret"), "{text}");
        }
    }

    #[test]
    fn labels_need_both_halves() {
        assert_eq!(parse_label("zone=a=b"), Ok(("zone".to_owned(), "a=b".to_owned())));
        for text in ["zone", "=a", "zone="] {
            assert!(parse_label(text).is_err(), "{text}");
        }
    }
}
