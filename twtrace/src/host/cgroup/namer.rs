//! A thread that names cgroups as soon as they are asked for: a container may be gone a moment after its last close().

use std::{
    collections::{BTreeSet, HashMap},
    io,
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use super::{Host, path_of, paths, root};
use crate::{
    host::containers,
    model::cgroup::{self, Named},
};

/// How often at most the whole tree is walked, for kernels that do not open cgroups by their id.
const WALK: Duration = Duration::from_secs(1);
/// The most questions, and the most answers, that wait.
const WAITING: usize = 64;
/// The most cgroups that are remembered.
const MOST: usize = 1 << 16;

/// Names by cgroup id; `None`: there is no such cgroup any more, and it was not known before.
pub type Answer = Vec<(u64, Option<Named>)>;

/// A thread that names cgroups. It ends when this is dropped.
#[derive(Debug)]
pub struct Namer {
    questions: SyncSender<Vec<u64>>,
    answers: Receiver<Answer>,
}

impl Namer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn spawn(host: Host) -> io::Result<Self> {
        let (questions, asked) = sync_channel::<Vec<u64>>(WAITING);
        let (told, answers) = sync_channel(WAITING);
        thread::Builder::new().name("twtrace-names".to_owned()).spawn(move || {
            let mut names = Names::new(&host);
            while let Ok(mut ids) = asked.recv() {
                // All that waits is one question.
                ids.extend(asked.try_iter().flatten());
                let answer = names.of(&ids.into_iter().collect());
                if !answer.is_empty() && told.send(answer).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { questions, answers })
    }

    /// Asks for names. Never blocks: where too many wait, the question is dropped, and may be put again.
    pub fn ask(&self, ids: Vec<u64>) {
        if !ids.is_empty() {
            let _full = self.questions.try_send(ids);
        }
    }

    /// What was found since the last call. Never blocks.
    pub fn take(&self) -> Answer {
        self.answers.try_iter().flatten().collect()
    }
}

/// What the thread knows. Cgroups that were there once keep their names.
struct Names<'a> {
    host: &'a Host,
    known: HashMap<u64, String>,
    walked: Option<Instant>,
}

impl<'a> Names<'a> {
    /// Begins with all cgroups that there are: one of them may be gone when it is asked for.
    fn new(host: &'a Host) -> Self {
        let mut names = Self { host, known: HashMap::new(), walked: None };
        if let Some(root) = root(host) {
            names.walk(&root);
        }
        names
    }

    fn walk(&mut self, root: &Path) {
        let found = paths(root);
        if self.known.len() + found.len() > MOST {
            self.known.clear();
        }
        self.known.extend(found);
        self.walked = Some(Instant::now());
    }

    /// Answers what can be answered now. The others are asked for again.
    fn of(&mut self, ids: &BTreeSet<u64>) -> Answer {
        let Some(root) = root(self.host) else { return ids.iter().map(|id| (*id, None)).collect() };
        self.answers(ids, |id| path_of(&root, id), |names| names.walk(&root))
    }

    fn answers(
        &mut self,
        ids: &BTreeSet<u64>,
        by_id: impl Fn(u64) -> io::Result<Option<String>>,
        walk: impl Fn(&mut Self),
    ) -> Answer {
        let mut answer = Answer::new();
        for &id in ids {
            let path = match self.known.get(&id) {
                Some(path) => Some(path.clone()),
                None => match by_id(id) {
                    Ok(path) => path,
                    Err(_) => {
                        let is_due = self.walked.is_none_or(|walked| walked.elapsed() >= WALK);
                        if is_due {
                            walk(self);
                        }
                        match self.known.get(&id) {
                            Some(path) => Some(path.clone()),
                            None if is_due => None,
                            None => continue,
                        }
                    }
                },
            };
            if let Some(path) = &path
                && self.known.len() < MOST
            {
                self.known.insert(id, path.clone());
            }
            answer.push((id, path.map(|path| self.named(path))));
        }
        answer
    }

    fn named(&self, path: String) -> Named {
        let id = cgroup::containers(&path).last().map(|found| found.id.to_owned());
        let name = id.and_then(|id| containers::names(self.host, &id).into_iter().next());
        Named { path, name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    fn named(path: &str) -> Option<Named> {
        Some(Named { path: path.to_owned(), name: None })
    }

    #[test]
    fn what_is_asked_for_is_named_at_once_and_kept() {
        let host = Host::at("/nonexistent");
        let mut names = Names::new(&host);
        let there = |id: u64| Ok((id == 5).then(|| "/a".to_owned()));
        let never = |_: &mut Names<'_>| panic!("no walk is needed");
        assert_eq!(names.answers(&ids(&[5, 9]), there, never), [(5, named("/a")), (9, None)]);
        // It is gone by now, and keeps its name.
        assert_eq!(names.answers(&ids(&[5]), |_| Ok(None), never), [(5, named("/a"))]);
    }

    #[test]
    fn where_the_kernel_opens_nothing_by_id_the_tree_is_walked_and_not_too_often() {
        let host = Host::at("/nonexistent");
        let mut names = Names::new(&host);
        let refused = |_| Err(io::Error::from_raw_os_error(libc::EPERM));
        let walk = |names: &mut Names<'_>| {
            names.known.insert(5, "/a".to_owned());
            names.walked = Some(Instant::now());
        };
        assert_eq!(names.answers(&ids(&[5, 9]), refused, walk), [(5, named("/a"))]);
        // 9 has to wait for the next walk, and is then known to be gone.
        let too_soon = |_: &mut Names<'_>| panic!("too soon");
        assert_eq!(names.answers(&ids(&[9]), refused, too_soon), []);
        names.walked = Instant::now().checked_sub(WALK);
        assert_eq!(names.answers(&ids(&[9]), refused, walk), [(9, None)]);
    }

    #[test]
    fn a_thread_answers_and_ends() {
        let namer = Namer::spawn(Host::at("/nonexistent")).unwrap();
        namer.ask(vec![9]);
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = namer.take();
            if !answer.is_empty() {
                break assert_eq!(answer, [(9, None)]);
            }
            assert!(Instant::now() < deadline, "no answer");
            thread::yield_now();
        }
    }
}
