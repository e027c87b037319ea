//! Why the programs are not where they should be.

use std::io;

use aya::{EbpfError, maps::MapError, programs::ProgramError};

use crate::{
    host::HostError,
    plan::{Attach, Backend, Failure, Hook, Reason},
};

/// Something about the eBPF object or its maps failed that no other backend would mend.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The object could not be loaded, or its maps could not be made.
    #[error("the eBPF object: {}", chain(.0))]
    Object(#[from] EbpfError),
    /// A map could not be read or written.
    #[error("map {name}: {}", chain(.source))]
    Map {
        /// The map.
        name: &'static str,
        /// Why.
        source: MapError,
    },
    /// The object and this code disagree.
    #[error("the eBPF object has no {0}: it was built from other sources")]
    Missing(&'static str),
    /// The kernel's BTF could not be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// An iterator over sockets could not be run.
    #[error("the socket iterator: {0}")]
    Seed(String),
    /// What the verifier took could not be found out.
    #[error("verifying {0}: {1}")]
    Verifier(&'static str, String),
    /// The benches' program could not be run.
    #[cfg(feature = "extra")]
    #[error("the program that makes records for the benches: {0}")]
    Producer(String),
    /// The test's program could not be run.
    #[cfg(feature = "extra")]
    #[error("the program that judges records for the tests: {0}")]
    Judge(String),
    /// A program could not be loaded or attached for want of descriptors or memory.
    #[error("program {program}: {source}")]
    Room {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel does not time programs.
    #[error("BPF_ENABLE_STATS: {0}")]
    Timing(String),
}

/// An error and what is behind it, in one line, each part once.
pub(in crate::bpf) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    text
}

/// An attempt that did not come off: either a hook that another backend may do without, or an end.
pub enum AttachError {
    /// The kernel refused a hook.
    Hook(Box<Failure>),
    /// Nothing to be done.
    Fatal(BpfError),
}

impl<E: Into<BpfError>> From<E> for AttachError {
    fn from(error: E) -> Self {
        Self::Fatal(error.into())
    }
}

/// A refusal is the hook's, unless the machine has no room left: no other backend would mend that.
pub(super) fn refusal(hook: Hook, error: ProgramError) -> AttachError {
    let io_error = match &error {
        ProgramError::LoadError { io_error, .. } => io_error,
        ProgramError::SyscallError(syscall) => &syscall.io_error,
        _ => return AttachError::Hook(Box::new(failure(hook, &error))),
    };
    match io_error.raw_os_error() {
        Some(errno @ (libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
            let source = io::Error::from_raw_os_error(errno);
            AttachError::Fatal(BpfError::Room { program: hook.program, source })
        }
        _ => AttachError::Hook(Box::new(failure(hook, &error))),
    }
}

/// The kernel's refusal in words, the verifier's log apart.
fn failure(hook: Hook, error: &ProgramError) -> Failure {
    let backend = match hook.attach {
        Attach::Fentry | Attach::Fexit => Backend::Fentry,
        Attach::Kprobe => Backend::Kprobe,
        Attach::TpBtf => Backend::Tracepoint,
    };
    let (mut words, log) = match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            (format!("the kernel refuses to load it: {io_error}"), verifier_log.to_string())
        }
        other => (chain(other), String::new()),
    };
    // EPERM before the verifier has said a word is about the kind of program, not about this one.
    let whole_backend = backend == Backend::Fentry
        && log.is_empty()
        && matches!(error, ProgramError::LoadError { io_error, .. } if io_error.kind() == io::ErrorKind::PermissionDenied);
    if whole_backend {
        words.push_str(": this kernel does not allow BPF trampolines");
    }
    Failure { backend, hook: (!whole_backend).then_some(hook), reason: Reason::Refused { hook, error: words, log } }
}
