//! What an expression means, what is said of wrong ones, and that one that is written can be read again.

use proptest::prelude::*;

use super::{Comparison, Expression, Fact, Group, Noun, Primitive, Side, Subject};
use crate::model::event::{Cause, Closer, Comm, Detail, Event, Kind, Life, Role, Substate, Task, Tuple};

/// The end of a minisock of which everything is known that a filter may ask.
pub(crate) fn died() -> Event {
    let mut comm = [0; 16];
    // What a longer name left behind the first NUL is not the name.
    comm[..10].copy_from_slice(b"nginx\0rest");
    let tuple = Tuple { laddr: [10, 0, 0, 5].into(), lport: 40_000, raddr: [192, 0, 2, 9].into(), rport: 443 };
    Event {
        mono_ns: 1,
        life: Life {
            id: Some(1),
            netns: Some(77),
            tuple: Some(tuple),
            substate: Some(Substate::TimeWait),
            role: Some(Role::Client),
            closer: Some(Closer { task: Task { pid: 42, comm: Comm(comm) }, cgroup_id: 9 }),
            preexisting: Some(false),
        },
        detail: Detail::Died { cause: Cause::Reused, life_ns: Some(2_500_000_000), taker: None },
        self_test: false,
    }
}

fn verdict(text: &str, event: &Event) -> Option<bool> {
    Expression::read(text).map_or_else(|wrong| panic!("{text}: {wrong}"), |read| read.verdict(&Subject::of(event)))
}

#[test]
fn an_expression_means_what_it_means_to_tcpdump() {
    for (text, wanted) in [
        ("port 443", true),
        ("dst port 443", true),
        ("src port 443", false),
        ("portrange 400-500", true),
        ("src portrange 400-500", false),
        ("host 10.0.0.5", true),
        ("src 10.0.0.5", true),
        ("src host 10.0.0.5 and dst net 192.0.2.0/24", true),
        ("dst 10.0.0.5", false),
        ("net 10.0.0.77/8", true),
        ("host ::ffff:10.0.0.5", true),
        ("ip", true),
        ("ip6", false),
        // What a condition leaves out is that of the one before.
        ("dst port 80 or 443", true),
        ("dst port 80 or 8080", false),
        ("host 10.0.0.1 or 10.0.0.5", true),
        // not before and, and before or.
        ("not port 80 and not port 443", false),
        ("port 80 and port 81 or port 443", true),
        ("port 443 or port 80 and port 81", true),
        ("(port 443 or port 80) and port 81", false),
        ("!(port 80||port 81)&&ip", true),
    ] {
        assert_eq!(verdict(text, &died()), Some(wanted), "{text}");
    }
}

#[test]
fn the_words_of_minisocks_are_those_of_the_json() {
    for (text, wanted) in [
        ("event died", true),
        ("event born or turned", false),
        ("state time_wait", true),
        ("state fin_wait2", false),
        ("cause expired or reused", true),
        ("not cause expired", true),
        ("role client", true),
        ("pid 42", true),
        ("comm nginx", true),
        ("comm \"nginx\"", true),
        ("comm ngin", false),
        ("netns 77", true),
        ("life > 2s", true),
        ("life>2s", true),
        ("life >= 2500ms and life <= 2500ms and life = 2.5s", true),
        ("life < 2s", false),
        ("life > 2 and life < 3", true),
        ("cause ?", false),
        ("not cause ? and not cause reused_bound", true),
    ] {
        assert_eq!(verdict(text, &died()), Some(wanted), "{text}");
    }
}

#[test]
fn what_depends_on_the_unknown_does_not_match_and_neither_does_its_opposite() {
    let known = died();
    let life = Life { netns: None, tuple: None, role: None, closer: None, substate: None, ..known.life };
    let unknown = Event { life, ..known };
    for text in
        ["port 443", "host 10.0.0.5", "ip", "state time_wait", "role client", "pid 42", "comm nginx", "netns 77"]
    {
        for text in [text.to_owned(), format!("not {text}"), format!("{text} and cause reused")] {
            assert_eq!(verdict(&text, &unknown), None, "{text}");
        }
        assert_eq!(verdict(&format!("{text} and cause expired"), &unknown), Some(false), "{text}");
        assert_eq!(verdict(&format!("{text} or cause reused"), &unknown), Some(true), "{text}");
    }
}

#[test]
fn what_an_event_has_not_is_no_unknown() {
    let born = Event { detail: Detail::Turned { after_ns: None }, ..died() };
    for (text, wanted) in [("cause expired", false), ("not cause expired", true), ("life > 0s", false)] {
        assert_eq!(verdict(text, &born), Some(wanted), "{text}");
    }
}

#[test]
fn the_wrong_word_is_shown_with_what_would_be_right() {
    for (text, said) in [
        ("", "at the end: a condition is missing"),
        ("curl", "at 'curl': not one of src dst host net"),
        ("port", "at the end: expected a port, e.g. port 443"),
        ("port 70000", "at '70000' after 'port': expected a port, e.g. port 443"),
        ("dst port 443 x", "at 'x' after 'dst port 443': a word too many; join conditions by and, or"),
        ("dst cause reused", "src and dst go before host, net, port and portrange"),
        ("dst nginx", "at 'nginx' after 'dst': expected host, net, port or portrange"),
        ("portrange 90-80", "expected two ports"),
        ("(port 80", "at the end: expected )"),
        ("port 80)", "a word too many"),
        ("cause murdered", "expected expired, reused,"),
        ("life 5s", "at '5s' after 'life': expected a comparison, e.g. life > 5s"),
        ("life > -5s", "expected a length of time"),
        ("comm \"nginx", "a name without its closing \""),
        ("comm (", "expected a thread's name"),
        ("comm sixteen-bytes-now", "expected a thread's name of 1 to 15 bytes"),
        ("container", "at the end: expected a name, e.g. container web"),
        ("cgroup \"\"", "expected a directory, e.g. cgroup system.slice/nginx.service"),
        ("netns 99999999999", "expected self, an inode number, or a file"),
        ("port 80 and", "at the end: a condition is missing"),
        ("net 10.0.0.0/40", "expected a block"),
    ] {
        let wrong = Expression::read(text).map_or_else(|wrong| wrong.to_string(), |read| format!("read as {read}"));
        assert!(wrong.contains(said), "{text}: {wrong}");
    }
}

#[test]
fn a_name_is_unknown_until_it_is_looked_up() {
    let named = Expression::read("not unit nginx.service").unwrap();
    assert_eq!(named.verdict(&Subject::of(&died())), None);
    let of = |ids: &[u64]| Group {
        noun: Noun::Unit,
        name: "nginx.service".to_owned(),
        top: Some("/sys/fs/cgroup/system.slice/nginx.service".into()),
        ids: ids.iter().copied().collect(),
    };
    let looked_up = |ids: &[u64]| {
        let mut names = 0;
        let found = named.clone().try_map(&mut |asked| {
            names += usize::from(matches!(asked, Primitive::Named(Noun::Unit, _)));
            Ok::<_, ()>(Expression::Is(Primitive::Cgroup(of(ids))))
        });
        assert_eq!(names, 1);
        found.unwrap()
    };
    assert_eq!(looked_up(&[9, 10]).verdict(&Subject::of(&died())), Some(false));
    // One that is made later belongs to it if it is below it.
    let mut other = looked_up(&[1]);
    assert_eq!(other.to_string(), "not unit \"nginx.service\"");
    for (directory, matches) in [
        ("/sys/fs/cgroup/system.slice", true),
        ("/sys/fs/cgroup/system.slice/nginx.service2", true),
        ("/sys/fs/cgroup/system.slice/nginx.service/a/b", false),
    ] {
        other.learn(9, directory.as_ref());
        assert_eq!(other.matches(&died()), matches, "{directory}");
    }
}

#[test]
fn depth_has_an_end() {
    for text in [format!("{}ip", "not ".repeat(10_000)), format!("{}ip", "(".repeat(10_000)), "!".repeat(99) + "ip"] {
        let read = Expression::read(&text);
        assert_eq!(read.is_ok(), text.len() < 200, "{read:?}");
    }
}

pub(crate) fn primitive() -> impl Strategy<Value = Primitive> {
    let side = || prop::sample::select(&[Side::Src, Side::Dst, Side::Either][..]);
    // Small sets, so that half of what is asked is so.
    let address = || prop::sample::select(vec!["10.0.0.5", "192.0.2.9", "2001:db8::1"]);
    let port = || prop::sample::select(vec![80, 443, 40_000, u16::MAX]);
    let parsed = |text: &str| text.parse().ok();
    prop_oneof![
        (side(), address()).prop_filter_map("an address", move |(side, at)| Some(Primitive::Host(side, parsed(at)?))),
        (side(), address(), 0..=32_u8).prop_filter_map("a block", |(side, at, len)| {
            Some(Primitive::Net(side, ipnet::IpNet::new(at.parse().ok()?, len).ok()?.trunc()))
        }),
        (side(), port(), port()).prop_map(|(side, a, b)| Primitive::Port(side, a.min(b)..=a.max(b))),
        prop::sample::select(&[4, 6][..]).prop_map(Primitive::Family),
        prop::sample::select(Kind::ALL).prop_map(Primitive::Event),
        prop::sample::select(Substate::ALL).prop_map(Primitive::State),
        prop::sample::select(Cause::ALL).prop_map(Primitive::Cause),
        prop::sample::select(Role::ALL).prop_map(Primitive::Role),
        (40..44_u32).prop_map(Primitive::Pid),
        "nginx|and|\\)|port|[ -!#-~]{1,15}".prop_map(Primitive::Comm),
        (76..79_u32).prop_map(Primitive::Netns),
        (prop::sample::select(&Noun::ALL[..]), "a[ -!#-~]{0,15}").prop_map(|(noun, name)| Primitive::Named(noun, name)),
        (prop::sample::select(&Comparison::ALL[..]), 0..5_000_000_000_u64)
            .prop_map(|((comparison, _), ns)| Primitive::Life(comparison, ns)),
    ]
}

pub(crate) fn expression() -> impl Strategy<Value = Expression> {
    primitive().prop_map(Expression::Is).prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| Expression::Not(Box::new(inner))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expression::All),
            prop::collection::vec(inner, 2..4).prop_map(Expression::Any),
        ]
    })
}

pub(crate) fn subject() -> impl Strategy<Value = Subject> {
    fn fact<T: Clone + std::fmt::Debug + 'static>(value: T) -> impl Strategy<Value = Fact<T>> {
        prop::sample::select(vec![Fact::Unknown, Fact::None, Fact::Known(value)])
    }
    let of = Subject::of(&died());
    let known = |fact: Fact<std::net::IpAddr>| if let Fact::Known(at) = fact { at } else { [0; 4].into() };
    let ends = (fact(known(of.laddr)), fact(40_000), fact(known(of.raddr)), fact(443));
    let what = (fact(Kind::Died), fact(Substate::TimeWait), fact(Cause::Reused), fact(Role::Client));
    let who = (fact(42), fact("nginx".to_owned()), fact(9), fact(77), fact(2_500_000_000));
    (ends, what, who).prop_map(
        |((laddr, lport, raddr, rport), (kind, substate, cause, role), (pid, comm, cgroup, netns, life_ns))| Subject {
            laddr,
            lport,
            raddr,
            rport,
            kind,
            substate,
            cause,
            role,
            pid,
            comm,
            cgroup,
            netns,
            life_ns,
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_the_same(wanted in expression()) {
        let text = wanted.to_string();
        prop_assert_eq!(Expression::read(&text), Ok(wanted), "{}", text);
    }

    /// A verdict in spite of something unknown holds, whatever that turns out to be.
    #[test]
    fn no_verdict_is_a_guess(expression in expression(), less in subject()) {
        if let Some(verdict) = expression.verdict(&less) {
            fn or<T: Clone>(less: &Fact<T>, more: Fact<T>) -> Fact<T> {
                if matches!(less, Fact::Unknown) { more } else { less.clone() }
            }
            let of = Subject::of(&died());
            // One end of two decides where the other one is unknown: see `Side`.
            prop_assume!(matches!(less.laddr, Fact::Unknown) == matches!(less.raddr, Fact::Unknown));
            prop_assume!(matches!(less.lport, Fact::Unknown) == matches!(less.rport, Fact::Unknown));
            let more = Subject {
                laddr: or(&less.laddr, of.laddr),
                lport: or(&less.lport, of.lport),
                raddr: or(&less.raddr, of.raddr),
                rport: or(&less.rport, of.rport),
                kind: or(&less.kind, of.kind),
                substate: or(&less.substate, of.substate),
                cause: or(&less.cause, of.cause),
                role: or(&less.role, of.role),
                pid: or(&less.pid, of.pid),
                comm: or(&less.comm, of.comm),
                cgroup: or(&less.cgroup, of.cgroup),
                netns: or(&less.netns, of.netns),
                life_ns: or(&less.life_ns, of.life_ns),
            };
            prop_assert_eq!(expression.verdict(&more), Some(verdict), "{}", expression);
        }
    }

    /// Whatever matches still does when nobody can tell some of what is asked, and that is not asked any more.
    #[test]
    fn without_some_of_it_more_matches(expression in expression(), subject in subject()) {
        let weaker = expression.without(&Primitive::is_of_event);
        prop_assert!(!weaker.primitives().into_iter().any(Primitive::is_of_event), "{}", weaker);
        if expression.verdict(&subject) == Some(true) {
            prop_assert_eq!(weaker.verdict(&subject), Some(true), "{} without: {}", expression, weaker);
        }
        prop_assert_eq!(expression.without(&|_| true), Expression::everything());
        prop_assert_eq!(expression.without(&|_| false).verdict(&subject), expression.verdict(&subject));
    }

    #[test]
    fn no_text_panics(text: String) {
        let _ = Expression::read(&text);
    }

    #[test]
    fn nearly_right_text_does_not_panic(
        text in "((not|and|or|\\(|\\)|src|dst|port|host|net|life|comm|cause|[0-9a-f.:/]{1,6}|<|>=|\"|ß) ?){0,12}"
    ) {
        let _ = Expression::read(&text).map(|read| read.matches(&died()));
    }
}
