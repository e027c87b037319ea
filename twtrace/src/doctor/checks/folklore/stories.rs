//! The stories about settings.

use super::linger0::LINGER0;
use crate::doctor::finding::Story;

/// tcp_tw_recycle.
pub const TW_RECYCLE: Story = Story {
    id: "folklore.tw-recycle",
    title: "tcp_tw_recycle is set, and the kernel no longer has it",
    why: "Linux 4.12 removed tcp_tw_recycle, because it refused clients behind NAT. A line that sets it fails at every boot \
          and does nothing.",
    story: "tcp_tw_recycle ended TIME_WAITs after 3.5 retransmission timeouts. To be safe it refused SYNs whose timestamp \
            was older than the last one of the same address. Behind a NAT many machines share an address, each with its own \
            timestamps: some clients could not connect, at random. Since 4.10 every connection starts its timestamps at \
            its own offset, so the test fails for everybody, and 4.12 removed the setting.\n\n\
            Where a file still sets it, systemd-sysctl and `sysctl -p` complain and go on. Where the sysctl exists, the \
            kernel is older or a vendor's, and 1 does harm.\n\n\
            Nothing replaces it. The end that connects has tcp_tw_reuse; the end that accepts needs nothing.",
    holds: "a line names tcp_tw_recycle and the kernel does not have it (note); or the kernel has it and it is not 0 (warning)",
    does_not: "a pattern such as net.ipv4.tcp_tw_* on a kernel without it: a pattern sets only the sysctls that exist",
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
    why: "TIME_WAIT lasts 60 seconds, a constant of the kernel. tcp_fin_timeout is how long a closed connection waits for \
          the peer's FIN (FIN_WAIT2). Its default is also 60, hence the belief.",
    story: "The constant is TCP_TIMEWAIT_LEN of include/net/tcp.h; it has no sysctl (some vendors have tcp_tw_timeout). \
            net.ipv4.tcp_fin_timeout counts in FIN_WAIT2 only, for sockets that no process holds any more: the kernel drops \
            them if the peer has not closed by then. The wait is at least 3.5 retransmission timeouts.\n\n\
            A lower value does little harm: a peer that closes later gets a RST for what it still sends. It does little \
            good, unless many sockets are in FIN_WAIT2 (cost.fin-wait2). It never frees the port of a TIME_WAIT sooner.",
    holds: "tcp_fin_timeout is not 60 now, or the line that counts at boot sets another number",
    does_not: "a value such as `074` or `0x3c`, which is 60; a value that the kernel refuses (`30s`)",
    by_hand: &["sysctl net.ipv4.tcp_fin_timeout", "ss -tano state time-wait | head     # timer:(timewait,59sec,0)"],
    sources: &["include/net/tcp.h: TCP_TIMEWAIT_LEN, tcp_fin_time", "net/ipv4/tcp_minisocks.c: tcp_time_wait"],
};

/// tcp_max_tw_buckets is lower.
pub const MAX_TW_BUCKETS: Story = Story {
    id: "folklore.max-tw-buckets",
    title: "tcp_max_tw_buckets was lowered: connections lose the protection of TIME_WAIT",
    why: "Past the limit the kernel closes a socket without a TIME_WAIT. The number in ss becomes smaller, and all \
          connections lose the protection alike.",
    story: "Each network namespace has its own net.ipv4.tcp_max_tw_buckets, a limit on minisocks. The default is half the \
            slots of the hash of connections: one slot per 128 KiB of memory, rounded up to a power of two, at most \
            524,288. Many tuning guides give a lower number (5000, or 55000), from a time when that was much memory. \
            Today a million minisocks take a quarter of a gigabyte.\n\n\
            What is lost past the limit: the kernel answers a repeated FIN of the peer with a RST, which the peer's program \
            may see as ECONNRESET after all went well. A late segment may also be taken for one of a new connection on the \
            same ports. cost.overflow shows how to see that happen.",
    holds: "tcp_max_tw_buckets is below the default of that namespace, now or by the line that counts at boot",
    does_not: "the default of that namespace, or more",
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
    story: "Where the sysctl exists, a TIME_WAIT lasts that many seconds, from 1 to 600, and twtrace counts with that. A \
            shorter TIME_WAIT protects less: RFC 9293 asks for two maximum segment lifetimes, four minutes; upstream Linux \
            has always used 60 seconds.",
    holds: "a line names tcp_tw_timeout and the kernel does not have it; or the kernel has it and it is not 60",
    does_not: "a kernel that has it at 60",
    by_hand: &["sysctl net.ipv4.tcp_tw_timeout", "ss -tano state time-wait | head     # the longest that is left"],
    sources: &["include/net/tcp.h: TCP_TIMEWAIT_LEN", "RFC 9293, section 3.4.2"],
};

/// tcp_rfc1337.
pub const RFC1337: Story = Story {
    id: "folklore.rfc1337",
    title: "tcp_rfc1337 is 1, and ip-sysctl.rst says the opposite of what it does",
    why: "With 1 a TIME_WAIT ignores RSTs; with 0, the default, a RST with the right number ends it. The kernel's \
          documentation has it the wrong way round.",
    story: "RFC 1337 describes how an old segment can end a TIME_WAIT early ('assassination'). The segment makes the TIME_WAIT \
            answer; the peer no longer knows the connection and answers with a RST; the RST ends the TIME_WAIT. The RFC's \
            first remedy is to ignore RSTs in TIME_WAIT. That is what net.ipv4.tcp_rfc1337 = 1 does, for minisocks in \
            TIME_WAIT; a RST always ends one in FIN_WAIT2.\n\n\
            ip-sysctl.rst says 'If unset, we are not conforming to RFC, but prevent TCP TIME_WAIT assassination'. The \
            code does the opposite: the minisock is killed when the setting is 0.\n\n\
            1 does no harm. It keeps only those TIME_WAITs that a RST would have ended.",
    holds: "tcp_rfc1337 is not 0 now, or by the line that counts at boot",
    does_not: "0, the default",
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
    title: "tcp_timestamps is off: it saves twelve bytes a segment and costs protection",
    why: "Timestamps let TCP recognise old segments (PAWS), also in TIME_WAIT, and tcp_tw_reuse needs them. Without \
          timestamps a fast connection is not safe from its own old segments.",
    story: "Old tuning guides switch timestamps off to save twelve bytes a segment and some cycles, or because a scanner says \
            that they reveal the uptime. Since 4.10 they do not: each connection begins at a random offset (1, the \
            default; only 2 leaves the offset out).\n\n\
            What is lost with them: PAWS, which a connection of more than 4 GiB within a few minutes needs; tcp_tw_reuse; the \
            second way to accept a SYN in TIME_WAIT as a new connection; round-trip times of segments that were sent again; \
            window scaling and SACK on connections that begin with a SYN cookie.",
    holds: "tcp_timestamps is 0, now or by the line that counts at boot",
    does_not: "1 and 2; a line that sets 0 in a file that nobody reads, or that a later line sets again (a note)",
    by_hand: &["sysctl net.ipv4.tcp_timestamps", "ss -ti | grep -c ' ts '     # open connections that use them"],
    sources: &["RFC 7323, sections 1.3 and 5", "net/ipv4/tcp_minisocks.c: tcp_timewait_state_process"],
};

/// tcp_tw_reuse = 1 at boot.
pub const TW_REUSE: Story = Story {
    id: "folklore.tw-reuse-everywhere",
    title: "A file sets tcp_tw_reuse to 1: it helps connect() and nothing else",
    why: "tcp_tw_reuse lets connect() take the port of a TIME_WAIT with timestamps that is a second old. TIME_WAITs become \
          neither shorter nor fewer, and an end that accepts never uses it.",
    story: "1 is right on a host that opens many connections to few places (a proxy, a load balancer), and means nothing on \
            a host that only accepts. It is as safe as timestamps are: they keep old segments out as TIME_WAIT would \
            have. The default, 2, allows it on loopback, where nothing can be old. reuse.state says what it means on \
            this machine now, and reuse.would-help has the rules.",
    holds: "the line that counts at boot sets tcp_tw_reuse to 1",
    does_not: "0 and 2; the value now without a line, which is reuse.state",
    by_hand: &["sysctl net.ipv4.tcp_tw_reuse", "nstat -az TcpExtTWRecycled     # how often connect() took one over"],
    sources: &["net/ipv4/tcp_ipv4.c: tcp_twsk_unique", "RFC 6191"],
};

/// tcp_syncookies is off.
pub const SYNCOOKIES: Story = Story {
    id: "folklore.syncookies",
    title: "tcp_syncookies is 0: a full SYN queue refuses every new client",
    why: "The kernel uses SYN cookies only when a SYN queue is full. With 0 it drops the SYNs instead, so a small flood keeps \
          all clients out.",
    story: "1 is the default, and costs nothing until a queue is full. Then cookies admit clients that would be refused. \
            What those connections lack (window scaling and SACK, if they have no timestamps) is worth less than the \
            connection. Guides that switch cookies off mean busy servers, whose queues are full without an attack; the \
            remedy for those is a longer backlog. See listen.syn-queue.",
    holds: "tcp_syncookies is 0, now or by the line that counts at boot",
    does_not: "1 and 2",
    by_hand: &["sysctl net.ipv4.tcp_syncookies", "nstat -az TcpExtTCPReqQFullDrop TcpExtTCPReqQFullDoCookies"],
    sources: &["net/ipv4/tcp_input.c: tcp_conn_request, tcp_syn_flood_action", "RFC 4987, section 3.6"],
};

/// tcp_abort_on_overflow is on at boot.
pub const ABORT_ON_OVERFLOW: Story = Story {
    id: "folklore.abort-on-overflow",
    title: "A file sets tcp_abort_on_overflow: bursts become errors at the clients",
    why: "With 1 the kernel resets a connection that finds the accept queue full. With 0, the default, the client's next \
          segment succeeds if the queue has room by then.",
    story: "This finding is about what files set at boot; listen.abort-on-overflow is about the value now, and whether it did \
            harm. Guides for busy servers recommend the setting, and it does the opposite of what those servers need: it \
            makes no room, and turns bursts that would have passed into ECONNRESET.",
    holds: "the line that counts at boot sets tcp_abort_on_overflow to anything but 0",
    does_not: "the value now without a line, which is listen.abort-on-overflow",
    by_hand: &["grep -rn abort_on_overflow /etc/sysctl.conf /etc/sysctl.d", "sysctl net.ipv4.tcp_abort_on_overflow"],
    sources: &["net/ipv4/tcp_minisocks.c: tcp_check_req"],
};

/// None of it.
pub const NONE: Story = Story {
    id: "folklore.none",
    title: "No setting here is folklore",
    why: "Articles tell people to change some settings for TIME_WAIT. Here none of them is set to what does nothing or does \
          harm.",
    story: "twtrace looks at the values now, in every namespace that it looks into, and at the lines of sysctl.d(5) and of \
            /etc/sysctl.conf that set sysctls at boot. Those lines set the values of the namespace that the machine boots in: \
            a new network namespace begins with the kernel's defaults. So with --netns of another namespace the lines are \
            not judged.\n\n\
            A value is read as the kernel reads it: the first number, in any base, up to a blank; the rest is ignored. So \
            `0 # why` sets 0, and `0#why` is refused. A pattern (`net.ipv4.tcp_f*`) sets every sysctl that matches, unless \
            another line names the sysctl; `-KEY` keeps patterns off.\n\n\
            A file of an earlier directory hides those of its name in later ones, and of two lines about one sysctl the \
            later counts. systemd does not read /etc/sysctl.conf unless a file of a directory links to it; `sysctl \
            --system` reads it last, and `sysctl -p` reads it alone. Where systemd booted the machine, its order counts.",
    holds: "none of the other findings about settings holds",
    does_not: "one of them holds, be it only a note",
    by_hand: &["systemd-analyze cat-config sysctl.d", "sysctl -a --pattern 'tcp_(tw|max_tw|fin|rfc|timestamps|sync)'"],
    sources: &[
        "sysctl.d(5)",
        "kernel/sysctl.c: proc_get_long, do_proc_dointvec",
        "systemd: src/sysctl/sysctl.c; procps: src/sysctl.c",
        "Documentation/networking/ip-sysctl.rst",
    ],
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
