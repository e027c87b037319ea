use super::*;
use crate::{
    cli::{self, Command},
    filter::spec::{NetnsSpec, Resolved},
};

/// The filters of a command line, names not looked up.
fn wanted(words: &str) -> Wanted {
    let line = ["twtrace", "run"].into_iter().chain(words.split_whitespace());
    let Ok(Command::Run(run)) = cli::parse(line).map(|cli| cli.command) else { panic!("{words}") };
    let numbers = run.filter.netns.try_map(|netns| match netns {
        NetnsSpec::Inum(inum) => Ok::<u32, ()>(*inum),
        _ => Err(()),
    });
    let resolved = Resolved { netns: numbers.unwrap(), ..Resolved::default() };
    Wanted::new(&run.filter.expression(&resolved))
}

fn expression(text: &str) -> Wanted {
    Wanted::new(&Expression::read(text).unwrap())
}

/// The namespace of all sockets here.
const NETNS: u32 = 7;

fn tuple(laddr: &str, lport: u16, raddr: &str, rport: u16) -> Tuple {
    Tuple { laddr: laddr.parse().unwrap(), lport, raddr: raddr.parse().unwrap(), rport }
}

#[test]
fn without_filters_everything_is_wanted() {
    let all = Wanted::default();
    assert!(!all.is_filtered() && all.is_decided() && all.is_whole(1) && all.netns(7) && all.listener(80));
    assert!(all.opened(&tuple("10.0.0.1", 40_000, "192.0.2.1", 80), NETNS));
    assert_eq!(all.one_namespace(), None);
    // Kinds and causes are no filters of sockets.
    assert!(!wanted("--events born").is_filtered() && !wanted("--cause reused").is_filtered());
}

#[test]
fn each_filter_lets_its_own_through() {
    let here = tuple("10.0.0.1", 40_000, "192.0.2.1", 80);
    let v6 = tuple("2001:db8::1", 40_000, "2001:db8::2", 443);
    for (words, v4_passes, v6_passes) in [
        ("--lport 40000", true, true),
        ("--lport 80", false, false),
        ("--rport 80", true, false),
        ("--port 80,81", true, false),
        ("--port 40000", true, true),
        ("--laddr 10.0.0.0/8", true, false),
        ("--laddr 10.1.0.0/16", false, false),
        ("--raddr 192.0.2.0/24,2001:db8::/32", true, true),
        ("--raddr 0.0.0.0/0", true, false),
        ("-4", true, false),
        ("-6", false, true),
        ("--role client", true, true),
        ("--role server", false, false),
        ("--rport 80 --laddr 10.9.0.0/16", false, false),
    ] {
        let wanted = wanted(words);
        assert_eq!((wanted.opened(&here, NETNS), wanted.opened(&v6, NETNS)), (v4_passes, v6_passes), "{words}");
        let to = |tuple: &Tuple| Destination { laddr: tuple.laddr, raddr: tuple.raddr, rport: tuple.rport };
        assert!(
            !wanted.opened(&here, NETNS) || wanted.destination(&to(&here)),
            "{words}: a destination of a wanted socket"
        );
        assert!(wanted.is_filtered(), "{words}");
    }
}

#[test]
fn who_closes_is_not_known_of_what_is_polled() {
    let here = tuple("10.0.0.1", 40_000, "192.0.2.1", 80);
    for words in ["--pid 1", "--comm nginx"] {
        let wanted = wanted(words);
        assert!(
            !wanted.is_decided() && !wanted.opened(&here, NETNS) && !wanted.listener(80) && !wanted.is_whole(80),
            "{words}"
        );
    }
}

#[test]
fn headroom_is_known_of_whole_destinations_only() {
    assert!(wanted("--rport 80").is_whole(80));
    assert!(wanted("--port 80").is_whole(80), "every socket towards port 80 passes");
    assert!(!wanted("--port 40000").is_whole(80), "only one of them does");
    assert!(!wanted("--lport 40000-41000").is_whole(80));
    assert!(wanted("--netns 7 --raddr 192.0.2.0/24 -4 --role client").is_whole(80));
    assert!(wanted("--role client").needs_role() && !wanted("-4").needs_role());
}

#[test]
fn namespaces_and_listeners() {
    let one = wanted("--netns 7");
    assert_eq!((one.netns(7), one.netns(8), one.one_namespace()), (true, false, Some(7)));
    let two = wanted("--netns 7,8");
    assert_eq!((two.netns(7), two.netns(8), two.netns(9), two.one_namespace()), (true, true, false, None));
    assert_eq!(wanted("--netns 7 --rport 80").one_namespace(), None, "not all of it");
    assert!(one.listener(8080));
    assert!(wanted("--port 8080").listener(8080) && !wanted("--port 8080").listener(80));
    assert!(wanted("--lport 8080").listener(8080) && !wanted("--lport 8080").listener(80));
    for words in ["--rport 8080", "--raddr 10.0.0.0/8", "--laddr 10.0.0.0/8", "-6", "--role client", "--pid 1"] {
        assert!(!wanted(words).listener(8080), "{words}");
    }
}

/// What the programs do not compare: `not`, and alternatives of several kinds.
#[test]
fn an_expression_says_the_same_of_sockets() {
    let here = tuple("10.0.0.1", 40_000, "192.0.2.1", 80);
    let to = Destination { laddr: here.laddr, raddr: here.raddr, rport: here.rport };
    for (text, opened, destination, listener, whole) in [
        ("not dst port 443", true, true, true, true),
        ("not dst port 80", false, false, true, true),
        ("dst port 80 or src net 10.9.0.0/16", true, true, false, true),
        ("not src port 40000", false, true, true, false),
        ("port 40000 or host 192.0.2.9", true, true, false, false),
        ("netns 7 or dst port 443", true, true, true, true),
        ("netns 8 or dst port 443", false, true, true, true),
        ("role server or dst port 443", false, false, true, true),
        ("not src port 8080", true, true, false, false),
        ("cause reused or life < 1s", true, true, true, true),
        ("not pid 1", false, false, false, false),
    ] {
        let wanted = expression(text);
        let said = (wanted.opened(&here, NETNS), wanted.destination(&to), wanted.listener(8080), wanted.is_whole(80));
        assert_eq!(said, (opened, destination, listener, whole), "{text}");
    }
    assert!(
        !expression("not netns 7").netns(7) && expression("not netns 7").netns(8) && expression("not port 1").netns(7)
    );
    assert!(expression("not port 1").is_filtered() && !expression("not cause reused").is_filtered());
    assert!(expression("not role server").needs_role() && !expression("not port 1").needs_role());
    assert_eq!(expression("netns 7 and not port 1").one_namespace(), None);
    assert_eq!(expression("netns 7 and not cause reused").one_namespace(), Some(7));
}
