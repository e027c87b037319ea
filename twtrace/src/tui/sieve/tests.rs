use std::{io, path::Path};

use super::*;
use crate::{
    filter::resolve::Place,
    model::{
        aggregate::Aggregates,
        event::{Connection, Detail},
        expression::tests::died,
    },
    show::columns::Row,
};

fn read(text: &str) -> Result<Sieve, String> {
    Sieve::read(text, &Resolver::default())
}

#[test]
fn an_expression_or_names_and_values() {
    for (text, wanted) in [
        ("", true),
        ("  ", true),
        ("dst port 443 and not cause expired", true),
        ("host 2001:db8::1", false),
        ("rport:443 cause:reused", true),
        ("rport:80", false),
    ] {
        let sieve = read(text);
        assert_eq!(sieve.as_ref().map(|sieve| sieve.event(&died())), Ok(wanted), "{text}");
        assert_eq!(sieve.as_ref().map(Sieve::is_empty), Ok(text.trim().is_empty()), "{text}");
    }
}

#[test]
fn a_wrong_word_is_named() {
    for (text, part) in
        [("curl", "at 'curl': not one of"), ("duration:1s", "no such filter"), ("port x", "expected a port")]
    {
        let said = read(text).map_or_else(|said| said, |sieve| sieve.words);
        assert!(said.contains(part), "{text}: {said}");
    }
}

/// The known event is of namespace 77, and was closed in cgroup 9.
#[test]
fn names_are_looked_up() {
    let look = |path: &Path| match path.to_str() {
        Some("/r/proc/self/ns/net") => Ok(Place::Netns(77)),
        Some("/r/run/netns/blue") => Ok(Place::Netns(78)),
        Some("/r/sys/fs/cgroup/web.slice") => Ok(Place::Cgroup(9)),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let read = |text: &str| Sieve::read(text, &Resolver::new("/r", look));
    for (text, wanted) in [
        ("netns self", true),
        ("not netns self or port 80", false),
        ("netns /run/netns/blue or 77", true),
        ("netns /run/netns/blue", false),
        ("cgroup web.slice", true),
        ("not cgroup-tree web.slice", false),
        ("cgroup:web.slice netns:self", true),
        ("cgroup-tree:web.slice port:80", false),
    ] {
        assert_eq!(read(text).as_ref().map(|sieve| sieve.event(&died())), Ok(wanted), "{text}");
    }
    for (text, said) in
        [("netns red", "write --netns /run/netns/red"), ("port 80 or cgroup db.slice", "--cgroup db.slice")]
    {
        let wrong = read(text).map_or_else(|wrong| wrong, |sieve| sieve.words);
        assert!(wrong.contains(said), "{text}: {wrong}");
    }
}

/// Rows pass if they may match, and the words that their table cannot answer are told.
#[test]
fn rows_pass_by_what_their_table_knows() {
    let mut tables = Aggregates::default();
    tables.event(&Event { detail: Detail::Born { timeout_ms: None, connection: Connection::default() }, ..died() });
    for (text, ports, destinations, processes) in [
        ("dst port 443", (true, vec![]), (true, vec![]), (true, vec!["dst port"])),
        ("port 80", (false, vec![]), (false, vec![]), (true, vec!["port"])),
        ("role server", (false, vec![]), (false, vec![]), (true, vec!["role"])),
        ("dst net 10.0.0.0/8", (true, vec!["dst net"]), (false, vec![]), (true, vec!["dst net"])),
        ("netns 77", (true, vec!["netns"]), (true, vec![]), (true, vec!["netns"])),
        (
            "life > 1s or port 443 or life < 1ms",
            (true, vec!["life"]),
            (true, vec!["life"]),
            (true, vec!["life", "port"]),
        ),
        ("rport:443 lport:40000", (true, vec![]), (true, vec!["src port"]), (true, vec!["src port", "dst port"])),
        ("not comm nginx", (true, vec!["comm"]), (true, vec!["comm"]), (false, vec![])),
        (
            "pid 42 and not cause expired",
            (true, vec!["pid", "cause"]),
            (true, vec!["pid", "cause"]),
            (true, vec!["cause"]),
        ),
        (
            "pid 43 and cause expired",
            (true, vec!["pid", "cause"]),
            (true, vec!["pid", "cause"]),
            (false, vec!["cause"]),
        ),
    ] {
        let sieve = read(text).unwrap();
        let [ports, destinations, processes] = [ports, destinations, processes]
            .map(|(passes, idle)| (passes, idle.into_iter().map(str::to_owned).collect::<Vec<_>>()));
        let port = tables.port_rows().iter().any(|row| sieve.port(row));
        let destination = tables.destination_rows().iter().any(|row| sieve.destination(row));
        let process = tables.process_rows().iter().any(|row| sieve.process(row));
        assert_eq!((port, sieve.idle(PortRow::NAME)), ports, "ports: {text}");
        assert_eq!((destination, sieve.idle(DestinationRow::NAME)), destinations, "destinations: {text}");
        assert_eq!((process, sieve.idle(<OwnerRow<ProcessName> as Row>::NAME)), processes, "processes: {text}");
    }
}
