//! Control bytes that wait on all links of a shard, for peers that do not read them.

/// On all links of a host. One may hold [`super::wire::OUTBOX_BYTES_MAX`], but not a thousand of them.
const HOST_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a link may hold in any case: a frame of announcements.
const SHARE_BYTES_MIN: usize = 32 * 1024;

/// The sum of what waits on a shard's links. When it is too much, whoever holds more than its share is closed.
#[derive(Debug)]
pub(super) struct Unsent {
    bytes: usize,
    bytes_max: usize,
}

/// A link's part in the sum.
#[derive(Debug, Default)]
pub(super) struct Counted(usize);

impl Unsent {
    pub(super) fn new(shards: usize) -> Self {
        Self { bytes: 0, bytes_max: HOST_BYTES_MAX / shards.max(1) }
    }

    /// What each of `links` may hold when all of them are short of memory.
    pub(super) fn share(&self, links: usize) -> usize {
        (self.bytes_max / links.max(1)).max(SHARE_BYTES_MIN)
    }

    /// Notes that one of `links` holds `bytes` now. False: too much for all of them together.
    pub(super) fn note(&mut self, counted: &mut Counted, bytes: usize, links: usize) -> bool {
        self.bytes = self.bytes - counted.0 + bytes;
        counted.0 = bytes;
        self.bytes <= self.bytes_max || bytes <= self.share(links)
    }

    /// The link is closed.
    pub(super) fn forget(&mut self, mut counted: Counted) {
        self.bytes -= std::mem::take(&mut counted.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a turn may add to a link that reads nothing.
    const STEP: usize = 8 * 1024;

    #[test]
    fn links_that_read_nothing_hold_little_together_and_the_modest_stay() {
        let (shards, links) = (2, 1_000);
        let mut unsent = Unsent::new(shards);
        let mut deaf: Vec<Option<(Counted, usize)>> = (0..links).map(|_| Some((Counted::default(), 0))).collect();
        let (mut modest, mut peak) = (Counted::default(), 0);
        for _turn in 0..4 * 1024 * 1024 / STEP {
            for link in &mut deaf {
                let Some((counted, bytes)) = link else { continue };
                *bytes += STEP;
                if !unsent.note(counted, *bytes, links + 1) {
                    let (counted, _) = link.take().expect("just seen");
                    unsent.forget(counted);
                }
            }
            assert!(unsent.note(&mut modest, SHARE_BYTES_MIN, links + 1), "who holds no more than its share stays");
            let held: usize = deaf.iter().flatten().map(|(_, bytes)| bytes).sum::<usize>() + SHARE_BYTES_MIN;
            assert_eq!(unsent.bytes, held);
            peak = peak.max(held);
        }
        let most = unsent.bytes_max + (links + 1) * (SHARE_BYTES_MIN + STEP);
        assert!(peak > unsent.bytes_max / 2 && peak <= most, "{peak} of {most}; unbounded it would be 4 GiB");
    }

    #[test]
    fn one_link_may_hold_much_while_others_hold_nothing() {
        let mut unsent = Unsent::new(2);
        let mut counted = Counted::default();
        assert!(unsent.note(&mut counted, super::super::wire::OUTBOX_BYTES_MAX, 100));
        unsent.forget(counted);
        assert_eq!(unsent.bytes, 0);
    }
}
