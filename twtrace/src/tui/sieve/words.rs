//! The names and values of the command line's filters, held against events and rows in user space.

use crate::{
    cli::{self, Command, exit::Exit},
    filter::{
        matches::{Filters, number, one_of, within},
        resolve::Resolver,
    },
    model::{
        aggregate::{CgroupName, DestinationRow, OwnerRow, PortRow, ProcessName, Side},
        event::{Event, Role},
    },
    show::columns::Row,
};

/// Words NAME:VALUE. Values of one kind are alternatives, kinds add up; what is not known does not match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// As they were typed.
    text: String,
    filters: Filters,
}

impl Words {
    /// Reads `lport:443 comm:nginx cause:reused`: names and values are those of the command line's filters and of
    /// `--events`; `family:4` stands for `-4`. Looks up the names in it with `resolver`.
    ///
    /// # Errors
    /// What is wrong with the first wrong word, for the eye.
    pub fn read(text: &str, resolver: &Resolver) -> Result<Self, String> {
        let mut args = vec!["twtrace".to_owned(), "run".to_owned()];
        for word in text.split_whitespace() {
            let Some((name, value)) = word.split_once(':') else {
                return Err(format!("{word}: write NAME:VALUE, e.g. lport:443 comm:nginx cause:reused"));
            };
            match (name, value) {
                ("family", "4" | "6") => args.push(format!("-{value}")),
                _ if cli::filter_names().contains(&name) => args.push(format!("--{name}={value}")),
                _ => {
                    return Err(format!("{name}: no such filter; use one of {}", cli::filter_names().join(", ")));
                }
            }
        }
        let said = |exit: Exit| exit.stderr.trim().trim_start_matches("twtrace: ").to_owned();
        let Command::Run(run) = cli::parse(args).map_err(said)?.command else {
            return Err("not a filter; write NAME:VALUE, e.g. lport:443".to_owned());
        };
        let resolved = resolver.resolve(&run.filter).map_err(|wrong| said(wrong.into()))?;
        Ok(Self { text: text.trim().to_owned(), filters: Filters { spec: run.filter, resolved } })
    }

    /// Words of the filter that a table cannot answer, which has no such column: all of its rows pass them.
    #[must_use]
    pub fn idle(&self, table: &str) -> Vec<&str> {
        let answers: &[&str] = match table {
            PortRow::NAME => &["port", "lport", "rport", "role"],
            DestinationRow::NAME => &["port", "rport", "laddr", "raddr", "netns", "role", "family"],
            <OwnerRow<ProcessName> as Row>::NAME => &["pid", "comm"],
            <OwnerRow<CgroupName> as Row>::NAME => &["cgroup", "cgroup-tree", "container", "unit"],
            _ => return Vec::new(),
        };
        let names = self.text.split_whitespace().filter_map(|word| word.split_once(':'));
        names.map(|(name, _)| name).filter(|name| !answers.contains(name)).collect()
    }

    /// The verdict on an event.
    #[must_use]
    pub fn event(&self, event: &Event) -> bool {
        self.filters.matches(event)
    }

    /// The verdict on a service port: by `port`, `lport` or `rport` as the side has it, and `role`.
    #[must_use]
    pub fn port(&self, row: &PortRow) -> bool {
        let spec = &self.filters.spec;
        let own = match row.role {
            Side::Client => &spec.rport,
            Side::Server => &spec.lport,
        };
        self.side(row.role) && [own, &spec.port].into_iter().flatten().all(|ports| ports.contains(row.port))
    }

    fn side(&self, side: Side) -> bool {
        self.filters.spec.role.is_none_or(|role| match side {
            Side::Client => role == Role::Client,
            Side::Server => role == Role::Server,
        })
    }

    /// The verdict on a destination: by addresses, remote port and namespace.
    #[must_use]
    pub fn destination(&self, row: &DestinationRow) -> bool {
        let spec = &self.filters.spec;
        let family = if row.raddr.is_ipv4() { 4 } else { 6 };
        self.side(Side::Client)
            && spec.family.is_none_or(|wanted| number(wanted) == family)
            && [&spec.rport, &spec.port].into_iter().flatten().all(|ports| ports.contains(row.rport))
            && within(&spec.laddr, Some(row.laddr))
            && within(&spec.raddr, Some(row.raddr))
            && self.filters.netns(row.netns)
    }

    /// The verdict on a process: by id and name.
    #[must_use]
    pub fn process(&self, row: &OwnerRow<ProcessName>) -> bool {
        one_of(&self.filters.spec.pid, |pid| row.who.pid == *pid)
            && one_of(&self.filters.spec.comm, |comm| comm.name() == row.who.comm)
    }

    /// The verdict on a cgroup.
    #[must_use]
    pub fn cgroup(&self, row: &OwnerRow<CgroupName>) -> bool {
        !self.filters.resolved.wants_cgroups() || self.filters.resolved.has_cgroup(row.who.cgroup_id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{filter::expression::tests::died, model::event::Life};

    fn read(words: &str) -> Result<Words, String> {
        Words::read(words, &Resolver::default())
    }

    #[test]
    fn words_are_those_of_the_command_line() {
        for (words, wanted) in [
            ("rport:443", true),
            ("rport:80,400-500", true),
            ("lport:443", false),
            ("port:443", true),
            ("laddr:10.0.0.0/8 raddr:192.0.2.9", true),
            ("raddr:10.0.0.0/8", false),
            ("pid:42 comm:nginx", true),
            ("comm:nginx,wget", true),
            ("comm:ngin", false),
            ("netns:77", true),
            ("netns:78", false),
            ("cause:reused", true),
            ("cause:expired", false),
            ("events:born", false),
            ("events:died", true),
            ("role:client", true),
            ("role:server", false),
            ("family:4", true),
            ("family:6", false),
        ] {
            assert_eq!(read(words).map(|words| words.event(&died())), Ok(wanted), "{words}");
        }
    }

    #[test]
    fn what_is_not_known_does_not_match() {
        let known = died();
        let life = Life { netns: None, tuple: None, role: None, closer: None, ..known.life };
        let unknown = Event { life, ..known };
        for words in ["rport:443", "netns:77", "role:client", "pid:42", "comm:nginx", "family:4", "laddr:0.0.0.0/0"] {
            assert_eq!(read(words).map(|words| words.event(&unknown)), Ok(false), "{words}");
        }
    }

    #[test]
    fn a_wrong_word_is_named() {
        for (words, part) in [
            ("curl", "write NAME:VALUE"),
            ("duration:1s", "no such filter"),
            ("rport:x", "--rport x"),
            ("format:json", "no such filter"),
            ("cause:murdered", "invalid cause 'murdered'"),
        ] {
            let said = read(words).unwrap_err();
            assert!(said.contains(part), "{words}: {said}");
            assert!(!said.contains('\n'), "{said}");
        }
    }

    proptest! {
        #[test]
        fn no_words_panic(words: String) {
            let _ = read(&words);
        }

        #[test]
        fn nearly_right_words_do_not_panic(words in "((lport|cause|comm|netns|family|events|x):[a-z0-9,/.:-]{0,8} ?){0,4}") {
            let _ = read(&words).map(|sieve| sieve.event(&died()));
        }
    }
}
