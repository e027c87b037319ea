//! Connections by where they go, and how many begin per second: what the ages of TIME_WAITs tell, and the kernel's counters
//! where these disagree.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use crate::{
    doctor::facts::Namespace,
    host::sockets::{Ends, Service},
};

/// Counters and ages are taken over different times; within this factor and so many per second they agree.
const AGREE: (f64, f64) = (1.5, 10.0);

/// Where a rate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// How old the TIME_WAITs are.
    Ages,
    /// PassiveOpens: new connections take the TIME_WAITs over.
    Accepted,
    /// The ages, and TCPTimeWaitOverflow: buckets are full.
    Overflow,
    /// ActiveOpens and PassiveOpens: fewer begin than the ages say.
    Counters,
}

impl Basis {
    pub fn source(self) -> &'static str {
        match self {
            Self::Ages => "sock_diag: the age of each TIME_WAIT",
            Self::Accepted => "/proc/net/snmp PassiveOpens: new connections take TIME_WAITs over",
            Self::Overflow => "sock_diag: the age of each TIME_WAIT, and /proc/net/netstat TCPTimeWaitOverflow",
            Self::Counters => "/proc/net/snmp ActiveOpens + PassiveOpens",
        }
    }
}

/// Connections from somewhere to a service, of which one end at least is here.
#[derive(Clone, Debug)]
pub(super) struct Stream<'a> {
    pub service: SocketAddr,
    /// The end that opens, if it is here.
    pub client: Option<(IpAddr, &'a Ends)>,
    /// The end that accepts, if it is here.
    pub server: Option<&'a Ends>,
    /// Short connections per second.
    pub per_s: f64,
    /// What says so.
    pub basis: Basis,
    /// New connections that are open at a time, if they were watched.
    pub came: Option<f64>,
}

impl Stream<'_> {
    /// Both ends.
    fn ends(&self) -> impl Iterator<Item = &Ends> {
        self.client.map(|(_, ends)| ends).into_iter().chain(self.server)
    }

    fn sum(&self, of: impl Fn(&Ends) -> u64) -> u64 {
        self.ends().map(of).fold(0, u64::saturating_add)
    }

    pub fn time_wait(&self) -> u64 {
        self.sum(|ends| ends.time_wait)
    }

    /// TIME_WAITs of the last ten seconds.
    pub fn recent(&self) -> u64 {
        self.sum(|ends| ends.recent)
    }

    /// Connections that are open now: as many as the end that is here has.
    pub fn open(&self) -> u64 {
        let of = |ends: &Ends| ends.established.saturating_add(ends.other);
        self.client.map_or(0, |(_, ends)| of(ends)).max(self.server.map_or(0, of))
    }

    /// Mean number of short connections that are open at a time, if any was seen.
    pub fn at_a_time(&self) -> Option<f64> {
        self.came.or_else(|| Some(self.open() as f64)).filter(|open| *open > 0.0)
    }

    /// Milliseconds, if any is open.
    pub fn mean_life_ms(&self) -> Option<f64> {
        (self.per_s > 0.0).then(|| Some(self.at_a_time()? / self.per_s * 1000.0)).flatten()
    }

    pub fn is_closed_by_client(&self) -> bool {
        let recent = |ends: Option<&Ends>| ends.map_or((0, 0), |ends| (ends.recent, ends.time_wait));
        recent(self.client.map(|(_, ends)| ends)) > recent(self.server)
    }

    /// Bytes per connection, of those that are open.
    pub fn bytes(&self) -> Option<f64> {
        let ends = self.client.map(|(_, ends)| ends).or(self.server).filter(|ends| ends.asked > 0)?;
        Some(ends.bytes as f64 / ends.asked as f64)
    }
}

/// Streams, those with the highest rate first. The two ends of a connection within this namespace are one stream.
pub(super) fn streams(namespace: &Namespace) -> Vec<Stream<'_>> {
    let sockets = &namespace.sockets;
    let opens = namespace.opens_per_s();
    let rate = |ends: &Ends| ends.per_s(opens);
    let watched = namespace.looks > 1;
    let came = |service: SocketAddr| {
        let came = namespace.came.get(&(service.ip(), service.port())).filter(|_| watched)?;
        Some(came.open)
    };
    // The accepting end's sockets are put to the client address that has most; mostly there is one.
    let mut fullest: HashMap<(IpAddr, u16), (u64, IpAddr)> = HashMap::new();
    for (to, ends) in &sockets.opened {
        let most = fullest.entry((to.raddr, to.rport)).or_insert((0, to.laddr));
        *most = (*most).max((ends.total(), to.laddr));
    }
    let opened = sockets.opened.iter().map(|(to, ends)| {
        let is_fullest = fullest.get(&(to.raddr, to.rport)).is_some_and(|(_, laddr)| *laddr == to.laddr);
        let service = Service { laddr: to.raddr, lport: to.rport };
        let server = sockets.accepted.get(&service).filter(|_| is_fullest);
        let service = (to.raddr, to.rport).into();
        Stream {
            service,
            client: Some((to.laddr, ends)),
            server,
            per_s: rate(ends) + server.map_or(0.0, rate),
            basis: Basis::Ages,
            came: came(service).filter(|_| is_fullest),
        }
    });
    let is_elsewhere = |service: &Service| !fullest.contains_key(&(service.laddr, service.lport));
    let accepted = sockets.accepted.iter().filter(|(service, _)| is_elsewhere(service)).map(|(service, ends)| {
        let service = (service.laddr, service.lport).into();
        Stream { service, client: None, server: Some(ends), per_s: rate(ends), basis: Basis::Ages, came: came(service) }
    });
    let mut streams: Vec<Stream<'_>> = opened.chain(accepted).collect();
    correct(namespace, &mut streams);
    streams.sort_by(|a, b| {
        b.per_s.total_cmp(&a.per_s).then_with(|| b.recent().cmp(&a.recent())).then(a.service.cmp(&b.service))
    });
    streams
}

/// Compares the rates with the kernel's counters; where they disagree, the counters win.
fn correct(namespace: &Namespace, streams: &mut [Stream<'_>]) {
    if let Some(opens) = namespace.opens_per_s() {
        let most = opens * AGREE.0 + AGREE.1;
        for stream in streams.iter_mut().filter(|stream| stream.per_s > most) {
            (stream.per_s, stream.basis) = (opens, Basis::Counters);
        }
    }
    let overflow = namespace.per_s("TcpExt", "TCPTimeWaitOverflow").unwrap_or(0.0);
    if overflow > 0.0 {
        let came = |stream: &Stream<'_>| {
            let remote = (stream.service.ip(), stream.service.port());
            stream.came.and(namespace.came.get(&remote)).map_or(0, |came| came.sockets)
        };
        let is_seen = streams.iter().any(|stream| came(stream) > 0);
        let weigh = |stream: &Stream<'_>| if is_seen { came(stream) } else { stream.time_wait() };
        share(streams, overflow, Basis::Overflow, weigh);
    }
    let Some(accepted) = namespace.per_s("Tcp", "PassiveOpens") else { return };
    let is_here = |stream: &Stream<'_>| {
        stream.server.is_some() || namespace.sockets.listeners.iter().any(|it| it.port == stream.service.port())
    };
    let told: f64 = streams.iter().filter(|stream| is_here(stream)).map(|stream| stream.per_s).sum();
    if accepted > told * AGREE.0 + AGREE.1 {
        // Those whose TIME_WAITs do not grow old, though so many connections would leave many more.
        let minute = accepted * f64::from(namespace.time_wait_ms()) / 1000.0;
        let weigh = |stream: &Stream<'_>| {
            stream.server.map_or(0, |ends| {
                let is_young = ends.recent.saturating_mul(10) >= ends.time_wait.saturating_mul(9);
                if is_young && (ends.time_wait as f64) < minute / 2.0 { ends.recent } else { 0 }
            })
        };
        share(streams, accepted - told, Basis::Accepted, weigh);
    }
}

/// Gives each its part of a rate.
fn share(streams: &mut [Stream<'_>], rate: f64, basis: Basis, weigh: impl Fn(&Stream<'_>) -> u64) {
    let all: f64 = streams.iter().map(|stream| weigh(stream) as f64).sum();
    for stream in streams {
        let part = weigh(stream) as f64;
        if part > 0.0 {
            (stream.per_s, stream.basis) = (stream.per_s + rate * part / all, basis);
        }
    }
}
