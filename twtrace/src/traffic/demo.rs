//! Traffic to look at on an idle machine: one of each kind of life, in a network namespace of its own, again and again
//! until told to stop.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    lives::{self, Pair},
    oracle,
};
use crate::host::netns::Netns;

/// Sysctls of the demo's namespace, below /proc/sys/net/ipv4: so that reuse works soon, and an orphan's end can be waited
/// for.
const SYSCTLS: [(&str, &str); 2] = [("tcp_tw_reuse", "1"), ("tcp_fin_timeout", "2")];

/// Local port range while one connect() must take the other's port.
const ONE_PORT: &str = "40000 40000";
/// The kernel's own range.
const ALL_PORTS: &str = "32768 60999";
/// Room for all that the demo makes in a minute, except where it shows an overflow.
const ROOM: u64 = 4096;

/// The demo, running in threads of its own.
pub struct Demo {
    /// The demo's namespace.
    pub netns: Arc<Netns>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Demo {
    /// Makes the namespace and sets it up; [`Demo::begin`] starts the traffic.
    ///
    /// # Errors
    /// If the kernel refuses the namespace.
    pub fn new() -> io::Result<Self> {
        let netns = Netns::new()?;
        netns.run(|| SYSCTLS.iter().try_for_each(|(name, value)| lives::sysctl(name, value)))?;
        Ok(Self { netns: Arc::new(netns), stop: Arc::new(AtomicBool::new(false)), thread: None })
    }

    /// Starts the traffic.
    ///
    /// # Errors
    /// If no thread can be made.
    pub fn begin(&mut self) -> io::Result<()> {
        let (netns, stop) = (Arc::clone(&self.netns), Arc::clone(&self.stop));
        let work = move || {
            netns.enter()?;
            let mut orphan = None;
            while !stop.load(Relaxed) {
                round(&stop, &mut orphan)?;
            }
            Ok(())
        };
        self.thread = Some(thread::Builder::new().name("tw-demo".to_owned()).spawn(work)?);
        Ok(())
    }

    /// Stops the traffic.
    ///
    /// # Errors
    /// What went wrong in it.
    pub fn end(&mut self) -> io::Result<()> {
        self.stop.store(true, Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the demo's thread panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Errors were for end(); here only the thread must not outlive its namespace.
        let _already_told = self.end();
    }
}

/// One of each kind of life. `orphan`: the peer of the last round's orphan, which has run out by now.
fn round(stop: &AtomicBool, orphan: &mut Option<TcpStream>) -> io::Result<()> {
    let listener = lives::listen(local(8080))?;
    let pause = || {
        // Short naps, so that Ctrl-C is answered at once.
        for _ in 0..8 {
            if !stop.load(Relaxed) {
                thread::sleep(Duration::from_millis(50));
            }
        }
    };

    // The client closes first, and the TIME_WAIT is the client's.
    let pair = lives::connect(&listener, None)?;
    lives::close_in_order(pair.client, pair.server)?;
    pause();

    // The server closes first; then a new SYN from the same port recycles its TIME_WAIT.
    let pair = lives::connect(&listener, None)?;
    let peer = pair.client.local_addr()?;
    lives::close_in_order(pair.server, pair.client)?;
    pause();
    let again = lives::connect(&listener, Some(peer))?;
    lives::abort(again.client)?;
    drop(again.server);

    // connect() has one port left, and takes it from a TIME_WAIT that is old enough.
    lives::sysctl("ip_local_port_range", ONE_PORT)?;
    for last in [false, true] {
        let Some(pair) = connect_at_last(&listener, stop)? else { break };
        if last {
            lives::abort(pair.client)?;
            drop(pair.server);
        } else {
            lives::close_in_order(pair.client, pair.server)?;
        }
    }
    lives::sysctl("ip_local_port_range", ALL_PORTS)?;

    // An orphan: this end has closed, the peer does not; FIN_WAIT2 runs out after tcp_fin_timeout.
    let pair = lives::connect(&listener, None)?;
    drop(pair.client);
    if let Some(former) = orphan.replace(pair.server) {
        lives::abort(former)?;
    }
    pause();
    pause();

    // More closes than the table has room for.
    let used = oracle::minisocks()?;
    lives::sysctl("tcp_max_tw_buckets", &(used + 4).to_string())?;
    for _ in 0..8 {
        let pair = lives::connect(&listener, None)?;
        lives::close_in_order(pair.client, pair.server)?;
    }
    lives::sysctl("tcp_max_tw_buckets", &ROOM.to_string())?;
    pause();
    Ok(())
}

/// connect(), again and again while the only port is in a TIME_WAIT that is too young. `None`: it takes too long.
fn connect_at_last(listener: &TcpListener, stop: &AtomicBool) -> io::Result<Option<Pair>> {
    let deadline = Instant::now() + Duration::from_secs(4);
    loop {
        match lives::connect(listener, None) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            other => return other.map(Some),
        }
        if Instant::now() > deadline || stop.load(Relaxed) {
            return Ok(None);
        }
        // Each attempt is an event; the third after this long is past the second that tcp_tw_reuse asks for.
        thread::sleep(Duration::from_millis(350));
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
