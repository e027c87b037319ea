//! Where ports run out.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use twtrace::{host::diag::StateFlags, traffic::lives};

use super::{First, Outcome, SERVICE, Said, address, agrees, close, listed, new, set, ss, until};
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

/// Every port is bound, in both halves, and nobody can connect any more.
pub fn doctor_all_bound() -> Outcome {
    const PORTS: usize = 200;
    let netns = new()?;
    set(&netns, "ip_local_port_range", "20000 20199")?;
    let to = |n: usize| SocketAddr::from(([127, 0, 1, (n % 10 + 1) as u8], 8000));
    let listeners = traffic(&netns, || (0..10).map(|n| lives::listen(to(n))).collect::<io::Result<Vec<_>>>())?;
    let held = traffic(&netns, || (0..PORTS).map(|n| bound(to(n))).collect::<io::Result<Vec<_>>>())?;
    let one_more = traffic(&netns, || Ok((bound(to(0)).map(drop), lives::dial(to(0), None).map(drop))))?;
    let kinds = (one_more.0.map_err(|error| error.kind()), one_more.1.map_err(|error| error.kind()));
    if kinds != (Err(io::ErrorKind::AddrInUse), Err(io::ErrorKind::AddrNotAvailable)) {
        return Err(format!("bind() and connect(): {kinds:?}"));
    }
    let said = Said::of(&netns, &[])?;
    let finding = said.finds("ports.bound-first", "critical")?;
    let sentence = finding.0["sentence"].as_str().unwrap_or_default();
    if !sentence.starts_with("200 of 200 ports are bound by ") {
        return Err(sentence.to_owned());
    }
    drop((listeners, held));
    Ok(())
}

/// A service whose listener is closed, and a program with a range of its own: neither has bound its clients' ports.
pub fn doctor_not_bound() -> Outcome {
    let netns = new()?;
    set(&netns, "ip_local_port_range", "20000 20999")?;
    close(&netns, "127.0.0.1:20051", 120, First::Server)?;
    let said = Said::of(&netns, &[])?;
    said.lacks("ports.bound-first")?;
    // Whoever starts it again has to wait, or set SO_REUSEADDR.
    let finding = said.finds("binds.no-listener", "note")?;
    // A client that gets the port of an earlier one takes its TIME_WAIT over.
    if !finding.evidence("TIME_WAIT")?.as_u64().is_some_and(|count| (90..=120).contains(&count)) {
        return Err(format!("not about 120 TIME_WAITs: {:#}", finding.0));
    }
    agrees("TIME_WAIT", finding.evidence("TIME_WAIT")?, ss(&netns, &["state", "time-wait", "sport", "=", ":20051"])?)?;
    let left = finding.evidence("last TIME_WAIT gone in")?.as_u64();
    if !left.is_some_and(|seconds| (40..=61).contains(&seconds)) {
        return Err(format!("the last is gone in {left:?} s"));
    }
    let restarted = traffic(&netns, || {
        let plain = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let refused = plain.bind(&address("127.0.0.1:20051")?.into()).map_err(|error| error.kind());
        Ok((refused, lives::listen(address("127.0.0.1:20051")?)?))
    })?;
    if restarted.0 != Err(io::ErrorKind::AddrInUse) {
        return Err(format!("bind() without SO_REUSEADDR: {:?}", restarted.0));
    }
    let said = Said::of(&netns, &[])?;
    said.lacks("binds.no-listener")?;
    said.finds("binds.in-range", "note")?;

    // IP_LOCAL_PORT_RANGE, since Linux 6.3.
    const IP_LOCAL_PORT_RANGE: libc::c_int = 51;
    let within = || -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        lives::set_option(&socket, libc::SOL_IP, IP_LOCAL_PORT_RANGE, 20_399 << 16 | 20_201)?;
        socket.connect(&address(SERVICE)?.into())?;
        Ok(socket.into())
    };
    let listener = traffic(&netns, || lives::listen(address(SERVICE)?))?;
    match traffic(&netns, || Ok((0..150).map(|_| within()).collect::<io::Result<Vec<_>>>()))? {
        Ok(_held) => Said::of(&netns, &[])?.lacks("ports.bound-first")?,
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            crate::line("not tried: this kernel has no IP_LOCAL_PORT_RANGE");
        }
        Err(error) => return Err(format!("IP_LOCAL_PORT_RANGE: {error}")),
    }
    drop(listener);
    Ok(())
}

/// A listener inside the range, until its port is reserved by the line that is told.
pub fn doctor_in_range() -> Outcome {
    let netns = new()?;
    set(&netns, "ip_local_port_range", "20000 20099")?;
    set(&netns, "ip_local_reserved_ports", "20010-20012")?;
    let outside = traffic(&netns, || lives::listen(address(SERVICE)?))?;
    let said = Said::of(&netns, &[])?;
    said.finds("binds.free", "fine")?;
    let inside = traffic(&netns, || lives::listen(address("127.0.0.1:20051")?))?;
    let said = Said::of(&netns, &[])?;
    let finding = said.finds("binds.in-range", "note")?;
    let step = finding.0["do"][0].as_str().unwrap_or_default();
    let value = step.split("net.ipv4.ip_local_reserved_ports=").nth(1).and_then(|rest| rest.split(' ').next());
    if value != Some("20010-20012,20051") {
        return Err(format!("the line is {step}"));
    }
    set(&netns, "ip_local_reserved_ports", value.unwrap_or_default())?;
    Said::of(&netns, &[])?.finds("binds.free", "fine")?;
    drop((outside, inside));
    Ok(())
}

/// The ports are held by what is not in TIME_WAIT: the finding says so, and so does the next step.
pub fn doctor_ports_by_state() -> Outcome {
    let netns = new()?;
    set(&netns, "ip_local_port_range", "20000 20099")?;
    set(&netns, "tcp_fin_timeout", "1")?;
    let clients = traffic(&netns, || {
        let listener = lives::listen(address(SERVICE)?)?;
        (0..100).map(|_| Ok(lives::connect(&listener, None)?.client)).collect::<io::Result<Vec<_>>>()
    })?;
    until("CLOSE_WAIT", || Ok(listed(&netns, &StateFlags::CLOSE_WAIT)? == 100))?;
    agrees("CLOSE_WAIT", &100.into(), ss(&netns, &["state", "close-wait"])?)?;
    let said = Said::of(&netns, &[])?;
    let finding = said.finds("ports.exhausted", "critical")?;
    finding.shows("CLOSE_WAIT", 100)?;
    let step = finding.0["do"][0].as_str().unwrap_or_default();
    if !step.contains("call close() when read() returns 0") {
        return Err(format!("the next step is {step}"));
    }
    drop(clients);
    Ok(())
}

/// A connection from a port that bind() chose.
fn bound(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.connect(&to.into())?;
    Ok(socket)
}
