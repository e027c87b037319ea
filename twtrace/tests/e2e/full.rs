//! A table of lives with as many minisocks as it was asked to hold.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use twtrace::lab::lives;

use crate::{
    doctor::set,
    scene::fresh,
    summary,
    tracer::{Tracer, traffic},
};

/// What the table is asked to hold.
const LIVES: usize = 4096;
/// Ports of the client, and addresses that it connects to: together a little less than that.
const PORTS: usize = 66;
const ADDRESSES: usize = 62;
/// A port that nothing connects to: all is counted, and nothing told.
const NOBODY: &str = "9";
/// How often each of these minisocks is taken over by a new connection.
const TIMES: usize = 3;

/// Each life finds a place, however often others have come and gone before it at addresses of their own.
pub fn full_table(backend: &str) -> Result<(), String> {
    let netns = fresh()?;
    set(&netns, "ip_local_port_range", &format!("20000 {}", 20000 + PORTS - 1))?;
    set(&netns, "tcp_tw_reuse", "1")?;
    let tracer = Tracer::start(&netns, backend, &["--max-lives", &LIVES.to_string(), "--rport", NOBODY])?;
    traffic(&netns, || {
        let listener = lives::listen((Ipv4Addr::UNSPECIFIED, 0).into())?;
        (0..=TIMES).try_for_each(|_| (0..PORTS * ADDRESSES).try_for_each(|n| one(&listener, n)))
    })?;
    let said = tracer.stop(Signal::INT)?;
    let live = said.summary["live"].as_u64().unwrap_or(0);
    if live as usize <= LIVES * 15 / 16 {
        return Err(format!("only {live} of {LIVES} lived at once: {}", said.summary));
    }
    if said.summary["trouble"].as_object().is_none_or(|trouble| !trouble.is_empty()) {
        return Err(format!("trouble: {}", said.summary));
    }
    summary::reconciled(&said.summary).map_err(|error| format!("{error}: {}", said.summary))
}

/// The n-th connection, once a port is free: minisocks may be taken over a second after they are born.
fn one(listener: &TcpListener, n: usize) -> io::Result<()> {
    let low = u8::try_from(n % ADDRESSES).map_err(io::Error::other)?;
    let to = SocketAddr::from(([127, 1, 0, low], listener.local_addr()?.port()));
    loop {
        match lives::dial(to, None) {
            Ok(client) => {
                let (server, _) = listener.accept()?;
                drop(client);
                drop(server);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(error),
        }
    }
}
