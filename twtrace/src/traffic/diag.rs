//! Sockets by netlink's sock_diag: SOCK_DESTROY, which is what `ss -K` does, and a list of the minisocks.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};

use crate::{
    host::diag::{Detail, Entry, StateFlags, ask, dump, of_connection},
    model::event::{Substate, Tuple},
};

/// Destroys one socket of the calling thread's namespace.
///
/// # Errors
/// The kernel's: EOPNOTSUPP for a TIME_WAIT before 6.0, ENOENT if there is no such socket.
pub fn kill(tuple: &Tuple) -> io::Result<()> {
    let socket = ask(NLM_F_REQUEST | NLM_F_ACK, SockDiagDestroy::new(of_connection(tuple)))?;
    let (answer, _) = socket.recv_from_full()?;
    match NetlinkMessage::<SockDiagMessage>::deserialize(&answer).map_err(io::Error::other)?.payload {
        NetlinkPayload::Error(error) => error.code.map_or(Ok(()), |_| Err(error.to_io())),
        other => Err(io::Error::other(format!("netlink answered {other:?}"))),
    }
}

/// What sock_diag lists in TIME_WAIT or FIN_WAIT2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The connection, from its side.
    pub tuple: Tuple,
    /// The socket's state: of a minisock, the substate.
    pub state: Substate,
    /// True of a minisock; else a full socket in FIN_WAIT2.
    pub minisock: bool,
}

/// Every minisock of the calling thread's namespace, of both families, with its substate.
///
/// # Errors
/// Those of netlink; ENOENT if the kernel has no tcp_diag.
pub fn minisocks() -> io::Result<Vec<(Tuple, Substate)>> {
    let found = listed()?.into_iter().filter(|listed| listed.minisock);
    Ok(found.map(|Listed { tuple, state, .. }| (tuple, state)).collect())
}

/// Minisocks and full sockets in FIN_WAIT2.
///
/// # Errors
/// As [`minisocks`].
pub fn listed() -> io::Result<Vec<Listed>> {
    dump(&(StateFlags::TIME_WAIT | StateFlags::FIN_WAIT2), Detail::Header, Vec::new, |found, entry| {
        let Entry { tuple, state, minisock, .. } = *entry;
        found.push(Listed { tuple, state: Substate::from_raw(state), minisock });
    })
}
