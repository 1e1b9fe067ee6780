//! The simulator: production swarm and scheduler in virtual time.
