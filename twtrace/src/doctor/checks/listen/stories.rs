//! The stories about listeners.

use crate::doctor::{finding::Story, severity::rule};

/// A queue is full now.
pub const QUEUE_FULL: Story = Story {
    id: "listen.queue-full",
    title: "An accept queue is full: connections are dropped until the program calls accept()",
    why: "A finished handshake waits in the accept queue. While more wait there than the backlog allows, the kernel drops \
          SYNs and the last ACK of handshakes; clients try again after 1, 3, 7 seconds, and many believe meanwhile that \
          they are connected.",
    story: "listen(fd, backlog) sets the limit, net.core.somaxconn (4096 since 5.4) caps it. The queue is full when it \
            holds more than the limit, so it takes one more than that: a backlog of 1 holds 2. sock_diag tells both, \
            as Recv-Q and Send-Q of the LISTEN line of ss.\n\n\
            The queue fills because the program does not call accept() often enough: it is out of CPU, of threads, of \
            descriptors, or waits for something else. A longer queue carries a burst; it does not help a program \
            that is too slow at all times.",
    holds: "",
    does_not: "",
    by_hand: &["ss -ltn     # Recv-Q: waiting, Send-Q: the limit", "nstat -az TcpExtListenOverflows TcpExtListenDrops"],
    sources: &[
        "include/net/sock.h: sk_acceptq_is_full",
        "net/ipv4/tcp_input.c: tcp_conn_request",
        "net/socket.c: __sys_listen",
    ],
};

/// Connections were dropped for lack of room.
pub const OVERFLOWS: Story = Story {
    id: "listen.overflows",
    title: "Listeners dropped connections, mostly because an accept queue overflowed",
    why: "ListenOverflows counts what an accept queue had no room for; ListenDrops all that a listener dropped, those \
          included.",
    story: concat!(
        "ListenOverflows moves in two places: when a SYN meets a full accept queue, and when the ACK that ends a \
            handshake does. In the second case the client believes that it is connected, sends its request, and sends \
            it again. ListenDrops moves for these and for other reasons (no memory, no route, a full SYN queue \
            without cookies). Both count since the namespace began.\n\n\
            Each listener has a count of its own, sk_drops: `ss -lmtn` shows it as the d in skmem.\n\n",
        rule!()
    ),
    holds: "",
    does_not: "",
    by_hand: &[
        "nstat -az TcpExtListenOverflows TcpExtListenDrops",
        "ss -lmtn     # skmem:(..,dN): drops of each listener",
    ],
    sources: &[
        "net/ipv4/tcp_input.c: tcp_conn_request",
        "net/ipv4/tcp_ipv4.c: tcp_v4_syn_recv_sock",
        "include/net/tcp.h: tcp_listendrop",
    ],
};

/// Handshakes do not end.
pub const SYN_QUEUE: Story = Story {
    id: "listen.syn-queue",
    title: "A SYN queue is full: handshakes do not end",
    why: "Past the same limit as that of the accept queue, handshakes are answered by SYN cookies, or dropped if \
          tcp_syncookies is 0.",
    story: "A connection whose handshake is not finished is a request, listed as SYN-RECV. The SYN queue is full when \
            there are as many of them as the listener's backlog (since 6.14, and in stable kernels with 'tcp/dccp: allow \
            a connection when sk_max_ack_backlog is zero', one more): that is its real limit, and not \
            net.ipv4.tcp_max_syn_backlog, which matters only with tcp_syncookies = 0, where its last quarter is kept \
            for peers that are known to be alive.\n\n\
            With tcp_syncookies = 1, the default, a full queue makes the kernel answer with cookies and remember \
            nothing: nobody is refused, but window scaling and the like are lost where there are no timestamps. Many \
            requests are a SYN flood, or clients that our SYN-ACK does not reach. Each is given up after \
            net.ipv4.tcp_synack_retries (5: 63 seconds).",
    holds: "",
    does_not: "",
    by_hand: &[
        "ss -Htan state syn-recv | awk '{print $3}' | sort | uniq -c | sort -n",
        "nstat -az TcpExtTCPReqQFullDoCookies TcpExtTCPReqQFullDrop TcpExtSyncookiesSent TcpExtSyncookiesFailed",
    ],
    sources: &[
        "net/ipv4/tcp_input.c: tcp_conn_request, tcp_syn_flood_action",
        "include/net/inet_connection_sock.h: inet_csk_reqsk_queue_is_full",
    ],
};

/// Overflow is answered by RST.
pub const ABORT: Story = Story {
    id: "listen.abort-on-overflow",
    title: "tcp_abort_on_overflow resets clients at a burst that would have passed",
    why: "With 1 the kernel answers the last ACK of a handshake by a RST when the accept queue is full; with 0, the \
          default, the client's next segment finds room if there is some by then.",
    story: "The setting turns a short burst into errors at the clients. It never makes room. It is of use only where \
            clients should go to another server at once, and where that is really what they do on ECONNRESET. The \
            RSTs are counted in TcpExt EmbryonicRsts.",
    holds: "",
    does_not: "",
    by_hand: &["sysctl net.ipv4.tcp_abort_on_overflow", "nstat -az TcpExtEmbryonicRsts"],
    sources: &[
        "net/ipv4/tcp_minisocks.c: tcp_check_req",
        "Documentation/networking/ip-sysctl.rst: tcp_abort_on_overflow",
    ],
};

/// The backlog is low.
pub const LOW_BACKLOG: Story = Story {
    id: "listen.low-backlog",
    title: "A backlog is low: a short burst fills the accept queue",
    why: "The limit is the smaller of what the program hands to listen() and net.core.somaxconn; many programs hand over a \
          number from the time when 128 was the most.",
    story: "Since 5.4 somaxconn is 4096, so it is mostly the program's own number that limits. Defaults: nginx, Apache, \
            Redis, PHP-FPM and Node.js 511, Java 50, uWSGI 100, Python's socketserver 5. Go and others read \
            somaxconn. The number is read at listen(): a higher somaxconn takes effect when the program listens \
            anew.\n\n\
            A longer queue costs a few hundred bytes for each connection that waits, and nothing otherwise.",
    holds: "",
    does_not: "",
    by_hand: &["ss -ltnp     # Send-Q is the limit", "sysctl net.core.somaxconn"],
    sources: &["net/socket.c: __sys_listen", "net/ipv4/af_inet.c: inet_listen"],
};

/// They keep up.
pub const ROOM: Story = Story {
    id: "listen.room",
    title: "The listeners keep up",
    why: "Nothing waits that has no room, and nothing was dropped.",
    story: "Of each listener the accept queue is held against its limit, the requests (SYN-RECV) against the same limit, \
            and its drops are read. TcpExt ListenOverflows, ListenDrops, TCPReqQFullDoCookies and TCPReqQFullDrop \
            tell what happened since the namespace began.",
    holds: "",
    does_not: "",
    by_hand: &["ss -ltn", "nstat -az | grep -E 'Listen|ReqQ|Syncookies'"],
    sources: &["net/ipv4/inet_diag.c: inet_diag_dump_icsk", "net/ipv4/tcp_diag.c: tcp_diag_get_info"],
};

/// What this question can find.
pub const STORIES: &[Story] = &[QUEUE_FULL, OVERFLOWS, SYN_QUEUE, ABORT, LOW_BACKLOG, ROOM];
