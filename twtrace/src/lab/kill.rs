//! SOCK_DESTROY by netlink: what `ss -K` does.

use std::{io, net::IpAddr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use crate::model::event::Tuple;

/// Destroys one socket of the calling thread's namespace.
///
/// # Errors
/// The kernel's: EOPNOTSUPP for a TIME_WAIT before 6.0, ENOENT if there is no such socket.
pub fn kill(tuple: &Tuple) -> io::Result<()> {
    let family = match tuple.laddr {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    };
    let request = InetRequest {
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
            // INET_DIAG_NOCOOKIE
            cookie: [0xff; 8],
        },
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let destroy = SockDiagDestroy::new(SockDiagMessage::InetRequest(request));
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(destroy));
    message.finalize();
    let mut bytes = vec![0; message.header.length as usize];
    message.serialize(&mut bytes);

    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    match NetlinkMessage::<SockDiagMessage>::deserialize(&answer).map_err(io::Error::other)?.payload {
        NetlinkPayload::Error(error) => error.code.map_or(Ok(()), |_| Err(error.to_io())),
        other => Err(io::Error::other(format!("netlink answered {other:?}"))),
    }
}
