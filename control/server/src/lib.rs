//! The daemon around the scheduler.
