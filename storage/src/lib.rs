//! Where bytes live and when they may go: reserve, commit, pin, evict, recover.
