//! What a scenario acts on: its namespace, its sockets, and the book in which it writes what must be said of them.

mod wait;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use wait::becomes_minisock;

use super::{
    judge::{Difference, Made},
    want::{End, Is, SOME_TIME, Turn, Want, WantNoBind, WantNoPort, between, own_cgroup},
};
use crate::{
    host::{clock::monotonic_ns, netns::Netns},
    model::event::{Call, Cause, Role, Substate},
    traffic::{
        diag,
        hand::Hand,
        lives::{self, Pair},
        oracle,
        segment::{self, Info},
        who::Who,
    },
};
pub use wait::await_minisocks;

/// The kernel counts in ticks: its clock may be one behind when a timer is armed (10 ms at HZ 100), and on a machine that
/// gets its ticks late, a second one.
pub const TICKS: Duration = Duration::from_millis(20);
/// Longest that anything short of a real TIME_WAIT may take: emulated machines are slow.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Why a scenario came to no verdict.
#[derive(Debug)]
pub enum Stop {
    /// This kernel cannot do what the scenario needs; its own words.
    NotHere(String),
    /// Something went wrong in making it.
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// What a scenario comes to.
pub type Outcome = Result<(), Stop>;

/// The addresses of one family: v4-mapped connects from an IPv6 socket, and is IPv4 to the kernel's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// IPv4 inside IPv6 addresses.
    Mapped,
}

impl Family {
    fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
            Self::Mapped => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        }
    }
}

/// Which end closes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum First {
    /// The one that called connect().
    Client,
    /// The one that accepted.
    Server,
}

impl First {
    /// Closes a connection in this order.
    ///
    /// # Errors
    /// If the FIN does not arrive.
    pub fn closes(self, Pair { client, server }: Pair) -> io::Result<()> {
        match self {
            Self::Client => lives::close_in_order(client, server),
            Self::Server => lives::close_in_order(server, client),
        }
    }
}

/// A connection, and when it came to be.
#[derive(Debug)]
pub struct Link {
    /// The connection's two ends.
    pub pair: Pair,
    /// Before connect() was called, nanoseconds of `CLOCK_MONOTONIC`.
    before_ns: u64,
    /// After it returned.
    after_ns: u64,
}

/// Sockets that were made before the tracer.
#[derive(Debug)]
pub struct Older {
    /// Where they connected to.
    pub listener: TcpListener,
    /// A connection that is open.
    pub open: Pair,
    /// The accepting end of a connection whose other end is a FIN_WAIT2 minisock.
    pub orphan: TcpStream,
}

/// What a scenario acts on.
pub struct Stage<'a> {
    /// The scenario's namespace; the calling thread is in it.
    pub netns: &'a Netns,
    /// A second namespace, if the scenario asked for one.
    pub twin: Option<Netns>,
    /// Helper processes, as many as the scenario asked for.
    pub hands: Vec<Hand>,
    /// What must be said.
    pub made: Made,
    /// Sockets that were made before the tracer.
    pub older: Option<Older>,
    /// How many connections a storm makes.
    pub connections: usize,
    /// The thread that makes the sockets.
    pub me: Who,
    cgroup: Is<u64>,
    next_port: AtomicU16,
}

impl<'a> Stage<'a> {
    /// A stage in the calling thread's namespace.
    ///
    /// # Errors
    /// If /proc does not tell who we are.
    pub fn new(netns: &'a Netns, hands: Vec<Hand>) -> io::Result<Self> {
        let made = Made { netns: vec![netns.inum()], ..Made::default() };
        let next_port = AtomicU16::new(FIRST_PORT);
        Ok(Self {
            netns,
            twin: None,
            hands,
            made,
            older: None,
            connections: 0,
            me: Who::me()?,
            cgroup: own_cgroup(),
            next_port,
        })
    }

    /// Listens on a port that the kernel chooses.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn listen(&self, family: Family) -> io::Result<TcpListener> {
        lives::listen(SocketAddr::new(family.loopback(), 0))
    }

    /// A source address whose port nothing in this namespace has used: left to connect(), an earlier TIME_WAIT would
    /// sooner or later be taken over by accident.
    #[must_use]
    pub fn source(&self, family: Family) -> SocketAddr {
        SocketAddr::new(family.loopback(), self.next_port.fetch_add(1, Relaxed))
    }

    /// Connects from the address given; `None`: connect() chooses the port.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn connect(&self, listener: &TcpListener, from: Option<SocketAddr>) -> io::Result<Link> {
        let before_ns = monotonic_ns();
        let pair = lives::connect(listener, from)?;
        Ok(Link { pair, before_ns, after_ns: monotonic_ns() })
    }

    /// A connection whose beginning is not of interest.
    #[must_use]
    pub fn adopt(&self, pair: Pair) -> Link {
        let now = monotonic_ns();
        Link { pair, before_ns: now, after_ns: now }
    }

    /// What is to be said of one end of a connection that this thread opened and closes now, living on.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn want(&self, link: &Link, first: First) -> io::Result<Want> {
        let Pair { client, server } = &link.pair;
        let (own, role, opener) = match first {
            First::Client => (client, Role::Client, Is::Exactly(self.me.clone())),
            First::Server => (server, Role::Server, Is::Unknown),
        };
        let Info { timestamps, rtt_us, .. } = segment::info(own)?;
        let age_ns = monotonic_ns() - link.after_ns;
        // A few more samples may come with the FIN; each weighs an eighth (tcp_rtt_estimator).
        let most = rtt_us.saturating_add(u32::try_from(age_ns / 1000).unwrap_or(u32::MAX)).saturating_add(1_000_000);
        Ok(Want {
            netns: self.netns.inum(),
            tuple: between(own.local_addr()?, own.peer_addr()?),
            preexisting: false,
            role: Is::Exactly(role),
            born: Is::Anything,
            turn: Turn::IfFinWait2,
            rearmed: Is::Anything,
            closer: Is::Exactly(self.me.clone()),
            cgroup: self.cgroup.clone(),
            opener,
            conn_ns: Is::Within(age_ns..=u64::MAX),
            bytes_in: Is::Exactly(0),
            bytes_out: Is::Exactly(0),
            srtt_us: Is::Within(rtt_us / 2..=most),
            timestamps: Is::Exactly(timestamps),
            timeout_ms: Is::Within(TIMEOUT_MS),
            end: End::Alive,
        })
    }

    /// Closes one end, then the other, and waits for the minisock; writes down what must be said.
    ///
    /// # Errors
    /// Those of the sockets; if no minisock comes.
    pub fn close(&mut self, link: Link, first: First) -> io::Result<&mut Want> {
        let before = oracle::minisocks()?;
        let mut want = self.want(&link, first)?;
        let Link { pair, before_ns, after_ns } = link;
        let closing_ns = monotonic_ns();
        first.closes(pair)?;
        await_minisocks(before + 1)?;
        want.conn_ns = Is::Within(closing_ns - after_ns..=monotonic_ns() - before_ns);
        Ok(self.write(want))
    }

    /// Connects, and closes at once in this order.
    ///
    /// # Errors
    /// As [`Self::connect`] and [`Self::close`].
    pub fn live(&mut self, listener: &TcpListener, family: Family, first: First) -> io::Result<&mut Want> {
        let link = self.connect(listener, Some(self.source(family)))?;
        self.close(link, first)
    }

    /// An orphan in FIN_WAIT2 as a minisock: the client has closed, the server's end is handed back open. `from`: as in
    /// [`Self::connect`].
    ///
    /// # Errors
    /// Those of the sockets; if the kernel makes none in five attempts.
    pub fn fin_wait2(&mut self, listener: &TcpListener, from: Option<SocketAddr>) -> io::Result<TcpStream> {
        let before = oracle::minisocks()?;
        // An ACK that meets the socket while its owner holds it leaves a full FIN_WAIT2 socket instead.
        for _ in 0..5 {
            let link = self.connect(listener, from)?;
            let mut want = self.want(&link, First::Client)?;
            (want.born, want.turn) = (Is::Exactly(Substate::FinWait2), Turn::Never);
            drop(link.pair.client);
            if becomes_minisock(&want.tuple, before + 1)? {
                self.write(want);
                return Ok(link.pair.server);
            }
            lives::abort(link.pair.server)?;
        }
        Err(io::Error::other("no FIN_WAIT2 minisock in five attempts"))
    }

    /// Ends the last life that was written down, for a cause that is no takeover, and waits until it is gone.
    ///
    /// # Errors
    /// If it does not end.
    pub fn ends(&mut self, cause: Cause, after: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let before = oracle::minisocks()?;
        after()?;
        await_minisocks(before - 1)?;
        self.last()?.end = End::of(cause);
        Ok(())
    }

    /// Takes the last life over by a connect() from its own, bound port; the connection that takes it is aborted.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn take_over(&mut self, listener: &TcpListener) -> io::Result<()> {
        let from = self.its_address(listener)?;
        lives::abort_both(lives::connect(listener, Some(from))?)?;
        self.is_taken(Cause::ReusedBound)
    }

    /// Writes down that this thread's connect() has taken the last life over.
    ///
    /// # Errors
    /// If there is no life yet.
    pub fn is_taken(&mut self, cause: Cause) -> io::Result<()> {
        let end = End::taken(cause, self.me.clone());
        self.last()?.end = end;
        Ok(())
    }

    /// Waits until the last life is a TIME_WAIT, by sock_diag: on a busy machine the peer's FIN may be under way for long, and
    /// meanwhile FIN_WAIT2 is why a connect() may not have it.
    ///
    /// # Errors
    /// If that takes too long, or if netlink does not tell.
    pub fn turns(&mut self) -> io::Result<()> {
        let wanted = (self.last()?.tuple, Substate::TimeWait);
        let deadline = Instant::now() + PATIENCE;
        while !diag::minisocks()?.contains(&wanted) {
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{wanted:?} is not to be found")));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Writes down that this thread's connect() to a listener found no port.
    ///
    /// # Errors
    /// If the listener has no address.
    pub fn no_port(&mut self, listener: &TcpListener) -> io::Result<()> {
        let to = canonical(listener.local_addr()?);
        let (netns, caller) = (self.netns.inum(), Is::Exactly(self.me.clone()));
        self.made.no_port.push(WantNoPort { netns, from: None, to, caller, took_ns: SOME_TIME });
        Ok(())
    }

    /// Writes down that this thread's connect() from a bound port failed, for the same connection is there.
    pub fn no_port_bound(&mut self, from: SocketAddr, to: SocketAddr) {
        let (netns, caller) = (self.netns.inum(), Is::Exactly(self.me.clone()));
        let (from, to) = (Some(canonical(from)), canonical(to));
        self.made.no_port.push(WantNoPort { netns, from, to, caller, took_ns: SOME_TIME });
    }

    /// Writes down that this thread's bind() or listen() found the port taken.
    pub fn no_bind(&mut self, call: Call, at: SocketAddr) {
        let (netns, caller) = (self.netns.inum(), Is::Exactly(self.me.clone()));
        self.made.no_bind.push(WantNoBind { netns, at: canonical(at), call, caller });
    }

    /// Where the last life's connection came from, in the family of the listener.
    fn its_address(&mut self, listener: &TcpListener) -> io::Result<SocketAddr> {
        let tuple = self.last()?.tuple;
        let laddr = match tuple.laddr {
            IpAddr::V4(mapped) if listener.local_addr()?.is_ipv6() => mapped.to_ipv6_mapped().into(),
            other => other,
        };
        Ok(SocketAddr::new(laddr, tuple.lport))
    }

    /// Writes a life down.
    pub fn write(&mut self, want: Want) -> &mut Want {
        self.made.wants.push(want);
        let last = self.made.wants.len() - 1;
        &mut self.made.wants[last]
    }

    /// The life that was written down last.
    ///
    /// # Errors
    /// If there is none.
    pub fn last(&mut self) -> io::Result<&mut Want> {
        self.made.wants.last_mut().ok_or_else(|| io::Error::other("no life yet"))
    }

    /// Notes what a socket or a counter said, against what it should have.
    pub fn check(&mut self, what: &str, expected: impl ToString, seen: impl ToString) {
        let (expected, seen) = (expected.to_string(), seen.to_string());
        self.made.own.push(Difference { what: what.to_owned(), expected, seen });
    }
}

/// Below every port that the kernel chooses by itself (32768 on).
const FIRST_PORT: u16 = 2000;
/// TCP_TIMEWAIT_LEN and tcp_fin_timeout, with a tick on either side (HZ may be 100). Less where the hook comes after the
/// arming (`inet_twsk_schedule`, then `inet_twsk_hashdance`: before 6.10) and an interrupt, or whoever runs a virtual
/// machine, came between the two: 48 ms were seen.
const TIMEOUT_MS: std::ops::RangeInclusive<u32> = 59_500..=60_020;

/// As twtrace tells addresses: v4-mapped ones are IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
