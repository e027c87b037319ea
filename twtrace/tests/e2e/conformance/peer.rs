//! The peer of one connection: it knows sequence numbers, timestamps and flags, and does only what it is told.

use std::{net::SocketAddr, time::Instant};

use super::{
    script::{Ack, Flags, Segment, Seq, Stamp},
    wire::Packet,
};

/// A new connection's first sequence number lies so far ahead of the last one's: beyond any window.
const NEXT_LIFE: u32 = 100_000;
/// Timestamps begin here, milliseconds; old ones lie so far behind.
const CLOCK: u32 = 10_000_000;
const LONG_AGO: u32 = 1_000_000;
const WINDOW: u16 = 65_535;

/// What the kernel has said last that asks for a step of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    Nothing,
    Syn,
    SynAck,
}

/// The peer.
#[derive(Debug)]
pub struct Peer {
    here: SocketAddr,
    there: SocketAddr,
    /// What we send next.
    next: u32,
    /// What we expect next.
    expected: u32,
    /// What the kernel acknowledged last: what it expects, whatever we believe.
    acknowledged: u32,
    /// Where the kernel's stream begins.
    first: u32,
    stamps: bool,
    /// What we send is signed.
    signed: bool,
    /// The kernel's last timestamp.
    echo: u32,
    opening: Opening,
    born: Instant,
    /// RSTs that came from the kernel.
    pub resets: u32,
}

impl Peer {
    pub fn new(here: SocketAddr, there: SocketAddr, stamps: bool, signed: bool) -> Self {
        let next = 0x5000_0000_u32.wrapping_mul(u32::from(here.port()));
        let (expected, acknowledged, first, echo) = (0, 0, 0, 0);
        let (opening, born, resets) = (Opening::Nothing, Instant::now(), 0);
        Self { here, there, next, expected, acknowledged, first, stamps, signed, echo, opening, born, resets }
    }

    /// The kernel's end, once its port is known.
    pub fn is_at(&mut self, there: SocketAddr) {
        self.there = there;
    }

    /// Takes what the kernel has sent.
    pub fn hear(&mut self, packet: &Packet) {
        let (syn, ack) = (packet.flags.has(Flags::SYN), packet.flags.has(Flags::ACK));
        if packet.flags.has(Flags::RST) {
            self.resets += 1;
            return;
        }
        if let Some((value, _)) = packet.stamp {
            self.echo = value;
        }
        let fin = u32::from(packet.flags.has(Flags::FIN));
        let end = packet.seq.wrapping_add(u32::from(syn) + u32::from(packet.data) + fin);
        if syn {
            let begin = packet.seq.wrapping_add(1);
            if !ack && begin != self.first {
                self.next = self.next.wrapping_add(NEXT_LIFE);
            }
            self.first = begin;
            self.expected = end;
            self.opening = if ack { Opening::SynAck } else { Opening::Syn };
        } else if after(end, self.expected) {
            self.expected = end;
        }
        if ack {
            self.acknowledged = packet.ack;
        }
        // What is acknowledged has arrived; and if we have gone to where the kernel did not follow, we come back.
        let astray = !after(packet.ack, self.next) && self.next.wrapping_sub(packet.ack) >= NEXT_LIFE / 2;
        if ack && (syn || astray || after(packet.ack, self.next)) {
            self.next = packet.ack;
        }
    }

    /// A segment by its description, sent: what it occupies is taken as received if nothing speaks against that.
    pub fn segment(&mut self, segment: &Segment) -> Packet {
        let Segment { flags, seq, ack, data, stamp, window } = *segment;
        let seq = match seq {
            Seq::Next => self.next,
            Seq::Ahead(bytes) => self.next.wrapping_add(bytes),
            Seq::Behind(bytes) => self.next.wrapping_sub(bytes),
        };
        let ack = match ack {
            Ack::All => self.expected,
            Ack::Ahead(bytes) => self.expected.wrapping_add(bytes),
            Ack::Behind(bytes) => self.expected.wrapping_sub(bytes),
            Ack::First => self.first,
        };
        let accepted = flags.has(Flags::ACK) && !flags.has(Flags::SYN | Flags::RST) && stamp != Stamp::Old;
        let end = seq.wrapping_add(u32::from(data) + u32::from(flags.has(Flags::FIN)));
        // What is ahead of a gap may have to come again.
        if accepted && !after(seq, self.next) && after(end, self.next) {
            self.next = end;
        }
        let signed = self.signed && stamp != Stamp::Absent;
        let stamp = match stamp {
            Stamp::Fresh => self.stamp(0),
            Stamp::Old => self.stamp(LONG_AGO),
            Stamp::Absent => None,
        };
        Packet { from: self.here, to: self.there, flags, seq, ack, window, stamp, signed, data }
    }

    /// The next step of a handshake. `crossed`: a SYN is answered by a SYN, or carries a FIN. `idle`: nothing is open, so that
    /// it may begin.
    pub fn handshake(&mut self, crossed: bool, data: u16, idle: bool) -> Option<Packet> {
        match std::mem::replace(&mut self.opening, Opening::Nothing) {
            Opening::Syn if crossed => Some(self.of(Flags::SYN, self.next, 0)),
            Opening::Syn => {
                let packet = self.of(Flags::SYN | Flags::ACK, self.next, self.expected);
                self.next = self.next.wrapping_add(1);
                Some(packet)
            }
            Opening::SynAck => Some(self.of(Flags::ACK, self.next, self.expected)),
            Opening::Nothing if !idle => None,
            Opening::Nothing => {
                self.next = self.next.wrapping_add(NEXT_LIFE);
                let fin = if crossed { Flags::FIN } else { 0 };
                Some(Packet { data, ..self.of(Flags::SYN | fin, self.next, 0) })
            }
        }
    }

    /// What makes any open connection say where it is, and changes nothing: an old duplicate.
    pub fn probe(&self) -> Packet {
        self.of(Flags::ACK, self.acknowledged.wrapping_sub(1), self.first)
    }

    /// What ends any open connection, once it has said where it is.
    pub fn reset(&self) -> Packet {
        self.of(Flags::RST, self.acknowledged, 0)
    }

    fn of(&self, flags: u8, seq: u32, ack: u32) -> Packet {
        let (from, to, signed, stamp) = (self.here, self.there, self.signed, self.stamp(0));
        Packet { from, to, flags: Flags(flags), seq, ack, window: WINDOW, stamp, signed, data: 0 }
    }

    fn stamp(&self, ago: u32) -> Option<(u32, u32)> {
        let elapsed = u32::try_from(self.born.elapsed().as_millis()).unwrap_or(u32::MAX);
        self.stamps.then(|| (CLOCK.wrapping_add(elapsed).wrapping_sub(ago), self.echo))
    }
}

/// True if one sequence number comes after the other.
fn after(one: u32, other: u32) -> bool {
    other.wrapping_sub(one).cast_signed() < 0
}
