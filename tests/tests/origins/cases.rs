//! The table: what a case is, and what is common to all.

use std::sync::Arc;
use std::time::Duration;

use hawker_tests::files;
use hawker_tests::scripted::{Act, Request, Script, Scripted, honest, whole};
use hawker_tests::tls::Identity;

use crate::{refusals, transport, versions};

/// The version that an origin serves unless a case says otherwise.
pub(crate) const V1: &str = "ETag: \"v1\"\r\n";
pub(crate) const PIECE: usize = 256 * 1024;

/// What must come out of a get.
pub(crate) enum Expect {
    /// These bytes.
    Content(Arc<[u8]>),
    /// No file, this exit code, these words for the user.
    Refused { code: i32, words: &'static str },
}

/// What must hold of the requests that an origin saw.
pub(crate) type Look = fn(&[Request]) -> Result<(), String>;

/// One origin and one get.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) origin: Scripted,
    /// Further arguments of the get.
    pub(crate) more: Vec<&'static str>,
    pub(crate) expect: Expect,
    /// What else must hold of the requests that the origin saw.
    pub(crate) look: Option<Look>,
    /// What the origin serves afterwards, with which head fields, and the second get must bring.
    pub(crate) healed: Option<(Arc<[u8]>, String)>,
    /// The content is whole and right for Hawker; only this caller wants another.
    pub(crate) keeps_whole: bool,
    /// Waits for a limit that is long: in full runs only.
    pub(crate) is_long: bool,
}

impl Case {
    /// The content `content` is expected, and served by an honest origin afterwards.
    pub(crate) fn new(
        name: &'static str,
        content: &Arc<[u8]>,
        script: impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static,
    ) -> Self {
        Self::with_origin(name, content, Scripted::start(Arc::new(script), None))
    }

    pub(crate) fn with_origin(name: &'static str, content: &Arc<[u8]>, origin: Scripted) -> Self {
        Self {
            name,
            origin,
            more: Vec::new(),
            expect: Expect::Content(Arc::clone(content)),
            look: None,
            healed: Some((Arc::clone(content), V1.to_owned())),
            keeps_whole: false,
            is_long: false,
        }
    }

    /// The get must fail.
    pub(crate) fn refused(mut self, code: i32, words: &'static str) -> Self {
        self.expect = Expect::Refused { code, words };
        self
    }

    pub(crate) fn more(mut self, more: &[&'static str]) -> Self {
        self.more = more.to_vec();
        self
    }

    pub(crate) fn look(mut self, look: Look) -> Self {
        self.look = Some(look);
        self
    }

    /// Another version is served afterwards.
    pub(crate) fn healed(mut self, content: &Arc<[u8]>, fields: &str) -> Self {
        self.healed = Some((Arc::clone(content), fields.to_owned()));
        self
    }

    /// The same get is not tried again.
    pub(crate) fn for_good(mut self) -> Self {
        self.healed = None;
        self
    }

    /// What is whole may stay: only the caller wants something else.
    pub(crate) fn kept(mut self) -> Self {
        self.keeps_whole = true;
        self
    }

    pub(crate) fn long(mut self) -> Self {
        self.is_long = true;
        self
    }
}

/// Contents and certificates that cases share.
pub(crate) struct Ground {
    /// Some pieces, and one byte.
    pub(crate) small: Arc<[u8]>,
    /// More than a resolve brings: the rest is fetched in ranges, by shards where they can.
    pub(crate) large: Arc<[u8]>,
    /// As long as `large`, with other bytes.
    pub(crate) other: Arc<[u8]>,
    pub(crate) good: Identity,
    pub(crate) expired: Identity,
    pub(crate) misnamed: Identity,
    pub(crate) unknown: Identity,
}

impl Ground {
    pub(crate) fn new() -> Self {
        Self {
            small: files::random_bytes(8 * PIECE + 1, 41).into(),
            large: files::random_bytes((18 << 20) + 1, 42).into(),
            other: files::random_bytes((18 << 20) + 1, 43).into(),
            good: Identity::new("localhost", false),
            expired: Identity::new("localhost", true),
            misnamed: Identity::new("elsewhere.test", false),
            unknown: Identity::new("localhost", false),
        }
    }

    pub(crate) fn trusted(&self) -> [&Identity; 3] {
        [&self.good, &self.expired, &self.misnamed]
    }
}

/// Every case.
pub(crate) fn all(ground: &Ground) -> Vec<Case> {
    let mut cases = lengths();
    cases.extend(refusals::cases(ground));
    cases.extend(transport::cases(ground));
    cases.extend(transport::secure_cases(ground));
    cases.extend(versions::cases(ground));
    // Those that wait longest begin first.
    cases.sort_by_key(|case| !case.name.starts_with("for-ever"));
    cases
}

/// Contents around the edges of pieces and blocks.
fn lengths() -> Vec<Case> {
    let of = |name, length: usize| {
        let content: Arc<[u8]> = files::random_bytes(length, 7).into();
        let served = Arc::clone(&content);
        Case::new(name, &content, move |request| honest(request, &served, V1))
    };
    let empty: Arc<[u8]> = Vec::new().into();
    let served = Arc::clone(&empty);
    vec![
        of("no-bytes-by-416", 0),
        Case::new("no-bytes-by-200", &empty, move |_| whole(&served, V1)),
        Case::new("no-bytes-chunked", &empty, |_| {
            vec![Act::Text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned())]
        }),
        of("one-byte", 1),
        of("pieces-but-one-byte", 4 * PIECE - 1),
        of("whole-pieces", 4 * PIECE),
        of("pieces-and-one-byte", 4 * PIECE + 1),
        of("resolve-exactly", 16 << 20),
    ]
}

/// Honest for the first bytes, which a resolve brings; `later` answers for the rest.
pub(crate) fn later(
    content: &Arc<[u8]>,
    fields: &'static str,
    later: impl Fn(&Request) -> Option<Vec<Act>> + Send + Sync + 'static,
) -> impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static {
    let content = Arc::clone(content);
    move |request| {
        let answer = if request.is_later() { later(request) } else { None };
        answer.unwrap_or_else(|| honest(request, &content, fields))
    }
}

/// `answer` to the first request, honesty afterwards.
pub(crate) fn once(
    content: &Arc<[u8]>,
    answer: impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static,
) -> impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static {
    let content = Arc::clone(content);
    move |request| if request.number == 0 { answer(request) } else { honest(request, &content, V1) }
}

/// The same, for the first request behind the resolve's bytes.
pub(crate) fn once_later(
    content: &Arc<[u8]>,
    answer: impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static,
) -> impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static {
    let is_done = std::sync::atomic::AtomicBool::new(false);
    later(content, V1, move |request| {
        let was_done = is_done.swap(true, std::sync::atomic::Ordering::Relaxed);
        (!was_done).then(|| answer(request))
    })
}

/// A script that a test may keep.
pub(crate) fn script(script: impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static) -> Script {
    Arc::new(script)
}

pub(crate) const fn seconds(count: u64) -> Act {
    Act::Wait(Duration::from_secs(count))
}
