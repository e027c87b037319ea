//! Connections that the peer closed first, counted by service inside the kernel.

use std::{io, net::SocketAddr};

use twtrace::{
    bpf::Settings,
    host::netns::Netns,
    lab::stage::First,
    model::{event::Role, occupancy::Passive},
    tracer::Tracer,
    traffic::lives::{self, Pair},
};

use crate::{
    inside::{settings, traced},
    scene::fresh,
    tracer::{nobody_forks, traffic},
};

type Outcome = Result<(), String>;

/// Entries of the programs' table.
const SERVICES: u16 = 4096;

pub fn passive(backend: &str) -> Outcome {
    let (netns, other) = (fresh()?, fresh()?);
    let older = traffic(&netns, || lives::connect(&lives::listen(service("127.0.0.1", 900))?, None))?;
    let wanted = Settings { passive: true, ..settings(&netns) };
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
        let expected = [(Role::Client, 1000, 5), (Role::Server, 1001, 6), (Role::Client, 1002, 1)];
        let expected = expected.map(|(role, port, closes)| Passive { role, port, closes });
        let mut told = told(tracer)?;
        told.sort_by_key(|service| service.port);
        if told != expected {
            return Err(format!("{told:?} instead of {expected:?}"));
        }
        // Thousands of services take a while on an emulated machine, and the table is the same on every backend.
        if backend == "tracepoint" { overflow(tracer, &netns, told.len()) } else { Ok(()) }
    })
}

/// One service more than there is room for.
fn overflow(tracer: &Tracer, netns: &Netns, before: usize) -> Outcome {
    let count = SERVICES + 1 - u16::try_from(before).map_err(|error| error.to_string())?;
    run(netns, || {
        (0..count).try_for_each(|index| connections(service("127.0.0.1", 10_000 + index), First::Client, 1))
    })?;
    let told = told(tracer)?;
    let full = tracer.counters().map_err(|error| error.to_string())?.trouble.passive_full;
    if told.len() != usize::from(SERVICES) || full != 1 {
        return Err(format!("{} services and {full} without room, instead of {SERVICES} and 1", told.len()));
    }
    let odd = told.iter().find(|it| it.port >= 10_000 && **it != Passive { role: Role::Server, closes: 1, ..**it });
    odd.map_or(Ok(()), |odd| Err(format!("{odd:?} was one connection that was accepted")))
}

fn told(tracer: &Tracer) -> Result<Vec<Passive>, String> {
    tracer.passive().map_err(|error| error.to_string())
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

/// One that the client closes by shutdown() when the server has.
fn shut_down(to: SocketAddr) -> io::Result<()> {
    let Pair { mut client, server } = lives::connect(&lives::listen(to)?, None)?;
    drop(server);
    lives::expect_end(&mut client)?;
    client.shutdown(std::net::Shutdown::Write)
}
