//! What the kernel's objects take of the memory: /proc/slabinfo, which root alone may read.

use std::collections::BTreeMap;

use super::{Host, HostError};

const FILE: &str = "proc/slabinfo";
/// The file's first line (print_slabinfo_header of mm/slab_common.c); unchanged since Linux 2.6.10.
const VERSION: &str = "slabinfo - version: 2.1";

/// One kind of object. Kinds of the same size may be merged under the name of one of them: a kind that is not listed is
/// not to be told from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slab {
    /// Objects in use; a bit too many, for those that are free on a CPU count as in use.
    pub active: u64,
    /// Objects that there is room for.
    pub objects: u64,
    /// Bytes of one object, with what surrounds it.
    pub object_bytes: u64,
    /// Objects of one slab.
    pub objects_per_slab: u64,
    /// Pages of one slab.
    pub pages_per_slab: u64,
    /// Slabs.
    pub slabs: u64,
}

impl Slab {
    /// Bytes of memory that it holds, whether in use or not.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let page = rustix::param::page_size() as u64;
        self.slabs.saturating_mul(self.pages_per_slab).saturating_mul(page)
    }
}

/// Every kind by its name, such as `tw_sock_TCP`, `tw_sock_TCPv6`, `request_sock_TCP` and `tcp_bind_bucket`.
///
/// # Errors
/// If the file cannot be read (only root may; no CONFIG_SLUB_DEBUG), or is of another version.
pub fn read(host: &Host) -> Result<BTreeMap<String, Slab>, HostError> {
    parse(&host.read(FILE)?)
        .ok_or_else(|| HostError::Strange { path: host.path(FILE), what: format!("no `{VERSION}`") })
}

/// Lines that are none are passed over. `None`: it is of another version.
fn parse(text: &str) -> Option<BTreeMap<String, Slab>> {
    let (version, lines) = text.split_once('\n')?;
    let is_known = version.starts_with(VERSION);
    is_known.then(|| lines.lines().filter_map(slab).collect())
}

/// `name active objects bytes per_slab pages : tunables .. : slabdata active_slabs slabs shared`.
fn slab(line: &str) -> Option<(String, Slab)> {
    let mut parts = line.split(" : ");
    let (objects, slabs) = (parts.next()?, parts.find_map(|part| part.trim_start().strip_prefix("slabdata"))?);
    let mut words = objects.split_ascii_whitespace();
    let name = words.next()?.to_owned();
    let mut number = || words.next()?.parse().ok();
    let slab = Slab {
        active: number()?,
        objects: number()?,
        object_bytes: number()?,
        objects_per_slab: number()?,
        pages_per_slab: number()?,
        slabs: slabs.split_ascii_whitespace().nth(1)?.parse().ok()?,
    };
    Some((name, slab))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::recorded::Recorded;

    /// Recorded on Linux 6.18, cut short.
    const TEXT: &str = "slabinfo - version: 2.1\n\
        # name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> \
        <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n\
        tw_sock_TCPv6        160    161    256   16    1 : tunables    0    0    0 : slabdata     10     11      0\n\
        TCP                  104    156   2368   13    8 : tunables    0    0    0 : slabdata     12     12      0\n";
    const TW: Slab =
        Slab { active: 160, objects: 161, object_bytes: 256, objects_per_slab: 16, pages_per_slab: 1, slabs: 11 };

    #[test]
    fn slabs_are_found_by_name() {
        let slabs = parse(TEXT).unwrap();
        assert_eq!(slabs.get("tw_sock_TCPv6"), Some(&TW));
        assert_eq!(slabs.get("tcp_bind_bucket"), None);
        assert_eq!(slabs.len(), 2);
    }

    #[test]
    fn memory_is_counted_in_pages() {
        let page = rustix::param::page_size() as u64;
        assert_eq!(TW.bytes(), 11 * page);
        assert_eq!(parse(TEXT).unwrap().get("TCP").map(Slab::bytes), Some(12 * 8 * page));
        assert_eq!(Slab { slabs: u64::MAX, pages_per_slab: 8, ..TW }.bytes(), u64::MAX);
    }

    #[test]
    fn another_version_is_an_error() {
        for text in ["", "slabinfo - version: 3.0\nTCP 1 2 3 4 5 : tunables 0 0 0 : slabdata 1 1 0\n"] {
            let error = read(&Recorded::new().file(FILE, text).host()).unwrap_err().to_string();
            assert!(error.ends_with("slabinfo: no `slabinfo - version: 2.1`"), "{error}");
        }
        assert!(matches!(read(&Host::at("/nonexistent")), Err(HostError::Read { .. })));
    }

    #[test]
    fn other_lines_are_passed_over() {
        let right = "TCP 1 2 3 4 5 : tunables 0 0 0 : slabdata 6 7 0";
        assert!(slab(right).is_some());
        // With CONFIG_DEBUG_SLAB there was a part more.
        assert!(slab(&right.replace(" : slabdata", " : globalstat 1 2 : slabdata")).is_some());
        for wrong in ["", "TCP", "TCP 1 2 3 4 : tunables : slabdata 6 7 0", "TCP 1 2 3 4 5 : slabdata 6", &right[..20]]
        {
            assert_eq!(slab(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn this_machine_has_them() {
        match read(&Host::default()) {
            Ok(slabs) => assert!(slabs.len() > 10 && slabs.values().any(|slab| slab.bytes() > 0), "{slabs:?}"),
            Err(error) => println!("skipped: {error}"),
        }
    }

    #[test]
    fn long_files_are_read() {
        let line = |i| format!("kind-{i} 1 2 3 4 5 : tunables 0 0 0 : slabdata 6 7 0\n");
        let lines: String = (0..1_000_000).map(line).collect();
        assert_eq!(parse(&format!("{VERSION}\n{lines}")).map(|slabs| slabs.len()), Some(1_000_000));
    }

    proptest! {
        /// Total: any bytes are slabs or none.
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let text = String::from_utf8_lossy(&bytes);
            let _ = (parse(&text), parse(&format!("{VERSION}\n{text}")));
        }

        #[test]
        fn nearly_right_lines_are_read(line in "[a-z]{0,3}( [0-9]{0,21}| :| : | slabdata){0,14}") {
            if let Some((_, slab)) = slab(&line) {
                let _ = slab.bytes();
            }
        }

        /// A file that is cut short tells no slab that the whole does not, but for the last number of the last line.
        #[test]
        fn cut_files_are_read(cut in 0..TEXT.len()) {
            let whole = parse(TEXT).unwrap_or_default();
            for (name, slab) in parse(&TEXT[..cut]).unwrap_or_default() {
                let known = whole.get(&name).copied().unwrap_or_default();
                prop_assert_eq!(Slab { slabs: known.slabs, ..slab }, known);
                prop_assert!(slab.slabs <= known.slabs);
            }
        }
    }
}
