//! Which end of a connection is this host's.

use serde::{Serialize, Serializer};

use crate::model::event::Role;

/// Which side of a connection this host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// This host called connect().
    Client,
    /// This host accepted.
    Server,
}

impl Side {
    /// The word used in every output.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => Role::Client.word(),
            Self::Server => Role::Server.word(),
        }
    }
}

impl Serialize for Side {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}
