//! Which of the lines about a sysctl sets it: as systemd-sysctl applies them (src/sysctl/sysctl.c: `parse_line`, `apply_all`,
//! `apply_glob`), and as procps does (src/sysctl.c: `write_setting_list`, `settinglist_findpath`).

use std::{collections::HashMap, ffi::CString, path::Path};

use super::{Setting, SysctlFiles, number};

/// What systemd reads only where a file of a directory links to it.
const UNREAD: &str = "/etc/sysctl.conf";
/// The longest path of a sysctl: no pattern that is longer matches (include/uapi/linux/limits.h: `PATH_MAX`).
const LONGEST: usize = 4096;

/// What becomes of a line at boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The line sets.
    Sets,
    /// A later line sets the same again, or a line without a pattern does.
    Overruled,
    /// A line `-key` keeps the pattern off, or takes back what was set before.
    Excluded,
    /// The kernel takes no such value.
    Refused,
    /// Nobody reads its file.
    Unread,
}

/// A line about one sysctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The line.
    pub setting: &'a Setting,
    /// What becomes of it.
    pub fate: Fate,
}

impl<'a> Line<'a> {
    /// What it writes, as it stands there.
    #[must_use]
    pub fn written(&self) -> &'a str {
        self.setting.value.as_deref().unwrap_or_default()
    }

    /// The number that the kernel reads.
    #[must_use]
    pub fn number(&self) -> Option<i64> {
        number(self.written())
    }
}

impl SysctlFiles {
    /// The lines that set a sysctl which is a number, by its key with dots, and what becomes of each; in the order in which
    /// they are read.
    #[must_use]
    pub fn about(&self, key: &str) -> Vec<Line<'_>> {
        // A line that keeps off matches more than one that sets.
        let is_it = |setting: &&Setting| {
            setting.key == key || setting.is_pattern() && matches(&setting.key, key, setting.value.is_none())
        };
        let about: Vec<&Setting> = self.settings.iter().filter(is_it).collect();
        let is_unread = |setting: &Setting| self.systemd && setting.file == Path::new(UNREAD);
        let read: Vec<&Setting> = about.iter().copied().filter(|setting| !is_unread(setting)).collect();
        let applied = if self.systemd { systemd(&read, key) } else { procps(&read, key) };
        let fates: HashMap<*const Setting, Fate> =
            applied.into_iter().map(|(setting, fate)| (std::ptr::from_ref(setting), fate)).collect();
        let fate = |setting| fates.get(&std::ptr::from_ref(setting)).copied().unwrap_or(Fate::Unread);
        let lines = about.into_iter().filter(|setting| setting.value.is_some());
        lines.map(|setting| Line { setting, fate: fate(setting) }).collect()
    }
}

/// Writes in this order: the last one that the kernel takes sets.
fn written<'a>(order: &[&'a Setting], applied: &mut Vec<(&'a Setting, Fate)>) {
    let is_taken = |setting: &Setting| setting.value.as_deref().is_some_and(|value| number(value).is_some());
    let last = order.iter().rposition(|setting| is_taken(setting));
    applied.extend(order.iter().enumerate().map(|(place, setting)| {
        let fate = match (is_taken(setting), Some(place) == last) {
            (false, _) => Fate::Refused,
            (true, true) => Fate::Sets,
            (true, false) => Fate::Overruled,
        };
        (*setting, fate)
    }));
}

/// One entry a key: the last line counts, be it one that sets or one that keeps off. A pattern sets what has no entry.
fn systemd<'a>(read: &[&'a Setting], key: &str) -> Vec<(&'a Setting, Fate)> {
    let mut applied = Vec::new();
    let explicit: Vec<&Setting> = read.iter().copied().filter(|setting| setting.key == key).collect();
    let patterns: Vec<&Setting> = patterns(read, key, true);
    if let Some((last, earlier)) = explicit.split_last() {
        let others = if last.value.is_some() { Fate::Overruled } else { Fate::Excluded };
        applied.extend(earlier.iter().chain(&patterns).map(|setting| (*setting, others)));
        written(&[*last], &mut applied);
        return applied;
    }
    // The entries of patterns stand in the order in which they got their values.
    let mut entries: Vec<&Setting> = Vec::new();
    for setting in patterns {
        let same = entries.iter().position(|entry| entry.key == setting.key);
        match same {
            Some(place) if entries[place].value == setting.value => applied.push((setting, Fate::Overruled)),
            Some(place) => {
                let fate = if setting.value.is_some() { Fate::Overruled } else { Fate::Excluded };
                applied.push((entries.remove(place), fate));
                entries.push(setting);
            }
            None => entries.push(setting),
        }
    }
    entries.retain(|entry| entry.value.is_some());
    written(&entries, &mut applied);
    applied
}

/// All lines are written one after the other; a pattern is kept off what any other line names. That a line keeps off by a
/// pattern of its own is so in newer versions; in procps 4.0.2 that line does nothing.
fn procps<'a>(read: &[&'a Setting], key: &str) -> Vec<(&'a Setting, Fate)> {
    let mut applied = Vec::new();
    let explicit: Vec<&Setting> =
        read.iter().copied().filter(|setting| setting.key == key && setting.value.is_some()).collect();
    let is_kept_off = |setting: &&Setting| {
        setting.value.is_none() && (setting.key == key || setting.is_pattern() && matches(&setting.key, key, true))
    };
    let patterns = patterns(read, key, false);
    if !explicit.is_empty() {
        applied.extend(patterns.iter().map(|setting| (*setting, Fate::Overruled)));
        written(&explicit, &mut applied);
    } else if read.iter().any(is_kept_off) {
        applied.extend(patterns.iter().map(|setting| (*setting, Fate::Excluded)));
    } else {
        written(&patterns, &mut applied);
    }
    applied
}

/// The patterns that match a key; `all`: also lines that keep a pattern of the same text off.
fn patterns<'a>(read: &[&'a Setting], key: &str, all: bool) -> Vec<&'a Setting> {
    let is_it = |setting: &&Setting| {
        setting.is_pattern() && (all || setting.value.is_some()) && matches(&setting.key, key, false)
    };
    read.iter().copied().filter(is_it).collect()
}

/// Whether a pattern matches a key, both with dots, as paths below /proc/sys: by glob(3), or by fnmatch(3) without flags, where
/// a star takes slashes too.
fn matches(pattern: &str, key: &str, takes_slashes: bool) -> bool {
    let path = |key: &str| {
        let swapped = |c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        };
        CString::new(key.chars().map(swapped).collect::<String>())
    };
    if pattern.len() >= LONGEST || key.len() >= LONGEST {
        return false;
    }
    let (Ok(pattern), Ok(key)) = (path(pattern), path(key)) else { return false };
    let flags = if takes_slashes { 0 } else { libc::FNM_PATHNAME | libc::FNM_PERIOD };
    // SAFETY: both are strings that end with a zero and live until the call returns.
    unsafe { libc::fnmatch(pattern.as_ptr(), key.as_ptr(), flags) == 0 }
}

#[cfg(test)]
mod tests;
