//! The pipe alone, how its loss grows, and how its costs grow: what twtrace/benches/pipe.rs prints, put together.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::sample::Sample;
use crate::exec;

/// A line of the bench.
#[derive(Debug, Deserialize)]
#[serde(tag = "part", rename_all = "lowercase")]
enum Line {
    Full { to: String, records: u64, cpu_s: f64, kernel_ns: f64 },
    Loss { offered_per_s: f64, seen: u64, lost: u64 },
    Growth { axis: String, at: u32, kernel_ns: f64, user_ns: f64 },
}

/// What a core takes from a full ring.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Full {
    /// Records a second of CPU time.
    pub per_s: Sample,
    /// What one costs the kernel where the ring is nearly full, nanoseconds.
    pub kernel_ns: Sample,
}

/// What of the records that were offered was lost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Loss {
    /// Records a second.
    pub offered_per_s: f64,
    /// The part of them that found no room.
    pub lost: f64,
}

/// What a record costs at one size.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Point {
    /// The kernel, nanoseconds.
    pub kernel_ns: Sample,
    /// The reader, nanoseconds.
    pub user_ns: Sample,
}

/// All of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Pipe {
    /// By what becomes of the records.
    pub full: BTreeMap<String, Full>,
    /// Each run, in the order of what was offered.
    pub loss: Vec<Loss>,
    /// By what grows, then by how far.
    pub growth: BTreeMap<String, BTreeMap<u32, Point>>,
}

impl Pipe {
    fn enter(&mut self, line: Line) {
        match line {
            Line::Full { to, records, cpu_s, kernel_ns } => {
                let full = self.full.entry(to).or_default();
                full.per_s.push(records as f64 / cpu_s);
                full.kernel_ns.push(kernel_ns);
            }
            Line::Loss { offered_per_s, seen, lost } => {
                self.loss.push(Loss { offered_per_s, lost: lost as f64 / seen.max(1) as f64 });
            }
            Line::Growth { axis, at, kernel_ns, user_ns } => {
                let point = self.growth.entry(axis).or_default().entry(at).or_default();
                point.kernel_ns.push(kernel_ns);
                point.user_ns.push(user_ns);
            }
        }
    }

    /// By how much the most expensive size costs more than the smallest, by the least that each was measured at.
    pub fn grows(&self, axis: &str, cost: impl Fn(&Point) -> &Sample) -> Option<f64> {
        let points = self.growth.get(axis)?;
        let first = cost(points.values().next()?).least();
        Some(points.values().map(|point| cost(point).least() / first).fold(0.0, f64::max))
    }
}

/// Runs the bench; `parts`: `full`, `loss`, `growth`. It fails by itself if a counter is not exact.
pub fn measure(binary: &Path, parts: &[&str], rounds: usize, seconds: f64) -> Result<Pipe> {
    let mut command = Command::new(binary);
    command.args(parts).arg(format!("--rounds={rounds}")).arg(format!("--seconds={seconds}"));
    let (mut pipe, mut strange) = (Pipe::default(), None);
    let status = exec::lines(&mut command, |line| match serde_json::from_str(line) {
        Ok(line) => pipe.enter(line),
        Err(error) => strange = Some(format!("{line:?}: {error}")),
    })?;
    if !status.success() {
        bail!("`{}` failed ({status})", exec::show(&command));
    }
    if let Some(strange) = strange {
        bail!("the bench of the pipe says {strange}");
    }
    pipe.loss.sort_by(|a, b| a.offered_per_s.total_cmp(&b.offered_per_s));
    Ok(pipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_held_against_the_smallest() {
        let mut pipe = Pipe::default();
        for (at, user_ns) in [(1, 10.0), (1, 12.0), (100, 30.0), (1000, 15.0)] {
            pipe.enter(Line::Growth { axis: "live".to_owned(), at, kernel_ns: 1.0, user_ns });
        }
        assert_eq!(pipe.grows("live", |point| &point.user_ns), Some(3.0));
        assert_eq!(pipe.grows("live", |point| &point.kernel_ns), Some(1.0));
        assert_eq!(pipe.grows("other", |point| &point.kernel_ns), None);
    }

    #[test]
    fn lines_of_the_bench_are_read() {
        let mut pipe = Pipe::default();
        let lines = [
            r#"{"part":"full","to":"json","records":300,"lost":1,"cpu_s":0.1,"wall_s":0.2,"kernel_ns":7}"#,
            r#"{"part":"loss","offered_per_s":5.0,"seen":10,"lost":1}"#,
        ];
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).for_each(|line| pipe.enter(line));
        assert_eq!(pipe.full.get("json").map(|full| full.per_s.median()), Some(3000.0));
        assert_eq!(pipe.loss.first().map(|loss| loss.lost), Some(0.1));
    }
}
