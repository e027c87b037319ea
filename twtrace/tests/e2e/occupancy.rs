//! Who holds the ports of a namespace: what is counted is exactly what was made.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use twtrace::{
    host::{
        Host,
        diag::{self, Detail, Entry, StateFlags, TCP_CLOSE_WAIT, TCP_FIN_WAIT2, TCP_TIME_WAIT},
        netns::Netns,
        occupancy::{Answer, Places, Poller, Request, look},
    },
    lab::want::between,
    model::{
        event::Tuple,
        occupancy::{Destination, Held, Namespace},
    },
    traffic::lives::{self, Pair, sysctl},
};

use crate::{
    inside::Resident,
    tracer::{PATIENCE, traffic},
};

type Outcome = Result<(), String>;

/// Sockets that are to stay as they are.
#[derive(Default)]
struct Open {
    listeners: Vec<TcpListener>,
    pairs: Vec<Pair>,
    streams: Vec<TcpStream>,
}

impl Open {
    fn keep(&mut self, listener: TcpListener, pairs: Vec<Pair>) {
        self.listeners.push(listener);
        self.pairs.extend(pairs);
    }
}

pub fn occupancy() -> Outcome {
    let (first, second) = (new()?, new()?);
    let _residents = [Resident::of(&first)?, Resident::of(&second)?];
    let (_open, held) = traffic(&first, in_the_first)?;
    let _more = traffic(&second, || connections("127.0.0.1:900", 3))?;
    let seen = look(&Host::default(), &mut Places::default(), &[first.inum(), second.inum()], PATIENCE);
    if seen.at_ns == 0 || seen.took_ns == 0 {
        return Err(format!("it took no time: {seen:?}"));
    }
    let of = |netns: &Netns| seen.namespaces.get(&netns.inum()).cloned();
    let limit = |netns: &Netns| {
        netns.run(|| Ok(Host::default().sysctl("net/ipv4/tcp_max_tw_buckets"))).map_err(|error| error.to_string())
    };
    // Of ten ports three are reserved, and one is listened on.
    let expected = Namespace {
        range: 20_000..=20_009,
        available: 6,
        tw_limit: Some(777),
        tw_reuse: Some(1),
        listeners: BTreeSet::from([900, 901, 902, 903, 904, 20_008]),
        held,
    };
    equal("the first namespace", of(&first), expected)?;
    let local = IpAddr::from(Ipv4Addr::LOCALHOST);
    let to = Destination { laddr: local, raddr: local, rport: 900 };
    let expected = Namespace {
        range: 32_768..=60_999,
        available: 28_232,
        tw_limit: limit(&second)?,
        tw_reuse: Some(2),
        listeners: BTreeSet::from([900]),
        held: HashMap::from([(to, Held { established: 3, other: 0 })]),
    };
    equal("the second namespace", of(&second), expected)
}

fn new() -> Result<Netns, String> {
    Netns::new().map_err(|error| format!("a network namespace: {error}"))
}

fn equal(what: &str, seen: Option<Namespace>, expected: Namespace) -> Outcome {
    if seen.as_ref() == Some(&expected) { Ok(()) } else { Err(format!("{what} is {seen:?}\ninstead of {expected:?}")) }
}

/// Every state that a client's end is likely to be in, of every family, and what is to be counted of it.
fn in_the_first() -> io::Result<(Open, HashMap<Destination, Held>)> {
    sysctl("ip_local_port_range", "20000 20009")?;
    sysctl("ip_local_reserved_ports", "20003,20005-20006")?;
    sysctl("tcp_max_tw_buckets", "777")?;
    sysctl("tcp_tw_reuse", "1")?;
    let (mut open, mut held) = (Open::default(), HashMap::new());
    let mut holds = |listener: &TcpListener, established, other| -> io::Result<()> {
        let to = listener.local_addr()?;
        let address = to.ip().to_canonical();
        let destination = Destination { laddr: address, raddr: address, rport: to.port() };
        held.insert(destination, Held { established, other });
        Ok(())
    };
    for to in ["127.0.0.1:20008", "[::1]:901", "[::ffff:127.0.0.1]:902"] {
        let (listener, pairs) = connections(to, 2)?;
        holds(&listener, 2, 0)?;
        open.keep(listener, pairs);
    }
    // In use, in CLOSE_WAIT, in FIN_WAIT2 with its owner; and one from a port that connect() did not choose.
    let (listener, mut pairs) = connections("127.0.0.1:900", 3)?;
    pairs.push(lives::connect(&listener, Some(([127, 0, 0, 1], 5000).into()))?);
    let closes = pairs.remove(0);
    let (tuple, mut client) = (ours(&closes)?, closes.client);
    drop(closes.server);
    lives::expect_end(&mut client)?;
    becomes(&tuple, TCP_CLOSE_WAIT, false)?;
    pairs[0].client.shutdown(Shutdown::Write)?;
    becomes(&ours(&pairs[0])?, TCP_FIN_WAIT2, false)?;
    holds(&listener, 1, 2)?;
    open.streams.push(client);
    open.keep(listener, pairs);
    // Minisocks hold a port, and are not counted here: events tell of them.
    let (listener, pairs) = connections("127.0.0.1:903", 1)?;
    for pair in pairs {
        let tuple = ours(&pair)?;
        lives::close_in_order(pair.client, pair.server)?;
        becomes(&tuple, TCP_TIME_WAIT, true)?;
    }
    open.streams.push(orphan(&listener)?);
    open.keep(listener, Vec::new());
    // A queue of one is full: the second SYN is not answered.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 904)).into())?;
    socket.listen(0)?;
    let listener = TcpListener::from(socket);
    open.streams.push(lives::dial(listener.local_addr()?, None)?);
    let second = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    second.set_nonblocking(true)?;
    match second.connect(&listener.local_addr()?.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        other => return Err(io::Error::other(format!("connect() to a full queue: {other:?}"))),
    }
    holds(&listener, 1, 1)?;
    open.streams.push(second.into());
    open.keep(listener, Vec::new());
    Ok((open, held))
}

/// A listener, and so many connections to it whose ports connect() chooses.
fn connections(to: &str, count: usize) -> io::Result<(TcpListener, Vec<Pair>)> {
    let listener = lives::listen(to.parse().map_err(io::Error::other)?)?;
    let pairs = (0..count).map(|_| lives::connect(&listener, None)).collect::<io::Result<_>>()?;
    Ok((listener, pairs))
}

/// The accepting end of a connection whose other end is a FIN_WAIT2 minisock.
fn orphan(listener: &TcpListener) -> io::Result<TcpStream> {
    // An ACK that meets the socket while its owner holds it leaves a full FIN_WAIT2 socket instead.
    for _ in 0..5 {
        let pair = lives::connect(listener, None)?;
        let tuple = ours(&pair)?;
        drop(pair.client);
        if becomes(&tuple, TCP_FIN_WAIT2, true).is_ok() {
            return Ok(pair.server);
        }
        lives::abort(pair.server)?;
    }
    Err(io::Error::other("no FIN_WAIT2 minisock in five attempts"))
}

/// The client's end.
fn ours(pair: &Pair) -> io::Result<Tuple> {
    Ok(between(pair.client.local_addr()?, pair.client.peer_addr()?))
}

/// Waits until one end is in this state.
fn becomes(tuple: &Tuple, state: u8, minisock: bool) -> io::Result<()> {
    let is_wanted = |it: &Entry| (it.tuple, it.state, it.minisock) == (*tuple, state, minisock);
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let found =
            diag::dump(&StateFlags::all(), Detail::Header, || false, |found, entry| *found |= is_wanted(entry))?;
        if found {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("there is no {tuple:?} in state {state}, minisock: {minisock}")));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A poller finds what it is asked for, keeps no namespace, and ends.
pub fn poller() -> Outcome {
    let mut poller = Poller::spawn(Host::default()).map_err(|error| error.to_string())?;
    let own = Netns::current().map_err(|error| error.to_string())?.inum();
    let first = answer(&mut poller, Request::default(), |answer| answer.occupancy.namespaces.contains_key(&own))?;
    // The machine was searched just now, and has one more.
    let netns = new()?;
    let resident = Resident::of(&netns)?;
    let _open = traffic(&netns, || connections("127.0.0.1:900", 2))?;
    let last = answer(&mut poller, Request { namespaces: vec![netns.inum()] }, |answer| {
        answer.occupancy.namespaces.contains_key(&netns.inum())
    })?;
    let held: u32 =
        last.occupancy.namespaces[&netns.inum()].held.values().map(|held| held.established + held.other).sum();
    if held != 2 || last.occupancy.at_ns <= first.occupancy.at_ns {
        return Err(format!("{held} ports are held: {last:?}"));
    }
    drop(resident);
    let link = format!("net:[{}]", netns.inum());
    let holds = |threads: &str| -> io::Result<usize> {
        let entries = fs::read_dir(threads)?.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        Ok(entries.filter(|to| to.as_os_str() == link.as_str()).count())
    };
    let held = holds("/proc/self/fd").map_err(|error| error.to_string())?;
    if held == 1 { Ok(()) } else { Err(format!("{held} descriptors of {link} are open, besides the test's own")) }
}

/// Asks until the answer will do.
fn answer(poller: &mut Poller, request: Request, mut will_do: impl FnMut(&Answer) -> bool) -> Result<Answer, String> {
    let deadline = Instant::now() + PATIENCE;
    let mut asked = 0;
    while Instant::now() < deadline {
        poller.ask(request.clone());
        asked += 1;
        if let Some(answer) = poller.take()
            && will_do(&answer)
        {
            return Ok(answer);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(format!("no answer to {request:?}, asked {asked} times"))
}
