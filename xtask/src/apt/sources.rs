//! Where this machine gets its Debian packages from, read from apt's own files in both of their formats.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A binary package source of the Debian archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// The mirror.
    pub uri: String,
    /// The suites in use.
    pub suites: Vec<String>,
    /// The `Signed-By` and `Trusted` fields, as deb822 lines.
    pub trust: Vec<String>,
}

impl Source {
    /// One of its suites, as a paragraph of a .sources file.
    pub fn stanza(&self, suite: &str) -> String {
        let trust: String = self.trust.iter().map(|line| format!("{line}\n")).collect();
        format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n{trust}", self.uri)
    }
}

/// What an archive that carries Debian itself calls its suites; a vendor's archive calls them otherwise.
const DEBIAN: [&str; 10] =
    ["bullseye", "bookworm", "trixie", "forky", "duke", "sid", "oldstable", "stable", "testing", "unstable"];

/// Every source of the files under `etc` (normally /etc/apt).
pub fn read(etc: &Path) -> Vec<Source> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(dir) = fs::read_dir(etc.join("sources.list.d")) {
        let mut parts: Vec<PathBuf> = dir.flatten().map(|entry| entry.path()).collect();
        parts.sort();
        files.extend(parts);
    }
    let mut sources = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(one_line)),
            Some("sources") => sources.extend(deb822(&text)),
            _ => {}
        }
    }
    sources
}

/// The source of Debian's releases.
pub fn main(sources: &[Source]) -> Option<&Source> {
    sources.iter().find(|source| source.suites.iter().any(|suite| DEBIAN.contains(&suite.as_str())))
}

/// The source of its security updates.
pub fn security(sources: &[Source]) -> Option<&Source> {
    let is_security = |suite: &String| {
        let name = suite.strip_suffix("-security").or_else(|| suite.strip_suffix("/updates"));
        name.is_some_and(|name| DEBIAN.contains(&name))
    };
    sources.iter().find(|source| source.suites.iter().any(is_security))
}

/// `deb [signed-by=KEYRING] URI SUITE COMPONENT...`
fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let trust = options.split_whitespace().filter_map(|option| {
        let (key, value) = option.split_once('=')?;
        match key {
            "signed-by" => Some(format!("Signed-By: {}", value.replace(',', " "))),
            "trusted" => Some(format!("Trusted: {value}")),
            _ => None,
        }
    });
    let main = words.any(|component| component == "main");
    main.then(|| Source { uri: uri.into(), suites: vec![suite.into()], trust: trust.collect() })
}

/// The stanzas of a .sources file.
fn deb822(text: &str) -> Vec<Source> {
    text.split("\n\n").filter_map(stanza).collect()
}

fn stanza(text: &str) -> Option<Source> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with([' ', '\t']) {
            // A continuation, such as a key that is written out under Signed-By.
            let (_, value) = fields.last_mut()?;
            value.push('\n');
            value.push_str(line.trim_end());
        } else if let Some((key, value)) = line.split_once(':') {
            fields.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let field = |key| fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let words = |key| field(key).unwrap_or_default().split_whitespace();
    let usable = words("types").any(|word| word == "deb")
        && words("components").any(|word| word == "main")
        && !field("enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
    let trust = [("signed-by", "Signed-By"), ("trusted", "Trusted")];
    let trust = trust.iter().filter_map(|(key, name)| Some(format!("{name}: {}", field(key)?)));
    usable.then(|| {
        Some(Source {
            uri: words("uris").next()?.to_owned(),
            suites: words("suites").map(str::to_owned).collect(),
            trust: trust.collect(),
        })
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str, suites: &[&str], trust: &[&str]) -> Source {
        let own = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Source { uri: uri.into(), suites: own(suites), trust: own(trust) }
    }

    #[test]
    fn one_line_sources() {
        let line = "deb [arch=amd64 signed-by=/k.gpg] http://m/debian bookworm main contrib # mine";
        assert_eq!(one_line(line), Some(source("http://m/debian", &["bookworm"], &["Signed-By: /k.gpg"])));
        assert_eq!(one_line("deb http://m/debian sid main"), Some(source("http://m/debian", &["sid"], &[])));
        for other in [
            "",
            "# deb http://m/debian sid main",
            "deb-src http://m/debian sid main",
            "deb http://m",
            "deb http://m x y",
        ] {
            assert_eq!(one_line(other), None, "{other:?}");
        }
    }

    #[test]
    fn deb822_sources() {
        let text = "Types: deb deb-src\n# a comment\nURIs: http://m/debian\nSuites: bookworm bookworm-updates\n\
                    Components: main\nSigned-By: /k.gpg\n\nTypes: deb\nURIs: http://m/debian-security\n\
                    Suites: bookworm-security\nComponents: main\n\nTypes: deb-src\nURIs: http://m/debian\n\
                    Suites: sid\nComponents: main\n\nEnabled: no\nTypes: deb\nURIs: u\nSuites: sid\nComponents: main\n";
        let found = deb822(text);
        assert_eq!(
            found,
            [
                source("http://m/debian", &["bookworm", "bookworm-updates"], &["Signed-By: /k.gpg"]),
                source("http://m/debian-security", &["bookworm-security"], &[]),
            ]
        );
        assert_eq!(main(&found).map(|s| s.uri.as_str()), Some("http://m/debian"));
        assert_eq!(security(&found).map(|s| s.uri.as_str()), Some("http://m/debian-security"));
    }

    #[test]
    fn a_key_that_is_written_out_is_kept() {
        let text = "Types: deb\nURIs: u\nSuites: sid\nComponents: main\nSigned-By:\n -----BEGIN\n .\n abc\n -----END\n";
        let trust = "Signed-By: \n -----BEGIN\n .\n abc\n -----END";
        assert_eq!(deb822(text), [source("u", &["sid"], &[trust])]);
    }

    #[test]
    fn other_vendors_are_not_debian() {
        let sources =
            [source("http://m/ubuntu", &["noble", "noble-security"], &[]), source("http://n", &["nodistro"], &[])];
        assert_eq!((main(&sources), security(&sources)), (None, None));
    }
}
