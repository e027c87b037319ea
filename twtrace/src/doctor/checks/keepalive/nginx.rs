//! nginx opens a connection for each request: the lines that are missing in its configuration.

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use super::remedies::{Case, accepting};
use crate::{
    doctor::finding::Evidence,
    host::nginx::{
        Nginx,
        config::{Accepting, Module, Pass, Upstream},
    },
};

/// Since this version `keepalive 32 local` is the default of an upstream block, and proxy_pass speaks HTTP/1.1 (CHANGES).
const KEEPS: [u32; 3] = [1, 29, 7];
/// What an upstream keeps since then.
const KEPT: u64 = 32;
/// Since this version keepalive_requests is 1000; before, 100 (CHANGES).
const MORE_REQUESTS: [u32; 3] = [1, 19, 10];
/// Default of keepalive_timeout in an upstream (`ngx_http_upstream_keepalive_init_main_conf`).
const IDLE: Duration = Duration::from_secs(60);
/// The most places that are told apart.
const PLACES: usize = 3;

/// The places of a configuration that pass to the service of a case, each of a kind once.
fn passes<'a>(case: &Case<'a>) -> Option<(&'a Nginx, Vec<&'a Pass>)> {
    let nginx = case.nginx?;
    let (_, passes) = nginx.config.passes_to(case.service.ip(), case.service.port(), &nginx.names)?;
    let mut seen = BTreeSet::new();
    let mut kinds: Vec<&Pass> = Vec::new();
    for pass in passes {
        let kind = (pass.module, &pass.to, &pass.http_version, &pass.connection, pass.keep_conn);
        if kinds.len() < PLACES && seen.insert(kind) {
            kinds.push(pass);
        }
    }
    Some((nginx, kinds))
}

/// What to do.
pub(super) fn steps(case: &Case<'_>) -> Vec<String> {
    let Some((nginx, passes)) = passes(case) else { return unknown(case) };
    let mut steps = Vec::new();
    for pass in passes {
        for step in of(case, nginx, pass) {
            if !steps.contains(&step) {
                steps.push(step);
            }
        }
    }
    steps
}

/// What is configured already.
pub(super) fn shown(case: &Case<'_>) -> Vec<Evidence> {
    let Some(nginx) = case.nginx else { return Vec::new() };
    let version = nginx.version.map(|[major, minor, patch]| format!("{major}.{minor}.{patch}"));
    let source = format!("/proc/{}", nginx.master);
    let mut evidence = vec![
        Evidence::new("nginx version", version, "", format!("{source}/exe")),
        Evidence::new("nginx configuration", nginx.file.as_str(), "", format!("{source}/cmdline")),
    ];
    let (_, passes) = passes(case).unwrap_or((nginx, Vec::new()));
    for pass in passes {
        let mut text = format!("{} {}", pass.module.directive(), pass.to);
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                let _ = write!(text, "; {name} {value}");
            }
        };
        let upstream = nginx.config.upstream(pass);
        let quoted = |value: &String| if value.is_empty() { "\"\"".to_owned() } else { value.clone() };
        add("keepalive", upstream.and_then(|it| it.keepalive).map(|it| it.to_string()));
        add("keepalive_requests", upstream.and_then(|it| it.requests).map(|it| it.to_string()));
        add("keepalive_time", upstream.and_then(|it| it.time).map(span));
        add("keepalive_timeout", upstream.and_then(|it| it.timeout).map(span));
        if pass.module == Module::Proxy {
            add("proxy_http_version", pass.http_version.clone());
            add("proxy_set_header Connection", pass.connection.as_ref().map(quoted));
        }
        add("fastcgi_keep_conn", (pass.module == Module::Fastcgi && pass.keep_conn).then(|| "on".to_owned()));
        evidence.push(Evidence::new(format!("in {}", pass.place), text, "", nginx.file.as_str()));
    }
    evidence.extend(
        nginx.unread.iter().take(PLACES).map(|what| Evidence::new("not read", what.as_str(), "", nginx.file.as_str())),
    );
    evidence
}

/// How the accepting end is configured.
pub(super) fn accepting_now(accepting: &Accepting) -> String {
    let mut now = String::new();
    if let Some(timeout) = accepting.timeout {
        let _ = write!(now, "; now keepalive_timeout {}", span(timeout));
    }
    if let Some(requests) = accepting.requests {
        let _ = write!(now, "; now keepalive_requests {requests}");
    }
    now
}

/// The configuration could not be read, or does not tell where it passes to.
fn unknown(case: &Case<'_>) -> Vec<String> {
    let Case { service, pool, .. } = case;
    let mut steps = vec![
        format!(
            "nginx, in an upstream block with {service}, which the location's *_pass has to name: keepalive {pool};"
        ),
        "nginx, in a location with proxy_pass: proxy_http_version 1.1;".to_owned(),
        "nginx, in a location with proxy_pass: proxy_set_header Connection \"\";".to_owned(),
        "nginx, in a location with fastcgi_pass: fastcgi_keep_conn on;".to_owned(),
    ];
    if case.nginx.is_some_and(|nginx| nginx.config.has_variables()) {
        steps.push(
            "nginx passes to what a variable holds: let the variable hold the name of an upstream block, since an address \
             is never kept"
                .to_owned(),
        );
    }
    steps
}

/// What is missing where it passes to the service.
fn of(case: &Case<'_>, nginx: &Nginx, pass: &Pass) -> Vec<String> {
    let Case { service, pool, .. } = *case;
    let directive = pass.module.directive();
    match pass.module {
        Module::Uwsgi | Module::Scgi => {
            let (name, setting) = match pass.module {
                Module::Uwsgi => ("uwsgi", "uwsgi_pass unix:/run/app.sock;"),
                _ => ("scgi", "scgi_pass unix:/run/app.sock;"),
            };
            return vec![
                format!(
                    "nginx, in {}: {setting} (a Unix socket takes no port; no version of nginx keeps {name} connections)",
                    pass.place
                ),
                format!(
                    "or speak HTTP to the application: proxy_pass with an upstream block with {service} and keepalive {pool};"
                ),
            ];
        }
        Module::Stream => {
            return vec![format!(
                "nginx, in stream, opens one connection to {service} for each of its clients: let these keep theirs"
            )];
        }
        Module::Proxy | Module::Fastcgi | Module::Grpc | Module::Memcached => {}
    }
    let keeps = nginx.is_since(KEEPS);
    let upstream = nginx.config.upstream(pass);
    let kept = upstream.and_then(|upstream| upstream.keepalive.or_else(|| keeps.then_some(KEPT)));
    let mut steps = Vec::new();
    match (upstream, kept) {
        (Some(upstream), None | Some(0)) => {
            steps.push(format!("nginx, in upstream {}: keepalive {pool};", upstream.name))
        }
        (None, _) => steps.push(format!(
            "nginx: upstream NAME {{ server {service}; keepalive {pool}; }} and {directive} to NAME instead of {}",
            pass.to
        )),
        (Some(_), Some(_)) => {}
    }
    if pass.module == Module::Proxy {
        let is_kept_version = pass.http_version.as_deref().map_or(keeps, |version| version != "1.0");
        if !is_kept_version {
            steps.push(format!("nginx, in {}: proxy_http_version 1.1;", pass.place));
        }
        // A variable is told apart below.
        let is_kept_header = match pass.connection.as_deref() {
            None => keeps,
            Some(value) => value.is_empty() || value.eq_ignore_ascii_case("keep-alive") || value.contains('$'),
        };
        if !is_kept_header {
            steps.push(format!("nginx, in {}: proxy_set_header Connection \"\";", pass.place));
        }
        if let Some(variable) = pass.connection.as_deref().filter(|value| value.contains('$')) {
            steps.push(format!(
                "nginx, in the map that sets {variable}: an empty value (\"\") for requests without Upgrade, not 'close'"
            ));
        }
    }
    if pass.module == Module::Fastcgi && !pass.keep_conn {
        steps.push(format!("nginx, in {}: fastcgi_keep_conn on;", pass.place));
    }
    let timeout = upstream.and_then(|upstream| upstream.timeout).unwrap_or(IDLE);
    if let (true, Some(upstream), Some(kept)) = (steps.is_empty(), upstream, kept) {
        limits(case, nginx, upstream, kept, &mut steps);
        if case.peer_first {
            steps.push(accepting(case));
        }
    }
    steps.push(format!(
        "keep the idle timeout of the server at {service} above the {} that nginx keeps an idle connection \
         (keepalive_timeout in the upstream): the server must not close first",
        span(timeout)
    ));
    steps
}

/// What to do where nginx keeps connections, and closes them by itself: which limits are there.
fn limits(case: &Case<'_>, nginx: &Nginx, upstream: &Upstream, kept: u64, steps: &mut Vec<String>) {
    let Upstream { name, requests, time, timeout, .. } = upstream;
    if kept < case.pool {
        let workers = nginx.workers.len();
        steps.push(format!(
            "nginx, in upstream {name}: keepalive {}; (now {kept} in each of {workers} workers: nginx closes an idle \
             connection beyond these)",
            case.pool
        ));
    }
    let default = nginx.version.map(|_| if nginx.is_since(MORE_REQUESTS) { 1000 } else { 100 });
    if let Some(now) = requests.or(default)
        && !case.peer_first
    {
        // Closes per second times the requests of each are the requests per second: so many let one close in a second.
        let enough = (case.per_s.min(1e6) * now.min(1 << 20) as f64).ceil() as u64;
        let enough = 10_u64.pow(enough.max(1).ilog10() + 1).clamp(1000, 1_000_000);
        if now < enough {
            steps.push(format!(
                "nginx, in upstream {name}: keepalive_requests {enough}; (now {now}: nginx closes a connection after so many \
                 requests)"
            ));
        }
    }
    if let Some(now) = time.filter(|time| *time < Duration::from_secs(3600)) {
        steps.push(format!(
            "nginx, in upstream {name}: keepalive_time 1h; (now {}: nginx closes a connection of that age)",
            span(now)
        ));
    }
    if let Some(now) = timeout.filter(|timeout| *timeout < IDLE && !case.peer_first) {
        steps.push(format!(
            "nginx, in upstream {name}: keepalive_timeout {}; (now {}: nginx closes a connection that is idle so long)",
            span(IDLE),
            span(now)
        ));
    }
}

/// As nginx writes it.
fn span(time: Duration) -> String {
    match time.as_millis() {
        millis if millis % 3_600_000 == 0 && millis > 0 => format!("{}h", millis / 3_600_000),
        millis if millis % 1000 == 0 => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    }
}
