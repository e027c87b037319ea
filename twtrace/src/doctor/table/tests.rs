use super::*;
use crate::{
    doctor::checks::fixture::{Fixture, INUM, destination, listening, sample},
    host::{
        diag::{TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_SYN_RECV},
        sockets::Ends,
        states::States,
    },
};

fn name(netns: u32) -> String {
    netns.to_string()
}

fn facts() -> Facts {
    let held = |state, inode| Sample { inode, ..sample(state) };
    let mut facts = Fixture::quiet()
        .owner(1, 42, "nginx")
        .owner(2, 43, "java")
        .sample(held(TCP_ESTABLISHED, 1))
        .sample(held(TCP_ESTABLISHED, 1))
        .sample(held(TCP_ESTABLISHED, 2))
        .sample(held(TCP_ESTABLISHED, 0))
        .sample(held(TCP_CLOSE_WAIT, 9))
        .opened(destination(443), Ends { time_wait: 120, fin_wait2: 3, ..Ends::default() })
        .facts();
    let sockets = &mut facts.namespaces[0].sockets;
    sockets.listeners.push(crate::host::sockets::Listener { inode: 1, ..listening(80, 0, 511) });
    for (state, held, unheld) in [(TCP_LISTEN, 1, 0), (TCP_SYN_RECV, 0, 7), (TCP_FIN_WAIT2, 4, 2)] {
        sockets.states.merge(&States::default().with(state, held, unheld));
    }
    facts
}

#[test]
fn every_socket_is_in_one_row() {
    let tables = Table::all(&facts());
    let [table] = &tables[..] else { unreachable!("one namespace") };
    let rows: Vec<_> =
        table.states.iter().map(|it| (it.state.as_str(), it.sockets, it.minisocks, it.unheld, it.others)).collect();
    assert_eq!(
        rows,
        [
            ("LISTEN", 1, 0, 0, 0),
            ("SYN-RECV", 7, 0, 7, 0),
            ("ESTAB", 4, 0, 1, 0),
            ("CLOSE-WAIT", 1, 0, 0, 1),
            ("FIN-WAIT-2", 9, 3, 2, 4),
            ("TIME-WAIT", 120, 120, 0, 0),
        ]
    );
    assert_eq!((table.netns, table.sockets, table.orphans), (INUM, 142, Some(0)));
    let owners: Vec<_> = table.states[2].owners.iter().map(|it| (it.comm.as_str(), it.pid, it.sockets)).collect();
    assert_eq!(owners, [("nginx", 42, 2), ("java", 43, 1)]);
}

#[test]
fn people_get_it_aligned() {
    assert_eq!(
        text(&Table::all(&facts()), name),
        "\nSockets:\n\
         \x20 LISTEN        1  nginx (42) 1\n\
         \x20 SYN-RECV      7\n\
         \x20 ESTAB         4  nginx (42) 2, java (43) 1, no process 1\n\
         \x20 CLOSE-WAIT    1\n\
         \x20 FIN-WAIT-2    9  no process 2, minisocks 3\n\
         \x20 TIME-WAIT   120\n"
    );
    assert_eq!(text(&Table::all(&Fixture::quiet().facts()), name), "");
    assert_eq!(text(&Table::all(&Facts::default()), name), "");
}

#[test]
fn names_do_not_steer_the_terminal() {
    let facts =
        Fixture::quiet().owner(1, 42, "x\u{1b}[2J").sample(Sample { inode: 1, ..sample(TCP_ESTABLISHED) }).facts();
    assert!(text(&Table::all(&facts), name).chars().all(|c| c == '\n' || !c.is_control()));
}
