//! The types of lines.

use super::{
    Field, Line, NOT_WATCHED,
    Shape::{Bool, Integer, ListOf, MapOf, Number, Object, Text},
    always, counters, detail, event, maybe, own, tables,
};

const NO_TIME: &str = "no time has passed";

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
        own: &[event::STATE, event::TIMER, event::OWNER, event::CONNECTION],
    },
    Line {
        kind: "turned",
        when: "A FIN_WAIT2 minisock became TIME_WAIT in place.",
        socket: true,
        own: &[detail::TURN],
    },
    Line { kind: "rearmed", when: "The timer of a minisock was armed anew.", socket: true, own: &[event::TIMER] },
    Line { kind: "died", when: "A minisock ended.", socket: true, own: &[event::STATE, detail::END, event::OWNER] },
    Line {
        kind: "refused",
        when: "The kernel made no minisock: tcp_max_tw_buckets was reached, or memory was short.",
        socket: true,
        own: &[event::STATE, event::NO_TIMER, event::OWNER, event::CONNECTION, detail::REFUSAL],
    },
    Line {
        kind: "no_port",
        when: "A connect() failed with EADDRNOTAVAIL. `lport` null: no port was left (on the tracepoint backend, rarely, \
               ENOMEM). `lport` known: the port was bound before connect(), and the same connection exists already, mostly \
               as its own TIME_WAIT. The line may follow later ones by a moment, while the holder is looked up.",
        socket: true,
        own: &[event::CALLER, event::HOLDER],
    },
    Line {
        kind: "reuse_denied",
        when: "A failed connect() could not take over the minisocks in its way: one line per reason. Addresses, ports and \
               `id` are those of the first such minisock.",
        socket: true,
        own: &[event::CALLER, detail::DENIAL],
    },
    Line {
        kind: "no_bind",
        when: "A bind() or listen() failed with EADDRINUSE (or, rarely, for lack of memory). fentry only. The line may follow \
               later ones by a moment, while the holder is looked up: at most 20 holders a second.",
        socket: true,
        own: &[event::BINDER, event::HOLDER],
    },
    Line {
        kind: "lost",
        when: "Events or lines are missing from the output.",
        socket: false,
        own: &[&[
            always(
                "count",
                Integer,
                "",
                "missing events (lines, if `where` is `output` or `closed`) since the last `lost` line",
            ),
            always(
                "where",
                Text,
                "ring decode output closed",
                "the ring was full, a record could not be decoded, an output is read too slowly, an output cannot be written any \
                 more and gets none of the later lines either",
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
            counters::COUNTERS,
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
            counters::COUNTERS,
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
