//! How each test ended: counted, and told in one line for whoever collects them.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use libtest_mimic::{Arguments, Trial};

use crate::{
    attempts::{self, Ended},
    doctor, line, tracer,
};

/// How many tests ended how.
#[derive(Default)]
pub struct Tally {
    /// As they should.
    pub passed: usize,
    /// Not so.
    pub failed: usize,
    /// Tests that did not run, or compared nothing.
    pub skipped: usize,
    /// What was asked for.
    pub arguments: Arguments,
}

/// How one test ended.
pub struct Verdict<'a> {
    pub test: &'a str,
    pub backend: &'a str,
    /// `passed`, `failed` or `skipped`.
    pub verdict: &'a str,
    pub reason: Option<&'a str>,
    pub millis: u128,
    /// How often it was run: 1 if it was good, or as bad as it is, at once.
    pub attempts: u32,
}

impl<'a> Verdict<'a> {
    /// Of a test that took no time.
    pub fn at_once(test: &'a str, backend: &'a str, verdict: &'a str, reason: Option<&'a str>) -> Self {
        Self { test, backend, verdict, reason, millis: 0, attempts: 1 }
    }
}

/// The last word.
pub fn done(passed: usize, failed: usize, skipped: usize) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let done = serde_json::json!({
        "release": release.trim(), "passed": passed, "failed": failed, "skipped": skipped,
    });
    line(&format!("@done {done}"));
}

pub fn trial(
    name: &str,
    backend: &str,
    tally: &Arc<Mutex<Tally>>,
    case: impl Fn(&str) -> Result<(), String> + Send + 'static,
) -> Trial {
    let (test, of, tally) = (name.to_owned(), backend.to_owned(), Arc::clone(tally));
    Trial::test(format!("{backend}::{name}"), move || {
        let start = Instant::now();
        let run = || {
            let result = case(&of);
            (result, tracer::take_missed())
        };
        // Exact, or it says so: where a tracer said that the kernel made it miss something, it is tried again.
        let note = |error: &str, missed: &_| attempts::note(&format!("{of}::{test}"), &format!("{missed:?}: {error}"));
        let (ended, attempts) = attempts::until_good(run, note);
        let attempts = attempts + attempts::take_within();
        // What it was to be compared with is not here: all else may be as it should, but that is no pass.
        let absent = doctor::take_absent().map(|programs| format!("not compared: there is no {programs} here"));
        let (verdict, reason) = match (&ended, &absent) {
            (Ended::Failed(why), _) => ("failed", Some(why.as_str())),
            (Ended::Skipped(why), _) | (Ended::Good, Some(why)) => ("skipped", Some(why.as_str())),
            (Ended::Good, None) => ("passed", None),
        };
        let millis = start.elapsed().as_millis();
        settle(&Verdict { test: &test, backend: &of, verdict, reason, millis, attempts }, &tally);
        match ended {
            Ended::Failed(why) => Err(why.into()),
            Ended::Good | Ended::Skipped(_) => Ok(()),
        }
    })
}

pub fn skipped(name: &str, backend: &str, reason: &str, tally: &Arc<Mutex<Tally>>) -> Trial {
    let trial = Trial::test(format!("{backend}::{name}"), || Ok(())).with_ignored_flag(true);
    settle_skipped(&trial, name, backend, reason, tally);
    trial
}

/// Counts a skip, if the trial that says it was asked for.
pub fn settle_skipped(trial: &Trial, test: &str, backend: &str, reason: &str, tally: &Mutex<Tally>) {
    if tally.lock().is_ok_and(|tally| !tally.arguments.is_filtered_out(trial)) {
        settle(&Verdict::at_once(test, backend, "skipped", Some(reason)), tally);
    }
}

/// Counts a verdict, and says it in one line for whoever collects them.
pub fn settle(told: &Verdict<'_>, tally: &Mutex<Tally>) {
    let Verdict { test, backend, verdict, reason, millis, attempts } = *told;
    if let Ok(mut tally) = tally.lock() {
        *(match verdict {
            "passed" => &mut tally.passed,
            "skipped" => &mut tally.skipped,
            _ => &mut tally.failed,
        }) += 1;
    }
    let told = serde_json::json!({
        "test": test, "backend": backend, "verdict": verdict, "reason": reason, "millis": millis as u64,
        "attempts": attempts,
    });
    line(&format!("@verdict {told}"));
}
