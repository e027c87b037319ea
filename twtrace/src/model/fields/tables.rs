//! The tables in `tick` lines.

use super::{
    CAUSES, Field, NO_RATE, NOT_READ,
    Shape::{Bool, Counts, Integer, ListOf, Number, Object, Text},
    always, maybe,
};

const NONE_YET: &str = "there was none yet";
const NOT_ASKED: &str = "not asked for";
const NOT_COUNTED: &str = "not counted yet";
const NOT_LOOKED: &str = "the namespace could not be looked into";
const NOT_DECIDED: &str = "the namespace could not be looked into, or the run is filtered by process, name or cgroup";
const NOT_WHOLE: &str =
    "not known: as for `in_use`, or a filter by local port leaves out some of the destination's ports";

/// The field `buckets`.
pub(super) const BUCKETS: &[Field] = &[
    always("netns", Integer, "inode number", "the network namespace"),
    maybe(
        "name",
        Text,
        "",
        "its name under /run/netns, else `this namespace`, a container, or a process in it",
        "none was found",
    ),
    always("used", Integer, "", "its minisocks, TIME_WAIT and FIN_WAIT2: `tw` of /proc/net/sockstat"),
    always("limit", Integer, "", "its tcp_max_tw_buckets"),
    always("namespaces", Integer, "", "how many network namespaces were looked into"),
];

/// The field `by`.
pub(super) const BY: &[Field] = &[
    maybe("ports", Object(PORTS), "", "`--by port`: service ports, most minisocks first", NOT_ASKED),
    maybe("destinations", Object(DESTINATIONS), "", "`--by dest`: destinations, fullest first", NOT_ASKED),
    maybe(
        "connections_left_out",
        Integer,
        "",
        "`--by dest`: open connections that are not in the rows, because their network namespace has more than 65,536 destinations",
        NOT_ASKED,
    ),
    maybe("processes", Object(PROCESSES), "", "`--by owner`: who closed, most minisocks first", NOT_ASKED),
    maybe("cgroups", Object(CGROUPS), "", "`--by owner`: the same by cgroup", NOT_ASKED),
];

/// A table: its rows are `$fields`, and what evicted ones held is `$other`.
macro_rules! part {
    ($fields:ident, $other:ident) => {
        &[
            always("rows", ListOf($fields), "", "the first `--top` rows"),
            always("total", Integer, "", "how many rows there are"),
            always("evicted", Integer, "", "how many rows had to go, because the table was full"),
            maybe(
                "other",
                Object($other),
                "",
                "what those rows held, summed: with it, sums over all rows are true",
                "no row had to go",
            ),
        ]
    };
}

const PORTS: &[Field] = part!(PORT, OTHER_PORTS);
const DESTINATIONS: &[Field] = part!(DESTINATION, OTHER_DESTINATIONS);
const PROCESSES: &[Field] = part!(PROCESS, OTHER_OWNERS);
const CGROUPS: &[Field] = part!(CGROUP, OTHER_OWNERS);

const PARTIAL: Field = always(
    "partial",
    Bool,
    "",
    "counts may lack what an evicted row held; with `--role`, destinations may lack connections older than twtrace",
);
const LIVE: Field = always("live", Integer, "", "minisocks alive, older ones included");
const BORN: Field = always("born", Integer, "", "births");
const BORN_PER_S: Field = maybe("born_per_s", Number, "1/s", "births since the last table", NO_RATE);
const REFUSED: Field = always("refused", Integer, "", "births refused");
const NO_PORTS: Field = always("no_port", Integer, "", "connect() calls that found no port");
const NO_PORTS_BOUND: Field = always(
    "no_port_bound",
    Integer,
    "",
    "connect() calls from a bound port that failed with EADDRNOTAVAIL: the same connection exists already",
);

const PORT: &[Field] = &[
    always(
        "role",
        Text,
        "client server",
        "whether this host opened or accepted; of older connections, by whether somebody listened on their local port",
    ),
    always("port", Integer, "port", "remote port of what was opened, local port of what was accepted"),
    LIVE,
    BORN,
    BORN_PER_S,
    always("died", Counts, CAUSES, "ends by cause; every cause is there, `?` for not known"),
    REFUSED,
    maybe("closes_first", Number, "0 to 1", "share of connections that this side closed first", NONE_YET),
    maybe("life_p50_ns", Integer, "ns", "median life of a minisock, to 1 %", NONE_YET),
    maybe("life_p99_ns", Integer, "ns", "99 % lived no longer", NONE_YET),
    maybe("age_p50_ns", Integer, "ns", "median age of a connection at its close, to 1 %", NONE_YET),
    maybe("age_p99_ns", Integer, "ns", "99 % were no older", NONE_YET),
    PARTIAL,
];

const DESTINATION: &[Field] = &[
    maybe("netns", Integer, "inode number", "network namespace", NOT_READ),
    always("laddr", Text, "address", "local address"),
    always("raddr", Text, "address", "remote address"),
    always("rport", Integer, "port", "remote port"),
    always("time_wait", Integer, "ports", "held by minisocks now"),
    maybe("established", Integer, "ports", "held by established connections, at the last look", NOT_DECIDED),
    maybe("other", Integer, "ports", "held by sockets in other states, at the last look", NOT_DECIDED),
    maybe(
        "looked_ms_ago",
        Integer,
        "ms",
        "since the last look at `established` and `other`: a machine with many namespaces and sockets is looked at bit by bit",
        NOT_DECIDED,
    ),
    maybe("in_use", Integer, "ports", "all three", NOT_DECIDED),
    maybe(
        "available",
        Integer,
        "ports",
        "that connect() may choose: ip_local_port_range less ip_local_reserved_ports and listeners",
        NOT_LOOKED,
    ),
    maybe("headroom", Integer, "ports", "available - in_use, not below 0", NOT_WHOLE),
    BORN,
    BORN_PER_S,
    maybe(
        "limit_per_s",
        Number,
        "1/s",
        "connections that can go on for ever: available / length of a TIME_WAIT",
        NOT_LOOKED,
    ),
    maybe(
        "exhausted_in_s",
        Number,
        "s",
        "until no port is left, at the present rate; 0 where `headroom` is 0",
        "never (`forecast` is steady), or not known (`forecast` is null)",
    ),
    maybe(
        "forecast",
        Text,
        "full filling steady",
        "no port is left; none will be left in `exhausted_in_s`; the ports do not run out at the present rate",
        "not known: before the first tick, or as for `headroom`",
    ),
    REFUSED,
    maybe(
        "passive",
        Integer,
        "",
        "connections from this local address to this destination that the peer closed first: they leave no TIME_WAIT here",
        NOT_COUNTED,
    ),
    NO_PORTS,
    NO_PORTS_BOUND,
    maybe(
        "connect_p50_ns",
        Integer,
        "ns",
        "median of connect() in the last 10 to 20 s, to 10 %: search for a port, and handshake",
        NONE_YET,
    ),
    maybe("connect_p99_ns", Integer, "ns", "99 % took no longer", NONE_YET),
    always("with_timestamps", Integer, "", "births and refusals of connections with TCP timestamps"),
    always("without_timestamps", Integer, "", "births and refusals of connections without"),
    maybe(
        "reuse",
        Text,
        "on off no_timestamps",
        "whether tcp_tw_reuse can help: it is on for this destination; it is off and would; it cannot",
        NONE_YET,
    ),
    PARTIAL,
];

const PROCESS: &[Field] = &[
    always("pid", Integer, "", "process, in the initial pid namespace"),
    always("comm", Text, "", "name of the thread that closed"),
    LIVE,
    BORN,
    BORN_PER_S,
    REFUSED,
    NO_PORTS,
    PARTIAL,
];

const CGROUP: &[Field] = &[
    always("cgroup_id", Integer, "inode number", "cgroup v2"),
    maybe("path", Text, "path", "below the root of the cgroup tree", "gone before it could be looked up"),
    maybe("unit", Text, "", "the container or systemd unit that the path names", "it names none"),
    maybe(
        "name",
        Text,
        "",
        "the container's name, POD/CONTAINER under Kubernetes",
        "no container, or no runtime's files name it",
    ),
    LIVE,
    BORN,
    BORN_PER_S,
    REFUSED,
    NO_PORTS,
    PARTIAL,
];

const OTHER_PORTS: &[Field] = &[LIVE, BORN, always("died", Counts, CAUSES, "ends by cause; `?`: unknown"), REFUSED];

const OTHER_DESTINATIONS: &[Field] = &[
    always("time_wait", Integer, "ports", "held by minisocks now"),
    BORN,
    REFUSED,
    NO_PORTS,
    NO_PORTS_BOUND,
    always("passive", Integer, "", "connections that the peer closed first"),
];

const OTHER_OWNERS: &[Field] = &[LIVE, BORN, REFUSED, NO_PORTS];
