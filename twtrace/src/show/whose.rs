//! Whose a number is: how many minisocks are alive where, and where the buckets are the fullest. The screen and the text
//! report say it with the same words.

use super::human::Known;
use crate::model::{aggregate::Aggregates, buckets::Buckets};

/// `2003 on this machine`; of a run with filters `40 of 2003 on this machine`; of one namespace alone `40 in blue`.
///
/// `live`: of the whole machine, whatever the filters. The tables have what the filters let through.
#[must_use]
pub fn live(all: &Aggregates, live: Option<u64>, buckets: Option<&Buckets>) -> String {
    let wanted = all.wanted();
    let passed = (all.live().time_wait + all.live().fin_wait2).max(0);
    if let Some(netns) = wanted.one_namespace() {
        let name = buckets.filter(|buckets| buckets.netns == netns).map(Buckets::whose);
        return format!("{passed} in {}", name.unwrap_or_else(|| format!("namespace {netns}")));
    }
    let of = if wanted.is_filtered() { format!("{passed} of ") } else { String::new() };
    format!("{of}{} on this machine", Known(live))
}

/// What stands before the gauge: `buckets` where only one namespace is meant, else which one is the fullest.
#[must_use]
pub fn fullest(all: &Aggregates, buckets: &Buckets) -> String {
    if all.wanted().one_namespace() == Some(buckets.netns) {
        "buckets".to_owned()
    } else {
        format!("fullest buckets: {}", buckets.whose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{expression::Expression, wanted::Wanted};

    fn with(filter: &str) -> Aggregates {
        Aggregates::default().wanting(Wanted::new(&Expression::read(filter).unwrap()))
    }

    fn of(netns: u32, name: &str, namespaces: u64) -> Buckets {
        Buckets { netns, name: Some(name.to_owned()), used: 3, limit: 100, namespaces }
    }

    #[test]
    fn without_filters_it_is_all_of_them() {
        let all = Aggregates::default();
        let buckets = of(7, "blue", 12);
        assert_eq!(live(&all, Some(2003), Some(&buckets)), "2003 on this machine");
        assert_eq!(fullest(&all, &buckets), "fullest buckets: blue");
        assert_eq!(live(&all, None, None), "? on this machine");
        // Others may not be open to twtrace.
        assert_eq!(fullest(&all, &of(7, "blue", 1)), "fullest buckets: blue");
    }

    #[test]
    fn one_namespace_has_both_numbers_of_its_own() {
        let all = with("netns 7");
        assert_eq!(live(&all, Some(2003), Some(&of(7, "blue", 1))), "0 in blue");
        assert_eq!(live(&all, Some(2003), None), "0 in namespace 7");
        assert_eq!(fullest(&all, &of(7, "blue", 1)), "buckets");
    }

    #[test]
    fn other_filters_show_how_much_they_leave() {
        let all = with("role client");
        assert_eq!(live(&all, Some(2003), Some(&of(7, "blue", 12))), "0 of 2003 on this machine");
        assert_eq!(fullest(&all, &of(7, "blue", 12)), "fullest buckets: blue");
    }
}
