//! Single values of filters, from text to types: each wrong word is named, with a right one where that can be told.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use twtrace_common::COMM_LEN;

use super::spec::{CommName, NetnsSpec};

/// The largest process id that Linux hands out (PID_MAX_LIMIT of include/linux/threads.h).
const PID_MAX: u32 = 4 << 20;

/// What is wrong with one word.
pub struct Bad {
    /// What.
    pub why: String,
    /// What to write instead, where that can be told.
    pub right: Option<String>,
}

impl Bad {
    /// What is wrong, where nothing can be told that would be right.
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), right: None }
    }

    /// What is wrong, and what to write instead.
    pub fn rather(why: impl Into<String>, right: impl Into<String>) -> Self {
        Self { why: why.into(), right: Some(right.into()) }
    }
}

/// An address block; a bare address is a block of one. v4-mapped blocks become IPv4, as the addresses themselves do.
pub fn cidr(word: &str) -> Result<IpNet, Bad> {
    let (address, prefix) = match word.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (word, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(Bad::new(format!("invalid address '{address}' (expected IPv4 or IPv6)")));
    };
    let (family, most) = if address.is_ipv4() { (4, 32) } else { (6, 128) };
    let bits = match prefix {
        None => most,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().unwrap_or(u8::MAX),
        Some(_) => u8::MAX,
    };
    let net = prefix.is_none_or(|digits| !digits.is_empty()).then(|| IpNet::new(address, bits).ok()).flatten();
    let Some(net) = net else {
        return Err(Bad::new(format!(
            "invalid prefix '/{}' (IPv{family}: expected 0 to {most})",
            prefix.unwrap_or_default()
        )));
    };
    let whole = unmapped(net.trunc());
    if net.trunc() == net {
        Ok(whole)
    } else {
        Err(Bad::rather(format!("'{word}' has bits set after its prefix"), whole.to_string()))
    }
}

/// The kernel's sockets carry v4-mapped addresses; twtrace shows and compares them as IPv4.
fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let v4 = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    v4.and_then(|(address, bits)| Ipv4Net::new(address, bits).ok()).map_or(net, IpNet::V4)
}

/// A process id.
pub fn pid(word: &str) -> Result<u32, Bad> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    let pid = if digits { word.parse().ok() } else { None };
    pid.filter(|pid| (1..=PID_MAX).contains(pid))
        .ok_or_else(|| Bad::new(format!("invalid process id '{word}' (expected 1 to {PID_MAX})")))
}

/// A command name as the kernel keeps it.
pub fn comm(word: &str) -> Result<CommName, Bad> {
    CommName::new(word).ok_or_else(|| {
        let mut end = COMM_LEN - 1;
        while !word.is_char_boundary(end) {
            end -= 1;
        }
        let why = format!("'{word}' has {} bytes (the kernel keeps {})", word.len(), COMM_LEN - 1);
        Bad::rather(why, &word[..end])
    })
}

/// A network namespace, not yet looked up.
pub fn netns(word: &str) -> Result<NetnsSpec, Bad> {
    if !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(NetnsSpec::named(word));
    }
    match word.parse() {
        Ok(inum) if inum > 0 => Ok(NetnsSpec::Inum(inum)),
        _ => Err(Bad::new(format!("invalid inode number '{word}' (expected 1 to {})", u32::MAX))),
    }
}

/// `tui, text or json`.
pub fn or<T: AsRef<str>>(words: &[T]) -> String {
    match words {
        [] => String::new(),
        [word] => word.as_ref().to_owned(),
        [many @ .., last] => {
            let many: Vec<&str> = many.iter().map(AsRef::as_ref).collect();
            format!("{} or {}", many.join(", "), last.as_ref())
        }
    }
}

/// The name or id of a container, or of a systemd unit.
pub fn name(word: &str) -> Result<String, Bad> {
    Ok(word.to_owned())
}

/// A word of a vocabulary; `noun` as in 'invalid cause'.
pub fn word_of<T: Copy>(word: &str, noun: &str, known: &[(&'static str, T)]) -> Result<T, Bad> {
    known.iter().find(|(name, _)| *name == word).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        Bad::new(format!("invalid {noun} '{word}' (expected {})", or(&names)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blocks_are_read() {
        for (text, wanted) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("::1", "::1/128"),
            ("fe80::/10", "fe80::/10"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            assert_eq!(cidr(text).ok().map(|net| net.to_string()).as_deref(), Some(wanted), "{text}");
        }
    }

    #[test]
    fn no_other_block_is_read() {
        for text in [
            "10.1.2.3/8",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0/8",
            "::1%lo",
            "a/b",
            "/8",
            "::ffff:10.0.0.1/104",
            "10.0.0.0/8/8",
            "10.0.0.0/999999999999",
        ] {
            assert!(cidr(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_block_panics(text: String) {
            let _ = cidr(&text);
        }

        #[test]
        fn nearly_right_blocks_do_not_panic(text in "[0-9a-f:./%]{0,44}") {
            let _ = cidr(&text);
        }

        #[test]
        fn a_cut_block_is_read_and_its_uncut_form_tells_how(address: IpAddr, bits in 0..=128u8) {
            let Ok(net) = IpNet::new(address, bits) else { return Ok(()) };
            let cut = unmapped(net.trunc());
            prop_assert_eq!(cidr(&net.trunc().to_string()).ok(), Some(cut));
            if net != net.trunc() {
                prop_assert_eq!(cidr(&net.to_string()).err().and_then(|bad| bad.right), Some(cut.to_string()));
            }
        }

        #[test]
        fn no_name_panics(text: String) {
            match comm(&text) {
                Ok(_) => prop_assert!(text.len() < COMM_LEN),
                Err(bad) => prop_assert!(bad.right.is_none_or(|right| text.starts_with(&right) && right.len() < COMM_LEN)),
            }
            let _ = (pid(&text), netns(&text));
        }
    }
}
