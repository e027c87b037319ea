//! Words that people bring from other tools: what they are here. The words are those of the BCC tools (tcplife, tcpconnect,
//! tcptop), ss, netstat, tcpdump, top, watch, kubectl and docker.

use std::{ffi::OsString, net::IpAddr};

use super::exit::{Complaint, Exit};
use crate::{doctor::checks, filter::word::or, lab::scenarios::Scenario};

/// Other names of options, and the option that they are.
const OTHER_NAMES: [(&str, &str); 3] = [("--sport", "--lport"), ("--dport", "--rport"), ("--json", "--format json")];

/// Options whose value is a time.
const TIMES: [&str; 5] = ["--duration", "--interval", "--watch", "--summary-every", "--drain-for"];

/// Words, and what to write instead.
type Advice = (&'static [&'static str], &'static str);

/// Options that no command has.
const OPTIONS: &[Advice] = &[
    (&["-n", "--numeric", "--no-dns", "--no-resolve"], "leave it out: twtrace prints addresses and ports as numbers"),
    (&["-c", "--count", "--max-count"], "stop after a time, --duration 10s, or after lines, | head -n 10"),
    (&["-t", "-T", "--time", "--timestamp", "--timestamps"], "leave it out: every line begins with its time"),
    (&["-w", "--wide"], "leave it out: twtrace never cuts addresses"),
    (&["-s", "--csv"], "write --format json, and convert the lines with jq"),
    (&["-f", "--follow"], "leave it out: twtrace run follows until Ctrl-C, or for --duration 10s"),
    (&["-a", "--all"], "leave it out: twtrace shows everything unless a filter is given"),
    (&["-o", "--output", "--out", "--file"], "write --format json, or redirect standard output: > FILE"),
    (&["--host", "--addr", "--address", "--ip"], "write --laddr ADDRESS (this host) or --raddr ADDRESS (the peer)"),
    (&["--src", "--saddr", "--source", "--local"], "write --laddr ADDRESS (this host)"),
    (&["--dst", "--daddr", "--dest", "--destination", "--remote", "--peer"], "write --raddr ADDRESS (the peer)"),
    (&["-C", "--process", "--name", "--command", "--cmd", "--program"], "write --comm NAME or --pid PID"),
    (&["--pod"], "write --container POD/CONTAINER"),
    (&["--service"], "write --unit NAME.service"),
    (&["--cgroupmap", "--mntnsmap", "--cgroupid"], "write --cgroup-tree PATH or --container NAME"),
    (&["-N", "--ns", "--net", "--namespace"], "write --netns /run/netns/NAME or --netns /proc/PID/ns/net"),
    (&["--interface", "--iface", "--device", "--dev"], "write --laddr with the address of the interface"),
    (&["--timeout", "--seconds", "--runtime"], "write --duration 10s"),
    (&["--delay", "--refresh", "--every", "--period"], "write --interval 1s"),
    (&["--state", "--states"], "write --events for kinds of events; twtrace doctor shows the sockets of every state"),
    (&["-b", "--text", "--plain", "--batch", "--no-tui"], "write --format text"),
    (&["--tui", "--live", "--ui"], "write --format tui"),
    (&["--yaml", "--xml", "--html"], "write --format json"),
    (&["-q", "--quiet", "--silent"], "write --events none: only the final summary is shown"),
    (&["--ipv4", "--inet"], "write -4"),
    (&["--ipv6", "--inet6"], "write -6"),
    (&["--group", "--group-by", "--sort", "--sort-by", "--aggregate"], "write --by port, --by dest or --by owner"),
    (&["--limit", "--lines", "--rows"], "write --top 10"),
    (&["-u", "-U", "--user", "--uid"], "write --pid or --comm: there is no filter by user"),
    (&["--filter", "--expr"], "leave it out: twtrace run 'dst port 443 and not cause expired'"),
    (&["--tcp"], "leave it out: TIME_WAIT is always TCP"),
    (&["-l", "--listen", "--listening"], "write twtrace doctor: it shows listeners and their queues"),
];

/// Options that the doctor does not have.
const OPTIONS_OF_DOCTOR: &[Advice] = &[
    (
        &["-P", "-L", "-D", "--port", "--lport", "--rport", "--sport", "--dport"],
        "write twtrace run --port 80: the doctor judges a whole network namespace",
    ),
    (
        &["-i", "-d", "-n", "--interval", "--duration", "--every", "--refresh"],
        "write --watch 5s to look again and again",
    ),
    (&["--cgroup", "--cgroup-tree"], "write --container NAME, --unit NAME or --netns /proc/PID/ns/net"),
    (&["--comm"], "write --pid PID"),
    (&["--fix", "--apply", "--repair"], "run the commands that the report prints: twtrace itself changes nothing"),
    (&["--finding", "--why", "--id"], "write --explain ID"),
    (&["--trace"], "write --with-trace FILE"),
];

/// Options that the lab does not have.
const OPTIONS_OF_LAB: &[Advice] = &[(&["-k", "--only", "--test", "--name", "--filter"], "write --scenario NAMES")];

/// Commands that there are not.
const COMMANDS: &[Advice] = &[
    (
        &[
            "top", "trace", "live", "watch", "stat", "stats", "monitor", "tail", "follow", "snoop", "start", "capture",
            "dump", "tui", "log", "logs", "events",
        ],
        "write twtrace run",
    ),
    (
        &["ps", "list", "ls", "show", "status", "ss", "netstat", "who", "sockets", "count", "summary", "states"],
        "write twtrace run for events as they happen, or twtrace doctor for one look",
    ),
    (
        &["check", "diagnose", "diag", "why", "health", "explain", "analyze", "analyse", "advise", "fix", "audit"],
        "write twtrace doctor",
    ),
    (&["info", "caps", "capabilities", "features", "support", "kernel"], "write twtrace probe"),
    (&["test", "selftest", "self-test", "verify", "scenarios"], "write twtrace lab"),
    (&["demo"], "write twtrace run --demo"),
    (&["version"], "write twtrace --version"),
];

/// What a right value looks like, where a value is missing.
const VALUES: &[Advice] = &[
    (&["--port", "--lport", "--rport"], "80,8000-8100"),
    (&["--laddr", "--raddr"], "10.0.0.0/8"),
    (&["--pid"], "4711"),
    (&["--comm"], "nginx"),
    (&["--cgroup", "--cgroup-tree"], "system.slice/nginx.service"),
    (&["--container"], "web"),
    (&["--unit"], "nginx.service"),
    (&["--netns"], "/run/netns/blue"),
    (&["--cause"], "reused,reset"),
    (&["--role"], "client"),
    (&["--events"], "born,died"),
    (&["--by"], "port,dest"),
    (&["--duration"], "30s"),
    (&["--interval"], "1s"),
    (&["--drain-for"], "10s"),
    (&["--watch", "--summary-every"], "5s"),
    (&["--top"], "10"),
    (&["--btf"], "/sys/kernel/btf/vmlinux"),
    (&["--ring-size"], "4M"),
    (&["--max-lives", "--max-conns"], "64K"),
    (&["--explain"], "ports.exhausted"),
    (&["--with-trace"], "trace.json"),
    (&["--scenario"], "reuse,rst"),
    (&["--jobs"], "4"),
    (&["--connections"], "20000"),
];

fn find(table: &'static [Advice], word: &str) -> Option<&'static str> {
    table.iter().find(|(words, _)| words.contains(&word)).map(|(_, advice)| *advice)
}

/// What was typed.
pub(super) struct Spoken<'a> {
    /// All words but the first; those that are no text are missing.
    words: Vec<&'a str>,
    /// The command.
    verb: Option<&'a str>,
}

impl<'a> Spoken<'a> {
    pub(super) fn new(clap: &clap::Command, args: &'a [OsString]) -> Self {
        let words: Vec<&str> = args.iter().skip(1).filter_map(|word| word.to_str()).collect();
        let verb = words.iter().copied().find(|word| clap.get_subcommands().any(|command| command.get_name() == *word));
        Self { words, verb }
    }

    /// Where to read on.
    pub(super) fn help(&self) -> String {
        self.verb.map_or("see twtrace --help".to_owned(), |verb| format!("see twtrace {verb} --help"))
    }

    /// `twtrace help`, `twtrace help run`.
    pub(super) fn asks_for_help(&self, clap: &clap::Command) -> Option<Exit> {
        let mut line = vec!["twtrace"];
        match self.words[..] {
            ["help"] => {}
            ["help", verb] if self.verb == Some(verb) => line.push(verb),
            _ => return None,
        }
        line.push("--help");
        let help = clap.clone().try_get_matches_from(&line).err()?.render();
        let heading = format!("This is {}; each command has its own: twtrace COMMAND --help", line.join(" "));
        Some(Exit::answer(format!("{heading}\n\n{help}")))
    }

    /// Options of more than one letter behind a single dash: clap would take their letters for options.
    pub(super) fn check(&self, clap: &clap::Command) -> Result<(), Complaint> {
        let of_verb = self.verb.and_then(|verb| clap.find_subcommand(verb));
        for word in &self.words {
            let Some(name) = word.strip_prefix('-').filter(|name| name.len() > 2 && !name.starts_with('-')) else {
                continue;
            };
            let bare = name.split('=').next().unwrap_or_default();
            let is_long = |command: &clap::Command| has(command, &format!("--{bare}"));
            if matches!(bare, "help" | "version") || of_verb.is_some_and(is_long) {
                let why = "options of more than one letter have two dashes";
                return Err(Complaint::new(*word, why, format!("write --{name}")));
            }
        }
        Ok(())
    }

    /// The line with long options of ours for short ones and for those of others, and with units: what can be pasted into a
    /// ticket, and teaches the words. `None`: it is that already.
    pub(super) fn in_our_words(&self, clap: &clap::Command) -> Option<String> {
        let command = clap.find_subcommand(self.verb?)?;
        let mut line = vec!["twtrace".to_owned()];
        let (mut is_other, mut is_time) = (false, false);
        for word in &self.words {
            let mut ours = long(command, word).unwrap_or_else(|| (*word).to_owned());
            let (option, value) = ours.split_once('=').unwrap_or((&ours, ""));
            let is_bare = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let expects_time = TIMES.contains(&option);
            if is_time && is_bare(word) || expects_time && is_bare(value) {
                ours.push('s');
            }
            is_time = expects_time;
            is_other |= ours != *word;
            line.push(quoted(&ours));
        }
        is_other.then(|| line.join(" "))
    }

    /// Why an option or an argument is not known, where there is more to say than that, and what to write instead.
    pub(super) fn unknown(
        &self,
        clap: &clap::Command,
        word: &str,
        suggestion: Option<&str>,
    ) -> (Option<String>, String) {
        let help = self.help();
        if !word.starts_with('-') {
            return (None, self.argument(word).unwrap_or(help));
        }
        let name = word.split('=').next().unwrap_or_default();
        let tables: &[&'static [Advice]] = match self.verb {
            Some("doctor") => &[OPTIONS_OF_DOCTOR, OPTIONS],
            Some("lab") => &[OPTIONS_OF_LAB, OPTIONS],
            _ => &[OPTIONS],
        };
        let ours = OTHER_NAMES.iter().find(|(other, _)| *other == name);
        let same = ours.map_or(String::new(), |(_, ours)| format!(" (the same as {ours})"));
        // A word of ours at the wrong place, before words of others.
        let commands: Vec<&str> = clap
            .get_subcommands()
            .filter(|command| !command.is_hide_set() && has(command, name))
            .map(|command| command.get_name())
            .collect();
        match (self.verb, commands.first()) {
            (None, Some(first)) => {
                let mut line = vec!["twtrace", first];
                line.extend(&self.words);
                let is_right = clap.clone().try_get_matches_from(&line).is_ok();
                let line = if is_right { line.join(" ") } else { format!("twtrace {first} {name}") };
                let why = format!("missing command: {name} is an option of {}", or(&commands));
                return (Some(why), format!("write {line}{same}"));
            }
            (Some("doctor"), _) | (_, None) => {}
            (Some(verb), Some(first)) => {
                let why = format!("unknown option of {verb}: it belongs to {}", or(&commands));
                return (Some(why), format!("write twtrace {first} {name}{same}, or {help}"));
            }
        }
        let advice = tables.iter().find_map(|table| find(table, name)).map(str::to_owned);
        let meant = || suggestion.map(|right| format!("did you mean {right}? {help}"));
        (None, advice.or_else(meant).unwrap_or(help.clone()))
    }

    /// What to write instead of a word that is no option.
    pub(super) fn argument(&self, word: &str) -> Option<String> {
        let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        let next = self.words.iter().skip_while(|other| **other != word).nth(1).copied();
        let verb = self.verb?;
        if word == "help" {
            return Some(format!("write twtrace {verb} --help"));
        }
        Some(match verb {
            // Interval and count, as in vmstat and the BCC tools.
            "run" if is_number(word) => match next.filter(|next| is_number(next)) {
                Some(count) => format!("write twtrace run --interval {word}s --duration {}", whole(word, count)),
                None => format!("write --port {word}, --pid {word}, or --duration {word}s"),
            },
            "run" if word == "tcp" => "leave it out: TIME_WAIT is always TCP".to_owned(),
            "run" if word == "sport" => "write src port 40000, or --lport 40000".to_owned(),
            "run" if word == "dport" => "write dst port 443, or --rport 443".to_owned(),
            "run" if word.parse::<IpAddr>().is_ok() => {
                format!("write src {word} (this host), dst {word} (the peer), or host {word}")
            }
            "run" => format!("write --comm {word}, --container {word}, or --unit {word}"),
            "doctor" if is_number(word) => format!("write --pid {word}"),
            "doctor" if checks::stories().any(|story| story.id == word) => format!("write --explain {word}"),
            "doctor" => format!("write --container {word}, --unit {word}, or --netns /run/netns/{word}"),
            "lab" if is_number(word) => format!("write --jobs {word}; -j is --format json"),
            "lab" if Scenario::find(word).is_some() => format!("write --scenario {word}"),
            "probe" if matches!(word, "fentry" | "kprobe" | "tracepoint") => format!("write --backend {word}"),
            _ => return None,
        })
    }

    /// What to write instead of a command that there is not.
    pub(super) fn unknown_command(&self, word: &str, suggestion: Option<&str>) -> String {
        let is_number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        match (find(COMMANDS, word), suggestion) {
            (Some(advice), _) => format!("{advice}; {}", self.help()),
            _ if word == "help" => "write twtrace --help".to_owned(),
            _ if is_number => format!("write twtrace run --port {word}, or twtrace run --pid {word}"),
            (None, Some(right)) => format!("did you mean {right}? {}", self.help()),
            (None, None) => self.help(),
        }
    }

    /// What to write where an option's value is missing.
    pub(super) fn example(&self, clap: &clap::Command, name: &str) -> Option<String> {
        let value = find(VALUES, name)?;
        let is_of_verb = self.verb.and_then(|verb| clap.find_subcommand(verb)).is_none_or(|command| has(command, name));
        is_of_verb.then(|| format!("write e.g. {name} {value}"))
    }
}

/// What is said of `-i eth0`.
pub(super) fn interface(complaint: Complaint) -> Complaint {
    let is_bad_word = complaint.why.starts_with("invalid time");
    let more = if is_bad_word { "; -i is the interval, and twtrace sees the sockets of all interfaces" } else { "" };
    Complaint { remedy: complaint.remedy + more, ..complaint }
}

/// So many intervals in seconds.
fn whole(interval: &str, count: &str) -> String {
    let seconds = interval.parse::<u32>().ok().zip(count.parse::<u32>().ok()).and_then(|(a, b)| a.checked_mul(b));
    seconds.map_or_else(|| "30s".to_owned(), |seconds| format!("{seconds}s"))
}

/// A short option, or another's name for one, as a long option of ours, with the value if that stands in the same word.
fn long(command: &clap::Command, word: &str) -> Option<String> {
    if word.starts_with("--") {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        let (_, ours) = OTHER_NAMES.iter().find(|(other, _)| *other == name)?;
        return Some(value.map_or_else(|| (*ours).to_owned(), |value| format!("{ours}={value}")));
    }
    let mut letters = word.strip_prefix('-')?.chars();
    let short = letters.next()?;
    let argument = command.get_arguments().find(|argument| argument.get_short() == Some(short))?;
    let name = argument.get_long()?;
    match (argument.get_action().takes_values(), letters.as_str()) {
        (true, "") => Some(format!("--{name}")),
        (true, value) => Some(format!("--{name}={}", value.strip_prefix('=').unwrap_or(value))),
        (false, "") if name == "json" => Some("--format json".to_owned()),
        (false, _) => None,
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b" -_./:,=@%+".contains(&byte);
    // The blank is one of ours: `--format json`.
    let is_ours = word == "--format json" || !word.contains(' ');
    if !word.is_empty() && is_ours && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// True if a command has this option, in whatever spelling.
fn has(command: &clap::Command, name: &str) -> bool {
    command.get_arguments().any(|argument| match name.strip_prefix("--") {
        Some(long) => {
            argument.get_long() == Some(long)
                || argument.get_visible_aliases().is_some_and(|aliases| aliases.contains(&long))
        }
        None => argument.get_short().is_some_and(|short| name.strip_prefix('-') == Some(short.to_string().as_str())),
    })
}

#[cfg(test)]
mod tests;
