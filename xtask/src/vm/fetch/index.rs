//! The names of a mirror's kernel packages.

use std::{cmp::Ordering, collections::BTreeSet};

/// What `apt-cache search --names-only` is asked: kernels for virtual machines, and those that are PREEMPT_RT.
pub const PATTERN: &str = r"^linux-(image|binary|modules)-[0-9]+\.[0-9]+\..*-(cloud|rt)-amd64$";

/// What the name of a PREEMPT_RT kernel's series ends with.
const REALTIME: &str = "-rt";

/// What a package's name begins with that has, or may have, the image in it.
pub const IMAGES: [&str; 2] = ["linux-image-", "linux-binary-"];
/// Names of all packages of a kernel. Some have all in one, some the image apart, some the modules as well.
pub const PREFIXES: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];

/// The packages that there are.
#[derive(Debug)]
pub struct Index {
    names: BTreeSet<String>,
}

impl Index {
    /// Of lines that begin with a name.
    pub fn parse(found: &str) -> Self {
        Self { names: found.lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect() }
    }

    /// The newest release of the series that are wanted.
    pub fn newest(&self, is_wanted: impl Fn(&str) -> bool) -> Option<&str> {
        let releases = self.names.iter().filter_map(|name| IMAGES.iter().find_map(|prefix| name.strip_prefix(prefix)));
        let wanted = releases.filter(|release| series_of(release).is_some_and(|series| is_wanted(&series)));
        wanted.max_by(|a, b| natural(a, b))
    }

    /// The packages of a release: all that there are.
    pub fn packages(&self, release: &str) -> Vec<String> {
        let names = PREFIXES.iter().map(|prefix| format!("{prefix}{release}"));
        names.filter(|name| self.names.contains(name)).collect()
    }
}

/// `6.1` of `6.1.0-56-cloud-amd64`, `6.1-rt` of `6.1.0-56-rt-amd64`; `None` for what has no third number, such as a package
/// that only names another.
pub fn series_of(release: &str) -> Option<String> {
    let number = number_of(release)?;
    let flavour = if release.ends_with("-rt-amd64") { REALTIME } else { "" };
    Some(format!("{number}{flavour}"))
}

/// `7.3` of `7.3-rt`; `None` for other kernels.
pub fn realtime(series: &str) -> Option<&str> {
    series.strip_suffix(REALTIME)
}

/// `6.1` of `6.1.0-56-cloud-amd64`.
pub fn number_of(release: &str) -> Option<&str> {
    let mut dots = release.match_indices('.').map(|(at, _)| at);
    let (first, second) = (dots.next()?, dots.next()?);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(&release[..first]) && is_number(&release[first + 1..second])).then(|| &release[..second])
}

/// Orders `6.1.9` before `6.1.10`: runs of digits by their value, all else byte by byte.
pub fn natural(a: &str, b: &str) -> Ordering {
    fn digits(text: &str) -> (&str, &str) {
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
    }
    let (mut a, mut b) = (a, b);
    loop {
        let ((number_a, rest_a), (number_b, rest_b)) = (digits(a), digits(b));
        let (value_a, value_b) = (number_a.trim_start_matches('0'), number_b.trim_start_matches('0'));
        let order = value_a.len().cmp(&value_b.len()).then_with(|| value_a.cmp(value_b));
        let (mut chars_a, mut chars_b) = (rest_a.chars(), rest_b.chars());
        let order = order.then_with(|| chars_a.next().cmp(&chars_b.next()));
        if order != Ordering::Equal || rest_a.is_empty() {
            return order;
        }
        (a, b) = (chars_a.as_str(), chars_b.as_str());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count() {
        let mut names = ["6.12.117+deb12", "6.12.94+deb13", "6.12.107+deb13", "6.12.107+deb12", "6.12"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["6.12", "6.12.94+deb13", "6.12.107+deb12", "6.12.107+deb13", "6.12.117+deb12"]);
        assert_eq!(natural("5.10.0-9", "5.10.0-32"), Ordering::Less);
        assert_eq!(natural("7.2.12", "7.2.12"), Ordering::Equal);
        assert_eq!((natural("7.3", "7.3-rt"), natural("7.3-rt", "7.4")), (Ordering::Less, Ordering::Less));
        assert_eq!((natural("7.10", "7.9"), natural("10.0", "7.9")), (Ordering::Greater, Ordering::Greater));
    }

    #[test]
    fn a_release_has_a_series() {
        assert_eq!(series_of("6.12.118+deb13-cloud-amd64").as_deref(), Some("6.12"));
        assert_eq!(series_of("5.10.0-46-cloud-amd64").as_deref(), Some("5.10"));
        assert_eq!(series_of("7.3.4+deb13-rt-amd64").as_deref(), Some("7.3-rt"));
        assert_eq!((realtime("7.3-rt"), realtime("7.3")), (Some("7.3"), None));
        for none in ["6.12-cloud-amd64", "cloud-amd64", "6..1", "", "a.b.c", "6.x.1"] {
            assert_eq!(series_of(none), None, "{none}");
        }
    }

    #[test]
    fn a_release_has_all_its_packages() {
        let index = Index::parse(include_str!("index-2026.txt"));
        assert_eq!(index.packages("6.1.0-56-cloud-amd64"), ["linux-image-6.1.0-56-cloud-amd64"]);
        let all = PREFIXES.map(|prefix| format!("{prefix}7.3.4+deb13-cloud-amd64"));
        assert_eq!(index.packages("7.3.4+deb13-cloud-amd64"), all);
        // Its image and its modules are apart, and the third package is for both.
        assert_eq!(index.packages("7.1.13+deb13-cloud-amd64").len(), 2);
    }
}
