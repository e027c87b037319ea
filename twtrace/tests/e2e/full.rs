//! A table of lives with as many minisocks as it was asked to hold.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use twtrace::traffic::lives;

use crate::{
    cases::Scale,
    doctor::set,
    scene::fresh,
    summary,
    tracer::{Tracer, traffic},
};

/// A port that nothing connects to: all is counted, and nothing told.
const NOBODY: &str = "9";
/// How often each of these minisocks is taken over by a new connection.
const TIMES: usize = 3;

/// Each life finds a place, however often others have come and gone before it at addresses of their own.
pub fn full_table(backend: &str, Scale { lives: room, .. }: Scale) -> Result<(), String> {
    let netns = fresh()?;
    // Before the range is set, for its port must not be one of those.
    let listener = traffic(&netns, || lives::listen((Ipv4Addr::UNSPECIFIED, 0).into()))?;
    // Fewer ports than addresses leave a little room for what else lives on the machine; two, for of an odd number the kernel
    // leaves out the last (__inet_hash_connect of net/ipv4/inet_hashtables.c).
    let addresses = room.isqrt();
    let ports = addresses - 2;
    set(&netns, "ip_local_port_range", &format!("20000 {}", 20000 + ports - 1))?;
    let args = ["--max-lives", &room.to_string(), "--rport", NOBODY];
    let tracer = Tracer::start(&netns, backend, &args)?;
    // Nothing is taken over until all are there: a slow machine would never make the last of them.
    for reuse in ["0"].into_iter().chain(["1"; TIMES]) {
        set(&netns, "tcp_tw_reuse", reuse)?;
        traffic(&netns, || (0..addresses * ports).try_for_each(|n| one(&listener, n % addresses)))?;
    }
    let said = tracer.stop(Signal::INT)?;
    if said.summary["trouble"].as_object().is_none_or(|trouble| !trouble.is_empty()) {
        return Err(format!("trouble: {}", said.summary));
    }
    if said.summary["live"].as_u64().unwrap_or(0) < (addresses * ports) as u64 {
        return Err(format!("not {} at once: {}", addresses * ports, said.summary));
    }
    summary::reconciled(&said.summary).map_err(|error| format!("{error}: {}", said.summary))
}

/// A connection to the server's n-th address, once a port is free: minisocks may be taken over a second after they are born.
fn one(listener: &TcpListener, n: usize) -> io::Result<()> {
    let low = u8::try_from(n).map_err(io::Error::other)?;
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
