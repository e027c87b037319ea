//! A tracer for one scenario alone.

use std::io;

use twtrace_common::counter::Counters;

use crate::{bpf::Tables, decode::decode, source::Source as _, tracer::Tracer};

/// A tracer that belongs to one scenario alone, with a ring of one page that nobody empties.
pub struct Alone {
    tracer: Tracer,
}

impl Alone {
    /// The smallest ring.
    pub const TABLES: Tables = Tables { ring: 4096, lives: 1 << 14, conns: 1 << 14 };
    /// This tracer, from now on nobody's else.
    #[must_use]
    pub fn new(tracer: Tracer) -> Self {
        Self { tracer }
    }

    /// Stops it, and hands back its counters and how many records there were in the ring.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn finish(&mut self) -> io::Result<(Counters, u64)> {
        self.tracer.stop().map_err(io::Error::other)?;
        self.tracer.settle();
        let mut records = self.tracer.early.len() as u64;
        self.tracer.ring.drain(usize::MAX, &mut |bytes| {
            records += u64::from(decode(bytes).is_ok_and(|event| !event.self_test));
        });
        Ok((self.tracer.counters().map_err(io::Error::other)?, records))
    }
}
