//! One download through an agent: follow its events, bring bytes from its descriptor to FILE as they become readable,
//! check them, and give FILE its name at the end.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use hawker_api::local::{Done, Event, Get, Header, Opened, Progress, Request, event, request};
use hawker_proto::resolve::Digest;
use hawker_proto::url::shown;
use sha2::Digest as _;

use super::connection::{Connection, Heard};
use super::door::Door;
use super::failure_of;
use super::part::{Part, STEP_BYTES};
use super::ranges::RangeSet;
use crate::exit::{Exit, Failure};
use crate::stop::Stop;

/// An agent that is restarted is back within this: draining takes up to 10 s, opening its store well under one.
const RECONNECT_WITHIN: Duration = Duration::from_secs(20);

const RECONNECT_EVERY: Duration = Duration::from_millis(200);

/// How long an agent's silence lasts before signals and the deadline are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) digest: Option<Digest>,
    pub(crate) tag: String,
    pub(crate) application: String,
    pub(crate) limit_bytes_per_s: u64,
    pub(crate) timeout: Option<Duration>,
}

/// How the bytes get to FILE.
#[derive(Clone, Debug)]
pub(crate) enum Placing {
    /// A copy, made while the content arrives.
    Copy { target: PathBuf, overwrite: bool },
    /// A hard link to the agent's own copy; a copy where that cannot be.
    Link { target: PathBuf, overwrite: bool },
    /// Not at all: the caller takes the agent's own copy, [`Outcome::sealed`].
    Leave,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) task: String,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) origin_bytes: u64,
    pub(crate) peer_bytes: u64,
    pub(crate) cache_bytes: u64,
    /// The digest that was asked for, else the content's BLAKE3.
    pub(crate) digest: String,
    /// With [`Placing::Leave`]: the agent's own copy.
    pub(crate) sealed: Option<PathBuf>,
}

/// Who is told how it goes.
pub(crate) trait Watch {
    fn progress(&mut self, progress: &Progress);
    /// Something that a user should know, though it is no failure.
    fn note(&mut self, text: &str);
}

/// Downloads through the agent behind `door`.
pub(crate) fn get(
    door: &Door<'_>,
    order: &Order,
    placing: &Placing,
    watch: &mut dyn Watch,
    stop: &Stop,
) -> Result<Outcome, Failure> {
    let stop = order.timeout.map_or_else(|| stop.clone(), |limit| stop.within(limit));
    let start = Instant::now();
    let mut connection = door.open()?;
    let mut transfer = Transfer::new(order, placing)?;
    loop {
        let why = match follow(&mut connection, &mut transfer, watch, &stop)? {
            Followed::Done(done) => return transfer.finish(&done, start, &stop),
            Followed::Lost(why) => why,
        };
        watch.note(&format!("lost the agent ({why}); trying again for {} s", RECONNECT_WITHIN.as_secs()));
        connection = reconnect(door, &why, &stop)?;
        watch.note("the agent is back");
    }
}

enum Followed {
    Done(Done),
    Lost(String),
}

fn follow(
    connection: &mut Connection,
    transfer: &mut Transfer<'_>,
    watch: &mut dyn Watch,
    stop: &Stop,
) -> Result<Followed, Failure> {
    if let Err(error) = connection.send(&transfer.request()) {
        return Ok(Followed::Lost(error.to_string()));
    }
    loop {
        stop.check()?;
        let wait = if transfer.has_work() { Duration::ZERO } else { LOOK_EVERY };
        match connection.hear(wait) {
            Ok(Heard::Event(Event { event: Some(event) }, descriptor)) => match event {
                event::Event::Opened(opened) => transfer.open(&opened, descriptor.map(File::from))?,
                event::Event::Progress(progress) => {
                    transfer.note_readable(&progress);
                    watch.progress(&progress);
                }
                event::Event::Done(done) => return Ok(Followed::Done(done)),
                event::Event::Error(error) => return Err(failure_of(&error)),
                // Answers to other requests, which this connection never made.
                event::Event::Status(_)
                | event::Event::Tasks(_)
                | event::Event::Task(_)
                | event::Event::Removed(_)
                | event::Event::Tags(_)
                | event::Event::TagsInvalidated(_) => {}
            },
            // None: an event of a newer agent.
            Ok(Heard::Event(Event { event: None }, _) | Heard::Silence) => {}
            Ok(Heard::Closed) => return Ok(Followed::Lost("it closed the connection".to_owned())),
            Err(error) => return Ok(Followed::Lost(error.to_string())),
        }
        transfer.work()?;
    }
}

fn reconnect(door: &Door<'_>, why: &str, stop: &Stop) -> Result<Connection, Failure> {
    let deadline = Instant::now() + RECONNECT_WITHIN;
    loop {
        stop.check()?;
        match door.try_open() {
            Ok(connection) => return Ok(connection),
            Err(_) if Instant::now() < deadline => thread::sleep(RECONNECT_EVERY),
            Err(_) => return Err(door.lost(why)),
        }
    }
}

/// What has been brought over. It outlives connections: the content of a task never changes.
struct Transfer<'a> {
    order: &'a Order,
    placing: &'a Placing,
    task: String,
    content: Option<File>,
    part: Option<Part>,
    shares_blocks: bool,
    readable: RangeSet,
    /// What became readable, in that order, and may have been copied in part: what has just come is still in memory.
    news: VecDeque<Range<u64>>,
    copied: RangeSet,
    hash: Option<Hash>,
}

impl<'a> Transfer<'a> {
    fn new(order: &'a Order, placing: &'a Placing) -> Result<Self, Failure> {
        let part = match placing {
            Placing::Copy { target, .. } | Placing::Link { target, .. } => Some(Part::create(target)?),
            Placing::Leave => None,
        };
        Ok(Self {
            order,
            placing,
            task: String::new(),
            content: None,
            part,
            shares_blocks: false,
            readable: RangeSet::default(),
            news: VecDeque::new(),
            copied: RangeSet::default(),
            hash: order.digest.map(Hash::new),
        })
    }

    fn request(&self) -> Request {
        let order = self.order;
        let headers = order.headers.iter().cloned().map(|(name, value)| Header { name, value }).collect();
        let get = Get {
            url: order.url.clone(),
            headers,
            digest: order.digest.map(|digest| digest.to_string()).unwrap_or_default(),
            tag: order.tag.clone(),
            application: order.application.clone(),
            limit_bytes_per_s: order.limit_bytes_per_s,
            timeout_ms: order.timeout.map_or(0, |limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
            link: !matches!(self.placing, Placing::Copy { .. }),
        };
        Request { request: Some(request::Request::Get(get)) }
    }

    fn open(&mut self, opened: &Opened, content: Option<File>) -> Result<(), Failure> {
        if opened.task != self.task {
            // Another version of the URL: nothing of the old one may stay.
            if let Some(part) = &mut self.part {
                part.clear().map_err(|error| Failure::io("cannot empty the unfinished file", &error))?;
            }
            self.copied = RangeSet::default();
            self.hash = self.order.digest.map(Hash::new);
            self.task.clone_from(&opened.task);
        }
        // What is readable is said anew on every connection.
        self.readable = RangeSet::default();
        self.news.clear();
        let Some(content) = content else {
            return Err(Failure::other("the agent did not pass the content's descriptor")
                .hint("is the agent of the same version? see `hawker status`"));
        };
        self.shares_blocks = self.part.as_mut().is_some_and(|part| part.share_blocks(&content));
        self.content = Some(content);
        Ok(())
    }

    fn note_readable(&mut self, progress: &Progress) {
        self.mark_readable(0..progress.frontier);
        for range in &progress.ready {
            self.mark_readable(range.start..range.end);
        }
    }

    fn mark_readable(&mut self, range: Range<u64>) {
        let mut from = range.start;
        while let Some(gap) = self.readable.first_gap(from..range.end) {
            from = gap.end;
            self.news.push_back(gap);
        }
        self.readable.insert(range);
    }

    /// Whether bytes are copied while they arrive, rather than shared or linked when they are whole.
    fn copies(&self) -> bool {
        matches!(self.placing, Placing::Copy { .. }) && !self.shares_blocks
    }

    fn has_work(&self) -> bool {
        self.content.is_some() && (self.copies() && self.next_copy().is_some() || self.next_hash().is_some())
    }

    /// The next bytes that can be copied and have not been.
    fn next_copy(&self) -> Option<Range<u64>> {
        let gap = self.news.iter().find_map(|range| self.copied.first_gap(range.clone()))?;
        Some(gap.start..gap.end.min(gap.start + STEP_BYTES))
    }

    /// The next bytes to hash, in order: of FILE's own copy when there is one, else of the content.
    fn next_hash(&self) -> Option<Range<u64>> {
        let start = self.hash.as_ref()?.position;
        let end = if self.copies() { self.copied.prefix() } else { self.readable.prefix() };
        (start < end).then(|| start..end.min(start + STEP_BYTES))
    }

    /// One step of copying and one of hashing.
    fn work(&mut self) -> Result<(), Failure> {
        let Some(content) = &self.content else { return Ok(()) };
        if self.copies()
            && let Some(range) = self.next_copy()
            && let Some(part) = &mut self.part
        {
            part.copy(content, range.clone())
                .map_err(|error| Failure::io("cannot copy to the unfinished file", &error))?;
            self.copied.insert(range);
            let is_copied = |range: &mut Range<u64>| self.copied.first_gap(range.clone()).is_none();
            while self.news.pop_front_if(is_copied).is_some() {}
        }
        if let Some(range) = self.next_hash()
            && let Some(hash) = &mut self.hash
        {
            let from = if self.shares_blocks || !matches!(self.placing, Placing::Copy { .. }) {
                Source::Content(content)
            } else {
                self.part.as_ref().map_or(Source::Content(content), Source::Part)
            };
            hash.take(&from, range).map_err(|error| Failure::io("cannot read back what was downloaded", &error))?;
        }
        Ok(())
    }

    fn finish(mut self, done: &Done, start: Instant, stop: &Stop) -> Result<Outcome, Failure> {
        if self.content.is_none() && done.length > 0 {
            return Err(Failure::other("the agent says done, but never opened the content"));
        }
        self.mark_readable(0..done.length);
        while self.has_work() {
            stop.check()?;
            self.work()?;
        }
        let digest = match (self.hash.take(), self.order.digest) {
            (Some(hash), Some(wanted)) => hash.check(wanted, &self.order.url)?,
            _ => done.digest.clone(),
        };
        let sealed = (!done.sealed_path.is_empty()).then(|| PathBuf::from(&done.sealed_path));
        let (placing, part, content) = (self.placing, self.part.take(), self.content.take());
        match (placing, part, content) {
            (Placing::Leave, ..) => {}
            (Placing::Copy { target, overwrite }, Some(mut part), content) => {
                if self.shares_blocks && !content.is_some_and(|content| part.share_blocks(&content)) {
                    return Err(Failure::other("the file system stopped sharing blocks").hint("run the command again"));
                }
                part.finish(target, Some(done.length), *overwrite)?;
            }
            (Placing::Link { target, overwrite }, Some(mut part), content) => {
                let is_linked = sealed.as_ref().is_some_and(|sealed| part.replace_by_link(sealed).is_ok());
                if !is_linked && let Some(content) = content {
                    copy_whole(&mut part, &content, done.length, stop)?;
                }
                part.finish(target, (!is_linked).then_some(done.length), *overwrite)?;
            }
            (_, None, _) => unreachable!("only Leave has no part"),
        }
        Ok(Outcome {
            task: if done.task.is_empty() { self.task } else { done.task.clone() },
            bytes: done.length,
            seconds: start.elapsed().as_secs_f64(),
            origin_bytes: done.origin_bytes,
            peer_bytes: done.peer_bytes,
            cache_bytes: done.cache_bytes,
            digest,
            sealed,
        })
    }
}

fn copy_whole(part: &mut Part, content: &File, length: u64, stop: &Stop) -> Result<(), Failure> {
    let mut start = 0;
    while start < length {
        stop.check()?;
        let end = length.min(start + STEP_BYTES);
        part.copy(content, start..end).map_err(|error| Failure::io("cannot copy to the unfinished file", &error))?;
        start = end;
    }
    Ok(())
}

enum Source<'a> {
    Part(&'a Part),
    Content(&'a File),
}

/// The digest of everything below `position`.
struct Hash {
    position: u64,
    state: HashState,
    chunk: Vec<u8>,
}

enum HashState {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
    Blake3(Box<blake3::Hasher>),
}

impl Hash {
    fn new(digest: Digest) -> Self {
        let state = match digest {
            Digest::Sha256(_) => HashState::Sha256(sha2::Sha256::new()),
            Digest::Sha512(_) => HashState::Sha512(Box::new(sha2::Sha512::new())),
            Digest::Blake3(_) => HashState::Blake3(Box::default()),
        };
        Self { position: 0, state, chunk: Vec::new() }
    }

    fn take(&mut self, from: &Source<'_>, range: Range<u64>) -> io::Result<()> {
        const CHUNK_BYTES: u64 = 1 << 20;
        assert_eq!(range.start, self.position, "a digest is taken in order");
        while self.position < range.end {
            let count = usize::try_from(CHUNK_BYTES.min(range.end - self.position)).unwrap_or(usize::MAX);
            self.chunk.resize(count, 0);
            match from {
                Source::Part(part) => part.read_at(&mut self.chunk, self.position)?,
                Source::Content(content) => content.read_exact_at(&mut self.chunk, self.position)?,
            }
            match &mut self.state {
                HashState::Sha256(state) => state.update(&self.chunk),
                HashState::Sha512(state) => state.update(&self.chunk),
                HashState::Blake3(state) => {
                    state.update(&self.chunk);
                }
            }
            self.position += count as u64;
        }
        Ok(())
    }

    fn check(self, wanted: Digest, url: &str) -> Result<String, Failure> {
        let found = match self.state {
            HashState::Sha256(state) => Digest::Sha256(state.finalize().into()),
            HashState::Sha512(state) => Digest::Sha512(state.finalize().into()),
            HashState::Blake3(state) => Digest::Blake3(state.finalize().into()),
        };
        if found == wanted {
            return Ok(found.to_string());
        }
        Err(Failure::new(
            Exit::DigestMismatch,
            format!("{} is not what --digest promised: it has {found}, not {wanted}", shown(url)),
        )
        .hint("nothing was kept; check where the digest comes from, and whether the origin's file changed"))
    }
}
