//! Bytes to events. Total: every slice of bytes becomes an event or a named error, never a panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use twtrace_common::{
    ABI,
    record::{self as raw, flag, kind, valid},
    state::{Alive, alive},
};

use crate::model::event::{
    Call, Cause, Closer, Comm, Connection, Denial, Detail, Event, Life, Refusal, Role, Substate, Task, Tuple,
};

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Too short or too long for its kind.
    #[error("a record of kind {kind} has {got} bytes instead of {want}")]
    Length {
        /// The kind that it claims.
        kind: u8,
        /// Length of the record.
        got: usize,
        /// The right length.
        want: usize,
    },
    /// No room even for a header.
    #[error("{0} bytes are too short for a record")]
    Short(usize),
    /// Written by another version of the programs.
    #[error("a record of format version {0} instead of {ABI}")]
    Abi(u8),
    /// A kind that does not exist.
    #[error("a record of unknown kind {0}")]
    Kind(u8),
}

/// Decodes what the seeding iterator wrote: whole lives, one behind the other, without headers.
///
/// # Errors
/// If the last one is cut short.
pub fn seeds(bytes: &[u8]) -> Result<Vec<Life>, DecodeError> {
    let (whole, rest) = bytes.as_chunks::<{ size_of::<raw::Life>() }>();
    if !rest.is_empty() {
        return Err(DecodeError::Short(rest.len()));
    }
    // SAFETY: the length is that of a Life, which is plain old data (Record), and the read is unaligned.
    Ok(whole.iter().map(|bytes| whose(&unsafe { bytes.as_ptr().cast::<raw::Life>().read_unaligned() })).collect())
}

/// Whose an entry of the table of lives is, if the filters let it through. Where it was the entry does not say.
#[must_use]
pub fn over(entry: &Alive) -> Option<Life> {
    // SAFETY: a Life is integers and byte arrays (Record), of which all zeroes are a value.
    let mut life: raw::Life = unsafe { std::mem::zeroed() };
    (life.id, life.role, life.flags) = (entry.id, entry.role, entry.flags);
    (life.substate, life.valid) = (entry.substate, valid::SUBSTATE);
    if entry.state & alive::HAS_CLOSER != 0 {
        (life.closer_pid, life.closer_comm, life.cgroup_id) = (entry.closer_pid, entry.closer_comm, entry.cgroup_id);
        life.valid |= valid::CLOSER;
    }
    (entry.state & alive::MATCHED != 0).then(|| whose(&life))
}

/// A record type: plain integers and bytes, any bit pattern valid.
///
/// # Safety
/// Implemented only for the `repr(C)` types of `twtrace_common::record`, which have no padding and no invalid values.
unsafe trait Record: Copy {}
// SAFETY: integers and byte arrays only; sizes asserted in twtrace-common.
unsafe impl Record for raw::Birth {}
// SAFETY: as above.
unsafe impl Record for raw::Touch {}
// SAFETY: as above.
unsafe impl Record for raw::Death {}
// SAFETY: as above.
unsafe impl Record for raw::Connect {}
// SAFETY: as above.
unsafe impl Record for raw::Bind {}
// SAFETY: as above.
unsafe impl Record for raw::Life {}

/// Decodes one record of the ring.
///
/// # Errors
/// If the bytes are none.
pub fn decode(bytes: &[u8]) -> Result<Event, DecodeError> {
    const KIND: usize = std::mem::offset_of!(raw::Header, kind);
    const VERSION: usize = std::mem::offset_of!(raw::Header, abi);
    if bytes.len() < size_of::<raw::Header>() {
        return Err(DecodeError::Short(bytes.len()));
    }
    if bytes[VERSION] != ABI {
        return Err(DecodeError::Abi(bytes[VERSION]));
    }
    match bytes[KIND] {
        kind::BORN => record::<raw::Birth>(bytes).map(born),
        kind::REFUSED => record::<raw::Birth>(bytes).map(refused),
        kind::TURNED => record::<raw::Touch>(bytes).map(turned),
        kind::REARMED => record::<raw::Touch>(bytes).map(rearmed),
        kind::DIED => record::<raw::Death>(bytes).map(died),
        kind::NO_PORT => record::<raw::Connect>(bytes).map(no_port),
        kind::REUSE_DENIED => record::<raw::Connect>(bytes).map(reuse_denied),
        kind::NO_BIND => record::<raw::Bind>(bytes).map(no_bind),
        other => Err(DecodeError::Kind(other)),
    }
}

fn record<T: Record>(bytes: &[u8]) -> Result<T, DecodeError> {
    // The ring rounds lengths up to 8; records are multiples of 8, so lengths are exact.
    if bytes.len() != size_of::<T>() {
        let kind = bytes.get(std::mem::offset_of!(raw::Header, kind)).copied().unwrap_or(0);
        return Err(DecodeError::Length { kind, got: bytes.len(), want: size_of::<T>() });
    }
    // SAFETY: the length is that of T, T is plain old data (Record), and the read is unaligned.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn event(header: raw::Header, life: &raw::Life, detail: Detail) -> Event {
    Event { mono_ns: header.mono_ns, life: whose(life), detail, self_test: life.flags & flag::SELF_TEST != 0 }
}

fn whose(life: &raw::Life) -> Life {
    let known = |bit| life.valid & bit != 0;
    Life {
        id: (life.id != 0).then_some(life.id),
        netns: known(valid::NETNS).then_some(life.netns),
        tuple: if known(valid::TUPLE) { tuple(life) } else { None },
        substate: known(valid::SUBSTATE).then(|| Substate::from_raw(life.substate)),
        role: (life.role != raw::role::UNKNOWN).then(|| Role::from_raw(life.role)),
        closer: known(valid::CLOSER)
            .then(|| Closer { task: task(life.closer_pid, life.closer_comm), cgroup_id: life.cgroup_id }),
        preexisting: if life.flags & flag::PREEXISTING != 0 {
            Some(true)
        } else {
            // Without a birth on record it may be older than twtrace, or born while the table was full.
            (life.flags & flag::UNKNOWN_BIRTH == 0).then_some(false)
        },
    }
}

fn tuple(life: &raw::Life) -> Option<Tuple> {
    let address = |bytes: [u8; 16]| match life.family {
        4 => Some(IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))),
        6 => Some(IpAddr::V6(Ipv6Addr::from(bytes))),
        _ => None,
    };
    Some(Tuple { laddr: address(life.laddr)?, lport: life.lport, raddr: address(life.raddr)?, rport: life.rport })
}

fn task(pid: u32, comm: [u8; twtrace_common::COMM_LEN]) -> Task {
    Task { pid, comm: Comm(comm) }
}

fn connection(birth: &raw::Birth) -> Connection {
    let known = |bit| birth.life.valid & bit != 0;
    // tcp_rcv_nxt_update counts the peer's FIN as a byte received; it has come exactly if the substate is TIME_WAIT.
    let fin = u64::from(birth.life.substate == raw::substate::TIME_WAIT);
    Connection {
        opener: known(valid::OPENER).then(|| task(birth.opener_pid, birth.opener_comm)),
        conn_ns: known(valid::CONN).then_some(birth.conn_ns),
        connect_ns: known(valid::CONNECT).then_some(birth.connect_ns),
        timestamps: known(valid::TIMESTAMPS).then_some(birth.timestamps != 0),
        bytes_in: known(valid::BYTES).then_some(birth.bytes_in.saturating_sub(fin)),
        bytes_out: known(valid::BYTES).then_some(birth.bytes_out),
        srtt_us: known(valid::SRTT).then_some(birth.srtt_us),
        mark: known(valid::MARK).then_some(birth.mark),
    }
}

fn born(record: raw::Birth) -> Event {
    let timeout_ms = (record.life.valid & valid::TIMEOUT != 0).then_some(record.timeout_ms);
    event(record.header, &record.life, Detail::Born { timeout_ms, connection: connection(&record) })
}

fn refused(record: raw::Birth) -> Event {
    let known = record.life.valid & valid::BUCKETS != 0;
    let detail = Detail::Refused {
        reason: Refusal::from_raw(record.reason),
        used: known.then_some(record.used),
        limit: known.then_some(record.limit),
        connection: connection(&record),
    };
    event(record.header, &record.life, detail)
}

fn turned(record: raw::Touch) -> Event {
    let after_ns = (record.life.valid & valid::AGE != 0).then_some(record.after_ns);
    event(record.header, &record.life, Detail::Turned { after_ns })
}

fn rearmed(record: raw::Touch) -> Event {
    let timeout_ms = (record.life.valid & valid::TIMEOUT != 0).then_some(record.timeout_ms);
    event(record.header, &record.life, Detail::Rearmed { timeout_ms })
}

fn died(record: raw::Death) -> Event {
    let detail = Detail::Died {
        cause: Cause::from_raw(record.cause),
        life_ns: (record.life.valid & valid::AGE != 0).then_some(record.life_ns),
        taker: (record.life.valid & valid::TAKER != 0).then(|| task(record.taker_pid, record.taker_comm)),
    };
    event(record.header, &record.life, detail)
}

fn no_port(record: raw::Connect) -> Event {
    event(record.header, &record.life, Detail::NoPort { took_ns: took_ns(&record), holder: None })
}

fn reuse_denied(record: raw::Connect) -> Event {
    let (reason, count) = (Denial::from_raw(record.reason), record.count);
    event(record.header, &record.life, Detail::ReuseDenied { reason, count, took_ns: took_ns(&record) })
}

fn no_bind(record: raw::Bind) -> Event {
    let call = Call::from_raw(record.call);
    event(record.header, &record.life, Detail::NoBind { call, holder: None })
}

fn took_ns(record: &raw::Connect) -> Option<u64> {
    (record.life.valid & valid::CONNECT != 0).then_some(record.took_ns)
}

#[cfg(test)]
mod tests;
