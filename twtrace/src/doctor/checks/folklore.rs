//! Which settings are folklore? What is set now, and what files set at boot, of the settings that articles tell people to
//! change.

use std::path::Path;

use crate::{
    doctor::{
        facts::{Facts, Namespace},
        finding::{Evidence, Finding, Severity, Story},
    },
    host::sysctl_files::Setting,
};

/// Lines that are shown.
const TOP: usize = 5;
/// The most characters of a value that are shown.
const LONGEST: usize = 40;
/// From this share of the connections on, resets by their own end are a habit.
const HABIT: f64 = 0.1;
/// Fewer than these may be chance.
const SOME: u64 = 10;

/// tcp_tw_recycle.
pub const TW_RECYCLE: Story = Story {
    id: "folklore.tw-recycle",
    title: "tcp_tw_recycle is set: there is no such thing any more",
    why: "Linux 4.12 removed tcp_tw_recycle, because it refused clients behind NAT. A line that sets it fails at every boot, \
          and does nothing.",
    story: "tcp_tw_recycle ended TIME_WAITs after 3.5 retransmission timeouts, and to be safe refused SYNs whose timestamp \
            was older than the last of the same address. Behind a NAT many machines share an address, each with \
            timestamps of its own: some of them could not connect, at random. Since 4.10 each connection has an offset \
            of its own in its timestamps, so it could not work for anybody, and 4.12 removed it.\n\n\
            Where a file still sets it, systemd-sysctl and `sysctl -p` complain and go on. Where the sysctl is there, \
            the kernel is older or a vendor's, and 1 does harm.\n\n\
            Nothing stands in its place. For the end that connects there is tcp_tw_reuse; the end that accepts needs \
            nothing.",
    by_hand: &[
        "sysctl net.ipv4.tcp_tw_recycle",
        "grep -rn tw_recycle /etc/sysctl.conf /etc/sysctl.d /usr/lib/sysctl.d",
    ],
    sources: &["Linux commit 4396e46187ca: tcp: remove tcp_tw_recycle", "RFC 1323, appendix B.2"],
};

/// tcp_fin_timeout.
pub const FIN_TIMEOUT: Story = Story {
    id: "folklore.fin-timeout",
    title: "tcp_fin_timeout was changed: it does not shorten TIME_WAIT",
    why: "TIME_WAIT lasts 60 seconds, a constant of the kernel. tcp_fin_timeout is how long a connection that was closed here \
          waits for the peer's FIN (FIN_WAIT2); that its default is 60 as well is where the belief comes from.",
    story: "The constant is TCP_TIMEWAIT_LEN of include/net/tcp.h; there is no sysctl for it (some vendors have \
            tcp_tw_timeout). net.ipv4.tcp_fin_timeout is read in FIN_WAIT2 only, of sockets that no process has any \
            more: the kernel gives them up when the peer has not closed by then. It is at least 3.5 retransmission \
            timeouts.\n\n\
            A lower value does little harm: a peer that takes longer to close gets a RST for what it still sends. It does \
            little good as well, unless there are many in FIN_WAIT2 (cost.fin-wait2). It does not free a port sooner \
            whose TIME_WAIT has begun.",
    by_hand: &["sysctl net.ipv4.tcp_fin_timeout", "ss -tano state time-wait | head     # timer:(timewait,59sec,0)"],
    sources: &["include/net/tcp.h: TCP_TIMEWAIT_LEN, tcp_fin_time", "net/ipv4/tcp_minisocks.c: tcp_time_wait"],
};

/// tcp_max_tw_buckets is lower.
pub const MAX_TW_BUCKETS: Story = Story {
    id: "folklore.max-tw-buckets",
    title: "tcp_max_tw_buckets was lowered: TIME_WAITs are thrown away, and what they protect from comes in",
    why: "Past the limit the kernel closes a socket without a TIME_WAIT. The number in ss becomes smaller; the protection \
          is gone, for all connections alike.",
    story: "Each network namespace may have net.ipv4.tcp_max_tw_buckets minisocks. The default is half the slots of the \
            hash of connections; of these there is one for every 128 KiB of memory, rounded up to a power of two, and at \
            most 524,288. A lower number is in many tuning guides (5000, or 55000), from a time when that was much \
            memory. Now a million minisocks are a quarter of a gigabyte.\n\n\
            What is lost past the limit: a FIN of the peer that comes again is answered by a RST, which the peer's \
            program may see as ECONNRESET after all went well; and a late segment may be taken for one of a new \
            connection on the same ports. Documentation has said for twenty years that one must not lower it; see \
            cost.overflow for how to see that it happens.",
    by_hand: &[
        "sysctl net.ipv4.tcp_max_tw_buckets net.ipv4.tcp_ehash_entries",
        "dmesg | grep 'TCP established hash table entries'     # the default is half of them",
        "nstat -az TcpExtTCPTimeWaitOverflow",
    ],
    sources: &[
        "net/ipv4/tcp_ipv4.c: tcp_sk_init, tcp_set_hashinfo",
        "net/ipv4/tcp.c: tcp_init",
        "Documentation/networking/ip-sysctl.rst: tcp_max_tw_buckets",
    ],
};

/// tcp_tw_timeout.
pub const TW_TIMEOUT: Story = Story {
    id: "folklore.tw-timeout",
    title: "tcp_tw_timeout is set: only some vendors' kernels have it",
    why: "Linux has no setting for the length of TIME_WAIT. Some vendors' kernels (Alibaba Cloud Linux and others) have \
          net.ipv4.tcp_tw_timeout; elsewhere a line that sets it fails and does nothing.",
    story: "Where the sysctl is there, TIME_WAIT really lasts as many seconds as it says, from 1 to 600, and twtrace counts \
            with that. A shorter TIME_WAIT gives up what it is for in proportion: RFC 9293 asks for two maximum segment \
            lifetimes, four minutes; 60 seconds is what Linux has always made of it.",
    by_hand: &["sysctl net.ipv4.tcp_tw_timeout", "ss -tano state time-wait | head     # the longest that is left"],
    sources: &["include/net/tcp.h: TCP_TIMEWAIT_LEN", "RFC 9293, section 3.4.2"],
};

/// tcp_rfc1337.
pub const RFC1337: Story = Story {
    id: "folklore.rfc1337",
    title: "tcp_rfc1337 is 1: the documentation tells the opposite of what it does",
    why: "With 1 a TIME_WAIT ignores RSTs; with 0, the default, a RST of the right number ends it. The kernel's documentation \
          has it the wrong way round.",
    story: "RFC 1337 describes how an old segment can end a TIME_WAIT before its time ('assassination'): the segment makes \
            the TIME_WAIT answer, the peer, which knows nothing of the connection any more, answers by a RST, and the \
            TIME_WAIT is gone. The RFC's first remedy is to ignore RSTs in TIME_WAIT, and that is what \
            net.ipv4.tcp_rfc1337 = 1 does, for minisocks in TIME_WAIT; one in FIN_WAIT2 ends by a RST in any case.\n\n\
            ip-sysctl.rst says 'If unset, we are not conforming to RFC, but prevent TCP TIME_WAIT assassination'. The \
            code says the opposite: it is when unset that the minisock is killed.\n\n\
            1 does no harm. It has no effect on how many TIME_WAITs there are, but for those that a RST would have ended.",
    by_hand: &["sysctl net.ipv4.tcp_rfc1337", "sudo twtrace run --cause reset     # how many end that way"],
    sources: &[
        "net/ipv4/tcp_minisocks.c: tcp_timewait_state_process",
        "RFC 1337, section 3",
        "Documentation/networking/ip-sysctl.rst: tcp_rfc1337",
    ],
};

/// SO_LINGER 0.
pub const LINGER0: Story = Story {
    id: "folklore.linger0",
    title: "Programs reset their connections instead of closing them",
    why: "close() with SO_LINGER 0 sends a RST and leaves no TIME_WAIT. It also throws away what was not yet sent, and what \
          the peer has not yet read: data is lost, and nobody is told but by ECONNRESET.",
    story: "With l_onoff = 1 and l_linger = 0 close() does not end a connection but breaks it: TcpExt TCPAbortOnData counts \
            it. The same counter moves when data comes for a connection that was closed already, of which nobody could \
            read it: there a program closes before it has got the whole answer. sock_diag does not tell the two apart, \
            for nothing is left of either; both lose data.\n\n\
            TCPAbortOnClose is another thing: close() while there is data that the program did not read. That too sends a \
            RST, and no SO_LINGER is needed; it is mostly a client that does not read an answer to its end.\n\n\
            Resets are right where nothing can be lost: a health check that has seen its answer (HAProxy does so), a load \
            generator, a connection that is known to be broken. As a remedy for TIME_WAIT they are the wrong one: let \
            the other end close first, or keep connections open.",
    by_hand: &[
        "nstat -d 10 TcpExtTCPAbortOnData TcpExtTCPAbortOnClose TcpOutRsts TcpActiveOpens TcpPassiveOpens",
        "strace -f -e trace=setsockopt -p PID     # SO_LINGER, {l_onoff=1, l_linger=0}",
        "tcpdump -nn 'tcp[tcpflags] & tcp-rst != 0'",
    ],
    sources: &["net/ipv4/tcp.c: __tcp_close", "net/ipv4/tcp_input.c: tcp_rcv_state_process", "socket(7): SO_LINGER"],
};

/// tcp_timestamps is off.
pub const TIMESTAMPS: Story = Story {
    id: "folklore.timestamps",
    title: "tcp_timestamps is switched off: it saves twelve bytes and costs protection",
    why: "Timestamps let TCP tell old segments from new ones (PAWS), also in TIME_WAIT, and are what tcp_tw_reuse rests on. \
          Without them a fast connection is not safe from its own old segments.",
    story: "Old tuning guides switch them off to save twelve bytes a segment and some cycles, or because a scanner says that \
            they tell the uptime. They have not done so since 4.10: each connection begins at a random offset (1, the \
            default; only 2 leaves that out).\n\n\
            What goes with them: PAWS, which a connection of more than 4 GiB within a few minutes needs; tcp_tw_reuse; the \
            second way to take a SYN in TIME_WAIT for a new one; round-trip times for segments that were sent again; and \
            window scaling and SACK on connections that begin with a SYN cookie.",
    by_hand: &["sysctl net.ipv4.tcp_timestamps", "ss -ti | grep -c ' ts '     # open connections that use them"],
    sources: &["RFC 7323, sections 1.3 and 5", "net/ipv4/tcp_minisocks.c: tcp_timewait_state_process"],
};

/// tcp_tw_reuse = 1 at boot.
pub const TW_REUSE: Story = Story {
    id: "folklore.tw-reuse-everywhere",
    title: "A file sets tcp_tw_reuse to 1: it helps connect() and nothing else",
    why: "tcp_tw_reuse lets connect() have the port of a TIME_WAIT with timestamps that is a second old. It makes no \
          TIME_WAIT shorter or fewer, and an end that accepts never asks for it.",
    story: "1 is right on a host that opens many connections to few places (a proxy, a load balancer), and means nothing on \
            one that only accepts. It is safe as far as timestamps are: they keep old segments out as TIME_WAIT would \
            have. The default, 2, allows it on loopback, where nothing can be old. See reuse.state for what it means on \
            this machine now, and reuse.would-help for the rules.",
    by_hand: &["sysctl net.ipv4.tcp_tw_reuse", "nstat -az TcpExtTWRecycled     # how often connect() took one over"],
    sources: &["net/ipv4/tcp_ipv4.c: tcp_twsk_unique", "RFC 6191"],
};

/// tcp_syncookies is off.
pub const SYNCOOKIES: Story = Story {
    id: "folklore.syncookies",
    title: "tcp_syncookies is 0: a full SYN queue refuses everybody",
    why: "SYN cookies are used only when a SYN queue is full. With 0 the kernel drops SYNs then, so a small flood keeps all \
          clients out.",
    story: "1 is the default, and costs nothing until a queue is full. Then cookies let clients in that would be refused \
            otherwise; what they lack (window scaling and SACK, if there are no timestamps) is worth less than the \
            connection. Guides that switch them off mean busy servers, whose queues are full without an attack; for those \
            the remedy is a longer backlog. See listen.syn-queue.",
    by_hand: &["sysctl net.ipv4.tcp_syncookies", "nstat -az TcpExtTCPReqQFullDrop TcpExtTCPReqQFullDoCookies"],
    sources: &["net/ipv4/tcp_input.c: tcp_conn_request, tcp_syn_flood_action", "RFC 4987, section 3.6"],
};

/// tcp_abort_on_overflow is on at boot.
pub const ABORT_ON_OVERFLOW: Story = Story {
    id: "folklore.abort-on-overflow",
    title: "A file sets tcp_abort_on_overflow: bursts become errors at the clients",
    why: "With 1 a connection that finds the accept queue full is reset; with 0, the default, the client's next segment finds \
          room if there is some by then.",
    story: "This is about what files set at boot; listen.abort-on-overflow tells what is set now, and whether it did harm. \
            The setting is found in guides for busy servers, and does the opposite of what these want: it makes no room, \
            and turns bursts that would have passed into ECONNRESET.",
    by_hand: &["grep -rn abort_on_overflow /etc/sysctl.conf /etc/sysctl.d", "sysctl net.ipv4.tcp_abort_on_overflow"],
    sources: &["net/ipv4/tcp_minisocks.c: tcp_check_req"],
};

/// None of it.
pub const NONE: Story = Story {
    id: "folklore.none",
    title: "No setting here is folklore",
    why: "Of the settings that articles tell people to change for TIME_WAIT, none is set to what does nothing or does harm.",
    story: "twtrace looks at what is set now, and at the lines of sysctl.d(5) and of /etc/sysctl.conf that set sysctls at \
            boot. A file of an earlier directory hides those of its name in later ones, and of two lines about one sysctl \
            the later counts. systemd does not read /etc/sysctl.conf, unless a file of a directory links to it; `sysctl \
            --system` and `sysctl -p` do.",
    by_hand: &["systemd-analyze cat-config sysctl.d", "sysctl -a --pattern 'tcp_(tw|max_tw|fin|rfc|timestamps|sync)'"],
    sources: &["sysctl.d(5)", "Documentation/networking/ip-sysctl.rst"],
};

/// What this question can find.
pub const STORIES: &[Story] = &[
    TW_RECYCLE,
    FIN_TIMEOUT,
    MAX_TW_BUCKETS,
    TW_TIMEOUT,
    RFC1337,
    LINGER0,
    TIMESTAMPS,
    TW_REUSE,
    SYNCOOKIES,
    ABORT_ON_OVERFLOW,
    NONE,
];

/// Judges.
#[must_use]
pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = [
        tw_recycle(facts),
        fin_timeout(facts),
        max_tw_buckets(facts),
        tw_timeout(facts),
        rfc1337(facts),
        linger0(facts),
        timestamps(facts),
        tw_reuse(facts),
        syncookies(facts),
        abort_on_overflow(facts),
    ]
    .into_iter()
    .flatten()
    .collect();
    if findings.is_empty() {
        findings.push(none(facts));
    }
    findings
}

/// What becomes of a line at boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It sets.
    Sets,
    /// A later line sets the same again.
    Overruled,
    /// Nobody reads its file.
    Unread,
}

/// A line about one sysctl.
#[derive(Clone, Copy, Debug)]
struct Line<'a> {
    setting: &'a Setting,
    fate: Fate,
}

impl Line<'_> {
    fn place(&self) -> String {
        format!("{}:{}", self.setting.file.display(), self.setting.line)
    }

    /// Without what makes it no better known.
    fn value(&self) -> String {
        self.setting.value.chars().take(LONGEST).collect()
    }

    fn number(&self) -> Option<u64> {
        self.setting.value.parse().ok()
    }

    /// What has to be said if it does not count.
    fn but(&self) -> &'static str {
        match self.fate {
            Fate::Sets => "",
            Fate::Overruled => ", and a later line sets it again",
            Fate::Unread => ", which systemd does not read",
        }
    }

    fn evidence(&self) -> Evidence {
        Evidence::new(&self.setting.key, self.value(), "", self.place() + self.but())
    }

    fn removal(&self) -> String {
        format!("remove the line {}", self.place())
    }
}

/// The lines about a sysctl of net.ipv4, in the order in which they are read.
fn lines<'a>(facts: &'a Facts, name: &str) -> Vec<Line<'a>> {
    let files = &facts.machine.files;
    let is_it = |setting: &&Setting| setting.key.strip_prefix("net.ipv4.") == Some(name);
    let is_unread = |setting: &Setting| files.systemd && setting.file == Path::new("/etc/sysctl.conf");
    let settings: Vec<&Setting> = files.settings.iter().filter(is_it).collect();
    let last_read = settings.iter().rposition(|setting| !is_unread(setting));
    let line = |(place, setting): (usize, &&'a Setting)| {
        // What only a line that nobody reads sets again stays.
        let is_last = last_read == Some(place) && settings.get(place + 1).is_some();
        let fate = match (is_unread(setting), setting.wins || is_last) {
            (true, _) => Fate::Unread,
            (false, true) => Fate::Sets,
            (false, false) => Fate::Overruled,
        };
        Line { setting, fate }
    };
    settings.iter().enumerate().map(line).collect()
}

/// A sysctl of net.ipv4 that is set, now or by files, to what somebody objects to.
struct Seen<'a> {
    name: &'static str,
    /// The namespace, and the value now.
    live: Option<(&'a Namespace, u64)>,
    /// The value now, whatever it is.
    shown: Option<Evidence>,
    /// Lines; those that count first.
    lines: Vec<Line<'a>>,
}

impl<'a> Seen<'a> {
    /// `None` if nothing is to be objected.
    fn of(facts: &'a Facts, name: &'static str, is_bad: impl Fn(u64) -> bool) -> Option<Self> {
        let first = facts.namespaces.first();
        let path = format!("ipv4/{name}");
        let live = first.and_then(|namespace| Some((namespace, namespace.sysctl(&path)?)));
        let mut lines = lines(facts, name);
        lines.retain(|line| line.number().is_some_and(&is_bad));
        lines.sort_by_key(|line| line.fate != Fate::Sets);
        let live = live.filter(|(_, value)| is_bad(*value));
        let shown = first.map(|namespace| namespace.set(&path));
        (live.is_some() || !lines.is_empty()).then_some(Self { name, live, shown, lines })
    }

    /// The beginning of a sentence.
    fn head(&self) -> String {
        let by = self.lines.first();
        match (self.live, by) {
            (Some((_, value)), Some(line)) if line.fate == Fate::Sets && line.number() == Some(value) => {
                format!("{} is {value}, set by {}", self.name, line.place())
            }
            (Some((_, value)), _) => format!("{} is {value}", self.name),
            (None, Some(line)) => format!("{} sets {} to {}{}", line.place(), self.name, line.value(), line.but()),
            (None, None) => self.name.to_owned(),
        }
    }

    /// It is so now, or will be after the next boot.
    fn counts(&self) -> bool {
        self.live.is_some() || self.lines.iter().any(|line| line.fate == Fate::Sets)
    }

    /// The finding; one that does harm is a warning, as far as it counts.
    fn finding(&self, story: &Story, is_harmful: bool, says: &str) -> Finding {
        let severity = if is_harmful && self.counts() { Severity::Warning } else { Severity::Note };
        let finding = Finding::new(story, severity, format!("{}: {says}", self.head()))
            .shown_by(self.shown.clone())
            .shown_by(self.lines.iter().take(TOP).map(Line::evidence));
        Finding { netns: self.live.map(|(namespace, _)| namespace.inum), ..finding }
    }

    /// Steps back to the default.
    fn back(&self, default: u64) -> Vec<String> {
        let mut steps: Vec<String> = self.lines.iter().take(TOP).map(Line::removal).collect();
        steps.extend(self.live.map(|_| format!("set it back: sysctl -w net.ipv4.{}={default}", self.name)));
        steps
    }
}

/// Lines about a sysctl that this kernel has not. `None` if it has it, or if there are none.
fn dead(facts: &Facts, story: &Story, name: &str, otherwise: &str) -> Option<Finding> {
    let first = facts.namespaces.first();
    if first.is_some_and(|namespace| namespace.sysctl(&format!("ipv4/{name}")).is_some()) {
        return None;
    }
    let lines = lines(facts, name);
    let line = lines.iter().find(|line| line.fate == Fate::Sets).or(lines.first())?;
    // Every kernel has timestamps: where these can be read, what cannot be read is not there.
    let is_known = first.is_some_and(|namespace| namespace.sysctl("ipv4/tcp_timestamps").is_some());
    let why = if is_known { "this kernel has no such setting" } else { otherwise };
    let sentence = format!("{} sets {name}{}: {why}, the line does nothing", line.place(), line.but());
    Some(
        Finding::new(story, Severity::Note, sentence)
            .shown_by(first.map(|namespace| namespace.set(&format!("ipv4/{name}"))))
            .shown_by(lines.iter().take(TOP).map(Line::evidence))
            .to_do(lines.iter().take(TOP).map(Line::removal)),
    )
}

fn tw_recycle(facts: &Facts) -> Option<Finding> {
    let avoid = ["do not look for another name of it: nothing stands in its place, and nothing has to"];
    if let Some(finding) = dead(facts, &TW_RECYCLE, "tcp_tw_recycle", "kernels since 4.12 have no such setting") {
        return Some(finding.avoid(avoid));
    }
    let seen = Seen::of(facts, "tcp_tw_recycle", |value| value != 0)?;
    Some(
        seen.finding(&TW_RECYCLE, true, "on this kernel it is there, and refuses clients behind NAT at random")
            .to_do(seen.back(0))
            .avoid(avoid),
    )
}

fn fin_timeout(facts: &Facts) -> Option<Finding> {
    let seen = Seen::of(facts, "tcp_fin_timeout", |value| value != 60)?;
    Some(
        seen.finding(&FIN_TIMEOUT, false, "that changes FIN_WAIT2, and no TIME_WAIT")
            .to_do(seen.back(60))
            .avoid(["do not expect fewer TIME_WAITs, or free ports, of a lower value"]),
    )
}

/// The default of tcp_max_tw_buckets: half the slots of the hash of connections. Before 6.1 the kernel does not tell these;
/// there is one for every 128 KiB of memory, rounded up to a power of two, and MemTotal is a bit less than what was counted:
/// at least that many.
fn default_buckets(facts: &Facts) -> Option<(u64, &'static str)> {
    if let Some(slots) = facts.namespaces.first().and_then(|namespace| namespace.hash_slots) {
        return Some((slots / 2, "/proc/sys/net/ipv4/tcp_ehash_entries / 2"));
    }
    let slots = (facts.machine.memory? >> 17).clamp(1, 512 << 10).next_power_of_two();
    Some((slots / 2, "/proc/meminfo MemTotal / 256 KiB, or up to twice that"))
}

fn max_tw_buckets(facts: &Facts) -> Option<Finding> {
    let default = default_buckets(facts);
    let used = facts.namespaces.first().and_then(|namespace| Some(namespace.sockstat.as_ref()?.tw)).unwrap_or_default();
    // Without a default to compare with, what does not hold those that there are is too low in any case.
    let least = default.map_or(used, |(default, _)| default);
    let seen = Seen::of(facts, "tcp_max_tw_buckets", |value| value < least)?;
    let than = match default {
        Some((default, _)) => format!("that is below this machine's default of {default}"),
        None => format!("{used} are in use"),
    };
    let says = format!("{than}, and what goes past it loses the protection of TIME_WAIT");
    let of_default =
        default.map(|(buckets, source)| Evidence::new("default of tcp_max_tw_buckets", buckets, "", source));
    let in_use = Evidence::new("tw", used, "minisocks", "/proc/net/sockstat TCP");
    let first = facts.namespaces.first();
    let lost = first.map(|namespace| namespace.counted("TcpExt", "TCPTimeWaitOverflow"));
    Some(
        seen.finding(&MAX_TW_BUCKETS, true, &says)
            .shown_by(of_default)
            .shown_by([in_use])
            .shown_by(lost.into_iter().flatten())
            .to_do(seen.back(default.map_or(used.saturating_mul(2), |(default, _)| default)))
            .avoid(["do not lower it to see fewer TIME_WAITs: each takes a quarter of a kilobyte and goes by itself"]),
    )
}

fn tw_timeout(facts: &Facts) -> Option<Finding> {
    if let Some(finding) = dead(facts, &TW_TIMEOUT, "tcp_tw_timeout", "only some vendors' kernels have this setting") {
        return Some(finding.avoid(["do not look for another setting: the length of TIME_WAIT is a constant"]));
    }
    let seen = Seen::of(facts, "tcp_tw_timeout", |value| value != 60)?;
    let says = "on this vendor's kernel that is really how many seconds a TIME_WAIT lasts";
    Some(
        seen.finding(&TW_TIMEOUT, false, says)
            .to_do(seen.back(60))
            .avoid(["do not carry it to other machines: Linux as such has no such setting"]),
    )
}

fn rfc1337(facts: &Facts) -> Option<Finding> {
    let seen = Seen::of(facts, "tcp_rfc1337", |value| value != 0)?;
    Some(
        seen.finding(
            &RFC1337,
            false,
            "TIME_WAITs ignore RSTs, the opposite of what the documentation says; it does no harm",
        )
        .avoid(["do not set it to 0 against assassination: 0 is what allows that"]),
    )
}

fn linger0(facts: &Facts) -> Option<Finding> {
    let namespace = facts.namespaces.first()?;
    let moved = |group, name| namespace.moved(group, name);
    let resets = moved("TcpExt", "TCPAbortOnData").filter(|resets| *resets > 0)?;
    // As many connections end as begin; both ends of one may be here, and then only one of them resets.
    let opened = moved("Tcp", "ActiveOpens").unwrap_or(0).saturating_add(moved("Tcp", "PassiveOpens").unwrap_or(0));
    if (resets as f64) < opened as f64 * HABIT {
        return None;
    }
    let severity = if resets >= SOME { Severity::Warning } else { Severity::Note };
    let sentence = format!(
        "{resets} connections were reset by their own end in {:.1} s, while {opened} began: SO_LINGER 0, or data that came \
         after close()",
        namespace.window.as_secs_f64()
    );
    let counters = [
        ("TcpExt", "TCPAbortOnData"),
        ("TcpExt", "TCPAbortOnClose"),
        ("Tcp", "ActiveOpens"),
        ("Tcp", "PassiveOpens"),
        ("Tcp", "EstabResets"),
        ("Tcp", "OutRsts"),
        ("TcpExt", "TW"),
    ];
    let finding = Finding::new(&LINGER0, severity, sentence)
        .shown_by(counters.into_iter().flat_map(|(group, name)| namespace.counted(group, name)))
        .to_do([
            "find the program: sudo strace -f -e trace=setsockopt -p PID, and look for SO_LINGER with l_linger=0",
            "close in order: shutdown(SHUT_WR), read to the end, close(); or let the other end close first",
        ])
        .avoid(["do not set SO_LINGER 0 to get rid of TIME_WAIT: it throws away what the peer has not read"]);
    Some(Finding { netns: Some(namespace.inum), ..finding })
}

fn timestamps(facts: &Facts) -> Option<Finding> {
    let seen = Seen::of(facts, "tcp_timestamps", |value| value == 0)?;
    Some(
        seen.finding(&TIMESTAMPS, true, "no protection from old segments, and no tcp_tw_reuse")
            .to_do(seen.back(1))
            .avoid(["do not switch them off for speed: twelve bytes a segment are not felt"]),
    )
}

fn tw_reuse(facts: &Facts) -> Option<Finding> {
    let mut seen = Seen::of(facts, "tcp_tw_reuse", |value| value == 1)?;
    // What is set now is told by reuse.state.
    seen.live = None;
    if seen.lines.is_empty() {
        return None;
    }
    let finding =
        seen.finding(&TW_REUSE, false, "it lets connect() have old ports, and does nothing for TIME_WAITs as such");
    Some(finding.avoid(["do not set it for the sake of a server: only connect() asks for it"]))
}

fn syncookies(facts: &Facts) -> Option<Finding> {
    let seen = Seen::of(facts, "tcp_syncookies", |value| value == 0)?;
    Some(
        seen.finding(&SYNCOOKIES, true, "a full SYN queue refuses everybody")
            .to_do(seen.back(1))
            .avoid(["do not raise tcp_max_syn_backlog instead: cookies cost nothing until the queue is full"]),
    )
}

fn abort_on_overflow(facts: &Facts) -> Option<Finding> {
    let mut seen = Seen::of(facts, "tcp_abort_on_overflow", |value| value != 0)?;
    // What is set now is told by listen.abort-on-overflow.
    seen.live = None;
    if seen.lines.is_empty() {
        return None;
    }
    Some(
        seen.finding(&ABORT_ON_OVERFLOW, true, "bursts that would pass become errors at the clients")
            .to_do(seen.back(0))
            .avoid(["do not use it to see overflows: ListenOverflows counts them"]),
    )
}

fn none(facts: &Facts) -> Finding {
    let files = &facts.machine.files;
    let unread = if files.unread.is_empty() { "" } else { " that could be read" };
    let sentence = match files.settings.len() {
        0 => "none of the settings is folklore, and no file sets any at boot".to_owned(),
        count => format!("none of the settings is folklore, nor are the {count} lines{unread} that set some at boot"),
    };
    let names = [
        "ipv4/tcp_fin_timeout",
        "ipv4/tcp_max_tw_buckets",
        "ipv4/tcp_rfc1337",
        "ipv4/tcp_timestamps",
        "ipv4/tcp_tw_reuse",
        "ipv4/tcp_syncookies",
    ];
    let first = facts.namespaces.first();
    let aborts = first.map(|namespace| namespace.counted("TcpExt", "TCPAbortOnData"));
    Finding::new(&NONE, Severity::Fine, sentence)
        .shown_by(first.into_iter().flat_map(|namespace| names.map(|name| namespace.set(name))))
        .shown_by(aborts.into_iter().flatten())
}

#[cfg(test)]
mod tests;
