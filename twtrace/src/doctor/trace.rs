//! What a file of `twtrace run --format json` tells: who had timestamps, who opened connections, how long they lived and how
//! much they carried.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::Path,
};

use super::facts::Trace;
use crate::model::{
    event::{Connection, Detail, Role, Tuple},
    fields,
};

/// The most peers that are told apart.
const PEERS: usize = 1 << 16;
/// The most services that are told apart, and the most openers of each.
const SERVICES: usize = 4096;
const OPENERS: usize = 64;
/// The longest line that may be one of twtrace's, bytes.
const LONGEST: u64 = 1 << 20;

/// Reads the births out of a file.
///
/// # Errors
/// If it cannot be opened or read. Lines that are none of twtrace's are counted.
pub fn read(path: &Path) -> io::Result<Trace> {
    let mut trace = Trace { file: path.display().to_string(), ..Trace::default() };
    lines(BufReader::new(File::open(path)?), |line| note(&mut trace, line))?;
    Ok(trace)
}

/// Lines without their end. Of one that is too long its beginning, and then its rest, as lines of their own: neither is
/// JSON.
fn lines(mut reader: impl io::BufRead, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut reader).take(LONGEST).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        each(line.strip_suffix(b"\n").unwrap_or(&line));
    }
}

fn note(trace: &mut Trace, line: &[u8]) {
    if line.iter().all(u8::is_ascii_whitespace) {
        return;
    }
    let event =
        serde_json::from_slice(line).map_err(|error| error.to_string()).and_then(|line| fields::read_any(&line));
    let Ok(event) = event else {
        trace.strange += 1;
        return;
    };
    let Some(event) = event else { return };
    let Detail::Born { connection, .. } = event.detail else { return };
    let life = event.life;
    trace.births += 1;
    if let (Some(Role::Client), Some(tuple)) = (life.role, life.tuple) {
        service(trace, tuple, &connection);
    }
    match (life.role, connection.timestamps, life.tuple.map(|tuple| tuple.raddr)) {
        (Some(Role::Server), ..) => trace.accepted += 1,
        (Some(Role::Client), Some(timestamps), Some(peer)) => {
            if trace.peers.len() < PEERS || trace.peers.contains_key(&peer) {
                let (births, bare) = trace.peers.entry(peer).or_default();
                *births += 1;
                *bare += u64::from(!timestamps);
            } else {
                trace.left_out += 1;
            }
        }
        _ => trace.unknown += 1,
    }
}

/// Notes a birth at the end that opened, by where the connection went.
fn service(trace: &mut Trace, tuple: Tuple, connection: &Connection) {
    let remote = (tuple.raddr, tuple.rport);
    if trace.services.len() >= SERVICES && !trace.services.contains_key(&remote) {
        return;
    }
    let service = trace.services.entry(remote).or_default();
    service.births += 1;
    let add = |(sum, count): &mut (u128, u64), value: u64| {
        *sum += u128::from(value);
        *count += 1;
    };
    if let Some(life) = connection.conn_ns {
        add(&mut service.life_ns, life);
    }
    if let (Some(bytes_in), Some(bytes_out)) = (connection.bytes_in, connection.bytes_out) {
        add(&mut service.bytes, bytes_in.saturating_add(bytes_out));
    }
    if let Some(task) = connection.opener {
        let opener = (task.comm.name().into_owned(), task.pid);
        if service.openers.len() < OPENERS || service.openers.contains_key(&opener) {
            *service.openers.entry(opener).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8]) -> Trace {
        let mut trace = Trace::default();
        lines(text, |line| note(&mut trace, line)).unwrap();
        trace
    }

    #[test]
    fn births_are_counted_by_peer() {
        let trace = read(
            br#"{"v":1,"type":"start","kernel":"6.1"}
{"type":"born","mono_ns":1,"family":4,"laddr":"10.0.0.1","role":"client","timestamps":false,"raddr":"10.0.0.2","lport":1}
{"type":"born","mono_ns":1,"family":4,"laddr":"10.0.0.1","role":"client","timestamps":true,"raddr":"10.0.0.2"}
{"type":"born","mono_ns":1,"family":4,"laddr":"10.0.0.1","role":"server","timestamps":true,"raddr":"10.0.0.3"}
{"type":"born","mono_ns":1,"family":4,"laddr":"10.0.0.1","role":null,"timestamps":true,"raddr":"10.0.0.3"}
{"type":"died","mono_ns":1}

nonsense
{"type":"born","mono_ns":1,"family":4,"laddr":"10.0.0.1","role":"client","timestamps":tr"#,
        );
        assert_eq!((trace.births, trace.accepted, trace.unknown, trace.strange), (4, 1, 1, 2));
        assert_eq!(trace.peers.into_iter().collect::<Vec<_>>(), [("10.0.0.2".parse().unwrap(), (2, 1))]);
    }

    #[test]
    fn births_tell_of_the_services_that_were_asked() {
        let trace = read(
            br#"{"type":"born","mono_ns":1,"family":4,"laddr":"10.0.0.1","role":"client","raddr":"10.0.0.2","rport":80,"opener_pid":7,"opener_comm":"curl","conn_ns":2000000,"bytes_in":10,"bytes_out":5}
{"type":"born","mono_ns":1,"family":4,"laddr":"10.0.0.1","role":"client","raddr":"10.0.0.2","rport":80,"opener_pid":8,"opener_comm":"wget","conn_ns":4000000,"bytes_in":null,"bytes_out":5}
{"type":"born","mono_ns":1,"family":4,"laddr":"10.0.0.1","role":"client","raddr":"10.0.0.2","rport":80,"opener_pid":8,"opener_comm":"wget","conn_ns":null}
{"type":"born","mono_ns":1,"family":4,"laddr":"10.0.0.1","role":"client","raddr":"10.0.0.2","rport":81}
{"type":"born","mono_ns":1,"family":4,"laddr":"10.0.0.1","role":"server","raddr":"10.0.0.9","rport":5000,"opener_pid":9,"opener_comm":"x","conn_ns":1}
{"type":"born","mono_ns":1,"role":"client","opener_pid":9,"opener_comm":"x","conn_ns":1}"#,
        );
        let of = |port| &trace.services[&("10.0.0.2".parse().unwrap(), port)];
        assert_eq!((trace.services.len(), of(80).births, of(81).births), (2, 3, 1));
        assert_eq!((of(80).mean_life(), of(80).mean_bytes()), (Some(std::time::Duration::from_millis(3)), Some(15.0)));
        assert_eq!(of(80).opener().map(|opener| opener.to_string()).as_deref(), Some("wget (8)"));
        // What was not told is not 0.
        assert_eq!((of(81).mean_life(), of(81).mean_bytes(), of(81).opener()), (None, None, None));
    }

    #[test]
    fn services_and_openers_are_bounded() {
        let mut text = String::new();
        for n in 0..5000_u32 {
            let rport = n % 4999 + 1;
            text += &format!(
                "{{\"type\":\"born\",\"mono_ns\":1,\"family\":6,\"role\":\"client\",\"raddr\":\"::1\",\"rport\":{rport},\"opener_pid\":1,\"opener_comm\":\"a\"}}\n\
                 {{\"type\":\"born\",\"mono_ns\":1,\"family\":6,\"role\":\"client\",\"raddr\":\"::1\",\"rport\":1,\"opener_pid\":{n},\"opener_comm\":\"b\"}}\n"
            );
        }
        let trace = read(text.as_bytes());
        let of = &trace.services[&("::1".parse().unwrap(), 1)];
        assert_eq!((trace.services.len(), of.openers.len(), of.births), (SERVICES, OPENERS, 5002));
    }

    #[test]
    fn a_line_without_end_is_no_line() {
        let trace = read(&vec![b'x'; 3 * LONGEST as usize]);
        assert_eq!((trace.births, trace.strange), (0, 3));
    }

    #[test]
    fn a_million_lines_are_read() {
        let line = b"{\"type\":\"born\",\"mono_ns\":1,\"family\":6,\"role\":\"client\",\"timestamps\":false,\"raddr\":\"::1\"}\n";
        let trace = read(&line.repeat(1_000_000));
        assert_eq!(trace.peers.values().copied().collect::<Vec<_>>(), [(1_000_000, 1_000_000)]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let _ = read(&bytes);
        }
    }
}
