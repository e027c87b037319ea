//! What this question can find.

use crate::doctor::finding::Story;

/// Many short ones to one place.
pub const SHORT: Story = Story {
    id: "keepalive.short-connections",
    title: "Many short connections go to one place: keepalive would save most of them",
    why: "By Little's law the number of connections open at a time is their rate times the life of each; that many, kept \
          open, do the same work without a handshake and a TIME_WAIT for each request.",
    story: "twtrace counts how many TIME_WAITs began in the last moments, by destination and by service; their timers \
            tell their age. It compares the sum with ActiveOpens and PassiveOpens. Where the counters say more, because \
            new connections took TIME_WAITs over, or because tcp_max_tw_buckets was full, the counters win. Where ports \
            are all held, no TIME_WAIT can begin, and the TIME_WAITs that hold the ports are told instead of a rate.\n\n\
            Rate and open connections give the mean life of a connection; the number that would do is the open ones, at \
            least one. The pool is twice that for bursts, rounded up to a power of two, at least 16. A pool saves a \
            handshake and a close for each request, with TLS several round trips, and rate times 60 sockets in TIME_WAIT \
            with their ports.\n\n\
            nginx before 1.29.7 keeps no connection to an upstream unless it is told to. twtrace reads the configuration \
            of the running nginx and names only what is missing there. Each module has its own lines:\n\n\
            \x20   upstream app { server 192.0.2.1:8080; keepalive 32; }\n\
            \x20   location /a { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; }\n\
            \x20   location /b { fastcgi_pass app; fastcgi_keep_conn on; }\n\
            \x20   location /c { grpc_pass grpc://app; }     # keepalive is all that is needed\n\n\
            uwsgi_pass and scgi_pass keep no connection in any version: use a Unix socket, or HTTP. Since 1.29.7 \
            'keepalive 32 local' is the default of every upstream block, and proxy_pass speaks HTTP/1.1; an address \
            without an upstream block is still not kept.\n\n\
            nginx closes a kept connection by itself: beyond 'keepalive' idle connections in a worker, after \
            keepalive_requests, after keepalive_time, and after keepalive_timeout idle. If the backend's idle timeout is \
            shorter than that of nginx, the backend closes first, and a request may meet a closed connection. So the idle \
            timeout at the proxy belongs below that of the backend.\n\n\
            HAProxy keeps connections by default: remove 'option httpclose' and 'option http-server-close', and write \
            'http-reuse safe'. Envoy keeps them too: remove max_requests_per_connection: 1 and a short idle_timeout from \
            the cluster. In programs: use one client with its pool for all requests, and read each answer to its end.",
    holds: "at least 10 connections/s to one service leave a TIME_WAIT here, or were closed without one because the buckets \
            were full; or all ports to it are held, half of them by TIME_WAITs. A warning if the rate times 60 s is a tenth \
            of the ports (of the buckets, if no client is here)",
    does_not: "connections that carry 32 KiB or more each; connections that are kept open; many clients with fewer than 10 \
               connections a minute each (keepalive.many-clients); TIME_WAITs that no longer begin",
    by_hand: &[
        "ss -Htan state time-wait | awk '{print $3, $4}' | sort | uniq -c | sort -n | tail",
        "nstat -d 10 TcpActiveOpens TcpPassiveOpens",
        "nginx -T | grep -nE 'upstream|keepalive|_pass|keep_conn|http_version|Connection'",
    ],
    sources: &[
        "RFC 9112, section 9.3",
        "nginx: src/http/modules/ngx_http_upstream_keepalive_module.c (ngx_http_upstream_free_keepalive_peer)",
        "nginx: CHANGES of 1.29.7",
        "J. D. C. Little, 1961: L = λW",
    ],
};

/// The peer closes first.
pub const PEER_CLOSES: Story = Story {
    id: "keepalive.peer-closes",
    title: "This host opens many short connections that the peer closes first",
    why: "The end that closes first has the TIME_WAIT, so these connections leave none here and show only as a rate. They \
          cost the same handshake for each request.",
    story: "Tcp ActiveOpens counts every connect(). A connection that is neither in TIME_WAIT here nor at a service of this \
            host was closed first by a peer elsewhere. twtrace lists the open sockets again and again for up to 0.6 s: \
            connections that were not there at the first look are the short ones. Their remote end is the destination, \
            and the process that holds their descriptors is the opener. Connections that stay open are never counted.\n\n\
            A connection that lives less than about 0.1 ms is mostly missed. If none was seen, the finding names no \
            destination. See keepalive.short-connections for the remedy.",
    holds: "ActiveOpens moves by at least 50/s more than TIME_WAITs begin here, and that is at least half of ActiveOpens; \
            failed, reset and still growing connections are subtracted. A warning if the rate times 60 s is a tenth of the \
            ports or buckets, as if they were closed here",
    does_not: "a pool that is being filled (CurrEstab grows); connections that fail (AttemptFails) or are reset (EstabResets); \
               connections whose TIME_WAIT is at a service of this host",
    by_hand: &[
        "nstat -d 10 TcpActiveOpens",
        "for i in $(seq 50); do ss -Htn | awk '{print $4, $5}'; done | sort -u | awk '{print $2}' | sort | uniq -c | sort -n | tail",
        "sudo twtrace run --by dest     # counts closes by the peer for each service",
    ],
    sources: &["net/ipv4/tcp_output.c: tcp_connect (TCP_MIB_ACTIVEOPENS)"],
};

/// Many clients that come once each.
pub const MANY_CLIENTS: Story = Story {
    id: "keepalive.many-clients",
    title: "Many clients open few connections each: there is nothing to pool",
    why: "A pool saves connections only where one client opens many. The TIME_WAITs of an accepting end share the port of \
          the service, so no port runs out here.",
    story: "twtrace counts the distinct remote addresses of the connections that a service accepted. Where each opened fewer \
            than ten in a minute, the rate comes from the number of clients, as at a public web server. Behind a NAT or a \
            load balancer many clients share one address and count as one.\n\n\
            If the clients are your own, see keepalive.short-connections.",
    holds: "at least 10 accepted connections/s leave a TIME_WAIT here, from clients elsewhere, fewer than 10 a minute for each \
            remote address (or from more than 1,024 addresses, which are not counted one by one)",
    does_not: "a few clients with many connections each: that is keepalive.short-connections",
    by_hand: &[
        "ss -Htan state time-wait sport = :443 | awk '{print $4}' | sed 's/:[0-9]*$//' | sort | uniq -c | sort -n | tail",
    ],
    sources: &["net/ipv4/inet_timewait_sock.c: inet_twsk_hashdance_schedule"],
};

/// There are none.
pub const ROOM: Story = Story {
    id: "keepalive.enough",
    title: "Few short connections begin here: keepalive would save little",
    why: "No place gets ten or more short connections per second, by the age of TIME_WAITs and by the kernel's counters.",
    story: "See keepalive.short-connections for what is counted, and how. The sentence states absence only where something \
            was counted: TIME_WAITs by age, ActiveOpens, PassiveOpens and TCPTimeWaitOverflow.",
    holds: "none of the other keepalive findings does",
    does_not: "all ports or buckets are taken by TIME_WAITs, even if none begins at the moment",
    by_hand: &["nstat -d 10 TcpActiveOpens TcpPassiveOpens TcpExtTCPTimeWaitOverflow"],
    sources: &["net/ipv4/tcp_output.c: tcp_connect", "net/ipv4/tcp_input.c: tcp_rcv_state_process"],
};
