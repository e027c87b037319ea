//! What stands behind the findings about states.

use crate::doctor::finding::Story;

/// The peer closed, and the program here did not.
pub const CLOSE_WAIT: Story = Story {
    id: "states.close-wait",
    title: "A program does not close connections that its peers have closed",
    why: "CLOSE_WAIT begins when the peer closes and ends when the program here calls close(). Only the program can end it; \
          each one keeps a descriptor, its memory and, at a client, a port.",
    story: "The peer's FIN moves a connection from ESTABLISHED to CLOSE_WAIT, and read() returns 0. A program that ignores \
            this, or that waits for something else, keeps the socket for ever: no sysctl and no timeout of the kernel ends \
            CLOSE_WAIT. The descriptors run out at last, and accept() fails with EMFILE.\n\n\
            A connection passes through CLOSE_WAIT in less than a second where the program reads and closes. twtrace \
            therefore counts sockets whose peer was silent for a second or longer: tcp_info's last_ack_recv is the least \
            that the FIN is old.\n\n\
            A socket in CLOSE_WAIT without a process waits for accept(): its client has given up meanwhile. The listener's \
            program does not call accept() often enough.",
    holds: "100 or more CLOSE_WAIT sockets of one program have been silent for 1 s: a warning. 16 or more for 60 s: a note.",
    does_not: "CLOSE_WAIT in passing: sockets whose peer sent its FIN less than a second ago.",
    by_hand: &["ss -tnpi state close-wait     # lastack: since the peer was last heard of, milliseconds"],
    sources: &["net/ipv4/tcp_input.c: tcp_fin", "net/ipv4/tcp.c: __tcp_close, tcp_get_info", "RFC 9293, section 3.6"],
};

/// shutdown() without close().
pub const FIN_WAIT2: Story = Story {
    id: "states.fin-wait2-held",
    title: "A program holds connections in FIN_WAIT2: it called shutdown() and not close()",
    why: "tcp_fin_timeout ends FIN_WAIT2 only after close(). A socket that a process still holds stays until the peer closes \
          or the program calls close().",
    story: "shutdown(SHUT_WR) sends the FIN and keeps the descriptor. When the peer has acknowledged the FIN, the socket is in \
            FIN_WAIT2 and waits for the peer's own. As long as a process holds it, the kernel starts no timer: \
            net.ipv4.tcp_fin_timeout and TCP_LINGER2 apply to orphans.\n\n\
            A half-closed connection that still receives is right, for instance while an answer is read to its end. One \
            that has been silent is mostly a program that calls shutdown() and forgets close(), or a peer that never closes.",
    holds: "100 or more FIN_WAIT2 sockets of one process have been silent for 1 s: a warning. 16 or more for 60 s: a note.",
    does_not: "Orphans and minisocks in FIN_WAIT2, which tcp_fin_timeout ends (cost.fin-wait2); sockets that still receive.",
    by_hand: &["ss -tnp state fin-wait-2     # with users:((...)): held; without: orphans"],
    sources: &[
        "net/ipv4/tcp.c: tcp_shutdown, __tcp_close",
        "net/ipv4/tcp_input.c: tcp_rcv_state_process, TCP_FIN_WAIT1",
    ],
};

/// The last segments are not acknowledged.
pub const CLOSING: Story = Story {
    id: "states.closing",
    title: "Closed connections are stuck in FIN_WAIT1, CLOSING or LAST_ACK",
    why: "In these states the kernel waits for the peer to acknowledge the last bytes and the FIN. Either nothing comes back, \
          or the peer's receive window is zero because its program does not read.",
    story: "A connection passes through FIN_WAIT1, CLOSING and LAST_ACK in a round trip. It is stuck if the kernel has sent the \
            last segment again without an answer, or probes a window of zero. After close() no process holds such a socket: \
            it is an orphan, keeps its buffers and counts against tcp_max_orphans. net.ipv4.tcp_orphan_retries (0 means 8) \
            bounds how often an orphan is sent again: about 100 seconds at a retransmission timeout of 200 ms.\n\n\
            tcp_fin_timeout has no say here: it counts from FIN_WAIT2.",
    holds: "100 or more sockets in these states have sent again without an answer, or probe a zero window: a warning.",
    does_not: "Sockets that wait for their first acknowledgement: they pass through these states in a round trip.",
    by_hand: &["ss -tanoei state fin-wait-1 state last-ack state closing     # timer:(on,..) or (persist,..), Send-Q"],
    sources: &["net/ipv4/tcp_timer.c: tcp_orphan_retries, tcp_probe_timer", "net/ipv4/inet_diag.c: inet_sk_diag_fill"],
};

/// No answer to SYNs.
pub const SYN_SENT: Story = Story {
    id: "states.syn-sent",
    title: "A peer does not answer: connects wait in SYN_SENT",
    why: "A SYN is answered within a round trip. One that is not is sent again after 1, 3, 7 seconds; connect() fails with \
          ETIMEDOUT after tcp_syn_retries, two minutes by default. Each takes a port towards the destination meanwhile.",
    story: "Nothing at all comes back: the peer is down, a firewall drops the SYN or its answer, or the peer's SYN queue is \
            full and its cookies are off. A port at which nobody listens is another matter: it answers with RST, and connect() \
            fails at once with ECONNREFUSED.\n\n\
            tcp_info's last_ack_recv of a socket in SYN_SENT counts from connect().",
    holds: "16 or more connects to one destination have waited for 1 s and none is established there, or 100 or more wait: a \
            warning. Otherwise 16 or more are a note.",
    does_not: "Connects that are younger than 1 s and whose SYN was sent once.",
    by_hand: &["ss -tnpo state syn-sent", "nstat -az TcpExtTCPTimeouts TcpExtTCPSynRetrans"],
    sources: &["net/ipv4/tcp_output.c: tcp_connect_init", "net/ipv4/tcp_timer.c: tcp_write_timeout"],
};

/// Handshakes that clients do not end.
pub const SYN_RECV: Story = Story {
    id: "states.syn-recv",
    title: "Many handshakes wait for their clients",
    why: "A handshake whose last ACK does not come stays in SYN_RECV for 63 seconds and takes a place of the SYN queue. When \
          the queue is full, the kernel answers with SYN cookies, or drops SYNs if they are off.",
    story: "The kernel answers a SYN and waits for the ACK: a round trip. It sends its SYN-ACK again after 1, 3, 7 seconds, \
            net.ipv4.tcp_synack_retries times. Many requests whose SYN-ACK was sent again are a SYN flood from addresses that \
            do not exist, or clients that the answer does not reach: a wrong route back, or a firewall.\n\n\
            The limit is the listener's backlog: see listen.syn-queue, which tells of queues that are full.",
    holds: "100 or more requests wait at a listener, and half of them had their SYN-ACK sent again, or they are half of the limit.",
    does_not: "Handshakes in their first round trip below half of the limit; a queue that is full (listen.syn-queue).",
    by_hand: &["ss -tno state syn-recv | awk '{print $4, $5}' | sort | uniq -c | sort -n | tail"],
    sources: &["net/ipv4/inet_connection_sock.c: reqsk_timer_handler", "net/ipv4/inet_diag.c: inet_req_diag_fill"],
};

/// Orphans near their limit.
pub const ORPHANS: Story = Story {
    id: "states.orphans",
    title: "Orphaned sockets are near tcp_max_orphans",
    why: "An orphan is a socket after close() whose last bytes are not acknowledged yet. Past tcp_max_orphans the kernel \
          resets it, and the peer loses what was still under way.",
    story: "The number is the machine's, of all network namespaces, and so is net.ipv4.tcp_max_orphans, which only the initial \
            namespace shows. Each reset is counted in TcpExt TCPAbortOnMemory. A socket that has not been answered for long is \
            reset from a quarter of the limit on (tcp_out_of_resources).\n\n\
            TIME_WAIT and FIN_WAIT2 minisocks are no orphans: tcp_max_tw_buckets bounds them.",
    holds: "100 or more orphans, and 80 % or more of tcp_max_orphans: a warning.",
    does_not: "Fewer; a tcp_max_orphans that cannot be read because twtrace runs in another than the initial network namespace.",
    by_hand: &[
        "grep ^TCP: /proc/net/sockstat     # orphan",
        "sysctl net.ipv4.tcp_max_orphans",
        "nstat -az TcpExtTCPAbortOnMemory",
    ],
    sources: &["net/ipv4/tcp.c: tcp_check_oom, tcp_too_many_orphans", "net/ipv4/tcp_timer.c: tcp_out_of_resources"],
};

/// Memory of buffers.
pub const MEMORY: Story = Story {
    id: "states.memory",
    title: "TCP buffers are near the memory that they may take",
    why: "tcp_mem bounds the buffers of all TCP sockets of the machine. From the second number on the kernel shrinks windows; \
          past the third it drops data and resets connections.",
    story: "The number behind 'mem' in /proc/net/sockstat is compared with the three numbers of net.ipv4.tcp_mem, all in pages. \
            TcpExt TCPMemoryPressures counts how often pressure began, TCPMemoryPressuresChrono the milliseconds that it \
            lasted, TCPAbortOnMemory the connections that were reset.\n\n\
            The memory is that of data which programs do not read (Recv-Q) or peers do not acknowledge (Send-Q). TIME_WAIT \
            takes none of it.",
    holds: "mem is past the third number of tcp_mem: critical. Past the second, or TCPMemoryPressures or TCPAbortOnMemory moves \
            between the looks: a warning. TCPMemoryPressures moved earlier: a note.",
    does_not: "mem below the second number while the counters stand at 0; a tcp_mem that cannot be read.",
    by_hand: &[
        "grep ^TCP: /proc/net/sockstat     # mem, pages",
        "sysctl net.ipv4.tcp_mem",
        "nstat -az | grep TCPMemoryPressures",
    ],
    sources: &["net/core/sock.c: __sk_mem_raise_allocated", "net/ipv4/tcp.c: tcp_enter_memory_pressure"],
};

/// Nothing piles up.
pub const FINE: Story = Story {
    id: "states.fine",
    title: "Sockets pile up in no state",
    why: "A socket may stay in LISTEN and ESTABLISHED; through the other states it passes in a round trip, or, in TIME_WAIT, in \
          a minute.",
    story: "One look lists all sockets of the namespace in all states. The report shows the whole table, with the processes \
            that hold most of each. See the other findings of states.* for what would be a pile.",
    holds: "None of the other findings of states.* is a warning.",
    does_not: "Any of them is.",
    by_hand: &["ss -s", "ss -Htan | awk '{print $1}' | sort | uniq -c"],
    sources: &["include/net/tcp_states.h", "net/ipv4/inet_diag.c: inet_diag_dump_icsk"],
};

/// What this question can find.
pub const STORIES: &[Story] = &[CLOSE_WAIT, FIN_WAIT2, CLOSING, SYN_SENT, SYN_RECV, ORPHANS, MEMORY, FINE];
