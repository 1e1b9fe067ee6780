//! One `get` of a command line: opened, progress, done.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hawker_api::local;
use hawker_api::local::event::Event;
use hawker_proto::hash::Root;
use hawker_proto::{ByteRange, PieceIndex, PieceMap, TaskId};
use hawker_storage::Pin;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::proof::Proof;
use super::wire::{closed, send};
use super::{LocalApi, event, fail, stopping};
use crate::control::caller::{Asked, CallerEvent, Failure, GetRequest, Opened, code};
use crate::control::director::Ask;

/// How often a command hears how far it is, when nothing else is to say.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// News of pieces are gathered for so long: a command copies megabytes at a time anyway.
const GATHER: Duration = Duration::from_millis(10);
/// Ranges in one progress; the rest follows with the next.
const RANGES_MAX: usize = 2048;
/// A disk that rots as often as it is written to is given up.
const MENDS_MAX: u32 = 3;
/// For a command that gave no limit: longer than any download.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Serves a get to its end. A caller that closes early cancels.
pub(super) async fn serve(api: &LocalApi, stream: &mut UnixStream, get: local::Get) -> io::Result<()> {
    let timeout = if get.timeout_ms == 0 { FOREVER } else { Duration::from_millis(get.timeout_ms).min(FOREVER) };
    let wants_link = get.link;
    let request = match GetRequest::parse(get) {
        Ok(request) => request,
        Err(failure) => return fail(stream, &failure).await,
    };
    let began = Instant::now();
    let Some(mut asked) = ask(api, &request).await else {
        return fail(stream, &stopping()).await;
    };
    let mut session = Session { began, wants_link, reading: None, whole: None, lost: Vec::new(), mends: 0 };
    let deadline = began + timeout;
    let mut beat = tokio::time::interval(PROGRESS_EVERY);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // What the director says comes first, so that an end is never behind a flood of news.
            biased;
            event = asked.events.recv(), if session.whole.is_none() => {
                let Some(event) = event else { return fail(stream, &stopping()).await };
                if session.on_event(stream, event).await? {
                    return Ok(());
                }
            }
            () = closed(stream) => return Ok(()),
            () = tokio::time::sleep_until(deadline) => return fail(stream, &timed_out(timeout)).await,
            () = session.changed() => drop(session.progress(stream).await?),
            _ = beat.tick() => drop(session.progress(stream).await?),
        }
        for (task, piece) in session.lost.drain(..) {
            // A director that is gone is met when it is asked next.
            drop(api.asks().send(Ask::Lost { task, piece }).await);
        }
        match session.settle(stream).await? {
            Settled::Waits => {}
            Settled::Ended => return Ok(()),
            Settled::Rotten if session.mends == MENDS_MAX => return fail(stream, &rotten()).await,
            Settled::Rotten => {
                session.mends += 1;
                session.reading = None;
                match ask(api, &request).await {
                    Some(again) => asked = again,
                    None => return fail(stream, &stopping()).await,
                }
            }
        }
    }
}

/// Asks the director for the content.
async fn ask(api: &LocalApi, request: &GetRequest) -> Option<Asked> {
    Asked::begin(api.asks(), api.next_caller(), request.clone()).await
}

struct Session {
    began: Instant,
    wants_link: bool,
    reading: Option<Reading>,
    /// All of it is here; whether the disk gives it back is another question.
    whole: Option<Root>,
    /// Pieces that the disk did not give back, until the director heard of them.
    lost: Vec<(TaskId, PieceIndex)>,
    /// How often the content was asked for anew because of them.
    mends: u32,
}

/// How far a get is.
enum Settled {
    Waits,
    Ended,
    /// A part of the whole was lost to rot.
    Rotten,
}

/// A task whose bytes the caller reads.
struct Reading {
    opened: Opened,
    /// Pieces that the caller was told of.
    told: PieceMap,
    rate: Rate,
    proof: Proof,
    _pin: Pin,
}

/// Bytes per second, smoothed over about a second.
struct Rate {
    bytes: u64,
    at: Instant,
    bytes_per_s: f64,
}

impl Session {
    /// True when the get is over.
    async fn on_event(&mut self, stream: &mut UnixStream, happened: CallerEvent) -> io::Result<bool> {
        match happened {
            CallerEvent::Opened(opened) => {
                self.open(stream, opened).await?;
                Ok(false)
            }
            CallerEvent::Spooled { bytes } => {
                let progress = local::Progress { bytes_done: bytes, origin_bytes: bytes, ..Default::default() };
                send(stream, &event(Event::Progress(progress)), None).await?;
                Ok(false)
            }
            CallerEvent::Done { root } => {
                self.whole = Some(root);
                Ok(false)
            }
            CallerEvent::Failed(failure) => {
                fail(stream, &failure).await?;
                Ok(true)
            }
        }
    }

    /// Ends the get when all is here and compared.
    async fn settle(&mut self, stream: &mut UnixStream) -> io::Result<Settled> {
        let Some(root) = self.whole else { return Ok(Settled::Waits) };
        if let Some(reading) = &self.reading {
            if !reading.proof.is_over() {
                return Ok(Settled::Waits);
            }
            if reading.proof.has_lost() {
                self.whole = None;
                return Ok(Settled::Rotten);
            }
        }
        while self.progress(stream).await? {}
        let done = self.done(root);
        send(stream, &event(Event::Done(done)), None).await?;
        Ok(Settled::Ended)
    }

    async fn open(&mut self, stream: &mut UnixStream, opened: Opened) -> io::Result<()> {
        let (task, file) = (&opened.task, opened.task.file());
        let geometry = task.geometry();
        let message = local::Opened {
            task: task.id().to_string(),
            length: geometry.length(),
            piece_bytes: geometry.piece_bytes(),
            is_length_known: true,
        };
        // Reopened, because a descriptor that is passed on keeps the right to write that it was opened with.
        let readable = OwnedFd::from(File::open(format!("/proc/self/fd/{}", file.content().as_raw_fd()))?);
        send(stream, &event(Event::Opened(message)), Some(&readable)).await?;
        self.reading = Some(Reading {
            told: PieceMap::empty(geometry.piece_count()),
            rate: Rate { bytes: opened.cached, at: Instant::now(), bytes_per_s: 0.0 },
            proof: Proof::begin(file),
            _pin: file.pin(),
            opened,
        });
        self.progress(stream).await?;
        Ok(())
    }

    /// Resolves a moment after pieces arrived or were compared.
    async fn changed(&mut self) {
        let Some(Reading { opened, proof, .. }) = &mut self.reading else { return std::future::pending().await };
        tokio::select! {
            // Not when the task is closed: its end is on its way.
            Ok(()) = opened.changed.changed() => {}
            bad = proof.next() => self.lost.extend(bad.map(|piece| (opened.task.id(), piece))),
        }
        if self.whole.is_none() {
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Says how far it is. True when there is more to say.
    async fn progress(&mut self, stream: &mut UnixStream) -> io::Result<bool> {
        let Some(reading) = &mut self.reading else { return Ok(false) };
        let (message, more) = reading.progress();
        send(stream, &event(Event::Progress(message)), None).await?;
        Ok(more)
    }

    fn done(&self, root: Root) -> local::Done {
        let elapsed_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let digest = format!("blake3:{root}");
        let Some(reading) = &self.reading else { return local::Done { digest, elapsed_ms, ..Default::default() } };
        let (origin_bytes, peer_bytes) = reading.by_source();
        let sealed_path = if self.wants_link { reading.path() } else { None };
        local::Done {
            task: reading.opened.task.id().to_string(),
            length: reading.opened.task.geometry().length(),
            digest,
            origin_bytes,
            peer_bytes,
            cache_bytes: reading.opened.cached,
            elapsed_ms,
            sealed_path: sealed_path.map(|path| path.display().to_string()).unwrap_or_default(),
        }
    }
}

impl Reading {
    fn progress(&mut self) -> (local::Progress, bool) {
        let task = &self.opened.task;
        let geometry = task.geometry();
        let received = self.proof.readable(task.file().received());
        let first_missing = received.first_missing(PieceIndex(0));
        let frontier = first_missing.map_or(geometry.length(), |piece| geometry.piece_range(piece).start());
        let mut ready: Vec<ByteRange> = Vec::new();
        let mut news = Vec::new();
        let mut more = false;
        for piece in received.difference(&self.told) {
            let range = geometry.piece_range(piece);
            let follows = ready.last().is_some_and(|last| last.end() == range.start());
            if range.end() > frontier && !follows && ready.len() == RANGES_MAX {
                more = true;
                break;
            }
            if range.end() > frontier {
                let start = if follows { ready.pop().map_or(range.start(), ByteRange::start) } else { range.start() };
                ready.extend(ByteRange::new(start, range.end()));
            }
            news.push(piece);
        }
        for piece in news {
            self.told.insert(piece);
        }
        let bytes_done = task.file().bytes_received();
        let (origin_bytes, peer_bytes) = self.by_source();
        let message = local::Progress {
            bytes_done,
            bytes_total: geometry.length(),
            origin_bytes,
            peer_bytes,
            cache_bytes: self.opened.cached,
            bytes_per_s: self.rate.update(bytes_done),
            neighbors: self.opened.neighbors.load(Ordering::Relaxed),
            frontier,
            ready: ready.iter().map(|range| local::Range { start: range.start(), end: range.end() }).collect(),
        };
        (message, more)
    }

    /// Bytes from origin and from peers since the caller came.
    fn by_source(&self) -> (u64, u64) {
        let (origin, peer) = self.opened.task.bytes_by_source();
        (origin.saturating_sub(self.opened.sources.0), peer.saturating_sub(self.opened.sources.1))
    }

    /// Where the content lies, for a hard link.
    fn path(&self) -> Option<PathBuf> {
        let fd = self.opened.task.file().content().as_raw_fd();
        std::fs::read_link(format!("/proc/self/fd/{fd}")).ok().filter(|path| path.exists())
    }
}

impl Rate {
    fn update(&mut self, bytes: u64) -> u64 {
        let elapsed = self.at.elapsed().as_secs_f64();
        // Two figures a millisecond apart say nothing.
        if elapsed >= 0.05 {
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let sample = bytes.saturating_sub(self.bytes) as f64 / elapsed;
            let weight = elapsed.min(1.0);
            self.bytes_per_s = self.bytes_per_s * (1.0 - weight) + sample * weight;
            (self.bytes, self.at) = (bytes, Instant::now());
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people, not negative")]
        let whole = self.bytes_per_s as u64;
        whole
    }
}

fn rotten() -> Failure {
    Failure::other(
        "the disk gives back other bytes than were written, again and again",
        "check the disk of the data directory",
    )
}

fn timed_out(timeout: Duration) -> Failure {
    let message = format!("not done within {} s", timeout.as_secs_f64());
    let hint = "run the command again: it goes on where it stopped; or give it more time with --timeout";
    Failure::new(code::TIMEOUT, message, hint)
}
