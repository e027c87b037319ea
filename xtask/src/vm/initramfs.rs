//! The guest's file system: a cpio archive that the kernel unpacks into memory.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::unpack::Bootable;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Writes the archive: `init`, more programs by their place in it, the modules in load order, and what the guest is to do.
pub fn write(to: &Path, init: &Path, more: &[(String, PathBuf)], kernel: &Bootable, config: &str) -> Result<()> {
    let read = |file: &Path| fs::read(file).with_context(|| format!("reading {}", file.display()));
    let mut archive = Archive::default();
    for dir in ["dev", "modules", "proc", "run", "sys", "tmp"] {
        archive.add(dir, DIRECTORY, &[]);
    }
    // The kernel opens it as the standard streams of init, before devtmpfs is mounted.
    archive.device("dev/console", CHARACTER_DEVICE, (5, 1));
    archive.add("init", PROGRAM, &read(init)?);
    let mut dirs = BTreeSet::new();
    for (place, _) in more {
        let place = place.trim_start_matches('/');
        dirs.extend(Path::new(place).ancestors().skip(1).filter(|dir| *dir != Path::new("")));
    }
    // In the order of paths, each comes after the one that it is in.
    for dir in dirs {
        archive.add(&dir.display().to_string(), DIRECTORY, &[]);
    }
    for (place, file) in more {
        archive.add(place.trim_start_matches('/'), PROGRAM, &read(file)?);
    }
    for (name, file) in &kernel.modules {
        archive.add(&format!("modules/{name}"), FILE, &read(file)?);
    }
    archive.add("config.env", FILE, config.as_bytes());
    fs::write(to, archive.finish()).with_context(|| format!("writing {}", to.display()))
}

/// A cpio archive in the `newc` format (linux/Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entry(name, mode, (0, 0), data);
    }

    fn device(&mut self, name: &str, mode: u32, number: (u32, u32)) {
        self.entry(name, mode, number, &[]);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), data: &[u8]) {
        self.entries += 1;
        // No file here comes near the 4 GB that the format can tell.
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        // inode, mode, uid, gid, links, time, size, device (2), device number (2), name's size, checksum
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_newc() {
        let mut archive = Archive::default();
        archive.add("init", PROGRAM, b"#!sh\n");
        let header = "070701\
            00000001000081ED0000000000000000000000010000000000000005\
            0000000000000000000000000000000000000005\
            00000000";
        let bytes = archive.bytes;
        assert_eq!(header.len(), 110);
        assert_eq!(&bytes[..110], header.as_bytes());
        // 110 + "init\0" is padded to 116, the data to 124.
        assert_eq!(&bytes[110..116], b"init\0\0");
        assert_eq!(&bytes[116..], b"#!sh\n\0\0\0");
    }

    #[test]
    fn devices_have_numbers_and_the_archive_an_end() {
        let mut archive = Archive::default();
        archive.device("dev/console", CHARACTER_DEVICE, (5, 1));
        let bytes = archive.finish();
        assert_eq!(&bytes[6 + 9 * 8..6 + 11 * 8], b"0000000500000001");
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.windows(11).any(|window| window == b"TRAILER!!!\0"));
    }
}
