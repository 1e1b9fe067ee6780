//! The data directory: who may own it, its lock, and the names in it.
