//! A clean end: everything is on disk, and the next opening need not look for leftovers.

use super::jobs::{JobIo, Request, Role, Step, Work};
use super::persist::Purpose;
use super::{Life, Store};
use crate::op::{Output, StoreOp};

/// The end of a store.
#[derive(Debug)]
pub(super) struct CloseWork;

impl Store {
    pub(super) fn close(&mut self) {
        if self.life != Life::Running {
            return;
        }
        self.life = Life::Closing;
        for task in self.arriving.clone() {
            self.ask(task, Request::Persist(Purpose::Flush { is_asked: false }));
        }
        for spool in self.spools.keys().copied().collect::<Vec<_>>() {
            self.drop_spool(spool);
        }
    }

    /// Once nothing is under way any more.
    pub(super) fn finish_close(&mut self) {
        let is_idle = self.jobs.is_empty() && self.busy.is_empty() && self.admissions.is_empty();
        if self.life == Life::Closing && is_idle {
            self.life = Life::Closed;
            self.start(None, Work::Close(CloseWork));
        }
    }

    pub(super) fn step_close(&mut self, _close: &mut CloseWork, io: &mut JobIo) -> Step {
        // Not marked as clean, the directory is looked through when it is opened next; nothing else is lost.
        let is_in_doubt = io.take_error().is_some() || self.is_catalog_lost() || self.stuck_bytes > 0;
        let file = self.catalog.file().clone();
        match io.stage {
            0 => {
                self.issue(io, Role::Other, StoreOp::Sync { file, data_only: true });
                Step::Go(1)
            }
            1 if !is_in_doubt => {
                let (bytes, offset) = self.catalog.next_state(true);
                self.issue(io, Role::Other, StoreOp::Write { file, bytes, offset });
                Step::Go(2)
            }
            2 => {
                self.issue(io, Role::Other, StoreOp::Sync { file, data_only: true });
                Step::Go(3)
            }
            _ => {
                self.outputs.push_back(Output::Closed);
                Step::Done
            }
        }
    }
}
