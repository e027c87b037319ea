//! The ways into an event and out of it, for its fields.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value as Json;

use super::Value;
use crate::model::{
    event::{Closer, Comm, Connection, Detail, Event, Task, Tuple},
    holder::Holder,
};

/// A connection of this family whose ends are not entered yet.
pub(super) fn nowhere(family: u8) -> Option<Tuple> {
    let any: IpAddr = match family {
        4 => Ipv4Addr::UNSPECIFIED.into(),
        6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    Some(Tuple { laddr: any, lport: 0, raddr: any, rport: 0 })
}

/// The connection, if it has a remote end.
pub(super) fn remote(event: &Event) -> Option<Tuple> {
    event.life.tuple.filter(|_| !matches!(event.detail, Detail::NoBind { .. }))
}

pub(super) fn closer(event: &mut Event) -> &mut Closer {
    event.life.closer.get_or_insert(Closer { task: NOBODY, cgroup_id: 0 })
}

pub(super) const NOBODY: Task = Task { pid: 0, comm: Comm([0; twtrace_common::COMM_LEN]) };

pub(super) fn task(task: &mut Option<Task>) -> &mut Task {
    task.get_or_insert(NOBODY)
}

pub(super) fn taker(event: &Event) -> Option<&Task> {
    match &event.detail {
        Detail::Died { taker, .. } => taker.as_ref(),
        _ => None,
    }
}

pub(super) fn holder(event: &Event) -> Option<&Holder> {
    match &event.detail {
        Detail::NoPort { holder, .. } | Detail::NoBind { holder, .. } => holder.as_ref(),
        _ => None,
    }
}

pub(super) fn holder_mut(event: &mut Event) -> Option<&mut Option<Holder>> {
    match &mut event.detail {
        Detail::NoPort { holder, .. } | Detail::NoBind { holder, .. } => Some(holder),
        _ => None,
    }
}

pub(super) fn before(event: &Event) -> Option<&Connection> {
    match &event.detail {
        Detail::Born { connection, .. } | Detail::Refused { connection, .. } => Some(connection),
        _ => None,
    }
}

pub(super) fn before_mut(event: &mut Event) -> Option<&mut Connection> {
    match &mut event.detail {
        Detail::Born { connection, .. } | Detail::Refused { connection, .. } => Some(connection),
        _ => None,
    }
}

/// The word of what has one.
fn known(word: &'static str) -> Option<&'static str> {
    (word != "?").then_some(word)
}

pub(super) fn number<'a>(number: Option<impl Into<u64>>) -> Value<'a> {
    number.map_or(Value::Null, |number| Value::Integer(number.into()))
}

pub(super) fn flag<'a>(flag: Option<bool>) -> Value<'a> {
    flag.map_or(Value::Null, Value::Bool)
}

pub(super) fn word<'a>(word: Option<&'static str>) -> Value<'a> {
    word.and_then(known).map_or(Value::Null, Value::Word)
}

pub(super) fn address<'a>(address: Option<IpAddr>) -> Value<'a> {
    address.map_or(Value::Null, Value::Address)
}

pub(super) fn name(comm: Option<&Comm>) -> Value<'_> {
    comm.map_or(Value::Null, Value::Name)
}

pub(super) fn unsigned<T: TryFrom<u64>>(value: &Json) -> Option<T> {
    T::try_from(value.as_u64()?).ok()
}

pub(super) fn set<T>(place: &mut Option<T>, value: T) -> Option<()> {
    *place = Some(value);
    Some(())
}

pub(super) fn put<T>(place: &mut T, value: T) -> Option<()> {
    *place = value;
    Some(())
}
