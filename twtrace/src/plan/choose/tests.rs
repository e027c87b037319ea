use twtrace_common::record::kind;

use super::{
    super::{Misses, facts},
    *,
};

/// A kernel that can do everything; the development machine's and others are cut down from it.
fn able() -> Facts {
    Facts {
        functions: facts::FUNCTIONS
            .into_iter()
            .filter(|&name| name != super::super::HASHDANCE)
            .map(|name| (name, 3))
            .collect(),
        tracepoints: facts::TRACEPOINTS.into_iter().collect(),
        kprobes: true,
        addresses: true,
        addresses_hidden: false,
        misses: Misses::default(),
        missing_fields: Vec::new(),
        unknown_fields: Vec::new(),
    }
}

fn refused(backend: Backend, hook: Hook) -> Failure {
    let reason = Reason::Refused { hook, error: "EPERM".to_owned(), log: String::new() };
    Failure { backend, hook: Some(hook), reason }
}

#[test]
fn fentry_serves_all_where_it_can() {
    let plan = choose(&able(), &Asked::default(), &[]).unwrap();
    for capability in Capability::ALL {
        let wanted = match capability {
            Capability::Conn | Capability::Closer => Backend::Tracepoint,
            _ => Backend::Fentry,
        };
        assert_eq!(plan.backend(capability), Some(wanted), "{capability:?}");
    }
    assert_eq!(plan.hooks.len(), 13);
}

/// Trampolines call the last that was attached first, tracepoints the first.
#[test]
fn who_stands_in_for_a_busy_program_is_called_after_it() {
    let plan = choose(&able(), &Asked::default(), &[]).unwrap();
    let place = |program: &str| plan.hooks.iter().position(|hook| hook.program == program).unwrap();
    assert!(place("death_again_fentry") < place("death_fentry"));
    assert!(place("refusal_again_fexit") < place("refusal_fexit"));
    assert!(place("conn_tp") < place("conn_again_tp"));
}

#[test]
fn a_refused_trampoline_and_no_kprobes_leave_tracepoints() {
    let facts = Facts { kprobes: false, ..able() };
    let mut failures = Vec::new();
    let plan = loop {
        let plan = choose(&facts, &Asked::default(), &failures).unwrap();
        match plan.hooks.iter().find(|hook| matches!(hook.attach, Attach::Fentry | Attach::Fexit)) {
            Some(&hook) => failures.push(refused(Backend::Fentry, hook)),
            None => break plan,
        }
    };
    let no_tracepoint = [Capability::ReuseDenied, Capability::NoBind];
    for capability in Capability::ALL.into_iter().filter(|capability| !no_tracepoint.contains(capability)) {
        assert_eq!(plan.backend(capability), Some(Backend::Tracepoint), "{capability:?}");
    }
    assert!(no_tracepoint.iter().all(|&capability| plan.backend(capability).is_none()));
    assert!(plan.reasons(Capability::NoBind).unwrap().contains("strace"));
    assert!(matches!(plan.against[&Capability::ReuseDenied][2], (Backend::Tracepoint, Reason::NoHook(_))));
    let against = &plan.against[&Capability::Birth];
    assert_eq!(against.len(), 2);
    assert!(matches!(against[0], (Backend::Fentry, Reason::Refused { .. })));
    assert_eq!(against[1], (Backend::Kprobe, Reason::NoKprobes));
}

#[test]
fn an_older_kernel_dances_without_schedule() {
    let mut facts = able();
    facts.functions.remove(super::super::HASHDANCE_SCHEDULE);
    facts.functions.insert(super::super::HASHDANCE, 3);
    let plan = choose(&facts, &Asked::of(Backend::Kprobe), &[]).unwrap();
    assert!(plan.hooks.iter().any(|hook| hook.target == super::super::HASHDANCE));
}

#[test]
fn one_missing_function_costs_one_capability() {
    let mut facts = able();
    facts.functions.remove("__inet_twsk_schedule");
    let plan = choose(&facts, &Asked::of(Backend::Fentry), &[]).unwrap();
    assert_eq!(plan.backend(Capability::Rearm), None);
    assert_eq!(plan.backend(Capability::Turn), None);
    assert_eq!(plan.backend(Capability::Death), Some(Backend::Fentry));
}

#[test]
fn forced_and_impossible_names_the_reason() {
    let facts = Facts { kprobes: false, ..able() };
    let error = choose(&facts, &Asked::of(Backend::Kprobe), &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "birth is not possible: kprobe: the kernel was built without kprobes (CONFIG_KPROBES)"
    );
}

#[test]
fn hidden_addresses_cost_the_cause_and_say_what_to_do() {
    let facts = Facts { addresses: false, addresses_hidden: true, ..able() };
    let plan = choose(&facts, &Asked::default(), &[]).unwrap();
    assert_eq!(plan.backend(Capability::Cause), None);
    let reasons: Vec<_> = plan.against[&Capability::Cause].iter().map(|(_, reason)| reason.to_string()).collect();
    assert!(reasons[0].contains("kptr_restrict"), "{reasons:?}");
    assert!(choose(&facts, &Asked::of(Backend::Tracepoint), &[]).is_err());
}

#[test]
fn kprobes_leave_the_failed_connect_to_the_tracepoint() {
    let plan = choose(&able(), &Asked::of(Backend::Kprobe), &[]).unwrap();
    assert_eq!(plan.backend(Capability::NoPort), Some(Backend::Tracepoint));
    assert_eq!(plan.backend(Capability::ReuseDenied), Some(Backend::Kprobe));
    let mut facts = able();
    facts.functions.remove("inet6_hash_connect");
    let plan = choose(&facts, &Asked::default(), &[]).unwrap();
    assert_eq!(plan.backend(Capability::NoPort), Some(Backend::Tracepoint));
    assert_eq!(plan.backend(Capability::ReuseDenied), Some(Backend::Fentry));
    assert_eq!(choose(&facts, &Asked::of(Backend::Fentry), &[]).unwrap().backend(Capability::NoPort), None);
}

#[test]
fn a_denial_is_told_with_its_connect_and_reason_or_not_at_all() {
    let of = |facts: &Facts| {
        let plan = choose(facts, &Asked::of(Backend::Fentry), &[]).unwrap();
        (plan.backend(Capability::ReuseDenied), plan.against[&Capability::ReuseDenied].clone())
    };
    let mut facts = able();
    facts.functions.remove("inet_hash_connect");
    let (backend, against) = of(&facts);
    assert!(backend.is_none() && matches!(against[0].1, Reason::Needs(_)), "{against:?}");
    let facts = Facts { unknown_fields: vec!["net.ipv4.sysctl_tcp_tw_reuse", "sock.sk_mark"], ..able() };
    assert_eq!(of(&facts).1, [(Backend::Fentry, Reason::NoField("net.ipv4.sysctl_tcp_tw_reuse"))]);
    let facts = Facts { unknown_fields: vec!["sock.sk_mark"], ..able() };
    assert_eq!(of(&facts), (Some(Backend::Fentry), Vec::new()));
}

#[test]
fn what_no_event_needs_is_not_loaded() {
    let of = |kinds: &[u8]| {
        let kinds = kinds.iter().fold(0, |bits, kind| bits | 1 << kind);
        choose(&able(), &Asked { kinds, ..Asked::default() }, &[]).unwrap()
    };
    let plan = of(&[kind::BORN, kind::DIED]);
    let unasked = [
        Capability::Turn,
        Capability::Rearm,
        Capability::Refusal,
        Capability::NoPort,
        Capability::ReuseDenied,
        Capability::NoBind,
    ];
    assert!(plan.unasked.iter().eq(&unasked), "{:?}", plan.unasked);
    assert!(unasked.iter().all(|&of| plan.backend(of).is_none() && plan.reasons(of).is_some()));
    assert_eq!(plan.hooks.len(), 6, "{:?}", plan.hooks);
    let plan = of(&[kind::NO_BIND]);
    assert_eq!(plan.backend(Capability::NoBind), Some(Backend::Fentry));
    assert!(plan.backend(Capability::NoPort).is_none() && plan.hooks.len() == 7, "{:?}", plan.hooks);
    // A denial is told by the connect() that failed.
    assert!(of(&[kind::REUSE_DENIED]).backend(Capability::NoPort).is_some());
    // Counters alone: all of them.
    assert_eq!(of(&[]), choose(&able(), &Asked::default(), &[]).unwrap());
}

#[test]
fn a_failed_bind_is_told_by_fentry_alone_and_the_others_say_why() {
    let of = |facts: &Facts, backend| choose(facts, &Asked::of(backend), &[]).unwrap();
    for backend in [Backend::Kprobe, Backend::Tracepoint] {
        let plan = of(&able(), backend);
        assert_eq!(plan.backend(Capability::NoBind), None);
        assert!(plan.reasons(Capability::NoBind).unwrap().contains("no_bind needs fentry"));
    }
    let mut facts = able();
    facts.functions.remove("inet_csk_get_port");
    let plan = of(&facts, Backend::Fentry);
    assert_eq!(plan.against[&Capability::NoBind], [(Backend::Fentry, Reason::NoFunction("inet_csk_get_port"))]);
    assert_eq!(plan.backend(Capability::NoPort), Some(Backend::Fentry));
}

#[test]
fn a_transition_tells_a_failed_connect_by_its_hash_or_not_at_all() {
    let facts = Facts { unknown_fields: vec!["sock.sk_txhash"], ..able() };
    let plan = choose(&facts, &Asked::of(Backend::Tracepoint), &[]).unwrap();
    assert_eq!(plan.backend(Capability::NoPort), None);
    assert_eq!(plan.against[&Capability::NoPort], [(Backend::Tracepoint, Reason::NoField("sock.sk_txhash"))]);
    assert_eq!(choose(&facts, &Asked::default(), &[]).unwrap().backend(Capability::NoPort), Some(Backend::Fentry));
}

#[test]
fn missing_fields_end_it() {
    let facts = Facts { missing_fields: vec!["sock_common.skc_num"], ..able() };
    assert!(choose(&facts, &Asked::default(), &[]).unwrap_err().to_string().contains("sock_common.skc_num"));
}

#[test]
fn a_failed_self_test_degrades_the_backend() {
    let failure = Failure { backend: Backend::Fentry, hook: None, reason: Reason::SelfTest("no birth".to_owned()) };
    let plan = choose(&able(), &Asked::default(), &[failure]).unwrap();
    assert_eq!(plan.backend(Capability::Birth), Some(Backend::Kprobe));
    assert_eq!(plan.backend(Capability::Conn), Some(Backend::Tracepoint));
}

/// Whatever fails, choosing again ends: each failure takes a hook away.
#[test]
fn every_sequence_of_failures_ends() {
    let facts = able();
    for pick in 0..8 {
        let mut failures = Vec::new();
        while let Ok(plan) = choose(&facts, &Asked::default(), &failures) {
            let hooks: Vec<_> = plan.hooks.iter().collect();
            let hook = *hooks[pick % hooks.len()];
            assert!(!failures.iter().any(|failure: &Failure| failure.hook == Some(hook)), "{hook:?} again");
            failures.push(refused(Backend::Fentry, hook));
            assert!(failures.len() < 40);
        }
    }
}
