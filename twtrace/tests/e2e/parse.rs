//! A JSON line back to the event that it was made from, so that the lab's judge can read what a user reads. Strict: a
//! field too many, one too few, or one of another type is an error.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde_json::Value;
use twtrace::{
    model::event::{
        Call, Cause, Closer, Comm, Connection, Denial, Detail, Event, Kind, Life, Refusal, Role, Substate, Task, Tuple,
    },
    model::holder::{HeldBy, Holder},
    sink::{fields, json::VERSION},
};

/// The events among these lines, in the order in which they happened. Lines that are none may only be ticks and losses.
pub fn events(lines: &[Value]) -> Result<Vec<Event>, String> {
    let is_event = |line: &&Value| !matches!(line["type"].as_str(), Some("tick" | "lost"));
    let mut events = lines.iter().filter(is_event).map(event).collect::<Result<Vec<_>, _>>()?;
    events.sort_by_key(|event| event.mono_ns);
    Ok(events)
}

/// One event.
pub fn event(value: &Value) -> Result<Event, String> {
    read(&Line(value)).map_err(|what| format!("{what}: {value}"))
}

type Read<T> = Result<T, String>;

struct Line<'a>(&'a Value);

impl Line<'_> {
    fn get<T>(&self, name: &str, read: impl FnOnce(&Value) -> Option<T>) -> Read<Option<T>> {
        match &self.0[name] {
            Value::Null => Ok(None),
            value => read(value).map(Some).ok_or_else(|| format!("{name} cannot be {value}")),
        }
    }

    fn number<T: TryFrom<u64>>(&self, name: &str) -> Read<Option<T>> {
        self.get(name, |value| T::try_from(value.as_u64()?).ok())
    }

    fn flag(&self, name: &str) -> Read<Option<bool>> {
        self.get(name, Value::as_bool)
    }

    fn word<T>(&self, name: &str, from_word: fn(&str) -> Option<T>) -> Read<Option<T>> {
        self.get(name, |value| from_word(value.as_str()?))
    }

    fn parsed<T: FromStr>(&self, name: &str) -> Read<Option<T>> {
        self.get(name, |value| value.as_str()?.parse().ok())
    }

    /// Two values that are both known or both not.
    fn task(&self, pid: &str, comm: &str) -> Read<Option<Task>> {
        match (self.number(pid)?, self.word(comm, name)?) {
            (Some(pid), Some(comm)) => Ok(Some(Task { pid, comm })),
            (None, None) => Ok(None),
            _ => Err(format!("half of {pid} and {comm}")),
        }
    }

    /// The local end of what has no remote one.
    fn local(&self) -> Read<Option<Tuple>> {
        if !self.0["raddr"].is_null() || !self.0["rport"].is_null() {
            return Err("a remote end where there is none".to_owned());
        }
        let (Some(family), Some(laddr)) = (self.number::<u8>("family")?, self.parsed::<IpAddr>("laddr")?) else {
            return Ok(None);
        };
        let raddr = if family == 4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let tuple = Tuple { laddr, lport: self.number("lport")?.unwrap_or(0), raddr, rport: 0 };
        if family == tuple.family() { Ok(Some(tuple)) } else { Err("the family is not that of the address".to_owned()) }
    }

    fn holder(&self) -> Read<Option<Holder>> {
        let task = self.task("holder_pid", "holder_comm")?;
        let (held_ms, expires_in_ms) = (self.number("held_ms")?, self.number("expires_in_ms")?);
        match self.word("held_by", HeldBy::from_word)? {
            Some(by) if by == HeldBy::TimeWait && task.is_some() => Err("a process that has a minisock".to_owned()),
            Some(by) => Ok(Some(Holder { by, task, held_ms, expires_in_ms })),
            None if task.is_none() && held_ms.is_none() && expires_in_ms.is_none() => Ok(None),
            None => Err("half of a holder".to_owned()),
        }
    }

    /// `portless`: there may be no local port.
    fn tuple(&self, portless: bool) -> Read<Option<Tuple>> {
        let (family, lport) = (self.number::<u8>("family")?, self.number("lport")?);
        let addresses: (Option<IpAddr>, Option<IpAddr>) = (self.parsed("laddr")?, self.parsed("raddr")?);
        let (family, (laddr, raddr), rport) = match (family, addresses, self.number("rport")?) {
            (Some(family), (Some(laddr), Some(raddr)), Some(rport)) => (family, (laddr, raddr), rport),
            (None, (None, None), None) if lport.is_none() => return Ok(None),
            _ => return Err("half of a connection".to_owned()),
        };
        let tuple = Tuple { laddr, lport: lport.unwrap_or(0), raddr, rport };
        if lport.is_none() && !portless || lport == Some(0) {
            return Err("lport is null where there is a port, or is 0".to_owned());
        }
        if family != tuple.family() || laddr.is_ipv4() != raddr.is_ipv4() || laddr != laddr.to_canonical() {
            return Err("the family is not that of the addresses".to_owned());
        }
        Ok(Some(tuple))
    }

    fn closer(&self) -> Read<Option<Closer>> {
        match (self.task("pid", "comm")?, self.number("cgroup_id")?) {
            (Some(task), Some(cgroup_id)) => Ok(Some(Closer { task, cgroup_id })),
            (None, None) => Ok(None),
            _ => Err("half of a closer".to_owned()),
        }
    }

    fn connection(&self) -> Read<Connection> {
        Ok(Connection {
            opener: self.task("opener_pid", "opener_comm")?,
            conn_ns: self.number("conn_ns")?,
            connect_ns: self.number("connect_ns")?,
            timestamps: self.flag("timestamps")?,
            bytes_in: self.number("bytes_in")?,
            bytes_out: self.number("bytes_out")?,
            srtt_us: self.number("srtt_us")?,
            mark: self.number("mark")?,
        })
    }
}

fn name(text: &str) -> Option<Comm> {
    let mut comm = [0; twtrace_common::COMM_LEN];
    // The last byte of a name is always NUL.
    comm[..twtrace_common::COMM_LEN - 1].get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some(Comm(comm))
}

fn read(line: &Line<'_>) -> Read<Event> {
    let kind = line.word("type", Kind::from_word)?.ok_or("no type")?;
    shape(line, kind)?;
    let life = Life {
        id: line.number("id")?,
        netns: line.number("netns")?,
        tuple: if kind == Kind::NoBind { line.local()? } else { line.tuple(kind == Kind::NoPort)? },
        // Not every type has these, and what is not there reads as null: the shape was looked at.
        substate: line.word("substate", Substate::from_word)?,
        role: line.word("role", Role::from_word)?,
        closer: line.closer()?,
        preexisting: line.flag("preexisting")?,
    };
    let timeout_ms = || line.number("timeout_ms");
    let detail = match kind {
        Kind::Born => Detail::Born { timeout_ms: timeout_ms()?, connection: line.connection()? },
        Kind::Turned => Detail::Turned { after_ns: line.number("after_ns")? },
        Kind::Rearmed => Detail::Rearmed { timeout_ms: timeout_ms()? },
        Kind::Died => Detail::Died {
            cause: line.word("cause", Cause::from_word)?.unwrap_or(Cause::Unknown(0)),
            life_ns: line.number("life_ns")?,
            taker: line.task("taker_pid", "taker_comm")?,
        },
        Kind::Refused if !line.0["timeout_ms"].is_null() => return Err("a refusal with a timer".to_owned()),
        Kind::Refused => Detail::Refused {
            reason: line.word("reason", Refusal::from_word)?.unwrap_or(Refusal::Unknown(0)),
            used: line.number("used")?,
            limit: line.number("limit")?,
            connection: line.connection()?,
        },
        Kind::NoPort if life.id.is_some() => return Err("a minisock's id without a minisock".to_owned()),
        Kind::NoPort => Detail::NoPort { took_ns: line.number("took_ns")?, holder: line.holder()? },
        Kind::NoBind => Detail::NoBind {
            call: line.word("call", Call::from_word)?.unwrap_or(Call::Unknown(0)),
            holder: line.holder()?,
        },
        Kind::ReuseDenied => Detail::ReuseDenied {
            reason: line.word("reason", Denial::from_word)?.unwrap_or(Denial::Unknown(0)),
            count: line.number("count")?.ok_or("no count")?,
            took_ns: line.number("took_ns")?,
        },
        Kind::Unknown(_) => return Err("no such type".to_owned()),
    };
    let mono_ns = line.number("mono_ns")?.ok_or("no mono_ns")?;
    Ok(Event { mono_ns, life, detail, self_test: false })
}

/// The fields that docs/events.md promises for this type are there, and no others; those that are never null are not.
fn shape(line: &Line<'_>, kind: Kind) -> Read<()> {
    let promised = fields::LINES.iter().find(|line| line.kind == kind.word()).ok_or("no such type")?;
    let names: BTreeSet<&str> = promised.fields().map(|field| field.name).collect();
    let object = line.0.as_object().ok_or("no object")?;
    let seen: BTreeSet<&str> = object.keys().map(String::as_str).collect();
    if names != seen {
        let odd: Vec<_> = names.symmetric_difference(&seen).collect();
        return Err(format!("not the fields that were promised: {odd:?}"));
    }
    if let Some(field) = promised.fields().find(|field| field.null.is_none() && object[field.name].is_null()) {
        return Err(format!("{} is null", field.name));
    }
    if line.0["v"] != VERSION || !line.0["ts"].is_string() {
        return Err("v or ts is wrong".to_owned());
    }
    Ok(())
}
