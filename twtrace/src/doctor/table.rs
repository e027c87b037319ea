//! The table of all sockets, by state and by who holds them.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;
use unicode_width::UnicodeWidthStr as _;

use super::facts::{Facts, Namespace};
use crate::{
    host::{
        diag::{TCP_FIN_WAIT2, TCP_LISTEN},
        sockets::Sample,
        states::NAMES,
    },
    show::human::Plain,
};

/// Processes that are told of each state.
const TOP: usize = 5;

/// The TCP sockets of one network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Table {
    /// The namespace, by its inode number.
    pub netns: u32,
    /// All sockets, minisocks included.
    pub sockets: u64,
    /// Sockets after close() that are not closed yet, of the whole machine (sockstat `orphan`); null if that was not read.
    pub orphans: Option<u64>,
    /// The states that there are sockets in, in the order of a connection's life.
    pub states: Vec<Row>,
}

/// The sockets in one state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Row {
    /// The state, as `ss` writes it: `ESTAB`, `FIN-WAIT-2`.
    pub state: String,
    /// All of them.
    pub sockets: u64,
    /// Of these: minisocks, in TIME-WAIT and FIN-WAIT-2.
    pub minisocks: u64,
    /// Of these: full sockets that no process holds: orphans, requests, or connections that wait for accept().
    pub unheld: u64,
    /// The processes that hold most of them.
    pub owners: Vec<Holder>,
    /// Full sockets that a process holds and of which it is not known which, or not among those told.
    pub others: u64,
}

/// A process that holds sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Name of the process.
    pub comm: String,
    /// Sockets that it holds in this state; at least so many where there are more than were looked at one by one.
    pub sockets: u64,
}

impl Table {
    /// The table of each namespace.
    #[must_use]
    pub fn all(facts: &Facts) -> Vec<Self> {
        facts.namespaces.iter().map(|namespace| Self::of(facts, namespace)).collect()
    }

    fn of(facts: &Facts, namespace: &Namespace) -> Self {
        let sockets = &namespace.sockets;
        let mut states: Vec<Row> = NAMES
            .iter()
            .map(|(state, name)| {
                let minisocks = if *state == TCP_FIN_WAIT2 { sockets.fin_wait2 } else { 0 };
                row(facts, namespace, *state, name, minisocks)
            })
            .collect();
        states.push(Row {
            state: "TIME-WAIT".to_owned(),
            sockets: sockets.time_wait,
            minisocks: sockets.time_wait,
            unheld: 0,
            owners: Vec::new(),
            others: 0,
        });
        states.retain(|row| row.sockets > 0);
        Self {
            netns: namespace.inum,
            sockets: states.iter().map(|row| row.sockets).sum(),
            orphans: namespace.sockstat.as_ref().map(|sockstat| sockstat.orphan),
            states,
        }
    }
}

fn row(facts: &Facts, namespace: &Namespace, state: u8, name: &str, minisocks: u64) -> Row {
    let sockets = &namespace.sockets;
    let listening: Vec<Sample>;
    let samples: &[Sample] = if state == TCP_LISTEN {
        listening = sockets.listeners.iter().map(|listener| listener.sample()).collect();
        &listening
    } else {
        &sockets.samples
    };
    let held = samples.iter().filter(|sample| sample.state == state && sample.inode != 0);
    let owners: Vec<Holder> = facts
        .machine
        .owners(held)
        .into_iter()
        .filter_map(|(owner, count)| owner.map(|owner| (owner, count)))
        .take(TOP)
        .map(|(owner, sockets)| Holder { pid: owner.pid, comm: owner.comm.to_owned(), sockets })
        .collect();
    let told: u64 = owners.iter().map(|owner| owner.sockets).sum();
    Row {
        state: name.to_owned(),
        sockets: sockets.states.of(state) + minisocks,
        minisocks,
        unheld: sockets.states.unheld(state),
        others: sockets.states.held(state).saturating_sub(told),
        owners,
    }
}

/// The tables for people, with what each namespace is called; empty where there are no sockets.
#[must_use]
pub fn text(tables: &[Table], called: impl Fn(u32) -> String) -> String {
    let mut out = String::new();
    for table in tables.iter().filter(|table| table.sockets > 0) {
        let place = if tables.len() > 1 { format!(" of namespace {}", called(table.netns)) } else { String::new() };
        let _ = writeln!(out, "\nSockets{}:", Plain(&place));
        let names = table.states.iter().map(|row| row.state.width()).max().unwrap_or(0);
        let counts = table.states.iter().map(|row| row.sockets.to_string().len()).max().unwrap_or(0);
        for row in &table.states {
            let line = format!("  {:names$}  {:>counts$}  {}", row.state, row.sockets, held_by(row));
            let _ = writeln!(out, "{}", Plain(line.trim_end()));
        }
    }
    out
}

fn held_by(row: &Row) -> String {
    let mut parts: Vec<String> =
        row.owners.iter().map(|owner| format!("{} ({}) {}", owner.comm, owner.pid, owner.sockets)).collect();
    if row.others > 0 && !parts.is_empty() {
        parts.push(format!("others {}", row.others));
    }
    if row.unheld > 0 && row.unheld + row.minisocks < row.sockets {
        parts.push(format!("no process {}", row.unheld));
    }
    if row.minisocks > 0 && row.minisocks < row.sockets {
        parts.push(format!("minisocks {}", row.minisocks));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests;
