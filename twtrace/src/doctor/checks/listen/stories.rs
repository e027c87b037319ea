//! The stories about listeners.

use crate::doctor::{finding::Story, severity::rule};

/// A queue is full now.
pub const QUEUE_FULL: Story = Story {
    id: "listen.queue-full",
    title: "An accept queue is full: the kernel drops connections until the program calls accept()",
    why: "A finished handshake waits in the accept queue. Once more connections wait there than the backlog allows, the kernel \
          drops SYNs and the last ACKs of handshakes. Clients retry after 1, 3 and 7 seconds; many believe meanwhile that \
          they are connected.",
    story: "listen(fd, backlog) sets the limit; net.core.somaxconn (4096 since 5.4) caps the limit. The queue is full when it \
            holds more connections than the limit: a backlog of 1 holds 2. sock_diag reports both numbers, as Recv-Q and \
            Send-Q in the LISTEN lines of ss.\n\n\
            The queue fills because the program does not call accept() often enough. The program lacks CPU, threads or \
            descriptors, or waits for something else. A longer queue carries a burst; a program that is always too slow \
            fills any queue.\n\n\
            The doctor computes the number in its advice: somaxconn, or more if the queue and the overflows of three \
            seconds (the first two retries of a client) need more.",
    holds: "A listener's accept queue holds more connections than its limit at the moment of the look: always critical.",
    does_not: "A queue that holds as many connections as its limit or fewer; a queue that was full earlier (listen.overflows).",
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
    title: "Listeners drop SYNs, mostly because an accept queue overflows",
    why: "ListenOverflows counts what an accept queue had no room for. ListenDrops counts everything that listeners dropped, \
          overflows included.",
    story: concat!(
        "ListenOverflows moves in two places: when a SYN meets a full accept queue, and when the last ACK of a handshake \
         does. In the second case the client believes that it is connected, and sends its request again and again. \
         ListenDrops moves for both, and for other reasons: no memory, no route, a full SYN queue without cookies. A client \
         that retries is counted again at each SYN, so the counters are SYNs and not connections.\n\n\
         Each listener has a counter of its own, sk_drops: `ss -lmtn` shows it as the d in skmem.\n\n\
         The attempts are ListenDrops and Tcp PassiveOpens together. ",
        rule!()
    ),
    holds: "ListenOverflows or ListenDrops is above 0. Severity follows rate, share and duration (see there): critical for 3 \
            drops between the looks that are 5 % of the attempts, a warning for 10 drops that were 10 % of all attempts.",
    does_not: "Drops that a SYN queue without cookies explains (listen.syn-queue); resets by a closed port, which are no drops.",
    by_hand: &[
        "nstat -az TcpExtListenOverflows TcpExtListenDrops TcpPassiveOpens",
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
    why: "When as many handshakes are unfinished as the backlog allows, the kernel answers further SYNs by SYN cookies; with \
          tcp_syncookies 0 the kernel drops them.",
    story: concat!(
        "A connection whose handshake is not finished is a request, listed as SYN-RECV. The SYN queue is full when it holds \
         as many requests as the listener's backlog (since 6.14, and in stable kernels with 'tcp/dccp: allow a connection when \
         sk_max_ack_backlog is zero', one more). The backlog is the real limit; net.ipv4.tcp_max_syn_backlog matters only with \
         tcp_syncookies = 0, where the kernel keeps its last quarter for peers that are known to be alive.\n\n\
         With tcp_syncookies = 1, the default, a full queue makes the kernel answer by cookies and remember nothing. No client \
         is refused; connections without timestamps lose window scaling and SACK. Many requests are a SYN flood, or clients \
         that our SYN-ACK does not reach. The kernel gives each request up after net.ipv4.tcp_synack_retries (5: 63 \
         seconds).\n\n\
         With tcp_syncookies = 0 a full queue drops SYNs, which TcpExt TCPReqQFullDrop and ListenDrops count. The remedy is the \
         setting itself. ",
        rule!()
    ),
    holds: "A listener has as many unfinished handshakes as its limit, or TCPReqQFullDoCookies or TCPReqQFullDrop moves: at \
            least a warning. SYNs dropped without cookies follow rate, share and duration.",
    does_not: "Cookies sent because tcp_syncookies is 2 (every SYN gets one); cookies that were sent earlier; an accept queue \
               that overflows (listen.overflows).",
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
    why: "With 1 the kernel answers the last ACK of a handshake by a RST when the accept queue is full. With 0, the default, \
          the client retries, and finds room if the program has called accept() meanwhile.",
    story: "The setting turns a short burst into errors at the clients. The queue gets no longer by it. The setting is of use \
            only where clients go to another server at once when they get ECONNRESET. TcpExt EmbryonicRsts counts the RSTs.",
    holds: "net.ipv4.tcp_abort_on_overflow is not 0: a note; a warning once ListenOverflows is above 0.",
    does_not: "Resets for other reasons, such as a closed port or SO_LINGER 0.",
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
    why: "The limit is the smaller of the program's own number and net.core.somaxconn. Many programs still hand over a number \
          from the time when 128 was the most.",
    story: "Since 5.4 somaxconn is 4096, so the program's own number is mostly the limit. Defaults: nginx, Apache, Redis, \
            PHP-FPM and Node.js 511; Java 50, Tomcat 100; Gunicorn and Uvicorn 2048; Puma and Unicorn 1024; uWSGI 100; Python's \
            socketserver 5; HAProxy the frontend's maxconn; PostgreSQL twice max_connections; MySQL max_connections. Go, \
            Envoy and Netty read somaxconn. The kernel reads the number at listen(): a higher somaxconn takes effect when the \
            program listens anew.\n\n\
            A longer queue costs a few hundred bytes for each connection that waits, and nothing while none waits.",
    holds: "A backlog below 16; or a program's default up to 1024; or a backlog up to 128 that is half full or has dropped \
            (then a warning).",
    does_not: "A backlog that net.core.somaxconn caps; a queue that is full now (listen.queue-full).",
    by_hand: &["ss -ltnp     # Send-Q is the limit", "sysctl net.core.somaxconn"],
    sources: &["net/socket.c: __sys_listen", "net/ipv4/af_inet.c: inet_listen"],
};

/// Listeners keep up.
pub const ROOM: Story = Story {
    id: "listen.room",
    title: "The listeners keep up",
    why: "No accept queue and no SYN queue is full, and no connection is dropped.",
    story: "The doctor compares each listener's accept queue and its requests (SYN-RECV) with its limit, and reads its drops. \
            TcpExt ListenOverflows, ListenDrops, TCPReqQFullDoCookies and TCPReqQFullDrop count what happened since the \
            namespace began.",
    holds: "No other finding about listeners is a warning.",
    does_not: "Any listener drops connections, or dropped many.",
    by_hand: &["ss -ltn", "nstat -az | grep -E 'Listen|ReqQ|Syncookies'"],
    sources: &["net/ipv4/inet_diag.c: inet_diag_dump_icsk", "net/ipv4/tcp_diag.c: tcp_diag_get_info"],
};

/// What this question can find.
pub const STORIES: &[Story] = &[QUEUE_FULL, OVERFLOWS, SYN_QUEUE, ABORT, LOW_BACKLOG, ROOM];
