//! Settings as people write them: an agent's file, amounts with units, labels, headers, a scheduler's address.
#![no_main]
#![allow(dead_code, reason = "the command line uses all of what these files hold")]

// These live in a binary, which no other crate can depend on; none of them touches the world.
#[path = "../../control/cli/src/agent_file.rs"]
mod agent_file;
#[path = "../../control/cli/src/mirror_file.rs"]
mod mirror_file;
#[path = "../../control/cli/src/pairs.rs"]
mod pairs;
#[path = "../../control/cli/src/units.rs"]
mod units;

use hawker_proto::url::Url;
use libfuzzer_sys::fuzz_target;

/// A file in which `text` is the value of every name that takes an amount.
fn file_of_amount(text: &str) -> Option<agent_file::AgentFile> {
    let quoted = format!("'{}'", text.replace(['\'', '\n', '\r'], " "));
    let names = ["limit-up", "limit-down", "limit-origin", "limit-disk", "drain"];
    agent_file::AgentFile::parse(&names.map(|name| format!("{name} = {quoted}\n")).concat()).ok()
}

fuzz_target!(|text: &str| {
    if let Ok(file) = agent_file::AgentFile::parse(text) {
        assert!(file.label.iter().all(|(name, value)| !name.is_empty() && !value.is_empty()), "{file:?}");
    }
    if let Some(file) = file_of_amount(text) {
        assert!(file.limit_up.is_some() && file.limit_up == file.limit_origin, "{file:?}");
    }
    for parse in [units::parse_size, units::parse_rate] {
        let Ok(bytes) = parse(text) else { continue };
        // Exact where a float is.
        if bytes < 1 << 53 {
            assert_eq!(parse(&bytes.to_string()), Ok(bytes), "{text}");
        }
        let _ = (units::show_size(bytes), units::show_rate(bytes as f64));
    }
    let _ = units::parse_duration(text);
    if let Ok(share) = units::parse_share(text) {
        assert!((0.0..=1.0).contains(&share), "{text}: {share}");
    }
    if let Ok((name, value)) = pairs::parse_label(text) {
        assert_eq!(format!("{name}={value}"), text);
    }
    if let Ok((name, value)) = pairs::parse_header(text) {
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "{text}");
        assert!(!value.contains(['\r', '\n', '\0']), "a header that is two: {text}");
    }
    if let Ok(url) = agent_file::parse_scheduler(text) {
        assert!(Url::parse(&url).is_ok());
        assert_eq!(agent_file::parse_scheduler(&url), Ok(url));
    }
});
