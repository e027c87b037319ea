//! What the command line becomes for the eBPF programs.

use std::net::Ipv6Addr;

use proptest::prelude::*;
use twtrace_common::{
    knob::{PORTS_EITHER, PORTS_LOCAL, PORTS_REMOTE},
    record::{cause, kind, role},
};

use super::*;
use crate::cli::{Command, parse};

fn spec(words: &str) -> FilterSpec {
    let args = ["twtrace", "run"].into_iter().chain(words.split_whitespace());
    match parse(args).map(|cli| cli.command) {
        Ok(Command::Run(run)) => run.filter,
        other => unreachable!("{words}: {other:?}"),
    }
}

fn knob(words: &str) -> Filter {
    spec(words).knob(&Resolved::default())
}

/// The bytes as the programs see them.
fn bytes(words: Words) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&words[0].to_ne_bytes());
    bytes[8..].copy_from_slice(&words[1].to_ne_bytes());
    bytes
}

#[test]
fn without_filters_everything_goes_through() {
    assert_eq!(spec(""), FilterSpec::default());
    let knob = knob("");
    let all = 1 << kind::BORN | 1 << kind::TURNED | 1 << kind::REARMED | 1 << kind::DIED | 1 << kind::REFUSED;
    let all = all | 1 << kind::NO_PORT | 1 << kind::REUSE_DENIED | 1 << kind::NO_BIND;
    assert_eq!((knob.kinds, knob.causes, knob.family, knob.role), (all, 0, 0, 0));
    assert_eq!((knob.lport, knob.rport, knob.port), (0, 0, 0));
    let Filter { netns_len, pid_len, cgroup_len, comm_len, laddr_len, raddr_len, .. } = knob;
    assert_eq!([netns_len, pid_len, cgroup_len, comm_len, laddr_len, raddr_len], [0; 6]);
}

#[test]
fn values_come_over_one_by_one() {
    let knob = knob("--pid 7,9 --pid 7 --comm nginx,a_name_of_15_by --role server -6");
    assert_eq!((knob.pid_len, knob.pid), (2, [7, 9, 0, 0, 0, 0, 0, 0]));
    assert_eq!(knob.comm_len, 2);
    assert_eq!(&bytes(knob.comm[0]), b"nginx\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(&bytes(knob.comm[1]), b"a_name_of_15_by\0");
    assert_eq!((knob.role, knob.family), (role::SERVER, 6));
}

#[test]
fn four_and_six_are_both() {
    assert_eq!((knob("-4").family, knob("-6").family, knob("-4 -6").family, knob("-46").family), (4, 6, 0, 0));
}

#[test]
fn blocks_are_in_network_order_with_their_masks() {
    let knob = knob("--laddr 10.0.0.0/9,::ffff:192.0.2.1 --raddr 2001:db8::/33");
    assert_eq!((knob.laddr_len, knob.raddr_len), (2, 1));
    let [net, host, rest @ ..] = knob.laddr;
    assert_eq!(
        (net.family, &bytes(net.addr)[..5], &bytes(net.mask)[..5]),
        (4, &[10, 0, 0, 0, 0][..], &[255, 128, 0, 0, 0][..])
    );
    assert_eq!(
        (host.family, &bytes(host.addr)[..5], &bytes(host.mask)[..5]),
        (4, &[192, 0, 2, 1, 0][..], &[255, 255, 255, 255, 0][..])
    );
    assert!(rest.iter().all(|cidr| *cidr == Cidr::default()));
    let v6 = knob.raddr[0];
    assert_eq!((v6.family, Ipv6Addr::from(bytes(v6.addr))), (6, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0)));
    assert_eq!(Ipv6Addr::from(bytes(v6.mask)), Ipv6Addr::new(0xffff, 0xffff, 0x8000, 0, 0, 0, 0, 0));
}

#[test]
fn port_rows_are_where_the_programs_look() {
    let words = "--lport 1 --rport 2 --port 3,64-65";
    let rows = spec(words).port_sets();
    let row = |row: u32| &rows[usize::try_from(row).unwrap_or(usize::MAX)][..2];
    assert_eq!(row(PORTS_LOCAL), [1 << 1, 0]);
    assert_eq!(row(PORTS_REMOTE), [1 << 2, 0]);
    assert_eq!(row(PORTS_EITHER), [1 << 3, 0b11]);
    let knob = knob(words);
    assert_eq!((knob.lport, knob.rport, knob.port), (1, 1, 1));
    let rport_only = self::knob("--rport 0");
    assert_eq!((rport_only.lport, rport_only.rport, rport_only.port), (0, 1, 0));
}

#[test]
fn causes_want_deaths_only() {
    let knob = knob("--cause reused,reset,?");
    assert_eq!(knob.kinds, 1 << kind::DIED);
    assert_eq!(knob.causes, 1 << cause::REUSED | 1 << cause::RESET | 1 << cause::UNKNOWN);
    assert_eq!(self::knob("--cause reset --events born,died").kinds, 1 << kind::DIED);
}

#[test]
fn events_are_bits_and_may_be_none() {
    assert_eq!(knob("--events died --events born").kinds, 1 << kind::DIED | 1 << kind::BORN);
    assert_eq!(knob("--events none").kinds, 0);
}

#[test]
fn names_are_kept_until_they_are_resolved() {
    let spec = spec("--cgroup system.slice/a,/sys/fs/cgroup/b --netns self,4026531840,/run/netns/blue");
    assert_eq!(*spec.cgroup, [PathBuf::from("system.slice/a"), PathBuf::from("/sys/fs/cgroup/b")]);
    let blue = NetnsSpec::Path("/run/netns/blue".into());
    assert_eq!(*spec.netns, [NetnsSpec::Own, NetnsSpec::Inum(4_026_531_840), blue]);
    let cgroups = Few::new([5, 6]).unwrap_or_default();
    let netns = Few::new([1, 4_026_531_840, 3]).unwrap_or_default();
    let knob = spec.knob(&Resolved { cgroups, netns, ..Resolved::default() });
    assert_eq!((knob.cgroup_len, &knob.cgroup[..3]), (2, &[5, 6, 0][..]));
    assert_eq!((knob.netns_len, &knob.netns[..4]), (3, &[1, 4_026_531_840, 3, 0][..]));
}

#[test]
fn containers_and_units_are_kept_until_they_are_resolved() {
    let spec = spec("--container web,shop-0/app --unit nginx.service --cgroup-tree system.slice,/sys/fs/cgroup/b");
    assert_eq!((spec.container.len(), spec.unit.to_vec()), (2, vec!["nginx.service".to_owned()]));
    assert_eq!(*spec.cgroup_tree, [PathBuf::from("system.slice"), PathBuf::from("/sys/fs/cgroup/b")]);
    let tree = |path: &str, ids: &[u64]| Tree { path: path.into(), ids: ids.to_vec() };
    let trees = Few::new([tree("/sys/fs/cgroup/a", &[5, 6]), tree("/sys/fs/cgroup/b", &[7])]).unwrap_or_default();
    let resolved = Resolved { trees, ..Resolved::default() };
    let knob = spec.knob(&resolved).settled();
    // The programs look at map CGROUPS, not at ids.
    assert_eq!((knob.cgroup_trees, knob.cgroup_len, knob.any), (2, 0, 1));
    assert!(resolved.has_cgroup(6) && resolved.has_cgroup(7) && !resolved.has_cgroup(8));
    assert!(resolved.wants_cgroups() && !Resolved::default().wants_cgroups());
}

#[test]
fn short_options_are_those_of_the_bcc_tools() {
    let short = spec("-p 7 -L 80 -D 443 -P 8080");
    assert_eq!(short, spec("--pid 7 --lport 80 --rport 443 --port 8080"));
    assert_eq!(short, spec("--pid 7 --sport 80 --dport 443 --port 8080"));
    // -p and -P are two options.
    assert_ne!(spec("-p 80"), spec("-P 80"));
}

#[test]
fn eight_values_fit_and_none_is_lost() {
    let knob = knob("--pid 1,2,3,4,5,6,7,8");
    assert_eq!((knob.pid_len, knob.pid), (8, [1, 2, 3, 4, 5, 6, 7, 8]));
}

proptest! {
    /// What the programs compute from a block is what the block contains.
    #[test]
    fn blocks_match_as_ipnet_does(net: IpAddr, bits in 0..=128u8, probe: IpAddr) {
        let Ok(net) = IpNet::new(net, bits) else { return Ok(()) };
        let net = net.trunc();
        let cidr = block(&net);
        for address in [probe, net.network(), net.broadcast()] {
            let [low, high] = words(wide(address));
            let family = if address.is_ipv4() { 4 } else { 6 };
            let hit = cidr.family == family && low & cidr.mask[0] == cidr.addr[0] && high & cidr.mask[1] == cidr.addr[1];
            prop_assert_eq!(hit, net.contains(&address));
        }
    }
}
