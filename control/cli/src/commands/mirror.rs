//! `mirror ls` and `mirror invalidate`: what an agent remembers of tags.

use std::process::ExitCode;

use hawker_api::local::{InvalidateTags, ListTags, Tag, event, request};
use serde_json::{Value, json};

use super::inspect::{ask_one, unexpected};
use super::print_json;
use crate::arguments::{MirrorCommand, MirrorInvalidateArguments, MirrorListArguments};
use crate::client::{Door, ask, default_socket};
use crate::exit::Failure;
use crate::stop::Stop;

/// Of a digest in a table: the algorithm's name and 12 digits. JSON has all of it.
const SHORT_DIGEST: usize = "sha256:".len() + 12;

pub(crate) fn run(command: MirrorCommand) -> Result<ExitCode, Failure> {
    match command {
        MirrorCommand::Ls(arguments) => list(arguments),
        MirrorCommand::Invalidate(arguments) => invalidate(arguments),
    }
}

fn list(arguments: MirrorListArguments) -> Result<ExitCode, Failure> {
    let door = Door::Socket(arguments.target.socket.unwrap_or_else(default_socket));
    let mut tags = Vec::new();
    ask(&door, request::Request::ListTags(ListTags {}), &Stop::on_signals()?, |event| match event {
        event::Event::Tags(mut list) => {
            tags.append(&mut list.tags);
            Ok(list.more)
        }
        _ => Err(unexpected()),
    })?;
    if arguments.target.json {
        let tags: Vec<Value> = tags.iter().map(tag_json).collect();
        print_json(&json!({ "tags": tags }));
    } else {
        print_tags(&tags);
    }
    Ok(ExitCode::SUCCESS)
}

fn invalidate(arguments: MirrorInvalidateArguments) -> Result<ExitCode, Failure> {
    let MirrorInvalidateArguments { patterns, target } = arguments;
    let question = request::Request::InvalidateTags(InvalidateTags { patterns: patterns.clone() });
    let count = ask_one(target.socket, question, |event| match event {
        event::Event::TagsInvalidated(answer) => Some(answer.count),
        _ => None,
    })?;
    if count == 0 {
        let message = format!("no tag that the agent remembers fits {}", patterns.join(" or "));
        let hint = "`hawker mirror ls` shows their names: REGISTRY/REPOSITORY:TAG; * stands for anything";
        return Err(Failure::other(message).hint(hint));
    }
    if target.json {
        print_json(&json!({ "invalidated": count }));
    } else {
        println!("{count} {} forgotten", if count == 1 { "tag" } else { "tags" });
    }
    Ok(ExitCode::SUCCESS)
}

fn tag_json(tag: &Tag) -> Value {
    json!({ "name": tag.name, "digest": tag.digest, "age_ms": tag.age_ms, "is_public": tag.is_public })
}

fn print_tags(tags: &[Tag]) {
    if tags.is_empty() {
        println!("no tags");
        return;
    }
    println!("{:>6}  {:<6}  {:<SHORT_DIGEST$}  NAME", "AGE", "PUBLIC", "DIGEST");
    for tag in tags {
        let digest = tag.digest.get(..SHORT_DIGEST).unwrap_or(&tag.digest);
        let public = if tag.is_public { "yes" } else { "no" };
        println!("{:>6}  {public:<6}  {digest:<SHORT_DIGEST$}  {}", show_age(tag.age_ms), tag.name);
    }
}

/// In its largest unit, rounded down.
fn show_age(age_ms: u64) -> String {
    let seconds = age_ms / 1000;
    let units = [(86_400, "d"), (3600, "h"), (60, "min")];
    let unit = units.into_iter().find(|(unit, _)| seconds >= *unit);
    unit.map_or_else(|| format!("{seconds} s"), |(unit, name)| format!("{} {name}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_shown_in_its_largest_unit() {
        let shown = [0, 59_999, 60_000, 3_599_999, 3_600_000, 86_399_999, 86_400_000, 864_000_000].map(show_age);
        assert_eq!(shown, ["0 s", "59 s", "1 min", "59 min", "1 h", "23 h", "1 d", "10 d"]);
    }
}
