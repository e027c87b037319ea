//! Where ports run out.

use std::{io, net::SocketAddr, thread, time::Duration};

use socket2::{Domain, Socket, Type};
use twtrace::lab::lives;

use super::{First, Outcome, SERVICE, Said, address, agrees, close, new, set, ss};
use crate::tracer::traffic;

/// A hundred ports, of which ten, sixty, and all are held; then those that connect() may take over.
pub fn doctor_ports() -> Outcome {
    let netns = new()?;
    set(&netns, "ip_local_port_range", "20000 20099")?;
    set(&netns, "tcp_tw_reuse", "0")?;
    let place = "127.0.0.1 to 127.0.0.1:8000";

    close(&netns, SERVICE, 10, First::Client)?;
    let said = Said::of(&netns, &[])?;
    said.finds("ports.room", "fine")?.shows(place, 10)?;

    // Another destination's do not count here.
    close(&netns, "127.0.0.1:8001", 10, First::Client)?;
    close(&netns, SERVICE, 50, First::Client)?;
    let said = Said::of(&netns, &[])?;
    let finding = said.finds("ports.filling", "warning")?;
    finding.shows("ports held", 60)?;
    finding.shows("TIME_WAIT", 60)?;
    agrees("TIME_WAIT", finding.evidence("TIME_WAIT")?, ss(&netns, &["state", "time-wait", "dport", "=", ":8000"])?)?;
    said.lacks("ports.room")?;
    said.lacks("ports.exhausted")?;

    close(&netns, SERVICE, 40, First::Client)?;
    let failed = traffic(&netns, || Ok(lives::dial(address(SERVICE)?, None)))?;
    if !failed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable) {
        return Err(format!("a connection without a port: {failed:?}"));
    }
    let said = Said::of(&netns, &[])?;
    let finding = said.finds("ports.exhausted", "critical")?;
    finding.shows("ports held", 100)?;
    finding.shows("sustainable without reuse", 100.0 / 60.0)?;

    // On loopback 2 is enough; what is older than a second does not stand in the way.
    set(&netns, "tcp_tw_reuse", "2")?;
    thread::sleep(Duration::from_millis(1500));
    let said = Said::of(&netns, &[])?;
    said.lacks("ports.exhausted")?;
    said.finds("ports.filling", "note")?.shows("that connect() may take over", 100)?;
    close(&netns, SERVICE, 1, First::Client)
}

/// Ports that bind() chose are on the other half of the range, and nobody else can have them.
pub fn doctor_bound_first() -> Outcome {
    const BOUND: usize = 150;
    let netns = new()?;
    set(&netns, "ip_local_port_range", "20000 20999")?;
    let plain = traffic(&netns, || {
        let listener = lives::listen(address(SERVICE)?)?;
        let pairs = (0..40).map(|_| lives::connect(&listener, None)).collect::<io::Result<Vec<_>>>()?;
        Ok((listener, pairs))
    })?;
    let said = Said::of(&netns, &[])?;
    said.lacks("ports.bound-first")?;
    said.finds("ports.room", "fine")?;

    let bound = traffic(&netns, || (0..BOUND).map(|_| bound(address(SERVICE)?)).collect::<io::Result<Vec<_>>>())?;
    let said = Said::of(&netns, &[])?;
    let finding = said.finds("ports.bound-first", "warning")?;
    finding.shows("127.0.0.1 to 127.0.0.1:8000", BOUND)?;
    drop((plain, bound));
    Ok(())
}

/// A connection from a port that bind() chose.
fn bound(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.connect(&to.into())?;
    Ok(socket)
}
