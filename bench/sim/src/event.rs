//! What happens in a run.

use hawker_proto::{ByteRange, PieceIndex};
use hawker_scheduler::{Input, ToHost};
use hawker_swarm::LeaseId;

use crate::network::Transmission;
use crate::peer::PeerId;

pub(crate) enum Event {
    /// The host starts.
    Start {
        host: u32,
    },
    /// The host vanishes.
    Die {
        host: u32,
    },
    /// The host is told to stop.
    Leave {
        host: u32,
    },
    /// A child hears that its parent takes its leave.
    Goodbye {
        child: PeerId,
        parent: u32,
    },
    /// The host that was told to stop does.
    Stop {
        host: u32,
    },
    /// All connections of some host break.
    Cut,
    /// It gets new ones again.
    Heal {
        host: u32,
    },
    /// A host that reaches nobody asked the origin.
    OriginUnreached {
        peer: PeerId,
        lease: LeaseId,
    },
    /// A piece is written.
    Stored {
        peer: PeerId,
        piece: PieceIndex,
    },
    /// A control message reached the host.
    Message {
        to: PeerId,
        from: u32,
        connection: u32,
        message: Message,
    },
    /// An announcement reached the neighbors of its host whose links were idle.
    Announce {
        peer: PeerId,
        piece: PieceIndex,
    },
    /// It reached one whose link was not, or who is far away.
    Have {
        to: PeerId,
        from: u32,
        piece: PieceIndex,
    },
    /// A block reached the host.
    Arrived {
        from: u32,
        block: Transmission,
    },
    /// Some bytes of a block reached the host.
    Arriving {
        to: u32,
        from: u32,
    },
    /// A block left the host.
    Sent {
        from: u32,
        to: u32,
        connection: u32,
        bytes: u32,
    },
    /// The host's uplink can send again.
    UplinkFree {
        host: u32,
    },
    /// A part of a body reached the host.
    Body {
        peer: PeerId,
        lease: LeaseId,
        part: ByteRange,
    },
    /// The origin's uplink can send again.
    OriginFree,
    /// One of its connections can.
    OriginReady,
    /// Its answer to a GET that it does not serve.
    OriginRefused {
        peer: PeerId,
        lease: LeaseId,
    },
    /// The host opens its stream to the scheduler.
    Connect {
        host: u32,
    },
    /// It asks for the task again.
    Want {
        peer: PeerId,
    },
    /// The head of the origin's answer to a resolve.
    OriginHead {
        peer: PeerId,
        upto: u64,
    },
    /// It tells the scheduler how far it is.
    Progress {
        host: u32,
    },
    /// The time of a lease is over: whoever still fetches under it stops.
    LeaseExpired {
        host: u32,
        lease: LeaseId,
    },
    /// A link is ready.
    Linked {
        child: PeerId,
        parent: u32,
    },
    /// A liar has its turn.
    Lie {
        host: u32,
    },
    /// Others see that the host is dead.
    Bereft {
        host: u32,
    },
    ToScheduler {
        life: u64,
        input: Box<Input>,
    },
    ToAgent {
        host: u32,
        life: u64,
        message: Box<ToHost>,
    },
    SchedulerWake {
        life: u64,
    },
    SchedulerDown,
    SchedulerUp,
    /// Deadlines of the host's machines.
    DownloadWake {
        peer: PeerId,
    },
    UploadWake {
        host: u32,
    },
}

#[derive(Clone, Copy)]
pub(crate) enum Message {
    Request { piece: PieceIndex, start: u32, end: u32 },
    Cancel { piece: PieceIndex },
    Queued { piece: PieceIndex },
    Gone { piece: PieceIndex },
    Granted { blocks: u32, millis: u32 },
}

impl Event {
    /// The host that has to run for it.
    pub(crate) const fn host(&self) -> Option<u32> {
        match self {
            Self::Message { to: PeerId { host, .. }, .. }
            | Self::Arrived { block: Transmission { to: PeerId { host, .. }, .. }, .. }
            | Self::Arriving { to: host, .. }
            | Self::Sent { from: host, .. }
            | Self::Body { peer: PeerId { host, .. }, .. }
            | Self::ToAgent { host, .. }
            | Self::OriginHead { peer: PeerId { host, .. }, .. }
            | Self::Stored { peer: PeerId { host, .. }, .. }
            | Self::OriginRefused { peer: PeerId { host, .. }, .. }
            | Self::DownloadWake { peer: PeerId { host, .. } }
            | Self::UploadWake { host } => Some(*host),
            _ => None,
        }
    }
}
