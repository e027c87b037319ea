//! The kernel's word: its counters and its list of minisocks, held against what was told.

use std::collections::{BTreeSet, HashMap};

use super::{Knows, Made, Verdict, named};
use crate::{
    model::{
        event::{Cause, Detail, Event, Kind, Substate, Tuple},
        kernel::TwCounts,
    },
    traffic::oracle::Looks,
};

/// The kernel's own counters and its list of minisocks against what was told.
pub(super) fn kernel(made: &Made, looks: &Looks, events: &[&Event], knows: Knows, verdict: &mut Verdict) {
    let home = made.netns.first().copied();
    let count = |matches: &dyn Fn(&Detail) -> bool| {
        events.iter().filter(|event| event.life.netns == home && matches(&event.detail)).count() as u64
    };
    let died_of =
        |causes: &[Cause]| count(&|detail| matches!(detail, Detail::Died { cause, .. } if causes.contains(cause)));
    let born = count(&|detail| matches!(detail, Detail::Born { .. }));
    let (before, after) = (&looks.before.counters, &looks.after.counters);
    let tw = (after.tw + after.tw_killed).saturating_sub(before.tw + before.tw_killed);
    match looks.tw_counts {
        Some(TwCounts::Births) => {
            verdict.equal(|| "births, as TcpExt TW + TWKilled counts them".to_owned(), &tw, &born)
        }
        Some(TwCounts::Expiries) => {
            let expired = died_of(&[Cause::Expired]);
            verdict.equal(|| "expiries, as TcpExt TW + TWKilled counts them".to_owned(), &tw, &expired);
        }
        None => {}
    }
    let recycled = after.tw_recycled - before.tw_recycled;
    let taken = died_of(&[Cause::Reused, Cause::ReusedBound]);
    verdict.equal(|| "takeovers by connect(), as TcpExt TWRecycled counts them".to_owned(), &recycled, &taken);
    let overflow = after.overflow - before.overflow;
    let refused = count(&|detail| matches!(detail, Detail::Refused { .. }));
    verdict.equal(|| "refusals, as TcpExt TCPTimeWaitOverflow counts them".to_owned(), &overflow, &refused);
    let died = count(&|detail| matches!(detail, Detail::Died { .. }));
    let live = (before.sockstat_tw + born).checked_sub(died);
    verdict.equal(|| "minisocks, as sockstat counts them".to_owned(), &Some(after.sockstat_tw), &live);
    alive(made, looks, events, knows, verdict);
}

/// The minisocks that sock_diag lists are those that were told to be alive.
fn alive(made: &Made, looks: &Looks, events: &[&Event], knows: Knows, verdict: &mut Verdict) {
    let home = made.netns.first().copied();
    let mut told: HashMap<Tuple, Substate> = HashMap::new();
    told.extend(looks.before.minisocks.iter().copied());
    for event in events.iter().filter(|event| event.life.netns == home) {
        let Some(tuple) = event.life.tuple else { continue };
        match (event.kind(), event.life.substate) {
            (Kind::Born, Some(substate)) => drop(told.insert(tuple, substate)),
            (Kind::Turned, _) => drop(told.insert(tuple, Substate::TimeWait)),
            (Kind::Died, _) => drop(told.remove(&tuple)),
            _ => {}
        }
    }
    // A turn that is told late leaves its substate behind.
    let shown = |(tuple, substate): (&Tuple, &Substate)| {
        let substate = if knows.turns_late { String::new() } else { format!(" {substate}") };
        format!("{}{substate}", named(*tuple))
    };
    let told: BTreeSet<String> = told.iter().map(shown).collect();
    let listed: BTreeSet<String> = looks.after.minisocks.iter().map(|(tuple, state)| shown((tuple, state))).collect();
    verdict.checks += listed.len();
    for missing in listed.difference(&told) {
        verdict.differs(|| "listed by sock_diag".to_owned(), missing, "not told to be alive");
    }
    for ghost in told.difference(&listed) {
        verdict.differs(|| "told to be alive".to_owned(), "not listed by sock_diag", ghost);
    }
}
