//! What minisocks cost.

use std::io;

use twtrace::traffic::lives::{self, Pair};

use super::{First, Outcome, SERVICE, Said, address, agrees, amid, close, new, nstat, set, ss, until};
use crate::tracer::traffic;

/// Buckets fill, overflow, and have room again.
pub fn doctor_cost() -> Outcome {
    let netns = new()?;
    let said = Said::of(&netns, &[])?;
    said.finds("cost.harmless", "fine")?.shows("TIME_WAIT", 0)?;

    close(&netns, SERVICE, 50, First::Client)?;
    let said = Said::of(&netns, &[])?;
    let finding = said.finds("cost.harmless", "fine")?;
    finding.shows("TIME_WAIT", 50)?;
    finding.shows("tw", 50)?;
    agrees("TIME_WAIT", finding.evidence("TIME_WAIT")?, ss(&netns, &["state", "time-wait"])?)?;

    set(&netns, "tcp_max_tw_buckets", "60")?;
    let said = Said::of(&netns, &[])?;
    said.finds("cost.buckets", "warning")?.shows("tcp_max_tw_buckets", 60)?;
    said.lacks("cost.harmless")?;

    close(&netns, "127.0.0.1:8001", 25, First::Client)?;
    let said = Said::of(&netns, &[])?;
    // All of them are taken, and fifteen were refused before anybody looked.
    let finding = said.finds("cost.buckets", "warning")?;
    finding.shows("tw", 60)?;
    finding.shows("TCPTimeWaitOverflow", 15)?;
    finding.shows("TCPTimeWaitOverflow now", 0.0)?;
    let theirs = nstat(&netns, "TcpExtTCPTimeWaitOverflow")?;
    agrees("TCPTimeWaitOverflow", finding.evidence("TCPTimeWaitOverflow")?, theirs)?;

    let said = amid(&netns, "127.0.0.1:8002", || Said::of(&netns, &[]))?;
    said.finds("cost.overflow", "warning")?;

    set(&netns, "tcp_max_tw_buckets", "10000")?;
    let said = Said::of(&netns, &[])?;
    said.finds("cost.overflow", "note")?;
    said.finds("cost.harmless", "fine")?;
    said.lacks("cost.buckets")
}

/// Peers that do not close, and then do.
pub fn doctor_fin_wait2() -> Outcome {
    let netns = new()?;
    let servers = traffic(&netns, || {
        let listener = lives::listen(address(SERVICE)?)?;
        (0..120)
            .map(|_| {
                let Pair { client, server } = lives::connect(&listener, None)?;
                drop(client);
                Ok(server)
            })
            .collect::<io::Result<Vec<_>>>()
    })?;
    // An ACK that meets a socket that is being closed leaves a full one for a while: both kinds are told.
    until("end of the closing", || {
        let said = Said::of(&netns, &[])?;
        let Ok(finding) = said.finds("cost.fin-wait2", "warning") else { return Ok(false) };
        let (minisocks, full) = (finding.evidence("FIN_WAIT2")?, finding.evidence("FIN_WAIT2 orphans")?);
        let all = minisocks.as_u64().zip(full.as_u64()).map(|(minisocks, full)| minisocks + full);
        if all == Some(120) {
            agrees("FIN_WAIT2", &120.into(), ss(&netns, &["state", "fin-wait-2"])?)?;
        }
        Ok(all == Some(120))
    })?;
    traffic(&netns, || servers.into_iter().try_for_each(|mut server| lives::expect_end(&mut server)))?;
    until("end of the waiting", || Ok(Said::of(&netns, &[])?.lacks("cost.fin-wait2").is_ok()))
}
