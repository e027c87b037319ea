//! Whether the kernel counts the events for which it skips a program, because that program is running on the CPU.
//!
//! Trampolines (fentry, fexit) and BTF tracepoints have a guard of each program (`bpf_prog.active`), and what it skips is
//! counted (`bpf_prog_stats.misses`). Kernels without the guard run the program inside itself and skip nothing: trampolines
//! before 5.12, tracepoints for some versions more. kprobes have one guard for all programs of a CPU (`trace_call_bpf`); since 6.7
//! what it skips is counted in the same place, and the same series made `bpf_link_info` tell what kprobes miss.

use super::{Attach, Plan};

/// What the kernel's types say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Misses {
    /// Trampolines and tracepoints skip a program that is running: `bpf_prog.active` is there.
    pub guarded: bool,
    /// The kernel counts what it skips: `bpf_prog_stats.misses` is there.
    pub counted: bool,
    /// Skipped kprobe programs are counted there too: `bpf_link_info.perf_event.kprobe.missed` is there.
    pub kprobes_counted: bool,
}

/// How the skipped runs of one program become known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// The kernel counts them.
    Counted,
    /// There are none.
    NeverSkipped,
    /// The kernel does not tell.
    Unknown,
}

/// Why the misses of kprobe programs are not known.
const KPROBES: &str = "this kernel skips kprobe programs while another BPF program runs on that CPU, and does not count it (Linux \
                       6.7 and later do)";
/// Why those of the others are not.
const OTHERS: &str = "this kernel skips programs that are running already, and does not count it";

impl Misses {
    /// Of a program that is attached in this way.
    #[must_use]
    pub fn of(self, attach: Attach) -> Counting {
        match attach {
            Attach::Kprobe if self.counted && self.kprobes_counted => Counting::Counted,
            Attach::Kprobe => Counting::Unknown,
            Attach::Fentry | Attach::Fexit | Attach::TpBtf if self.counted => Counting::Counted,
            Attach::Fentry | Attach::Fexit | Attach::TpBtf if self.guarded => Counting::Unknown,
            Attach::Fentry | Attach::Fexit | Attach::TpBtf => Counting::NeverSkipped,
        }
    }

    /// Why this plan's misses cannot be known; `None`: they are.
    #[must_use]
    pub fn unknown(self, plan: &Plan) -> Option<&'static str> {
        let hook = plan.hooks.iter().find(|hook| self.of(hook.attach) == Counting::Unknown)?;
        Some(if hook.attach == Attach::Kprobe { KPROBES } else { OTHERS })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Hook, *};

    /// Linux 5.10, 5.15, 6.1 and 6.12 in turn, by what their types have.
    const NONE: Misses = Misses { guarded: false, counted: false, kprobes_counted: false };
    const BEFORE_KPROBES: Misses = Misses { guarded: true, counted: true, kprobes_counted: false };
    const ALL: Misses = Misses { guarded: true, counted: true, kprobes_counted: true };

    fn plan(attach: &[Attach]) -> Plan {
        let hook = |&attach| Hook { program: "p", attach, target: "t" };
        Plan { hooks: attach.iter().map(hook).collect(), ..Plan::default() }
    }

    #[test]
    fn unknown_is_what_is_skipped_and_not_counted() {
        use Attach::{Fentry, Kprobe, TpBtf};
        assert_eq!(NONE.unknown(&plan(&[Fentry, TpBtf])), None);
        assert_eq!(NONE.unknown(&plan(&[Kprobe, TpBtf])), Some(KPROBES));
        assert_eq!(BEFORE_KPROBES.unknown(&plan(&[Fentry, TpBtf])), None);
        assert_eq!(BEFORE_KPROBES.unknown(&plan(&[TpBtf, Kprobe])), Some(KPROBES));
        assert_eq!(ALL.unknown(&plan(&[TpBtf, Kprobe, Fentry])), None);
        assert_eq!(Misses { counted: false, ..ALL }.unknown(&plan(&[TpBtf])), Some(OTHERS));
    }

    #[test]
    fn without_the_guard_nothing_is_skipped() {
        assert_eq!(NONE.of(Attach::Fexit), Counting::NeverSkipped);
        assert_eq!(BEFORE_KPROBES.of(Attach::Fexit), Counting::Counted);
    }
}
