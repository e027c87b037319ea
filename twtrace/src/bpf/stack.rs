//! How much stack the programs take, read from the object that ships: without a kernel, and for all kernels at once.
//!
//! A verifier adds up the stack of the functions of each chain of calls, and refuses more than 512 bytes. Most do not print
//! what they have found; those that do leave out what they have removed as dead, and what gets a stack of its own.

use std::collections::{BTreeMap, BTreeSet};

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind, SymbolKind};

use super::attach::OBJECT;

/// What a chain may take, of 512 bytes (MAX_BPF_STACK): the rest is for what compilers spill.
const DEEPEST: u64 = 480;
/// Verifiers before 6.8 round each function's stack up to this, and none to none (check_max_stack_depth_subprog of
/// kernel/bpf/verifier.c); later ones to 16.
const STEP: u64 = 32;

/// A section, and a place in it.
type Place = (usize, u64);

struct Function {
    name: String,
    is_program: bool,
    /// Bytes of stack.
    depth: u64,
    calls: BTreeSet<Place>,
}

/// An instruction (struct bpf_insn of include/uapi/linux/bpf.h).
#[derive(Clone, Copy)]
struct Insn {
    code: u8,
    dst: u8,
    src: u8,
    off: i16,
    imm: i32,
}

impl Insn {
    fn read(bytes: &[u8]) -> Self {
        let [code, registers, off @ .., _, _, _, _] = bytes else { panic!("half an instruction") };
        Self {
            code: *code,
            dst: registers & 15,
            src: registers >> 4,
            off: i16::from_le_bytes(off.try_into().unwrap()),
            imm: i32::from_le_bytes(bytes[4..].try_into().unwrap()),
        }
    }
}

/// The register that holds the frame, the opcodes that matter, and the mark of a call of a function of the object.
const FRAME: u8 = 10;
const MOV64_X: u8 = 0xbf;
const ADD64_K: u8 = 0x07;
const LD_IMM64: u8 = 0x18;
const CALL: u8 = 0x85;
const PSEUDO_CALL: u8 = 1;

/// The deepest place that these instructions reach below the frame: by an access, or by a pointer that they pass on.
fn depth(insns: &[Insn]) -> u64 {
    let below = |offset: i64| u64::try_from(-offset).unwrap_or(0);
    let mut deepest = 0;
    for (at, insn) in insns.iter().enumerate() {
        match insn.code & 7 {
            // BPF_LDX, then BPF_ST and BPF_STX.
            1 if insn.src == FRAME => deepest = deepest.max(below(insn.off.into())),
            2 | 3 if insn.dst == FRAME => deepest = deepest.max(below(insn.off.into())),
            _ if insn.code == MOV64_X && insn.src == FRAME => {
                let mut of_copy = insns[at + 1..].iter().filter(|next| next.dst == insn.dst);
                if let Some(add) = of_copy.next().filter(|next| next.code == ADD64_K) {
                    deepest = deepest.max(below(add.imm.into()));
                }
            }
            _ => {}
        }
    }
    deepest
}

fn functions(object: &[u8]) -> BTreeMap<Place, Function> {
    let file = object::File::parse(object).unwrap();
    let mut all = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
        if section.kind() != SectionKind::Text || symbol.size() == 0 {
            continue;
        }
        let relocations: BTreeMap<u64, Place> = section
            .relocations()
            .filter_map(|(at, relocation)| match relocation.target() {
                RelocationTarget::Symbol(index) => {
                    let target = file.symbol_by_index(index).ok()?;
                    Some((at, (target.section_index()?.0, target.address())))
                }
                _ => None,
            })
            .collect();
        let range = symbol.address()..symbol.address() + symbol.size();
        let code = &section.data().unwrap()[range.start as usize..range.end as usize];
        let insns: Vec<Insn> = code.chunks_exact(8).map(Insn::read).collect();
        let mut calls = BTreeSet::new();
        for (index, insn) in insns.iter().enumerate() {
            // The second half of a constant is no instruction.
            let is_half = index > 0 && insns[index - 1].code == LD_IMM64;
            if !is_half && insn.code == CALL && insn.src == PSEUDO_CALL {
                let at = range.start + 8 * index as u64;
                let (section, from) = relocations.get(&at).copied().unwrap_or((section.index().0, at));
                calls.insert((section, from.wrapping_add_signed(8 * (i64::from(insn.imm) + 1))));
            }
        }
        let function = Function {
            name: symbol.name().unwrap().to_owned(),
            is_program: section.name() != Ok(".text"),
            depth: depth(&insns),
            calls,
        };
        all.insert((section.index().0, range.start), function);
    }
    all
}

/// The deepest chain of calls from here: its functions, and what they take.
fn chain(all: &BTreeMap<Place, Function>, from: Place) -> (u64, Vec<&str>) {
    let function = all.get(&from).unwrap_or_else(|| panic!("a call to {from:?}, where no function begins"));
    let (below, mut names) =
        function.calls.iter().map(|callee| chain(all, *callee)).max_by_key(|(depth, _)| *depth).unwrap_or_default();
    names.insert(0, &function.name);
    (function.depth.max(1).next_multiple_of(STEP) + below, names)
}

#[test]
fn no_chain_of_calls_comes_near_the_limit() {
    let all = functions(OBJECT);
    let programs: Vec<_> = all.iter().filter(|(_, function)| function.is_program).collect();
    assert!(programs.len() > 20, "{} programs", programs.len());
    let chains: Vec<_> = programs.iter().map(|(place, _)| chain(&all, **place)).collect();
    // Some have functions that are not inlined: else nothing is added up. And the programs are not small.
    assert!(chains.iter().any(|(_, names)| names.len() > 1));
    assert!(chains.iter().any(|(depth, _)| *depth > DEEPEST / 2));
    for (depth, names) in chains {
        assert!(depth <= DEEPEST, "{depth} bytes of stack, {DEEPEST} are allowed: {}", names.join(" calls "));
    }
}

#[test]
fn the_stack_is_what_is_reached() {
    let insn = |code, dst, src, off, imm| Insn { code, dst, src, off, imm };
    let store = insn(0x7b, FRAME, 1, -8, 0);
    let load = insn(0x79, 1, FRAME, -24, 0);
    let elsewhere = insn(0x79, 1, 2, -400, 0);
    let copy = insn(MOV64_X, 3, FRAME, 0, 0);
    let other = insn(0xb7, 4, 0, 0, 5);
    let add = insn(ADD64_K, 3, 0, 0, -64);
    assert_eq!(depth(&[elsewhere, other]), 0);
    assert_eq!(depth(&[store, elsewhere]), 8);
    assert_eq!(depth(&[store, load]), 24);
    assert_eq!(depth(&[load, copy, other, add]), 64);
    // A copy that becomes something else first.
    assert_eq!(depth(&[load, copy, insn(MOV64_X, 3, 5, 0, 0), add]), 24);
    assert_eq!(depth(&[load, add]), 24);
}
