use super::*;
use crate::{
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
