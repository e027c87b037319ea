//! What is taken from the ring.

use twtrace_common::record::{Death, flag, kind};

use super::intake::intake;
use crate::source::Source;

/// Records made up beforehand.
struct Made(std::collections::VecDeque<Vec<u8>>);

impl Source for Made {
    fn drain(&mut self, most: usize, take: &mut dyn FnMut(&[u8])) -> usize {
        let count = most.min(self.0.len());
        self.0.drain(..count).for_each(|bytes| take(&bytes));
        count
    }
}

fn death(flags: u8) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<Death>()];
    bytes[8] = kind::DIED;
    bytes[9] = twtrace_common::ABI;
    bytes[16 + std::mem::offset_of!(twtrace_common::record::Life, flags)] = flags;
    bytes
}

#[test]
fn garbage_is_counted_and_the_rest_goes_on() {
    let garbage = [Vec::new(), b"garbage".to_vec(), vec![0xff; 4096], death(0)[..50].to_vec(), vec![0; 136]];
    let mut records = vec![death(0)];
    records.extend(garbage.clone());
    records.push(death(0));
    let (mut source, mut events) = (Made(records.into()), Vec::new());
    let (mut counted, mut uncertain) = (0, Vec::new());
    assert_eq!(intake(&mut source, &mut |event| events.push(event), &mut counted, &mut uncertain), 2 + garbage.len());
    assert_eq!((counted, uncertain.len()), (garbage.len() as u64, 0));
    assert_eq!(events.len(), 2);
    assert_eq!(intake(&mut source, &mut |event| events.push(event), &mut counted, &mut uncertain), 0);
}

#[test]
fn the_self_test_is_for_nobody_s_eyes_and_order_is_kept() {
    let records = vec![death(flag::SELF_TEST), death(0), death(flag::UNKNOWN_BIRTH), death(0)];
    let (mut source, mut events) = (Made(records.into()), Vec::new());
    let (mut counted, mut uncertain) = (0, Vec::new());
    intake(&mut source, &mut |event| events.push(event), &mut counted, &mut uncertain);
    assert_eq!((events.len(), uncertain.len(), counted), (1, 2, 0));
}
