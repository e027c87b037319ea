//! What is done to a life, step by step.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};
use twtrace::{
    lab::want::between,
    traffic::{diag::kill, lives},
};

use super::{
    super::{
        fate::{Seen, Stimulus},
        script::{Family, Flags, How, Side, Step},
        wire::sign,
    },
    EARLY, FIRST_PEER, RANGE, World,
};

impl World {
    pub(super) fn step(&mut self, life: usize, step: Step) -> io::Result<Stimulus> {
        let it = &mut self.lives[life];
        let socket = it.socket.as_mut();
        // What a call answers is of no matter: sock_diag and the wire tell what came of it.
        match step {
            Step::Close => drop(it.socket.take()),
            Step::Abort => {
                if let Some(socket) = it.socket.take() {
                    SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
                }
            }
            Step::ShutWrite => drop(socket.map(|socket| socket.shutdown(Shutdown::Write))),
            Step::ShutRead => drop(socket.map(|socket| socket.shutdown(Shutdown::Read))),
            Step::Write(bytes) => drop(socket.map(|socket| socket.write(&vec![b'x'; bytes.into()]))),
            Step::Read => drop(socket.map(|socket| socket.read(&mut [0; 4096]))),
            Step::Linger2(seconds) => {
                if let Some(socket) = socket
                    && lives::set_option(socket, libc::SOL_TCP, libc::TCP_LINGER2, seconds).is_ok()
                {
                    it.known.aborts = seconds < 0;
                }
            }
            Step::Kill => return Ok(self.destroy(life)),
            Step::TakeBound if it.script.side != Side::Server => return self.connect(life, true, false),
            Step::TakeAuto if it.script.side != Side::Server => return self.connect(life, false, false),
            Step::TakeBound | Step::TakeAuto => {}
            Step::Handshake => {
                let mut syn = false;
                for step in 0..3 {
                    syn |= self.handshake(life, false, step == 0)?;
                }
                return Ok(Stimulus::Segment { rst: false, syn, stamped: true, answered: false });
            }
            Step::Segment(segment) => {
                let packet = it.peer.segment(&segment);
                self.tun.send(&packet)?;
                let (rst, syn) = (packet.flags.has(Flags::RST), packet.flags.has(Flags::SYN));
                let stamped = packet.stamp.is_some();
                return Ok(Stimulus::Segment { rst, syn, stamped, answered: false });
            }
        }
        Ok(Stimulus::Call)
    }

    /// The peer's next step, if there is one. True if that was a SYN without an ACK.
    pub(super) fn handshake(&mut self, life: usize, crossed: bool, first: bool) -> io::Result<bool> {
        let it = &mut self.lives[life];
        // A connection that is open is not opened again.
        let idle = first && matches!(it.last.seen, Seen::Nothing | Seen::Mini(..));
        let data = if it.script.how == How::Fast { EARLY } else { 0 };
        let Some(packet) = it.peer.handshake(crossed, data, idle) else { return Ok(false) };
        self.tun.send(&packet)?;
        self.drain()?;
        Ok(packet.flags.has(Flags::SYN) && !packet.flags.has(Flags::ACK))
    }

    /// Destroys what has the tuple. Where nothing has it the kernel would find the listener.
    pub(super) fn destroy(&mut self, life: usize) -> Stimulus {
        let it = &self.lives[life];
        let there = match it.last.seen {
            Seen::Nothing => false,
            Seen::Full(_) => true,
            Seen::Mini(_, left_ms) => left_ms > 100,
        };
        if there && kill(&it.tuple).is_ok() { Stimulus::Destroyed } else { Stimulus::Call }
    }

    /// Ends what is open by a RST.
    pub(super) fn reset(&mut self, life: usize) -> io::Result<Stimulus> {
        let probe = self.lives[life].peer.probe();
        self.tun.send(&probe)?;
        self.drain()?;
        let reset = self.lives[life].peer.reset();
        self.tun.send(&reset)?;
        Ok(Stimulus::Segment { rst: true, syn: false, stamped: true, answered: false })
    }

    /// Begins to connect. `bound`: from the connection's own port, bound before; else, after the first time, that port is the
    /// only one that the kernel may choose.
    pub(super) fn connect(&mut self, life: usize, bound: bool, fast: bool) -> io::Result<Stimulus> {
        let it = &mut self.lives[life];
        let mapped = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) if it.script.family == Family::Mapped => {
                SocketAddr::new(ip.to_ipv6_mapped().into(), address.port())
            }
            _ => address,
        };
        let (from, to) = (mapped(it.local), mapped(it.remote));
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        if fast {
            lives::set_option(&socket, libc::SOL_TCP, libc::TCP_FASTOPEN_CONNECT, 1)?;
        }
        if it.script.how == How::Signed && self.signs {
            sign(&socket, to.ip())?;
        }
        if bound && socket.bind(&from.into()).is_err() {
            return Ok(Stimulus::Call);
        }
        let chosen = !bound && it.local.port() != 0;
        if chosen {
            lives::sysctl("ip_local_port_range", &format!("{0} {0}", it.local.port()))?;
        }
        let begun = socket.connect(&to.into());
        if chosen {
            lives::sysctl("ip_local_port_range", RANGE)?;
        }
        match begun {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
                self.no_port.push((bound.then_some(it.local.port()), it.remote.port()));
                return Ok(Stimulus::Call);
            }
            Err(error) => return Err(io::Error::other(format!("connect from {from} to {to}: {error}"))),
        }
        let mut socket = TcpStream::from(socket);
        it.local.set_port(socket.local_addr()?.port());
        it.tuple = between(it.local, it.remote);
        it.peer.is_at(it.local);
        if fast {
            let _sent = socket.write(&[b'x'; EARLY as usize]);
        }
        it.old.extend(it.socket.replace(socket));
        self.drain()?;
        Ok(Stimulus::Connected { bound })
    }

    /// Hears all that the kernel has sent.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        while let Some(packet) = self.tun.receive()? {
            let number = packet.to.port().checked_sub(FIRST_PEER).map(usize::from);
            if let Some(life) = number.and_then(|number| self.lives.get_mut(number)) {
                life.peer.hear(&packet);
            }
        }
        Ok(())
    }

    /// Accepts what has come in.
    pub(super) fn accept(&mut self) -> io::Result<()> {
        for listener in &self.listeners {
            while let Ok((socket, peer)) = listener.accept() {
                socket.set_nonblocking(true)?;
                let number = peer.port().checked_sub(FIRST_PEER).map(usize::from);
                if let Some(life) = number.and_then(|number| self.lives.get_mut(number)) {
                    life.old.extend(life.socket.replace(socket));
                }
            }
        }
        Ok(())
    }
}
