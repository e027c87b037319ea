//! What is done to one connection, as data: drawn at random, printed as one line of JSON, read back as a case.

use proptest::{collection::vec, prelude::*, sample::select};
use serde::{Deserialize, Serialize};

/// The sysctls of the namespace that a connection lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Climate {
    /// The kernel's defaults, and tcp_tw_reuse = 1.
    Plain,
    /// tcp_fin_timeout = 1: FIN_WAIT2 minisocks expire within the run.
    Short,
    /// tcp_rfc1337 = 1 and tcp_tw_reuse = 0.
    Guarded,
    /// tcp_max_tw_buckets is small.
    Crowded,
    /// tcp_timestamps = 0.
    Unstamped,
    /// tcp_tw_reuse_delay = 1 ms where there is one, and tcp_fin_timeout = 2.
    Eager,
}

impl Climate {
    pub const ALL: [Self; 6] = [Self::Plain, Self::Short, Self::Guarded, Self::Crowded, Self::Unstamped, Self::Eager];
}

/// Of the socket; `Mapped` is IPv4 in an IPv6 socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    V4,
    V6,
    Mapped,
}

/// How the kernel's end comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// connect() from a bound port.
    Bound,
    /// connect() chooses the port.
    Auto,
    /// A listener accepts it.
    Server,
}

/// How the connection opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// A handshake in three steps.
    Whole,
    /// Both ends send a SYN (a server: a SYN with a FIN).
    Crossed,
    /// Data in the SYN (TCP Fast Open).
    Fast,
    /// The first SYN has no answer.
    Half,
    /// Both ends sign what they send (RFC 2385), where the kernel can; a segment without a timestamp is not signed either.
    Signed,
}

/// A segment's flags, as letters: `FSRPAU`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub struct Flags(pub u8);

impl Flags {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
    pub const URG: u8 = 32;
    const LETTERS: &str = "FSRPAU";

    pub fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }
}

impl From<Flags> for String {
    fn from(flags: Flags) -> Self {
        Flags::LETTERS.char_indices().filter(|(bit, _)| flags.has(1 << bit)).map(|(_, letter)| letter).collect()
    }
}

impl From<String> for Flags {
    fn from(text: String) -> Self {
        Self(Self::LETTERS.char_indices().filter(|(_, it)| text.contains(*it)).map(|(bit, _)| 1 << bit).sum())
    }
}

/// A sequence number, from where the peer's next byte would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seq {
    Next,
    Ahead(u32),
    Behind(u32),
}

/// An acknowledgment, from the end of all that the kernel has sent; `First`: from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    All,
    Ahead(u32),
    Behind(u32),
    First,
}

/// A timestamp, if the peer offers them at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stamp {
    Fresh,
    /// So old that PAWS rejects it.
    Old,
    Absent,
}

/// One segment of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub flags: Flags,
    pub seq: Seq,
    pub ack: Ack,
    /// Bytes of payload.
    pub data: u16,
    pub stamp: Stamp,
    pub window: u16,
}

/// One thing that is done. Each can be done in any state; where it means nothing it does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// close()
    Close,
    /// close() with SO_LINGER 0
    Abort,
    /// shutdown(SHUT_WR)
    ShutWrite,
    /// shutdown(SHUT_RD)
    ShutRead,
    /// write()
    Write(u16),
    /// read() until nothing is left
    Read,
    /// TCP_LINGER2, seconds
    Linger2(i32),
    /// SOCK_DESTROY of whatever has the tuple
    Kill,
    /// connect() from the same port, bound before
    TakeBound,
    /// connect() that can choose this port only
    TakeAuto,
    /// The peer opens the connection, or goes on with that
    Handshake,
    /// The peer sends one segment
    Segment(Segment),
}

/// What is done to one connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    pub climate: Climate,
    pub family: Family,
    pub side: Side,
    pub how: How,
    /// The peer offers timestamps.
    pub stamps: bool,
    /// Before the pause of two seconds.
    pub before: Vec<Step>,
    /// After it.
    pub after: Vec<Step>,
}

impl Script {
    /// A connection that ends in a TIME_WAIT: to fill a crowded namespace.
    pub fn filler(climate: Climate) -> Self {
        let (family, side, how) = (Family::V4, Side::Server, How::Whole);
        Self { climate, family, side, how, stamps: true, before: vec![Step::Close, FIN], after: Vec::new() }
    }

    /// This script with one step or one oddity less: what a failure is made smaller with.
    pub fn smaller(&self) -> Vec<Self> {
        let mut found = Vec::new();
        for index in 0..self.before.len() {
            let mut less = self.clone();
            less.before.remove(index);
            found.push(less);
        }
        for index in 0..self.after.len() {
            let mut less = self.clone();
            less.after.remove(index);
            found.push(less);
        }
        let plain = Self { family: Family::V4, how: How::Whole, ..self.clone() };
        let other = Self { climate: Climate::Plain, ..self.clone() };
        found.extend([plain, other].into_iter().filter(|it| it != self));
        found
    }
}

/// Any script for a namespace.
pub fn script(climate: Climate) -> impl Strategy<Value = Script> {
    let family = prop_oneof![4 => Just(Family::V4), 3 => Just(Family::V6), 2 => Just(Family::Mapped)];
    let side = prop_oneof![3 => Just(Side::Bound), 4 => Just(Side::Auto), 4 => Just(Side::Server)];
    let how = prop_oneof![16 => Just(How::Whole), 2 => Just(How::Crossed), 2 => Just(How::Fast), 1 => Just(How::Half),
        2 => Just(How::Signed)];
    let before = (vec(noise(), 0..3), ending(), vec(aim(), 0..3), vec(noise(), 0..2))
        .prop_map(|(a, b, c, d)| [a, b, c, d].concat());
    let after = prop_oneof![
        3 => (vec(aim(), 0..4)).boxed(),
        2 => (take(), vec(noise(), 0..2), ending(), vec(aim(), 0..2))
            .prop_map(|(a, b, c, d)| [a, b, c, d].concat())
            .boxed(),
    ];
    let stamps = prop_oneof![5 => Just(true), 1 => Just(false)];
    (family, side, how, stamps, before, after).prop_map(move |(family, side, how, stamps, before, after)| Script {
        climate,
        family,
        side,
        how,
        stamps,
        before,
        after,
    })
}

const fn plain(flags: u8) -> Segment {
    Segment { flags: Flags(flags), seq: Seq::Next, ack: Ack::All, data: 0, stamp: Stamp::Fresh, window: 65_535 }
}

const ACK: Step = Step::Segment(plain(Flags::ACK));
const FIN: Step = Step::Segment(plain(Flags::FIN | Flags::ACK));
/// A FIN that acknowledges nothing that was sent since the handshake: it crosses the kernel's own.
const CROSSING_FIN: Step = Step::Segment(Segment { ack: Ack::First, ..plain(Flags::FIN | Flags::ACK) });

/// Ways to close, most of which lead to a minisock.
fn ending() -> impl Strategy<Value = Vec<Step>> {
    let data = Segment { data: 40, ..plain(Flags::PSH | Flags::ACK) };
    let fin_data = Segment { data: 40, ..plain(Flags::FIN | Flags::PSH | Flags::ACK) };
    let early = Segment { seq: Seq::Ahead(40), ..plain(Flags::FIN | Flags::ACK) };
    let ways = vec![
        vec![Step::Close, ACK, FIN],
        vec![Step::Close, FIN],
        vec![Step::Close, ACK],
        vec![Step::Close, CROSSING_FIN, ACK],
        vec![Step::Close, CROSSING_FIN, Step::Segment(plain(Flags::RST))],
        vec![Step::ShutWrite, ACK, FIN],
        vec![Step::ShutWrite, ACK, Step::Close],
        vec![Step::ShutWrite, ACK, Step::Close, FIN],
        vec![Step::ShutWrite, ACK, Step::Segment(data), Step::Close, FIN],
        vec![Step::ShutWrite, ACK, Step::Segment(data), FIN, Step::Close],
        vec![Step::ShutWrite, CROSSING_FIN, ACK],
        vec![Step::Write(100), Step::Close, ACK, Step::Segment(fin_data)],
        // The FIN comes before the data that it closes: nothing, until they come.
        vec![Step::ShutWrite, ACK, Step::Segment(early), Step::Segment(data), Step::Close],
        vec![Step::Linger2(-1), Step::Close, ACK],
        vec![Step::Linger2(1), Step::Close, ACK],
        vec![Step::ShutWrite, ACK, Step::Linger2(-1), Step::Close],
        vec![FIN, Step::Close, ACK],
        vec![Step::Abort],
        vec![Step::Segment(data), Step::Close],
    ];
    select(ways)
}

/// How a connection may come back on the same tuple.
fn take() -> impl Strategy<Value = Vec<Step>> {
    let take = prop_oneof![Just(Step::TakeBound), Just(Step::TakeAuto), Just(Step::Handshake)];
    take.prop_map(|step| vec![step, Step::Handshake])
}

/// What may end, turn or re-arm a minisock.
fn aim() -> impl Strategy<Value = Step> {
    let of = |flags, seq, data| Step::Segment(Segment { seq, data, ..plain(flags) });
    let syn = Flags::SYN;
    prop_oneof![
        4 => Just(FIN),
        3 => Just(ACK),
        3 => Just(of(Flags::RST, Seq::Next, 0)),
        1 => Just(of(Flags::RST, Seq::Ahead(10), 0)),
        1 => Just(of(Flags::RST | Flags::ACK, Seq::Next, 0)),
        2 => Just(of(Flags::PSH | Flags::ACK, Seq::Next, 30)),
        1 => Just(of(Flags::FIN | Flags::ACK, Seq::Next, 30)),
        1 => Just(of(Flags::FIN | Flags::ACK, Seq::Behind(1), 0)),
        3 => Just(of(syn, Seq::Ahead(100_000), 0)),
        1 => Just(of(syn, Seq::Behind(1_000), 0)),
        1 => Just(of(syn, Seq::Next, 0)),
        1 => Just(of(syn, Seq::Ahead(100_000), 20)),
        2 => Just(Step::TakeBound),
        3 => Just(Step::TakeAuto),
        2 => Just(Step::Kill),
        1 => Just(Step::Handshake),
        6 => segment().prop_map(Step::Segment),
    ]
}

/// Anything.
fn noise() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => segment().prop_map(Step::Segment),
        2 => (1..3_000_u16).prop_map(Step::Write),
        2 => Just(Step::Read),
        2 => Just(ACK),
        1 => Just(FIN),
        1 => Just(Step::ShutRead),
        1 => Just(Step::ShutWrite),
        1 => Just(Step::Close),
        1 => Just(Step::Abort),
        1 => Just(Step::Kill),
        1 => (-1..3_i32).prop_map(Step::Linger2),
        1 => Just(Step::TakeBound),
        1 => Just(Step::TakeAuto),
        2 => Just(Step::Handshake),
    ]
}

fn segment() -> impl Strategy<Value = Segment> {
    let flags = prop_oneof![
        6 => Just(Flags::ACK),
        3 => Just(Flags::PSH | Flags::ACK),
        3 => Just(Flags::FIN | Flags::ACK),
        2 => Just(Flags::RST),
        1 => Just(Flags::RST | Flags::ACK),
        2 => Just(Flags::SYN),
        1 => Just(Flags::SYN | Flags::ACK),
        1 => Just(Flags::FIN),
        1 => Just(Flags::URG | Flags::PSH | Flags::ACK),
        1 => Just(Flags::URG | Flags::FIN | Flags::ACK),
        1 => 0..64_u8,
    ];
    let seq = prop_oneof![
        10 => Just(Seq::Next),
        2 => (1..3_000_u32).prop_map(Seq::Ahead),
        1 => Just(Seq::Ahead(1 << 30)),
        2 => Just(Seq::Behind(1)),
        1 => (2..3_000_u32).prop_map(Seq::Behind),
    ];
    let ack = prop_oneof![
        10 => Just(Ack::All),
        2 => Just(Ack::First),
        1 => (1..100_u32).prop_map(Ack::Behind),
        1 => (1..100_u32).prop_map(Ack::Ahead),
        1 => Just(Ack::Behind(1 << 30)),
    ];
    let data = prop_oneof![3 => Just(0_u16), 1 => Just(1), 1 => 2..500_u16];
    let stamp = prop_oneof![6 => Just(Stamp::Fresh), 2 => Just(Stamp::Old), 1 => Just(Stamp::Absent)];
    let window = prop_oneof![6 => Just(65_535_u16), 1 => Just(0)];
    (flags, seq, ack, data, stamp, window).prop_map(|(flags, seq, ack, data, stamp, window)| Segment {
        flags: Flags(flags),
        seq,
        ack,
        data,
        stamp,
        window,
    })
}
