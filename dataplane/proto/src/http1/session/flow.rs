//! How a session reads a request's body, keeps its clocks, and ends.

use alloc::vec::Vec;

use super::body::{Incoming, Wanted};
use super::{CONTINUE, HttpSession, Phase, SessionOutput};
use crate::Instant;

impl HttpSession {
    pub(super) fn take_body(&mut self) {
        let Phase::Exchange(exchange) = &mut self.phase else { return };
        if exchange.wanted != Wanted::Undecided || exchange.outgoing.is_some() {
            return;
        }
        exchange.wanted = Wanted::Taken { is_lent: false };
        if core::mem::take(&mut exchange.awaits_continue) {
            self.outbox.extend_from_slice(CONTINUE);
        }
    }

    pub(super) fn on_body_taken(&mut self) {
        if let Some(exchange) = self.exchange()
            && matches!(exchange.wanted, Wanted::Taken { .. })
        {
            exchange.wanted = Wanted::Taken { is_lent: false };
        }
    }

    /// Takes what is here of the request's body off the inbox.
    pub(super) fn read_body(&mut self) -> bool {
        let Phase::Exchange(exchange) = &mut self.phase else { return false };
        let is_read = matches!(exchange.wanted, Wanted::Taken { is_lent: false } | Wanted::Drained);
        if !is_read || exchange.is_deaf() {
            return false;
        }
        if exchange.body.is_done() {
            let is_news = !core::mem::replace(&mut exchange.is_body_told, true);
            self.outputs.extend(is_news.then_some(SessionOutput::BodyEnd));
            return is_news;
        }
        let mut data = Vec::new();
        match exchange.body.take(self.inbox.bytes(), &mut data) {
            Ok(0) => return false,
            Ok(taken) => self.inbox.take(taken),
            Err(refusal) => {
                exchange.is_kept = false;
                exchange.body = Incoming::Length(0);
                self.inbox.clear();
                if exchange.outgoing.is_none() {
                    exchange.wanted = Wanted::Drained;
                    exchange.is_body_told = true;
                    self.outputs.push_back(SessionOutput::BodyRefused(refusal));
                }
                return true;
            }
        }
        if matches!(exchange.wanted, Wanted::Taken { .. }) && !data.is_empty() {
            exchange.wanted = Wanted::Taken { is_lent: true };
            self.outputs.push_back(SessionOutput::Body(data));
        }
        true
    }

    /// The client ended in the middle of a body that somebody waits for.
    pub(super) fn end_unread_body(&mut self, now: Instant) -> bool {
        let Phase::Exchange(exchange) = &self.phase else { return false };
        let is_waiting = matches!(exchange.wanted, Wanted::Taken { is_lent: false }) && exchange.outgoing.is_none();
        if !is_waiting || exchange.body.is_done() || !self.inbox.is_empty() {
            return false;
        }
        self.end(now)
    }

    /// Starts the clock while bytes of a body are waited for, and stops it while the shell is.
    pub(super) fn watch_body(&mut self, now: Instant) {
        let Phase::Exchange(exchange) = &self.phase else { return };
        let is_sent = self.sending.is_none() && exchange.outgoing.is_some_and(|outgoing| outgoing.is_over());
        let is_waiting = match exchange.wanted {
            Wanted::Undecided => false,
            Wanted::Taken { is_lent } => !is_lent,
            Wanted::Drained => is_sent,
        };
        if !is_waiting || exchange.body.is_done() {
            self.read_by = None;
        } else if self.read_by.is_none() {
            self.window_bytes = 0;
            self.read_by = Some(now + self.config.body_window);
        }
    }

    /// Ends what has taken too long.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        // Nothing that is sent would reach the client: it does not read.
        if self.sending.is_some_and(|sending| sending.by <= now) {
            self.fail();
            return true;
        }
        if self.read_by.is_none_or(|by| by > now) {
            return false;
        }
        self.read_by = None;
        match &mut self.phase {
            Phase::Exchange(_) if self.window_bytes >= self.config.body_window_bytes => false,
            Phase::Exchange(exchange) if exchange.outgoing.is_some() => {
                exchange.is_kept = false;
                true
            }
            Phase::Lingering => {
                self.close();
                true
            }
            // A 408 makes clients ask again at once: the end alone says enough.
            Phase::Head | Phase::Exchange(_) => self.end(now),
            Phase::Closed => false,
        }
    }

    /// Ends our side behind what was sent, and waits for the client's end.
    pub(super) fn end(&mut self, now: Instant) -> bool {
        if self.sending.is_some() || self.is_unanswered() {
            self.abandon();
        }
        self.outbox.clear();
        self.inbox.clear();
        if self.is_eof || self.sending.is_some() {
            self.close();
        } else {
            self.outputs.push_back(SessionOutput::ShutdownWrite);
            self.phase = Phase::Lingering;
            self.read_by = Some(now + self.config.linger_limit);
        }
        true
    }

    /// Until the client ends, too; then nothing unread can make a reset of the close.
    pub(super) fn linger(&mut self) -> bool {
        if self.is_eof {
            self.close();
        }
        self.is_eof
    }

    /// The connection is of no use any more.
    pub(super) fn fail(&mut self) {
        self.abandon();
        self.close();
    }

    fn is_unanswered(&self) -> bool {
        matches!(&self.phase, Phase::Exchange(exchange) if exchange.outgoing.is_none())
    }

    fn abandon(&mut self) {
        if matches!(self.phase, Phase::Exchange(_)) {
            self.outputs.push_back(SessionOutput::Abandoned);
        }
    }

    fn close(&mut self) {
        self.outputs.push_back(SessionOutput::Close);
        self.outbox.clear();
        self.inbox.clear();
        (self.read_by, self.sending) = (None, None);
        self.phase = Phase::Closed;
    }
}
