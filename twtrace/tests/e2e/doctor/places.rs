//! Steps that act where they should: printed by the doctor, typed where it was asked, and looked at inside and outside.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use serde_json::Value;
use twtrace::host::netns::Netns;

use super::{Finding, Outcome, machine::Holder, new, set};
use crate::{inside::Resident, line, tracer::forking};

/// A name below /run/netns, as `ip netns add` makes it. It is gone when this is dropped.
struct Name(PathBuf);

impl Name {
    fn of(netns: &Netns, name: &str) -> Result<Self, String> {
        let path = Path::new("/run/netns").join(name);
        fs::create_dir_all("/run/netns").map_err(|error| error.to_string())?;
        fs::write(&path, "").map_err(|error| format!("{}: {error}", path.display()))?;
        let named = Self(path);
        netns
            .run(|| Ok(mount_bind("/proc/thread-self/ns/net", &named.0)?))
            .map_err(|error| format!("{}: {error}", named.0.display()))?;
        Ok(named)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _gone = unmount(&self.0, UnmountFlags::DETACH);
        let _removed = fs::remove_file(&self.0);
    }
}

/// What the doctor says, asked where this test runs.
fn asked(args: &[&str]) -> Result<Value, String> {
    let _no_traffic = forking();
    let output = Command::new(crate::tracer::binary()).args(["doctor", "--format", "json"]).args(args).output();
    let output = output.map_err(|error| error.to_string())?;
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// The finding of this id about a namespace.
fn about<'a>(said: &'a Value, id: &str, inum: u32) -> Result<Finding<'a>, String> {
    let found = said["findings"].as_array().into_iter().flatten().find(|it| it["id"] == id && it["netns"] == inum);
    found.map(Finding).ok_or_else(|| format!("no {id} of {inum}: {said:#}"))
}

fn cookies(netns: &Netns) -> Result<String, String> {
    let read = netns.run(|| fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies"));
    read.map(|text| text.trim().to_owned()).map_err(|error| error.to_string())
}

/// Types a step as it is printed; it has to act in the namespace and nowhere else.
fn typed(command: &str, netns: &Netns, elsewhere: &Netns) -> Outcome {
    let program = command.split_ascii_whitespace().next().unwrap_or_default();
    let outside = cookies(elsewhere)?;
    let output = {
        let _no_traffic = forking();
        Command::new("sh").args(["-c", &format!("command -v {program}; command -v sysctl")]).output()
    };
    if output.is_err() || output.is_ok_and(|output| output.stdout.iter().filter(|byte| **byte == b'\n').count() < 2) {
        line(&format!("not typed: there is no {program} here: {command}"));
        return Ok(());
    }
    let output = {
        let _no_traffic = forking();
        Command::new("sh").args(["-c", command]).output().map_err(|error| error.to_string())?
    };
    let seen = (cookies(netns)?, cookies(elsewhere)?);
    if output.status.success() && seen == ("1".to_owned(), outside) {
        Ok(())
    } else {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("'{command}' ended with {}, cookies inside and outside: {seen:?}; {errors}", output.status))
    }
}

/// A namespace with a name, one with a process, and one that only this test holds.
pub fn doctor_steps_act_there() -> Outcome {
    const ID: &str = "folklore.syncookies";
    let (named, peopled, here) = (new()?, new()?, Netns::current().map_err(|error| error.to_string())?);
    let name = format!("twtrace-e2e-{}", std::process::id());
    let path = Name::of(&named, &name)?;
    let _resident = Resident::of(&peopled)?;
    // Values that no other test has: the doctor puts namespaces of one value together.
    set(&named, "tcp_syncookies", "0")?;
    let by_name = asked(&["--netns", &path.0.to_string_lossy()])?;
    let step = about(&by_name, ID, named.inum())?.0["do"][0].as_str().unwrap_or_default().to_owned();
    if !step.starts_with(&format!("ip netns exec {name} sysctl -w net.ipv4.tcp_syncookies=1")) {
        return Err(format!("'{step}': {by_name:#}"));
    }
    let place = &by_name["places"][0];
    if place["name"] != name.as_str() || place["enter"] != format!("ip netns exec {name}") {
        return Err(format!("{place:#}"));
    }
    typed(&step, &named, &here)?;
    // By a process in it.
    set(&peopled, "tcp_syncookies", "0")?;
    let by_process = asked(&["--netns", &peopled.inum().to_string()])?;
    let step = about(&by_process, ID, peopled.inum())?.0["do"][0].as_str().unwrap_or_default().to_owned();
    let pid = &by_process["places"][0]["pid"];
    if !step.starts_with(&format!("nsenter --net=/proc/{pid}/ns/net sysctl -w ")) {
        return Err(format!("'{step}': {by_process:#}"));
    }
    typed(&step, &peopled, &here)?;
    // Typed as `ip netns exec NAME twtrace doctor`: who reads it is outside.
    set(&named, "tcp_syncookies", "0")?;
    let visiting = super::Said::of(&named, &[])?;
    let step = about(&visiting.0, ID, named.inum())?.0["do"][0].as_str().unwrap_or_default().to_owned();
    if !step.starts_with(&format!("ip netns exec {name} ")) {
        return Err(format!("asked by a visitor: '{step}'"));
    }
    // Among all namespaces it is a finding, about that namespace or one of the same value.
    let everywhere = asked(&[])?;
    let all = everywhere["findings"].as_array().into_iter().flatten().filter(|it| it["id"] == ID);
    let is_told =
        |it: &Value| it["netns"] == named.inum() || it["sentence"].to_string().contains(" network namespaces (");
    if !all.clone().any(is_told) {
        return Err(format!("not found among all: {everywhere:#}"));
    }
    // As ever it is none.
    set(&named, "tcp_syncookies", "1")?;
    super::Said::of(&named, &[])?.lacks(ID)
}

/// A process that is out of descriptors is a finding where it is, and none about another namespace.
pub fn doctor_descriptors_elsewhere() -> Outcome {
    const ID: &str = "descriptors.process";
    let (own, other) = (new()?, new()?);
    let _machine = super::machine();
    let mut holder = Holder::start(&own)?;
    holder.hold(64)?;
    let name = format!("descriptors of holder ({})", holder.pid());
    let is_it = |found: Finding<'_>| found.evidence(&name).is_ok();
    if !super::Said::of(&own, &[])?.findings().any(|found| found.0["id"] == ID && is_it(found)) {
        return Err("not found where it is".to_owned());
    }
    if let Some(found) = super::Said::of(&other, &[])?.findings().find(|found| is_it(*found)) {
        return Err(format!("found where it is not: {}", found.0));
    }
    let everywhere = asked(&[])?;
    let all = everywhere["findings"].as_array().into_iter().flatten();
    match all.map(Finding).find(|found| found.0["id"] == ID && is_it(*found)) {
        Some(_) => Ok(()),
        None => Err(format!("not found among all: {everywhere:#}")),
    }
}
