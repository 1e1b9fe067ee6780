//! Answers that a shard gives again by itself, so that what is asked for again and again costs no trip to control.
//!
//! Control says for how long an answer is right for whoever asks the very same with the very same credentials. A content
//! is answered so only while all of it is here, whole or in whatever parts are asked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hawker_proto::http1::{BodyFraming, Content, Reply, ReplyBody, Request, RequestHead, Selection, select};
use hawker_proto::{Instant, TaskId};

use crate::share::SharedTask;

/// Answers kept by one shard.
const ANSWERS_MAX: usize = 1024;
/// Bytes of all of them, questions included.
const BYTES_MAX: usize = 8 << 20;
/// Bytes in memory of one of them.
const INLINE_BYTES_MAX: u64 = 64 << 10;
/// Longest time that one is kept, whatever control says.
const KEEP_MAX: Duration = Duration::from_mins(5);
/// What an entry costs beside its texts: a guess at maps, headers and their allocations.
const ENTRY_BYTES: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct KeptAnswers {
    answers: HashMap<Question, Kept>,
    bytes: usize,
    /// Counts uses, for the order of them.
    clock: u64,
}

/// All of a request that its answer depends on, as the client wrote it, but for ranges and conditions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question(Box<str>);

#[derive(Debug)]
struct Kept {
    reply: Reply,
    task: Option<Arc<SharedTask>>,
    until: Instant,
    used: u64,
    bytes: usize,
}

impl Question {
    /// The question of a read, `None` when the request is something else: then its answer is its own.
    pub(super) fn of(request: &Request) -> Option<Self> {
        let head = &request.head;
        let is_read = matches!(head.method.as_str(), "GET" | "HEAD")
            && matches!(request.framing, BodyFraming::Empty | BodyFraming::Length(0));
        if !is_read {
            return None;
        }
        // No field holds a line's end or NUL, so that no two questions read alike.
        let mut text = format!("{}\n{}", head.host, head.target);
        for name in ["authorization", "accept"] {
            text.push('\n');
            for value in head.values(name) {
                text.push_str(value);
                text.push('\0');
            }
        }
        Some(Self(text.into()))
    }
}

/// Whether a request has neither range nor condition.
fn is_plain(asked: &RequestHead) -> bool {
    !asked.headers.iter().any(|(name, _)| name == "range" || name.starts_with("if-"))
}

impl Kept {
    /// What of it answers a request with ranges or conditions. Its ETag is all that tells it from others.
    fn select(&self, asked: &RequestHead) -> Selection {
        let etag = self.reply.headers().iter().find(|(name, _)| name.eq_ignore_ascii_case("etag"));
        let length = self.reply.length();
        select(asked, &Content { length, etag: etag.map(|(_, value)| value.as_str()), last_modified: None })
    }
}

impl KeptAnswers {
    /// The answer to `question`, which `asked` puts, if one is kept that still counts.
    pub(super) fn find(
        &mut self,
        now: Instant,
        question: &Question,
        asked: &RequestHead,
    ) -> Option<(Reply, Option<Arc<SharedTask>>)> {
        self.clock += 1;
        let kept = self.answers.get_mut(question)?;
        let is_whole = kept.task.as_ref().is_none_or(|task| task.file().is_sealed());
        if kept.until <= now || !is_whole {
            self.remove(&question.clone());
            return None;
        }
        kept.used = self.clock;
        let reply = if is_plain(asked) { kept.reply.clone() } else { kept.reply.reselected(kept.select(asked))? };
        Some((reply, kept.task.clone()))
    }

    /// Keeps an answer for `keep`, if it is of a kind that is kept; a part of a content for all of it.
    pub(super) fn keep(
        &mut self,
        now: Instant,
        question: Question,
        reply: &Reply,
        task: Option<&Arc<SharedTask>>,
        keep: Duration,
    ) {
        let (is_inline, inline_bytes) = match reply.body() {
            ReplyBody::Inline(bytes) => (true, bytes.len()),
            ReplyBody::Content { .. } => (false, 0),
        };
        let reply = if is_inline { Some(reply.clone()) } else { reply.reselected(Selection::Whole) };
        let Some(reply) = reply.filter(|reply| reply.status() == 200) else { return };
        if is_inline != task.is_none() || inline_bytes as u64 > INLINE_BYTES_MAX {
            return;
        }
        self.remove(&question);
        let bytes = ENTRY_BYTES + question.0.len() + inline_bytes;
        self.clock += 1;
        let until = now + keep.min(KEEP_MAX);
        let kept = Kept { reply, task: task.cloned(), until, used: self.clock, bytes };
        self.bytes += bytes;
        self.answers.insert(question, kept);
        while self.answers.len() > ANSWERS_MAX || self.bytes > BYTES_MAX {
            let oldest = self.answers.iter().min_by_key(|(_, kept)| kept.used).map(|(question, _)| question.clone());
            oldest.inspect(|question| self.remove(question));
        }
    }

    /// The task is no longer served here: its files must not be held open.
    pub(super) fn forget(&mut self, task: TaskId) {
        self.retain(|kept| kept.task.as_ref().is_none_or(|kept| kept.id() != task));
    }

    /// Lets go of what does not count any more.
    pub(super) fn trim(&mut self, now: Instant) {
        self.retain(|kept| kept.until > now);
    }

    fn retain(&mut self, mut is_kept: impl FnMut(&Kept) -> bool) {
        self.answers.retain(|_, kept| is_kept(kept));
        self.bytes = self.answers.values().map(|kept| kept.bytes).sum();
    }

    fn remove(&mut self, question: &Question) {
        if let Some(kept) = self.answers.remove(question) {
            self.bytes -= kept.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Request {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let head = RequestHead { method: method.to_owned(), target: target.to_owned(), host: "h".to_owned(), headers };
        Request { head, version_minor: 1, framing: BodyFraming::Empty, expects_continue: false, is_kept_alive: true }
    }

    fn question(target: &str, headers: &[(&str, &str)]) -> Question {
        Question::of(&request("GET", target, headers)).unwrap()
    }

    fn find(kept: &mut KeptAnswers, now: Instant, request: &Request) -> Option<Reply> {
        kept.find(now, &Question::of(request).unwrap(), &request.head).map(|(reply, _)| reply)
    }

    fn inline(bytes: usize) -> Reply {
        Reply::new(200, Vec::new(), ReplyBody::Inline(vec![b'x'; bytes])).unwrap()
    }

    #[test]
    fn only_the_very_same_question_has_the_answer() {
        let (mut kept, now, minute) = (KeptAnswers::default(), Instant::ZERO, Duration::from_mins(1));
        let asked = [("authorization", "Bearer a"), ("accept", "one"), ("accept", "two")];
        kept.keep(now, question("/v2/x", &asked), &inline(3), None, minute);
        for other in [
            request("GET", "/v2/y", &asked),
            request("GET", "/v2/x", &asked[1..]),
            request("GET", "/v2/x", &[("authorization", "Bearer b"), asked[1], asked[2]]),
            request("GET", "/v2/x", &[asked[0], ("accept", "one, two")]),
            request("GET", "/v2/x", &[asked[0], asked[2], asked[1]]),
        ] {
            assert!(find(&mut kept, now, &other).is_none(), "{other:?}");
        }
        // HEAD has the same answer, without its body; a field that nothing depends on makes no difference.
        let same = request("HEAD", "/v2/x", &[asked[0], asked[1], asked[2], ("user-agent", "me")]);
        assert!(find(&mut kept, now, &same).is_some());
        assert!(find(&mut kept, now + minute, &same).is_none(), "its time is over");
        for fields in [[("range", "bytes=0-1"), asked[0]], [("if-none-match", "*"), asked[0]]] {
            let fields = [&fields[..], &asked[1..]].concat();
            kept.keep(now, question("/v2/x", &asked), &inline(3), None, minute);
            assert!(find(&mut kept, now, &request("GET", "/v2/x", &fields)).is_none(), "control's: {fields:?}");
        }
        assert_eq!(Question::of(&request("PUT", "/v2/x", &[])), None);
    }

    #[test]
    fn little_is_kept_and_what_was_used_last_stays() {
        let (mut kept, now, minute) = (KeptAnswers::default(), Instant::ZERO, Duration::from_mins(1));
        let number = |index: usize| request("GET", &format!("/{index}"), &[]);
        let question = |index| Question::of(&number(index)).unwrap();
        kept.keep(now, question(0), &inline(64 << 10), None, minute);
        for index in 1..2 * ANSWERS_MAX {
            kept.keep(now, question(index), &inline(64 << 10), None, minute);
            assert!(find(&mut kept, now, &number(0)).is_some());
            assert!(kept.bytes <= BYTES_MAX && kept.answers.len() <= ANSWERS_MAX);
        }
        assert!(find(&mut kept, now, &number(1)).is_none());
        kept.keep(now, question(1), &inline((64 << 10) + 1), None, minute);
        assert!(find(&mut kept, now, &number(1)).is_none(), "too long");
        kept.trim(now + minute);
        assert_eq!((kept.bytes, kept.answers.len()), (0, 0));
    }
}
