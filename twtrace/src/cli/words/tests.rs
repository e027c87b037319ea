use super::*;
use crate::cli::{command, exit::Code, parse};

fn stderr(line: &str) -> String {
    match parse(std::iter::once("twtrace").chain(line.split_whitespace())) {
        Err(Exit { code: Code::Usage, stderr, .. }) => stderr,
        other => unreachable!("{line}: {other:?}"),
    }
}

/// Behind `write` there are options of ours only: what the advice says works.
#[test]
fn advice_names_options_that_there_are() {
    let clap = command();
    let tables = [OPTIONS, OPTIONS_OF_DOCTOR, OPTIONS_OF_LAB, COMMANDS];
    for (words, advice) in tables.into_iter().flatten() {
        for option in advice.split([' ', ',', ':', ';']).filter(|word| word.starts_with("--")) {
            let is_ours = option == "--version" || clap.get_subcommands().any(|command| has(command, option));
            assert!(is_ours, "{words:?}: {option}");
        }
    }
    for (names, value) in VALUES {
        for name in *names {
            assert!(clap.get_subcommands().any(|command| has(command, name)), "{name} {value}");
        }
    }
}

/// A word in a table that has become an option is never looked up.
#[test]
fn no_word_of_others_is_one_of_ours() {
    let clap = command();
    let of = |verb: &str, table: &'static [Advice]| {
        let command = clap.find_subcommand(verb).unwrap();
        table.iter().flat_map(|(words, _)| words.iter()).filter(|word| has(command, word)).collect::<Vec<_>>()
    };
    assert_eq!(of("run", OPTIONS), Vec::<&&str>::new());
    assert_eq!(of("doctor", OPTIONS_OF_DOCTOR), Vec::<&&str>::new());
    assert_eq!(of("lab", OPTIONS_OF_LAB), Vec::<&&str>::new());
    let commands = COMMANDS.iter().flat_map(|(words, _)| words.iter());
    assert_eq!(commands.filter(|word| clap.find_subcommand(word).is_some()).count(), 0);
}

#[test]
fn words_of_other_tools_lead_to_ours() {
    for (line, wanted) in [
        ("--json", "twtrace run --json (the same as --format json)"),
        ("-p 80", "twtrace run -p 80"),
        ("--port 80 --comm x", "twtrace run --port 80 --comm x"),
        ("top", "twtrace run"),
        ("ps", "twtrace doctor"),
        ("80", "twtrace run --port 80"),
        ("version", "twtrace --version"),
        ("run 1 10", "--interval 1s --duration 10s"),
        ("run 5 3", "--interval 5s --duration 15s"),
        ("run 80", "--port 80, --pid 80"),
        ("run port", "the expression: after 'port': expected a port"),
        ("run dst port 443 nginx", "at 'nginx' after 'dst port 443': a word too many"),
        ("run tcp port 80", "TIME_WAIT is always TCP"),
        ("run dport 443", "write dst port 443"),
        ("run --filter x", "twtrace run 'dst port 443"),
        ("run 10.0.0.1", "dst 10.0.0.1 (the peer)"),
        ("run nginx", "--comm nginx"),
        ("run help", "twtrace run --help"),
        ("run -port 80", "write --port"),
        ("run -json", "write --json"),
        ("run -n", "leave it out"),
        ("run -c 10", "--duration 10s"),
        ("run -i eth0", "-i is the interval"),
        ("run --daddr 10.0.0.1", "--raddr"),
        ("run --pod web", "--container"),
        ("run --ipv6", "-6"),
        ("run --watch 5s", "twtrace doctor --watch"),
        ("doctor 4711", "--pid 4711"),
        ("doctor web", "--container web"),
        ("doctor ports.exhausted", "--explain ports.exhausted"),
        ("doctor --port 80", "twtrace run --port 80"),
        ("doctor -i 5", "--watch 5s"),
        ("doctor --fix", "changes nothing"),
        ("lab -j 4", "--jobs 4"),
        ("lab reuse", "--scenario reuse"),
        ("probe kprobe", "--backend kprobe"),
        ("run --port", "--port 80"),
    ] {
        let said = stderr(line);
        assert!(said.contains(wanted), "{line}: {said}");
    }
}

#[test]
fn what_is_ours_is_not_corrected() {
    for line in
        ["run --pid 80", "run -vv", "-v run", "run -46", "run --duration=10s", "run --comm -d", "doctor --pid 1"]
    {
        let cli = parse(std::iter::once("twtrace").chain(line.split_whitespace()));
        let notes = cli.as_ref().map(|cli| &cli.notes);
        assert!(notes.is_ok_and(Vec::is_empty) || line.contains("comm"), "{line}: {cli:?}");
    }
}

/// What is said to be the same is the same.
#[test]
fn our_words_mean_what_was_typed() {
    let clap = command();
    for line in [
        "run -p 80 -L443 -D=8080 -P 1-9 -d 10 -i2 -j",
        "run --dport 443 --sport=80 --json --summary-every 5",
        "doctor -j -p 1 --watch=5",
        "lab -j --list --jobs 3",
        "probe --json",
        "-v run --comm it's -d 5",
    ] {
        let words: Vec<OsString> = std::iter::once("twtrace").chain(line.split_whitespace()).map(Into::into).collect();
        let ours = Spoken::new(&clap, &words).in_our_words(&clap).unwrap();
        let again = ours.replace("'it'\\''s'", "it's");
        let mut typed = parse(&words).unwrap();
        typed.notes.clear();
        assert_eq!(parse(again.split_whitespace()), Ok(typed), "{line}: {ours}");
    }
}

#[test]
fn help_is_given_by_its_name_too() {
    for (line, wanted) in [("help", "twtrace --help"), ("help run", "twtrace run --help")] {
        match parse(std::iter::once("twtrace").chain(line.split_whitespace())) {
            Err(Exit { code: Code::Success, stdout, .. }) => {
                assert!(stdout.lines().next().is_some_and(|first| first.contains(wanted)), "{stdout}");
                assert!(stdout.contains("Usage:"), "{stdout}");
            }
            other => unreachable!("{line}: {other:?}"),
        }
    }
    assert!(stderr("help wibble").contains("unknown command"));
}
