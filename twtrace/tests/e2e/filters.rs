//! The filters of the programs and those of user space say the same of the same records: the programs' verdict is run by
//! BPF_PROG_RUN, on filters and records drawn at random from a seed.

use std::{
    mem::offset_of,
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use ipnet::IpNet;
use proptest::{
    prelude::Rng,
    test_runner::{RngAlgorithm, TestRng},
};
use twtrace::{
    bpf::{self, AttachError, Attached, Kernel, Settings, Tables},
    decode::decode,
    filter::{
        few::Few,
        ports::Ports,
        spec::{CommName, Family, FilterSpec, Resolved, Tree},
    },
    host::{Host, netns::Netns},
    model::event::{Cause, Kind, Role},
    plan::Plan,
};
use twtrace_common::{
    ABI,
    record::{Bind, Birth, Connect, Death, Header, Life, Touch, kind, valid},
};

/// Another seed than the clock's.
const SEED: &str = "TWTRACE_FILTERS_SEED";
/// Filters, and records that each of them judges. To load the programs with another filter takes most of the time.
const FILTERS: usize = 60;
const RECORDS: usize = 150;

/// Few values, so that filters and records meet; 0, and both sides of a word of the port sets, among them.
const PORTS: [u16; 8] = [0, 63, 64, 80, 443, 8080, 40_000, 65_535];
const ADDRESSES: [&str; 8] =
    ["10.0.0.1", "10.0.0.2", "10.9.0.1", "192.0.2.9", "0.0.0.0", "2001:db8::1", "2001:db8:1::1", "::1"];
const NETNS: [u32; 3] = [1, 4_026_531_840, u32::MAX];
const PIDS: [u32; 3] = [1, 42, 4_194_304];
const COMMS: [&str; 4] = ["a", "nginx", "exactly15bytes!", "nginx-worker"];
const CGROUPS: [u64; 4] = [1, 77, 78, 1 << 40];

/// What is drawn at random.
struct Draw(TestRng);

impl Draw {
    fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self(TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
    }

    fn below(&mut self, end: usize) -> usize {
        self.0.next_u32() as usize % end
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// True once in so many times.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// None mostly, else some.
    fn few<T: Clone + PartialEq>(&mut self, of: &[T]) -> Result<Few<T>, String> {
        let many = if self.once_in(4) { 1 + self.below(3) } else { 0 };
        Few::new((0..many).map(|_| self.one(of))).map_err(|error| error.to_string())
    }

    fn ports(&mut self) -> Option<Ports> {
        self.once_in(5).then(|| {
            let ranges = (0..1 + self.below(3)).map(|_| (self.one(&PORTS), self.one(&PORTS)));
            let ranges: Vec<_> = ranges.collect();
            Ports::new(ranges.into_iter().map(|(a, b)| if a % 2 == 0 { a..=a } else { a.min(b)..=a.max(b) }))
        })
    }

    fn address(&mut self) -> Result<IpAddr, String> {
        self.one(&ADDRESSES).parse().map_err(|_| "no address".to_owned())
    }

    fn nets(&mut self) -> Result<Few<IpNet>, String> {
        let mut nets = Vec::new();
        for _ in 0..ADDRESSES.len() {
            let address = self.address()?;
            let most: usize = if address.is_ipv4() { 32 } else { 128 };
            let bits = if self.once_in(2) { most } else { self.below(most + 1) };
            let net = IpNet::new(address, u8::try_from(bits).unwrap_or(0)).map_err(|error| error.to_string())?;
            nets.push(net.trunc());
        }
        self.few(&nets)
    }

    fn filters(&mut self) -> Result<(FilterSpec, Resolved), String> {
        let comms: Vec<_> = COMMS.iter().filter_map(|name| CommName::new(name)).collect();
        let causes = if self.once_in(4) { self.few(Cause::ALL.as_ref())?.to_vec() } else { Vec::new() };
        let kinds =
            if self.once_in(3) { (0..3).map(|_| self.one(Kind::ALL.as_ref())).collect() } else { Kind::ALL.to_vec() };
        let spec = FilterSpec {
            lport: self.ports(),
            rport: self.ports(),
            port: self.ports(),
            laddr: self.nets()?,
            raddr: self.nets()?,
            pid: self.few(&PIDS)?,
            comm: self.few(&comms)?,
            role: if self.once_in(4) { Some(self.one(Role::ALL.as_ref())) } else { None },
            family: if self.once_in(4) { Some(self.one(&[Family::V4, Family::V6])) } else { None },
            // Only ends have a cause: as the command line has it.
            kinds: if causes.is_empty() { kinds } else { vec![Kind::Died] },
            causes,
            ..FilterSpec::default()
        };
        let mut trees = Vec::new();
        if self.once_in(5) {
            trees.push(Tree { path: "/".into(), ids: vec![self.one(&CGROUPS), self.one(&CGROUPS)] });
        }
        let trees = Few::new(trees).map_err(|error| error.to_string())?;
        let resolved =
            Resolved { cgroups: self.few(&CGROUPS)?, trees, netns: self.few(&NETNS)?, ..Resolved::default() };
        Ok((spec, resolved))
    }

    /// A record as a program may write it: what is not known is zero, and a name ends with NULs.
    fn record(&mut self, trees: &[Tree]) -> Result<Vec<u8>, String> {
        let kind = 1 + u8::try_from(self.below(kind::COUNT - 1)).unwrap_or(0);
        let size = match kind {
            kind::BORN | kind::REFUSED => size_of::<Birth>(),
            kind::TURNED | kind::REARMED => size_of::<Touch>(),
            kind::DIED => size_of::<Death>(),
            kind::NO_PORT | kind::REUSE_DENIED => size_of::<Connect>(),
            _ => size_of::<Bind>(),
        };
        let mut record = vec![0; size];
        let mut put = |at: usize, bytes: &[u8]| record[at..][..bytes.len()].copy_from_slice(bytes);
        put(offset_of!(Header, kind), &[kind]);
        put(offset_of!(Header, abi), &[ABI]);
        if kind == kind::DIED {
            put(offset_of!(Death, cause), &[self.one(Cause::ALL.as_ref()).raw()]);
        }
        let life = offset_of!(Death, life);
        let mut known = valid::SUBSTATE;
        put(life + offset_of!(Life, role), &[u8::try_from(self.below(3)).unwrap_or(0)]);
        if !self.once_in(8) {
            known |= valid::NETNS;
            put(life + offset_of!(Life, netns), &self.one(&NETNS).to_ne_bytes());
        }
        if !self.once_in(8) {
            known |= valid::TUPLE;
            let laddr = self.address()?;
            let mut raddr = self.address()?;
            while raddr.is_ipv4() != laddr.is_ipv4() {
                raddr = self.address()?;
            }
            put(life + offset_of!(Life, family), &[if laddr.is_ipv4() { 4 } else { 6 }]);
            for (at, address) in [(offset_of!(Life, laddr), laddr), (offset_of!(Life, raddr), raddr)] {
                match address {
                    IpAddr::V4(v4) => put(life + at, &v4.octets()),
                    IpAddr::V6(v6) => put(life + at, &v6.octets()),
                }
            }
            put(life + offset_of!(Life, lport), &self.one(&PORTS).to_ne_bytes());
            put(life + offset_of!(Life, rport), &self.one(&PORTS).to_ne_bytes());
        }
        if !self.once_in(8) {
            known |= valid::CLOSER;
            let cgroup = self.one(&CGROUPS);
            if trees.iter().any(|tree| tree.ids.contains(&cgroup)) {
                known |= valid::UNDER;
            }
            put(life + offset_of!(Life, cgroup_id), &cgroup.to_ne_bytes());
            put(life + offset_of!(Life, closer_pid), &self.one(&PIDS).to_ne_bytes());
            put(life + offset_of!(Life, closer_comm), self.one(&COMMS).as_bytes());
        }
        put(life + offset_of!(Life, valid), &known.to_ne_bytes());
        Ok(record)
    }
}

/// The programs with a filter, and none attached.
fn loaded(kernel: &Kernel, spec: &FilterSpec, resolved: &Resolved, netns: u32) -> Result<Attached, String> {
    let tables = Tables { ring: 4096, lives: 64, conns: 64 };
    let settings = Settings { filter: spec.knob(resolved), ports: spec.port_sets(), ..Settings::all(tables, netns) };
    let mut attached = bpf::attach(kernel, &Plan::default(), &settings).map_err(|error| match error {
        AttachError::Hook(failure) => failure.reason.to_string(),
        AttachError::Fatal(error) => error.to_string(),
    })?;
    attached.load_judge().map_err(|error| error.to_string())?;
    Ok(attached)
}

/// Both sides judge the same records alike, and neither lets all of them or none through.
pub fn filter_verdicts() -> Result<(), String> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| u64::from(now.subsec_nanos()));
    let seed = match std::env::var(SEED) {
        Ok(text) => text.parse().map_err(|_| format!("{SEED}={text} is no number"))?,
        Err(_) => clock,
    };
    crate::line(&format!("filter_verdicts: {SEED}={seed}"));
    let kernel = bpf::gather(&Host::default(), None).map_err(|error| error.to_string())?;
    let netns = Netns::current().map_err(|error| error.to_string())?.inum();
    let (mut draw, mut through) = (Draw::new(seed), 0);
    for n in 0..FILTERS {
        let (spec, resolved) = draw.filters()?;
        let programs = loaded(&kernel, &spec, &resolved, netns)?;
        let expression = spec.expression(&resolved);
        for _ in 0..RECORDS {
            let record = draw.record(&resolved.trees)?;
            let event = decode(&record).map_err(|error| error.to_string())?;
            let theirs = programs.judge(&record).map_err(|error| error.to_string())?;
            let ours = expression.matches(&event);
            if theirs != ours {
                return Err(format!(
                    "{SEED}={seed}, filter {n}: the programs say {theirs}, user space {ours}\n{expression}\n{event:?}"
                ));
            }
            through += usize::from(ours);
        }
    }
    let all = FILTERS * RECORDS;
    crate::line(&format!("filter_verdicts: {through} of {all} records let through, alike on both sides"));
    if through < all / 100 || through > all / 100 * 99 {
        return Err(format!("{SEED}={seed}: {through} of {all} records let through: the test compares too little"));
    }
    Ok(())
}
