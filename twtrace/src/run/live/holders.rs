//! Events that wait for one word: who has the port that a call did not get. A thread looks; the run goes on meanwhile.

use std::{
    collections::VecDeque,
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use crate::{
    host::{
        Host,
        holders::{Paced, Question},
    },
    model::{
        event::{Detail, Event},
        holder::Holder,
    },
};

/// Events that may wait; the next is told at once.
const WAITING: usize = 64;

/// The events that wait, in the order in which they came.
#[derive(Debug)]
pub(super) struct Waiting {
    host: Host,
    /// The thread, once there was a question. `Err`: there can be none.
    desk: Option<io::Result<Desk>>,
    events: VecDeque<Event>,
    unknown: u64,
}

/// The way to the thread and back: it answers in order.
#[derive(Debug)]
struct Desk {
    questions: SyncSender<Question>,
    answers: Receiver<Option<Holder>>,
}

impl Desk {
    fn open(host: Host) -> io::Result<Self> {
        let (questions, asked) = sync_channel(WAITING);
        let (answer, answers) = sync_channel(WAITING);
        let work = move || {
            let mut paced = Paced::new(host);
            while let Ok(question) = asked.recv() {
                if answer.send(paced.find(&question)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("twtrace-holder".to_owned()).spawn(work)?;
        Ok(Self { questions, answers })
    }
}

impl Waiting {
    pub(super) fn new(host: Host) -> Self {
        Self { host, desk: None, events: VecDeque::new(), unknown: 0 }
    }

    /// Takes an event that has a holder. `Some`: it has none, or has to be told without.
    pub(super) fn take(&mut self, event: Event) -> Option<Event> {
        let Some(question) = question(&event) else { return Some(event) };
        let host = &self.host;
        if let Ok(desk) = self.desk.get_or_insert_with(|| Desk::open(host.clone()))
            && self.events.len() < WAITING
            && desk.questions.try_send(question).is_ok()
        {
            self.events.push_back(event);
            return None;
        }
        self.unknown += 1;
        Some(event)
    }

    /// Events whose holder has been looked for. Never blocks.
    pub(super) fn answered(&mut self) -> Vec<Event> {
        self.collect(Duration::ZERO)
    }

    /// All that wait, those that the thread was too slow for without a holder.
    pub(super) fn finish(&mut self, patience: Duration) -> Vec<Event> {
        let mut all = self.collect(patience);
        self.unknown += self.events.len() as u64;
        all.extend(self.events.drain(..));
        // What comes now is told at once.
        self.desk = Some(Err(io::ErrorKind::NotConnected.into()));
        all
    }

    fn collect(&mut self, patience: Duration) -> Vec<Event> {
        let Some(Ok(desk)) = &self.desk else { return Vec::new() };
        let deadline = Instant::now() + patience;
        let mut answered = Vec::new();
        while !self.events.is_empty() {
            let Ok(holder) = desk.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) else {
                break;
            };
            self.unknown += u64::from(holder.is_none());
            answered.extend(self.events.pop_front().map(|event| event.held(holder)));
        }
        answered
    }

    /// Events that were told without a holder, though somebody has the port.
    pub(super) fn unknown(&self) -> u64 {
        self.unknown
    }
}

fn question(event: &Event) -> Option<Question> {
    if !event.has_holder() {
        return None;
    }
    Some(Question {
        netns: event.life.netns?,
        tuple: event.life.tuple?,
        is_connection: matches!(event.detail, Detail::NoPort { .. }),
        asker: event.life.closer.map(|closer| closer.task.pid),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::{
        host::netns::Netns,
        model::{
            event::{Call, Life, Tuple},
            holder::HeldBy,
        },
    };

    fn no_bind(lport: u16) -> Event {
        let any = Ipv4Addr::UNSPECIFIED.into();
        let tuple = Tuple { laddr: Ipv4Addr::LOCALHOST.into(), lport, raddr: any, rport: 0 };
        let life = Life {
            id: None,
            netns: Netns::current().ok().map(|netns| netns.inum()),
            tuple: Some(tuple),
            substate: None,
            role: None,
            closer: None,
            preexisting: Some(false),
        };
        Event { mono_ns: 7, life, detail: Detail::NoBind { call: Call::Bind, holder: None }, self_test: false }
    }

    #[test]
    fn an_event_comes_back_with_its_holder() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let event = no_bind(listener.local_addr().unwrap().port());
        let mut waiting = Waiting::new(Host::default());
        assert_eq!(waiting.take(event), None);
        let told = waiting.finish(Duration::from_secs(60));
        assert_eq!(told.len(), 1);
        let Detail::NoBind { holder: Some(holder), .. } = told[0].detail else { panic!("{told:?}") };
        assert_eq!((holder.by, told[0].mono_ns, waiting.unknown()), (HeldBy::Listener, 7, 0));
    }

    #[test]
    fn what_has_no_holder_is_told_at_once_and_costs_no_thread() {
        let mut waiting = Waiting::new(Host::default());
        // Any port was wanted.
        let event = no_bind(0);
        assert_eq!(waiting.take(event), Some(event));
        assert!(waiting.desk.is_none() && waiting.answered().is_empty());
        assert_eq!(waiting.unknown(), 0);
    }

    /// Whatever the thread does, no event is lost and none is told twice.
    #[test]
    fn of_too_many_the_rest_is_told_without() {
        let mut waiting = Waiting::new(Host::at("/nonexistent"));
        let mut told = 0;
        for _ in 0..1000 {
            told += usize::from(waiting.take(no_bind(1)).is_some());
            told += waiting.answered().len();
        }
        told += waiting.finish(Duration::from_secs(60)).len();
        assert_eq!((told, waiting.unknown()), (1000, 1000));
    }
}
