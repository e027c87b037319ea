//! The stories about settings.

use super::linger0::LINGER0;
use crate::doctor::finding::Story;

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
    holds: "",
    does_not: "",
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
    holds: "",
    does_not: "",
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
    holds: "",
    does_not: "",
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
    holds: "",
    does_not: "",
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
    holds: "",
    does_not: "",
    by_hand: &["sysctl net.ipv4.tcp_rfc1337", "sudo twtrace run --cause reset     # how many end that way"],
    sources: &[
        "net/ipv4/tcp_minisocks.c: tcp_timewait_state_process",
        "RFC 1337, section 3",
        "Documentation/networking/ip-sysctl.rst: tcp_rfc1337",
    ],
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
    holds: "",
    does_not: "",
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
    holds: "",
    does_not: "",
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
    holds: "",
    does_not: "",
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
    holds: "",
    does_not: "",
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
    holds: "",
    does_not: "",
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
