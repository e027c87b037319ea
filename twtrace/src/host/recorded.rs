//! A recorded machine of a test: a tree of files, gone when it is dropped.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use super::Host;

/// The tree. Paths are relative to its root.
pub(super) struct Recorded(PathBuf);

impl Recorded {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("twtrace-host-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }

    pub fn file(self, path: &str, text: impl AsRef<[u8]>) -> Self {
        fs::write(self.place(path), text).unwrap();
        self
    }

    pub fn link(self, path: &str, target: impl AsRef<Path>) -> Self {
        symlink(target, self.place(path)).unwrap();
        self
    }

    pub fn host(&self) -> Host {
        Host::at(&self.0)
    }

    /// Where it is, in a directory that there is.
    fn place(&self, path: &str) -> PathBuf {
        let place = self.0.join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        place
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
