//! Blocks: limits, reserve, trimming, and going home from other threads.

use hawker_ring::{BLOCK_BYTES, Block, Budget, QUANTUM_BYTES, Slab, SlabLimits};

const BLOCKS_PER_QUANTUM: usize = QUANTUM_BYTES / BLOCK_BYTES;

fn slab(quanta: usize, reserve_blocks: usize, budget: &std::sync::Arc<Budget>) -> Slab {
    let limits = SlabLimits { bytes_max: quanta * QUANTUM_BYTES, reserve_blocks };
    Slab::new(limits, budget.clone()).expect("slab")
}

fn take_all(slab: &mut Slab) -> Vec<Block> {
    std::iter::from_fn(|| slab.take()).collect()
}

#[test]
fn blocks_are_aligned_disjoint_and_keep_their_bytes() {
    let budget = Budget::new(3 * QUANTUM_BYTES);
    let mut slab = slab(3, 0, &budget);
    let mut blocks = take_all(&mut slab);
    assert_eq!(blocks.len(), 3 * BLOCKS_PER_QUANTUM);
    for (fill, block) in (0u8..).zip(&mut blocks) {
        assert_eq!(block.as_slice().as_ptr().align_offset(4096), 0);
        block.as_mut_slice().fill(fill);
    }
    for (fill, block) in (0u8..).zip(&blocks) {
        assert!(block.as_slice().iter().all(|byte| *byte == fill));
    }
}

#[test]
fn a_slab_starts_empty_and_grows_by_quanta() {
    let budget = Budget::new(Budget::BYTES_DEFAULT);
    let mut slab = slab(4, 0, &budget);
    assert_eq!((slab.bytes(), budget.bytes_drawn()), (0, 0));
    let first = slab.take().expect("a block");
    assert_eq!((slab.bytes(), budget.bytes_drawn(), slab.blocks_out()), (QUANTUM_BYTES, QUANTUM_BYTES, 1));
    let more: Vec<_> = (0..BLOCKS_PER_QUANTUM).map(|_| slab.take().expect("a block")).collect();
    assert_eq!(slab.bytes(), 2 * QUANTUM_BYTES);
    drop((first, more));
    assert_eq!(slab.blocks_out(), 0);
}

#[test]
fn neither_the_slab_nor_the_process_exceeds_its_limit() {
    let budget = Budget::new(3 * QUANTUM_BYTES + 5);
    let mut one = slab(2, 0, &budget);
    let mut other = slab(2, 0, &budget);
    let of_one = take_all(&mut one);
    assert_eq!(of_one.len(), 2 * BLOCKS_PER_QUANTUM, "the slab's limit");
    let of_other = take_all(&mut other);
    assert_eq!(of_other.len(), BLOCKS_PER_QUANTUM, "the budget's limit");
    drop(of_one);
    assert_eq!(other.take().map(drop), None, "blocks go home, not around");
    drop(of_other);
}

#[test]
fn the_reserve_is_for_serving_only() {
    let budget = Budget::new(3 * QUANTUM_BYTES);
    let mut slab = slab(3, 16, &budget);
    assert_eq!(budget.bytes_drawn(), 2 * QUANTUM_BYTES, "the reserve is drawn at once");
    let received = take_all(&mut slab);
    assert_eq!(received.len(), BLOCKS_PER_QUANTUM);
    let served: Vec<_> = std::iter::from_fn(|| slab.take_reserved()).collect();
    assert_eq!(served.len(), 16);
    drop(received);
    assert!(slab.take_reserved().is_some(), "serving may use what receiving does not");
}

#[test]
fn a_reserve_that_does_not_fit_is_refused() {
    let limits = SlabLimits { bytes_max: QUANTUM_BYTES, reserve_blocks: 9 };
    assert!(Slab::new(limits, Budget::new(Budget::BYTES_DEFAULT)).is_err(), "larger than the slab");
    let limits = SlabLimits { bytes_max: 4 * QUANTUM_BYTES, reserve_blocks: 16 };
    let budget = Budget::new(QUANTUM_BYTES);
    assert!(Slab::new(limits, budget.clone()).is_err(), "larger than the budget");
    assert_eq!(budget.bytes_drawn(), 0, "what was drawn for it went back");
}

#[test]
fn trim_gives_back_what_stays_empty() {
    let budget = Budget::new(Budget::BYTES_DEFAULT);
    let mut slab = slab(8, 8, &budget);
    let blocks = take_all(&mut slab);
    slab.trim();
    slab.trim();
    assert_eq!(budget.bytes_drawn(), 8 * QUANTUM_BYTES, "nothing in use is given back");
    drop(blocks);
    slab.trim();
    assert_eq!(budget.bytes_drawn(), 8 * QUANTUM_BYTES, "not at the first sight of idleness");
    let used = slab.take();
    drop(used);
    slab.trim();
    assert_eq!(budget.bytes_drawn(), 2 * QUANTUM_BYTES, "what was used since stays, and the reserve");
    slab.trim();
    assert_eq!((budget.bytes_drawn(), slab.bytes()), (QUANTUM_BYTES, QUANTUM_BYTES), "the reserve stays");
    assert_eq!(take_all(&mut slab).len(), 7 * BLOCKS_PER_QUANTUM, "and the slab grows again");
}

#[test]
fn a_trimmed_reserve_still_serves() {
    let budget = Budget::new(Budget::BYTES_DEFAULT);
    let mut slab = slab(1, 8, &budget);
    slab.take_reserved().expect("a block").as_mut_slice().fill(1);
    slab.trim();
    slab.trim();
    let mut block = slab.take_reserved().expect("a block");
    block.as_mut_slice().fill(2);
    assert!(block.as_slice().iter().all(|byte| *byte == 2));
}

#[test]
fn blocks_outlive_their_slab() {
    let budget = Budget::new(Budget::BYTES_DEFAULT);
    let mut block = slab(1, 0, &budget).take().expect("a block");
    block.as_mut_slice().fill(3);
    assert!(block.as_slice().iter().all(|byte| *byte == 3));
    assert_eq!(budget.bytes_drawn(), QUANTUM_BYTES);
    drop(block);
    assert_eq!(budget.bytes_drawn(), 0);
}

#[test]
fn blocks_come_home_from_other_threads() {
    let budget = Budget::new(Budget::BYTES_DEFAULT);
    let mut slab = slab(4, 0, &budget);
    let (sender, receiver) = std::sync::mpsc::channel::<(u8, Block)>();
    let receiver = std::sync::Arc::new(std::sync::Mutex::new(receiver));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let receiver = std::sync::Arc::clone(&receiver);
            std::thread::spawn(move || {
                loop {
                    let message = receiver.lock().expect("lock").recv();
                    let Ok((fill, mut block)) = message else { return };
                    assert!(block.as_slice()[..64].iter().all(|byte| *byte == fill), "somebody else's block");
                    block.as_mut_slice()[..64].fill(!fill);
                }
            })
        })
        .collect();
    let mut taken = 0u32;
    while taken < 20_000 {
        let Some(mut block) = slab.take() else {
            std::thread::yield_now();
            continue;
        };
        let fill = u8::try_from(taken % 251).expect("below 251");
        block.as_mut_slice()[..64].fill(fill);
        sender.send((fill, block)).expect("a thread receives");
        taken += 1;
    }
    drop(sender);
    for thread in threads {
        thread.join().expect("thread");
    }
    assert_eq!(slab.blocks_out(), 0);
    assert!(slab.bytes() <= 4 * QUANTUM_BYTES);
}
