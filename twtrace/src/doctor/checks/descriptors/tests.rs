use super::*;
use crate::{
    doctor::{
        checks::fixture::{Fixture, INUM, ids},
        finding::Value,
        places::{Container, Reach, Runtime},
    },
    host::processes::SystemFiles,
};

#[test]
fn a_process_near_its_limit_is_found() {
    let at = |descriptors| check(&Fixture::quiet().process(7, "nginx", descriptors, 1024).facts());
    for (descriptors, expected, severity) in [
        (819, "descriptors.room", Severity::Fine),
        (820, "descriptors.process", Severity::Warning),
        (1023, "descriptors.process", Severity::Warning),
        (1024, "descriptors.process", Severity::Critical),
    ] {
        let findings = at(descriptors);
        assert_eq!((ids(&findings).as_slice(), findings[0].severity), ([expected].as_slice(), severity));
        assert!(findings[0].sentence.contains("nginx (7)"), "{findings:?}");
    }
}

#[test]
fn the_worst_is_named() {
    let facts = Fixture::quiet()
        .process(1, "many", 60_000, 100_000)
        .process(2, "full", 64, 64)
        .process(3, "near", 63, 64)
        .facts();
    let findings = check(&facts);
    assert_eq!(ids(&findings), ["descriptors.process"]);
    let sentence = "full (2) has 64 descriptors, limit 64: accept() and open() fail with EMFILE; another process is near its limit";
    assert_eq!(findings[0].sentence, sentence);
    assert!(findings[0].to_do[1].contains("--nofile=256:"), "{findings:?}");
}

#[test]
fn sandboxes_are_left_alone() {
    let facts = Fixture::quiet().process(1, "sandbox", 5, 0).process(2, "sh", 4, 1024).facts();
    assert_eq!(ids(&check(&facts)), ["descriptors.room"]);
}

#[test]
fn no_limit_is_that_of_the_kernel() {
    let with = |nr_open| {
        let facts = Fixture::quiet().process(1, "db", 1000, 0).machine(|machine| {
            machine.census.processes[0].soft = Some(Limit::Unlimited);
            machine.census.nr_open = nr_open;
        });
        ids(&check(&facts)).join(" ")
    };
    assert_eq!(with(Some(1000)), "descriptors.process");
    assert_eq!(with(Some(1_048_576)), "descriptors.room");
    // Nothing is known of the only process there is.
    assert_eq!(with(None), "");
}

#[test]
fn sockets_that_were_not_looked_at_are_not_zero() {
    for descriptors in [10, 1024] {
        let facts = Fixture::quiet().process(7, "other", descriptors, 1024).machine(|machine| {
            let process = &mut machine.census.processes[0];
            (process.whole, process.sockets) = (false, 0);
            machine.census.unreadable = 1;
        });
        let finding = &check(&facts)[0];
        let sockets: Vec<&Evidence> = finding.evidence.iter().filter(|evidence| evidence.unit == "sockets").collect();
        assert!(!sockets.is_empty() && sockets.iter().all(|it| it.value == Value::Unknown), "{finding:?}");
    }
}

#[test]
fn the_machine_has_a_limit_too() {
    let with = |allocated| {
        let fixture = Fixture::quiet().process(1, "sh", 4, 1024);
        let system = Some(SystemFiles { allocated, limit: 1000 });
        check(&fixture.machine(|machine| machine.census.system = system))
    };
    assert_eq!(ids(&with(799)), ["descriptors.room"]);
    assert_eq!((ids(&with(800)), with(800)[0].severity), (vec!["descriptors.system"], Severity::Warning));
    assert_eq!((ids(&with(1000)), with(1000)[0].severity), (vec!["descriptors.system"], Severity::Critical));
}

#[test]
fn processes_elsewhere_are_no_finding_about_the_namespace_that_was_asked_for() {
    let with = |alone, inhabitants: &[u32]| {
        let mut facts = Fixture::quiet().process(7, "full", 1024, 1024).process(8, "calm", 10, 1024).facts();
        facts.alone = alone;
        facts.namespaces[0].inhabitants = inhabitants.iter().copied().collect();
        check(&facts)
    };
    let here = with(true, &[7, 8]);
    assert_eq!((ids(&here), here[0].netns), (vec!["descriptors.process"], Some(INUM)));
    let room = with(true, &[8]);
    assert_eq!(ids(&room), ["descriptors.room"]);
    assert!(room[0].sentence.starts_with("calm (8) is the process nearest"), "{}", room[0].sentence);
    assert!(!format!("{room:?}").contains("full"), "{room:?}");
    assert_eq!(ids(&with(true, &[])), Vec::<&str>::new());
    // All were asked for, and nobody knows where it is.
    let anywhere = with(false, &[]);
    assert_eq!((ids(&anywhere), anywhere[0].netns), (vec!["descriptors.process"], None));
}

#[test]
fn the_machine_is_judged_whatever_was_asked_for() {
    let mut facts = Fixture::quiet().process(1, "sh", 4, 1024).facts();
    facts.alone = true;
    facts.machine.census.system = Some(SystemFiles { allocated: 1000, limit: 1000 });
    facts.namespaces[0].place.host_is_elsewhere = true;
    let found = &check(&facts)[0];
    assert!(found.sentence.starts_with("the machine (all its namespaces) has 1000 open files"), "{}", found.sentence);
    assert!(found.to_do[1].starts_with("on the host, "), "{:?}", found.to_do);
}

#[test]
fn steps_act_where_the_process_is() {
    let mut facts = Fixture::quiet().process(7, "full", 1024, 1024).facts();
    facts.namespaces[0].inhabitants = [7].into();
    facts.namespaces[0].place = Place {
        reach: Reach::Process(7),
        container: Some(Container { runtime: Runtime::Docker, id: "0123456789ab".to_owned() }),
        ..Place::default()
    };
    let found = &check(&facts)[0];
    assert!(found.to_do[0].starts_with("nsenter --net=/proc/7/ns/net ss -tanp | grep 'pid=7,'"), "{:?}", found.to_do);
    assert!(found.to_do[1].contains("--ulimit nofile=4096:4096 where container docker 0123"), "{:?}", found.to_do);
}

#[test]
fn users_are_summed() {
    let facts = Fixture::quiet().process(1, "a", 30, 1024).process(2, "b", 12, 1024).facts();
    let users = users(judged(&facts));
    assert_eq!((users[0].name.as_str(), &users[0].value), ("user 0", &Value::Count(42)));
}
