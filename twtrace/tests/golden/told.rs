//! The live view: what it is told beside events, and what it answers.

use twtrace::{
    model::{
        aggregate::Aggregates,
        happening::{Happening, Loss, Lost},
    },
    tui::keys::Key,
};

use crate::tui::Rig;

/// What another output of the run loses is told on the screen, once, and stays among the notes.
#[test]
fn what_other_outputs_lose_is_told() {
    let mut rig = Rig::played((80, 24));
    let lost = |place, count| Happening::Lost {
        mono_ns: 1,
        lost: Lost { place, observer: Some("json:events.jsonl".to_owned()), count },
    };
    let tables = Aggregates::default();
    rig.happening(&lost(Loss::Output, 5), &tables);
    assert!(rig.screen().contains("json:events.jsonl has lost lines: see tab Notes"), "{}", rig.screen());
    rig.press("5");
    rig.happening(&lost(Loss::Output, 2), &tables);
    assert_eq!(rig.0.message, None, "it was told");
    rig.play(1);
    let notes = rig.screen();
    assert!(notes.contains("json:events.jsonl is read too slowly: 7 lines lost"), "{notes}");
    rig.happening(&lost(Loss::Closed, 1), &tables);
    rig.play(1);
    let notes = rig.screen();
    assert!(notes.contains("json:events.jsonl cannot be written any more: it lacks 8 lines, and all"), "{notes}");
}

#[test]
fn a_long_answer_is_shown_whole() {
    let mut rig = Rig::played((80, 24));
    let full = rig.screen();
    rig.press("/not one of those");
    rig.key(Key::Enter);
    let answer = rig.0.message.clone().unwrap();
    assert!(answer.len() > 80, "{answer}");
    let screen = rig.screen();
    let lines: Vec<&str> = screen.lines().collect();
    assert_eq!(lines.len(), 24);
    assert!(lines.join(" ").contains(&answer), "{screen}");
    assert_eq!(lines[..15], full.lines().collect::<Vec<_>>()[..15], "the rest stays");
    rig.key(Key::Escape);
    assert_eq!(rig.screen().lines().take(20).collect::<Vec<_>>(), full.lines().take(20).collect::<Vec<_>>());
}
