//! The filters of the command line, from their options to what [`crate::filter`] knows.

use std::path::PathBuf;

use super::{args::FilterArgs, exit::Complaint, list::List};
use crate::{
    filter::{
        spec::{Family, FilterSpec},
        word::{self, Bad},
    },
    model::{
        event::{Cause, Kind, Role},
        expression::Expression,
    },
};

/// Reads the filters of the command line; `events` is what was given for `--events`.
pub(super) fn read(args: &FilterArgs, events: &[String]) -> Result<FilterSpec, Complaint> {
    const PORTS: &str = "80,8000-8100";
    const CIDRS: &str = "10.0.0.0/8,::1";
    let list = |option, example, values| List { option, example, values };
    let causes = list("--cause", "reused,reset", &args.cause).words(|word| word::word_of(word, "cause", &causes()))?;
    let path = |word: &str| Ok::<_, Bad>(PathBuf::from(word));
    Ok(FilterSpec {
        lport: list("--lport", PORTS, &args.lport).ports()?,
        rport: list("--rport", PORTS, &args.rport).ports()?,
        port: list("--port", PORTS, &args.port).ports()?,
        laddr: list("--laddr", CIDRS, &args.laddr).few(word::cidr)?,
        raddr: list("--raddr", CIDRS, &args.raddr).few(word::cidr)?,
        pid: list("--pid", "1234,5678", &args.pid).few(word::pid)?,
        comm: list("--comm", "nginx,curl", &args.comm).few(word::comm)?,
        cgroup: list("--cgroup", "system.slice/nginx.service", &args.cgroup).few(path)?,
        cgroup_tree: list("--cgroup-tree", "system.slice", &args.cgroup_tree).few(path)?,
        container: list("--container", "web", &args.container).few(word::name)?,
        unit: list("--unit", "nginx.service", &args.unit).few(word::name)?,
        netns: list("--netns", "self,/run/netns/blue", &args.netns).few(word::netns)?,
        kinds: kinds(&list("--events", "born,died", events), !causes.is_empty())?,
        causes,
        role: role(args.role.as_deref())?,
        family: match (args.ipv4, args.ipv6) {
            (true, false) => Some(Family::V4),
            (false, true) => Some(Family::V6),
            (true, true) | (false, false) => None,
        },
    })
}

/// The expression behind the options; `advice` knows what to write instead of a word of other tools.
pub(super) fn expression(words: &[String], advice: impl Fn(&str) -> Option<String>) -> Result<Expression, Complaint> {
    const EXAMPLE: &str = "write e.g. twtrace run 'dst port 443 and not cause expired'";
    if words.is_empty() {
        return Ok(Expression::everything());
    }
    Expression::read(&words.join(" ")).map_err(|wrong| {
        let why = match (wrong.word(), wrong.before()) {
            (Some(word), "") if word == words[0] => return first(word, advice(word), EXAMPLE),
            (Some(_), _) => wrong.to_string(),
            (None, before) => format!("after '{before}': {}", wrong.why()),
        };
        Complaint::new("the expression", why, EXAMPLE)
    })
}

/// About an expression whose first word begins none: most likely it was meant for something else.
fn first(word: &str, advice: Option<String>, example: &str) -> Complaint {
    Complaint::new(word, "no option, and not the beginning of an expression", advice.as_deref().unwrap_or(example))
}

/// `--events`, and what `--cause` makes of it: only deaths have a cause.
fn kinds(events: &List<'_>, by_cause: bool) -> Result<Vec<Kind>, Complaint> {
    let known: Vec<_> = Kind::ALL.iter().map(|&kind| (kind.word(), Some(kind))).chain([("none", None)]).collect();
    let wanted = events.words(|word| word::word_of(word, "event", &known))?;
    let wanted = match wanted.iter().copied().collect::<Option<Vec<Kind>>>() {
        Some(kinds) => kinds,
        None if wanted.len() == 1 => Vec::new(),
        None => {
            let what = format!("--events {}", events.values.join(","));
            return Err(Complaint::new(what, "none excludes all others", "write --events none, or leave none out"));
        }
    };
    let all = events.values.is_empty();
    if by_cause && !all && !wanted.contains(&Kind::Died) {
        let what = format!("--events {} with --cause", events.values.join(","));
        return Err(Complaint::new(what, "only died events have a cause", "leave out one of the two"));
    }
    Ok(match (by_cause, all) {
        (true, _) => vec![Kind::Died],
        (false, true) => Kind::ALL.to_vec(),
        (false, false) => wanted,
    })
}

/// Every cause that can be asked for: those with a word of their own, and what could not be told.
fn causes() -> Vec<(&'static str, Cause)> {
    Cause::ALL.iter().copied().chain([Cause::from_raw(0)]).map(|cause| (cause.word(), cause)).collect()
}

/// One word, not a list: both roles are what is wanted without it.
fn role(word: Option<&str>) -> Result<Option<Role>, Complaint> {
    let known: Vec<_> = Role::ALL.iter().map(|&role| (role.word(), role)).collect();
    let list = List { option: "--role", example: "client", values: &[] };
    let read = |word: &str| word::word_of(word, "role", &known).map_err(|bad| list.complain(word, bad));
    word.map(read).transpose()
}
