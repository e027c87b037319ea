//! Minisocks that no birth told: those that were there before, and, on later walks, those that the programs missed. One
//! run of a BPF iterator per network namespace.

use std::io::{self, Read as _};

use aya::programs::Iter;

use super::attach::{Attached, BpfError, Kernel, chain};
use crate::host::netns::Netns;

impl Attached {
    /// Loads the iterator.
    ///
    /// # Errors
    /// If this kernel has no TCP socket iterator (before 5.9) or refuses it.
    pub fn load_seed(&mut self, kernel: &Kernel) -> Result<(), BpfError> {
        self.seed_iter()?.load("tcp", &kernel.btf).map_err(|error| BpfError::Seed(chain(&error)))
    }

    fn seed_iter(&mut self) -> Result<&mut Iter, BpfError> {
        let program = self.ebpf.program_mut("seed_iter").ok_or(BpfError::Missing("program seed_iter"))?;
        program.try_into().map_err(|error| BpfError::Seed(chain(&error)))
    }

    /// Enters every minisock of these network namespaces into the table of lives, if absent, and counts it as seeded.
    /// Returns how many namespaces could not be looked into.
    ///
    /// # Errors
    /// If the iterator is not loaded, or cannot be made.
    pub fn seed<'a>(&mut self, namespaces: impl Iterator<Item = &'a Netns>) -> Result<usize, BpfError> {
        let program = self.seed_iter()?;
        let mut missed = 0;
        for namespace in namespaces {
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
