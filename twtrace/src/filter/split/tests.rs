use proptest::prelude::*;

use super::*;
use crate::{
    cli::{self, Command},
    filter::spec::Resolved,
    model::expression::{
        Fact, Subject,
        tests::{expression, subject},
    },
};

/// The filters of a command line.
fn spec(words: &str) -> FilterSpec {
    let line = ["twtrace", "run"].into_iter().chain(words.split_whitespace());
    let Ok(Command::Run(run)) = cli::parse(line).map(|cli| cli.command) else { panic!("{words}") };
    run.filter
}

/// What an expression becomes beside some filters: the filters, and the rest.
fn taken(before: &str, expression: &str) -> (FilterSpec, String) {
    let (spec, rest) = spec(before).take(Expression::read(expression).unwrap());
    (spec, if rest.is_everything() { String::new() } else { rest.to_string() })
}

#[test]
fn the_programs_compare_what_they_can() {
    for (expression, filters, rest) in [
        ("port 443", "--port 443", ""),
        ("dst port 443 or 8443", "--rport 443,8443", ""),
        ("src portrange 1-10 and dst port 443", "--lport 1-10 --rport 443", ""),
        ("src host 10.0.0.1 or 10.0.0.2", "--laddr 10.0.0.1,10.0.0.2", ""),
        ("dst net 10.0.0.0/8 or dst host 192.0.2.1", "--raddr 10.0.0.0/8,192.0.2.1", ""),
        ("ip and role client", "-4 --role client", ""),
        ("pid 7 or 8 and comm nginx", "", "pid 7 or (pid 8 and comm \"nginx\")"),
        ("(pid 7 or 8) and comm nginx", "--pid 7,8 --comm nginx", ""),
        ("cause reused or recycled", "--cause reused,recycled", ""),
        ("event born or died", "--events born,died", ""),
        ("netns 7 or self or /run/netns/blue", "--netns 7,self,/run/netns/blue", ""),
        ("container web", "--container web", ""),
        ("unit a.service or b.service", "--unit a.service,b.service", ""),
        ("cgroup a and cgroup-tree b", "--cgroup a", "cgroup-tree \"b\""),
        ("container web and netns 7", "--container web", "netns 7"),
        // No place for these.
        ("not port 443", "", "not port 443"),
        ("host 10.0.0.1", "", "host 10.0.0.1"),
        ("port 443 or host 10.0.0.1", "", "port 443 or host 10.0.0.1"),
        ("life > 5s and port 443", "--port 443", "life > 5000000000ns"),
        ("state fin_wait2", "", "state fin_wait2"),
        ("port 443 and port 444", "--port 443", "port 444"),
        (
            "pid 1 or 2 or 3 or 4 or 5 or 6 or 7 or 8 or 9",
            "",
            "pid 1 or pid 2 or pid 3 or pid 4 or pid 5 or pid 6 or pid 7 or pid 8 or pid 9",
        ),
    ] {
        assert_eq!(taken("", expression), (spec(filters), rest.to_owned()), "{expression}");
    }
}

#[test]
fn an_expression_adds_to_the_filters() {
    for (before, expression, filters, rest) in [
        ("--port 443", "port 80", "--port 443", "port 80"),
        ("--port 443", "dst port 443", "--port 443 --rport 443", ""),
        ("--events born,died", "event died or turned", "--events died", ""),
        ("--events born", "event died", "--events none", ""),
        ("--cause reused", "event died", "--cause reused", ""),
        ("--container web", "unit web.service", "--container web", "unit \"web.service\""),
        ("--netns 7", "netns 8", "--netns 7", "netns 8"),
        ("-4", "ip6", "-4", "ip6"),
    ] {
        assert_eq!(taken(before, expression), (spec(filters), rest.to_owned()), "{before} {expression}");
    }
}

/// The expression that filters come to, their names being numbers.
fn of(spec: &FilterSpec) -> Expression {
    let netns = spec.netns.try_map(|netns| match netns {
        NetnsSpec::Inum(inum) => Ok(*inum),
        _ => Err(()),
    });
    spec.expression(&Resolved { netns: netns.unwrap_or_default(), ..Resolved::default() })
}

fn is_named(asked: &Primitive) -> bool {
    matches!(asked, Primitive::Named(..))
}

proptest! {
    /// Both parts together say what the whole says, whatever is known.
    #[test]
    fn nothing_is_lost_between_the_two(expression in expression(), subject in subject()) {
        prop_assume!(!expression.primitives().into_iter().any(is_named));
        let (spec, rest) = FilterSpec::default().take(expression.clone());
        let both = of(&spec).and(rest);
        // As of events: see `Subject::of`.
        let kind = if matches!(subject.cause, Fact::Known(_)) { Fact::Known(Kind::Died) } else { known(subject.kind) };
        let subject = Subject { kind, cause: known(subject.cause), ..subject };
        prop_assert_eq!(both.verdict(&subject), expression.verdict(&subject), "{} came to {}", expression, both);
    }

    /// Filters are themselves again.
    #[test]
    fn filters_are_held_whole(expression in expression()) {
        let (spec, _) = FilterSpec::default().take(expression);
        prop_assume!(!spec.names_groups() && spec.netns.iter().all(|netns| matches!(netns, NetnsSpec::Inum(_))));
        let (again, rest) = FilterSpec::default().take(of(&spec));
        prop_assert!(rest.is_everything(), "{}", rest);
        prop_assert_eq!(again, spec);
    }
}

/// What is not known of a subject at random is none of it.
fn known<T>(fact: Fact<T>) -> Fact<T> {
    if matches!(fact, Fact::Unknown) { Fact::None } else { fact }
}
