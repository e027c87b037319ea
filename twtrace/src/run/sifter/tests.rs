use super::*;
use crate::model::{event::Cause, expression::tests::died};

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

#[test]
fn older_minisocks_are_sifted_too() {
    let other = Life { netns: Some(78), ..died().life };
    let unknown = Life { netns: None, ..died().life };
    let lives = vec![died().life, other, unknown];
    let mut sifter = sifter("not netns 77 and cause expired");
    for happening in [Happening::Seeds(lives.clone()), Happening::Over(lives)] {
        let (left, told) = sifter.sift(&happening);
        assert_eq!(told, Told::All);
        let (Happening::Seeds(left) | Happening::Over(left)) = &*left else { panic!("{left:?}") };
        assert_eq!(left, std::slice::from_ref(&other));
    }
    assert_eq!(sifter.counters(), Some(&Counters::default()), "they are no events");
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
