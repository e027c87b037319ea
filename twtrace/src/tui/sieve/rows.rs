//! What rows of tables know, for an expression.

use crate::{
    model::{
        aggregate::{CgroupName, DestinationRow, OwnerRow, PortRow, ProcessName, Side},
        event::Role,
        expression::{Fact, Subject},
    },
    show::columns::Row,
};

/// What a table knows of each of its rows: everything else is unknown. `None` for what is no table of rows.
pub(super) fn shape(table: &str) -> Option<Subject> {
    Some(match table {
        PortRow::NAME => Subject { lport: Fact::None, rport: Fact::None, role: Fact::None, ..Subject::default() },
        DestinationRow::NAME => Subject {
            laddr: Fact::None,
            raddr: Fact::None,
            rport: Fact::None,
            role: Fact::None,
            netns: Fact::None,
            ..Subject::default()
        },
        <OwnerRow<ProcessName> as Row>::NAME => Subject { pid: Fact::None, comm: Fact::None, ..Subject::default() },
        <OwnerRow<CgroupName> as Row>::NAME => Subject { cgroup: Fact::None, ..Subject::default() },
        _ => return None,
    })
}

/// A service port: the other end's ports are many, and not told.
pub(super) fn port(row: &PortRow) -> Subject {
    let port = Fact::Known(row.port);
    match row.role {
        Side::Client => Subject { rport: port, role: Fact::Known(Role::Client), ..Subject::default() },
        Side::Server => Subject { lport: port, role: Fact::Known(Role::Server), ..Subject::default() },
    }
}

/// A destination, which only clients have.
pub(super) fn destination(row: &DestinationRow) -> Subject {
    Subject {
        laddr: Fact::Known(row.laddr),
        raddr: Fact::Known(row.raddr),
        rport: Fact::Known(row.rport),
        role: Fact::Known(Role::Client),
        netns: row.netns.into(),
        ..Subject::default()
    }
}

/// A process.
pub(super) fn process(row: &OwnerRow<ProcessName>) -> Subject {
    Subject { pid: Fact::Known(row.who.pid), comm: Fact::Known(row.who.comm.to_string()), ..Subject::default() }
}

/// A cgroup.
pub(super) fn cgroup(row: &OwnerRow<CgroupName>) -> Subject {
    Subject { cgroup: Fact::Known(row.who.cgroup_id), ..Subject::default() }
}
