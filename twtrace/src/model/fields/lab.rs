//! The lines of `twtrace lab`.

use super::{
    Field, Line,
    Shape::{Bool, Counts, Integer, ListOf, Text, Words},
    always, maybe,
};

const DIFFERENCE: &[Field] = &[
    always("what", Text, "", "what was compared"),
    always("expected", Text, "", "what it should be"),
    always("seen", Text, "", "what it is"),
];
const NO_VERDICT: &str = "there was no verdict";

/// The lines of `twtrace lab`, each with the fields of [`HEAD`](super::HEAD) before its own.
pub const LAB: &[Line] = &[
    Line {
        kind: "listed",
        when: "`--list`: one a scenario.",
        socket: false,
        own: &[&[
            always("scenario", Text, "", "its name"),
            always("shows", Text, "", "what must be seen"),
            always("slow", Bool, "", "waits until a real TIME_WAIT has run out"),
            always("needs", ListOf(&[]), "", "capabilities that it needs beside birth and death, by name"),
        ]],
    },
    Line {
        kind: "scenario",
        when: "A scenario has ended.",
        socket: false,
        own: &[&[
            always("scenario", Text, "", "its name"),
            always("result", Text, "passed differs failed not_offered skipped", "what came of it"),
            maybe("reason", Text, "", "why there was no verdict", "there was one"),
            always("checks", Integer, "", "comparisons made"),
            maybe("expected", Text, "", "what was made, in numbers", NO_VERDICT),
            maybe("seen", Text, "", "what was told, in numbers", NO_VERDICT),
            maybe("note", Text, "", "what else there is to say of it", "nothing"),
            maybe("expired_min_ns", Integer, "ns", "shortest life that its timer ended", "there was none"),
            maybe("expired_max_ns", Integer, "ns", "longest life that its timer ended", "there was none"),
            always("differ", Integer, "", "comparisons that differ"),
            always("differences", ListOf(DIFFERENCE), "", "the first of them"),
            always("duration_ns", Integer, "ns", "how long it took"),
        ]],
    },
    Line {
        kind: "lab",
        when: "Last, once.",
        socket: false,
        own: &[&[
            always("kernel", Text, "", "`uname -r`"),
            always("version", Text, "", "version of twtrace"),
            always("capabilities", Words, "", "backend by capability, null where it is not offered"),
            always("self_test", Text, "", "`passed`, or what was wrong"),
            always("passed", Integer, "", "scenarios in which nothing differs"),
            always("failed", Integer, "", "scenarios that differ or could not be made"),
            always("not_offered", Integer, "", "scenarios that this tracer's backend cannot know"),
            always("skipped", Integer, "", "scenarios that this kernel cannot do"),
            always("trouble", Counts, "", "what the tracer says itself that it missed; zeroes are left out"),
        ]],
    },
];
