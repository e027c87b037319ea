//! Whether tcp_tw_reuse can help.

use std::{fs, path::PathBuf};

use rustix::process::Signal;
use serde_json::Value;
use twtrace::host::netns::Netns;

use super::{First, Outcome, SERVICE, Said, awaited, close, new, set};
use crate::tracer::Tracer;

/// Off where it would help; of no use without timestamps; of no use to the end that accepts.
pub fn doctor_reuse() -> Outcome {
    let netns = new()?;
    let said = Said::of(&netns, &[])?;
    said.finds("reuse.state", "fine")?.shows("tcp_tw_reuse", 2)?;

    set(&netns, "ip_local_port_range", "20000 20299")?;
    set(&netns, "tcp_tw_reuse", "0")?;
    close(&netns, SERVICE, 160, First::Client)?;
    let said = warned(&netns, "reuse.would-help")?;
    said.finds("reuse.would-help", "warning")?.shows("tcp_tw_reuse", 0)?;
    said.lacks("reuse.accepting-side")?;

    // On loopback the default is enough.
    set(&netns, "tcp_tw_reuse", "2")?;
    let said = Said::of(&netns, &[])?;
    said.lacks("reuse.would-help")?;
    said.finds("reuse.state", "fine")?;

    set(&netns, "tcp_timestamps", "0")?;
    let said = warned(&netns, "reuse.no-timestamps")?;
    said.finds("reuse.no-timestamps", "warning")?.shows("tcp_timestamps", 0)?;
    said.lacks("reuse.would-help")?;
    set(&netns, "tcp_timestamps", "1")?;

    let servers = new()?;
    close(&servers, SERVICE, 150, First::Server)?;
    let said = Said::of(&servers, &[])?;
    said.finds("reuse.accepting-side", "note")?.shows("accepted at 127.0.0.1:8000", 150)?;
    said.lacks("reuse.state")
}

/// What the doctor says once it warns of this. A few seconds after the last TIME_WAIT began, the same is a note: it has ended.
/// A slow machine may need as long for a look, so connections go on until one is in time.
fn warned(netns: &Netns, id: &str) -> Result<Said, String> {
    awaited(netns, id, "warning", || close(netns, SERVICE, 1, First::Client))
}

/// What only a trace tells: which peers have no timestamps.
pub fn doctor_with_trace() -> Outcome {
    let netns = new()?;
    let tracer = Tracer::start(&netns, "auto", &["--events", "born"])?;
    close(&netns, SERVICE, 5, First::Client)?;
    set(&netns, "tcp_timestamps", "0")?;
    close(&netns, "127.0.0.2:8000", 4, First::Client)?;
    close(&netns, "127.0.0.2:8000", 3, First::Server)?;
    let said = tracer.stop(Signal::INT)?;
    let trace = Trace::write(&said.lines)?;
    let path = trace.0.to_str().ok_or("a path that is no text")?;
    let said = Said::of(&netns, &["--with-trace", path])?;
    let finding = said.finds("reuse.peers-without-timestamps", "warning")?;
    finding.shows("127.0.0.2 without timestamps", 4)?;
    finding.shows("births", 12)?;
    finding.shows("of accepted connections", 3)?;
    finding.shows("lines that twtrace did not write", 0)?;
    if finding.evidence("127.0.0.1 without timestamps").is_ok() {
        return Err(format!("127.0.0.1 had timestamps: {}", finding.0));
    }
    Said::of(&netns, &[])?.lacks("reuse.peers-without-timestamps")
}

/// A file of JSON lines, for as long as this lives.
struct Trace(PathBuf);

impl Trace {
    fn write(lines: &[Value]) -> Result<Self, String> {
        let name = format!("twtrace-{}-{:?}.jsonl", std::process::id(), std::thread::current().id());
        let file = std::env::temp_dir().join(name);
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(Self(file))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
