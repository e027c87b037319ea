//! The names and values of the command line's filters, as an expression.

use crate::{
    cli::{self, Command, exit::Exit},
    filter::resolve::Resolver,
    model::expression::Expression,
};

/// Reads `lport:443 comm:nginx cause:reused`: names and values are those of the command line's filters and of
/// `--events`; `family:4` stands for `-4`. Looks up the names in it with `resolver`.
///
/// # Errors
/// What is wrong with the first wrong word, for the eye.
pub(super) fn read(text: &str, resolver: &Resolver) -> Result<Expression, String> {
    let mut args = vec!["twtrace".to_owned(), "run".to_owned()];
    for word in text.split_whitespace() {
        let Some((name, value)) = word.split_once(':') else {
            return Err(format!("{word}: write NAME:VALUE, e.g. lport:443 comm:nginx cause:reused"));
        };
        match (name, value) {
            ("family", "4" | "6") => args.push(format!("-{value}")),
            _ if cli::filter_names().contains(&name) => args.push(format!("--{name}={value}")),
            _ => {
                return Err(format!("{name}: no such filter; use one of {}", cli::filter_names().join(", ")));
            }
        }
    }
    let said = |exit: Exit| exit.stderr.trim().trim_start_matches("twtrace: ").to_owned();
    let Command::Run(run) = cli::parse(args).map_err(said)?.command else {
        return Err("not a filter; write NAME:VALUE, e.g. lport:443".to_owned());
    };
    let resolved = resolver.resolve(&run.filter).map_err(|wrong| said(wrong.into()))?;
    Ok(run.filter.expression(&resolved))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{
        event::{Event, Life},
        expression::tests::died,
    };

    fn read(words: &str) -> Result<Expression, String> {
        super::read(words, &Resolver::default())
    }

    #[test]
    fn words_are_those_of_the_command_line() {
        for (words, wanted) in [
            ("rport:443", true),
            ("rport:80,400-500", true),
            ("lport:443", false),
            ("port:443", true),
            ("laddr:10.0.0.0/8 raddr:192.0.2.9", true),
            ("raddr:10.0.0.0/8", false),
            ("pid:42 comm:nginx", true),
            ("comm:nginx,wget", true),
            ("comm:ngin", false),
            ("netns:77", true),
            ("netns:78", false),
            ("cause:reused", true),
            ("cause:expired", false),
            ("events:born", false),
            ("events:died", true),
            ("role:client", true),
            ("role:server", false),
            ("family:4", true),
            ("family:6", false),
        ] {
            assert_eq!(read(words).map(|words| words.matches(&died())), Ok(wanted), "{words}");
        }
    }

    #[test]
    fn what_is_not_known_does_not_match() {
        let known = died();
        let life = Life { netns: None, tuple: None, role: None, closer: None, ..known.life };
        let unknown = Event { life, ..known };
        for words in ["rport:443", "netns:77", "role:client", "pid:42", "comm:nginx", "family:4", "laddr:0.0.0.0/0"] {
            assert_eq!(read(words).map(|words| words.matches(&unknown)), Ok(false), "{words}");
        }
    }

    #[test]
    fn a_wrong_word_is_named() {
        for (words, part) in [
            ("curl", "write NAME:VALUE"),
            ("duration:1s", "no such filter"),
            ("rport:x", "--rport x"),
            ("format:json", "no such filter"),
            ("cause:murdered", "invalid cause 'murdered'"),
        ] {
            let said = read(words).unwrap_err();
            assert!(said.contains(part), "{words}: {said}");
            assert!(!said.contains('\n'), "{said}");
        }
    }

    proptest! {
        #[test]
        fn no_words_panic(words: String) {
            let _ = read(&words);
        }

        #[test]
        fn nearly_right_words_do_not_panic(words in "((lport|cause|comm|netns|family|events|x):[a-z0-9,/.:-]{0,8} ?){0,4}") {
            let _ = read(&words).map(|sieve| sieve.matches(&died()));
        }
    }
}
