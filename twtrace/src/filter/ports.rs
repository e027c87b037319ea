//! A set of TCP ports, as written on the command line: `80,8000-8100`.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use twtrace_common::knob::PortSet;

/// A set of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Sorted; no two of them overlap or touch, so that equal sets are equal values.
    ranges: Vec<RangeInclusive<u16>>,
}

/// Why a word names no port and no range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Nothing between two commas.
    #[error("missing port")]
    Empty,
    /// No number, or too large.
    #[error("invalid port '{0}' (expected 0 to 65535)")]
    NoPort(String),
    /// More or less than two ports with a dash between them.
    #[error("invalid range '{0}' (expected FROM-TO, e.g. 8000-8100)")]
    NoRange(String),
    /// The larger port stands first.
    #[error("range {0}-{1} is backwards")]
    Backwards(u16, u16),
}

impl Ports {
    /// The union of ranges, in any order.
    pub fn new(ranges: impl IntoIterator<Item = RangeInclusive<u16>>) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        sorted.sort_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        Self { ranges: merged }
    }

    /// One word of a list: `80` or `8000-8100`.
    ///
    /// # Errors
    ///
    /// [`PortError`] if it is neither.
    pub fn parse_range(word: &str) -> Result<RangeInclusive<u16>, PortError> {
        if word.is_empty() {
            return Err(PortError::Empty);
        }
        let Some((from, to)) = word.split_once('-') else {
            let port = parse_port(word)?;
            return Ok(port..=port);
        };
        if from.is_empty() || to.is_empty() || to.contains('-') {
            return Err(PortError::NoRange(word.to_owned()));
        }
        let (from, to) = (parse_port(from.trim())?, parse_port(to.trim())?);
        if from > to { Err(PortError::Backwards(from, to)) } else { Ok(from..=to) }
    }

    /// Sorted; no two of them overlap or touch.
    #[must_use]
    pub fn ranges(&self) -> &[RangeInclusive<u16>] {
        &self.ranges
    }

    /// True if no port is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// True if this port is in the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.ranges.iter().any(|range| range.contains(&port))
    }

    /// Sets the bit of each port in a row of the programs' map.
    pub(super) fn set(&self, row: &mut PortSet) {
        for port in self.ranges.iter().cloned().flatten() {
            if let Some(word) = row.get_mut(usize::from(port >> 6)) {
                *word |= 1 << (port & 63);
            }
        }
    }
}

/// Digits only: `u16::from_str` would take `+80` too.
fn parse_port(word: &str) -> Result<u16, PortError> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    let port = if digits { word.parse().ok() } else { None };
    port.ok_or_else(|| PortError::NoPort(word.to_owned()))
}

impl FromStr for Ports {
    type Err = PortError;

    fn from_str(list: &str) -> Result<Self, PortError> {
        let ranges = list.split(',').map(|word| Self::parse_range(word.trim()));
        Ok(Self::new(ranges.collect::<Result<Vec<_>, _>>()?))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if range.start() == range.end() {
                write!(f, "{comma}{}", range.start())?;
            } else {
                write!(f, "{comma}{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bits(ports: &Ports) -> Box<PortSet> {
        let mut row = Box::new([0; 1024]);
        ports.set(&mut row);
        row
    }

    fn ranges() -> impl Strategy<Value = Vec<RangeInclusive<u16>>> {
        let range = (any::<u16>(), any::<u16>()).prop_map(|(a, b)| a.min(b)..=a.max(b));
        let narrow = (any::<u16>(), 0..9u16).prop_map(|(a, n)| a..=a.saturating_add(n));
        prop::collection::vec(prop_oneof![range, narrow], 1..12)
    }

    proptest! {
        #[test]
        fn print_and_parse_agree(ranges in ranges()) {
            let ports = Ports::new(ranges);
            prop_assert_eq!(ports.to_string().parse::<Ports>(), Ok(ports));
        }

        #[test]
        fn the_union_is_the_union(ranges in ranges(), port: u16) {
            let ports = Ports::new(ranges.clone());
            let wanted = ranges.iter().any(|range| range.contains(&port));
            let bits = bits(&ports);
            prop_assert_eq!(ports.contains(port), wanted);
            prop_assert_eq!(bits[usize::from(port / 64)] >> (port % 64) & 1 == 1, wanted);
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<Ports>();
        }

        #[test]
        fn nearly_right_text_does_not_panic(text in "[0-9,\\- +]{0,24}") {
            if let Ok(ports) = text.parse::<Ports>() {
                prop_assert_eq!(ports.to_string().parse::<Ports>(), Ok(ports));
            }
        }
    }

    #[test]
    fn touching_ranges_are_one() {
        assert_eq!("82,80-81,65535,0-9,10".parse::<Ports>().map(|p| p.to_string()), Ok("0-10,80-82,65535".to_owned()));
    }

    #[test]
    fn bits_have_no_port_too_many() {
        let all = bits(&Ports::new([0..=u16::MAX]));
        let bits = bits(&Ports::new([0..=0, 63..=64, 65535..=65535]));
        assert_eq!(bits.iter().map(|word| word.count_ones()).sum::<u32>(), 4);
        assert_eq!((bits[0], bits[1], bits[1023]), (1 | 1 << 63, 1, 1 << 63));
        assert_eq!(all.iter().map(|word| word.count_ones()).sum::<u32>(), 65536);
    }
}
