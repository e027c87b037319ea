//! The lab's stage for traffic that the real `twtrace run` watches, and the lab's judge for the JSON lines that it writes.

use std::{
    io,
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use twtrace::{
    host::{clock::monotonic_ns, netns::Netns},
    lab::{
        judge::{self, Knows, Made},
        runner,
        scenarios::{Play, Scenario},
        stage::{Family, First, Stage, Stop},
        want::Turn,
    },
    model::event::{Event, Substate},
    traffic::oracle::{Look, Looks},
};

use crate::tracer::{PATIENCE, traffic};

/// Nothing moves for so long: the softirqs are through.
const REST: Duration = Duration::from_millis(100);

/// A stage, and the kernel's word on its namespace from before.
pub struct Scene<'a> {
    pub stage: Stage<'a>,
    before: Look,
}

/// A namespace like those of the lab's scenarios.
pub fn fresh() -> Result<Netns, String> {
    let netns = Netns::new().map_err(|error| format!("a network namespace: {error}"))?;
    traffic(&netns, runner::set_up)?;
    Ok(netns)
}

impl<'a> Scene<'a> {
    pub fn new(netns: &'a Netns) -> Result<Self, String> {
        traffic(netns, || Ok(Self { stage: Stage::new(netns, Vec::new())?, before: Look::take()? }))
    }

    /// Makes traffic on the stage.
    pub fn act<T: Send>(&mut self, work: impl FnOnce(&mut Stage<'a>) -> io::Result<T> + Send) -> Result<T, String> {
        let netns = self.stage.netns;
        traffic(netns, || work(&mut self.stage))
    }

    /// Plays one of the lab's scenarios. False if this kernel cannot do it.
    pub fn play(&mut self, scenario: &Scenario) -> Result<bool, String> {
        let Play::Beside(play) = scenario.play else {
            return Err(format!("{} brings its own tracer", scenario.name));
        };
        match self.act(|stage| Ok(play(stage)))? {
            Ok(()) => Ok(true),
            Err(Stop::NotHere(reason)) => {
                crate::line(&format!("not here: {}: {reason}", scenario.name));
                Ok(false)
            }
            Err(Stop::Failed(error)) => Err(format!("making {}: {error}", scenario.name)),
        }
    }

    /// Listens on IPv4.
    pub fn listen(&mut self) -> Result<TcpListener, String> {
        self.act(|stage| stage.listen(Family::V4))
    }

    /// `count` lives on IPv4 that one end closes first.
    pub fn live(&mut self, listener: &TcpListener, first: First, count: usize) -> Result<(), String> {
        self.act(|stage| (0..count).try_for_each(|_| stage.live(listener, Family::V4, first).map(drop)))
    }

    /// What was made, with the kernel's word on it, once nothing moves. A FIN that met its socket on the way into FIN_WAIT2
    /// is sent again, after longer than a rest: it is waited for.
    pub fn end(mut self) -> Result<Made, String> {
        let deadline = Instant::now() + PATIENCE;
        let after = self.act(|stage| {
            let turns =
                |tuple| stage.made.wants.iter().any(|want| want.tuple == tuple && want.turn == Turn::IfFinWait2);
            let turning = |look: &Look| {
                look.minisocks.iter().any(|&(tuple, substate)| substate == Substate::FinWait2 && turns(tuple))
            };
            let mut last = Look::take()?;
            loop {
                thread::sleep(REST);
                let look = Look::take()?;
                if look == last && !turning(&look) || Instant::now() > deadline {
                    return Ok(look);
                }
                last = look;
            }
        })?;
        let mut made = self.stage.made;
        // What TcpExt TW counts here is the tracer's to find out: see the summary's reconcile.
        made.looks = Some(Looks { before: self.before, after, tw_counts: None });
        made.until_ns = monotonic_ns();
        Ok(made)
    }
}

/// What a tracer can know, from its `start` line.
pub fn knows(start: &Value) -> Knows {
    let backend = |name: &str| &start["capabilities"][name]["backend"];
    Knows {
        turns_late: backend("turn") == "tracepoint",
        no_port: !backend("no_port").is_null(),
        reuse_denied: !backend("reuse_denied").is_null(),
        no_bind: !backend("no_bind").is_null(),
    }
}

/// The lab's verdict on what was told of what was made.
pub fn judge(made: &Made, events: &[Event], knows: Knows) -> Result<(), String> {
    let verdict = judge::judge(made, events, knows);
    if verdict.is_good() {
        return Ok(());
    }
    let differences: Vec<String> = verdict
        .differences
        .iter()
        .map(|it| format!("\n  {} should be {}, is {}", it.what, it.expected, it.seen))
        .collect();
    Err(format!("{} of {} checks differ:{}", verdict.differ, verdict.checks, differences.concat()))
}
