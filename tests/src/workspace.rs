//! Where things are in this checkout.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The top of the checkout.
///
/// # Panics
/// When this crate does not lie in one.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_path_buf()
}

/// The `hawker` binary of the build that the running test belongs to, or the one that `HAWKER_BIN` names.
///
/// `cargo test --workspace` builds it before any test starts: the command line's package has tests of its own that run
/// it. `CARGO_BIN_EXE_hawker` is set for that package only, so here it is found beside the test executable, wherever
/// the target directory is.
///
/// # Panics
/// When it has not been built: a test that cannot run its subject has failed.
#[must_use]
pub fn hawker() -> PathBuf {
    let path = std::env::var_os("HAWKER_BIN").map_or_else(
        || {
            let test = std::env::current_exe().expect("a running test has a path");
            // target/debug/deps/name-hash
            test.parent().and_then(Path::parent).expect("cargo puts tests into deps/").join("hawker")
        },
        PathBuf::from,
    );
    assert!(path.is_file(), "{} is missing; build it first: cargo build -p hawker", path.display());
    path
}

/// What `cargo metadata` says of the workspace's own packages.
///
/// # Panics
/// When cargo cannot say.
#[must_use]
pub fn metadata() -> serde_json::Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Whether the program is in PATH or where administrators' programs are.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(beside).map(|directory| directory.join(name)).find(|path| path.is_file())
}
