//! Minisocks that no birth told: those that were there before, and, on later walks, those that the programs missed. One
//! run of a BPF iterator per network namespace.

use std::io::{self, Read as _};

use aya::programs::{Iter, iter::IterLink};
use twtrace_common::record;

use super::attach::{Attached, BpfError, Kernel, chain};
use crate::{decode::seeds, host::netns::Netns, model::event::Life};

/// The iterator's program.
pub(super) const SEED: &str = "seed_iter";
/// How much is read at once, whole records, bytes. The kernel ends a read as soon as it has this much, and its buffer is 8
/// pages (bpf_seq_read): so there is always room for one record more. Were the buffer ever full, the kernel would take
/// the last minisock back and show it again, when it has been entered and is not told any more.
const CHUNK: usize = 16_384 / size_of::<record::Life>() * size_of::<record::Life>();
/// Most walks through one namespace.
const WALKS: usize = 8;

impl Attached {
    /// Loads the iterator.
    ///
    /// # Errors
    /// If this kernel has no TCP socket iterator (before 5.9) or refuses it.
    pub fn load_seed(&mut self, kernel: &Kernel) -> Result<(), BpfError> {
        self.seed_iter()?.load("tcp", &kernel.btf).map_err(|error| BpfError::Seed(chain(&error)))
    }

    fn seed_iter(&mut self) -> Result<&mut Iter, BpfError> {
        let program = self.ebpf.program_mut(SEED).ok_or(BpfError::Missing(SEED))?;
        program.try_into().map_err(|error| BpfError::Seed(chain(&error)))
    }

    /// Enters every minisock of these network namespaces into the table of lives, if absent, and counts it as seeded;
    /// `each` gets those that the filters let through. Returns how many namespaces could not be looked into.
    ///
    /// # Errors
    /// If the iterator is not loaded, or cannot be made.
    pub fn seed<'a>(
        &mut self,
        namespaces: impl Iterator<Item = &'a Netns>,
        each: &mut (dyn FnMut(Life) + Send),
    ) -> Result<usize, BpfError> {
        let program = self.seed_iter()?;
        let mut missed = 0;
        for namespace in namespaces {
            for _ in 0..WALKS {
                let link = program
                    .attach()
                    .and_then(|id| program.take_link(id))
                    .map_err(|error| BpfError::Seed(chain(&error)))?;
                // The iterator shows the sockets of the namespace in which it is made (seq_file_net of bpf_iter_create).
                match namespace.run(|| walk(link, each)) {
                    Ok(Walked::Whole) => break,
                    Ok(Walked::InParts) => {}
                    Err(_) => {
                        missed += 1;
                        break;
                    }
                }
            }
        }
        Ok(missed)
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

fn walk(link: IterLink, each: &mut (dyn FnMut(Life) + Send)) -> io::Result<Walked> {
    let mut file = link.into_file().map_err(io::Error::other)?;
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
