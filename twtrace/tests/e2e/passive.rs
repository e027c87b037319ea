//! Connections that the peer closed first, counted by service and peer inside the kernel.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
};

use twtrace::{
    bpf::Settings,
    host::netns::Netns,
    lab::stage::First,
    model::occupancy::{Destination, Passive, Service},
    tracer::Tracer,
    traffic::lives::{self, Pair},
};

use crate::{
    inside::{settings, traced},
    scene::fresh,
    tracer::{nobody_forks, traffic},
};

type Outcome = Result<(), String>;

/// Services and peers for which the programs' table has room at least.
const PEERS: u32 = 32;
/// Peers that are more than the table holds on the largest machine that runs this.
const MANY: u16 = 4_000;

/// Closes by service, added up over all reads.
type Closes = BTreeMap<Service, u64>;

pub fn passive(backend: &str) -> Outcome {
    let (netns, other) = (fresh()?, fresh()?);
    let older = traffic(&netns, || lives::connect(&lives::listen(service("127.0.0.1", 900))?, None))?;
    let wanted = Settings { passive: PEERS, ..settings(&netns) };
    let _nobody_forks = nobody_forks();
    traced(backend, &wanted, |tracer| {
        if !tracer.seeds.is_empty() {
            return Err("seeds are kept that nobody asked for".to_owned());
        }
        run(&netns, || {
            connections(service("127.0.0.1", 1000), First::Server, 5)?;
            connections(service("127.0.0.1", 1001), First::Client, 3)?;
            // The same service, whatever its address.
            connections(service("::1", 1001), First::Client, 2)?;
            connections(service("::ffff:127.0.0.1", 1001), First::Client, 1)?;
            shut_down(service("127.0.0.1", 1002))?;
            // Neither end closes first where one aborts, and whose service it is nobody saw.
            lives::abort_both(lives::connect(&lives::listen(service("127.0.0.1", 1003))?, None)?)?;
            First::Server.closes(older)
        })?;
        run(&other, || connections(service("127.0.0.1", 1000), First::Server, 7))?;
        let mut all = Closes::new();
        read(tracer, &mut all)?;
        let opened = |raddr: IpAddr, rport| opened(&netns, raddr, rport);
        let expected = [
            (opened(Ipv4Addr::LOCALHOST.into(), 1000), 5),
            (Service::Accepted { port: 1001 }, 6),
            (opened(Ipv4Addr::LOCALHOST.into(), 1002), 1),
        ];
        same(&all, &expected.into())?;
        by_peer(tracer, &netns)?;
        // The table is the same on every backend, and thousands of peers take a while on an emulated machine.
        if backend == "tracepoint" {
            evictions(tracer, &netns)?;
            evictions_beside_reads(tracer, &netns)
        } else {
            Ok(())
        }
    })
}

/// Two upstreams of one service, one of which closes first more often, and in two reads.
fn by_peer(tracer: &mut Tracer, netns: &Netns) -> Outcome {
    let (one, other) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let close = |to: Ipv4Addr, first, count| run(netns, || connections((to, 1004).into(), first, count));
    let mut all = Closes::new();
    close(one, First::Server, 2)?;
    close(other, First::Server, 5)?;
    read(tracer, &mut all)?;
    close(one, First::Server, 1)?;
    // These leave a TIME_WAIT here, and are no closes of the peer's.
    close(one, First::Client, 4)?;
    read(tracer, &mut all)?;
    let expected = [
        (opened(netns, one.into(), 1004), 3),
        (opened(netns, other.into(), 1004), 5),
        (Service::Accepted { port: 1004 }, 4),
    ];
    same(&all, &expected.into())?;
    match tracer.passive_evicted() {
        0 => Ok(()),
        evicted => Err(format!("{evicted} closes are said to be evicted from a table with room")),
    }
}

/// More peers than there is room for. What was read before stays, what was not is counted, and not one is counted twice.
fn evictions(tracer: &mut Tracer, netns: &Netns) -> Outcome {
    let mut all = Closes::new();
    let known = Ipv4Addr::new(127, 0, 0, 2);
    let close = |to: Ipv4Addr, count| run(netns, || connections((to, 1005).into(), First::Server, count));
    close(known, 2)?;
    read(tracer, &mut all)?;
    (0..MANY).try_for_each(|n| {
        let [high, low] = n.to_be_bytes();
        close(Ipv4Addr::new(127, 1, high, low), 1)
    })?;
    read(tracer, &mut all)?;
    // Its entry was evicted long ago: the count in the kernel starts at 0, and passes what was read of the one before.
    close(known, 3)?;
    read(tracer, &mut all)?;
    let known = opened(netns, known.into(), 1005);
    if all.get(&known) != Some(&5) {
        return Err(format!("{:?} closes instead of 5 of a peer whose entry was evicted", all.get(&known)));
    }
    if let Some(odd) = all.iter().find(|&(service, &closes)| *service != known && closes != 1) {
        return Err(format!("{odd:?} was one connection"));
    }
    let (told, evicted, made) = (all.values().sum::<u64>(), tracer.passive_evicted(), u64::from(MANY) + 5);
    if told + evicted != made || evicted == 0 || told < u64::from(PEERS) {
        return Err(format!("{told} closes and {evicted} evicted are not the {made} that were made"));
    }
    Ok(())
}

/// Evictions while entries are read: a walk meets entries that are evicted and used again under it.
fn evictions_beside_reads(tracer: &mut Tracer, netns: &Netns) -> Outcome {
    let (mut all, before) = (Closes::new(), tracer.passive_evicted());
    let flood = |net: u8| {
        (0..MANY).try_for_each(|n| {
            let [high, low] = n.to_be_bytes();
            let to = SocketAddr::from((Ipv4Addr::new(127, net, high, low), 1006));
            run(netns, || connections(to, First::Server, 1))
        })
    };
    thread::scope(|scope| {
        let floods = [2, 3].map(|net| scope.spawn(move || flood(net)));
        while floods.iter().any(|flood| !flood.is_finished()) {
            read(tracer, &mut all)?;
        }
        floods.into_iter().try_for_each(|flood| flood.join().map_err(|_| "a flood panicked".to_owned())?)
    })?;
    read(tracer, &mut all)?;
    if let Some(odd) = all.iter().find(|&(_, &closes)| closes != 1) {
        return Err(format!("{odd:?} was one connection"));
    }
    let (told, evicted) = (all.values().sum::<u64>(), tracer.passive_evicted() - before);
    let made = 2 * u64::from(MANY);
    if told + evicted == made {
        Ok(())
    } else {
        Err(format!("{told} closes and {evicted} evicted are not the {made} that were made"))
    }
}

fn same(told: &Closes, expected: &Closes) -> Outcome {
    if told == expected { Ok(()) } else { Err(format!("{told:?} instead of {expected:?}")) }
}

/// Connections to an address in 127/8: all of them come from the same.
fn opened(netns: &Netns, raddr: IpAddr, rport: u16) -> Service {
    Service::Opened { netns: netns.inum(), to: Destination { laddr: Ipv4Addr::LOCALHOST.into(), raddr, rport } }
}

/// Adds up what is new.
fn read(tracer: &mut Tracer, all: &mut Closes) -> Outcome {
    for Passive { service, closes } in tracer.passive().map_err(|error| error.to_string())? {
        *all.entry(service).or_default() += closes;
    }
    Ok(())
}

/// Traffic, while this thread sees to it that nobody forks.
fn run(netns: &Netns, work: impl FnOnce() -> io::Result<()> + Send) -> Outcome {
    netns.run(work).map_err(|error| format!("making the traffic: {error}"))
}

fn service(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap_or([0, 0, 0, 0].into()), port)
}

fn connections(to: SocketAddr, first: First, count: usize) -> io::Result<()> {
    let listener = lives::listen(to)?;
    (0..count).try_for_each(|_| first.closes(lives::connect(&listener, None)?))
}

/// A connection that the client closes by shutdown() when the server has.
fn shut_down(to: SocketAddr) -> io::Result<()> {
    let Pair { mut client, server } = lives::connect(&lives::listen(to)?, None)?;
    drop(server);
    lives::expect_end(&mut client)?;
    client.shutdown(std::net::Shutdown::Write)
}
