//! The kernel's type information: which functions and tracepoints there are, and where fields lie.

use std::{
    fs,
    path::{Path, PathBuf},
};

use btf_rs::{Btf, BtfType, Struct, Type};
use twtrace_common::for_each_field;

use super::{Host, HostError};

/// Where a kernel with CONFIG_DEBUG_INFO_BTF shows its types.
pub const VMLINUX: &str = "sys/kernel/btf/vmlinux";

/// A kernel field that the eBPF programs read.
#[derive(Clone, Copy, Debug)]
pub struct FieldSpec {
    /// Name of the global that holds its offset.
    pub name: &'static str,
    /// Size in bytes; 0: any.
    pub bytes: usize,
    /// No run without it.
    pub required: bool,
    /// `struct.member.member`, alternatives separated by `|`.
    pub path: &'static str,
}

macro_rules! specs {
    ($($name:ident, $bytes:literal, $need:ident, $path:literal;)*) => {
        &[$(FieldSpec {
            name: stringify!($name),
            bytes: $bytes,
            required: matches!(stringify!($need).as_bytes(), b"required"),
            path: $path,
        }),*]
    };
}

/// Every field that the programs read, in the order of [`twtrace_common::for_each_field`].
pub const FIELDS: &[FieldSpec] = for_each_field!(specs);

/// Where a field was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Offset in bytes.
    pub offset: u16,
    /// Which of the alternatives of the path, counted from 0.
    pub alternative: usize,
    /// The field is a pointer.
    pub is_pointer: bool,
}

/// Types of one kernel.
pub struct KernelTypes {
    btf: Btf,
    path: PathBuf,
}

impl KernelTypes {
    /// Reads the running kernel's types, or those of a file.
    ///
    /// # Errors
    /// If there is no such file, or it holds no BTF.
    pub fn read(host: &Host, file: Option<&Path>) -> Result<Self, HostError> {
        let path = file.map_or_else(|| host.path(VMLINUX), Path::to_owned);
        let bytes = fs::read(&path).map_err(|source| HostError::Read { path: path.clone(), source })?;
        Self::parse(&bytes, path)
    }

    /// Parses the bytes of a BTF file; `path` is for messages.
    ///
    /// # Errors
    /// If they hold no BTF.
    pub fn parse(bytes: &[u8], path: PathBuf) -> Result<Self, HostError> {
        // btf-rs reads an empty type section happily; a kernel has tens of thousands.
        match Btf::from_bytes(bytes) {
            Ok(btf) if btf.resolve_types_by_name("sock_common").is_ok_and(|types| !types.is_empty()) => {
                Ok(Self { btf, path })
            }
            Ok(_) => Err(HostError::Strange { path, what: "BTF, but of no kernel: no struct sock_common".to_owned() }),
            Err(error) => Err(HostError::Strange { path, what: format!("no BTF: {error}") }),
        }
    }

    /// The file that the types came from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of parameters of a kernel function; `None` if there is no such function.
    #[must_use]
    pub fn parameters(&self, function: &str) -> Option<usize> {
        self.btf.resolve_types_by_name(function).ok()?.iter().find_map(|found| match found {
            Type::Func(func) => match self.btf.resolve_chained_type(func).ok()? {
                Type::FuncProto(proto) => Some(proto.parameters.len()),
                _ => None,
            },
            _ => None,
        })
    }

    /// True if tp_btf programs can name this tracepoint.
    #[must_use]
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.btf
            .resolve_types_by_name(&format!("btf_trace_{name}"))
            .is_ok_and(|types| types.iter().any(|found| matches!(found, Type::Typedef(_))))
    }

    /// Looks a field up: the first alternative that exists with the right size. Bit-fields and offsets past 64 KiB are
    /// not found.
    #[must_use]
    pub fn field(&self, spec: &FieldSpec) -> Option<Found> {
        spec.path.split('|').enumerate().find_map(|(alternative, path)| {
            let (bits, id) = self.walk(path)?;
            let offset = u16::try_from(bits / 8).ok().filter(|_| bits % 8 == 0)?;
            if spec.bytes != 0 && self.size(id, 0)? != spec.bytes {
                return None;
            }
            let is_pointer = matches!(self.resolved(id)?, Type::Ptr(_));
            Some(Found { offset, alternative, is_pointer })
        })
    }

    /// Bit offset and type of `struct.member.member`.
    fn walk(&self, path: &str) -> Option<(u32, u32)> {
        let mut names = path.split('.');
        let root = names.next()?;
        let mut found = self.btf.resolve_types_by_name(root).ok()?.into_iter().find_map(|found| match found {
            // A forward declaration has no members.
            Type::Struct(found) if !found.members.is_empty() => Some(found),
            _ => None,
        })?;
        let mut bits = 0;
        let mut names = names.peekable();
        while let Some(name) = names.next() {
            let (at, id) = self.member(&found, name, 0)?;
            bits += at;
            if names.peek().is_none() {
                return Some((bits, id));
            }
            found = match self.resolved(id)? {
                Type::Struct(inner) | Type::Union(inner) => inner,
                _ => return None,
            };
        }
        None
    }

    /// A member by name, looked for inside anonymous members too.
    fn member(&self, of: &Struct, name: &str, depth: usize) -> Option<(u32, u32)> {
        if depth > MAX_DEPTH {
            return None;
        }
        for member in &of.members {
            let id = member.get_type_id()?;
            let its_name = self.btf.resolve_name(member).unwrap_or_default();
            if its_name == name {
                return (member.bitfield_size().unwrap_or(0) == 0).then_some((member.bit_offset(), id));
            }
            if its_name.is_empty()
                && let Some(Type::Struct(inner) | Type::Union(inner)) = self.resolved(id)
                && let Some((at, id)) = self.member(&inner, name, depth + 1)
            {
                return Some((member.bit_offset() + at, id));
            }
        }
        None
    }

    /// The type behind typedefs and qualifiers.
    fn resolved(&self, id: u32) -> Option<Type> {
        let mut found = self.btf.resolve_type_by_id(id).ok()?;
        for _ in 0..MAX_DEPTH {
            found = match &found {
                Type::Typedef(inner) => self.btf.resolve_chained_type(inner).ok()?,
                Type::Volatile(inner) | Type::Const(inner) | Type::Restrict(inner) => {
                    self.btf.resolve_chained_type(inner).ok()?
                }
                Type::TypeTag(inner) => self.btf.resolve_chained_type(inner).ok()?,
                _ => return Some(found),
            };
        }
        None
    }

    fn size(&self, id: u32, depth: usize) -> Option<usize> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.resolved(id)? {
            Type::Int(int) => Some(int.size()),
            Type::Enum(int) => Some(int.size()),
            Type::Ptr(_) => Some(8),
            Type::Struct(inner) | Type::Union(inner) => Some(inner.size()),
            Type::Array(array) => Some(array.len() * self.size(array.get_type_id()?, depth + 1)?),
            _ => None,
        }
    }
}

/// Deeper than any kernel type: BTF that refers to itself is not followed for ever.
const MAX_DEPTH: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_refused_with_the_file_s_name() {
        for bytes in [&b""[..], b"garbage", &[0x9f, 0xeb, 1, 0], &[0; 64]] {
            let error = KernelTypes::parse(bytes, "some/file".into()).err().map(|error| error.to_string());
            assert!(error.as_deref().is_some_and(|text| text.starts_with("some/file: ")), "{error:?}");
        }
    }

    #[test]
    fn every_field_s_path_has_a_struct_and_a_member() {
        for spec in FIELDS {
            for path in spec.path.split('|') {
                assert!(path.split('.').count() >= 2, "{}", spec.name);
            }
        }
    }
}
