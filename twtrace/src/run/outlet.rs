//! One observer that writes lines, and the way out for them: a queue of its own, and a count of what it lost.

use super::hub::lines_lost;
use crate::{
    model::{
        aggregate::Aggregates,
        happening::{Happening, Loss, Lost},
    },
    sink::{BATCH_BYTES, Batch, Lines, Writer, notes::remark},
};

/// An observer and its output.
pub struct Outlet {
    /// What it is called where it loses something.
    pub(super) name: String,
    pub(super) lines: Box<dyn Lines>,
    pub(super) writer: Writer,
    /// A batch that found no room.
    pub(super) waiting: Option<Batch>,
    /// Remarks go to standard error. Of several outlets those of the first do.
    pub(super) remarks: bool,
    /// Lines lost, as far as that has been told.
    told: u64,
    /// Nothing can be written any more, and that was told.
    is_over: bool,
    /// Nobody waits for the reader any more.
    pub(super) given_up: bool,
}

impl Outlet {
    /// An outlet for these lines into this writer.
    #[must_use]
    pub fn new(name: impl Into<String>, lines: Box<dyn Lines>, writer: Writer) -> Self {
        Self {
            name: name.into(),
            lines,
            writer,
            waiting: None,
            remarks: false,
            told: 0,
            is_over: false,
            given_up: false,
        }
    }

    /// An outlet whose remarks go to standard error.
    #[must_use]
    pub fn remarking(self) -> Self {
        Self { remarks: true, ..self }
    }

    /// Tells the observer, as long as anything that it says can be written.
    pub(super) fn happened(&mut self, happening: &Happening, tables: &Aggregates) {
        if !self.is_over {
            self.lines.happening(happening, tables);
        }
    }

    /// A screen, which always has room: no frame is drawn before the last one is on its way.
    pub(super) fn is_live(&self) -> bool {
        self.lines.is_live()
    }

    pub(super) fn has_room(&self) -> bool {
        !self.given_up && (self.waiting.is_none() || self.is_live())
    }

    /// Hands what is formatted to the writer, unless an earlier batch still waits for room.
    pub(super) fn flush(&mut self, tables: &Aggregates) {
        hand_over(self.lines.as_mut(), &mut self.writer, &mut self.waiting, tables);
        let notes = self.lines.notes();
        if self.remarks {
            remark(&notes);
        }
    }

    /// Drops what heaps up behind a batch that waits: others have room, so the run goes on.
    pub(super) fn shed(&mut self, tables: &Aggregates) {
        if self.given_up || (self.waiting.is_some() && self.lines.pending() > BATCH_BYTES) {
            self.drop_pending(tables);
        }
    }

    /// Drops what is formatted.
    pub(super) fn drop_pending(&mut self, tables: &Aggregates) {
        if self.lines.pending() > 0 {
            self.writer.drop_batch(&self.lines.take(tables));
        }
    }

    /// Lines lost since the last time that this was asked, if any. A frame that was skipped is no loss.
    pub(super) fn newly_lost(&mut self) -> Option<Lost> {
        if self.is_live() || self.is_over {
            return None;
        }
        let is_closed = self.writer.is_closed();
        let dropped = self.writer.tally().dropped;
        let new = dropped - std::mem::replace(&mut self.told, dropped);
        if new == 0 {
            return None;
        }
        self.is_over = is_closed;
        Some(lines_lost(&self.name, if is_closed { Loss::Closed } else { Loss::Output }, new))
    }

    /// True if all that is formatted is written.
    pub(super) fn is_out(&self) -> bool {
        self.waiting.is_none() && self.lines.pending() == 0 && self.writer.is_idle()
    }

    /// Gives the reader up: what it has not taken is lost.
    pub(super) fn give_up(&mut self, tables: &Aggregates) {
        self.given_up = true;
        self.writer.give_up();
        if let Some(batch) = self.waiting.take() {
            self.writer.drop_batch(&batch);
        }
        self.drop_pending(tables);
    }
}

/// Hands a writer what was formatted, unless an earlier batch still waits for room.
pub(super) fn hand_over(lines: &mut dyn Lines, writer: &mut Writer, waiting: &mut Option<Batch>, tables: &Aggregates) {
    if let Some(batch) = waiting.take() {
        *waiting = writer.try_send(batch).err();
    }
    if waiting.is_none() && lines.pending() > 0 {
        *waiting = writer.try_send(lines.take(tables)).err();
    }
}
