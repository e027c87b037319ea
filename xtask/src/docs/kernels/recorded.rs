//! What a page of kernels says of the run that it is from.

use super::{INPUTS, Mark, release_series, without_native};

/// A run of all tests on all kernels.
#[derive(Debug, PartialEq, Eq)]
pub struct Recorded {
    /// What was tested: see `inputs`.
    pub inputs: String,
    /// On which kernels: their series.
    pub series: Vec<String>,
    /// Nothing failed.
    pub is_good: bool,
}

/// Reads a page; `None` if it does not say what was tested.
pub fn read(page: &str) -> Option<Recorded> {
    let page = without_native(page);
    let line = page.lines().find_map(|line| line.strip_prefix("<!-- ")?.strip_prefix(INPUTS));
    let inputs = line?.strip_suffix(" -->")?.to_owned();
    let header = page.lines().find_map(|line| line.strip_prefix("| scenario |"))?;
    let series: Vec<String> =
        header.split('|').filter_map(|cell| release_series(cell.trim())).map(str::to_owned).collect();
    let failed = Mark::Failed.shown();
    // But for the line that explains the mark.
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with(&format!("| {failed} |"));
    let is_good = !page.lines().filter(is_row).any(|line| line.contains(&failed));
    (!series.is_empty()).then_some(Recorded { inputs, series, is_good })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "<!-- Generated -->\n<!-- Tested inputs: 12ab -->\n\n| mark | meaning |\n| ✗ | failed |\n\n\
                        | scenario | 5.10.0-46-cloud-amd64 | 7.2.13+deb14-cloud-amd64 |\n|---|---|---|\n| a | ✓ ✓² ✓ | – |\n\n\
                        ## On the machine itself: 6.18.44\n\n| scenario | 6.18.44 |\n|---|---|\n| a | ✗ |\n";

    #[test]
    fn a_page_says_what_it_is_of() {
        let series = vec!["5.10".to_owned(), "7.2".to_owned()];
        assert_eq!(read(PAGE), Some(Recorded { inputs: "12ab".into(), series, is_good: true }));
        let bad = read(&PAGE.replacen("✓ ✓² ✓", "✓ ✗ ✓", 1));
        assert!(bad.is_some_and(|recorded| !recorded.is_good));
    }

    #[test]
    fn other_pages_say_nothing() {
        for other in ["", "<!-- Tested inputs: 12ab -->\n", &PAGE.replace("Tested", "Other")] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
