//! The ports that a source NAT has given out, by where they lead: two connections of one address to the same place may not
//! have the same one.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead as _, BufReader},
    net::IpAddr,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use crate::host::Host;

/// The table as text, that of the calling thread's namespace: reading it loads no module, as asking ctnetlink might.
const TABLE: &str = "proc/thread-self/net/nf_conntrack";
/// The most places that are told apart.
const MOST: usize = 1 << 14;
/// The most places that are kept, the fullest.
const TOP: usize = 5;
/// A few ports of a range that is used up are free again when it is looked at.
const STEP: u16 = 3;
/// The most bytes of a line that are read: one has about 200.
const LINE: u64 = 4096;

/// The ports of all source NATs of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Where most ports are taken, those first: five at most.
    pub fullest: Vec<Taken>,
    /// Not all of the table was read, for lack of time or of room.
    pub cut: bool,
}

/// Ports of one address towards one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// `tcp`, `udp` or another protocol with ports.
    pub protocol: String,
    /// The address that NAT gives to the connections.
    pub source: IpAddr,
    /// Where they lead.
    pub to: IpAddr,
    /// The port there.
    pub port: u16,
    /// Ports that are taken: connections.
    pub count: u64,
    /// Connections whose own port was taken already or not allowed, so NAT chose another.
    pub changed: u64,
    /// Connections that are closed, in TIME_WAIT.
    pub time_wait: u64,
    /// The stretch with the most taken ports, in which no more than two free ports lie side by side.
    pub stretch: RangeInclusive<u16>,
    /// Taken ports in it.
    pub together: u64,
}

/// What is gathered of a place.
#[derive(Default)]
struct Gathered {
    ports: Vec<u16>,
    changed: u64,
    time_wait: u64,
}

/// Protocol, the NAT's address, and where to.
type Key = (String, IpAddr, IpAddr, u16);

/// Reads the table of the calling thread's namespace, as long as there is time. `None`: it cannot be read (no
/// CONFIG_NF_CONNTRACK_PROCFS, or not root).
#[must_use]
pub fn read(host: &Host, budget: Duration) -> Option<Ports> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(host.path(TABLE)).ok()?);
    let until = Instant::now() + budget;
    let (mut places, mut cut): (HashMap<Key, Gathered>, bool) = (HashMap::new(), false);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = std::io::Read::take(&mut file, LINE).read_until(b'\n', &mut line).ok()?;
        if length == 0 {
            break;
        }
        if Instant::now() >= until {
            cut = true;
            break;
        }
        let Some((key, port, is_changed, is_time_wait)) = str::from_utf8(&line).ok().and_then(entry) else { continue };
        if !places.contains_key(&key) && places.len() >= MOST {
            cut = true;
            continue;
        }
        let place = places.entry(key).or_default();
        place.ports.push(port);
        place.changed += u64::from(is_changed);
        place.time_wait += u64::from(is_time_wait);
    }
    let mut fullest: Vec<Taken> = places.into_iter().filter_map(|(key, gathered)| taken(key, gathered)).collect();
    fullest.sort_by(|a, b| {
        let place = |it: &Taken| (it.to, it.port, it.source);
        b.together.cmp(&a.together).then(b.count.cmp(&a.count)).then(place(a).cmp(&place(b)))
    });
    fullest.truncate(TOP);
    Some(Ports { fullest, cut })
}

fn taken((protocol, source, to, port): Key, mut gathered: Gathered) -> Option<Taken> {
    gathered.ports.sort_unstable();
    gathered.ports.dedup();
    let (stretch, together) = longest(&gathered.ports)?;
    Some(Taken {
        protocol,
        source,
        to,
        port,
        count: gathered.ports.len() as u64,
        changed: gathered.changed,
        time_wait: gathered.time_wait,
        stretch,
        together,
    })
}

/// Of sorted numbers the stretch that has the most, the first of several, and how many these are: from one to the next it is
/// at most [`STEP`].
fn longest(ports: &[u16]) -> Option<(RangeInclusive<u16>, u64)> {
    let stretches = ports.chunk_by(|a, b| b.abs_diff(*a) <= STEP);
    let longest = stretches.rev().max_by_key(|stretch| stretch.len())?;
    Some((*longest.first()?..=*longest.last()?, longest.len() as u64))
}

/// One line of the table (ct_seq_show of net/netfilter/nf_conntrack_standalone.c): the original direction and then the
/// reply, each `src= dst= sport= dport=`. `None` if the connection passed no source NAT, or has no ports.
fn entry(line: &str) -> Option<(Key, u16, bool, bool)> {
    let protocol = line.split_ascii_whitespace().nth(2)?;
    let (mut addresses, mut ports) = (Vec::new(), Vec::new());
    for word in line.split_ascii_whitespace() {
        match word.split_once('=') {
            Some(("src" | "dst", value)) => addresses.push(value.parse::<IpAddr>().ok()?),
            Some(("sport" | "dport", value)) => ports.push(value.parse::<u16>().ok()?),
            _ => {}
        }
    }
    let [client, _, to, source] = *addresses.first_chunk::<4>()?;
    let [own, _, port, given] = *ports.first_chunk::<4>()?;
    if (client, own) == (source, given) {
        return None;
    }
    let is_time_wait = line.split_ascii_whitespace().nth(5) == Some("TIME_WAIT");
    Some(((protocol.to_owned(), source, to, port), given, own != given, is_time_wait))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;
    use crate::host::recorded::Recorded;

    const MINUTE: Duration = Duration::from_secs(60);

    /// As Linux 6.18 writes it.
    fn line(state: &str, own: u16, given: u16, to: &str) -> String {
        format!(
            "ipv4     2 tcp      6 59 {state} src=10.81.0.2 dst={to} sport={own} dport=443 src={to} dst=10.82.0.1 sport=443 \
             dport={given} [ASSURED] mark=0 zone=0 use=2\n"
        )
    }

    fn table(text: &str) -> Ports {
        read(&Recorded::new().file(TABLE, text).host(), MINUTE).unwrap()
    }

    #[test]
    fn ports_are_counted_by_where_they_lead() {
        let mut text = String::new();
        for port in 0..64 {
            let state = if port < 10 { "TIME_WAIT" } else { "ESTABLISHED" };
            text += &line(state, 50_000 + port, 40_000 + port, "10.82.0.2");
        }
        text += &line("ESTABLISHED", 5000, 40_000, "10.82.0.3");
        let found = table(&text);
        assert_eq!(found.fullest.len(), 2);
        let expected = Taken {
            protocol: "tcp".to_owned(),
            source: IpAddr::from([10, 82, 0, 1]),
            to: IpAddr::from([10, 82, 0, 2]),
            port: 443,
            count: 64,
            changed: 64,
            time_wait: 10,
            stretch: 40_000..=40_063,
            together: 64,
        };
        assert_eq!(found.fullest[0], expected);
        assert_eq!((found.fullest[1].count, found.cut), (1, false));
    }

    #[test]
    fn what_passed_no_source_nat_is_left_out() {
        for text in [
            // Not translated; the destination alone is; no ports; an answer that is cut short.
            "ipv4 2 tcp 6 59 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=5 dport=80 src=10.0.0.2 dst=10.0.0.1 sport=80 \
             dport=5 use=2\n",
            "ipv4 2 tcp 6 59 ESTABLISHED src=10.0.0.1 dst=10.9.9.9 sport=5 dport=80 src=10.0.0.2 dst=10.0.0.1 sport=8080 \
             dport=5 use=2\n",
            "ipv4 2 icmp 1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=7 src=10.0.0.2 dst=10.9.0.1 type=0 code=0 id=7\n",
            "ipv4 2 tcp 6 59 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=5 dport=80 src=10.0.0.2\n",
            "",
            "\n \n=\nsrc=\n",
        ] {
            assert_eq!(table(text), Ports::default(), "{text}");
        }
        assert_eq!(read(&Host::at("/nonexistent"), MINUTE), None);
    }

    #[test]
    fn other_protocols_and_families_are_read() {
        let text = "ipv6     10 udp      17 29 src=fd00::2 dst=fd01::2 sport=53000 dport=53 [UNREPLIED] src=fd01::2 \
                    dst=fd01::1 sport=53 dport=1024 mark=0 zone=0 use=2\n";
        let found = table(text);
        let taken = &found.fullest[0];
        assert_eq!((taken.protocol.as_str(), taken.port, &taken.stretch), ("udp", 53, &(1024..=1024)));
        assert!(taken.source.is_ipv6() && taken.changed == 1 && taken.time_wait == 0);
    }

    #[test]
    fn the_longest_stretch_is_found() {
        for (ports, expected) in [
            (&[][..], None),
            (&[7][..], Some((7..=7, 1))),
            (&[1, 2, 3, 8, 10, 13, 15][..], Some((8..=15, 4))),
            (&[1, 2, 8, 9][..], Some((1..=2, 2))),
            (&[0, 65_534, 65_535][..], Some((65_534..=65_535, 2))),
        ] {
            assert_eq!(longest(ports), expected, "{ports:?}");
        }
    }

    #[test]
    fn without_time_it_is_cut() {
        let machine = Recorded::new().file(TABLE, line("ESTABLISHED", 1, 2, "10.0.0.2"));
        assert_eq!(read(&machine.host(), Duration::ZERO), Some(Ports { fullest: Vec::new(), cut: true }));
        let mut text = String::new();
        for place in 0..MOST + 10 {
            let [_, _, a, b] = (place as u32).to_be_bytes();
            let _ = write!(text, "{}", line("ESTABLISHED", 1, 2, &format!("10.9.{a}.{b}")));
        }
        let found = table(&text);
        assert_eq!((found.fullest.len(), found.cut), (TOP, true));
    }

    proptest! {
        /// Total: any bytes are entries or none.
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..600), cut in 0..180_usize) {
            let _ = table(&String::from_utf8_lossy(&bytes));
            let whole = line("ESTABLISHED", 1, 2, "10.0.0.2");
            let _ = table(&whole[..cut.min(whole.len())]);
        }
    }
}
