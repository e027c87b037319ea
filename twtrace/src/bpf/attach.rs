//! From a plan to programs that run, or to the hook that the kernel refused and why.

mod error;

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use aya::{
    Btf, Ebpf, EbpfLoader, Endianness, VerifierLogLevel,
    maps::{Array, CgroupArray, MapData, RingBuf},
    programs::{BtfTracePoint, FEntry, FExit, KProbe, Program, ProgramError},
};
use aya_log::EbpfLogger;
use error::refusal;
use twtrace_common::knob::{Filter, Linger, LiveKnobs, PORTS_EITHER, PORTS_LOCAL, PORTS_REMOTE, PortSet, stage};

use super::{
    globals::{Globals, Offsets, SLOTTED, Slots, duties},
    grace, passive,
    seed::{BURY, SEED},
};
use crate::{
    host::{
        Host, HostError,
        btf::{KernelTypes, VMLINUX},
        clock,
        ksyms::KernelSymbols,
    },
    plan::{Attach, Counting, Facts, Hook, Plan},
};
pub(super) use error::chain;
pub use error::{AttachError, BpfError};

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/twtrace-ebpf.o"));

/// Sockets between the ACK of our FIN and their end: few, unless peers do not close, and then they are orphans soon. Their
/// slots are taken at random, so they should fit into a CPU's cache.
const CLOSING: Slots = Slots { slots: 1 << 10, rest: 1 << 15 };

/// Sockets inside connect() that were denied a minisock: one a task at most, and what successful ones left behind.
const DENIED: u32 = 1 << 12;

/// Sizes of the tables, entries; the ring in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// The ring: a power of two of at least a page.
    pub ring: u32,
    /// Minisocks alive at once.
    pub lives: u32,
    /// Connections followed at once.
    pub conns: u32,
}

/// How a run wants its programs.
pub struct Settings {
    /// The filters.
    pub filter: Filter,
    /// The filters' port sets: local, remote, either.
    pub ports: Box<[PortSet; 3]>,
    /// The filters' cgroups whose whole subtree is wanted: directories of the cgroup v2 tree, as many as
    /// [`Filter::cgroup_trees`] says.
    pub trees: Vec<PathBuf>,
    /// Sizes.
    pub tables: Tables,
    /// Inode number of the network namespace that twtrace is in.
    pub own_netns: u32,
    /// Level of aya-log, 0 for off.
    pub log_level: u8,
    /// Count the connections that the peer closed first, of so many services and peers at least: see [`Attached::passive`].
    /// 0: do not count them.
    pub passive: u32,
    /// Keep the minisocks that were there before: see `Tracer::seeds`.
    pub keep_seeds: bool,
    /// Make programs linger, for tests.
    pub linger: Linger,
}

impl Settings {
    /// Everything passes, and the programs log nothing.
    #[must_use]
    pub fn all(tables: Tables, own_netns: u32) -> Self {
        Self {
            filter: Filter::ALL,
            ports: Box::new([[0; _]; 3]),
            trees: Vec::new(),
            tables,
            own_netns,
            log_level: 0,
            passive: 0,
            keep_seeds: false,
            linger: Linger::NEVER,
        }
    }
}

/// The kernel's side, gathered once: facts for the plan, offsets and addresses for the programs.
pub struct Kernel {
    /// For the plan.
    pub facts: Facts,
    /// For the programs.
    pub offsets: Offsets,
    symbols: KernelSymbols,
    pub(super) btf: Btf,
}

/// Gathers what the plan and the programs need to know of this kernel. `btf`: another BTF for the fields' offsets.
///
/// # Errors
/// If the BTF cannot be read or is none.
pub fn gather(host: &Host, file: Option<&Path>) -> Result<Kernel, BpfError> {
    let types = KernelTypes::read(host, file)?;
    let offsets = Offsets::resolve(&types);
    let symbols = KernelSymbols::read(host).unwrap_or_default();
    let facts = crate::host::facts(host, &types, &symbols, offsets.missing(), offsets.unknown());
    // Programs are attached by ids of the running kernel's own BTF; another file gives offsets only.
    let own = host.path(VMLINUX);
    let path = if own.exists() { own.as_path() } else { types.path() };
    let btf = Btf::parse_file(path, Endianness::default())
        .map_err(|error| HostError::Strange { path: path.to_owned(), what: chain(&error) })?;
    Ok(Kernel { facts, offsets, symbols, btf })
}

/// Programs that run. They stop when this is dropped.
pub struct Attached {
    pub(super) ebpf: Ebpf,
    pub(super) ring: Option<RingBuf<MapData>>,
    /// The programs that are loaded, or will be.
    pub(super) names: Vec<&'static str>,
    /// How the skipped runs of each program of the plan become known.
    pub(super) counting: Vec<(&'static str, Counting)>,
    knobs: LiveKnobs,
    pub(super) passive: passive::Memory,
}

/// Loads and attaches what the plan names.
///
/// # Errors
/// The first hook that the kernel refuses, or what is wrong with the object as a whole.
pub fn attach(kernel: &Kernel, plan: &Plan, settings: &Settings) -> Result<Attached, AttachError> {
    let mut ebpf = open(kernel, plan, settings, VerifierLogLevel::default())?;
    // All are loaded before the first goes live: the verifier takes its time, and hooks that are live should be few
    // moments apart.
    for step in [load_program, attach_program] {
        for hook in &plan.hooks {
            let program = ebpf.program_mut(hook.program).ok_or(BpfError::Missing(hook.program))?;
            step(program, *hook, &kernel.btf).map_err(|error| refusal(*hook, error))?;
        }
    }
    let ring = RingBuf::try_from(ebpf.take_map("RING").ok_or(BpfError::Missing("map RING"))?)
        .map_err(|source| BpfError::Map { name: "RING", source })?;
    let names = plan.hooks.iter().map(|hook| hook.program).chain([SEED, BURY]).collect();
    let counting = plan.hooks.iter().map(|hook| (hook.program, kernel.facts.misses.of(hook.attach))).collect();
    let mut attached = Attached {
        ebpf,
        ring: Some(ring),
        names,
        counting,
        knobs: LiveKnobs::default(),
        passive: passive::Memory::default(),
    };
    attached.begin()?;
    Ok(attached)
}

/// The object with its maps made and its globals set, no program loaded.
pub(super) fn open(
    kernel: &Kernel,
    plan: &Plan,
    settings: &Settings,
    log: VerifierLogLevel,
) -> Result<Ebpf, AttachError> {
    let duties = duties(plan, &kernel.offsets, kernel.facts.addresses, settings.passive != 0);
    let closing = if duties.tp_birth == 1 { CLOSING } else { Slots::of(1) };
    let slots = [Slots::of(settings.tables.conns), Slots::of(settings.tables.lives), closing];
    let globals = Globals {
        masks: slots.each_ref().map(|table| table.slots - 1),
        offsets: kernel.offsets.clone(),
        functions: kernel.symbols.functions(),
        duties,
        filter: settings.filter.settled(),
        linger: settings.linger,
        hz: clock::hz(),
        own_netns: settings.own_netns,
        // A quarter full: the rest is room for what comes until the reader runs.
        wake_at: u64::from(settings.tables.ring / 4),
        log_level: settings.log_level,
    };
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&kernel.btf)).verifier_log_level(log);
    globals.set(&mut loader);
    loader
        .map_max_entries("RING", settings.tables.ring)
        .map_max_entries("DENIED", if globals.duties.reuse_denied == 1 { DENIED } else { 1 })
        .map_max_entries("PASSIVE", passive::entries(settings.passive));
    for (table, (name, rest, _)) in slots.iter().zip(SLOTTED) {
        loader.map_max_entries(name, table.slots).map_max_entries(rest, table.rest);
    }
    let mut ebpf = loader.load(OBJECT)?;
    ports(&mut ebpf, &settings.ports)?;
    trees(&mut ebpf, &settings.trees)?;
    Ok(ebpf)
}

pub(super) fn load_program(program: &mut Program, hook: Hook, btf: &Btf) -> Result<(), ProgramError> {
    match hook.attach {
        Attach::Fentry => <&mut FEntry>::try_from(program)?.load(hook.target, btf),
        Attach::Fexit => <&mut FExit>::try_from(program)?.load(hook.target, btf),
        Attach::Kprobe => <&mut KProbe>::try_from(program)?.load(),
        Attach::TpBtf => <&mut BtfTracePoint>::try_from(program)?.load(hook.target, btf),
    }
}

fn attach_program(program: &mut Program, hook: Hook, _: &Btf) -> Result<(), ProgramError> {
    match hook.attach {
        Attach::Fentry => <&mut FEntry>::try_from(program)?.attach().map(drop),
        Attach::Fexit => <&mut FExit>::try_from(program)?.attach().map(drop),
        Attach::Kprobe => <&mut KProbe>::try_from(program)?.attach(hook.target, 0).map(drop),
        Attach::TpBtf => <&mut BtfTracePoint>::try_from(program)?.attach().map(drop),
    }
}

fn unload(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::FEntry(program) => program.unload(),
        Program::FExit(program) => program.unload(),
        Program::KProbe(program) => program.unload(),
        Program::BtfTracePoint(program) => program.unload(),
        Program::Iter(program) => program.unload(),
        Program::RawTracePoint(program) => program.unload(),
        _ => Ok(()),
    }
}

fn ports(ebpf: &mut Ebpf, sets: &[PortSet; 3]) -> Result<(), BpfError> {
    let map = ebpf.map_mut("PORTS").ok_or(BpfError::Missing("map PORTS"))?;
    let wrong = |source| BpfError::Map { name: "PORTS", source };
    let mut rows: Array<_, PortSet> = Array::try_from(map).map_err(wrong)?;
    for (row, set) in [PORTS_LOCAL, PORTS_REMOTE, PORTS_EITHER].into_iter().zip(sets) {
        rows.set(row, set, 0).map_err(wrong)?;
    }
    Ok(())
}

fn trees(ebpf: &mut Ebpf, trees: &[PathBuf]) -> Result<(), BpfError> {
    let map = ebpf.map_mut("CGROUPS").ok_or(BpfError::Missing("map CGROUPS"))?;
    let wrong = |source| BpfError::Map { name: "CGROUPS", source };
    let mut rows = CgroupArray::try_from(map).map_err(wrong)?;
    for (row, path) in (0..).zip(trees) {
        let gone = |source| HostError::Read { path: path.clone(), source };
        rows.set(row, File::open(path).map_err(gone)?, 0).map_err(wrong)?;
    }
    Ok(())
}

impl Attached {
    /// The ring's reading end; `None` the second time.
    pub fn take_ring(&mut self) -> Option<RingBuf<MapData>> {
        self.ring.take()
    }

    /// The reading end of the programs' own log.
    ///
    /// # Errors
    /// If the object has none.
    pub fn logger(&mut self) -> Result<EbpfLogger<&'static dyn log::Log>, aya_log::Error> {
        EbpfLogger::init(&mut self.ebpf)
    }

    /// Names the namespace of the self-test; 0: it is over.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn set_self_test(&mut self, self_test_netns: u32) -> Result<(), BpfError> {
        self.turn(LiveKnobs { self_test_netns, ..self.knobs })
    }

    /// Lets the programs act. What follows minisocks comes first: between a minisock's birth and its socket's transition to
    /// CLOSE, on one CPU, nobody may begin to look at transitions.
    fn begin(&mut self) -> Result<(), BpfError> {
        self.turn(LiveKnobs { stage: stage::MINISOCKS, ..self.knobs })?;
        grace::period();
        self.turn(LiveKnobs { stage: stage::ALL, ..self.knobs })
    }

    /// Lets no program act any more. Those that run already end as usual: see [`Attached::settle`].
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn stop(&mut self) -> Result<(), BpfError> {
        self.turn(LiveKnobs { stage: stage::STOPPED, ..self.knobs })
    }

    /// Waits until no program runs any more that ran when it was called: after a stop, counters and ring stand still.
    pub fn settle(&self) {
        grace::period();
    }

    fn turn(&mut self, to: LiveKnobs) -> Result<(), BpfError> {
        let map = self.ebpf.map_mut("LIVE_KNOBS").ok_or(BpfError::Missing("map LIVE_KNOBS"))?;
        let wrong = |source| BpfError::Map { name: "LIVE_KNOBS", source };
        let mut knobs: Array<_, LiveKnobs> = Array::try_from(map).map_err(wrong)?;
        knobs.set(0, to, 0).map_err(wrong)?;
        self.knobs = to;
        Ok(())
    }

    /// Takes one program off its hook: for tests of what is said of events that no program saw.
    ///
    /// # Errors
    /// If it is not loaded.
    pub fn blind(&mut self, program: &'static str) -> Result<(), BpfError> {
        let found = self.ebpf.program_mut(program).ok_or(BpfError::Missing(program))?;
        unload(found).map_err(|_| BpfError::Missing(program))
    }

    /// Takes every program off its hook; maps and their contents stay.
    pub fn detach(&mut self) {
        for (_, program) in self.ebpf.programs_mut() {
            // One that was never loaded has nothing to unload.
            let _not_loaded = unload(program);
        }
    }
}
