//! clap's errors in twtrace's own form: one line that says what, why, and what to do.

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use super::{
    exit::{Code, Complaint, Exit},
    words::Spoken,
};
use crate::filter::word::or;

/// What a parse that yields no command line comes to: the help on standard output, or a complaint, which refers to the help
/// of the command that was given.
pub(super) fn exit(error: &Error, clap: &clap::Command, spoken: &Spoken<'_>) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::answer(error.render().to_string()),
        _ => Exit::error(Code::Usage, complaint(error, clap, spoken)),
    }
}

fn complaint(error: &Error, clap: &clap::Command, spoken: &Spoken<'_>) -> Complaint {
    let option = text(error, ContextKind::InvalidArg).unwrap_or_default();
    let name = option.split([' ', '=']).next().unwrap_or_default();
    let value = text(error, ContextKind::InvalidValue).unwrap_or_default();
    let known = list(error, ContextKind::ValidValue);
    let help = spoken.help();
    let example = known.last().map(|value| format!("write e.g. {name} {value}"));
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let noun = if option.starts_with('-') { "option" } else { "argument" };
            let suggestion = text(error, ContextKind::SuggestedArg);
            let (why, remedy) = spoken.unknown(clap, &option, suggestion.as_deref());
            Complaint::new(&option, why.unwrap_or_else(|| format!("unknown {noun}")), remedy)
        }
        ErrorKind::InvalidSubcommand => {
            let word = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            let suggestions = list(error, ContextKind::SuggestedSubcommand);
            let remedy = spoken.unknown_command(&word, suggestions.first().map(String::as_str));
            Complaint::new(word, "unknown command", remedy)
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Complaint::new("no command", "nothing to do", format!("write e.g. twtrace run, or {help}"))
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            let expected = if known.is_empty() { String::new() } else { format!(" (expected {})", or(&known)) };
            let remedy = example.or_else(|| spoken.example(clap, name)).unwrap_or(help);
            Complaint::new(name, format!("missing value{expected}"), remedy)
        }
        ErrorKind::InvalidValue => {
            let why = format!("invalid value '{value}' (expected {})", or(&known));
            Complaint::new(format!("{name} {value}"), why, example.unwrap_or(help))
        }
        ErrorKind::ValueValidation => {
            // `0 is not in 1..=64`
            let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            let range = source.split_once("is not in ").and_then(|(_, range)| range.split_once("..="));
            let expected = range.map_or_else(|| source.clone(), |(from, to)| format!("expected {from} to {to}"));
            let example = range.map_or(help, |(from, _)| format!("write e.g. {name} {from}"));
            Complaint::new(format!("{name} {value}"), format!("invalid value '{value}' ({expected})"), example)
        }
        ErrorKind::ArgumentConflict => {
            let name_of = |option: String| option.split([' ', '=']).next().unwrap_or_default().to_owned();
            match text(error, ContextKind::PriorArg).map(name_of).filter(|prior| prior != name) {
                Some(prior) => {
                    Complaint::new(name, format!("cannot be combined with {prior}"), "leave out one of the two")
                }
                None => Complaint::new(name, "given twice", "write it once"),
            }
        }
        ErrorKind::TooManyValues => Complaint::new(name, "takes no value", format!("write {name}")),
        ErrorKind::InvalidUtf8 => Complaint::new("the command line", "a word is not UTF-8", "write it in UTF-8"),
        _ => {
            let rendered = error.render().to_string();
            let first = rendered.lines().next().unwrap_or_default();
            Complaint::new("the command line", first.trim_start_matches("error: "), help)
        }
    }
}

fn text(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.first().cloned(),
        _ => None,
    }
}

fn list(error: &Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::Strings(texts)) => texts.clone(),
        Some(ContextValue::String(text)) => vec![text.clone()],
        _ => Vec::new(),
    }
}
