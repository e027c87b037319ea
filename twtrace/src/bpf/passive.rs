//! What the programs counted of connections that the peer closed first.

use aya::maps::HashMap;
use twtrace_common::state::Service;

use super::attach::{Attached, BpfError};
use crate::model::{event::Role, occupancy::Passive};

impl Attached {
    /// Passive closes so far, by service, in no order. A service that is being entered meanwhile may be missing; none is
    /// told twice, for entries are never removed (htab_map_get_next_key begins anew only behind one that is gone).
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn passive(&self) -> Result<Vec<Passive>, BpfError> {
        let map = self.ebpf.map("PASSIVE").ok_or(BpfError::Missing("map PASSIVE"))?;
        let wrong = |source| BpfError::Map { name: "PASSIVE", source };
        let services: HashMap<_, Service, u64> = HashMap::try_from(map).map_err(wrong)?;
        let told = services.iter().map(|entry| {
            let (Service { port, role, .. }, closes) = entry.map_err(wrong)?;
            Ok(Passive { role: Role::from_raw(role), port, closes })
        });
        told.collect()
    }
}
