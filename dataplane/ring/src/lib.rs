//! Makes the kernel do things: an [`Engine`] takes operations and gives completions, on io_uring where the kernel
//! allows it and on epoll everywhere else, with one behaviour. Home of unsafe code, and of block memory.

mod core;
pub mod detect;
pub mod engine;
mod epoll;
pub mod net;
pub mod op;
pub mod residency;
pub mod slab;
mod timers;
mod uring;
mod waker;
mod work;

pub use detect::{Detection, EngineChoice, Unavailable, detect};
pub use engine::{Engine, EngineConfig, EngineKind, open};
pub use op::{
    Body, Completion, File, Mode, OFlags, Op, Outcome, Received, SocketOptions, Strategy, TailBuf, TailMode, Token,
    is_cancelled,
};
pub use residency::{Residency, residency};
pub use slab::{BLOCK_BYTES, Block, Budget, QUANTUM_BYTES, Slab, SlabLimits};
pub use waker::Waker;

/// Blocks, slabs and wakers go where their work goes.
const _: fn() = || {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    is_send::<(Block, Slab, Op, Completion)>();
    is_sync::<(Waker, Budget, Detection)>();
};
