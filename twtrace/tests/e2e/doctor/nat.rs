//! A source NAT whose ports are used up, on loopback: the table has room, and connections fail.

use std::{
    io,
    process::{Command, Stdio},
};

use socket2::{Domain, Socket, Type};
use twtrace::host::{Host, conntrack, netns::Netns};

use super::{Outcome, SERVICE, Said, address, new, other, until};
use crate::tracer::traffic;

const ID: &str = "conntrack.nat-ports";
/// Connections that are opened.
const TRIED: u64 = 30;
/// Ports that the narrow range has.
const PORTS: u64 = 20;

/// Why there is no NAT; `None` if there is.
pub fn missing() -> Option<String> {
    let mut command = Command::new("nft");
    let asked = command.arg("-v").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !asked.is_ok_and(|status| status.success()) {
        return Some("there is no nft here".to_owned());
    }
    let netns = new();
    netns.and_then(|netns| translated(&netns, "40000-40019").map(drop)).err()
}

/// Thirty connections through twenty ports, and then through as many as are needed.
pub fn doctor_nat_ports() -> Outcome {
    let netns = new()?;
    let _open = translated(&netns, "40000-40019")?;
    let dropped = || netns.run(|| Ok(conntrack::counts(&Host::default()).map_or(0, |stats| stats.clashes())));
    until("packets that are dropped", || Ok(dropped().map_err(|error| error.to_string())? >= TRIED - PORTS))?;
    let said = Said::of(&netns, &[])?;
    // Clients try again; whether they do so while the doctor looks is theirs.
    let finding = said.finds(ID, "critical").or_else(|_| said.finds(ID, "warning"))?;
    let sentence = finding.0["sentence"].as_str().unwrap_or_default();
    let expected = "NAT has no free port from 127.0.0.9 to 127.0.0.1:8000 (tcp): 20 of 20 ports taken (40000-40019); ";
    if !sentence.starts_with(expected) {
        return Err(format!("{sentence}, and not {expected}"));
    }
    finding.shows("ports taken from 127.0.0.9 to 127.0.0.1:8000", PORTS)?;
    let step = finding.0["do"][0].as_str().unwrap_or_default();
    if !step.starts_with("masquerade to :1024-65535") {
        return Err(format!("the first step is: {step}"));
    }
    said.lacks("conntrack.room")?;

    // The same with ports to spare: nothing is dropped, and nothing is told.
    let wide = new()?;
    let _open = translated(&wide, "40000-41000")?;
    let said = Said::of(&wide, &[])?;
    said.lacks(ID)?;
    said.lacks("conntrack.clash")?;
    said.finds("conntrack.room", "fine").map(drop)
}

/// A listener and connections to it, whose ports NAT takes from this range.
fn translated(netns: &Netns, range: &str) -> Result<Vec<Socket>, String> {
    let rules = format!(
        "add table ip t; add chain ip t post {{ type nat hook postrouting priority 100; }}; \
         add rule ip t post tcp dport 8000 snat to 127.0.0.9:{range}"
    );
    other(netns, "nft", &[&rules])?;
    traffic(netns, || {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&address(SERVICE)?.into())?;
        listener.listen(128)?;
        let knock = |_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            match socket.connect(&address(SERVICE)?.into()) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
                _ => Ok(socket),
            }
        };
        let mut open = (0..TRIED).map(knock).collect::<io::Result<Vec<_>>>()?;
        open.push(listener);
        Ok(open)
    })
}
