//! Connections that their own end resets: on purpose, by a load balancer that checks its servers.

use std::{
    env, fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use twtrace::{host::netns::Netns, traffic::oracle};

use super::{Outcome, Said, awaited, new, until};
use crate::tracer::forking;

const ID: &str = "folklore.linger0";
/// Checks that are waited for before the doctor is asked.
const CHECKS: u64 = 20;

/// Why there is no load balancer; `None` if there is.
pub fn missing() -> Option<String> {
    let mut command = Command::new("haproxy");
    let asked = command.arg("-v").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let runs = asked.is_ok_and(|status| status.success());
    (!runs).then(|| "there is no haproxy here".to_owned())
}

/// HAProxy checks ten servers that it is itself: by connecting, and by asking. Each check ends by a RST, and nothing is lost.
pub fn doctor_health_checks() -> Outcome {
    for (place, ask) in [("tcp", ""), ("http", " option httpchk GET /\n")] {
        let netns = new()?;
        Said::of(&netns, &[])?.lacks(ID)?;
        let haproxy = HaProxy::start(&netns, place, ask)?;
        let resets = || netns.run(|| oracle::counter("TcpExt", "TCPAbortOnData")).map_err(|error| error.to_string());
        until("health checks", || Ok(resets()? >= CHECKS))?;
        // On a busy machine HAProxy may pause between the doctor's two looks.
        let said = awaited(&netns, ID, "note", || Ok(()))?;
        let finding = said.finds(ID, "note")?;
        let sentence = finding.0["sentence"].as_str().unwrap_or_default();
        if !sentence.contains(&format!("haproxy ({})", haproxy.0.id())) {
            return Err(format!("{place}: it does not name haproxy ({}): {sentence}", haproxy.0.id()));
        }
        if said.0["verdict"]["severity"] != "fine" {
            return Err(format!("{place}: the verdict is not fine: {said}"));
        }
        drop(haproxy);
        // At rest it is no finding.
        Said::of(&netns, &[])?.lacks(ID)?;
    }
    Ok(())
}

/// HAProxy in the foreground, and its configuration. It ends when this is dropped.
struct HaProxy(Child, PathBuf);

impl HaProxy {
    fn start(netns: &Netns, name: &str, ask: &str) -> Result<Self, String> {
        let mut text = String::from(
            "global\n maxconn 200\ndefaults\n timeout connect 1s\n timeout client 5s\n timeout server 5s\n backlog 4096\n\
             listen servers\n mode http\n bind 127.0.0.1:9001-9010\n http-request return status 200\n\
             frontend clients\n mode http\n bind 127.0.0.1:8080\n default_backend checked\n\
             backend checked\n mode http\n",
        );
        text += ask;
        for port in 9001..=9010 {
            text += &format!(" server s{port} 127.0.0.1:{port} check inter 100\n");
        }
        let file = env::temp_dir().join(format!("twtrace-e2e-{}-haproxy-{name}", std::process::id()));
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let _no_traffic = forking();
        let child = netns.run(|| command.spawn()).map_err(|error| format!("starting haproxy: {error}"))?;
        Ok(Self(child, file))
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
        let _removed = fs::remove_file(&self.1);
    }
}
