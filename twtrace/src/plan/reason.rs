//! Why a backend does not serve a capability, and what to do about it.

use std::fmt;

use super::{Backend, Hook};

/// One "no".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// BTF names no such function.
    NoFunction(&'static str),
    /// BTF names no such tracepoint.
    NoTracepoint(&'static str),
    /// No CONFIG_KPROBES.
    NoKprobes,
    /// kallsyms shows zeroes.
    AddressesHidden,
    /// kallsyms lacks the functions.
    NoAddresses,
    /// BTF lacks a field that this capability cannot do without.
    NoField(&'static str),
    /// This backend has no hook at the place.
    NoHook(&'static str),
    /// The capability needs another capability on another backend.
    Needs(&'static str),
    /// The kernel refused to load or attach.
    Refused {
        /// The program.
        hook: Hook,
        /// What was tried and the kernel's errno, in words.
        error: String,
        /// The verifier's log, if there is one.
        log: String,
    },
    /// Loaded and attached, and yet the self-test did not see what it made.
    SelfTest(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFunction(name) => write!(f, "this kernel has no function {name} (inlined, or renamed)"),
            Self::NoTracepoint(name) => write!(f, "this kernel's BTF has no tracepoint {name}"),
            Self::NoKprobes => f.write_str("the kernel was built without kprobes (CONFIG_KPROBES)"),
            Self::AddressesHidden => {
                f.write_str("kernel addresses are hidden; set kernel.kptr_restrict = 1 and run with CAP_SYSLOG")
            }
            Self::NoAddresses => f.write_str("/proc/kallsyms does not name the timewait functions (CONFIG_KALLSYMS)"),
            Self::NoField(path) => write!(f, "this kernel's BTF has no {path}"),
            Self::NoHook(what) | Self::Needs(what) => f.write_str(what),
            Self::Refused { hook, error, .. } => write!(f, "{} on {}: {error}", hook.program, hook.target),
            Self::SelfTest(what) => write!(f, "the self-test failed: {what}"),
        }
    }
}

/// A hook that failed when it was tried, or a backend that the self-test found wanting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The backend whose attempt this was.
    pub backend: Backend,
    /// The hook; `None` if the backend as a whole failed.
    pub hook: Option<Hook>,
    /// Why.
    pub reason: Reason,
}
