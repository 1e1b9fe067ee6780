//! What one event costs, with all that follows from it at once, among 1,000 to 100,000 hosts of one task: wall time.

#[path = "crowd/mod.rs"]
mod crowd;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use crowd::{Crowd, EVENTS};
use hawker_proto::trust::Lease;
use hawker_proto::{ByteRange, HostKey};

const SIZES: [u32; 3] = [1_000, 10_000, 100_000];

fn events(criterion: &mut Criterion) {
    for count in SIZES {
        let mut crowd = Crowd::fetching(count);
        for event in EVENTS {
            let mut group = criterion.benchmark_group(format!("{event:?}"));
            group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..rounds {
                        crowd.play(event, &mut |call: &mut dyn FnMut()| {
                            let began = Instant::now();
                            call();
                            spent += began.elapsed();
                        });
                    }
                    spent
                });
            });
            group.finish();
            crowd.give_back();
        }
    }
}

/// The signature in every lease and allowance.
fn signature(criterion: &mut Criterion) {
    let key = HostKey::from_seed([77; 32]);
    let lease = Lease {
        task: crowd::task_of(1),
        range: ByteRange::new(0, 1 << 20).expect("a range"),
        holder: key.public(),
        epoch: 1,
        serial: 1,
        expires_unix_ms: 1,
    };
    criterion
        .bench_function("signature of a lease", |bencher| bencher.iter(|| std::hint::black_box(&lease).sign(&key)));
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(1_000));
    targets = signature, events
}
criterion_main!(benches);
