//! The decision: capability by capability, the best backend that nothing speaks against.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Asked, Attach, Backend, Capability, Facts, Failure, Hook, Reason,
    facts::{OF_A_DENIAL, OF_A_FAILED_CONNECT},
    hooks,
};

/// Why a capability is not loaded that no event of `--events` needs.
pub const UNASKED: &str = "not loaded: no event in --events needs it";

/// What will be attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The backend of each capability; `None`: not offered, or not asked for.
    pub chosen: BTreeMap<Capability, Option<Backend>>,
    /// What no event that was asked for needs.
    pub unasked: BTreeSet<Capability>,
    /// What spoke against the backends that were not chosen, in the order in which they were considered.
    pub against: BTreeMap<Capability, Vec<(Backend, Reason)>>,
    /// Every program to load, in the order in which they go live.
    pub hooks: Vec<Hook>,
}

impl Plan {
    /// The backend of a capability.
    #[must_use]
    pub fn backend(&self, capability: Capability) -> Option<Backend> {
        self.chosen.get(&capability).copied().flatten()
    }

    /// What spoke against a capability or its backends, in words; `None`: nothing.
    #[must_use]
    pub fn reasons(&self, capability: Capability) -> Option<String> {
        if self.unasked.contains(&capability) {
            return Some(UNASKED.to_owned());
        }
        self.against.get(&capability).filter(|against| !against.is_empty()).map(|against| list(against))
    }

    /// True if the capability is served by this backend.
    #[must_use]
    pub fn is(&self, capability: Capability, backend: Backend) -> bool {
        self.backend(capability) == Some(backend)
    }
}

/// No plan is possible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// BTF lacks fields without which nothing can be told.
    #[error("the kernel's BTF has no {}; this kernel is too different, please report it with `uname -r`", .0.join(", "))]
    Fields(Vec<&'static str>),
    /// A required capability has no backend.
    #[error("{} is not possible: {}", .capability.name(), list(.against))]
    Impossible {
        /// The capability.
        capability: Capability,
        /// Every backend that was considered, and why not.
        against: Vec<(Backend, Reason)>,
    },
}

fn list(against: &[(Backend, Reason)]) -> String {
    against.iter().map(|(backend, reason)| format!("{backend}: {reason}")).collect::<Vec<_>>().join("; ")
}

/// Chooses. `failures` is what earlier attempts ran into.
///
/// # Errors
/// If a required capability has no backend left.
pub fn choose(facts: &Facts, asked: &Asked, failures: &[Failure]) -> Result<Plan, PlanError> {
    if !facts.missing_fields.is_empty() {
        return Err(PlanError::Fields(facts.missing_fields.clone()));
    }
    let mut plan = Plan::default();
    for capability in Capability::ALL {
        if !asked.wants(capability) {
            plan.chosen.insert(capability, None);
            plan.unasked.insert(capability);
            continue;
        }
        let mut against = Vec::new();
        let mut chosen = None;
        let candidates: &[Backend] = match (capability, &asked.forced) {
            (Capability::Conn | Capability::Closer, _) => &[Backend::Tracepoint],
            (Capability::NoPort, Some(Backend::Kprobe)) => &[Backend::Tracepoint],
            (Capability::NoPort, None) => &[Backend::Fentry, Backend::Tracepoint],
            (_, Some(forced)) => std::slice::from_ref(forced),
            (_, None) => &Backend::ALL,
        };
        for &backend in candidates {
            match objection(facts, &plan, failures, capability, backend) {
                None => {
                    chosen = Some(backend);
                    break;
                }
                Some(reason) => against.push((backend, reason)),
            }
        }
        if chosen.is_none() && capability.required() {
            return Err(PlanError::Impossible { capability, against });
        }
        if let Some(backend) = chosen {
            plan.hooks.extend(hooks(capability, backend, facts.dance()));
        }
        plan.chosen.insert(capability, chosen);
        plan.against.insert(capability, against);
    }
    plan.hooks.sort_unstable_by_key(|hook| (hook.rank(), *hook));
    plan.hooks.dedup();
    Ok(plan)
}

/// What speaks against a backend for a capability.
fn objection(
    facts: &Facts,
    so_far: &Plan,
    failures: &[Failure],
    capability: Capability,
    backend: Backend,
) -> Option<Reason> {
    let hooks = hooks(capability, backend, facts.dance());
    let missing = hooks.iter().find_map(|hook| match hook.attach {
        Attach::Fentry | Attach::Fexit if !facts.functions.contains_key(hook.target) => {
            Some(Reason::NoFunction(hook.target))
        }
        Attach::Kprobe if !facts.kprobes => Some(Reason::NoKprobes),
        Attach::Kprobe if !facts.functions.contains_key(hook.target) => Some(Reason::NoFunction(hook.target)),
        Attach::TpBtf if !facts.tracepoints.contains(hook.target) => Some(Reason::NoTracepoint(hook.target)),
        _ => None,
    });
    missing
        .or_else(|| dependency(facts, so_far, capability, backend))
        .or_else(|| failed(failures, &hooks, capability, backend))
}

/// What a capability needs beyond its own hooks.
fn dependency(facts: &Facts, so_far: &Plan, capability: Capability, backend: Backend) -> Option<Reason> {
    use {Backend as B, Capability as C};
    let no_addresses = || {
        (!facts.addresses).then_some(if facts.addresses_hidden { Reason::AddressesHidden } else { Reason::NoAddresses })
    };
    match (capability, backend) {
        (C::Birth | C::Death | C::Turn | C::Rearm, B::Tracepoint) => no_addresses(),
        (C::Cause, backend) if !so_far.is(C::Death, backend) => {
            Some(Reason::Needs("the cause is found where the death is seen, which is another backend here"))
        }
        (C::Cause, _) => no_addresses(),
        (C::Refusal, B::Kprobe) if so_far.is(C::Birth, B::Tracepoint) => {
            Some(Reason::Needs("refusals by kprobe need births by fentry or kprobe, which name the socket"))
        }
        (C::Refusal, B::Tracepoint) if !so_far.is(C::Birth, B::Tracepoint) => Some(Reason::Needs(
            "refusals by tracepoint need births by tracepoint: a refusal is a close without a birth",
        )),
        (C::Refusal, B::Tracepoint) => no_addresses(),
        (C::NoPort, B::Tracepoint) if facts.unknown_fields.contains(&OF_A_FAILED_CONNECT) => {
            Some(Reason::NoField(OF_A_FAILED_CONNECT))
        }
        (C::ReuseDenied, B::Tracepoint) => Some(Reason::NoHook(
            "no tracepoint fires where connect() rejects a TIME_WAIT; reuse_denied needs fentry or kprobe",
        )),
        (C::NoBind, B::Kprobe) => Some(Reason::NoHook(
            "a kprobe sees the result only on return, and the kernel would skip births and deaths meanwhile; no_bind needs \
             fentry",
        )),
        (C::NoBind, B::Tracepoint) => Some(Reason::NoHook(
            "no tracepoint fires in bind() or listen(); no_bind needs fentry; for one process, run `strace -f -e \
             trace=bind,listen -p PID`",
        )),
        (C::ReuseDenied, _) if so_far.backend(C::NoPort).is_none() => {
            Some(Reason::Needs("a denial is reported with the connect() that failed, which is not watched here"))
        }
        (C::ReuseDenied, _) => {
            facts.unknown_fields.iter().find(|field| OF_A_DENIAL.contains(field)).map(|field| Reason::NoField(field))
        }
        _ => None,
    }
}

fn failed(failures: &[Failure], hooks: &[Hook], capability: Capability, backend: Backend) -> Option<Reason> {
    let found = failures.iter().find(|failure| match failure.hook {
        Some(hook) => hooks.contains(&hook),
        None => failure.backend == backend && !matches!(capability, Capability::Conn | Capability::Closer),
    });
    found.map(|failure| failure.reason.clone())
}

#[cfg(test)]
mod tests;
