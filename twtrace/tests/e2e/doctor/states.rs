//! Which states pile up.

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream},
};

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use twtrace::{
    host::netns::Netns,
    traffic::{
        lives::{self, Pair},
        segment::{Hears, Kind, Segment, hear},
    },
};

use super::{First, Outcome, SERVICE, Said, address, agrees, close, new, other, set, ss, until};
use crate::tracer::traffic;

/// Enough for a warning.
const PILE: usize = 130;

fn pairs(listener: &TcpListener, count: usize) -> io::Result<Vec<Pair>> {
    (0..count).map(|_| lives::connect(listener, None)).collect()
}

/// The row of a state in the table of the namespace.
fn row<'a>(said: &'a Said, state: &str) -> Option<&'a Value> {
    said.0["sockets"][0]["states"].as_array().into_iter().flatten().find(|row| row["state"] == state)
}

/// How many sockets of a state this process holds, by the table.
fn own(said: &Said, state: &str) -> Option<u64> {
    let owners = row(said, state)?["owners"].as_array()?;
    owners.iter().find(|owner| owner["pid"] == std::process::id())?["sockets"].as_u64()
}

/// The table is that of `ss`, and a handful in passing is no pile.
pub fn doctor_table() -> Outcome {
    let netns = new()?;
    close(&netns, "127.0.0.1:8001", 10, First::Client)?;
    let kept = traffic(&netns, || {
        let listener = lives::listen(address(SERVICE)?)?;
        let open = pairs(&listener, 30)?;
        // Closed by the client, and not by the server; by the server, and not by the client.
        let leaked: Vec<TcpStream> = pairs(&listener, 5)?.into_iter().map(|pair| pair.server).collect();
        let half = pairs(&listener, 3)?;
        half.iter().try_for_each(|pair| pair.server.shutdown(Shutdown::Write))?;
        Ok((listener, open, leaked, half))
    })?;
    // A peer that enters CLOSE_WAIT may keep its ACK back for 40 ms (net/ipv4/tcp_input.c, tcp_fin).
    until("acknowledgement of the FINs", || Ok(row(&Said::of(&netns, &[])?, "FIN-WAIT-1").is_none()))?;
    let said = Said::of(&netns, &[])?;
    said.finds("states.fine", "fine")?;
    said.lacks("states.close-wait")?;
    let mut told = 0;
    for (state, name) in [
        ("LISTEN", "listening"),
        ("SYN-SENT", "syn-sent"),
        ("SYN-RECV", "syn-recv"),
        ("ESTAB", "established"),
        ("CLOSE-WAIT", "close-wait"),
        ("FIN-WAIT-1", "fin-wait-1"),
        ("FIN-WAIT-2", "fin-wait-2"),
        ("CLOSING", "closing"),
        ("LAST-ACK", "last-ack"),
        ("TIME-WAIT", "time-wait"),
    ] {
        let count = row(&said, state).map_or(0, |row| row["sockets"].as_u64().unwrap_or(u64::MAX));
        agrees(state, &count.into(), ss(&netns, &["state", name])?)?;
        told += count;
    }
    // 1 listener; 60 ends of the open ones; 5 that leaked and their 5 peers; 3 half closed and their 3 peers; 10 that end.
    if told != 87 || said.0["sockets"][0]["sockets"] != 87 {
        return Err(format!("{told} sockets: {said}"));
    }
    if (own(&said, "ESTAB"), own(&said, "CLOSE-WAIT")) != (Some(60), Some(8)) {
        return Err(format!("the owner is not told: {said}"));
    }
    if let Some(text) = other(&netns, "ss", &["-s"])? {
        let count = |state| row(&said, state).and_then(|row| row["sockets"].as_u64()).unwrap_or_default();
        // Tcp CurrEstab, which has those in CLOSE_WAIT too.
        let ours = format!("estab {}", count("ESTAB") + count("CLOSE-WAIT"));
        let minisocks: u64 =
            ["FIN-WAIT-2", "TIME-WAIT"].iter().filter_map(|state| row(&said, state)?["minisocks"].as_u64()).sum();
        if !text.contains(&ours) || !text.contains(&format!("timewait {minisocks}")) {
            return Err(format!("ss -s says {text}, and not {ours}, timewait {minisocks}"));
        }
    }
    drop(kept);
    Ok(())
}

/// Programs that do not close: CLOSE_WAIT, and FIN_WAIT2 after shutdown().
pub fn doctor_held_states() -> Outcome {
    let netns = new()?;
    let (listener, leaked) = traffic(&netns, || {
        let listener = lives::listen(address(SERVICE)?)?;
        let leaked: Vec<TcpStream> = pairs(&listener, PILE)?.into_iter().map(|pair| pair.server).collect();
        Ok((listener, leaked))
    })?;
    // Not before they have been silent for a second.
    until("pile of CLOSE_WAIT", || Ok(Said::of(&netns, &[])?.finds("states.close-wait", "warning").is_ok()))?;
    let said = Said::of(&netns, &[])?;
    let finding = said.finds("states.close-wait", "warning")?;
    finding.shows("CLOSE_WAIT", PILE)?;
    finding.shows("accepted at 127.0.0.1:8000", PILE)?;
    let sentence = finding.0["sentence"].as_str().unwrap_or_default();
    if !sentence.contains(&format!("({}) has {PILE} connections", std::process::id())) {
        return Err(format!("not this process: {sentence}"));
    }
    agrees("CLOSE_WAIT", finding.evidence("CLOSE_WAIT")?, ss(&netns, &["state", "close-wait"])?)?;
    said.lacks("states.fin-wait2-held")?;
    said.lacks("states.fine")?;
    drop(leaked);
    until("end of CLOSE_WAIT", || Ok(Said::of(&netns, &[])?.lacks("states.close-wait").is_ok()))?;

    let half = traffic(&netns, || {
        let half = pairs(&listener, PILE)?;
        half.iter().try_for_each(|pair| pair.client.shutdown(Shutdown::Write))?;
        Ok(half)
    })?;
    set(&netns, "tcp_fin_timeout", "1")?;
    until("pile of FIN_WAIT2", || Ok(Said::of(&netns, &[])?.finds("states.fin-wait2-held", "warning").is_ok()))?;
    Said::of(&netns, &[])?.finds("states.fin-wait2-held", "warning")?.shows("opened to 127.0.0.1:8000", PILE)?;
    drop(half);
    until("end of FIN_WAIT2", || Ok(Said::of(&netns, &[])?.lacks("states.fin-wait2-held").is_ok()))
}

/// Peers that do not read: what was closed here waits for them.
pub fn doctor_stuck_states() -> Outcome {
    let netns = new()?;
    // Full buffers of all of them are not to be more memory than TCP may take.
    set(&netns, "tcp_rmem", "4096 65536 65536")?;
    set(&netns, "tcp_wmem", "4096 65536 65536")?;
    let kept = traffic(&netns, || {
        let listener = lives::listen(address(SERVICE)?)?;
        let clients = (0..PILE).map(|_| {
            let Pair { client, mut server } = lives::connect(&listener, None)?;
            server.set_nonblocking(true)?;
            let chunk = [0; 16 << 10];
            while server.write(&chunk).is_ok() {}
            Ok(client)
        });
        clients.collect::<io::Result<Vec<_>>>()
    })?;
    until("pile of FIN_WAIT1", || Ok(Said::of(&netns, &[])?.finds("states.closing", "warning").is_ok()))?;
    until("all of them", || {
        let said = Said::of(&netns, &[])?;
        // Some kernels drop what does not fit into the peer's buffer, and then send again, before the window is zero.
        Ok(said.finds("states.closing", "warning").is_ok_and(|finding| finding.shows("FIN_WAIT1", PILE).is_ok()))
    })?;
    let said = Said::of(&netns, &[])?;
    let finding = said.finds("states.closing", "warning")?;
    finding.shows("held by no process", PILE)?;
    agrees("FIN_WAIT1", finding.evidence("FIN_WAIT1")?, ss(&netns, &["state", "fin-wait-1"])?)?;
    drop(kept);
    until("end of FIN_WAIT1", || Ok(Said::of(&netns, &[])?.lacks("states.closing").is_ok()))
}

/// Who does not answer: a peer, and clients.
pub fn doctor_unanswered() -> Outcome {
    let netns = new()?;
    let listener = traffic(&netns, || lives::listen(address(SERVICE)?))?;
    deaf(&netns, |netns| {
        let waiting = traffic(netns, || {
            (0..PILE)
                .map(|_| {
                    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                    socket.set_nonblocking(true)?;
                    match socket.connect(&address("127.0.0.1:9")?.into()) {
                        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
                        other => Err(io::Error::other(format!("connect() to nobody: {other:?}"))),
                    }
                })
                .collect::<io::Result<Vec<_>>>()
        })?;
        until("pile of SYN_SENT", || Ok(Said::of(netns, &[])?.finds("states.syn-sent", "warning").is_ok()))?;
        let said = Said::of(netns, &[])?;
        let finding = said.finds("states.syn-sent", "warning")?;
        finding.shows("SYN_SENT", PILE)?;
        agrees("SYN_SENT", finding.evidence("SYN_SENT")?, ss(netns, &["state", "syn-sent"])?)?;
        drop(waiting);
        until("end of SYN_SENT", || Ok(Said::of(netns, &[])?.lacks("states.syn-sent").is_ok()))?;

        // SYNs from where no answer comes, far fewer than may wait.
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8000);
        let count = u8::try_from(PILE).map_err(|error| error.to_string())?;
        traffic(netns, || {
            (1..=count).try_for_each(|host| {
                let from = SocketAddrV4::new(Ipv4Addr::new(127, 1, 0, host), 9);
                Segment { from, to, seq: 1000, ack: 0, kind: Kind::Syn }.send()
            })
        })?;
        until("pile of SYN_RECV", || Ok(Said::of(netns, &[])?.finds("states.syn-recv", "warning").is_ok()))?;
        let said = Said::of(netns, &[])?;
        let finding = said.finds("states.syn-recv", "warning")?;
        finding.shows("SYN_RECV", PILE)?;
        agrees("SYN_RECV", finding.evidence("SYN_RECV")?, ss(netns, &["state", "syn-recv"])?)
    })?;
    drop(listener);
    Ok(())
}

/// Something is bound at port 9 and hears nothing: the kernel resets nothing there.
fn deaf(netns: &Netns, work: impl FnOnce(&Netns) -> Outcome) -> Outcome {
    let _deaf = traffic(netns, || {
        let deaf = lives::listen(address("0.0.0.0:9")?)?;
        hear(&deaf, Hears::Nothing)?;
        Ok(deaf)
    })?;
    work(netns)
}
