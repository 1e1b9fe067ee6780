//! Block memory: 256 KiB blocks, aligned for O_DIRECT, in quanta of 2 MiB drawn from one process-wide budget.
//!
//! A quantum's free blocks are the bits of one atomic byte. Only the owning shard clears bits and any thread sets
//! them, so a block goes home from anywhere by a single `fetch_or`, and shards share nothing per block.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use memmap2::{MmapMut, MmapRaw};

/// Bytes of a block: the unit of request, receive, hash and write.
pub const BLOCK_BYTES: usize = 256 * 1024;
/// Bytes by which a slab grows and shrinks.
pub const QUANTUM_BYTES: usize = 8 * BLOCK_BYTES;
/// Offsets, lengths and addresses that O_DIRECT takes everywhere.
pub const DIRECT_ALIGNMENT: usize = 4096;

const BLOCKS_PER_QUANTUM: usize = QUANTUM_BYTES / BLOCK_BYTES;
const ALL_FREE: u8 = u8::MAX;
/// A quantum goes back when this many trims in a row found it empty and untouched: a slab that breathes with its
/// load keeps its memory (fresh pages cost 1-3 CPU-s per GiB on a ballooned host).
const IDLE_TRIMS: u8 = 2;

/// Bytes that all slabs of a process may hold together.
#[derive(Debug)]
pub struct Budget {
    bytes_max: usize,
    bytes_drawn: AtomicUsize,
}

impl Budget {
    /// What a process holds unless told otherwise.
    pub const BYTES_DEFAULT: usize = 96 * 1024 * 1024;

    /// A budget of `bytes_max`, of which whole quanta are used.
    #[must_use]
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, bytes_drawn: AtomicUsize::new(0) })
    }

    /// The most that may be drawn.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// What is drawn now, by all slabs.
    #[must_use]
    pub fn bytes_drawn(&self) -> usize {
        self.bytes_drawn.load(Ordering::Relaxed)
    }

    fn draw_quantum(&self) -> bool {
        let grow = |drawn: usize| drawn.checked_add(QUANTUM_BYTES).filter(|&total| total <= self.bytes_max);
        self.bytes_drawn.fetch_update(Ordering::AcqRel, Ordering::Relaxed, grow).is_ok()
    }

    fn give_back_quantum(&self) {
        let before = self.bytes_drawn.fetch_sub(QUANTUM_BYTES, Ordering::AcqRel);
        assert!(before >= QUANTUM_BYTES, "budget gave out {before} bytes and got {QUANTUM_BYTES} back");
    }
}

/// Bounds of one slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlabLimits {
    /// The most bytes this slab may hold, its reserve included; whole quanta are used.
    pub bytes_max: usize,
    /// Blocks that only [`Slab::take_reserved`] gives out, rounded up to whole quanta and drawn from the budget at
    /// once, so that serving goes on when receiving has taken the rest. 0 for none.
    pub reserve_blocks: usize,
}

/// A shard's blocks. Owned and used by one thread; its blocks travel freely.
#[derive(Debug)]
pub struct Slab {
    budget: Arc<Budget>,
    quanta_max: usize,
    general: Vec<Held>,
    reserve: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    quantum: Arc<Quantum>,
    idle_trims: u8,
}

impl Slab {
    /// A slab holding its reserve and nothing else; the reserve's pages are touched only when used.
    ///
    /// # Errors
    /// `OutOfMemory`: the budget or the kernel has no room for the reserve. Ours: limits that do not add up.
    pub fn new(limits: SlabLimits, budget: Arc<Budget>) -> io::Result<Self> {
        let reserve_quanta = limits.reserve_blocks.div_ceil(BLOCKS_PER_QUANTUM);
        let quanta = limits.bytes_max / QUANTUM_BYTES;
        let Some(quanta_max) = quanta.checked_sub(reserve_quanta) else {
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, "a slab's reserve is larger than the slab"));
        };
        let mut reserve = Vec::with_capacity(reserve_quanta);
        for _ in 0..reserve_quanta {
            reserve.push(Held::new(&budget)?);
        }
        Ok(Self { budget, quanta_max, general: Vec::with_capacity(quanta_max), reserve })
    }

    /// A block for receiving, or `None` while the slab or the process is at its limit. Contents are arbitrary.
    pub fn take(&mut self) -> Option<Block> {
        if let Some(block) = take_from(&mut self.general) {
            return Some(block);
        }
        if self.general.len() == self.quanta_max {
            return None;
        }
        self.general.push(Held::new(&self.budget).ok()?);
        take_from(&mut self.general)
    }

    /// A block for serving: from the reserve, then as [`Slab::take`].
    pub fn take_reserved(&mut self) -> Option<Block> {
        take_from(&mut self.reserve).or_else(|| self.take())
    }

    /// Gives quanta that have been empty for two trims in a row back to the kernel and the budget; the reserve
    /// keeps its budget and gives back its pages. To be called now and then, by time and not by load.
    pub fn trim(&mut self) {
        self.general.retain_mut(|held| !held.is_idle_at_trim());
        for held in &mut self.reserve {
            if held.is_idle_at_trim() && held.idle_trims == IDLE_TRIMS {
                held.quantum.release_pages();
            }
        }
    }

    /// Bytes drawn from the budget by this slab, blocks that are out included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        (self.general.len() + self.reserve.len()) * QUANTUM_BYTES
    }

    /// Blocks given out and not yet back.
    #[must_use]
    pub fn blocks_out(&self) -> usize {
        let out = |held: &Held| BLOCKS_PER_QUANTUM - held.quantum.free.load(Ordering::Relaxed).count_ones() as usize;
        self.general.iter().chain(&self.reserve).map(out).sum()
    }
}

/// The lowest free block of the first quantum that has one: load packs into the first quanta, so that the last ones
/// empty and can be trimmed.
fn take_from(quanta: &mut [Held]) -> Option<Block> {
    quanta.iter_mut().find_map(Held::take)
}

impl Held {
    fn new(budget: &Arc<Budget>) -> io::Result<Self> {
        Ok(Self { quantum: Arc::new(Quantum::new(Arc::clone(budget))?), idle_trims: 0 })
    }

    fn take(&mut self) -> Option<Block> {
        // Acquire: whoever returned the block is done with its bytes.
        let free = self.quantum.free.load(Ordering::Acquire);
        if free == 0 {
            return None;
        }
        let index = u8::try_from(free.trailing_zeros()).ok()?;
        self.quantum.free.fetch_and(!(1 << index), Ordering::AcqRel);
        self.idle_trims = 0;
        Some(Block { quantum: Arc::clone(&self.quantum), index })
    }

    fn is_idle_at_trim(&mut self) -> bool {
        if self.quantum.free.load(Ordering::Acquire) != ALL_FREE {
            self.idle_trims = 0;
            return false;
        }
        self.idle_trims = self.idle_trims.saturating_add(1);
        self.idle_trims >= IDLE_TRIMS
    }
}

/// 2 MiB of memory; lives until its slab has let go of it and its last block is back.
struct Quantum {
    map: MmapRaw,
    free: AtomicU8,
    budget: Arc<Budget>,
}

impl Quantum {
    fn new(budget: Arc<Budget>) -> io::Result<Self> {
        if !budget.draw_quantum() {
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, "the block budget is used up"));
        }
        match MmapMut::map_anon(QUANTUM_BYTES) {
            Ok(map) => Ok(Self { map: map.into(), free: AtomicU8::new(ALL_FREE), budget }),
            Err(error) => {
                budget.give_back_quantum();
                Err(error)
            }
        }
    }

    fn release_pages(&self) {
        assert_eq!(self.free.load(Ordering::Acquire), ALL_FREE, "released the pages of a block in use");
        // SAFETY: every block is free and only the owning thread, which runs this, gives blocks out: nobody holds a
        // reference into the mapping. A failure only leaves the pages where they are.
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }

    fn block(&self, index: u8) -> *mut [u8; BLOCK_BYTES] {
        let offset = usize::from(index) * BLOCK_BYTES;
        debug_assert!(offset < QUANTUM_BYTES);
        self.map.as_mut_ptr().wrapping_add(offset).cast()
    }
}

impl fmt::Debug for Quantum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quantum").field("free", &self.free).finish_non_exhaustive()
    }
}

impl Drop for Quantum {
    fn drop(&mut self) {
        self.budget.give_back_quantum();
    }
}

/// 256 KiB, aligned to 4096; goes home when dropped, from whatever thread.
pub struct Block {
    quantum: Arc<Quantum>,
    index: u8,
}

impl Block {
    /// The block's bytes; arbitrary until written.
    #[must_use]
    pub fn as_slice(&self) -> &[u8; BLOCK_BYTES] {
        // SAFETY: the mapping is live and initialised (anonymous) for as long as `quantum`, and this block's bit is
        // clear, so no other Block covers these bytes; the kernel writes to them only while an operation owns us.
        unsafe { &*self.quantum.block(self.index) }
    }

    /// The block's bytes, to be written.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8; BLOCK_BYTES] {
        // SAFETY: as in `as_slice`, and `&mut self` makes this the only reference.
        unsafe { &mut *self.quantum.block(self.index) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // Release: our writes happen before whatever the next holder does.
        let before = self.quantum.free.fetch_or(1 << self.index, Ordering::Release);
        assert_eq!(before & (1 << self.index), 0, "a block came home twice");
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({:p})", self.quantum.block(self.index))
    }
}
