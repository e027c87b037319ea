//! External commands: each is printed, in a form that can be pasted into a shell, before it runs.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::paths;

/// The cargo that runs this xtask, at the workspace root.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::root());
    cargo
}

/// Runs `command`; its failure is an error that names it.
pub fn run(command: &mut Command) -> Result<()> {
    echo(command);
    let status = command.status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("`{}` failed ({status})", show(command));
    }
    Ok(())
}

/// Runs `command` and gives each line of its standard output to `each`. The exit status is the caller's to judge.
pub fn lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    echo(command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| cannot_start(command))?;
    if let Some(stdout) = child.stdout.take() {
        // Bytes, not `lines()`: a test may print what is not UTF-8, and that must not end the run.
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.with_context(|| format!("reading the output of `{}`", show(command)))?;
            each(String::from_utf8_lossy(&line).trim_end_matches('\r'));
        }
    }
    child.wait().with_context(|| format!("waiting for `{}`", show(command)))
}

/// Runs `command` and returns its standard output.
pub fn capture(command: &mut Command) -> Result<String> {
    let mut output = String::new();
    let status = lines(command, |line| {
        output.push_str(line);
        output.push('\n');
    })?;
    if !status.success() {
        bail!("`{}` failed ({status})", show(command));
    }
    Ok(output)
}

/// The answer to a question without side effects, asked silently; `None` if it could not be had.
pub fn probe(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where `program` is on PATH.
pub fn which(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// True if this process is root.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    // The owner of /proc/self is the effective user.
    std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// `program` as root: through sudo if this process is not. `None` if there is no way.
pub fn as_root(program: impl AsRef<OsStr>) -> Option<Command> {
    if is_root() {
        return Some(Command::new(program));
    }
    let mut sudo = Command::new(which("sudo")?);
    sudo.arg(program);
    Some(sudo)
}

/// Prints the command line.
pub fn echo(command: &Command) {
    eprintln!("+ {}", show(command));
}

/// The command line as a shell would take it.
pub fn show(command: &Command) -> String {
    let mut words = Vec::new();
    if let Some(dir) = command.get_current_dir()
        && env::current_dir().is_ok_and(|here| here != dir)
    {
        words.push(format!("cd {} &&", quote(dir.as_os_str())));
    }
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!("{}={}", key.display(), quote(&unexpanded(key, value))));
        }
    }
    words.push(quote(command.get_program()));
    words.extend(command.get_args().map(quote));
    words.join(" ")
}

/// A PATH that was only added to reads better as `dir:$PATH`.
fn unexpanded(key: &OsStr, value: &OsStr) -> OsString {
    let inherited = env::var("PATH").unwrap_or_default();
    match value.to_str().and_then(|value| value.strip_suffix(inherited.as_str())) {
        Some(added) if key == "PATH" && !inherited.is_empty() => format!("{added}$PATH").into(),
        _ => value.to_owned(),
    }
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%^$".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start {}", Path::new(command.get_program()).display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_pasted() {
        let mut command = Command::new("cargo");
        command.args(["test", "a b", "it's", ""]).env("K", "v w");
        assert_eq!(show(&command), r"K='v w' cargo test 'a b' 'it'\''s' ''");
    }

    #[test]
    fn a_longer_path_shows_what_was_added() {
        let inherited = env::var_os("PATH").unwrap_or_default();
        let mut longer = OsString::from("/linker:");
        longer.push(&inherited);
        assert_eq!(unexpanded(OsStr::new("PATH"), &longer), "/linker:$PATH");
    }
}
