use super::*;
use crate::model::{
    event::{Cause, Connection},
    expression::tests::died,
};

fn sifter(text: &str) -> Sifter {
    Sifter::new(Expression::read(text).unwrap(), Expression::everything())
}

fn told(sifter: &mut Sifter, event: Event) -> Told {
    sifter.sift(&Happening::Event(event)).1
}

/// Tables count every event of a connection that is wanted, whichever of them are shown.
#[test]
fn tables_count_what_is_not_shown() {
    for (text, wanted) in [
        ("cause reused", Told::All),
        ("cause expired", Told::Tables),
        ("life > 1h or event born", Told::Tables),
        ("cause reused and not port 443", Told::Nobody),
        ("port 443 and cause expired", Told::Tables),
        ("port 80 or cause expired", Told::Tables),
        ("port 80 and cause expired", Told::Nobody),
    ] {
        let mut sifter = sifter(text);
        assert_eq!(told(&mut sifter, died()), wanted, "{text}");
        let counters = sifter.counters().unwrap();
        let of = |cause: Cause| counters.died[usize::from(cause.raw())];
        let passed = u64::from(wanted == Told::All);
        assert_eq!((of(Cause::Reused), of(Cause::Expired)), (passed, 0), "{text}");
        let sums = [counters.emitted, counters.filtered].map(|counts| counts.iter().sum::<u64>());
        assert_eq!(sums, [passed, 1 - passed], "{text}");
    }
    let mut nothing_asked = Sifter::default();
    assert_eq!((told(&mut nothing_asked, died()), nothing_asked.counters()), (Told::All, None));
}

/// What is only not shown is counted as ever.
#[test]
fn what_is_not_shown_is_counted() {
    let expired = || Expression::read("cause expired").unwrap();
    let mut shown = Sifter::new(Expression::everything(), expired());
    assert_eq!((told(&mut shown, died()), shown.counters()), (Told::Tables, None));
    let mut both = Sifter::new(Expression::read("port 443").unwrap(), expired());
    assert_eq!(told(&mut both, died()), Told::Tables);
    let counters = both.counters().unwrap();
    assert_eq!(counters.died[usize::from(Cause::Reused.raw())], 1);
    assert_eq!([counters.emitted, counters.filtered].map(|counts| counts.iter().sum::<u64>()), [0, 1]);
}

/// What has ended unseen is told without its ends: it is known by its id.
#[test]
fn what_was_not_entered_does_not_end() {
    let life = |id, netns| Life { id: Some(id), netns, ..died().life };
    let seeds = vec![life(1, Some(77)), life(2, Some(78)), life(3, None), life(4, Some(78))];
    let mut sifter = sifter("not netns 77 and cause expired");
    let ids = |happening: &Happening| match happening {
        Happening::Seeds(lives) | Happening::Over(lives) => lives.iter().filter_map(|life| life.id).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(ids(&sifter.sift(&Happening::Seeds(seeds)).0), [2, 4]);
    assert_eq!(sifter.counters(), Some(&Counters::default()), "they are no events");
    // Its namespace was read at its birth, and not at its end.
    let born = |id, netns| Event {
        life: life(id, netns),
        detail: Detail::Born { timeout_ms: None, connection: Connection::default() },
        ..died()
    };
    assert_eq!(told(&mut sifter, born(5, Some(78))), Told::Tables);
    assert_eq!(told(&mut sifter, born(6, Some(77))), Told::Nobody);
    assert_eq!(told(&mut sifter, born(7, Some(78))), Told::Tables);
    let end = |id| Event { life: Life { tuple: None, ..life(id, None) }, ..died() };
    assert_eq!((told(&mut sifter, end(5)), told(&mut sifter, end(6))), (Told::Tables, Told::Nobody));
    let nowhere = |id| Life { tuple: None, ..life(id, None) };
    let over = Happening::Over((1..=7).map(nowhere).collect());
    assert_eq!(ids(&sifter.sift(&over).0), [2, 4, 7]);
    assert_eq!(ids(&sifter.sift(&over).0), [] as [u64; 0], "once");
}

/// A cgroup that is made while the run goes on belongs to what is named, if it is below it. Each is looked for once.
#[test]
fn cgroups_that_are_made_later_are_found() {
    let group = crate::model::expression::Group {
        noun: crate::model::expression::Noun::Unit,
        name: "web".to_owned(),
        top: Some("/cgroup/web".into()),
        ids: [1].into(),
    };
    let asked = Expression::Is(Primitive::Cgroup(group));
    for (place, wanted) in
        [(Some("/cgroup/web/new"), Told::All), (Some("/cgroup/web2"), Told::Nobody), (None, Told::Nobody)]
    {
        let looks = std::rc::Rc::new(std::cell::Cell::new(0));
        let seen = std::rc::Rc::clone(&looks);
        let mut sifter = Sifter::new(asked.clone(), Expression::everything()).finding(Box::new(move |id| {
            assert_eq!(id, 9);
            seen.set(seen.get() + 1);
            place.map(Into::into)
        }));
        assert_eq!(told(&mut sifter, died()), wanted, "{place:?}");
        assert_eq!(told(&mut sifter, died()), wanted, "{place:?}");
        assert_eq!(looks.get(), 1);
    }
}
