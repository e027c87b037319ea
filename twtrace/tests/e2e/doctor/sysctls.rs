//! Whose a sysctl is, and what a line sets: twtrace's word held against the running kernel and against the real loaders.

use std::{
    fs::{self, OpenOptions},
    io,
    path::PathBuf,
    process::Command,
};

use twtrace::host::{
    Host,
    netns::Netns,
    sysctl_files::{self, Fate},
    sysctl_scope::{self, Scope},
};

use super::{Outcome, new};
use crate::{line, tracer::forking};

fn path(key: &str) -> PathBuf {
    PathBuf::from(format!("/proc/sys/{}", key.replace('.', "/")))
}

fn read(netns: &Netns, key: &str) -> Option<String> {
    netns.run(|| fs::read_to_string(path(key))).ok().map(|text| text.trim().to_owned())
}

/// Each key of the table: what is written in a namespace is there, and nowhere else; what is the machine's cannot be written
/// there. Nothing outside of a namespace of the test is written.
pub fn sysctl_scopes() -> Outcome {
    let (own, other, here) = (new()?, new()?, Netns::current().map_err(|error| error.to_string())?);
    let (mut proved, mut skipped) = (0, Vec::new());
    for (key, scope) in sysctl_scope::known() {
        match scope {
            Scope::Machine => match own.run(|| OpenOptions::new().write(true).open(path(&key)).map(drop)) {
                Ok(()) => return Err(format!("{key} is the machine's, and can be written in a namespace")),
                Err(_) if !path(&key).exists() => skipped.push(key),
                Err(_) => proved += 1,
            },
            Scope::Namespace => {
                let (Some(was), Some(elsewhere)) = (read(&own, &key), read(&other, &key)) else {
                    skipped.push(key);
                    continue;
                };
                let outside = read(&here, &key);
                let Some(now) = change(&own, &key, &was) else {
                    skipped.push(format!("{key} (takes no other value)"));
                    continue;
                };
                let seen = (read(&other, &key), read(&here, &key));
                if seen != (Some(elsewhere), outside) {
                    return Err(format!("{key} was {was}, is {now} in one namespace, and elsewhere {seen:?}"));
                }
                proved += 1;
            }
        }
    }
    if !skipped.is_empty() {
        line(&format!("not proved, since this kernel does not have them: {}", skipped.join(", ")));
    }
    if proved >= 25 { Ok(()) } else { Err(format!("only {proved} keys; without {skipped:?}")) }
}

/// Writes another value, and tells it.
fn change(netns: &Netns, key: &str, was: &str) -> Option<String> {
    let (before, last) = was.rsplit_once(['\t', ' ']).map_or(("", was), |(before, last)| (before, last));
    let number: Option<i64> = last.parse().ok();
    let others = number.into_iter().flat_map(|last| [last + 1, last - 1, last / 2, last * 2, 0, 1, 2]);
    let words = ["reno", "5", "0 0"].map(str::to_owned);
    others.map(|last| format!("{before} {last}").trim().to_owned()).chain(words).find_map(|value| {
        netns.run(|| fs::write(path(key), &value)).ok()?;
        read(netns, key).filter(|now| now != was)
    })
}

/// A sysctl that takes any int, and is a namespace's own.
const KEY: &str = "net.ipv4.tcp_max_tw_buckets";
/// What it is before each file.
const BEFORE: i64 = 4242;

/// What people write behind the equals sign.
const SPELLINGS: [&str; 36] = [
    "60",
    " 60",
    "\t60\t",
    "0",
    "60   # why",
    "60 ; never",
    "5000\t#enough",
    "60#why",
    "60;",
    "0x1388",
    "0X1F",
    "0x",
    "0xg",
    "010",
    "08",
    "00",
    "-5",
    "- 5",
    "+5",
    "60\r",
    "15 30",
    "15\t30\t60",
    "15,30",
    "5s",
    "5.0",
    "1e3",
    "\"60\"",
    "'60'",
    "off",
    "",
    "= 7",
    "2147483647",
    "2147483648",
    "-2147483648",
    "00000000000000000017",
    "000000000000000000017",
];

/// Files that are more than a line; `K` stands for the sysctl. None keeps a pattern off by another: procps 4.0.2 does not,
/// later ones do.
const FILES: [&str; 21] = [
    "K = 5\nK = 6\n",
    "net/ipv4/tcp_max_tw_buckets = 5\n",
    "-K = 5 # may fail\n",
    "  K=5\r\n",
    "# K = 5\n; K = 6\n#K=7\n",
    "net.ipv4.tcp_max_tw_* = 5\n",
    "net.ipv4.tcp_max_tw_bucket? = 5\n",
    "net.ipv4.tcp_max_[st]w_buckets = 5\n",
    "net.ipv4.tcp_max_[!t]w_buckets = 5\n",
    "net/*/tcp_max_tw_buckets = 5\n",
    "net.*tw_buckets = 5\n",
    "net.ipv4.tcp_max_tw_* = 5\nnet.ipv4.*_buckets = 6\n",
    "K = 5\nnet.ipv4.tcp_max_tw_* = 6\n",
    "net.ipv4.tcp_max_tw_* = 6\nK = 5\n",
    "net.ipv4.tcp_max_tw_* = 5\n-K\n",
    "-K\nnet.ipv4.tcp_max_tw_* = 5\n",
    "K = 5\n-K\n",
    "-K\nK = 5\n",
    "K = 5\nK = off\n",
    "net.ipv4.tcp_max_tw_* = 5\nnet.ipv4.*_buckets = 6\nnet.ipv4.tcp_max_tw_* = 5\n",
    "net.ipv4.tcp_max_tw_* = 5\nnet.ipv4.*_buckets = 6\nnet.ipv4.tcp_max_tw_* = 7\n",
];

/// The real loaders, in a namespace, on odd files: what the kernel has then is what twtrace reads of the file.
pub fn sysctl_spellings() -> Outcome {
    let systemd = ["/usr/lib/systemd/systemd-sysctl", "/lib/systemd/systemd-sysctl"];
    let systemd = systemd.into_iter().find(|program| PathBuf::from(program).exists());
    let loaders = [Some(("sysctl", false)), systemd.map(|program| (program, true))];
    let netns = new()?;
    let mut compared = 0;
    for (program, is_systemd) in loaders.into_iter().flatten() {
        let spelt = SPELLINGS.iter().map(|value| format!("{KEY} ={value}\n"));
        for text in spelt.chain(FILES.iter().map(|text| text.replace('K', KEY))) {
            match loaded(&netns, program, is_systemd, &text)? {
                Some((kernel, ours)) if kernel == ours.unwrap_or(BEFORE) => compared += 1,
                Some((kernel, ours)) => {
                    return Err(format!("{program} on {text:?}: the kernel has {kernel}, twtrace reads {ours:?}"));
                }
                None => {
                    line(&format!("not compared: there is no {program} here"));
                    break;
                }
            }
        }
    }
    line(&format!("{compared} files compared with what a loader made of them"));
    Ok(())
}

/// What the kernel has after a loader, and what twtrace reads. `None`: there is no such loader.
fn loaded(netns: &Netns, program: &str, is_systemd: bool, text: &str) -> Result<Option<(i64, Option<i64>)>, String> {
    let fail = |error: io::Error| format!("{program}: {error}");
    let root = std::env::temp_dir().join(format!("twtrace-e2e-sysctl-{}", std::process::id()));
    let directory = root.join("etc/sysctl.d");
    fs::create_dir_all(&directory).map_err(fail)?;
    let file = directory.join("60-site.conf");
    fs::write(&file, text).map_err(fail)?;
    if is_systemd {
        fs::create_dir_all(root.join("run/systemd/system")).map_err(fail)?;
    }
    let files = sysctl_files::read(&Host::at(&root));
    let ours = files.about(KEY).iter().find(|line| line.fate == Fate::Sets).and_then(sysctl_files::Line::number);
    let run = || {
        fs::write(path(KEY), BEFORE.to_string())?;
        let mut command = Command::new(program);
        // Other sysctls that a pattern matches are the namespace's as well; this one is enough.
        if is_systemd {
            command.arg("--prefix=net/ipv4/tcp_max_tw_buckets")
        } else {
            command.args(["-q", "-p"])
        };
        // A value that the kernel refuses is an error of theirs, and none of the test.
        match command.arg(&file).output() {
            Ok(_) => fs::read_to_string(path(KEY)).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    };
    let seen = {
        let _no_traffic = forking();
        netns.run(run).map_err(fail)
    };
    fs::remove_dir_all(&root).map_err(fail)?;
    let Some(seen) = seen? else { return Ok(None) };
    let kernel = seen.trim().parse().map_err(|_| format!("{KEY} is '{seen}'"))?;
    Ok(Some((kernel, ours)))
}
