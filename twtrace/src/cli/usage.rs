//! clap's errors in twtrace's own form: one line that says what, why, and what to do.

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use super::exit::{Code, Complaint, Exit};

/// What a parse that yields no command line comes to: the help on standard output, or a complaint, which refers to the help
/// of `command`.
pub(super) fn exit(error: &Error, command: Option<&str>) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::answer(error.render().to_string()),
        _ => Exit::error(Code::Usage, complaint(error, command)),
    }
}

fn complaint(error: &Error, command: Option<&str>) -> Complaint {
    let option = text(error, ContextKind::InvalidArg).unwrap_or_default();
    let name = option.split([' ', '=']).next().unwrap_or_default();
    let value = text(error, ContextKind::InvalidValue).unwrap_or_default();
    let known = list(error, ContextKind::ValidValue);
    let help = command.map_or("see twtrace --help".to_owned(), |command| format!("see twtrace {command} --help"));
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let noun = if option.starts_with('-') { "option" } else { "argument" };
            let remedy = match text(error, ContextKind::SuggestedArg) {
                Some(right) => format!("did you mean {right}? {help}"),
                None => help,
            };
            Complaint::new(option, format!("there is no such {noun}"), remedy)
        }
        ErrorKind::InvalidSubcommand => {
            let word = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            let remedy = match list(error, ContextKind::SuggestedSubcommand).first() {
                Some(right) => format!("did you mean {right}? {help}"),
                None => help,
            };
            Complaint::new(word, "there is no such command", remedy)
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Complaint::new("no command", "there is nothing to do", format!("write e.g. twtrace run, or {help}"))
        }
        ErrorKind::InvalidValue if value.is_empty() && known.is_empty() => {
            Complaint::new(name, "its value is missing", help)
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            Complaint::new(name, "its value is missing", format!("write one of {}", known.join(", ")))
        }
        ErrorKind::InvalidValue => {
            let why = format!("{value} is none of its values");
            Complaint::new(format!("{name} {value}"), why, format!("write one of {}", known.join(", ")))
        }
        ErrorKind::ArgumentConflict => {
            let name_of = |option: String| option.split([' ', '=']).next().unwrap_or_default().to_owned();
            match text(error, ContextKind::PriorArg).map(name_of).filter(|prior| prior != name) {
                Some(prior) => Complaint::new(name, format!("it does not go with {prior}"), "leave one of them out"),
                None => Complaint::new(name, "it is there twice", "write it once"),
            }
        }
        ErrorKind::TooManyValues => Complaint::new(name, "it takes no value", format!("write {name}")),
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
