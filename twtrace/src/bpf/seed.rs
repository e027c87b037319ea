//! Looks at the kernel's own minisocks: those that no birth told, and lives that ended unseen. What a look needs it owns, so
//! that a thread of its own can do it.

use std::{
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
    thread,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData},
    programs::{Iter, Program, ProgramError, RawTracePoint},
};
use twtrace_common::{
    record,
    state::{Alive, verdict},
};

use super::{
    attach::{Attached, BpfError, Kernel, chain},
    lives::{Doubt, Suspects, Table, doubt},
    sys,
};
use crate::{
    decode::{over, seeds},
    host::{Host, clock, counters::Sockstat, netns::Netns},
    model::event::Life,
};

/// The iterator's program.
pub(super) const SEED: &str = "seed_iter";
/// The program that says whether a life is over.
pub(super) const BURY: &str = "bury";
/// How much is read at once, whole records, bytes. The kernel ends a read as soon as it has this much, and its buffer is 8
/// pages (bpf_seq_read): so there is always room for one record more. Were the buffer ever full, the kernel would take
/// the last minisock back and show it again, when it has been entered and is not told any more.
const CHUNK: usize = 16_384 / size_of::<record::Life>() * size_of::<record::Life>();
/// Most walks through one namespace.
const WALKS: usize = 8;
/// How far two verdicts are apart at least before an end is believed to have been missed. The kernel takes a minisock's timer
/// off and calls the program within microseconds; milliseconds where softirqs are threads.
const APART: Duration = Duration::from_millis(50);

/// What looks at minisocks, one namespace at a time. A look is [`Looker::begin`], [`Looker::walk`] for each namespace, and
/// [`Looker::end`].
pub struct Looker {
    /// A link of the iterator's program.
    link: OwnedFd,
    /// The program that says whether a life is over; `None` if the kernel cannot run it (before 5.10).
    bury: Option<OwnedFd>,
    number: Array<MapData, u32>,
    table: Table,
    suspects: Suspects,
    /// The number of the present look; and when it began, nanoseconds of `CLOCK_MONOTONIC`.
    look: (u32, u64),
}

/// What a look found out about the lives that are in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Lives whose end no program told, by this look and the one before.
    pub unseen: u64,
    /// Entered minisocks that the filters let through.
    pub lives: Vec<Life>,
    /// Minisocks that this look had entered, and that were dead already: no lives.
    pub withdrawn: u64,
}

impl Attached {
    /// Loads what looks at minisocks.
    ///
    /// # Errors
    /// If this kernel has no TCP socket iterator (before 5.9) or refuses it.
    pub fn looker(&mut self, kernel: &Kernel) -> Result<Looker, BpfError> {
        let wrong = |error: ProgramError| BpfError::Seed(chain(&error));
        let io_error = |error: io::Error| BpfError::Seed(error.to_string());
        let program = self.ebpf.program_mut(SEED).ok_or(BpfError::Missing(SEED))?;
        let program: &mut Iter = program.try_into().map_err(wrong)?;
        program.load("tcp", &kernel.btf).map_err(wrong)?;
        let link = sys::iter_link(program.fd().map_err(wrong)?.as_fd()).map_err(io_error)?;
        let program = self.ebpf.program_mut(BURY).ok_or(BpfError::Missing(BURY))?;
        let bury = load_bury(program)
            .inspect_err(|error| log::warn!("ends that no program saw cannot be found here: {}", chain(error)));
        let number = Map::Array(duplicate(&self.ebpf, "LOOK", "map LOOK")?);
        Ok(Looker {
            link,
            bury: bury.ok(),
            number: number.try_into().map_err(|source| BpfError::Map { name: "LOOK", source })?,
            table: Table::new(
                &duplicate(&self.ebpf, "LIFE_SLOTS", "map LIFE_SLOTS")?,
                duplicate(&self.ebpf, "LIFE_REST", "map LIFE_REST")?,
            )?,
            suspects: Suspects::default(),
            look: (0, 0),
        })
    }
}

pub(super) fn load_bury(program: &mut Program) -> Result<OwnedFd, ProgramError> {
    let program = <&mut RawTracePoint>::try_from(program)?;
    program.load()?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

/// Another descriptor of a map.
fn duplicate(ebpf: &Ebpf, name: &'static str, missing: &'static str) -> Result<MapData, BpfError> {
    let map = match ebpf.map(name) {
        Some(Map::Array(map) | Map::HashMap(map)) => map,
        _ => return Err(BpfError::Missing(missing)),
    };
    let fd = map.fd().as_fd().try_clone_to_owned().map_err(|error| BpfError::Seed(error.to_string()))?;
    MapData::from_fd(fd).map_err(|source| BpfError::Map { name, source })
}

impl Looker {
    /// Begins a look. The first finds what is older than the run.
    ///
    /// # Errors
    /// If the programs cannot be told.
    pub fn begin(&mut self) -> Result<(), BpfError> {
        // Zero stands for none.
        let look = self.look.0.checked_add(1).unwrap_or(2);
        self.look = (look, clock::monotonic_ns());
        self.number.set(0, look, 0).map_err(|source| BpfError::Map { name: "LOOK", source })
    }

    /// Enters every minisock of a namespace into the table of lives, if absent, and counts it as seeded; `each` gets those that
    /// the filters let through.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or its sockets cannot be listed.
    pub fn walk(&self, namespace: &Netns, each: &mut (dyn FnMut(Life) + Send)) -> io::Result<()> {
        let link = &self.link;
        namespace.run(|| walks(link, each))
    }

    /// Looks in the calling thread, which belongs into another namespace: see [`Netns::visit`].
    ///
    /// # Errors
    /// As above.
    pub fn visit(&self, namespace: &Netns, home: &Netns, each: &mut dyn FnMut(Life)) -> io::Result<()> {
        namespace.visit(home, || walks(&self.link, each))
    }

    /// Ends a look: finds lives in the table that the kernel has ended and no program told. Who is dead at two looks is believed
    /// to be; if there will be no other, `is_last`, at two moments of this one.
    pub fn end(&mut self, is_last: bool) -> Ends {
        let mut ends = Ends::default();
        let Some(bury) = &self.bury else { return ends };
        let (look, began_ns) = (u64::from(self.look.0), self.look.1);
        let mut doubts = Vec::new();
        self.table.each(|address, entry| {
            if let Some(doubt) = doubt(entry, look, began_ns) {
                doubts.push((address, *entry, doubt));
            }
        });
        let mut failure = None;
        let mut judge = |suspects: &mut Suspects, doubts: &[(u64, Alive, Doubt)]| {
            for (address, entry, doubt) in doubts {
                let is_sure = *doubt == Doubt::New || suspects.is_known(*address, entry.id);
                let verdict = sys::run(bury.as_fd(), &[*address, entry.id, u64::from(is_sure)]);
                match verdict.map(|verdict| verdict == verdict::DEAD) {
                    Ok(true) if *doubt == Doubt::New => ends.withdrawn += 1,
                    Ok(true) if is_sure => {
                        ends.unseen += 1;
                        ends.lives.extend(over(entry));
                    }
                    Ok(true) => suspects.enter(*address, entry.id),
                    Ok(false) => {}
                    Err(error) => {
                        failure = Some(error);
                        return;
                    }
                }
            }
        };
        judge(&mut self.suspects, &doubts);
        if self.suspects.turn() > 0 && is_last {
            thread::sleep(APART);
            doubts.retain(|(address, entry, _)| self.suspects.is_known(*address, entry.id));
            judge(&mut self.suspects, &doubts);
        }
        if let Some(error) = failure {
            log::warn!("ends that no program saw cannot be found here: {error}");
            self.bury = None;
        }
        ends
    }
}

/// How the iterator went through the sockets of a namespace.
enum Walked {
    /// In one go: it has seen every bucket of the table whole.
    Whole,
    /// With pauses. After one it goes on by a socket's number in its bucket (not so on newer kernels), and if another of
    /// that bucket has gone meanwhile it passes one over. A second walk finds hardly anything new, and so needs no pause.
    InParts,
}

/// The iterator shows the sockets of the namespace in which it is made (seq_file_net of bpf_iter_create).
fn walks(link: &OwnedFd, each: &mut dyn FnMut(Life)) -> io::Result<()> {
    // Most of many namespaces have none, and the kernel would go through the sockets of all the others to say so.
    if Sockstat::read(&Host::default()).is_ok_and(|counts| counts.tw == 0) {
        return Ok(());
    }
    for _ in 0..WALKS {
        match walk(link, each)? {
            Walked::Whole => break,
            Walked::InParts => {}
        }
    }
    Ok(())
}

fn walk(link: &OwnedFd, each: &mut dyn FnMut(Life)) -> io::Result<Walked> {
    let mut file = sys::iterate(link.as_fd())?;
    let mut chunk = vec![0; CHUNK];
    let mut chunks = 0;
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => {
                chunks += 1;
                seeds(&chunk[..length]).map_err(io::Error::other)?.into_iter().for_each(&mut *each);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A million sockets, none of them to be told (MAX_ITER_OBJECTS of kernel/bpf/bpf_iter.c).
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => chunks += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(if chunks > 1 { Walked::InParts } else { Walked::Whole })
}
