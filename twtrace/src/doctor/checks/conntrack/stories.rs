//! The stories about connection tracking.

use crate::doctor::{finding::Story, severity::rule};

/// The table is full.
pub const FULL: Story = Story {
    id: "conntrack.full",
    title: "The table of tracked connections is full: new connections are dropped",
    why: "netfilter drops the first packet of a connection that the table has no entry for, whatever the rules say. The \
          client sees a connect() that hangs; no socket here sees the packet.",
    story: "Where a rule asks for a connection's state, or does NAT, nf_conntrack keeps an entry for each connection that \
            passes, local ones included. net.netfilter.nf_conntrack_max is the most entries that each network namespace \
            may have. When the table is full the kernel first looks in a few buckets for a connection that has not been \
            answered yet, and evicts it (early_drop). If there is none, the kernel drops the packet, and logs 'nf_conntrack: \
            table full, dropping packet'. From then on, while the table is over 95 % full, the kernel also evicts \
            connections that are closing, so a table that is too small stays between 95 and 100 %.\n\n\
            The number of entries is the evidence. The counters are not: 'drop' and 'insert_failed' move for other \
            reasons as well (conntrack.nat-ports).\n\n\
            A SYN that netfilter drops leaves no trace in the counters of TCP: ListenDrops stands still.",
    holds: "nf_conntrack_count is nf_conntrack_max or more: critical. Or it is 95 % or more and 'drop' moves between the looks: \
            severity follows rate, share and duration.",
    does_not: "'drop' moves while the table has room: see conntrack.nat-ports. A limit of 0 is no limit.",
    by_hand: &[
        "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
        "dmesg | grep 'nf_conntrack: table full'",
        "conntrack -S     # drop, early_drop, insert_failed by CPU",
    ],
    sources: &[
        "net/netfilter/nf_conntrack_core.c: __nf_conntrack_alloc, early_drop, gc_worker",
        "Documentation/networking/nf_conntrack-sysctl.rst",
    ],
};

/// The table becomes full.
pub const FILLING: Story = Story {
    id: "conntrack.filling",
    title: "The table of tracked connections is nearly full",
    why: "Past nf_conntrack_max netfilter drops new connections before any socket sees them; a burst is enough to get there.",
    story: "See conntrack.full for what happens then. Open connections rarely fill the table. Closed connections do \
            (conntrack.time-wait), and so do open connections that nobody closed: netfilter keeps each for \
            net.netfilter.nf_conntrack_tcp_timeout_established, five days, after its last packet.",
    holds: "nf_conntrack_count is 80 % of nf_conntrack_max or more.",
    does_not: "A limit of 0, which is no limit; the entries of other network namespaces, which are counted apart.",
    by_hand: &[
        "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
        "conntrack -L -p tcp | awk '{print $4}' | sort | uniq -c     # by state",
    ],
    sources: &["net/netfilter/nf_conntrack_core.c: __nf_conntrack_alloc"],
};

/// NAT has no port.
pub const NAT_PORTS: Story = Story {
    id: "conntrack.nat-ports",
    title: "NAT finds no free port: new connections are dropped while the table has room",
    why: "A source NAT gives each connection to the same destination another port. Without a free port the kernel drops the \
          connection's first packet; the client sees a connect() that times out.",
    story: concat!(
        "Two connections of one NAT address to the same address and port must differ in the port that NAT gives them. The \
         range is 1024 to 65535 (64,512 ports) unless the rule names another, such as `masquerade to :40000-40063`. NAT tries \
         the connection's own port, then up to 128 others and fewer again; each that is taken moves 'found'. If NAT finds \
         none, it keeps a port that is taken, and the entry cannot be inserted: 'insert_failed' and 'drop' both move, and the \
         packet is gone. Nothing is logged. An entry holds its port until its timeout: 120 seconds in TIME_WAIT, five days \
         while established. Newer kernels (since 6.12) evict entries of closed connections first.\n\n\
         The doctor takes the lesser of 'drop' and 'insert_failed', for a full table moves 'drop' alone, and before 5.6 \
         'insert_failed' moved also for packets that were not dropped. It then reads the table, and names the destination whose \
         ports are used up: at least 4 ports, 90 % of a stretch without a gap, half of them changed by NAT.\n\n\
         Nobody counts connections that pass; the attempts are taken as a tenth of the packets sent and forwarded. ",
        rule!()
    ),
    holds: "The lesser of 'drop' and 'insert_failed' is above 0, and a stretch of 4 or more NAT ports to one destination is \
            90 % taken (at least a warning); or the table cannot be read whole, and 'found' moves 8 times for each drop.",
    does_not: "'drop' alone (a full table, no memory, invalid packets); ports that are far apart (conntrack.clash); packets that \
               rp_filter drops, which TcpExt IPReversePathFilter counts.",
    by_hand: &[
        "conntrack -S     # drop and insert_failed move together; found moves much faster",
        "conntrack -L -p tcp | awk '{print $5, $7, $9}' | sort | uniq -c | sort -n | tail     # by destination",
        "nft list ruleset | grep -E 'masquerade|snat'",
    ],
    sources: &[
        "net/netfilter/nf_nat_core.c: get_unique_tuple, nf_nat_l4proto_unique_tuple, nf_nat_used_tuple_harder",
        "net/netfilter/nf_conntrack_core.c: __nf_conntrack_confirm, nf_ct_resolve_clash, nf_conntrack_tuple_taken",
    ],
};

/// Two connections want the same entry.
pub const CLASH: Story = Story {
    id: "conntrack.clash",
    title: "Connection tracking drops first packets that clash with another connection",
    why: "Two connections that begin at the same moment can choose the same NAT port, and two packets of one UDP socket can make \
          the same entry twice. The kernel keeps the first, and drops the packet that comes second.",
    story: concat!(
        "An entry is inserted only when the packet leaves, so two CPUs can prepare entries that are equal. The kernel resolves \
         the clash of two UDP packets of one flow without NAT ('clash_resolve'); else it drops the second packet and moves \
         'drop' and 'insert_failed'. Best known are resolvers that send their A and AAAA queries from one socket at once: the \
         second answer comes after five seconds, with the retry. TCP loses one second, until the SYN is sent again.\n\n",
        rule!()
    ),
    holds: "The lesser of 'drop' and 'insert_failed' is above 0, and no range of NAT ports is used up.",
    does_not: "'insert_failed' alone, where the kernel resolved the clash; a range that is used up (conntrack.nat-ports).",
    by_hand: &["conntrack -S     # insert_failed, drop, clash_resolve", "nft list ruleset | grep -E 'masquerade|snat'"],
    sources: &["net/netfilter/nf_conntrack_core.c: __nf_conntrack_confirm, nf_ct_resolve_clash"],
};

/// Closed connections stay.
pub const TIME_WAIT: Story = Story {
    id: "conntrack.time-wait",
    title: "Connection tracking keeps a closed connection longer than its TIME_WAIT lasts",
    why: "netfilter has a TIME_WAIT of its own, 120 seconds by default, independent of the socket's 60. The entry, and with NAT \
          its port, is held for a minute after the socket is gone.",
    story: "An entry goes to TIME_WAIT when both FINs have passed and been acknowledged, whichever end closed first. The entry \
            stays there for net.netfilter.nf_conntrack_tcp_timeout_time_wait seconds. So at a steady rate the table holds rate \
            times 120 entries of closed connections. That includes connections that leave no TIME_WAIT here: those that the \
            peer closed first, and those that are only forwarded.\n\n\
            With NAT an entry also holds its port. A source NAT has 64,512 ports (1024 to 65535) from one address to one \
            destination, so at 120 seconds it can carry 537 connections per second there, and 1,075 at 60. Beyond that \
            netfilter drops packets (conntrack.nat-ports).\n\n\
            60 is enough: the entry need not outlive the TIME_WAIT that it was for. No setting of TCP shortens the \
            entries, neither tcp_fin_timeout nor tcp_tw_reuse.",
    holds: "nf_conntrack_tcp_timeout_time_wait is longer than the socket's TIME_WAIT and TIME_WAITs begin here; a note if their \
            entries are 10 % of nf_conntrack_max.",
    does_not: "Connections that are only forwarded: no socket here tells their rate.",
    by_hand: &[
        "sysctl net.netfilter.nf_conntrack_tcp_timeout_time_wait",
        "conntrack -L -p tcp --state TIME_WAIT | wc -l",
        "nstat -d 10 TcpActiveOpens TcpPassiveOpens",
    ],
    sources: &[
        "net/netfilter/nf_conntrack_proto_tcp.c: tcp_timeouts, tcp_conntracks",
        "net/netfilter/nf_nat_core.c: nf_nat_l4proto_unique_tuple, nf_nat_used_tuple_harder",
    ],
};

/// There is room.
pub const ROOM: Story = Story {
    id: "conntrack.room",
    title: "The table of tracked connections has room",
    why: "netfilter drops new connections for lack of room only when there are nf_conntrack_max entries.",
    story: "The doctor compares net.netfilter.nf_conntrack_count with net.netfilter.nf_conntrack_max, network namespace by \
            network namespace. A limit of 0 is no limit. See conntrack.full for what happens past it.",
    holds: "No other finding about connection tracking is a warning.",
    does_not: "The table is 80 % full or more, or NAT drops packets.",
    by_hand: &["sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max"],
    sources: &["net/netfilter/nf_conntrack_core.c: __nf_conntrack_alloc"],
};

/// Nothing is tracked.
pub const OFF: Story = Story {
    id: "conntrack.off",
    title: "No connection is tracked here",
    why: "Without an entry nothing can be full: netfilter tracks connections only where a rule asks for their state.",
    story: "nf_conntrack tracks nothing until a rule of a network namespace needs it (NAT, or a match on a connection's \
            state), even where the module is loaded or built in. Another network namespace, such as the one that holds the \
            machine's rules, may track the same connections when they pass.",
    holds: "nf_conntrack is not loaded, or nf_conntrack_count is 0.",
    does_not: "A rule of another network namespace tracks the same connections.",
    by_hand: &["sysctl net.netfilter.nf_conntrack_count", "nft list ruleset | grep -E ' ct |nat'"],
    sources: &["net/netfilter/nf_conntrack_proto.c: nf_ct_netns_get"],
};

/// What this question can find.
pub const STORIES: &[Story] = &[FULL, FILLING, NAT_PORTS, CLASH, TIME_WAIT, ROOM, OFF];
