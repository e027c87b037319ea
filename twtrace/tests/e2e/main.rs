//! End to end, as root: real sockets in namespaces of their own, the real tracer, the kernel's own counters. The same
//! binary is PID 1 of the guests that `cargo xtask vm` boots.

mod cases;
mod connects;
mod containers;
mod costs;
mod doctor;
mod guest;
mod headroom;
mod inside;
mod lab;
mod manners;
mod occupancy;
mod parse;
mod passive;
mod readers;
mod scene;
mod scope;
mod screen;
mod seeds;
mod summary;
mod tracer;

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Command, ExitCode},
    sync::{Arc, Mutex},
    time::Instant,
};

use cases::Scale;
use libtest_mimic::{Arguments, Failed, Trial};
use twtrace::{lab::scenarios::ALL, plan::Backend};

/// Each backend, and why it cannot run here, if so.
type Backends = BTreeMap<String, Option<String>>;

/// A case that is run once, whatever the backend.
type Once = fn() -> Result<(), String>;

/// How many tests ended how.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        let config = guest::boot();
        if let Some(command) = &config.run {
            let succeeded = guest::run(command);
            done(usize::from(succeeded), usize::from(!succeeded), 0);
            guest::power_off();
        }
        let arguments = Arguments {
            filter: config.test.clone(),
            // Most tests wait most of the time; more at once only take the two emulated CPUs from each other.
            test_threads: Some(4),
            ..Arguments::default()
        };
        run(&arguments, &config.backends, Scale { storm: 3_000 }, true);
        guest::power_off();
    }
    if let Some(code) = doctor::machine::hold().or_else(containers::close) {
        return code;
    }
    let arguments = Arguments::from_args();
    if !rustix::process::geteuid().is_root() {
        println!("skipped: end-to-end tests need root");
        println!("0 passed, 0 failed, 1 skipped");
        return ExitCode::SUCCESS;
    }
    let backends: Vec<String> = Backend::ALL.map(|backend| backend.name().to_owned()).to_vec();
    run(&arguments, &backends, Scale { storm: 20_000 }, false)
}

fn run(arguments: &Arguments, backends: &[String], scale: Scale, guest: bool) -> ExitCode {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let offered: Backends = backends.iter().map(|backend| (backend.clone(), refusal(backend))).collect();
    let conclusion = libtest_mimic::run(arguments, trials(&offered, scale, guest, &tally));
    if arguments.list {
        return conclusion.exit_code();
    }
    // One lab after the other: each keeps the machine busy by itself.
    let alone = Arguments { test_threads: Some(1), ..arguments.clone() };
    let mut last = labs(&offered, scale, guest, false, &tally);
    // In this process: nobody may fork beside it, see tracer::FORKING.
    last.push(trial("lab_sabotage", "any", &tally, |_| lab::sabotage(&tracer::binary())));
    let no_nginx = doctor::nginx::missing();
    let proxies: [(&str, Once); 3] = [
        ("doctor_nginx", doctor::nginx::doctor_nginx),
        ("doctor_nginx_limits", doctor::nginx::doctor_nginx_limits),
        ("doctor_nginx_fastcgi", doctor::nginx::doctor_nginx_fastcgi),
    ];
    last.extend(proxies.map(|(name, case)| match &no_nginx {
        Some(reason) => skipped(name, "any", reason, &tally),
        None => trial(name, "any", &tally, move |_| case()),
    }));
    let labs = libtest_mimic::run(&alone, last);
    if guest {
        // Of kernels that are the same everywhere; this machine's own is not.
        offered.iter().filter(|(_, refusal)| refusal.is_none()).for_each(|(backend, _)| verifier(backend));
    }
    let tally = tally.lock().map(|tally| (tally.passed, tally.failed, tally.skipped)).unwrap_or_default();
    done(tally.0, tally.1, tally.2);
    if conclusion.has_failed() { conclusion.exit_code() } else { labs.exit_code() }
}

/// The last word.
fn done(passed: usize, failed: usize, skipped: usize) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let done = serde_json::json!({
        "release": release.trim(), "passed": passed, "failed": failed, "skipped": skipped,
    });
    line(&format!("@done {done}"));
}

/// Prints what the verifier took for each program of a backend; `cargo xtask` holds it against what it took before.
fn verifier(backend: &str) {
    match Command::new(tracer::binary()).args(["__verifier", backend]).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).lines().for_each(|figures| line(&format!("@verifier {figures}")));
        }
        Ok(output) => line(&String::from_utf8_lossy(&output.stderr)),
        Err(error) => line(&format!("starting {}: {error}", tracer::binary().display())),
    }
}

/// The lab on each backend: one trial, a verdict for each scenario. `slow`: those that wait for a real TIME_WAIT, which
/// they do beside other tests.
fn labs(offered: &Backends, scale: Scale, guest: bool, slow: bool, tally: &Arc<Mutex<Tally>>) -> Vec<Trial> {
    let name = if slow { "lab_slow" } else { "lab" };
    let mut trials = Vec::new();
    for (backend, refusal) in offered {
        let (of, counts) = (backend.clone(), Arc::clone(tally));
        trials.push(match refusal {
            Some(reason) if !guest => {
                for scenario in ALL.iter().filter(|scenario| scenario.slow == slow) {
                    settle(&format!("{LAB}{}", scenario.name), backend, "skipped", Some(reason), 0, tally);
                }
                Trial::test(format!("{backend}::{name}"), || Ok(())).with_ignored_flag(true)
            }
            refusal => {
                let refusal = refusal.clone();
                Trial::test(format!("{backend}::{name}"), move || {
                    let verdicts = refusal.map_or_else(|| lab::lab(&of, slow, scale.storm), Err);
                    let verdicts = verdicts.inspect_err(|why| settle(name, &of, "failed", Some(why), 0, &counts))?;
                    let mut failed = Vec::new();
                    for lab::Verdict { scenario, outcome, reason, millis } in verdicts {
                        settle(&format!("{LAB}{scenario}"), &of, outcome, reason.as_deref(), millis, &counts);
                        if outcome == "failed" {
                            failed.push(scenario);
                        }
                    }
                    if failed.is_empty() { Ok(()) } else { Err(format!("differ: {}", failed.join(", ")).into()) }
                })
            }
        });
    }
    trials
}

/// What comes before a scenario's name in a verdict.
const LAB: &str = "lab ";

/// Why a backend does not work here, in the words of `twtrace probe`; the verifier's log goes to the console.
fn refusal(backend: &str) -> Option<String> {
    let output = Command::new(tracer::binary()).args(["-v", "probe", "--backend", backend]).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let tail: Vec<&str> = said.lines().rev().take(60).collect();
            tail.iter().rev().for_each(|text| line(text));
            Some(tail.first().map_or_else(|| output.status.to_string(), |text| (*text).to_owned()))
        }
        Err(error) => Some(format!("starting {}: {error}", tracer::binary().display())),
    }
}

fn trials(offered: &Backends, scale: Scale, guest: bool, tally: &Arc<Mutex<Tally>>) -> Vec<Trial> {
    type Case = Box<dyn Fn(&str) -> Result<(), String> + Send>;
    // The slowest first: their 60 s pass beside the others.
    let mut trials = labs(offered, scale, guest, true, tally);
    for (backend, refusal) in offered {
        let cases: Vec<(&str, Case)> = vec![
            ("storm", Box::new(move |backend| cases::storm(backend, scale))),
            ("every_life", Box::new(cases::every_life)),
            ("small_ring", Box::new(cases::small_ring)),
            ("filters", Box::new(cases::filters)),
            ("containers", Box::new(containers::containers)),
            ("failed_connects", Box::new(connects::failed_connects)),
            ("holders", Box::new(connects::holders)),
            ("two_and_kill", Box::new(cases::two_and_kill)),
            ("seeds", Box::new(seeds::seeds)),
            ("passive", Box::new(passive::passive)),
            ("headroom", Box::new(headroom::headroom)),
        ];
        for (name, case) in cases {
            let skip = match refusal {
                // Every guest's kernel has all three; a refusal there is a failure.
                Some(reason) if guest => {
                    let reason = reason.clone();
                    trials.push(trial(name, backend, tally, move |_| Err(reason.clone())));
                    continue;
                }
                other => other.clone(),
            };
            trials.push(match skip {
                Some(reason) => skipped(name, backend, &reason, tally),
                None => trial(name, backend, tally, case),
            });
        }
    }
    let once: Vec<(&str, Once)> = vec![
        ("unprivileged", manners::unprivileged),
        ("bad_btf", manners::bad_btf),
        ("bad_filters", manners::bad_filters),
        ("special_btf", manners::special_btf),
        ("container_netns", containers::container_netns),
        ("closed_pipe", manners::closed_pipe),
        ("stopped_reader", readers::stopped_reader),
        ("slow_reader", readers::slow_reader),
        ("hostile_names", readers::hostile_names),
        ("endings", manners::endings),
        ("demo", manners::demo),
        ("probe", manners::probe),
        ("self_test_resets", cases::self_test_resets),
        ("ebpf_log", manners::ebpf_log),
        ("full_disk", manners::full_disk),
        ("filter_scope", scope::filter_scope),
        ("filter_by_owner", scope::filter_by_owner),
        ("self_stats", costs::self_stats),
        ("unasked", costs::unasked),
        ("occupancy", occupancy::occupancy),
        ("poller", occupancy::poller),
        ("doctor_cost", doctor::sockets::doctor_cost),
        ("doctor_fin_wait2", doctor::sockets::doctor_fin_wait2),
        ("doctor_ports", doctor::ports::doctor_ports),
        ("doctor_bound_first", doctor::ports::doctor_bound_first),
        ("doctor_all_bound", doctor::ports::doctor_all_bound),
        ("doctor_not_bound", doctor::ports::doctor_not_bound),
        ("doctor_in_range", doctor::ports::doctor_in_range),
        ("doctor_ports_by_state", doctor::ports::doctor_ports_by_state),
        ("doctor_table", doctor::states::doctor_table),
        ("doctor_held_states", doctor::states::doctor_held_states),
        ("doctor_stuck_states", doctor::states::doctor_stuck_states),
        ("doctor_unanswered", doctor::states::doctor_unanswered),
        ("doctor_reuse", doctor::reuse::doctor_reuse),
        ("doctor_with_trace", doctor::reuse::doctor_with_trace),
        ("doctor_accept_queue", doctor::listen::doctor_accept_queue),
        ("doctor_overflows", doctor::listen::doctor_overflows),
        ("doctor_syn_flood", doctor::listen::doctor_syn_flood),
        ("doctor_abort_on_overflow", doctor::listen::doctor_abort_on_overflow),
        ("doctor_keepalive", doctor::keepalive::doctor_keepalive),
        ("doctor_stuck", doctor::keepalive::doctor_stuck),
        ("doctor_full_buckets", doctor::keepalive::doctor_full_buckets),
        ("doctor_unprivileged", doctor::manners::doctor_unprivileged),
        ("doctor_everywhere", doctor::manners::doctor_everywhere),
        ("doctor_watch", doctor::manners::doctor_watch),
        ("doctor_explains", doctor::manners::doctor_explains),
        ("doctor_descriptors", doctor::machine::doctor_descriptors),
        ("doctor_descriptors_elsewhere", doctor::places::doctor_descriptors_elsewhere),
        ("doctor_steps_act_there", doctor::places::doctor_steps_act_there),
        ("sysctl_scopes", doctor::sysctls::sysctl_scopes),
        ("sysctl_spellings", doctor::sysctls::sysctl_spellings),
        ("doctor_folklore", doctor::machine::doctor_folklore),
    ];
    trials.extend(once.into_iter().map(|(name, case)| trial(name, "any", tally, move |_| case())));
    trials.push(match doctor::keepalive::missing() {
        Some(reason) => skipped("doctor_peer_closes", "any", &reason, tally),
        None => trial("doctor_peer_closes", "any", tally, |_| doctor::keepalive::doctor_peer_closes()),
    });
    let no_tools = manners::missing();
    let confined: [(&str, Once); 2] = [("lacks", manners::lacks), ("no_ptrace", manners::no_ptrace)];
    trials.extend(confined.map(|(name, case)| match &no_tools {
        Some(reason) => skipped(name, "any", reason, tally),
        None => trial(name, "any", tally, move |_| case()),
    }));
    let no_tmux = screen::missing();
    let screens: [(&str, Once); 2] = [("screen", screen::screen), ("screen_is_left", screen::screen_is_left)];
    trials.extend(screens.map(|(name, case)| match &no_tmux {
        Some(reason) => skipped(name, "any", reason, tally),
        None => trial(name, "any", tally, move |_| case()),
    }));
    trials.push(match doctor::aborts::missing() {
        Some(reason) => skipped("doctor_health_checks", "any", &reason, tally),
        None => trial("doctor_health_checks", "any", tally, |_| doctor::aborts::doctor_health_checks()),
    });
    trials.push(match doctor::nat::missing() {
        Some(reason) => skipped("doctor_nat_ports", "any", &reason, tally),
        None => trial("doctor_nat_ports", "any", tally, |_| doctor::nat::doctor_nat_ports()),
    });
    trials.push(match doctor::conntrack::no_table() {
        Some(reason) => skipped("doctor_conntrack", "any", &reason, tally),
        None => trial("doctor_conntrack", "any", tally, |_| doctor::conntrack::doctor_conntrack()),
    });
    trials
}

fn trial(
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
        let (mut result, mut missed) = run();
        // Exact, or it says so: where a tracer said that it missed something, it is tried again.
        for _ in 0..3 {
            if result.is_ok() || missed.is_empty() {
                break;
            }
            line(&format!("again: {of}::{test}: the tracer says that it missed {missed:?}: {result:?}"));
            (result, missed) = run();
        }
        let result = result.map_err(|error| format!("{error}; the tracer says that it missed {missed:?}"));
        let verdict = if result.is_ok() { "passed" } else { "failed" };
        let why = result.as_ref().err().map(String::as_str);
        settle(&test, &of, verdict, why, start.elapsed().as_millis(), &tally);
        result.map_err(Failed::from)
    })
}

fn skipped(name: &str, backend: &str, reason: &str, tally: &Arc<Mutex<Tally>>) -> Trial {
    settle(name, backend, "skipped", Some(reason), 0, tally);
    Trial::test(format!("{backend}::{name}"), || Ok(())).with_ignored_flag(true)
}

/// Counts a verdict, and says it in one line for whoever collects them.
fn settle(test: &str, backend: &str, verdict: &str, reason: Option<&str>, millis: u128, tally: &Mutex<Tally>) {
    if let Ok(mut tally) = tally.lock() {
        *(match verdict {
            "passed" => &mut tally.passed,
            "skipped" => &mut tally.skipped,
            _ => &mut tally.failed,
        }) += 1;
    }
    let told = serde_json::json!({
        "test": test, "backend": backend, "verdict": verdict, "reason": reason, "millis": millis as u64,
    });
    line(&format!("@verdict {told}"));
}

/// A whole line at once, with a line break before it: consoles are shared with the kernel and the test harness.
fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "\n{text}");
    let _ = out.flush();
}
