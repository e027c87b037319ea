//! The loopback device of a namespace.

use std::{io, net::Ipv4Addr, os::fd::AsRawFd as _};

/// Sets the loopback device of the calling thread's namespace up: it is down in every new one.
///
/// # Errors
/// Those of ioctl(2): EPERM without CAP_NET_ADMIN.
pub fn loopback_up() -> io::Result<()> {
    let mut request = device("lo");
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    configure(libc::SIOCSIFFLAGS, &request)
}

/// Gives the loopback device of the calling thread's namespace a second address.
///
/// # Errors
/// Those of ioctl(2): EPERM without CAP_NET_ADMIN.
pub fn loopback_alias(address: Ipv4Addr) -> io::Result<()> {
    let mut request = device("lo:1");
    // SAFETY: all zeroes is a valid sockaddr_in, which is as large as the sockaddr in whose place it is written.
    let mut place: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    place.sin_family = libc::AF_INET as libc::sa_family_t;
    place.sin_addr.s_addr = u32::from_ne_bytes(address.octets());
    // SAFETY: both are 16 bytes of plain integers.
    request.ifr_ifru.ifru_addr = unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(place) };
    configure(libc::SIOCSIFADDR, &request)
}

/// A request about this device; its name has at most 15 bytes.
pub(super) fn device(name: &str) -> libc::ifreq {
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request
}

fn configure(what: libc::Ioctl, request: &libc::ifreq) -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // SAFETY: these requests read one ifreq, which lives until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), what, std::ptr::from_ref(request)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
