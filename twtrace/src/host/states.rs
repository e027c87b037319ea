//! How many sockets are in which state.

use super::diag::{
    TCP_CLOSE, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK, TCP_LISTEN,
    TCP_SYN_RECV, TCP_SYN_SENT,
};

/// The states of full sockets with the names that `ss` gives them, in the order of a connection's life; a number of
/// include/net/tcp_states.h each.
pub const NAMES: [(u8, &str); 10] = [
    (TCP_LISTEN, "LISTEN"),
    (TCP_SYN_SENT, "SYN-SENT"),
    (TCP_SYN_RECV, "SYN-RECV"),
    (TCP_ESTABLISHED, "ESTAB"),
    (TCP_CLOSE_WAIT, "CLOSE-WAIT"),
    (TCP_FIN_WAIT1, "FIN-WAIT-1"),
    (TCP_FIN_WAIT2, "FIN-WAIT-2"),
    (TCP_CLOSING, "CLOSING"),
    (TCP_LAST_ACK, "LAST-ACK"),
    (TCP_CLOSE, "UNCONN"),
];

/// One more than the highest state, TCP_NEW_SYN_RECV.
const STATES: usize = 13;

/// Full sockets (and requests) by state, those that a process has apart from those that none has. No minisocks.
///
/// In FIN_WAIT1, FIN_WAIT2, CLOSING and LAST_ACK a socket that no process has is an orphan: close() was called. In
/// ESTABLISHED and CLOSE_WAIT it waits for accept(). In SYN_RECV it is a request, which no process can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States {
    held: [u32; STATES],
    unheld: [u32; STATES],
}

impl States {
    /// So many sockets in one state, of which a process has so many.
    #[must_use]
    pub fn with(mut self, state: u8, held: u32, unheld: u32) -> Self {
        let place = usize::from(state);
        if let (Some(a), Some(b)) = (self.held.get_mut(place), self.unheld.get_mut(place)) {
            (*a, *b) = (held, unheld);
        }
        self
    }

    /// Counts one; a state that is none of the kernel's is ignored.
    pub fn add(&mut self, state: u8, is_held: bool) {
        let counts = if is_held { &mut self.held } else { &mut self.unheld };
        if let Some(count) = counts.get_mut(usize::from(state)) {
            *count = count.saturating_add(1);
        }
    }

    /// Counts others too.
    pub fn merge(&mut self, other: &Self) {
        let pairs = self.held.iter_mut().chain(&mut self.unheld).zip(other.held.iter().chain(&other.unheld));
        pairs.for_each(|(count, more)| *count = count.saturating_add(*more));
    }

    /// Sockets in a state that a process has.
    #[must_use]
    pub fn held(&self, state: u8) -> u64 {
        self.held.get(usize::from(state)).copied().unwrap_or_default().into()
    }

    /// Sockets in a state that no process has.
    #[must_use]
    pub fn unheld(&self, state: u8) -> u64 {
        self.unheld.get(usize::from(state)).copied().unwrap_or_default().into()
    }

    /// All in a state.
    #[must_use]
    pub fn of(&self, state: u8) -> u64 {
        self.held(state) + self.unheld(state)
    }

    /// All.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.held.iter().chain(&self.unheld).map(|count| u64::from(*count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_counted_apart() {
        let mut states = States::default();
        for (state, is_held) in [(TCP_CLOSE_WAIT, true), (TCP_CLOSE_WAIT, false), (TCP_FIN_WAIT1, false), (200, true)] {
            states.add(state, is_held);
        }
        assert_eq!((states.held(TCP_CLOSE_WAIT), states.unheld(TCP_CLOSE_WAIT), states.of(TCP_CLOSE_WAIT)), (1, 1, 2));
        assert_eq!((states.of(TCP_FIN_WAIT1), states.of(200), states.total()), (1, 0, 3));
        states.merge(&States::default().with(TCP_CLOSE_WAIT, 5, 0).with(250, 1, 1));
        assert_eq!((states.held(TCP_CLOSE_WAIT), states.total()), (6, 8));
    }

    #[test]
    fn every_state_of_a_full_socket_has_a_name() {
        let named: Vec<u8> = NAMES.iter().map(|(state, _)| *state).collect();
        // TIME_WAIT is a minisock's, 12 (TCP_NEW_SYN_RECV) is listed as SYN_RECV.
        for state in 1..=11_u8 {
            assert_eq!(named.contains(&state), state != 6, "{state}");
        }
    }
}
