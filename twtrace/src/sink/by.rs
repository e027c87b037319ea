//! The tables as a report: what `--by` adds to text and JSON.

use std::fmt::{Display, Write};

use serde::Serialize;

use crate::{
    model::{
        aggregate::{
            Aggregates, CgroupName, DestinationRow, OwnerRow, PortRow, ProcessName,
            other::{OtherDestinations, OtherOwners, OtherPorts},
        },
        buckets::Buckets,
        happening::Tick,
    },
    show::{
        columns::{Row, table},
        human::{Known, Many},
        whose,
    },
};

/// What a table is by: the words of `--by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Service ports.
    Port,
    /// Destinations.
    Destination,
    /// Processes, and cgroups.
    Owner,
}

impl Group {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Port, Self::Destination, Self::Owner];

    /// The word on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Destination => "dest",
            Self::Owner => "owner",
        }
    }
}

/// What is shown of the tables.
#[derive(Clone, Debug)]
pub struct Reporter {
    /// Which of them.
    pub groups: Vec<Group>,
    /// How many rows of each.
    pub top: usize,
}

/// The JSON field `by`; a table that was not asked for is null.
#[derive(Debug, Serialize)]
pub struct By {
    /// By service port.
    pub ports: Option<Part<PortRow, OtherPorts>>,
    /// By destination.
    pub destinations: Option<Part<DestinationRow, OtherDestinations>>,
    /// Open connections that are not in the destinations' rows.
    pub connections_left_out: Option<u64>,
    /// By process that closed.
    pub processes: Option<Part<OwnerRow<ProcessName>, OtherOwners>>,
    /// By cgroup of it.
    pub cgroups: Option<Part<OwnerRow<CgroupName>, OtherOwners>>,
}

/// The first rows of a table.
#[derive(Debug, Serialize)]
pub struct Part<R, O> {
    /// As they are sorted: the largest first.
    pub rows: Vec<R>,
    /// How many rows there are.
    pub total: usize,
    /// How many had to go, because the table was full.
    pub evicted: u64,
    /// What those held.
    pub other: Option<O>,
}

impl<R: Row, O: Held> Part<R, O> {
    fn of(mut rows: Vec<R>, top: usize, evicted: u64, other: Option<O>) -> Self {
        let total = rows.len();
        R::sort(&mut rows, R::SORTED_BY, true);
        rows.truncate(top);
        Self { rows, total, evicted, other }
    }

    fn text(&self) -> String {
        let evicted = if self.evicted > 0 { format!(", {} evicted", self.evicted) } else { String::new() };
        let other = self.other.as_ref().map_or_else(String::new, |other| format!("other: {}\n", other.said()));
        format!("{}: {} of {}{evicted}\n{}{other}", R::NAME, self.rows.len(), self.total, table(&self.rows))
    }
}

/// What evicted rows held, in words.
pub trait Held {
    /// The counts, in the order of their columns.
    fn said(&self) -> String;
}

impl Held for OtherPorts {
    fn said(&self) -> String {
        format!("{} live, {} born, {} died, {} refused", self.live, self.born, self.died.all(), self.refused)
    }
}

impl Held for OtherDestinations {
    fn said(&self) -> String {
        let Self { time_wait, born, refused, no_port, passive, .. } = self;
        format!("{time_wait} live, {born} born, {refused} refused, {no_port} no port, {passive} passive")
    }
}

impl Held for OtherOwners {
    fn said(&self) -> String {
        format!("{} live, {} born, {} refused, {} no port", self.live, self.born, self.refused, self.no_port)
    }
}

impl Reporter {
    /// The tables as they are.
    #[must_use]
    pub fn report(&self, all: &Aggregates) -> By {
        let (top, evicted, others) = (self.top, all.evicted(), all.others());
        let wants = |group| self.groups.contains(&group);
        By {
            ports: wants(Group::Port).then(|| Part::of(all.port_rows(), top, evicted.ports, others.ports)),
            destinations: wants(Group::Destination)
                .then(|| Part::of(all.destination_rows(), top, evicted.destinations, others.destinations)),
            connections_left_out: wants(Group::Destination).then(|| all.left_out()),
            processes: wants(Group::Owner)
                .then(|| Part::of(all.process_rows(), top, evicted.processes, others.processes)),
            cgroups: wants(Group::Owner).then(|| Part::of(all.cgroup_rows(), top, evicted.cgroups, others.cgroups)),
        }
    }

    /// The tables for the eye, under a line of totals.
    pub(super) fn text(&self, at: &dyn Display, tick: &Tick, all: &Aggregates) -> String {
        let By { ports, destinations, connections_left_out, processes, cgroups } = self.report(all);
        let rate = |rate: Option<f64>| Known(rate.map(|rate| format!("{rate:.1}"))).to_string();
        let totals = &tick.totals;
        let refused = totals.all_refused();
        let buckets = tick.buckets.as_ref().map_or_else(String::new, |buckets| {
            let Buckets { used, limit, .. } = buckets;
            format!(", {} {used}/{limit}", whose::fullest(all, buckets))
        });
        let mut text = format!(
            "\n-- {at}: live {}{buckets}, {} born/s, {} died/s, {} refused, {} no port, {} lost\n",
            whose::live(all, totals.live, tick.buckets.as_ref()),
            rate(tick.born_per_s),
            rate(tick.died_per_s),
            Known(refused),
            Known(totals.no_port),
            totals.lost,
        );
        let parts = [
            ports.map(|part| part.text()),
            destinations.map(|part| part.text()),
            processes.map(|part| part.text()),
            cgroups.map(|part| part.text()),
        ];
        for part in parts.into_iter().flatten() {
            let _ = writeln!(text, "{part}");
        }
        if let Some(left_out @ 1..) = connections_left_out {
            let _ = writeln!(text, "{} left out: too many destinations\n", Many(left_out, "open connection"));
        }
        text
    }
}
