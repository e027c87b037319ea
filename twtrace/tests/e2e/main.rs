//! End to end, as root: real sockets in namespaces of their own, the real tracer, the kernel's own counters. The same
//! binary is PID 1 of the guests that `cargo xtask vm` boots.

mod attempts;
mod cases;
mod clocks;
mod conformance;
mod connects;
mod containers;
mod costs;
mod doctor;
#[cfg(feature = "extra")]
mod filters;
mod full;
mod guest;
mod headroom;
mod hotplug;
mod inside;
mod lab;
mod looks;
mod manners;
mod nested;
mod observers;
mod occupancy;
mod parse;
mod passive;
mod readers;
mod scene;
mod scope;
mod screen;
mod seeds;
mod stops;
mod summary;
mod tracer;
mod verdict;
mod witness;

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Command, ExitCode},
    sync::{Arc, Mutex},
};

use cases::Scale;
use libtest_mimic::{Arguments, Trial};
use twtrace::{lab::scenarios::ALL, plan::Backend};
use verdict::{Tally, Verdict, done, settle, settle_skipped, skipped, trial};

/// Each backend, and why it cannot run here, if so.
type Backends = BTreeMap<String, Option<String>>;

/// A case that is run once, whatever the backend.
type Once = fn() -> Result<(), String>;

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
            skip: config.skip.clone(),
            // Most tests wait most of the time; more at once only take the two emulated CPUs from each other.
            test_threads: Some(4),
            ..Arguments::default()
        };
        run(
            &arguments,
            &config.backends,
            Scale { storm: 3_000, stops: 5, addresses: 48, lives: 1024, connections: 150 },
            true,
        );
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
    run(
        &arguments,
        &backends,
        Scale { storm: 20_000, stops: 40, addresses: 256, lives: 4096, connections: 2_400 },
        false,
    )
}

fn run(arguments: &Arguments, backends: &[String], scale: Scale, guest: bool) -> ExitCode {
    let tally = Arc::new(Mutex::new(Tally { arguments: arguments.clone(), ..Tally::default() }));
    witness::begin();
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
    last.push(trial("retry_rules", "any", &tally, |_| attempts::rules()));
    let no_nginx = doctor::nginx::missing();
    let proxies: [(&str, Once); 3] = [
        ("doctor_nginx", doctor::nginx::doctor_nginx),
        ("doctor_nginx_limits", doctor::nginx::doctor_nginx_limits),
        ("doctor_nginx_fastcgi", doctor::nginx::doctor_nginx_fastcgi),
    ];
    type Alone = fn(&str, Scale) -> Result<(), String>;
    let busy: [(&str, Alone); 2] = [("full_table", full::full_table), ("stops", stops::stops)];
    for ((backend, refusal), (name, case)) in offered.iter().flat_map(|one| busy.map(|case| (one, case))) {
        last.push(match refusal {
            Some(reason) if guest => {
                let reason = reason.clone();
                trial(name, backend, &tally, move |_| Err(reason.clone()))
            }
            Some(reason) => skipped(name, backend, reason, &tally),
            None => trial(name, backend, &tally, move |backend| case(backend, scale)),
        });
    }
    last.extend(proxies.map(|(name, case)| match &no_nginx {
        Some(reason) => skipped(name, "any", reason, &tally),
        None => trial(name, "any", &tally, move |_| case()),
    }));
    // Nobody else's: the machine has no CPU or no hour too many.
    last.extend(offered.iter().map(|(backend, refusal)| match (hotplug::removable(), refusal.clone()) {
        (Ok(_), Some(reason)) if guest => trial("cpu_removed", backend, &tally, move |_| Err(reason.clone())),
        (Err(reason), _) | (_, Some(reason)) => skipped("cpu_removed", backend, &reason, &tally),
        (Ok(_), None) => trial("cpu_removed", backend, &tally, hotplug::cpu_removed),
    }));
    last.push(match clocks::missing() {
        Some(reason) => skipped("clock_steps", "any", &reason, &tally),
        None => trial("clock_steps", "any", &tally, |_| clocks::clock_steps()),
    });
    let labs = libtest_mimic::run(&alone, last);
    if let Some(missing) = witness::silent() {
        line(&format!("this kernel left out sched_switch for {missing} context switches: see tests/e2e/witness.rs"));
    }
    let budget = attempts::budget();
    let (verdict, reason) = (if budget.is_ok() { "passed" } else { "failed" }, budget.as_ref().err());
    settle(&Verdict::at_once("retries", "any", verdict, reason.map(String::as_str)), &tally);
    if guest {
        // Of kernels that are the same everywhere; this machine's own is not.
        offered.iter().filter(|(_, refusal)| refusal.is_none()).for_each(|(backend, _)| verifier(backend));
    }
    let tally = tally.lock().map(|tally| (tally.passed, tally.failed, tally.skipped)).unwrap_or_default();
    done(tally.0, tally.1, tally.2);
    match (conclusion.has_failed(), budget) {
        (true, _) => conclusion.exit_code(),
        (false, Ok(())) => labs.exit_code(),
        (false, Err(_)) => ExitCode::FAILURE,
    }
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
        let title = format!("{backend}::{name}");
        trials.push(match refusal {
            Some(reason) if !guest => {
                let trial = Trial::test(title, || Ok(())).with_ignored_flag(true);
                for scenario in ALL.iter().filter(|scenario| scenario.slow == slow) {
                    settle_skipped(&trial, &format!("{LAB}{}", scenario.name), backend, reason, tally);
                }
                trial
            }
            refusal => {
                let refusal = refusal.clone();
                Trial::test(title, move || {
                    let verdicts = refusal.map_or_else(|| lab::lab(&of, slow, scale.storm), Err);
                    let verdicts = verdicts
                        .inspect_err(|why| settle(&Verdict::at_once(name, &of, "failed", Some(why)), &counts))?;
                    let mut failed = Vec::new();
                    for lab::Verdict { scenario, outcome, reason, millis, attempts } in verdicts {
                        let test = format!("{LAB}{scenario}");
                        let told = Verdict::at_once(&test, &of, outcome, reason.as_deref());
                        let told = Verdict { millis, attempts, ..told };
                        settle(&told, &counts);
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
            ("unseen_ends", Box::new(looks::unseen_ends)),
            ("dying", Box::new(looks::dying)),
            ("looks_beside_traffic", Box::new(looks::looks_beside_traffic)),
            ("passive", Box::new(passive::passive)),
            ("headroom", Box::new(headroom::headroom)),
            ("unseen_births", Box::new(nested::unseen_births)),
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
    let no_tun = conformance::missing();
    for (backend, refusal) in offered {
        // Of kernels that have all backends, a refusal is told by the cases above.
        trials.push(match no_tun.as_ref().or(refusal.as_ref()) {
            Some(reason) => skipped("conformance", backend, reason, tally),
            None => trial("conformance", backend, tally, move |backend| {
                conformance::conformance(backend, scale.connections)
            }),
        });
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
        ("skipped_ticks", readers::skipped_ticks),
        ("stuck_observer", observers::stuck_observer),
        ("failed_observer", observers::failed_observer),
        ("stuck_errors", readers::stuck_errors),
        ("shared_pipe", readers::shared_pipe),
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
    #[cfg(feature = "extra")]
    trials.push(trial("filter_verdicts", "any", tally, |_| filters::filter_verdicts()));
    #[cfg(not(feature = "extra"))]
    trials.push(skipped("filter_verdicts", "any", "built without --features extra", tally));
    trials.push(match doctor::keepalive::missing() {
        Some(reason) => skipped("doctor_peer_closes", "any", &reason, tally),
        None => trial("doctor_peer_closes", "any", tally, |_| doctor::keepalive::doctor_peer_closes()),
    });
    let no_nesting = nested::missing();
    for (backend, refusal) in offered {
        trials.push(match no_nesting.as_ref().or(refusal.as_ref()) {
            Some(reason) => skipped("nested", backend, reason, tally),
            None => trial("nested", backend, tally, nested::nested),
        });
    }
    let no_tools = manners::missing();
    let confined: [(&str, Once); 2] = [("lacks", manners::lacks), ("no_ptrace", manners::no_ptrace)];
    trials.extend(confined.map(|(name, case)| match &no_tools {
        Some(reason) => skipped(name, "any", reason, tally),
        None => trial(name, "any", tally, move |_| case()),
    }));
    let no_tmux = screen::missing();
    let screens: [(&str, Once); 4] = [
        ("screen", screen::screen),
        ("screen_is_left", screen::screen_is_left),
        ("suspended", screen::suspended),
        ("two_observers", observers::two_observers),
    ];
    trials.extend(screens.map(|(name, case)| match &no_tmux {
        Some(reason) => skipped(name, "any", reason, tally),
        None => trial(name, "any", tally, move |_| case()),
    }));
    trials.push(match screen::no_terminal() {
        Some(reason) => skipped("stopped_terminal", "any", &reason, tally),
        None => trial("stopped_terminal", "any", tally, |_| screen::stopped_terminal()),
    });
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

/// A whole line at once, with a line break before it: consoles are shared with the kernel and the test harness.
fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "\n{text}");
    let _ = out.flush();
}
