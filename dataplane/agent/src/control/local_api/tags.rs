//! What the registry mirror remembers of tags, to look at and to forget.

use std::io;

use hawker_api::local;
use tokio::net::UnixStream;

use super::wire::send;
use super::{event, fail};
use crate::control::caller::{Failure, code};
use crate::control::mirror::tags::{Fact, Tags, fits};

/// Tags in one event: a frame holds 1 MiB, and a tag of the longest names that registries allow takes less than 1 KiB.
const TAGS_PER_EVENT: usize = 500;
/// Patterns of one request: each is held against each name, and nobody else comes to the table meanwhile.
const PATTERNS_MAX: usize = 100;

pub(super) async fn list(tags: &Tags, stream: &mut UnixStream) -> io::Result<()> {
    let mut facts = tags.all();
    facts.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let mut rest: Vec<local::Tag> = facts.into_iter().map(tag).collect();
    loop {
        let next = rest.split_off(rest.len().min(TAGS_PER_EVENT));
        let more = !next.is_empty();
        send(stream, &event(event::Event::Tags(local::TagList { tags: rest, more })), None).await?;
        if !more {
            return Ok(());
        }
        rest = next;
    }
}

pub(super) async fn invalidate(tags: &Tags, stream: &mut UnixStream, asked: &local::InvalidateTags) -> io::Result<()> {
    let patterns = &asked.patterns;
    if patterns.len() > PATTERNS_MAX {
        let message = format!("{} patterns at once, {PATTERNS_MAX} are the most", patterns.len());
        let hint = "ask several times, or say more with one: * stands for anything";
        return fail(stream, &Failure::new(code::USAGE, message, hint)).await;
    }
    let count = tags.forget(|name| patterns.iter().any(|pattern| fits(pattern, name))) as u64;
    if count > 0 {
        tracing::info!(count, ?patterns, "tags are forgotten: their registries are asked anew");
    }
    send(stream, &event(event::Event::TagsInvalidated(local::TagsInvalidated { count })), None).await
}

fn tag((name, fact): (String, Fact)) -> local::Tag {
    let age_ms = u64::try_from(fact.age().as_millis()).unwrap_or(u64::MAX);
    local::Tag { name, digest: fact.digest.to_string(), age_ms, is_public: fact.is_public }
}

#[cfg(test)]
mod tests {
    use hawker_proto::resolve::Digest;

    use super::super::wire::receive;
    use super::*;
    use crate::control::mirror::tags::unix_ms;

    fn fact(is_public: bool) -> Fact {
        let (digest, media_type) = (Digest::Sha256([7; 32]), "a/b".to_owned());
        Fact { digest, media_type, length: 5, is_public, seen_unix_ms: unix_ms() - 60_000 }
    }

    async fn listed(tags: &Tags) -> (Vec<local::Tag>, usize) {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut all, mut events) = (Vec::new(), 0);
        let read = async {
            loop {
                let received = receive::<local::Event>(&mut theirs).await.unwrap();
                let Some(event::Event::Tags(mut list)) = received.event else { panic!("{received:?}") };
                events += 1;
                all.append(&mut list.tags);
                if !list.more {
                    return;
                }
            }
        };
        let (sent, ()) = tokio::join!(list(tags, &mut ours), read);
        sent.unwrap();
        (all, events)
    }

    async fn invalidated(tags: &Tags, patterns: &[&str]) -> event::Event {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let patterns = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        invalidate(tags, &mut ours, &local::InvalidateTags { patterns }).await.unwrap();
        receive::<local::Event>(&mut theirs).await.unwrap().event.unwrap()
    }

    fn counted(count: u64) -> event::Event {
        event::Event::TagsInvalidated(local::TagsInvalidated { count })
    }

    #[tokio::test]
    async fn what_is_invalidated_is_listed_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let tags = Tags::open(directory.path());
        assert_eq!(listed(&tags).await, (Vec::new(), 1));
        let digest = Digest::Sha256([7; 32]).to_string();
        let by_digest = format!("q.io/b@{digest}");
        for (name, is_public) in [("q.io/a:1", true), ("q.io/a:2", false), ("h.io/team/c:1", true), (&by_digest, true)]
        {
            tags.set(name, fact(is_public));
        }
        let (all, _) = listed(&tags).await;
        let names: Vec<&str> = all.iter().map(|tag| tag.name.as_str()).collect();
        assert_eq!(names, ["h.io/team/c:1", "q.io/a:1", "q.io/a:2", &by_digest]);
        assert!(
            all.iter().all(|tag| tag.digest == digest && tag.age_ms >= 60_000 && tag.age_ms < 3_600_000),
            "{all:?}"
        );
        assert_eq!(all.iter().map(|tag| tag.is_public).collect::<Vec<_>>(), [true, true, false, true]);

        assert_eq!(invalidated(&tags, &["q.io/a", "a:1", ""]).await, counted(0));
        assert_eq!(invalidated(&tags, &[]).await, counted(0));
        assert_eq!(invalidated(&tags, &["*/a:2", "q.io/b@*", "*:2"]).await, counted(2));
        let (left, _) = listed(&tags).await;
        assert_eq!(left.iter().map(|tag| tag.name.as_str()).collect::<Vec<_>>(), ["h.io/team/c:1", "q.io/a:1"]);
        assert_eq!(invalidated(&tags, &["*"]).await, counted(2));
        assert_eq!(listed(&tags).await, (Vec::new(), 1));
    }

    #[tokio::test]
    async fn more_than_an_event_holds_comes_in_several() {
        let directory = tempfile::tempdir().unwrap();
        let tags = Tags::open(directory.path());
        for index in 0..=TAGS_PER_EVENT {
            tags.set(&format!("q.io/a:{index}"), fact(true));
        }
        let (all, events) = listed(&tags).await;
        assert_eq!((all.len(), events), (TAGS_PER_EVENT + 1, 2));
        let many = vec!["*"; PATTERNS_MAX + 1];
        let event::Event::Error(error) = invalidated(&tags, &many).await else { panic!("no refusal") };
        assert_eq!(error.code, code::USAGE);
        assert_eq!(tags.all().len(), TAGS_PER_EVENT + 1);
    }
}
