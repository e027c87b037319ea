//! A task, as it can tell itself.

use std::{io, sync::OnceLock};

use crate::model::event::Task;

/// A task, by what it can find out about itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd)]
pub struct Who {
    /// Process id; `None` where ours is not that of the initial pid namespace.
    pub pid: Option<u32>,
    /// Name of the thread.
    pub comm: String,
}

impl Who {
    /// The calling thread.
    ///
    /// # Errors
    /// If /proc does not tell.
    pub fn me() -> io::Result<Self> {
        let comm = std::fs::read_to_string("/proc/thread-self/comm")?;
        Ok(Self::process(std::process::id(), comm.trim_end()))
    }

    /// A process by its id and the name of its thread.
    #[must_use]
    pub fn process(pid: u32, comm: &str) -> Self {
        Self { pid: knows_pids().then_some(pid), comm: comm.to_owned() }
    }

    /// A told task.
    #[must_use]
    pub fn told(task: Task) -> Self {
        Self { pid: knows_pids().then_some(task.pid), comm: task.comm.name().into_owned() }
    }
}

/// True if process ids here are those of the initial pid namespace, which twtrace tells.
pub fn knows_pids() -> bool {
    /// `PROC_PID_INIT_INO` of include/linux/proc_ns.h.
    const INITIAL: &str = "pid:[4026531836]";
    static KNOWS: OnceLock<bool> = OnceLock::new();
    *KNOWS.get_or_init(|| std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == INITIAL))
}
