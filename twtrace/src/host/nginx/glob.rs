//! The patterns of `include` (glob(3), without braces and tildes).

use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};

/// The longest name, and the longest pattern of one, bytes (NAME_MAX).
const LONGEST: usize = 255;

/// The paths that a pattern stands for, in order, at most so many; without a pattern the path itself, whether it is there
/// or not. `list`: the names in a directory.
pub fn expand(pattern: &Path, most: usize, list: impl Fn(&Path) -> Vec<String>) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let text = component.as_os_str().to_string_lossy();
        if matches!(component, Component::Normal(_)) && text.contains(['*', '?', '[']) {
            let mut next = Vec::new();
            // A pattern that is none matches nothing.
            let Some(pattern) = Pattern::new(&text).ok().filter(|_| text.len() <= LONGEST) else { return next };
            for directory in &found {
                let mut names = list(directory);
                names.retain(|name| matches(&pattern, name));
                names.sort_unstable();
                next.extend(names.into_iter().map(|name| directory.join(name)).take(most.saturating_sub(next.len())));
            }
            found = next;
        } else {
            found.iter_mut().for_each(|path| path.push(component));
        }
    }
    found
}

/// Whether a name matches. A leading dot has to be written.
fn matches(pattern: &Pattern, name: &str) -> bool {
    let options =
        MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
    name.len() <= LONGEST && pattern.matches_with(name, options)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_found_in_order() {
        let list = |directory: &Path| -> Vec<String> {
            let names: &[&str] = match directory.to_str() {
                Some("/etc") => &["b", "a"],
                Some("/etc/a") => &["2.conf", "1.conf", ".hidden.conf", "x"],
                Some("/etc/b") => &["3.conf"],
                _ => &[],
            };
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        let found = |pattern: &str| {
            let paths = expand(Path::new(pattern), 3, list);
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(found("/etc/*/*.conf"), "/etc/a/1.conf /etc/a/2.conf /etc/b/3.conf");
        assert_eq!(found("/etc/a/.*"), "/etc/a/.hidden.conf");
        assert_eq!(found("/etc/none"), "/etc/none");
        assert_eq!(found("/nowhere/*"), "");
        assert_eq!(found("/etc/[/x"), "");
        assert_eq!(found("/etc/[!b]/[0-9].conf"), "/etc/a/1.conf /etc/a/2.conf");
    }

    proptest! {
        #[test]
        fn any_pattern_ends(pattern in "[ab*?\\[\\]!\\\\-]{0,40}", name in "[ab\\[\\]-]{0,60}") {
            let _ = expand(Path::new(&pattern), 3, |_| vec![name.clone()]);
        }
    }
}
