//! A table on the screen, whatever its rows are.

use serde::Serialize;

use crate::{
    model::aggregate::{CgroupName, DestinationRow, OwnerRow, PortRow, Process, ProcessName},
    show::columns::{Row, Side},
};

/// A column as the screen needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Heading.
    pub title: &'static str,
    /// Characters that it takes at least.
    pub width: u16,
    /// Where its values stand.
    pub side: Side,
    /// Who goes first where there is no room.
    pub rank: u8,
    /// A bar goes with its values.
    pub has_bar: bool,
}

/// Rows of one type.
pub trait Listing: Send {
    /// What the table is called.
    fn name(&self) -> &'static str;
    /// Columns of the table.
    fn heads(&self) -> Vec<Head>;
    /// How many rows it has.
    fn len(&self) -> usize;
    /// True if there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// What a column shows of a row; empty beyond the table.
    fn text(&self, row: usize, column: usize) -> String;
    /// A cell as a share, for a bar.
    fn share(&self, row: usize, column: usize) -> Option<f64>;
    /// What tells a row from all others.
    fn id(&self, row: usize) -> Option<Id>;
    /// Sorts the rows.
    fn sort(&mut self, column: usize, descending: bool);
    /// The rows as JSON.
    fn json(&self) -> serde_json::Value;
}

/// A row's identity, which stays while its numbers change.
pub type Id = String;

/// A row that can be told from all others.
pub trait Identity {
    /// What tells it.
    fn id(&self) -> Id;
}

impl Identity for PortRow {
    fn id(&self) -> Id {
        format!("{} {}", self.role.word(), self.port)
    }
}

impl Identity for DestinationRow {
    fn id(&self) -> Id {
        format!("{} {} {} {}", self.netns.unwrap_or(0), self.laddr, self.raddr, self.rport)
    }
}

impl Identity for OwnerRow<ProcessName> {
    fn id(&self) -> Id {
        process(self.who.pid, &self.who.comm)
    }
}

/// The identity of its row.
impl Identity for Process {
    fn id(&self) -> Id {
        process(self.pid, &self.comm.name())
    }
}

fn process(pid: u32, comm: &str) -> Id {
    format!("{pid}/{comm}")
}

impl Identity for OwnerRow<CgroupName> {
    fn id(&self) -> Id {
        self.who.cgroup_id.to_string()
    }
}

impl<R: Row + Identity + Serialize + Send> Listing for Vec<R> {
    fn name(&self) -> &'static str {
        R::NAME
    }

    fn heads(&self) -> Vec<Head> {
        let head = |column: &crate::show::columns::Column<R>| Head {
            title: column.title,
            width: column.width,
            side: column.side,
            rank: column.rank,
            has_bar: column.share.is_some(),
        };
        R::COLUMNS.iter().map(head).collect()
    }

    fn len(&self) -> usize {
        self.len()
    }

    fn text(&self, row: usize, column: usize) -> String {
        let cell = self.get(row).zip(R::COLUMNS.get(column));
        cell.map_or_else(String::new, |(row, column)| (column.text)(row))
    }

    fn share(&self, row: usize, column: usize) -> Option<f64> {
        (R::COLUMNS.get(column)?.share?)(self.get(row)?)
    }

    fn id(&self, row: usize) -> Option<Id> {
        self.get(row).map(Identity::id)
    }

    fn sort(&mut self, column: usize, descending: bool) {
        R::sort(self, column, descending);
    }

    fn json(&self) -> serde_json::Value {
        // Rows are numbers and words: none is refused.
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// The column that both tables of owners are sorted by.
pub const OWNERS_SORTED_BY: usize = <OwnerRow<ProcessName> as Row>::SORTED_BY;
const _: () = assert!(OWNERS_SORTED_BY == <OwnerRow<CgroupName> as Row>::SORTED_BY);
