//! The committed code is what the proto files say. `HAWKER_REGENERATE=1 cargo test -p hawker-api` writes it again.

use std::path::{Path, PathBuf};

use prost::Message;

const FILES: [&str; 2] = ["hawker/scheduler/v1/scheduler.proto", "hawker/local/v1/local.proto"];
const DESCRIPTOR: &str = "scheduler_descriptor.bin";

fn source(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn generate(out: &Path) {
    let descriptors = protox::compile(FILES, [source("proto")]).expect("the proto files are valid");
    tonic_prost_build::configure().out_dir(out).compile_fds(descriptors).expect("code can be generated");
    // What reflection shows: the scheduler's service only, comments stripped.
    let mut compiler = protox::Compiler::new([source("proto")]).expect("the directory exists");
    compiler.include_source_info(false).open_file(FILES[0]).expect("the proto file is valid");
    std::fs::write(out.join(DESCRIPTOR), compiler.file_descriptor_set().encode_to_vec()).expect("writable");
}

#[test]
fn generated_code_is_what_the_proto_files_say() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    generate(directory.path());
    let committed = source("src/generated");
    for entry in std::fs::read_dir(directory.path()).expect("readable") {
        let fresh = entry.expect("readable").path();
        let name = fresh.file_name().expect("a file");
        let bytes = std::fs::read(&fresh).expect("readable");
        if std::env::var_os("HAWKER_REGENERATE").is_some() {
            std::fs::write(committed.join(name), &bytes).expect("writable");
        }
        let is_same = std::fs::read(committed.join(name)).is_ok_and(|old| old == bytes);
        assert!(is_same, "{name:?} is stale: run this test with HAWKER_REGENERATE=1 and commit");
    }
}
