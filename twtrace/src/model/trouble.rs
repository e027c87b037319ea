//! What was lost or could not be known beside lost events.

use super::words::words;

words! {
    /// A counter of what went wrong: the keys of the JSON object `trouble`. A run with any of them is not exact.
    Trouble by word {
        /// Births that found the table of minisocks full.
        LivesFull = "lives_full";
        /// Connections that found the table of connections full.
        ConnsFull = "conns_full";
        /// Closing sockets that found their table full.
        ClosingFull = "closing_full";
        /// Denials of a connect() that found their table full.
        DeniedFull = "denied_full";
        /// Connections that the peer closed first and whose counts were evicted before they were read.
        PassiveEvicted = "passive_evicted";
        /// Minisocks older than the run that could not be handed over.
        SeedsFull = "seeds_full";
        /// Reads of kernel memory that failed.
        ReadFailed = "read_failed";
        /// Kernel stacks that could not be taken.
        StackFailed = "stack_failed";
        /// Births at the address of a minisock that never ended, as far as twtrace knows.
        Stale = "stale";
        /// Sockets that closed into a minisock whose birth no program saw.
        UnseenBirths = "unseen_births";
        /// Events for which the kernel skipped a program, and no second program made up for it.
        MissedRuns = "missed_runs";
        /// Minisocks whose birth no program saw.
        Unseen = "unseen";
        /// Minisocks whose end no program saw.
        UnseenEnds = "unseen_ends";
        /// Records that could not be decoded.
        Garbage = "garbage";
        /// Events that came during the self-test and could not be kept.
        EarlyLost = "early_lost";
        /// Lines that were dropped because an output was read too slowly.
        SinkDropped = "sink_dropped";
    }
}
