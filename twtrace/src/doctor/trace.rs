//! What a file of `twtrace run --format json` tells about timestamps.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    net::IpAddr,
    path::Path,
};

use serde::Deserialize;

use super::facts::Trace;

/// The most peers that are told apart.
const PEERS: usize = 1 << 16;
/// The longest line that may be one of twtrace's, bytes.
const LONGEST: u64 = 1 << 20;

/// What is read of a line.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    role: Option<String>,
    timestamps: Option<bool>,
    raddr: Option<IpAddr>,
}

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
    let Ok(line) = serde_json::from_slice::<Line>(line) else {
        trace.strange += 1;
        return;
    };
    if line.kind != "born" {
        return;
    }
    trace.births += 1;
    match (line.role.as_deref(), line.timestamps, line.raddr) {
        (Some("server"), ..) => trace.accepted += 1,
        (Some("client"), Some(timestamps), Some(peer)) => {
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
{"type":"born","role":"client","timestamps":false,"raddr":"10.0.0.2","lport":1}
{"type":"born","role":"client","timestamps":true,"raddr":"10.0.0.2"}
{"type":"born","role":"server","timestamps":true,"raddr":"10.0.0.3"}
{"type":"born","role":null,"timestamps":true,"raddr":"10.0.0.3"}
{"type":"died","raddr":"10.0.0.3"}

nonsense
{"type":"born","role":"client","timestamps":tr"#,
        );
        assert_eq!((trace.births, trace.accepted, trace.unknown, trace.strange), (4, 1, 1, 2));
        assert_eq!(trace.peers.into_iter().collect::<Vec<_>>(), [("10.0.0.2".parse().unwrap(), (2, 1))]);
    }

    #[test]
    fn a_line_without_end_is_no_line() {
        let trace = read(&vec![b'x'; 3 * LONGEST as usize]);
        assert_eq!((trace.births, trace.strange), (0, 3));
    }

    #[test]
    fn a_million_lines_are_read() {
        let line = b"{\"type\":\"born\",\"role\":\"client\",\"timestamps\":false,\"raddr\":\"::1\"}\n";
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
