//! Every field of the JSON lines, once: docs/events.md is written from these tables, and the tests hold real lines against
//! them, in order, name for name and shape for shape.

mod lab;
mod own;
mod tables;

pub use lab::LAB;

use Shape::{Bool, Counts, Integer, ListOf, MapOf, Number, Object, Text};

/// What a value looks like.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A whole number.
    Integer,
    /// A number with a fraction.
    Number,
    /// A string.
    Text,
    /// `true` or `false`.
    Bool,
    /// An object: a whole number for each word.
    Counts,
    /// An object: a string or null for each word.
    Words,
    /// An object of these fields.
    Object(&'static [Field]),
    /// An object: an object of these fields for each name.
    MapOf(&'static [Field]),
    /// An array of objects of these fields; of strings, if there are none.
    ListOf(&'static [Field]),
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Key of the field.
    pub name: &'static str,
    /// What its value looks like.
    pub shape: Shape,
    /// The unit, or the words that it may be.
    pub unit: &'static str,
    /// What it tells.
    pub meaning: &'static str,
    /// What `null` means; `None` if it is never null.
    pub null: Option<&'static str>,
}

/// One type of line.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// The value of `type`.
    pub kind: &'static str,
    /// When there is such a line.
    pub when: &'static str,
    /// Such a line is about one minisock, or about a connect() or bind() that failed: the fields of [`SOCKET`] stand between those of [`HEAD`] and its own.
    pub socket: bool,
    /// The line's own fields, in tables that lines share.
    pub own: &'static [&'static [Field]],
}

impl Line {
    /// Every field of such a line, in order.
    pub fn fields(&self) -> impl Iterator<Item = &'static Field> {
        let socket: &[Field] = if self.socket { SOCKET } else { &[] };
        HEAD.iter().chain(socket).chain(self.own.iter().copied().flatten())
    }
}

/// A field that is never null.
const fn always(name: &'static str, shape: Shape, unit: &'static str, meaning: &'static str) -> Field {
    Field { name, shape, unit, meaning, null: None }
}

/// A field that may be null.
const fn maybe(
    name: &'static str,
    shape: Shape,
    unit: &'static str,
    meaning: &'static str,
    null: &'static str,
) -> Field {
    Field { name, shape, unit, meaning, null: Some(null) }
}

const NOT_READ: &str = "not read";
const NO_CLOSER: &str = "the close was not seen";
const NO_OPENER: &str = "accepted here, or the connect() was not seen";
const NO_TAKER: &str = "not a takeover, or the process was not seen";
const NOT_WATCHED: &str = "not watched";
const NO_RATE: &str = "the first tick has not come";
const NO_TIME: &str = "no time has passed";
const CAUSES: &str = "expired reused reused_bound recycled reset data_reset killed netns tproxy";
const DENIALS: &str = "no_timestamps too_young disabled fin_wait2";
const SUBSTATES: &str = "time_wait fin_wait2";
const HOLDERS: &str = "listener socket time_wait";
const NO_HOLDER: &str = "no port was wanted in particular, or the holder was not found";
const NO_PROCESS: &str = "no socket holds the port, or its process was not found";
const NO_MINISOCK: &str = "no minisock holds the port";

/// What every line begins with.
pub const HEAD: &[Field] = &[
    always("v", Integer, "1", "version of the lines; adding a field keeps it, changing the meaning of one raises it"),
    always("type", Text, "", "type of the line"),
    always(
        "ts",
        Text,
        "RFC 3339, UTC",
        "when, to the nanosecond: `mono_ns` as wall-clock time, which follows when the clock is set",
    ),
    always(
        "mono_ns",
        Integer,
        "ns",
        "when, by CLOCK_MONOTONIC, which nobody can set and which stands still while the machine sleeps",
    ),
];

/// What every line about a minisock or a connect() goes on with.
pub const SOCKET: &[Field] = &[
    maybe(
        "id",
        Integer,
        "",
        "stable for this minisock within the run",
        "the minisock's birth was not seen, and it was not listed at the start; `no_port` and `no_bind`: no minisock",
    ),
    maybe("netns", Integer, "inode number", "its network namespace", NOT_READ),
    maybe("family", Integer, "4 6", "address family; v4-mapped is 4", NOT_READ),
    maybe("laddr", Text, "address", "local address", NOT_READ),
    maybe(
        "lport",
        Integer,
        "port",
        "local port",
        "not read; `no_port`: no port was left; `no_bind`: bind() asked for any port, and none was left",
    ),
    maybe("raddr", Text, "address", "remote address", "not read; `no_bind`: no remote end"),
    maybe("rport", Integer, "port", "remote port", "not read; `no_bind`: no remote end"),
];

const OWNER: &[Field] = &[
    maybe(
        "role",
        Text,
        "client server",
        "whether this host opened the connection or accepted it",
        "the opening was not seen",
    ),
    maybe(
        "pid",
        Integer,
        "",
        "process that closed the connection (of MPTCP: the MPTCP socket), in the initial pid namespace",
        NO_CLOSER,
    ),
    maybe("comm", Text, "", "name of the thread that closed the connection", NO_CLOSER),
    maybe("cgroup_id", Integer, "inode number", "cgroup v2 of the thread that closed the connection", NO_CLOSER),
];

const CALLER: &[Field] = &[
    maybe("role", Text, "client server", "always client: this host called connect()", NOT_READ),
    maybe("pid", Integer, "", "process that called connect(), in the initial pid namespace", NOT_READ),
    maybe("comm", Text, "", "name of the thread that called connect()", NOT_READ),
    maybe("cgroup_id", Integer, "inode number", "cgroup v2 of the thread that called connect()", NOT_READ),
    maybe("took_ns", Integer, "ns", "time from SYN_SENT until connect() failed", "the start of connect() was not seen"),
];

const BINDER: &[Field] = &[
    maybe("role", Text, "client server", "always null: the port may be for either", "always"),
    maybe("pid", Integer, "", "process that called bind() or listen(), in the initial pid namespace", NOT_READ),
    maybe("comm", Text, "", "name of the thread that called bind() or listen()", NOT_READ),
    maybe("cgroup_id", Integer, "inode number", "cgroup v2 of the thread that called bind() or listen()", NOT_READ),
    maybe("call", Text, "bind listen", "system call that failed", "not known"),
];

const HOLDER: &[Field] = &[
    maybe("held_by", Text, HOLDERS, "what holds the local port, looked up a moment after the call failed", NO_HOLDER),
    maybe("holder_pid", Integer, "", "process whose socket holds the port, in twtrace's pid namespace", NO_PROCESS),
    maybe("holder_comm", Text, "", "name of that process's main thread", NO_PROCESS),
    maybe(
        "held_ms",
        Integer,
        "ms",
        "how long the minisock has held the port, since its timer was last armed",
        NO_MINISOCK,
    ),
    maybe("expires_in_ms", Integer, "ms", "when the minisock's timer is due; 0: at once", NO_MINISOCK),
];

const TIMER: &[Field] = &[maybe(
    "timeout_ms",
    Integer,
    "ms",
    "timeout that the timer was armed with, to one kernel tick; before 6.10, shorter by any interruption of the birth",
    NOT_READ,
)];

const STATE: &[Field] = &[maybe("substate", Text, SUBSTATES, "state of the minisock", NOT_READ)];

const CONNECTION: &[Field] = &[
    maybe("opener_pid", Integer, "", "process that called connect()", NO_OPENER),
    maybe("opener_comm", Text, "", "name of the thread that called connect()", NO_OPENER),
    maybe("conn_ns", Integer, "ns", "age of the connection, from SYN_SENT or SYN_RECV", "the start was not seen"),
    maybe(
        "connect_ns",
        Integer,
        "ns",
        "time from SYN_SENT to ESTABLISHED: port search and handshake",
        "accepted here, opened at both ends at once, or the start was not seen",
    ),
    maybe("timestamps", Bool, "", "both ends sent TCP timestamps", NOT_READ),
    maybe("bytes_in", Integer, "bytes", "payload received", NOT_READ),
    maybe("bytes_out", Integer, "bytes", "payload sent, without retransmissions", NOT_READ),
    maybe("srtt_us", Integer, "us", "smoothed round-trip time", NOT_READ),
    maybe("mark", Integer, "", "SO_MARK", NOT_READ),
];

const COUNTERS: &[Field] = &[
    always("born_time_wait", Integer, "", "TIME_WAIT minisocks born, after the filters"),
    always("born_fin_wait2", Integer, "", "FIN_WAIT2 minisocks born, after the filters"),
    maybe("turned", Integer, "", "FIN_WAIT2 minisocks that became TIME_WAIT, after the filters", NOT_WATCHED),
    maybe("rearmed", Integer, "", "timers armed anew, after the filters", NOT_WATCHED),
    always("died", Counts, CAUSES, "ends by cause, after the filters; every cause is listed, `?`: unknown"),
    maybe("refused", Integer, "", "births refused, after the filters", NOT_WATCHED),
    maybe("refused_by", Counts, "buckets memory", "refused, by reason; `?`: unknown", NOT_WATCHED),
    maybe("no_port", Integer, "", "connect() calls that failed with EADDRNOTAVAIL, after the filters", NOT_WATCHED),
    maybe("no_port_bound", Integer, "", "`no_port` events whose port was bound before connect()", NOT_WATCHED),
    maybe("reuse_denied", Integer, "", "`reuse_denied` events, after the filters", NOT_WATCHED),
    maybe("reuse_denied_by", Counts, DENIALS, "reuse_denied, by reason; `?`: unknown", NOT_WATCHED),
    maybe(
        "no_bind",
        Integer,
        "",
        "bind() and listen() calls that failed with EADDRINUSE, after the filters",
        NOT_WATCHED,
    ),
    always("holders_unknown", Integer, "", "`no_port` and `no_bind` events whose port is taken by an unknown holder"),
    maybe("live", Integer, "", "minisocks alive now, on the whole machine, without filters", "not known"),
    maybe(
        "looked_ms_ago",
        Integer,
        "ms",
        "since the kernel's own minisocks were last looked through whole: as of then `unseen` and `unseen_ends` of `trouble` are \
         complete",
        "they could not be listed",
    ),
    always("seen", Integer, "", "events found in the kernel: emitted + filtered + lost"),
    always("emitted", Integer, "", "events sent to twtrace"),
    always("filtered", Integer, "", "events that the filters excluded"),
    always("lost", Integer, "", "events dropped because the ring was full"),
    always("ticks_skipped", Integer, "", "ticks that were due but not written, because the output was read too slowly"),
    maybe(
        "missed_runs",
        Integer,
        "",
        "events for which the kernel ran no program, because a program was running on that CPU",
        "this kernel does not count them: see `misses` of `twtrace probe`",
    ),
    always("missed_runs_by", Counts, "", "the same by program, as far as they are counted; zero counts are omitted"),
    always("trouble", Counts, "", "other losses and unknowns, by name, see below; zero counts are omitted"),
];

const REALTIME: &str =
    "the kernel is PREEMPT_RT: programs are preempted, and events that come meanwhile may be missed; they are counted";

/// Every type of line, in the order in which they are likely to come.
pub const LINES: &[Line] = &[
    Line {
        kind: "start",
        when: "First, once.",
        socket: false,
        own: &[&[
            always("kernel", Text, "", "`uname -r`"),
            always("realtime", Bool, "", REALTIME),
            always("version", Text, "", "version of twtrace"),
            always(
                "capabilities",
                MapOf(&[
                    maybe("backend", Text, "fentry kprobe tracepoint", "how it is watched", NOT_WATCHED),
                    maybe("reason", Text, "", "why not, or what was tried before", "nothing to say"),
                ]),
                "",
                "what is watched, by name",
            ),
            maybe("seeded", Integer, "", "minisocks older than the run, in all namespaces", "could not be listed"),
            always(
                "namespaces_missed",
                Integer,
                "",
                "upper bound of network namespaces whose older minisocks could not be listed: a namespace that several \
                 processes hide counts once per process",
            ),
            maybe(
                "namespaces_missed_why",
                Text,
                "",
                "why those could not be listed, or why there may be more of them",
                "none is missed, or the reason is not known",
            ),
            always("self_test", Text, "", "`passed`, or what failed"),
        ]],
    },
    Line {
        kind: "born",
        when: "A minisock was born, as TIME_WAIT or as FIN_WAIT2.",
        socket: true,
        own: &[STATE, TIMER, OWNER, CONNECTION],
    },
    Line {
        kind: "turned",
        when: "A FIN_WAIT2 minisock became TIME_WAIT in place.",
        socket: true,
        own: &[&[maybe("after_ns", Integer, "ns", "time in FIN_WAIT2", "its birth was not seen")]],
    },
    Line { kind: "rearmed", when: "The timer of a minisock was armed anew.", socket: true, own: &[TIMER] },
    Line {
        kind: "died",
        when: "A minisock ended.",
        socket: true,
        own: &[
            STATE,
            &[
                maybe("cause", Text, CAUSES, "what ended it", "not known"),
                maybe(
                    "life_ns",
                    Integer,
                    "ns",
                    "from birth to now, without the time that the machine slept, as the kernel's timer counts it",
                    "its birth was not seen",
                ),
                maybe(
                    "preexisting",
                    Bool,
                    "",
                    "the minisock is older than the run",
                    "not known: no program saw its birth, and it was found later, or never",
                ),
                maybe("taker_pid", Integer, "", "process whose connect() took the tuple", NO_TAKER),
                maybe("taker_comm", Text, "", "name of the thread whose connect() took the tuple", NO_TAKER),
            ],
            OWNER,
        ],
    },
    Line {
        kind: "refused",
        when: "The kernel made no minisock: tcp_max_tw_buckets was reached, or memory was short.",
        socket: true,
        own: &[
            STATE,
            &[maybe("timeout_ms", Integer, "ms", "always null: no minisock, no timer", "always")],
            OWNER,
            CONNECTION,
            &[
                maybe("reason", Text, "buckets memory", "tcp_max_tw_buckets was reached, or no memory", "not known"),
                maybe("used", Integer, "", "minisocks of the namespace at that moment", NOT_READ),
                maybe("limit", Integer, "", "tcp_max_tw_buckets of the namespace", NOT_READ),
            ],
        ],
    },
    Line {
        kind: "no_port",
        when: "A connect() failed with EADDRNOTAVAIL. `lport` null: no port was left (on the tracepoint backend, rarely, \
               ENOMEM). `lport` known: the port was bound before connect(), and the same connection exists already, mostly \
               as its own TIME_WAIT. The line may follow later ones by a moment, while the holder is looked up.",
        socket: true,
        own: &[CALLER, HOLDER],
    },
    Line {
        kind: "reuse_denied",
        when: "A failed connect() could not take over the minisocks in its way: one line per reason. Addresses, ports and \
               `id` are those of the first such minisock.",
        socket: true,
        own: &[
            CALLER,
            &[
                maybe(
                    "reason",
                    Text,
                    DENIALS,
                    "no TCP timestamps; younger than tcp_tw_reuse accepts; tcp_tw_reuse is 0, or 2 on a connection that is \
                     not loopback; the peer has not closed",
                    "not known",
                ),
                always("count", Integer, "", "how many minisocks, for this reason, in this connect()"),
            ],
        ],
    },
    Line {
        kind: "no_bind",
        when: "A bind() or listen() failed with EADDRINUSE (or, rarely, for lack of memory). fentry only. The line may follow \
               later ones by a moment, while the holder is looked up: at most 20 holders a second.",
        socket: true,
        own: &[BINDER, HOLDER],
    },
    Line {
        kind: "lost",
        when: "Events or lines are missing from the output.",
        socket: false,
        own: &[&[
            always("count", Integer, "", "missing events (lines, if `where` is `output`) since the last `lost` line"),
            always(
                "where",
                Text,
                "ring decode output",
                "the ring was full, a record could not be decoded, an output was read too slowly",
            ),
            maybe(
                "observer",
                Text,
                "",
                "output that misses them: `standard output`, or FORMAT:FILE of --also",
                "all outputs miss them",
            ),
        ]],
    },
    Line {
        kind: "tick",
        when: "Every interval: the counters since the start.",
        socket: false,
        own: &[
            COUNTERS,
            &[
                maybe("born_per_s", Number, "1/s", "births since the last tick, or since the start", NO_TIME),
                maybe("died_per_s", Number, "1/s", "ends since the last tick, or since the start", NO_TIME),
                maybe(
                    "buckets",
                    Object(tables::BUCKETS),
                    "",
                    "the fullest of the network namespaces that the filters let through, by used / limit",
                    "not looked at yet, or no namespace can be looked into",
                ),
                maybe(
                    "by",
                    Object(tables::BY),
                    "",
                    "the tables now",
                    "`--by` not given, or not due (`--summary-every`)",
                ),
                maybe(
                    "self",
                    Object(own::SELF),
                    "",
                    "twtrace's own cost since the last tick",
                    "`--self-stats` not given, or the last was less than 50 ms ago",
                ),
            ],
        ],
    },
    Line {
        kind: "summary",
        when: "Last, once: the counters, and the comparison with the kernel's own.",
        socket: false,
        own: &[
            COUNTERS,
            &[
                always(
                    "reconcile",
                    ListOf(&[
                        always("counter", Text, "", "the kernel's name for it"),
                        always("kernel", Integer, "", "its increase during the run (`sockstat.tw`: its value now)"),
                        always("twtrace", Integer, "", "value that twtrace expects"),
                        always("diff", Integer, "", "kernel - twtrace, as far as it is more than `slack`"),
                        always(
                            "slack",
                            Integer,
                            "",
                            "events that happened while the counters were read: the comparison cannot be closer; \
                             0: nothing moved",
                        ),
                    ]),
                    "",
                    "the kernel's own counters of one network namespace, without filters, at the end of the run",
                ),
                always("reconcile_netns", Integer, "inode number", "network namespace of these counters"),
                maybe("exact", Bool, "", "no loss is known and every difference is 0", "see `exactness`"),
                always(
                    "exactness",
                    Text,
                    "exact as_known not_exact not_compared",
                    "exact: `exact` is true; as_known: true, but this kernel does not count all that it skips (`missed_runs` \
                     is null); not_exact: false; not_compared: null, no difference is known, and some `slack` is not 0",
                ),
                always("realtime", Bool, "", REALTIME),
                always("duration_ns", Integer, "ns", "length of the run"),
            ],
        ],
    },
];
