use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use super::*;

fn entry(laddr: &str, state: u8, minisock: bool) -> Entry {
    let laddr = laddr.parse().unwrap();
    let any = std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    Entry::of(Tuple { laddr, lport: 80, raddr: any, rport: 0 }, state, minisock)
}

fn ours(local: SocketAddr, remote: Option<SocketAddr>) -> Question {
    let remote = remote.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into());
    let tuple = Tuple { laddr: local.ip(), lport: local.port(), raddr: remote.ip(), rport: remote.port() };
    let netns = Netns::current().unwrap().inum();
    Question { netns, tuple, is_connection: remote.port() != 0, asker: Some(std::process::id()) }
}

#[test]
fn what_listens_comes_first_and_another_address_is_not_in_the_way() {
    let wanted = entry("127.0.0.1", 0, false).tuple;
    let listener = entry("0.0.0.0", TCP_LISTEN, false);
    let connection = entry("127.0.0.1", diag::TCP_ESTABLISHED, false);
    let minisock = entry("127.0.0.1", TCP_TIME_WAIT, true);
    let elsewhere = entry("127.0.0.9", TCP_LISTEN, false);
    assert_eq!(in_the_way(vec![minisock, connection, listener], &wanted), Some(listener));
    assert_eq!(in_the_way(vec![minisock, connection], &wanted), Some(connection));
    assert_eq!(in_the_way(vec![elsewhere, minisock], &wanted), Some(minisock));
    assert_eq!(in_the_way(vec![elsewhere], &wanted), None);
}

#[test]
fn a_minisock_tells_how_long_it_has_been_there() {
    let finder = Finder::new(Host::at("/nonexistent"));
    let mut minisock = entry("127.0.0.1", TCP_TIME_WAIT, true);
    minisock.left_ms = 47_700;
    let holder = finder.describe(&minisock, Some(30), None);
    assert_eq!((holder.by, holder.held_ms, holder.expires_in_ms), (HeldBy::TimeWait, Some(12_300), Some(47_700)));
    let mut fin_wait2 = entry("127.0.0.1", diag::TCP_FIN_WAIT2, true);
    fin_wait2.left_ms = 10_000;
    assert_eq!(finder.describe(&fin_wait2, Some(30), None).held_ms, Some(20_000));
    assert_eq!(finder.describe(&fin_wait2, None, None).held_ms, None);
    // It was armed when the setting was another.
    assert_eq!(finder.describe(&fin_wait2, Some(5), None).held_ms, None);
    // A full socket has no age, and this one no process.
    let socket = finder.describe(&entry("127.0.0.1", diag::TCP_CLOSE_WAIT, false), Some(30), None);
    assert_eq!(socket, Holder { by: HeldBy::Socket, task: None, held_ms: None, expires_in_ms: None });
}

#[test]
fn it_finds_who_listens_and_who_has_a_connection() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let local = listener.local_addr().unwrap();
    let mut finder = Finder::new(Host::default());
    let holder = finder.find(&ours(local, None)).unwrap().unwrap();
    assert_eq!((holder.by, holder.task.map(|task| task.pid)), (HeldBy::Listener, Some(std::process::id())));
    let client = TcpStream::connect(local).unwrap();
    let connection = ours(client.local_addr().unwrap(), Some(local));
    let holder = finder.find(&connection).unwrap().unwrap();
    assert_eq!((holder.by, holder.task.map(|task| task.pid)), (HeldBy::Socket, Some(std::process::id())));
    // A connection that nobody has is none, though somebody listens where it would come in.
    let nobody = ours(local, Some((Ipv4Addr::LOCALHOST, 1).into()));
    assert_eq!(finder.find(&nobody).unwrap(), None);
    let nowhere = Question { netns: 1, asker: None, ..connection };
    assert_eq!(finder.find(&nowhere).unwrap(), None);
}

#[test]
fn the_same_question_is_answered_from_memory_and_another_waits() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let question = ours(listener.local_addr().unwrap(), None);
    let mut paced = Paced::new(Host::default());
    let first = paced.find(&question);
    assert_eq!(first.map(|holder| holder.by), Some(HeldBy::Listener));
    drop(listener);
    assert_eq!(paced.find(&question), first);
    paced.paid_at = Some(Instant::now() + Duration::from_secs(600));
    assert_eq!(paced.find(&ours((Ipv4Addr::LOCALHOST, 1).into(), None)), None);
    assert!(!paced.known.contains_key(&(question.netns, ours((Ipv4Addr::LOCALHOST, 1).into(), None).tuple, false)));
}

#[test]
fn ages_go_on_while_an_answer_is_kept() {
    let holder = Holder { by: HeldBy::TimeWait, task: None, held_ms: Some(100), expires_in_ms: Some(500) };
    let later = later(holder, Duration::from_millis(900));
    assert_eq!((later.held_ms, later.expires_in_ms), (Some(1_000), Some(0)));
}
