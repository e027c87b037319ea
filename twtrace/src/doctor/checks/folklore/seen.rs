//! One sysctl: what it is now in each namespace, and what files set at boot.

use std::{collections::BTreeMap, ops::Deref};

use crate::{
    doctor::{
        facts::{Facts, Namespace},
        finding::{Evidence, Finding, Severity, Story},
    },
    host::sysctl_files::{self, Fate, Setting},
    show::human::Many,
};

/// Lines, and namespaces, that are shown.
pub const TOP: usize = 5;
/// The most characters of a value that are shown.
pub const LONGEST: usize = 40;

/// A line about one sysctl.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a>(sysctl_files::Line<'a>);

impl<'a> Deref for Line<'a> {
    type Target = sysctl_files::Line<'a>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Line<'_> {
    /// `/etc/sysctl.d/99-tuning.conf:12`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.setting.file.display(), self.setting.line)
    }

    /// True of the line that decides what is set at boot.
    pub fn sets(&self) -> bool {
        self.fate == Fate::Sets
    }

    /// What has to be said of its key, and if it does not count.
    pub fn but(&self) -> String {
        let by = if self.setting.is_pattern() {
            format!(" by the pattern {}", cut(&self.setting.key))
        } else {
            String::new()
        };
        let but = match self.fate {
            Fate::Sets => "",
            Fate::Overruled => ", and a later line or one without a pattern sets it again",
            Fate::Excluded => ", and a line that begins with '-' keeps it off",
            Fate::Refused => ", a value that the kernel refuses",
            Fate::Unread => ", which systemd does not read",
        };
        by + but
    }

    /// The line as it stands in its file.
    pub fn evidence(&self) -> Evidence {
        Evidence::new(cut(&self.setting.key), cut(self.written()), "", self.place() + &self.but())
    }

    /// The step that takes it away.
    pub fn removal(&self) -> String {
        format!("remove the line {}", self.place())
    }
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

/// The lines of files, if what they set is set in a namespace that was looked into.
pub fn files_of(facts: &Facts) -> Option<&[Setting]> {
    let are_read = facts.namespaces.is_empty() || facts.namespaces.iter().any(|namespace| namespace.boots);
    are_read.then_some(&facts.machine.files.settings)
}

/// The lines about a sysctl of net.ipv4, in the order in which they are read.
pub fn lines<'a>(facts: &'a Facts, name: &str) -> Vec<Line<'a>> {
    if files_of(facts).is_none() {
        return Vec::new();
    }
    facts.machine.files.about(&format!("net.ipv4.{name}")).into_iter().map(Line).collect()
}

/// The default of a sysctl in a namespace.
type DefaultOf<'a> = &'a dyn Fn(Option<&Namespace>) -> u64;

/// What somebody objects to.
pub struct Rule<'a> {
    story: &'a Story,
    /// The sysctl, of net.ipv4.
    name: &'static str,
    default: i64,
    default_of: Option<DefaultOf<'a>>,
    is_harmful: bool,
    /// The value now is judged, too.
    lives: bool,
    /// Steps lead back to the default.
    steps: bool,
}

impl<'a> Rule<'a> {
    /// A warning, as far as it counts.
    pub fn harmful(story: &'a Story, name: &'static str, default: i64) -> Self {
        Self { story, name, default, default_of: None, is_harmful: true, lives: true, steps: true }
    }

    /// A note.
    pub fn harmless(story: &'a Story, name: &'static str, default: i64) -> Self {
        Self { is_harmful: false, ..Self::harmful(story, name, default) }
    }

    /// The default is not the same in every namespace.
    pub fn default_of(mut self, default_of: DefaultOf<'a>) -> Self {
        self.default_of = Some(default_of);
        self
    }

    /// The value now is another question's.
    pub fn at_boot(self) -> Self {
        Self { lives: false, ..self }
    }

    /// Nothing has to be done.
    pub fn without_steps(self) -> Self {
        Self { steps: false, ..self }
    }

    fn path(&self) -> String {
        format!("ipv4/{}", self.name)
    }

    /// The sysctl's value in a namespace, if that is judged and bad.
    fn bad(&self, namespace: &Namespace, is_bad: &impl Fn(Option<&Namespace>, i64) -> bool) -> Option<i64> {
        let value = i64::try_from(namespace.sysctl(&self.path())?).ok()?;
        (self.lives && is_bad(Some(namespace), value)).then_some(value)
    }

    /// One finding of the first namespace and of the files that set its values, and one for each value of others, if it does
    /// harm there. `says` is the end of the sentence.
    pub fn findings(
        &self,
        facts: &Facts,
        is_bad: impl Fn(Option<&Namespace>, i64) -> bool,
        says: impl Fn(Option<&Namespace>) -> String,
    ) -> impl Iterator<Item = Finding> {
        let mut findings: Vec<Finding> = self.at_home(facts, &is_bad, &says).into_iter().collect();
        let mut others: BTreeMap<i64, Vec<&Namespace>> = BTreeMap::new();
        for namespace in facts.namespaces.iter().skip(1).filter(|_| self.is_harmful) {
            if let Some(value) = self.bad(namespace, &is_bad) {
                others.entry(value).or_default().push(namespace);
            }
        }
        findings.extend(others.into_iter().filter_map(|(value, namespaces)| self.elsewhere(value, &namespaces, &says)));
        findings.into_iter()
    }

    /// Of the first namespace, and of files.
    fn at_home(
        &self,
        facts: &Facts,
        is_bad: &impl Fn(Option<&Namespace>, i64) -> bool,
        says: &impl Fn(Option<&Namespace>) -> String,
    ) -> Option<Finding> {
        let first = facts.namespaces.first();
        let now = first.and_then(|namespace| namespace.sysctl(&self.path()));
        let live = first.and_then(|namespace| Some((namespace, self.bad(namespace, is_bad)?)));
        let mut all = lines(facts, self.name);
        // A pattern is about the sysctls that there are.
        all.retain(|line| first.is_none() || now.is_some() || !line.setting.is_pattern());
        let boot = all.iter().find(|line| line.sets()).copied();
        let mut bad: Vec<Line<'_>> =
            all.into_iter().filter(|line| line.number().is_some_and(|number| is_bad(first, number))).collect();
        bad.sort_by_key(|line| !line.sets());
        let name = self.name;
        let head = match (live, bad.first(), boot) {
            (None, None, _) => return None,
            (Some((namespace, value)), _, Some(line)) if line.number() == Some(value) => {
                let by = if namespace.place.initial == Some(false) { "as in" } else { "set by" };
                format!("{name} is {value}, {by} {}{}", line.place(), line.but())
            }
            (Some((_, value)), _, Some(line)) => {
                let number = line.number().unwrap_or_default();
                format!("{name} is {value} now, and {} sets {number} at boot{}", line.place(), line.but())
            }
            (Some((_, value)), _, None) => format!("{name} is {value}"),
            (None, Some(line), _) => {
                let number = line.number().unwrap_or_default();
                let differs = now.filter(|now| i64::try_from(*now) != Ok(number));
                let now = differs.map(|now| format!(" ({now} now)")).unwrap_or_default();
                format!("{} sets {name} to {number}{now}{}", line.place(), line.but())
            }
        };
        let counts = live.is_some() || bad.iter().any(Line::sets);
        let severity = if self.is_harmful && counts { Severity::Warning } else { Severity::Note };
        let finding = Finding::new(self.story, severity, format!("{head}: {}", says(first)))
            .shown_by(first.map(|namespace| namespace.set(&self.path())))
            .shown_by(bad.iter().take(TOP).map(Line::evidence));
        let finding = Finding { netns: live.map(|(namespace, _)| namespace.inum), ..finding };
        if !self.steps {
            return Some(finding);
        }
        let back = live.map(|(namespace, _)| self.back(namespace));
        Some(finding.to_do(bad.iter().take(TOP).map(Line::removal)).to_do(back))
    }

    /// Of namespaces that have the same value.
    fn elsewhere(
        &self,
        value: i64,
        namespaces: &[&Namespace],
        says: &impl Fn(Option<&Namespace>) -> String,
    ) -> Option<Finding> {
        let (name, first) = (self.name, *namespaces.first()?);
        let shown = || namespaces.iter().take(TOP);
        let head = match namespaces.len() {
            1 => format!("{name} is {value}"),
            count => {
                let called: Vec<String> = shown().map(|namespace| namespace.called()).collect();
                let more = if count > TOP { "; ..." } else { "" };
                let many = Many(count as u64, "network namespace");
                format!("{name} is {value} in {many} ({}{more})", called.join("; "))
            }
        };
        let evidence = shown().map(|namespace| {
            let read = namespace.set(&self.path());
            Evidence { source: format!("{}, network namespace {}", read.source, namespace.inum), ..read }
        });
        let finding = Finding::new(self.story, Severity::Warning, format!("{head}: {}", says(Some(first))))
            .shown_by(evidence)
            .to_do(shown().map(|namespace| self.back(namespace)));
        Some(Finding { netns: Some(first.inum), ..finding })
    }

    /// The step back to the default.
    fn back(&self, namespace: &Namespace) -> String {
        let key = format!("net.ipv4.{}", self.name);
        let default =
            self.default_of.map(|of| of(Some(namespace)).to_string()).unwrap_or_else(|| self.default.to_string());
        namespace.step(&key, default, "the default")
    }
}
