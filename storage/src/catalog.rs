//! The catalog: one mapped file of fixed slots.
