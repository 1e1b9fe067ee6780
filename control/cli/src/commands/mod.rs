//! One module per command.

pub(crate) mod bench;
pub(crate) mod doctor;
pub(crate) mod get;
pub(crate) mod guard;
pub(crate) mod inspect;
pub(crate) mod mirror;
pub(crate) mod node;
pub(crate) mod setup;
pub(crate) mod sim;

/// Prints one JSON object. Nobody reading any more is no failure of the command.
pub(crate) fn print_json(report: &impl serde::Serialize) {
    use std::io::Write as _;
    if let Ok(text) = serde_json::to_string_pretty(report) {
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}
