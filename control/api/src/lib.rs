//! Contracts between agent, scheduler and command line.
