//! The kernel's type information: which functions and tracepoints there are, and where fields lie.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use btf_rs::{Btf, BtfType, Struct, Type};
use twtrace_common::for_each_field;

use super::{Host, HostError};

/// Where a kernel with CONFIG_DEBUG_INFO_BTF shows its types.
pub const VMLINUX: &str = "sys/kernel/btf/vmlinux";

/// The largest BTF file that is read, bytes. Kernels have 4 to 10 MB; with all their modules, some 30.
const LARGEST: u64 = 64 << 20;

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
        let bytes = whole(&path).map_err(|source| HostError::Read { path: path.clone(), source })?;
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
            Ok(_) => Err(HostError::Strange {
                path,
                what: "not the BTF of a kernel: struct sock_common is missing".to_owned(),
            }),
            Err(error) => Err(HostError::Strange { path, what: format!("not a BTF file: {error}") }),
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

    /// True if a structure has this member: `struct.member.member`.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.walk(path).is_some()
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

/// A regular file's bytes. Others may wait for ever (a FIFO, a terminal), or never end (/dev/zero).
fn whole(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a FIFO waits for its writer, without this.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other(format!("{}, expected a regular file", noun(&file)?)));
    }
    let too_large = || io::Error::other(format!("more than {} MB, too large for BTF", LARGEST >> 20));
    if metadata.len() > LARGEST {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST { Err(too_large()) } else { Ok(bytes) }
}

/// What a file is that is not a regular one.
fn noun(file: &File) -> io::Result<&'static str> {
    use std::os::unix::fs::FileTypeExt as _;
    let kind = file.metadata()?.file_type();
    Ok(match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () if kind.is_socket() => "a socket",
        () => "a special file",
    })
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
    fn what_is_no_file_of_that_size_is_refused_at_once() {
        let directory = std::env::temp_dir().join(format!("twtrace-btf-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let fifo = directory.join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let (large, most) = (directory.join("large"), directory.join("most"));
        File::create(&large).and_then(|file| file.set_len(LARGEST + 1)).unwrap();
        File::create(&most).and_then(|file| file.set_len(LARGEST)).unwrap();
        let said = |path: &Path| whole(path).map(|bytes| bytes.len()).map_err(|error| error.to_string());
        let found = [Path::new("/dev/zero"), &fifo, &directory, &large].map(said);
        let (most, garbage) = (said(&most), KernelTypes::read(&Host::default(), Some(&most)).is_err());
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(
            found,
            [
                "a device, expected a regular file",
                "a FIFO, expected a regular file",
                "a directory, expected a regular file",
                "more than 64 MB, too large for BTF"
            ]
            .map(|text| Err(text.to_owned()))
        );
        assert_eq!((most, garbage), (Ok(64 << 20), true));
        assert!(whole(Path::new("/gone")).is_err());
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
