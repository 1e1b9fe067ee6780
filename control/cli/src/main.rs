//! The hawker binary.
fn main() {}
