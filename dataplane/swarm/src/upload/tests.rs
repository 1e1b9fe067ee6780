use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

/// An upload with the slots of its host.
struct Host {
    upload: Upload,
    now: Instant,
    slots: u32,
}

impl Host {
    fn new(slots: u32, config: UploadConfig) -> Self {
        Self { upload: Upload::new(config), now: Instant::ZERO, slots }
    }

    /// Feeds one input and returns all that comes out.
    fn feed(&mut self, input: UploadInput) -> Vec<UploadOutput> {
        self.upload.handle(self.now, input);
        self.drain()
    }

    fn drain(&mut self) -> Vec<UploadOutput> {
        let mut outputs = Vec::new();
        let Self { upload, now, slots } = self;
        while let Some(output) = upload.poll(*now, &mut || {
            let is_free = *slots > 0;
            *slots -= u32::from(is_free);
            is_free
        }) {
            upload.assert_invariants();
            *slots += u32::from(output == UploadOutput::ReleaseSlot);
            outputs.push(output);
        }
        outputs
    }

    fn ask(&mut self, link: u32, piece: u32, blocks: Range<u32>) -> Vec<UploadOutput> {
        self.feed(UploadInput::Request { link: LinkId(link), channel: 7, piece: PieceIndex(piece), blocks })
    }
}

fn host_with_links(slots: u32, links: u32) -> Host {
    let config = UploadConfig { grant_blocks: 4, grant_duration_min: Duration::ZERO, ..UploadConfig::default() };
    let mut host = Host::new(slots, config);
    for link in 0..links {
        assert_eq!(host.feed(UploadInput::LinkUp { link: LinkId(link) }), vec![]);
    }
    host
}

fn sent(link: u32) -> UploadInput {
    UploadInput::BlockSent { link: LinkId(link), bytes: 1 }
}

fn send(link: u32, piece: u32, block: u32) -> UploadOutput {
    UploadOutput::Send { link: LinkId(link), channel: 7, piece: PieceIndex(piece), block: BlockIndex(block) }
}

fn granted(link: u32) -> UploadOutput {
    UploadOutput::Granted { link: LinkId(link), channel: 7, blocks: 4, millis: 2000 }
}

#[test]
fn link_with_a_slot_sends_two_blocks_ahead_and_others_wait() {
    let mut host = host_with_links(1, 3);
    assert_eq!(host.ask(0, 5, 1..4), vec![granted(0), send(0, 5, 1), send(0, 5, 2)]);
    let queued =
        |link: u32, position| UploadOutput::Queued { link: LinkId(link), channel: 7, piece: PieceIndex(6), position };
    assert_eq!(host.ask(1, 6, 0..1), vec![queued(1, 0)]);
    assert_eq!(host.ask(2, 6, 0..1), vec![queued(2, 1)]);
    assert_eq!(host.feed(sent(0)), vec![send(0, 5, 3)]);
    assert_eq!(host.feed(sent(0)), vec![]);
    assert_eq!(host.feed(sent(0)), vec![UploadOutput::ReleaseSlot, granted(1), send(1, 6, 0)]);
}

#[test]
fn grant_out_of_blocks_queues_behind_those_who_wait() {
    let mut host = host_with_links(1, 2);
    host.ask(0, 0, 0..6);
    host.ask(1, 1, 0..1);
    for _ in 0..3 {
        host.feed(sent(0));
    }
    let outputs = host.feed(sent(0));
    assert_eq!(outputs[..3], [UploadOutput::ReleaseSlot, granted(1), outputs[1 + 1].clone()]);
    assert!(outputs.contains(&send(1, 1, 0)));
    assert!(outputs.iter().any(|output| matches!(output, UploadOutput::Queued { link: LinkId(0), position: 0, .. })));
    let outputs = host.feed(sent(1));
    assert_eq!(outputs, vec![UploadOutput::ReleaseSlot, granted(0), send(0, 0, 4), send(0, 0, 5)]);
}

#[test]
fn grant_lasts_some_time_however_fast_its_blocks_are_sent() {
    let config = UploadConfig { grant_blocks: 2, ..UploadConfig::default() };
    let mut host = Host::new(1, config);
    for link in 0..2 {
        host.feed(UploadInput::LinkUp { link: LinkId(link) });
        host.ask(link, link, 0..9);
    }
    host.now += Duration::from_millis(8);
    assert_eq!(host.feed(sent(0)), vec![send(0, 0, 2)]);
    assert_eq!(host.feed(sent(0)), vec![send(0, 0, 3)]);
    host.now += Duration::from_millis(8);
    assert_eq!(host.feed(sent(0)), vec![], "what is on the wire comes first");
    let granted = UploadOutput::Granted { link: LinkId(1), channel: 7, blocks: 2, millis: 2000 };
    assert_eq!(host.feed(sent(0))[..2], [UploadOutput::ReleaseSlot, granted]);
}

#[test]
fn child_that_does_not_read_loses_its_slot_in_time() {
    let mut host = host_with_links(1, 2);
    host.ask(0, 0, 0..3);
    host.ask(1, 1, 0..1);
    let deadlines = [host.now + Duration::from_millis(10), host.now + Duration::from_secs(2)];
    assert_eq!(host.upload.deadline(), Some(deadlines[0]), "asks for a slot again");
    host.now = deadlines[0];
    assert_eq!(host.drain(), vec![]);
    host.now = deadlines[1];
    assert_eq!(host.drain(), vec![], "it may be slow");
    host.now = deadlines[1] + Duration::from_secs(2);
    assert_eq!(host.drain()[..2], [UploadOutput::ReleaseSlot, granted(1)]);
}

#[test]
fn slow_child_gives_its_slot_back_when_what_was_sent_is_there() {
    let mut host = host_with_links(1, 2);
    host.ask(0, 0, 0..8);
    host.ask(1, 1, 0..1);
    host.now += Duration::from_secs(2);
    assert_eq!(host.drain(), vec![]);
    assert_eq!(host.feed(sent(0)), vec![], "one more block is on the wire, and no further one is sent");
    assert_eq!(host.feed(sent(0))[..2], [UploadOutput::ReleaseSlot, granted(1)]);
}

#[test]
fn cancelled_request_frees_its_place() {
    let mut host = host_with_links(1, 2);
    host.ask(0, 0, 0..1);
    host.ask(1, 1, 0..1);
    host.feed(UploadInput::Cancel { link: LinkId(1), channel: 7, piece: PieceIndex(1) });
    assert_eq!(host.upload.queued(), 0);
    assert_eq!(host.feed(sent(0)), vec![UploadOutput::ReleaseSlot]);
    assert_eq!(host.upload.deadline(), None);
}

#[test]
fn link_that_goes_down_gives_its_slot_back() {
    let mut host = host_with_links(1, 2);
    host.ask(0, 0, 0..3);
    host.ask(1, 1, 0..1);
    let outputs = host.feed(UploadInput::LinkDown { link: LinkId(0) });
    assert_eq!(outputs, vec![UploadOutput::ReleaseSlot, granted(1), send(1, 1, 0)]);
    assert_eq!(host.feed(sent(0)), vec![], "a completion after the end");
}

#[test]
fn slot_freed_elsewhere_is_taken() {
    let mut host = host_with_links(0, 1);
    host.ask(0, 0, 0..1);
    host.slots = 1;
    assert_eq!(host.drain(), vec![], "not asked for at every poll");
    assert_eq!(host.feed(UploadInput::SlotFreed), vec![granted(0), send(0, 0, 0)]);
}

#[test]
fn senseless_request_closes_the_link() {
    for (start, end) in [(3, 3), (4, 3), (0, 65), (u32::MAX, u32::MAX)] {
        let blocks = start..end;
        let mut host = host_with_links(1, 1);
        assert_eq!(host.ask(0, 0, blocks), vec![UploadOutput::Refuse { link: LinkId(0) }]);
        assert_eq!(host.ask(0, 0, 0..1), vec![], "the link is forgotten");
    }
    let config = UploadConfig { requests_per_link_max: 3, links_max: 1, ..UploadConfig::default() };
    let mut host = Host::new(0, config);
    host.feed(UploadInput::LinkUp { link: LinkId(0) });
    for _ in 0..3 {
        host.ask(0, 0, 0..1);
    }
    assert_eq!(host.ask(0, 0, 0..1), vec![UploadOutput::Refuse { link: LinkId(0) }]);
    host.feed(UploadInput::LinkUp { link: LinkId(1) });
    assert_eq!(host.feed(UploadInput::LinkUp { link: LinkId(2) }), vec![UploadOutput::Refuse { link: LinkId(2) }]);
}

#[derive(Clone, Debug)]
enum Step {
    Input(UploadInput),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let link = (0u32..5).prop_map(LinkId);
    let piece = (0u32..4).prop_map(PieceIndex);
    prop_oneof![
        2 => link.clone().prop_map(|link| Step::Input(UploadInput::LinkUp { link })),
        1 => link.clone().prop_map(|link| Step::Input(UploadInput::LinkDown { link })),
        8 => (link.clone(), 0u16..2, piece.clone(), 0u32..8, 0u32..66).prop_map(|(link, channel, piece, start, end)| {
            Step::Input(UploadInput::Request { link, channel, piece, blocks: start..end })
        }),
        2 => (link.clone(), 0u16..2, piece).prop_map(|(link, channel, piece)| {
            Step::Input(UploadInput::Cancel { link, channel, piece })
        }),
        16 => link.prop_map(|link| Step::Input(UploadInput::BlockSent { link, bytes: 1 })),
        1 => Just(Step::Input(UploadInput::SlotFreed)),
        2 => (0u64..1500).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn any_inputs_keep_slots_and_order(steps in proptest::collection::vec(any_step(), 0..300), slots in 1u32..4) {
        let config = UploadConfig { grant_blocks: 5, requests_per_link_max: 6, ..UploadConfig::default() };
        let mut host = Host::new(slots, config);
        for step in steps {
            match step {
                Step::Input(input) => { host.feed(input); }
                Step::Wait(millis) => {
                    host.now += Duration::from_millis(millis);
                    host.drain();
                }
            }
            host.upload.assert_invariants();
            prop_assert_eq!(host.slots as usize + host.upload.granted(), slots as usize, "a slot leaked");
            prop_assert!(host.slots == 0 || host.upload.queued() == 0, "a slot is free and somebody waits");
        }
    }

    /// However long the others' wishes are, a link that waits is served within one grant of each other link.
    #[test]
    fn waiting_link_is_served_within_one_round(links in 2u32..6) {
        let mut host = host_with_links(1, links);
        for link in 0..links {
            for piece in 0..20 {
                host.ask(link, piece, 0..10);
            }
        }
        let mut order = vec![0];
        let mut outputs = Vec::new();
        for _ in 0..links * 8 {
            let serving = *order.last().unwrap();
            outputs.clear();
            outputs.extend(host.feed(sent(serving)));
            order.extend(outputs.iter().filter_map(|output| match output {
                UploadOutput::Granted { link, .. } => Some(link.0),
                _ => None,
            }));
        }
        let round: Vec<u32> = (0..links).collect();
        prop_assert_eq!(&order[..links as usize], &round[..]);
    }
}

#[test]
fn child_that_does_not_read_gets_no_other_slot_before_it_does() {
    let mut host = host_with_links(1, 2);
    host.ask(0, 0, 0..4);
    for _ in 0..2 {
        host.now += Duration::from_secs(2);
        host.feed(UploadInput::SlotFreed);
    }
    assert_eq!(host.upload.queued() + host.upload.granted(), 0, "its slot is gone, and it does not wait");
    assert_eq!(host.ask(1, 1, 0..1)[0], granted(1));
    host.feed(sent(1));
    assert_eq!(host.feed(sent(0)), vec![], "one of two was read");
    assert_eq!(host.feed(sent(0)), vec![granted(0), send(0, 0, 2), send(0, 0, 3)]);
}
