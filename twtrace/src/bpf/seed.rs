//! Minisocks that were there before: one BPF iterator run per network namespace.

use std::io::{self, Read as _};

use aya::programs::Iter;

use super::attach::{Attached, BpfError, Kernel, chain};
use crate::host::{Host, netns};

impl Attached {
    /// Enters every minisock of every network namespace that can be found into the table of lives, if absent. Returns how
    /// many namespaces could not be looked into.
    ///
    /// # Errors
    /// If this kernel has no TCP socket iterator (before 5.9) or refuses it.
    pub fn seed(&mut self, host: &Host, kernel: &Kernel) -> Result<usize, BpfError> {
        let program: &mut Iter = self
            .ebpf
            .program_mut("seed_iter")
            .ok_or(BpfError::Missing("program seed_iter"))?
            .try_into()
            .map_err(|error| BpfError::Seed(chain(&error)))?;
        program.load("tcp", &kernel.btf).map_err(|error| BpfError::Seed(chain(&error)))?;
        let (namespaces, mut missed) = netns::all(host);
        for namespace in namespaces.values() {
            let link =
                program.attach().and_then(|id| program.take_link(id)).map_err(|error| BpfError::Seed(chain(&error)))?;
            // The iterator shows the sockets of the namespace in which it is made (seq_file_net of bpf_iter_create).
            let walked = namespace.run(|| {
                let mut file = link.into_file().map_err(io::Error::other)?;
                let mut nothing = Vec::new();
                file.read_to_end(&mut nothing).map(|_| ())
            });
            if walked.is_err() {
                missed += 1;
            }
        }
        Ok(missed)
    }
}
