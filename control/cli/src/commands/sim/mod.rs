//! `hawker sim`.

mod estimate;
mod rollout;
mod seeds;

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use crate::arguments::SimArguments;
use crate::exit::Failure;

pub(crate) fn run(arguments: &SimArguments) -> Result<ExitCode, Failure> {
    match (&arguments.rollout, arguments.seeds) {
        (Some(chosen), _) => rollout::run(chosen, arguments.seed),
        (None, Some(count)) => seeds::run(arguments.seed, count),
        (None, None) => Err(Failure::usage("either --hosts or --seeds is needed")),
    }
}

thread_local! {
    /// What the last panic of this thread said, and where.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes broken assertions a result: [`caught`] tells of them, once and as a failure of the run.
fn catch_panics() {
    panic::set_hook(Box::new(|info| LAST_PANIC.set(Some(info.to_string()))));
}

/// What `simulate` returns, or what the assertion said that broke in it.
fn caught<T>(simulate: impl FnOnce() -> T) -> Result<T, String> {
    // Nothing that was being changed is looked at again.
    panic::catch_unwind(AssertUnwindSafe(simulate))
        .map_err(|_| LAST_PANIC.take().unwrap_or_else(|| "an assertion broke".to_owned()))
}

/// The command as it was typed, for a shell.
fn typed_command() -> String {
    let words = std::env::args().skip(1).map(|word| quoted(&word));
    std::iter::once("hawker".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=%,+".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_command_survive_a_shell() {
        for (word, shown) in
            [("--churn", "--churn"), ("5%", "5%"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''")]
        {
            assert_eq!(quoted(word), shown);
        }
    }
}
