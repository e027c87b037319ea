//! Sockets by netlink's sock_diag: SOCK_DESTROY, which is what `ss -K` does, and a list of the minisocks.

use std::{io, net::IpAddr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, Timer},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use crate::model::event::{Substate, Tuple};

/// INET_DIAG_NOCOOKIE: whichever socket has the tuple.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Destroys one socket of the calling thread's namespace.
///
/// # Errors
/// The kernel's: EOPNOTSUPP for a TIME_WAIT before 6.0, ENOENT if there is no such socket.
pub fn kill(tuple: &Tuple) -> io::Result<()> {
    let family = match tuple.laddr {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    };
    let request = SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: tuple.lport,
            destination_port: tuple.rport,
            source_address: tuple.laddr,
            destination_address: tuple.raddr,
            interface_id: 0,
            cookie: NO_COOKIE,
        },
    });
    let socket = ask(NLM_F_REQUEST | NLM_F_ACK, SockDiagDestroy::new(request))?;
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
    /// Its state: of a minisock, the substate.
    pub state: Substate,
    /// It is a minisock; else a full socket in FIN_WAIT2.
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
    let mut found = Vec::new();
    for (family, id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let request = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            // A minisock is listed by its substate (kernel-facts: inet_diag, section 8).
            states: StateFlags::TIME_WAIT | StateFlags::FIN_WAIT2,
            socket_id: SocketId { cookie: NO_COOKIE, ..id },
        });
        collect(&ask(NLM_F_REQUEST | NLM_F_DUMP, request)?, &mut found)?;
    }
    Ok(found)
}

fn ask<T: NetlinkSerializable>(flags: u16, request: T) -> io::Result<Socket>
where
    NetlinkPayload<T>: From<T>,
{
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.header.length as usize];
    message.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    Ok(socket)
}

/// Reads a dump to its end.
fn collect(socket: &Socket, found: &mut Vec<Listed>) -> io::Result<()> {
    loop {
        let (packet, _) = socket.recv_from_full()?;
        let mut rest = packet.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found.push(entry(&response));
                }
                other => return Err(io::Error::other(format!("netlink answered {other:?}"))),
            }
            // Messages are aligned to 4 bytes (NLMSG_ALIGN).
            let length = (message.header.length as usize).max(1).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn entry(response: &InetResponse) -> Listed {
    let header = &response.header;
    let id = &header.socket_id;
    let tuple = Tuple {
        laddr: id.source_address.to_canonical(),
        lport: id.source_port,
        raddr: id.destination_address.to_canonical(),
        rport: id.destination_port,
    };
    let minisock = header.timer == Some(Timer::TimeWait);
    Listed { tuple, state: Substate::from_raw(header.state), minisock }
}
