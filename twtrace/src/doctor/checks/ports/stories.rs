//! What stands behind the findings about ports.

use crate::doctor::finding::Story;

/// There is none left.
pub const EXHAUSTED: Story = Story {
    id: "ports.exhausted",
    title: "No port is left towards a destination",
    why: "Both addresses and both ports identify a connection. From one local address to one remote address and port there are \
          as many connections as local ports to choose from, in whatever state: TIME_WAIT, open, or half closed. connect() \
          then fails with EADDRNOTAVAIL.",
    story: "connect() without bind() chooses a port of net.ipv4.ip_local_port_range that no other connection between \
            the same addresses and to the same remote port has. Ports held towards one destination do not hinder \
            connections to another: a sum over all destinations says nothing, and 28,232 ports (32768 to 60999) are \
            28,232 towards each.\n\n\
            Without tcp_tw_reuse the port of a connection that was closed here first comes back after 60 seconds, so \
            28,232 ports are worth 470 connections per second towards one destination.\n\n\
            The remedy depends on the state that holds the ports. TIME_WAIT: keep connections open. CLOSE_WAIT: the program \
            does not close (states.close-wait). SYN_SENT: the destination does not answer (states.syn-sent). ESTABLISHED: a \
            pool that is too large, or a leak.\n\n\
            Not counted as available: ports in ip_local_reserved_ports, those that somebody listens on, and those \
            that a client bound before its connect() (ports.bound-first).",
    holds: "All ports of ip_local_port_range, less reserved and listening ones, are held towards one destination, and no \
            TIME_WAIT among them can be taken over: critical.",
    does_not: "Many ports held in total, spread over destinations; fewer than 16, unless they are all.",
    by_hand: &[
        "ss -Htan | awk '{print $5}' | sort | uniq -c | sort -n | tail   # by remote end",
        "sysctl net.ipv4.ip_local_port_range net.ipv4.ip_local_reserved_ports",
    ],
    sources: &["net/ipv4/inet_hashtables.c: __inet_hash_connect, __inet_check_established", "RFC 6056"],
};

/// Ports become few.
pub const FILLING: Story = Story {
    id: "ports.filling",
    title: "More than half of the ports towards a destination are held",
    why: "connect() looks at every second port first and at the others when all of those are taken: from half of the range \
          on each connect() looks at thousands of ports, which takes CPU time before it fails.",
    story: "The search begins somewhere and visits the ports of the same parity as the first of the range; only when none \
            of them is free does it visit the others. Up to half of the range the first try mostly succeeds. Beyond it \
            the search becomes longer and longer: it shows in profiles as __inet_hash_connect and \
            __inet_check_established. At the end stands EADDRNOTAVAIL: see ports.exhausted.\n\n\
            If TIME_WAITs hold the ports and no more of them begin, the load is over: the finding is a note that tells when \
            the last of them is gone.",
    holds: "Half or more of the ports, and at least 16, are held towards one destination: a warning.",
    does_not: "TIME_WAITs of a load that is over, and TIME_WAITs that connect() may take over: a note.",
    by_hand: &["ss -Htan dst 192.0.2.1:443 | wc -l", "perf top     # __inet_hash_connect"],
    sources: &["net/ipv4/inet_hashtables.c: __inet_hash_connect"],
};

/// A bind() takes ports from everybody.
pub const BOUND_FIRST: Story = Story {
    id: "ports.bound-first",
    title: "Clients bind before they connect, and take ports from every destination",
    why: "A port that bind() took, even one that bind() chose, is passed over by every connect() without bind(), for all \
          destinations, until its last connection is gone, TIME_WAIT included.",
    story: "A program that wants a certain source address calls bind() with port 0 and then connect(). Without \
            IP_BIND_ADDRESS_NO_PORT, bind() has to choose the port at once, not knowing the destination, and marks \
            the port as bound; connect() of others passes over ports that are so marked. When all ports are bound, connect() \
            fails with EADDRNOTAVAIL towards every destination, and bind() to port 0 of the same address with EADDRINUSE.\n\n\
            How twtrace knows: a socket that is bound and not connected is listed as such (Linux 6.8 and later). Of connected \
            sockets it is inferred: connect() begins with the ports that have the parity of the first of the range, bind() \
            with the others, and each begins with the other half when its own is used up. Connections on the second half \
            while the first has room were bound. When the second half is used up and no two connections share a port, those \
            of the first half were bound too: connect() would have shared ports between destinations.\n\n\
            One sign alone is a guess, and told as a note. A warning needs another: the program that has these sockets, \
            with ports of the second half three times as often as of the first, or sockets that are listed as bound.\n\n\
            (Since 6.18, and in stable kernels with 'tcp: Update bind bucket state on port release', the mark goes away \
            with the last socket that was bound.)",
    holds: "All ports are bound: critical. A tenth or more, and a second sign beside their parity: a warning. 16 or more: a note.",
    does_not: "One port with many peers (a service whose listener is closed); sockets with IP_BIND_ADDRESS_NO_PORT; a program \
               with a range of its own (IP_LOCAL_PORT_RANGE), whose ports lie within less than half of the range; TIME_WAITs of a burst past half of the range.",
    by_hand: &[
        "strace -f -e trace=bind,connect,setsockopt -p PID    # bind(.., port 0) before connect()",
        "ss -Htan | awk '{n=split($4,a,\":\"); print a[n]%2}' | sort | uniq -c   # parities of local ports",
    ],
    sources: &[
        "net/ipv4/inet_connection_sock.c: inet_csk_find_open_port",
        "net/ipv4/inet_hashtables.c: __inet_hash_connect",
        "net/ipv4/inet_diag.c: inet_diag_dump_icsk (TCPF_BOUND_INACTIVE)",
        "ip(7): IP_BIND_ADDRESS_NO_PORT, IP_LOCAL_PORT_RANGE",
    ],
};

/// There are enough.
pub const ROOM: Story = Story {
    id: "ports.room",
    title: "Every destination has ports left",
    why: "Ports run out towards one destination at a time: what counts is the fullest, not the sum.",
    story: "For each destination (local address, remote address, remote port) twtrace counts the local ports held by \
            TIME_WAIT, by open connections and by those in between, and compares them with those that connect() may \
            choose. See ports.exhausted for how the kernel does it.",
    holds: "None of the other findings of ports.* is a warning.",
    does_not: "One of them is.",
    by_hand: &["ss -Htan | awk '{print $5}' | sort | uniq -c | sort -n | tail"],
    sources: &["net/ipv4/inet_hashtables.c: __inet_hash_connect"],
};

/// What this question can find.
pub const STORIES: &[Story] = &[EXHAUSTED, FILLING, BOUND_FIRST, ROOM];
