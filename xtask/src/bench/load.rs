//! The load generator, a process that is asked: see twtrace/benches/load.rs.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::process::Process;
use crate::exec;

/// The load generator.
pub struct Load {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// A file of its network namespace.
    pub netns: String,
}

/// Which connections.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// How many; `None`: until told to end.
    pub connections: Option<u64>,
    /// How many a second; `None`: as fast as it goes.
    pub per_s: Option<u32>,
    /// To how many addresses.
    pub destinations: u32,
}

/// What came of a load.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Made {
    /// Connections.
    pub made: u64,
    /// How long that took.
    pub seconds: f64,
    /// CPU time of whoever made them, both ends, seconds.
    pub cpu_s: f64,
}

/// How a load goes.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Count {
    /// Connections so far.
    pub made: u64,
    /// Minisocks alive.
    pub live: u64,
}

/// What an eBPF program has cost so far.
#[derive(Clone, Debug, Deserialize)]
pub struct Program {
    /// Id of the program.
    pub id: u64,
    /// Name of the program, as far as the kernel keeps it.
    pub name: String,
    /// Nanoseconds that it ran.
    pub run_ns: u64,
    /// How often.
    pub runs: u64,
}

impl Load {
    /// Starts it.
    pub fn start(binary: &Path) -> Result<Self> {
        let mut command = Command::new(binary);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        exec::echo(&command);
        let mut child = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
        let asks = child.stdin.take().context("the load generator has no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("the load generator has no standard output")?);
        Ok(Self { child, asks, answers, netns: String::new() })
    }

    fn ask<T: for<'a> Deserialize<'a>>(&mut self, ask: &Value) -> Result<T> {
        writeln!(self.asks, "{ask}").context("asking the load generator")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("listening to the load generator")?;
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("the load generator says {line:?}"))?;
        if let Some(error) = answer.get("error") {
            bail!("the load generator: {ask}: {error}");
        }
        serde_json::from_value(answer).with_context(|| format!("the load generator says {line}"))
    }

    /// A new namespace in place of the last, which ends with all that was in it.
    pub fn fresh(&mut self) -> Result<()> {
        #[derive(Deserialize)]
        struct Fresh {
            netns: String,
        }
        self.netns = self.ask::<Fresh>(&json!({ "ask": "fresh" }))?.netns;
        Ok(())
    }

    /// Begins.
    pub fn begin(&mut self, wanted: Wanted) -> Result<()> {
        let Wanted { connections, per_s, destinations } = wanted;
        let ask = json!({ "ask": "begin", "connections": connections, "per_s": per_s, "destinations": destinations });
        self.ask::<Value>(&ask).map(drop)
    }

    /// How many so far.
    pub fn count(&mut self) -> Result<Count> {
        self.ask(&json!({ "ask": "count" }))
    }

    /// Waits until all are made.
    pub fn wait(&mut self) -> Result<Made> {
        self.ask(&json!({ "ask": "wait" }))
    }

    /// Ends it now.
    pub fn end(&mut self) -> Result<Made> {
        self.ask(&json!({ "ask": "end" }))
    }

    /// Has the kernel measure all eBPF programs, or not any more.
    pub fn stats(&mut self, on: bool) -> Result<()> {
        self.ask::<Value>(&json!({ "ask": "stats", "on": on })).map(drop)
    }

    /// What the eBPF programs of a process have cost so far, by id.
    pub fn programs(&mut self, of: Process) -> Result<BTreeMap<u64, Program>> {
        #[derive(Deserialize)]
        struct Programs {
            programs: Vec<Program>,
        }
        let all = self.ask::<Programs>(&json!({ "ask": "programs" }))?.programs;
        let ids = of.programs();
        Ok(all.into_iter().filter(|program| ids.contains(&program.id)).map(|program| (program.id, program)).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may be in the middle of a load that nobody waits for any more.
        let _gone_already = self.child.kill();
        let _ = self.child.wait();
    }
}
