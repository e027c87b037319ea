//! The end of a play: what the kernel says of each life, and of all together.

use std::io::{self};

use twtrace::{
    host::diag::{self, TCP_LISTEN, TCP_TIME_WAIT},
    model::event::{Substate, Tuple},
};

use super::{
    super::fate::{Seen, What},
    Life,
};

/// What sock_diag says of a tuple.
pub(super) fn seen(tuple: &Tuple) -> io::Result<Seen> {
    Ok(match diag::find(tuple)? {
        None => Seen::Nothing,
        Some(entry) if entry.state == TCP_LISTEN => Seen::Nothing,
        Some(entry) if entry.minisock || entry.state == TCP_TIME_WAIT => {
            Seen::Mini(Substate::from_raw(entry.state), entry.left_ms)
        }
        Some(entry) => Seen::Full(entry.state),
    })
}

pub(super) fn is_last(life: &Life, is: impl Fn(&What) -> bool) -> bool {
    life.facts.last().is_some_and(|fact| is(&fact.what))
}

pub(super) fn left_ms(life: &Life) -> u32 {
    if let Seen::Mini(_, left_ms) = life.last.seen { left_ms } else { 0 }
}

pub(super) fn name(life: &Life) -> String {
    serde_json::to_string(&life.script).unwrap_or_default()
}
