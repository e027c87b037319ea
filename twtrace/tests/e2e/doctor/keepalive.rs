//! What keepalive would save: short connections, as long as they come.

use std::{
    net::TcpListener,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use twtrace::traffic::lives;

use super::{Finding, First, Outcome, SERVICE, Said, address, amid, close, new, other, set, until};
use crate::{inside::Resident, tracer::traffic};

const SHORT: &str = "keepalive.short-connections";
const PEER: &str = "keepalive.peer-closes";

/// Found while they come, and not any more when they have ended, though their TIME_WAITs are still there.
pub fn doctor_keepalive() -> Outcome {
    let netns = new()?;
    let mut said = Said::of(&netns, &[])?;
    said.finds("keepalive.enough", "fine")?;
    amid(&netns, SERVICE, || {
        // An emulated machine among others makes fewer than ten a second at times.
        until("finding amid short connections", || {
            said = Said::of(&netns, &[])?;
            Ok(short(&said).is_ok())
        })
    })?;
    let finding = short(&said)?;
    finding.shows("closed first by", "the client")?;
    let rate = finding.evidence("TIME_WAITs begun")?.as_f64();
    if rate.is_none_or(|rate| rate < 10.0) {
        return Err(format!("{rate:?} per second"));
    }
    until("end of the short connections", || Ok(Said::of(&netns, &[])?.finds("keepalive.enough", "fine").is_ok()))?;
    let said = Said::of(&netns, &[])?;
    match said.finds("cost.harmless", "fine")?.evidence("TIME_WAIT")?.as_u64() {
        Some(left) if left > 0 => Ok(()),
        left => Err(format!("{left:?} TIME_WAITs are left")),
    }
}

/// As a note or, with enough of them, as a warning.
fn short(said: &Said) -> Result<Finding<'_>, String> {
    said.finds(SHORT, "warning").or_else(|_| said.finds(SHORT, "note"))
}

/// Why no two namespaces can be joined here; `None` if they can.
pub fn missing() -> Option<String> {
    let mut ip = Command::new("ip");
    let ran = ip.arg("-V").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.is_err().then(|| "there is no ip (iproute2) here".to_owned())
}

/// A server elsewhere that closes first: nothing is left of it where the connections are opened, and all of it where they
/// are accepted.
pub fn doctor_peer_closes() -> Outcome {
    let (here, there) = (new()?, new()?);
    let resident = Resident::of(&there)?;
    let pid = resident.pid().to_string();
    let ip = |netns, words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        other(netns, "ip", &words)?.map(drop).ok_or("there is no ip".to_owned())
    };
    ip(&here, &format!("link add here type veth peer name there netns {pid}"))?;
    ip(&here, "addr add 10.9.0.1/24 dev here")?;
    ip(&there, "addr add 10.9.0.2/24 dev there")?;
    ip(&here, "link set here up")?;
    ip(&there, "link set there up")?;

    let listener = traffic(&there, || TcpListener::bind("10.9.0.2:8000"))?;
    let is_over = AtomicBool::new(false);
    let (opening, accepting) = thread::scope(|scope| {
        let served = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let (server, _) = listener.accept()?;
                drop(server);
            }
            Ok(())
        });
        let opened = scope.spawn(|| {
            here.run(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let mut client = lives::dial(address("10.9.0.2:8000")?, None)?;
                    lives::expect_end(&mut client)?;
                    thread::sleep(Duration::from_millis(2));
                }
                // The one that the server may wait for.
                lives::dial(address("10.9.0.2:8000")?, None).map(drop)
            })
        });
        thread::sleep(Duration::from_secs(1));
        let said = (Said::of(&here, &[]), Said::of(&there, &[]));
        is_over.store(true, Ordering::Relaxed);
        for (what, thread) in [("opening", opened), ("serving", served)] {
            let ended = thread.join().map_err(|_| format!("the {what} thread panicked"))?;
            ended.map_err(|error| format!("{what}: {error}"))?;
        }
        Ok::<_, String>(said)
    })?;
    let (opening, accepting) = (opening?, accepting?);
    let finding = opening.finds(PEER, "warning").or_else(|_| opening.finds(PEER, "note"))?;
    // On a slow machine none of them is seen.
    let sentence = finding.0["sentence"].to_string();
    if finding.evidence("short ones open at a time").is_ok() && !sentence.contains("10.9.0.2:8000") {
        return Err(format!("it does not tell where they go: {}", finding.0));
    }
    opening.lacks(SHORT)?;
    let finding = short(&accepting)?;
    finding.shows("closed first by", "the server")?;
    accepting.lacks(PEER)?;
    until("end of the connections", || Ok(Said::of(&here, &[])?.lacks(PEER).is_ok()))
}

/// All ports to a service are held by TIME_WAITs, and no connection begins any more: what held them is told, and never that
/// there is nothing.
pub fn doctor_stuck() -> Outcome {
    let netns = new()?;
    set(&netns, "ip_local_port_range", "40000 40199")?;
    set(&netns, "tcp_tw_reuse", "0")?;
    close(&netns, SERVICE, 200, First::Client)?;
    // While the last is younger than a second, its rate is told in place of how many there are.
    until("TIME_WAITs of which none is young", || {
        let said = Said::of(&netns, &[])?;
        said.finds("ports.exhausted", "critical")?;
        let finding = said.finds(SHORT, "warning")?;
        said.lacks("keepalive.enough")?;
        if finding.evidence("TIME_WAIT").is_err() {
            return finding.evidence("TIME_WAITs begun").map(|_| false);
        }
        finding.shows("TIME_WAIT", 200).map(|()| true)
    })?;
    // Ports for others: what is left is no more than that.
    set(&netns, "ip_local_port_range", "40000 49999")?;
    until("word of the end", || {
        let said = Said::of(&netns, &[])?;
        let sentence = said.finds("keepalive.enough", "fine")?.0["sentence"].to_string();
        Ok(sentence.contains("have ended: the last of 200 TIME_WAITs"))
    })
}

/// Buckets are full, so hardly a TIME_WAIT begins, while connections come and go.
pub fn doctor_full_buckets() -> Outcome {
    let netns = new()?;
    set(&netns, "tcp_max_tw_buckets", "64")?;
    amid(&netns, SERVICE, || {
        until("finding with full buckets", || {
            let said = Said::of(&netns, &[])?;
            let is_full = said.finds("cost.overflow", "warning").is_ok();
            if is_full && said.finding("keepalive.enough").is_some() {
                return Err(format!("it denies what it counted: {said}"));
            }
            Ok(is_full && short(&said).is_ok())
        })
    })
}
