//! Where happenings come from: the kernel, as it is watched now, or later a run that was written down.

use std::io;

use super::{Hub, RunError};
use crate::model::report::Summary;

/// Tells a hub what happens. The run asks it to, whenever an output has room and something is due.
pub trait Origin {
    /// Tells how the run begins: the start, the clock, the first look, what is older than the run.
    ///
    /// # Errors
    /// If the origin cannot be read.
    fn begin(&mut self, hub: &mut Hub) -> Result<(), RunError>;

    /// Returns when there is more to take than should wait for the next time that it is taken anyway.
    ///
    /// # Errors
    /// If that cannot be watched.
    fn filling(&mut self) -> impl Future<Output = io::Result<()>>;

    /// Tells what has happened since the last time, and how much that was: 0 if nothing is left for now.
    ///
    /// # Errors
    /// If the origin cannot be read.
    fn drain(&mut self, hub: &mut Hub) -> Result<usize, RunError>;

    /// Is called all the while, whether or not there is room: takes note of what cannot wait.
    fn glance(&mut self, _: &mut Hub) {}

    /// Begins to look for what no event told.
    fn look(&mut self) {}

    /// An interval of the tables is over: tells what they need beside the events.
    ///
    /// # Errors
    /// If the origin cannot be read.
    fn interval(&mut self, hub: &mut Hub) -> Result<(), RunError>;

    /// Tells how things stand. `report`: with the tables. `skipped`: ticks that were due and never told.
    ///
    /// # Errors
    /// If the origin cannot be read.
    fn tick(&mut self, hub: &mut Hub, report: bool, skipped: u64) -> Result<(), RunError>;

    /// Tells what was lost before the hub.
    ///
    /// # Errors
    /// If the origin cannot be read.
    fn losses(&mut self, hub: &mut Hub) -> Result<(), RunError>;

    /// Measures what twtrace itself costs, or no more.
    fn measure(&mut self, whether: bool);

    /// Stops what happens, and finds out what was missed. What has happened by then can still be taken.
    ///
    /// # Errors
    /// If the origin cannot be read.
    fn stop(&mut self, hub: &mut Hub) -> impl Future<Output = Result<(), RunError>>;

    /// All is taken: tells what was held back for one more word.
    fn finish(&mut self, hub: &mut Hub);

    /// Leaves what is not taken yet, and says how much that is.
    fn abandon(&mut self) -> u64;

    /// What the run comes to, for an observer whose output lost so many lines. `skipped`: as in [`Origin::tick`].
    ///
    /// # Errors
    /// If the origin cannot be read.
    fn summary(&mut self, lines_lost: u64, skipped: u64) -> Result<Summary, RunError>;
}
