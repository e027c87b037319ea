use proptest::prelude::*;

use super::*;
use crate::host::recorded::Recorded;

const EXT: &str = "TcpExt: SyncookiesSent TW TWRecycled TWKilled\nTcpExt: 1 22 3 4\nIpExt: InNoRoutes\nIpExt: 0\n";
/// Recorded on Linux 6.18, cut short.
const TCP: &str = "Ip: Forwarding DefaultTTL\nIp: 2 64\nIcmpMsg: InType3\nIcmpMsg: 2\n\
    Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens\nTcp: 1 200 120000 -1 420132\n";
/// Recorded on Linux 6.18.
const STAT: &str = "sockets: used 11\nTCP: inuse 1 orphan 2 tw 3 alloc 4 mem 183\nUDP: inuse 0 mem 0\n";

fn snmp(text: &str) -> Snmp {
    let mut counters = Snmp::default();
    counters.add(text);
    counters
}

#[test]
fn counters_are_found_by_name() {
    assert_eq!(value(EXT, "TcpExt", "TW"), Some(22));
    assert_eq!(value(EXT, "TcpExt", "TWKilled"), Some(4));
    assert_eq!(value(EXT, "IpExt", "InNoRoutes"), Some(0));
    assert_eq!(value(EXT, "TcpExt", "Nope"), None);
    assert_eq!(value(EXT, "Tcp", "TW"), None);
    assert_eq!(value("TcpExt: TW", "TcpExt", "TW"), None);
    assert_eq!(value("TcpExt: A TW\nTcpExt: 1\n", "TcpExt", "TW"), None);
    assert_eq!(value("TcpExt: TW\nIpExt: 1\n", "TcpExt", "TW"), None);
    assert_eq!(value("", "TcpExt", "TW"), None);
}

#[test]
fn all_counters_of_both_files_are_there() {
    let machine = Recorded::new().file(NETSTAT, EXT).file(SNMP, TCP);
    let counters = Snmp::read(&machine.host()).unwrap();
    assert_eq!(counters.get("TcpExt", "TW"), Some(22));
    assert_eq!(counters.get("IpExt", "InNoRoutes"), Some(0));
    assert_eq!(counters.get("Tcp", "ActiveOpens"), Some(420_132));
    assert_eq!(counters.get("IcmpMsg", "InType3"), Some(2));
    assert_eq!(counters.get("Tcp", "MaxConn"), None, "-1 is no count");
    assert_eq!(counters.get("Tcp", "TW"), None);
    assert_eq!(counters.get("Udp", "NoPorts"), None);
}

#[test]
fn sockstat_is_read_by_name() {
    assert_eq!(word(STAT, "TCP", "tw"), Some(3));
    assert_eq!(word("TCP: inuse 1 tw", "TCP", "tw"), None);
    assert_eq!(word("TCP6: inuse 1\n", "TCP", "inuse"), None);
    let machine = Recorded::new().file(SOCKSTAT, STAT);
    let four = Sockstat { inuse: 1, inuse6: None, orphan: 2, tw: 3, alloc: 4, mem_pages: 183 };
    assert_eq!(Sockstat::read(&machine.host()).unwrap(), four);
    let machine = machine.file(SOCKSTAT6, "TCP6: inuse 7\nUDP6: inuse 0\n");
    assert_eq!(Sockstat::read(&machine.host()).unwrap(), Sockstat { inuse6: Some(7), ..four });
    let machine = machine.file(SOCKSTAT, "TCP: inuse 1 orphan 2 tw 3 alloc 4\n");
    let error = Sockstat::read(&machine.host()).unwrap_err().to_string();
    assert!(error.ends_with("sockstat: no `TCP: .. mem N`"), "{error}");
}

#[test]
fn this_machine_has_them() {
    let host = Host::default();
    let before = KernelCounters::read(&host).unwrap();
    let counters = Snmp::read(&host).unwrap();
    assert!(counters.get("TcpExt", "TW").is_some_and(|tw| tw >= before.tw));
    for (group, name) in [("Tcp", "CurrEstab"), ("TcpExt", "ListenOverflows"), ("Ip", "InReceives")] {
        assert!(counters.get(group, name).is_some(), "{group} {name}");
    }
    Sockstat::read(&host).unwrap();
}

#[test]
fn long_files_are_read() {
    let groups: String = (0..500_000).map(|i| format!("G{i}: a b\nG{i}: 1 {i}\n")).collect();
    assert_eq!(snmp(&groups).get("G499999", "b"), Some(499_999));
    assert_eq!(value(&groups, "G499999", "b"), Some(499_999));
    let (names, values): (Vec<_>, Vec<_>) = (0..1_000_000).map(|i| (format!("n{i}"), i.to_string())).unzip();
    let wide = format!("G: {}\nG: {}\n", names.join(" "), values.join(" "));
    assert_eq!(snmp(&wide).get("G", "n999999"), Some(999_999));
    assert_eq!(value(&wide, "G", "n999999"), Some(999_999));
}

proptest! {
    /// Total: any bytes are counters or none.
    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = (snmp(&text), value(&text, "TcpExt", "TW"), word(&text, "TCP", "tw"));
    }

    /// A file that is cut short tells no number that it did not tell whole, but for the one that was cut.
    #[test]
    fn cut_files_are_read(cut in 0..TCP.len()) {
        let (cut, whole) = (snmp(&TCP[..cut]), snmp(TCP));
        let differs = |(group, names): (&String, &HashMap<String, u64>)| {
            names.iter().filter(|(name, value)| whole.get(group, name) != Some(**value)).count()
        };
        prop_assert!(cut.0.iter().map(differs).sum::<usize>() <= 1);
    }

    /// What is found one by one is what is found in all.
    #[test]
    fn one_and_all_agree(text in "(T: [ab]{1,2}( [cd]){0,2}\nT: [0-9-]{1,3}( [0-9]){0,2}\n){0,1}") {
        for name in ["a", "b", "c", "ab"] {
            // Of a name that is there twice, the one is the first and the other the last.
            if text.matches(name).count() <= 1 {
                prop_assert_eq!(snmp(&text).get("T", name), value(&text, "T", name));
            }
        }
    }
}
