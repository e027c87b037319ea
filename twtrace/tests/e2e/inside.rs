//! A tracer inside this process, for what no command shows yet.

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Stdio},
};

use twtrace::{
    bpf::{Settings, Tables},
    host::{Host, netns::Netns},
    plan::Backend,
    tracer::{Attempt, Tracer},
    traffic::hand,
};
use twtrace_common::knob::Filter;

use crate::tracer::{missed, spawn};

/// Settings of a run that looks at one namespace.
pub fn settings(netns: &Netns) -> Settings {
    let mut filter = Filter::ALL;
    (filter.netns[0], filter.netns_len) = (netns.inum(), 1);
    let tables = Tables { ring: 16 << 20, lives: 1 << 17, conns: 1 << 16 };
    Settings { filter, ..Settings::all(tables, 0) }
}

/// Runs a tracer and does `work` with it. While it starts nobody may fork: it makes sockets for its self-test.
pub fn traced<T>(
    backend: &str,
    settings: &Settings,
    work: impl FnOnce(&mut Tracer) -> Result<T, String>,
) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let _guard = runtime.enter();
    let forced = Backend::ALL.into_iter().find(|known| known.name() == backend);
    let attempt = Attempt { host: &Host::default(), btf: None, forced, settings };
    let mut tracer = Tracer::start(&attempt, &mut Vec::new()).map_err(|error| error.to_string())?;
    if tracer.self_test != "passed" {
        missed("self_test", 1);
    }
    let done = work(&mut tracer);
    missed("missed_runs", tracer.missed().map_err(|error| error.to_string())?.runs.unwrap_or(0));
    done
}

/// A process in a namespace, so that the namespace can be found. It ends when this is dropped.
pub struct Resident {
    child: Child,
    _line: UnixStream,
}

impl Resident {
    pub fn of(netns: &Netns) -> Result<Self, String> {
        // The lab's helper waits for commands until the other end of its line is closed.
        let (line, its) = UnixStream::pair().map_err(|error| error.to_string())?;
        let child = spawn(netns, &[hand::COMMAND], |command| {
            command.stdin(Stdio::from(OwnedFd::from(its))).stdout(Stdio::null()).stderr(Stdio::null());
        })?;
        Ok(Self { child, _line: line })
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
