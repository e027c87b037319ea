//! One network namespace with a TUN device: connections are played side by side, one step of each after the other, and
//! sock_diag is asked before and after every step.

mod act;
mod end;

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use end::{is_last, left_ms, name, seen};
use twtrace::{
    host::{
        clock::monotonic_ns,
        diag::{self, Detail, TCP_CLOSE, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT},
    },
    lab::want::between,
    model::{
        event::{Cause, Role, Tuple},
        kernel::KernelCounters,
    },
    traffic::{lives, oracle, segment},
};

use super::{
    fate::{Fact, Known, Look, Seen, Stimulus, What, decide, due_ns, is_due},
    peer::Peer,
    script::{Climate, Family, How, Script, Side, Step},
    wire::{Net, Tun, sign},
};
use crate::tracer::nobody_forks;

/// Ports of the listeners: IPv4, and IPv6 with mapped addresses.
const SERVICES: [u16; 2] = [1_080, 1_081];
/// The first port of clients that bind, and of the peers: a connection's number is added to both.
const FIRST_BOUND: u16 = 2_000;
const FIRST_PEER: u16 = 10_000;
/// The kernel's own range of ports.
const RANGE: &str = "32768 60999";
/// tcp_max_tw_buckets of a crowded namespace.
pub const ROOM: usize = 12;
/// Between the two halves of a script: longer than tcp_tw_reuse_delay and the shortest FIN_WAIT2.
const PAUSE: Duration = Duration::from_secs(2);
/// The last byte of the address of the peer that signs.
const SIGNER: u8 = 3;
/// Bytes in the SYN of TCP Fast Open.
const EARLY: u16 = 100;
/// Server and client, neither with a cookie, every listener (Documentation/networking/ip-sysctl.rst).
const FAST_OPEN: &str = "1543";

/// One connection, and what became of it.
pub struct Life {
    pub tuple: Tuple,
    pub facts: Vec<Fact>,
    /// What was done, and what sock_diag said.
    pub log: Vec<String>,
    script: Script,
    peer: Peer,
    local: SocketAddr,
    remote: SocketAddr,
    socket: Option<TcpStream>,
    /// Sockets whose connection another has taken over.
    old: Vec<TcpStream>,
    last: Look,
    known: Known,
    /// The connection took over a minisock.
    heir: bool,
}

/// All that became of a namespace's connections.
pub struct Report {
    pub lives: Vec<Life>,
    /// connect() calls that failed with EADDRNOTAVAIL: local port if one was bound, remote port.
    pub no_port: Vec<(Option<u16>, u16)>,
    /// Where the oracle contradicts itself, or the kernel.
    pub trouble: Vec<String>,
}

struct World {
    tun: Tun,
    net: Net,
    lives: Vec<Life>,
    listeners: Vec<TcpListener>,
    no_port: Vec<(Option<u16>, u16)>,
    trouble: Vec<String>,
    last: KernelCounters,
    /// This kernel can sign segments.
    signs: bool,
    /// TcpExt TW counts births (5.18 and later).
    counts_births: Option<bool>,
}

/// Plays the scripts, all of one climate, in the calling thread's namespace.
pub fn play(climate: Climate, net: Net, scripts: &[&Script]) -> io::Result<Report> {
    set_up(climate)?;
    let tun = Tun::new(net)?;
    let listeners =
        [SocketAddr::from((net.v4(1), SERVICES[0])), SocketAddr::from((Ipv6Addr::UNSPECIFIED, SERVICES[1]))];
    let listeners = listeners.map(listen).into_iter().collect::<io::Result<Vec<_>>>()?;
    let signs = match signed(&listeners, net) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => false,
        other => other.map(|()| true)?,
    };
    let last = oracle::counters()?;
    let (lives, no_port, trouble) = (Vec::new(), Vec::new(), Vec::new());
    let mut world = World { tun, net, lives, listeners, no_port, trouble, last, signs, counts_births: None };
    for script in scripts {
        let _nobody_forks = nobody_forks();
        world.open(script)?;
    }
    world.half(|script| &script.before)?;
    world.pause()?;
    world.half(|script| &script.after)?;
    world.finish()
}

fn set_up(climate: Climate) -> io::Result<()> {
    // A bare minisock answers at once, and nothing of one connection is remembered for the next.
    let always = [
        ("tcp_fastopen", FAST_OPEN),
        ("tcp_invalid_ratelimit", "0"),
        ("tcp_no_metrics_save", "1"),
        ("tcp_tw_reuse", "1"),
    ];
    let room = ROOM.to_string();
    let special: &[(&str, &str)] = match climate {
        Climate::Plain => &[],
        Climate::Short => &[("tcp_fin_timeout", "1")],
        Climate::Guarded => &[("tcp_rfc1337", "1"), ("tcp_tw_reuse", "0")],
        Climate::Crowded => &[("tcp_max_tw_buckets", &room)],
        Climate::Unstamped => &[("tcp_timestamps", "0")],
        Climate::Eager => &[("tcp_tw_reuse_delay", "1"), ("tcp_fin_timeout", "2")],
    };
    for (name, value) in always.iter().chain(special) {
        match lives::sysctl(name, value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Lets the listeners sign what they send to the peer that does.
fn signed(listeners: &[TcpListener], net: Net) -> io::Result<()> {
    for listener in listeners {
        let v4 = net.v4(SIGNER);
        if listener.local_addr()?.is_ipv4() {
            sign(listener, v4.into())?;
        } else {
            sign(listener, v4.to_ipv6_mapped().into())?;
            sign(listener, net.v6(SIGNER).into())?;
        }
    }
    Ok(())
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = lives::listen(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl World {
    fn open(&mut self, script: &Script) -> io::Result<()> {
        let number = u16::try_from(self.lives.len()).map_err(io::Error::other)?;
        let v6 = script.family == Family::V6;
        let end = |end| if v6 { IpAddr::V6(self.net.v6(end)) } else { IpAddr::V4(self.net.v4(end)) };
        let (role, port) = match script.side {
            Side::Bound => (Role::Client, FIRST_BOUND + number),
            Side::Auto => (Role::Client, 0),
            Side::Server => (Role::Server, SERVICES[usize::from(script.family != Family::V4)]),
        };
        let local = SocketAddr::new(end(1), port);
        let signed = script.how == How::Signed && self.signs;
        let remote = SocketAddr::new(end(if signed { SIGNER } else { 2 }), FIRST_PEER + number);
        let now = monotonic_ns();
        self.lives.push(Life {
            tuple: between(local, remote),
            facts: Vec::new(),
            log: Vec::new(),
            script: script.clone(),
            peer: Peer::new(remote, local, script.stamps, signed),
            local,
            remote,
            socket: None,
            old: Vec::new(),
            last: Look { seen: Seen::Nothing, asked_ns: now, known_ns: now },
            known: Known { role, timestamps: None, aborts: false },
            heir: false,
        });
        let life = usize::from(number);
        if script.side != Side::Server {
            self.connect(life, script.side == Side::Bound, script.how == How::Fast)?;
        }
        let crossed = script.how == How::Crossed;
        let steps = if script.how == How::Half { usize::from(script.side == Side::Server) } else { 3 };
        self.observed(life, "opened", |world| {
            for step in 0..steps {
                world.handshake(life, crossed, step == 0)?;
            }
            Ok(Stimulus::Segment { rst: false, syn: false, stamped: true, answered: false })
        })
    }

    /// One half of the scripts, step by step.
    fn half(&mut self, of: fn(&Script) -> &Vec<Step>) -> io::Result<()> {
        let rounds = self.lives.iter().map(|life| of(&life.script).len()).max().unwrap_or(0);
        for round in 0..rounds {
            for life in 0..self.lives.len() {
                if let Some(step) = of(&self.lives[life].script).get(round).copied() {
                    let _nobody_forks = nobody_forks();
                    self.observed(life, &format!("{step:?}"), |world| world.step(life, step))?;
                }
            }
        }
        Ok(())
    }

    fn pause(&mut self) -> io::Result<()> {
        let end = Instant::now() + PAUSE;
        while Instant::now() < end {
            self.drain()?;
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Looks, acts, looks again, and decides what became of the connection: first by itself, then by what was done.
    fn observed(
        &mut self,
        life: usize,
        what: &str,
        act: impl FnOnce(&mut Self) -> io::Result<Stimulus>,
    ) -> io::Result<()> {
        self.look(life, "", Stimulus::Nothing)?;
        let resets = self.lives[life].peer.resets;
        let mut stimulus = act(self)?;
        self.drain()?;
        self.accept()?;
        if let Stimulus::Segment { answered, rst, .. } = &mut stimulus {
            // For a minisock that signs the kernel sends no RST: it looks for the key at a listener (tcp_v4_send_reset).
            let is_mute = self.signs && self.lives[life].script.how == How::Signed;
            *answered = self.lives[life].peer.resets != resets || is_mute && !*rst;
        }
        self.look(life, what, stimulus)
    }

    fn look(&mut self, number: usize, what: &str, stimulus: Stimulus) -> io::Result<()> {
        let life = &mut self.lives[number];
        let asked_ns = monotonic_ns();
        let seen = seen(&life.tuple)?;
        let look = Look { seen, asked_ns, known_ns: monotonic_ns() };
        let before = std::mem::replace(&mut life.last, look);
        let ends = matches!((before.seen, seen), (Seen::Full(_), Seen::Nothing));
        let overflow = ends && {
            let now = oracle::counters()?;
            std::mem::replace(&mut self.last, now).overflow != now.overflow
        };
        if !what.is_empty() || before.seen != seen && !matches!((before.seen, seen), (Seen::Mini(..), Seen::Mini(..))) {
            life.log.push(format!("{what} -> {seen}"));
        }
        match decide(&before, &look, stimulus, overflow, life.known) {
            Ok(fact) => life.facts.extend(fact),
            Err(strange) => self.trouble.push(format!("{}: {strange}; {:?}", name(life), life.log)),
        }
        if matches!(stimulus, Stimulus::Connected { .. }) {
            life.known = Known { role: Role::Client, timestamps: None, aborts: false };
            life.heir = matches!(before.seen, Seen::Mini(..));
        }
        if is_last(life, |what| matches!(what, What::Died { cause: Cause::Recycled, .. })) {
            life.known = Known { role: Role::Server, timestamps: None, aborts: false };
        }
        if matches!(seen, Seen::Nothing | Seen::Full(TCP_SYN_SENT | TCP_SYN_RECV)) {
            life.known.timestamps = None;
        }
        if let (Seen::Full(state), Some(socket)) = (seen, &life.socket)
            && ![TCP_SYN_SENT, TCP_SYN_RECV, TCP_CLOSE].contains(&state)
        {
            let info = segment::info(socket)?;
            if info.state == state {
                // A connection that took over a TIME_WAIT inherits `ts_recent_stamp` (tcp_twsk_unique), by which the tracer
                // tells: it tells `true` where the new peer sends none. Known, and not compared.
                let inherited = life.heir && !info.timestamps;
                life.known.timestamps = (!inherited).then_some(info.timestamps);
            }
        }
        if self.counts_births.is_none() && is_last(life, |what| matches!(what, What::Born { .. })) {
            let now = oracle::counters()?;
            self.counts_births = Some(now.tw + now.tw_killed > 0);
        }
        Ok(())
    }

    /// Destroys what is no minisock, so that the namespace can go, and asks the kernel's counters for the sums.
    fn finish(mut self) -> io::Result<Report> {
        // Before 6.11 SOCK_DESTROY does nothing to a socket that nobody has open but to stop its timers (tcp_abort).
        for with_reset in [false, true, true] {
            for life in 0..self.lives.len() {
                let _nobody_forks = nobody_forks();
                self.observed(life, "the end", |world| match world.lives[life].last.seen {
                    Seen::Full(_) if with_reset => world.reset(life),
                    Seen::Full(_) => Ok(world.destroy(life)),
                    _ => Ok(Stimulus::Nothing),
                })?;
                let life = &mut self.lives[life];
                life.socket = None;
                life.old.clear();
            }
        }
        for life in 0..self.lives.len() {
            self.look(life, "", Stimulus::Nothing)?;
        }
        self.sums()?;
        for life in &mut self.lives {
            if let Seen::Mini(_, left_ms) = life.last.seen {
                let due_ns = due_ns(life.last.asked_ns, left_ms);
                let what = What::Died { cause: Cause::Netns, due_ns };
                life.facts.push(Fact { what, within_ns: life.last.asked_ns..=u64::MAX });
            }
        }
        let Self { lives, no_port, trouble, .. } = self;
        Ok(Report { lives, no_port, trouble })
    }

    /// The kernel's counters and its list of sockets, against what was seen of each connection.
    fn sums(&mut self) -> io::Result<()> {
        let now = oracle::counters()?;
        let alive = diag::dump(&diag::every_state(), Detail::Header, Vec::new, |found, entry| found.push(*entry))?;
        let facts = || self.lives.iter().flat_map(|life| &life.facts);
        let count = |is: &dyn Fn(&What) -> bool| facts().filter(|fact| is(&fact.what)).count() as u64;
        let exactly = |count| count..=count;
        let born = count(&|what| matches!(what, What::Born { .. }));
        let died = count(&|what| matches!(what, What::Died { .. }));
        let expired = count(&|what| matches!(what, What::Died { cause: Cause::Expired, .. }));
        let now_ns = monotonic_ns();
        let unsure = count(&|what| matches!(what, What::Died { due_ns, .. } if is_due(*due_ns, now_ns)));
        let taken = count(&|what| matches!(what, What::Died { cause: Cause::Reused | Cause::ReusedBound, .. }));
        let refused = count(&|what| matches!(what, What::Refused));
        // Since each was looked at, some may have run out.
        let minis = || self.lives.iter().filter(|life| matches!(life.last.seen, Seen::Mini(..)));
        let (live, due) = (
            minis().count() as u64,
            minis().filter(|life| is_due(due_ns(life.last.asked_ns, left_ms(life)), now_ns)).count() as u64,
        );
        let tw = match self.counts_births {
            Some(false) => expired..=unsure + due,
            Some(true) | None => exactly(born),
        };
        let minisocks = alive.iter().filter(|entry| entry.minisock).count() as u64;
        let others = alive.iter().filter(|entry| !entry.minisock && entry.state != TCP_LISTEN).count() as u64;
        let rows = [
            ("TW + TWKilled", now.tw + now.tw_killed, tw),
            ("TWRecycled", now.tw_recycled, exactly(taken)),
            ("TCPTimeWaitOverflow", now.overflow, exactly(refused)),
            ("sockstat tw", now.sockstat_tw, born - died - due..=born - died),
            ("minisocks of sock_diag", minisocks, live - due..=live),
            ("other sockets of sock_diag", others, exactly(0)),
        ];
        let wrong = rows.iter().filter(|(_, kernel, seen)| !seen.contains(kernel));
        let wrong = wrong.map(|(what, kernel, seen)| format!("the kernel's {what}: {kernel}, one by one: {seen:?}"));
        self.trouble.extend(wrong);
        Ok(())
    }
}
